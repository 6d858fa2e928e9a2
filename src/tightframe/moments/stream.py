"""One forward pass over a split of tokens, into a state; no more than a batch of embeddings lives.

Axes: B rows of a batch, T positions, N positions of a batch in one row, D embedding.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from tightframe.corpus.tokens import Split
from tightframe.errors import UserError
from tightframe.lm.hardware import exact_float32
from tightframe.lm.interface import IGNORE, LanguageModel
from tightframe.lm.objectives import next_token
from tightframe.moments.nearest import Chooser
from tightframe.moments.segments import NonFiniteError, require_finite
from tightframe.moments.state import ClassMoments, Decisions

Precision = Literal["fp32", "bf16"]  # bf16: the forward pass under autocast
Progress = Callable[[int, int], None]  # takes the blocks that are done, and all


def measure(
    model: LanguageModel,
    split: Split,
    *,
    scatter: bool = False,
    precision: Precision = "fp32",
    batch_tokens: int = 8192,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> ClassMoments:
    """Moments of the embeddings by next token, in one pass.

    Args:
        model: Any language model; it stays on its device.
        split: Usually the training split.
        scatter: Also keep the pooled and the class-balanced within-class scatter; 4 D^2 more
            operations a token.
        precision: Of the forward pass; the state is float64 in any case.
        batch_tokens: Tokens held at once; memory only.
        device: Where the state lives, 8 (D + 2) bytes a class; the model's own by default.
        progress: Called after each batch.
    """
    label_counts = split.label_counts()
    moments = ClassMoments(
        split.vocab_size,
        _dim(model, split),
        scatter=scatter,
        label_counts=label_counts if scatter else None,
        device=model.classifier.device if device is None else device,
    )
    with _measuring(model):
        for first, embeddings, labels in _batches(model, split, batch_tokens, precision, progress):
            with _naming_position(model, split, first):
                moments.update(embeddings, labels)
    assert torch.equal(moments.counts.cpu(), label_counts), "the pass missed some of the labels"
    return moments


def decide(
    model: LanguageModel,
    split: Split,
    moments: ClassMoments,
    *,
    min_count: int = 1,
    precision: Precision = "fp32",
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> Decisions:
    """Loss, and what classifier and nearest class mean decide at each position, in one pass.

    Args:
        model: The model that the moments are of.
        split: Usually the validation split.
        moments: Class means, of the training split.
        min_count: Embeddings that a class needs for its mean to be a candidate.
        precision: Of the forward pass; decisions are those of float64 for its embeddings.
        batch_tokens: Tokens held at once; memory only.
        progress: Called after each batch.
    """
    if moments.dim != _dim(model, split) or moments.n_classes != split.vocab_size:
        raise ValueError(
            f"moments of {moments.n_classes} classes in {moments.dim} dimensions, but the tokens "
            f"have {split.vocab_size} and the model {model.classifier.shape[1]}"
        )
    seen = moments.seen(min_count)
    decisions = Decisions(seen)
    with _measuring(model):
        chooser = Chooser(
            model.classifier,
            model.bias,
            moments.means,
            seen,
            finish=getattr(model, "finish", None),
        )
        for first, embeddings, labels in _batches(model, split, batch_tokens, precision, progress):
            labelled = (labels != IGNORE).nonzero().flatten()
            with _naming_position(model, split, first):
                require_finite(embeddings, labels, labelled)
            decisions.update(labels[labelled], chooser(embeddings[labelled], labels[labelled]))
    return decisions


def _batches(
    model: LanguageModel,
    split: Split,
    batch_tokens: int,
    precision: Precision,
    progress: Progress | None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The first block, the embeddings (N, D) and the labels (N,) of each batch, in order."""
    device = model.classifier.device
    step = max(1, batch_tokens // split.block)
    for first in range(0, split.n_blocks, step):
        end = min(first + step, split.n_blocks)
        batch = next_token(*split.rows(range(first, end))).to(device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), autocast:
            embeddings = model.embed(batch)  # (B, T, D)
        yield first, embeddings.flatten(0, 1), batch.targets.flatten()
        if progress is not None:
            progress(end, split.n_blocks)


@contextlib.contextmanager
def _measuring(model: LanguageModel) -> Iterator[None]:
    """Without dropout and with the faster float32; as before at the end."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with exact_float32():
            yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)


@contextlib.contextmanager
def _naming_position(model: LanguageModel, split: Split, first: int) -> Iterator[None]:
    try:
        yield
    except NonFiniteError as error:
        row, position = divmod(error.position, split.block - 1)
        raise UserError(
            f"model {model.name}: the embedding at block {first + row}, position {position} of "
            f"split '{split.name}' is not finite; did training diverge, or float16 overflow?"
        ) from None


def _dim(model: LanguageModel, split: Split) -> int:
    n_tokens, dim = model.classifier.shape
    if n_tokens < split.vocab_size:
        raise UserError(
            f"model {model.name} knows {n_tokens} tokens, but the corpus has {split.vocab_size}; "
            "measure it on tokens made by its own tokenizer"
        )
    return dim
