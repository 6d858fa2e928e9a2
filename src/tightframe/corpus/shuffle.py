"""Labels dealt anew to positions: the null in which embeddings know nothing of their labels.

Axes: B rows asked for, T tokens of a block, whose T - 1 positions predict one each.

The permutation is a keyed bijection, computed where it is asked for: any batch can be made at any
time and in any process, and nothing of the size of the corpus is held.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt64
from torch import Tensor

from tightframe.corpus.shards import Split

_ROUNDS = 6
_NO_LABEL = -100  # `lm.interface.IGNORE`, which this room is left of


class Shuffle:
    """A permutation of 0..n-1 that a seed draws, at any place without the others.

    A Feistel network permutes the smallest 4^k numbers that hold the n; a number that leaves
    [0, n) is sent on until it returns, which takes less than four steps on average.

    Source: Black and Rogaway (2002), "Ciphers with Arbitrary Finite Domains", cycle walking.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError(f"expected one or more to shuffle, got {n}")
        self.n = n
        self._half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # bits of either half
        words = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
        self._keys = [np.uint64(word) for word in words]

    def __call__(self, places: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """Return where each place is sent."""
        sent = self._step(places.astype(np.uint64))
        while len(out := np.flatnonzero(sent >= self.n)):
            sent[out] = self._step(sent[out])
        return sent.astype(np.int64)

    def _step(self, numbers: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) >> (np.uint64(64) - self._half))
        return (left << self._half) | right


class ShuffledLabels:
    """The labels of a split, permuted over all its labelled positions.

    Every label occurs as often as before. The same split and seed give the same labels, whatever
    is asked for together.
    """

    def __init__(self, split: Split, seed: int) -> None:
        self._split = split
        self._shuffle = Shuffle(split.n_labels, seed)

    def rows(
        self, indices: Sequence[int] | Int[np.ndarray, " B"] | Int[Tensor, " B"]
    ) -> Int64[Tensor, "B positions"]:
        """Return the label of each position of these blocks, -100 where it predicts nothing."""
        first, end = self._split.label_ordinals(indices)
        ordinals = first[:, None] + np.arange(self._split.block - 1)  # (B, T-1)
        labelled = ordinals < end[:, None]
        labels = np.full(ordinals.shape, _NO_LABEL, dtype=np.int64)
        labels[labelled] = self._split.labels(self._shuffle(ordinals[labelled]))
        return torch.from_numpy(labels)


def _mixed(numbers: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """Mix the bits of numbers: each depends on every bit before (the finalizer of SplitMix64)."""
    mixed: np.ndarray = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
