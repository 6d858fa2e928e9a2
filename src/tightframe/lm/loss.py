"""Cross-entropy over a vocabulary without the matrix of all logits, and the loss on a split.

The loss and both its gradients come from one pass over chunks of rows that stay in the processor's
cache, so memory and time are those of three matrix products and little else. The backward pass
only scales what is already there. Loss, accuracy and perplexity on a split take one pass, too.

Axes: B rows of a batch, T positions, N positions of a batch in one row, D embedding, V vocabulary,
n labelled positions of a chunk.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tightframe.corpus.shards import Split
from tightframe.lm.hardware import ALONE, ProcessGroup, exact_float32
from tightframe.lm.interface import IGNORE, LanguageModel, next_token

CHUNK_LOGITS = 2**20  # logits held at once: 4 MiB in float32, which fits a last-level cache
ACCELERATOR_CHUNK_LOGITS = 2**26  # 256 MiB: large products keep a GPU busy
LOG2_E = math.log2(math.e)
MIN_ROWS = 128  # below this the gradient of the classifier is re-read too often


def cross_entropy(
    embeddings: Float[Tensor, "N D"],
    classifier: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    weights: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of labelled positions in nats per token; differentiable once.

    Under autocast the matrix products run in its type (bfloat16), the softmax and the sums in
    float32; without it everything has the type of the embeddings.

    Args:
        embeddings: Vectors that the classifier multiplies.
        classifier: One row per token.
        bias: Vector that is added to the logits.
        targets: In [0, V), or IGNORE where nothing is predicted.
        weights: Factors of the losses, which are divided by the number of labelled positions all
            the same; None: all 1.
    """
    labelled = targets != IGNORE
    if not bool(labelled.all()):
        embeddings, targets = embeddings[labelled], targets[labelled]
        weights = None if weights is None else weights[labelled]
    if len(targets) == 0:
        raise ValueError("no labelled positions: every target is IGNORE")
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        embeddings, classifier, bias, targets, weights
    )
    return loss


class TokenScores(NamedTuple):
    """Losses and hits of the labelled positions, in their order."""

    losses: Float[Tensor, " n"]  # -ln p(target), nats
    hits: Bool[Tensor, " n"]  # whether the target has the largest logit (the first one of equals)


@torch.no_grad()
def score(
    head: Callable[[Tensor], Tensor],
    embeddings: Float[Tensor, "N D"],
    targets: Int[Tensor, " N"],
    *,
    n_classes: int,
) -> TokenScores:
    """Compute loss and correctness of each labelled position in one pass.

    Args:
        head: Embeddings to logits, (n, D) -> (n, V), as `LanguageModel.head`.
        embeddings: Vectors that the head takes.
        targets: In [0, V), or IGNORE, which leaves a position out.
        n_classes: V; sets how many rows are held at once, never the result.
    """
    labelled = targets != IGNORE
    embeddings, targets = embeddings[labelled], targets[labelled]
    losses = torch.empty(len(targets), dtype=torch.float32, device=targets.device)
    hits = torch.empty(len(targets), dtype=torch.bool, device=targets.device)
    for rows in _chunks(embeddings, n_classes):
        logits = head(embeddings[rows]).float()
        target = targets[rows, None]
        highest, best = logits.max(1, keepdim=True)
        hits[rows] = (best == target).squeeze(1)
        at_target = logits.gather(1, target) - highest
        total = _exp(logits.sub_(highest)).sum(1, keepdim=True)
        losses[rows] = (total.log() - at_target).squeeze(1)
    return TokenScores(losses, hits)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        classifier: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
    ) -> Tensor:
        device = embeddings.device.type
        low = embeddings.dtype
        if torch.is_autocast_enabled(device):
            low = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            loss, *gradients = _forward_backward(
                embeddings.to(low), classifier.to(low), bias, targets, weights, ctx.needs_input_grad
            )
        ctx.gradients = gradients
        return loss.to(torch.promote_types(low, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return (*(part if part is None else part * grad_loss for part in ctx.gradients), None, None)


def _forward_backward(
    embeddings: Tensor,
    classifier: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor | None,
    needed: tuple[bool, ...],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the mean loss and its gradients by embeddings, classifier and bias, where needed."""
    low = embeddings.dtype  # of the products
    high = torch.promote_types(low, torch.float32)  # of the softmax and the sums
    n, vocabulary = len(targets), len(classifier)
    new = embeddings.new_empty
    loss = embeddings.new_zeros((), dtype=torch.float64)
    by_embeddings = new(embeddings.shape, dtype=high) if needed[0] else None
    by_classifier = torch.zeros_like(classifier, dtype=high) if needed[1] else None
    by_bias = None if bias is None or not needed[2] else torch.zeros_like(bias, dtype=high)
    # One buffer each for all chunks: fresh memory costs more than the arithmetic on it.
    products = new((_rows_at_once(embeddings, vocabulary), vocabulary))
    logits = products if low == high else new(products.shape, dtype=high)
    part = None if low == high else torch.empty_like(classifier)
    for rows in _chunks(embeddings, vocabulary):
        chunk = embeddings[rows]
        low_part, high_part = products[: len(chunk)], logits[: len(chunk)]
        torch.mm(chunk, classifier.T, out=low_part)
        if low != high:
            high_part.copy_(low_part)
        if bias is not None:
            high_part += bias
        weight = None if weights is None else weights[rows, None]
        loss += _to_gradient(high_part, targets[rows, None], n, weight)
        if by_bias is not None:
            by_bias += high_part.sum(0)
        if low != high:
            low_part.copy_(high_part)
        if by_embeddings is not None:
            by_embeddings[rows] = low_part @ classifier
        if by_classifier is None:
            continue
        if part is None:
            by_classifier.addmm_(low_part.T, chunk)
        else:
            by_classifier += torch.mm(low_part.T, chunk, out=part)
    return loss / n, by_embeddings, by_classifier, by_bias


def _to_gradient(logits: Tensor, target: Tensor, n: int, weight: Tensor | None) -> Tensor:
    """Turn logits in place into weight * (softmax - one-hot) / n; return the summed loss."""
    logits -= logits.amax(1, keepdim=True)
    at_target = logits.gather(1, target)
    total = _exp(logits).sum(1, keepdim=True)
    logits *= (total * n).reciprocal_()
    logits.scatter_add_(1, target, torch.full_like(at_target, -1 / n))
    losses = total.log() - at_target
    if weight is not None:
        logits *= weight
        losses *= weight
    return losses.sum(dtype=torch.float64)


def _exp(values: Tensor) -> Tensor:
    """Exponentiate in place; torch's own takes more than twice the time on AMD processors."""
    return values.mul_(LOG2_E).exp2_()


def _rows_at_once(embeddings: Tensor, vocabulary: int) -> int:
    logits = CHUNK_LOGITS if embeddings.device.type == "cpu" else ACCELERATOR_CHUNK_LOGITS
    return min(len(embeddings), max(MIN_ROWS, logits // vocabulary))


def _chunks(embeddings: Tensor, vocabulary: int) -> Iterator[slice]:
    n, step = len(embeddings), max(1, _rows_at_once(embeddings, vocabulary))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy of a model on the labelled positions of a split."""

    loss: float  # mean cross-entropy, nats per token
    accuracy: float  # share of positions whose label has the largest logit, in [0, 1]
    n: int  # labelled positions

    @property
    def perplexity(self) -> float:
        """The exponential of the loss, at least 1; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    split: Split,
    *,
    batch_tokens: int = 2**14,
    world: ProcessGroup = ALONE,
) -> Evaluation:
    """Evaluate in the model's own precision, on its own device; sums are float64.

    Args:
        model: Any language model.
        split: Tokens that it should predict; each position counts once.
        batch_tokens: Tokens held at once; memory only, never the result.
        world: Processes that share the split; each gets the whole result.
    """
    device = model.classifier.device
    total = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of hits
    step = max(1, batch_tokens // split.block)
    for start in range(world.rank * step, split.n_blocks, world.size * step):
        rows = range(start, min(start + step, split.n_blocks))
        batch = next_token(*split.rows(rows)).to(device)
        scores = score(
            model.head,
            model.embed(batch).flatten(0, 1),
            batch.targets.flatten(),
            n_classes=len(model.classifier),
        )
        total += torch.stack([scores.losses.double().sum(), scores.hits.double().sum()])
    if world.size > 1:
        dist.all_reduce(total)
    loss, accuracy = (total / split.n_labels).tolist()
    return Evaluation(loss, accuracy, split.n_labels)


@contextlib.contextmanager
def measuring(model: LanguageModel) -> Iterator[None]:
    """Turn dropout off and the faster float32 on; restore both at the end."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with exact_float32():
            yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)
