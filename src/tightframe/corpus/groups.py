"""Contiguous groups of documents, to resample: tokens of one document depend on each other."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64
from torch import Tensor


class Groups(NamedTuple):
    """Contiguous groups of labels; group g holds those in [bounds[g], bounds[g + 1])."""

    bounds: Int64[Tensor, " bounds"]  # flat offsets, row * T + column; the first is 0
    unit: Literal["documents", "blocks"]  # what lies whole inside a group


def even_cuts(weights: Int64[np.ndarray, " items"], n: int) -> Int64[np.ndarray, " cuts"]:
    """Which item each group but the first begins with, for `n` groups of about equal weight.

    Every cut is the one nearest to its share of the total that leaves each group an item.
    """
    before = np.cumsum(weights) - weights
    wanted = np.arange(1, n) * weights.sum() / n
    right = np.searchsorted(before, wanted).clip(1, len(weights) - 1)
    nearer_left = wanted - before[right - 1] < before[right] - wanted
    place = np.arange(1, n)  # a cut has as many items before it, or more, and as many after it
    cuts = np.maximum(right - nearer_left, place)
    cuts = np.maximum.accumulate(cuts - place) + place
    return cuts.clip(max=len(weights) - n + place)
