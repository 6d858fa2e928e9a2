"""Counting (context, next token) pairs of a fixed length, in memory that does not grow with text.

The text is read several times, once for each part of the contexts: those whose hash falls into one
range. All pairs of a part are held, sorted by hash and counted; the parts make the table. That
two contexts are equal is decided by their tokens, never by the hash alone.

Axes: N pairs held, L tokens of a context, W = L + 1 of a window, M distinct contexts.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int, Int32, Int64, UInt64

from tightframe.ntp.documents import Documents

Hash: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Windows (N, L) to uint64 (N,)."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, bits like random ones: 2**64 / golden ratio
_BYTES_A_TOKEN = 16  # of a window: read, held, sorted, compared; twice in each
_BYTES_A_PAIR = 48  # hash, order, group, key


@dataclasses.dataclass(frozen=True)
class Counted:
    """Distinct contexts and what follows them, in any order of contexts.

    Attributes:
        contexts: Token ids, padded on the left where they differ in length.
        sizes: How many different tokens follow each context.
        following: Next tokens, context by context, increasing.
        counts: How often each of them followed.
    """

    contexts: Int32[np.ndarray, "M L"]
    sizes: Int64[np.ndarray, " M"]
    following: Int32[np.ndarray, " pairs"]
    counts: Int64[np.ndarray, " pairs"]

    @property
    def totals(self) -> Int64[np.ndarray, " M"]:
        """Pairs that begin with each context."""
        starts = np.cumsum(self.sizes) - self.sizes
        sums: Int64[np.ndarray, " M"] = (
            np.add.reduceat(self.counts, starts) if len(starts) else self.counts
        )
        return sums

    def taken(self, contexts: np.ndarray) -> "Counted":
        """These contexts, by index or mask, in this order."""
        chosen = np.flatnonzero(contexts) if contexts.dtype == bool else contexts
        starts = np.append(0, np.cumsum(self.sizes))
        shape = len(self.sizes), int(self.following.max(initial=0)) + 1
        rows = sp.csr_array((self.counts, self.following, starts), shape=shape)[chosen]
        return Counted(
            self.contexts[chosen],
            self.sizes[chosen],
            rows.indices.astype(np.int32, copy=False),
            rows.data,
        )

    def without(self, entries: Bool[np.ndarray, " pairs"]) -> "Counted":
        """Without some of the next tokens, and the contexts that then have none."""
        context = np.repeat(np.arange(len(self.sizes)), self.sizes)[~entries]
        sizes = np.bincount(context, minlength=len(self.sizes))
        return Counted(
            self.contexts[sizes > 0],
            sizes[sizes > 0],
            self.following[~entries],
            self.counts[~entries],
        )


def joined(parts: list[Counted]) -> Counted:
    """Parts that have no context in common, as one."""
    return Counted(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Counted)
        )
    )


def n_parts(n_tokens: int, length: int, memory: int) -> int:
    """How many parts keep what is held within `memory` bytes; a power of two."""
    needed = n_tokens * (_BYTES_A_TOKEN * (length + 1) + _BYTES_A_PAIR)
    return 1 << max(0, (needed - 1) // memory).bit_length()


def pairs_by_parts(
    text: Documents, length: int, *, parts: int, hashed: Hash | None = None
) -> Iterator[Counted]:
    """The counts of each part of the contexts in turn: `parts`, a power of two, readings."""
    hashed = hash_windows if hashed is None else hashed
    shift = np.uint64(64 - (parts.bit_length() - 1)) if parts > 1 else None
    for part in range(parts):
        held = []
        for windows in windows_of(text, length):
            hashes = hashed(windows[:, :-1])
            if shift is not None:
                here = np.flatnonzero(hashes >> shift == part)
                windows, hashes = windows[here], hashes[here]
            held.append((hashes, np.ascontiguousarray(windows)))
        if sum(len(hashes) for hashes, _ in held):
            hashes = np.concatenate([hashes for hashes, _ in held])
            windows = np.concatenate([windows for _, windows in held])
            del held
            yield count_windows(hashes, windows)


def windows_of(text: Documents, length: int) -> Iterator[Int32[np.ndarray, "_ W"]]:
    """All runs of `length` + 1 tokens within a document and the vocabulary."""
    for tokens, ends in _runs(text, length):
        if len(ends):
            windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
            yield windows[ends - length]


def n_windows(text: Documents, length: int) -> int:
    """How many there would be if every id were in the vocabulary."""
    every = dataclasses.replace(text, vocab_size=2**31)
    return sum(len(ends) for _, ends in _runs(every, length))


def _runs(
    text: Documents, length: int
) -> Iterator[tuple[Int32[np.ndarray, "_"], Int64[np.ndarray, "_"]]]:
    """The text in overlapping pieces, and where the windows of each end.

    A token outside the vocabulary stands alone: nothing leads to it, and nothing follows it.
    """
    tokens, breaks = np.empty(0, dtype=np.int32), np.empty(0, dtype=bool)
    for line, starts in text.lines():
        tokens = np.concatenate([tokens, line])
        breaks = np.concatenate([breaks, starts])
        unknown = tokens >= text.vocab_size
        breaks |= unknown
        breaks[1:] |= unknown[:-1]
        # The first token here begins a run: what came before it is in no window still open.
        places = np.arange(len(tokens))
        run = places - np.maximum.accumulate(np.where(breaks, places, 0))
        yield tokens, np.flatnonzero(run >= length)
        tokens, breaks = tokens[-length:].copy(), breaks[-length:].copy()


def hash_windows(windows: Int[np.ndarray, "N L"]) -> UInt64[np.ndarray, " N"]:
    """64 bits that spread evenly, the upper ones too; equal windows have equal hashes."""
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:
        hashes += column.astype(np.uint64) + np.uint64(1)
        hashes *= _FACTOR
        hashes ^= hashes >> np.uint64(29)
    return hashes * _FACTOR


def count_windows(hashes: UInt64[np.ndarray, " N"], windows: Int32[np.ndarray, "N W"]) -> Counted:
    """Distinct contexts, the first L columns of the windows, and their next tokens."""
    order = np.argsort(hashes)
    hashes, windows = hashes[order], windows[order]
    del order
    new = _changes(hashes, windows)
    group = np.cumsum(new) - 1
    keys = np.sort((group << 32) | windows[:, -1])
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return Counted(
        windows[new, :-1],
        np.bincount(keys[first] >> 32),
        (keys[first] & 0xFFFFFFFF).astype(np.int32),
        np.diff(first, append=len(keys)),
    )


def _changes(
    hashes: UInt64[np.ndarray, " N"], windows: Int32[np.ndarray, "N W"]
) -> Bool[np.ndarray, " N"]:
    """Where another context begins; windows of equal hashes are sorted in place if they differ."""
    differ = np.ones(len(hashes), dtype=bool)
    differ[1:] = (windows[1:, :-1] != windows[:-1, :-1]).any(axis=1)
    other_hash = np.ones(len(hashes), dtype=bool)
    other_hash[1:] = hashes[1:] != hashes[:-1]
    clashes = differ & ~other_hash
    if clashes.any():  # two contexts share a hash: their windows may alternate
        group = np.cumsum(other_hash)
        mixed = np.flatnonzero(np.isin(group, group[clashes]))
        rows = windows[mixed]
        windows[mixed] = rows[np.lexsort((*rows[:, :-1].T[::-1], group[mixed]))]
        differ[1:] = (windows[1:, :-1] != windows[:-1, :-1]).any(axis=1)
    return differ | other_hash
