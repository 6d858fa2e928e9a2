"""Loss, accuracy and perplexity of a model on a split, in one pass.

Axes: B rows of a batch, T positions, N positions of a batch in one row.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import nn

from tightframe.corpus.tokens import Split
from tightframe.lm.hardware import exact_float32
from tightframe.lm.interface import LanguageModel
from tightframe.lm.loss import score
from tightframe.lm.objectives import next_token


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a model predicts the labelled positions of a split."""

    loss: float  # mean cross-entropy, nats per token
    accuracy: float  # share of positions whose label has the largest logit, in [0, 1]
    n: int  # labelled positions

    @property
    def perplexity(self) -> float:
        """The exponential of the loss, at least 1; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def evaluate(model: LanguageModel, split: Split, *, batch_tokens: int = 2**14) -> Evaluation:
    """Evaluate in the model's own precision, on its own device; sums are float64.

    Args:
        model: Any language model.
        split: What it should predict; each position counts once.
        batch_tokens: Tokens held at once; memory only, never the result.
    """
    device = model.classifier.device
    total = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of hits
    step = max(1, batch_tokens // split.block)
    for start in range(0, split.n_blocks, step):
        rows = range(start, min(start + step, split.n_blocks))
        batch = next_token(*split.rows(rows)).to(device)
        scores = score(
            model.head,
            model.embed(batch).flatten(0, 1),
            batch.targets.flatten(),
            n_classes=len(model.classifier),
        )
        total += torch.stack([scores.losses.double().sum(), scores.hits.double().sum()])
    loss, accuracy = (total / split.n_labels).tolist()
    return Evaluation(loss, accuracy, split.n_labels)


@contextlib.contextmanager
def measuring(model: LanguageModel) -> Iterator[None]:
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
