"""Labels of a split: those that another tokenizer shares, and a permutation of all of them.

Two models are comparable on the classes that their tokenizers share, with as many samples of each.
Strings are compared as the bytes that tokens add to a text. Labels permuted over all positions are
the null in which embeddings know nothing of their labels; the permutation is a keyed bijection,
computed where it is needed: any batch can be made at any time and in any process, and nothing of
the size of the corpus is held.

Axes: n shared classes, A and B ids of either vocabulary, N positions, B requested rows, T tokens of
a block, whose T - 1 positions predict one each.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, UInt64
from tokenizers import Tokenizer
from torch import Tensor

from tightframe.corpus.shards import Split
from tightframe.corpus.tokenizer import is_byte, marks_ends, token_bytes
from tightframe.errors import UserError

_ROUNDS = 6
_NO_LABEL = -100  # `lm.interface.IGNORE`, which this room is left of


def shared_classes(a: Tokenizer, b: Tokenizer) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Return the ids in `a` and in `b` of strings that are one token in both, ordered by bytes.

    Special tokens are left out: an end of text is no string. Tokenizers that lower their text
    before they cut it have only lower-case strings, and a ' the' of theirs stands for ' The', too.
    """
    ids_a, ids_b = _ids(a), _ids(b)
    strings = sorted(ids_a.keys() & ids_b.keys())
    shared = [[ids[string] for string in strings] for ids in (ids_a, ids_b)]
    return torch.tensor(shared[0], dtype=torch.int64), torch.tensor(shared[1], dtype=torch.int64)


def matched_counts(
    counts_a: Int[Tensor, " A"],
    counts_b: Int[Tensor, " B"],
    shared: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
) -> tuple[Int64[Tensor, " A"], Int64[Tensor, " B"]]:
    """Return the smaller of two splits' counts of each class; 0 where it is not shared.

    Args:
        counts_a: Labels of each class in the one split.
        counts_b: The same in the other.
        shared: Ids of the shared classes in either, see `shared_classes`.

    Returns:
        The same numbers by the ids of either, to be taken by `Capped`.
    """
    fewer = torch.minimum(counts_a[shared[0]], counts_b[shared[1]]).long()
    matched_a = torch.zeros(len(counts_a), dtype=torch.int64)
    matched_b = torch.zeros(len(counts_b), dtype=torch.int64)
    matched_a[shared[0]] = fewer
    matched_b[shared[1]] = fewer
    return matched_a, matched_b


class Capped:
    """A quota of samples per class, filled in the order of the stream.

    What is taken does not depend on how the stream is cut into batches. After a restart, a new
    one with the quota less what was taken before goes on.

    Attributes:
        remaining: Samples of each class that are still to be taken.
    """

    def __init__(self, quota: Int[Tensor, " C"]) -> None:
        self.remaining = quota.long().clone()

    def take(self, labels: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Return which of the next positions are taken; those with a negative label never are."""
        taken = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        order = labels.argsort(stable=True)  # positions of a class stand together, in order
        order = order[labels[order] >= 0]
        classes, counts = labels[order].unique_consecutive(return_counts=True)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        nth = torch.arange(len(order), device=labels.device) - first  # of its class in this batch
        taken[order] = nth < self.remaining[labels[order]]
        self.remaining[classes] -= torch.minimum(counts, self.remaining[classes])
        return taken


def _ids(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the id of each string that is one token, by its bytes."""
    if marks_ends(tokenizer):
        raise UserError(
            "a tokenizer that marks the ends of words shares no strings with one that marks their "
            "beginnings; compare its model by bits per byte only"
        )
    ids: dict[bytes, int] = {}
    bytes_only: dict[bytes, int] = {}
    for index, string in sorted(token_bytes(tokenizer).items()):
        # Where a letter is a token and its byte is one, too, text is written with the letter.
        byte = is_byte(str(tokenizer.id_to_token(index)), tokenizer)
        (bytes_only if byte else ids).setdefault(string, index)
    return bytes_only | ids


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
