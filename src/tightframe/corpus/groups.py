"""Contiguous groups of documents, to resample: tokens of one document depend on each other."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64
from torch import Tensor


class Groups(NamedTuple):
    """Where each group begins; group g holds the labels in [bounds[g], bounds[g + 1])."""

    bounds: Int64[Tensor, " bounds"]  # flat offsets (row * T + column) of labels; first 0, last the end
    unit: Literal["documents", "blocks"]  # what lies whole inside a group


def even_cuts(weights: Int64[np.ndarray, " items"], n: int) -> Int64[np.ndarray, " cuts"]:
    """Which item each group but the first begins with, for `n` groups of about equal weight.

    Every cut is the one nearest to its share of the total that leaves each group an item.
    """
    before = np.cumsum(weights) - weights
    wanted = np.arange(1, n) * weights.sum() / n
    right = np.searchsorted(before, wanted).clip(1, len(weights) - 1)
    nearer_left = wanted - before[right - 1] < before[right] - wanted
    cuts = right - nearer_left
    place = np.arange(1, n)
    cuts = np.maximum.accumulate(np.maximum(cuts, place) - place) + place
    return np.minimum(cuts, len(weights) - n + place)
