"""Which token a model says next: the likeliest, or one drawn as published for causal models.

Axes: B rows, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def next_tokens(
    logits: Float[Tensor, "B V"], draws: Sequence[np.random.Generator] | None
) -> Int[Tensor, " B"]:
    """The likeliest token of each row, or one drawn from the row's softmax (temperature 1).

    Args:
        logits: Of the next token.
        draws: A generator of each row's own, so that no answer depends on what else is asked; each
            gives one number. None: nothing is drawn.
    """
    if draws is None:
        return logits.argmax(-1)
    shares = logits.double().softmax(-1).cumsum(-1)  # (B, V); a token's share of [0, 1)
    numbers = torch.tensor([[one.random()] for one in draws], dtype=torch.float64)
    places = numbers.to(shares.device) * shares[:, -1:]  # the last one is 1 but for rounding
    return torch.searchsorted(shares, places, right=True).squeeze(1)
