"""Tokens become a Batch: what each position sees and what it predicts.

Axes: B rows, T tokens of a row.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from tightframe.lm.interface import IGNORE, Batch


def next_token(tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Batch:
    """Every position predicts the token after it; a causal batch of T - 1 positions.

    Args:
        tokens: Token ids, whatever they are beyond the length.
        lengths: Real tokens of each row. A row of n tokens has n - 1 labels.
    """
    if tokens.shape[1] < 2:
        raise ValueError(f"expected rows of at least 2 tokens, got {tokens.shape[1]}")
    n_positions = tokens.shape[1] - 1
    place = torch.arange(1, n_positions + 1, device=tokens.device)
    targets = tokens[:, 1:].masked_fill(place >= lengths[:, None], IGNORE)
    return Batch(
        inputs=tokens[:, :-1],
        targets=targets,
        lengths=lengths.clamp(max=n_positions),
        prefix=torch.zeros_like(lengths),
    )
