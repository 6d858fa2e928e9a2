"""A Transformer that is trained on a context table and nothing else.

Every step sees every context, with its soft label at its last token: no sampling stands between
the table and the geometry that it predicts. What is kept of a checkpoint is what the theory speaks
of, the classifier's rows of the table's tokens and the embeddings of its contexts.

Axes: V tokens that may follow, M distinct contexts, T tokens of a context, D embedding.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.lm.optimizer import AdamW
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.ntp.model import ModelCheckpoint
from tightframe.ntp.table import PAD, ContextTable

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults, which the published experiment used
INIT_STD = 0.02  # of all matrices at the start


class TransformerOnTable(nn.Module):
    """A Transformer that knows the tokens of the table, its classifier its own.

    Raises:
        ValueError: The contexts of the table have different lengths.
    """

    def __init__(self, table: ContextTable, *, width: int, depth: int, heads: int, seed: int):
        super().__init__()
        short = np.flatnonzero((table.contexts == PAD).any(axis=1))
        if len(short):
            raise ValueError(
                f"table: context {short[0]} is shorter than {table.contexts.shape[1]} tokens; "
                "expected contexts of one length"
            )
        config = TransformerConfig(
            vocab_size=1 + int(max(table.contexts.max(), table.tokens.max())),
            width=width,
            depth=depth,
            heads=heads,
            positions=table.contexts.shape[1],
            window=0,
            tied=False,
            init_std=INIT_STD,
        )
        self.transformer = Transformer(config, seed=seed)
        self.contexts = torch.from_numpy(table.contexts).long()  # (M, T)
        self.tokens = torch.from_numpy(table.tokens)  # (V,)

    def forward(self) -> tuple[Float[Tensor, "V D"], Float[Tensor, "M D"]]:
        """The classifier's rows of the table's tokens, and the embeddings of last tokens."""
        return self.transformer.classifier[self.tokens], self.transformer(self.contexts)[:, -1]


def train_on_table(
    model: TransformerOnTable,
    table: ContextTable,
    *,
    steps: int,
    learning_rate: float,
    decays: Mapping[int, float] | None = None,
    weight_decay: float = 0.0,
    checkpoints: Collection[int] = (),
) -> list[ModelCheckpoint]:
    """Train in place by AdamW on all contexts at once; return what was asked to be kept.

    The loss is summed over the counted pairs, and its softmax is over the table's tokens. With one
    thread on a CPU the same model gives the same bits.

    Args:
        model: Of this table.
        table: Counts are taken as they are.
        steps: Optimizer updates.
        learning_rate: Of the first update.
        decays: Factors that the rate is multiplied by, each after so many steps.
        weight_decay: Decoupled, of matrices and embeddings.
        checkpoints: Steps in [0, `steps`] to keep; the last step is always one.

    Raises:
        ValueError: A checkpoint lies outside of the steps.
    """
    wanted = {*checkpoints, steps}
    outside = sorted(step for step in wanted if not 0 <= step <= steps)
    if outside:
        raise ValueError(f"checkpoints: {outside[0]} is not in [0, {steps}], the steps")
    counts = torch.from_numpy(table.counts.toarray()).float()  # (M, V)
    optimizer = AdamW(model, betas=BETAS, eps=EPS, weight_decay=weight_decay)
    kept = [_checkpoint(0, model)] if 0 in wanted else []
    for step in range(steps):
        classifier, embeddings = model()
        loss = -(counts * (embeddings @ classifier.T).log_softmax(dim=1)).sum()
        loss.backward()
        learning_rate *= (decays or {}).get(step, 1.0)
        optimizer.update(learning_rate)
        if step + 1 in wanted:
            kept.append(_checkpoint(step + 1, model))
    return kept


@torch.no_grad()
def _checkpoint(step: int, model: TransformerOnTable) -> ModelCheckpoint:
    classifier, embeddings = model()
    # Copies: later updates, which are in place, leave what is kept alone.
    return ModelCheckpoint(step, classifier.numpy().copy(), embeddings.numpy().copy())
