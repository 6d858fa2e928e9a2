"""Count (context, next token) pairs of a fixed length, in memory that does not grow with the text.

The text is one line of tokens with breaks between its documents. A context lies within one
document; a document may continue over blocks and shards, so the table does not depend on the size
of blocks. The end-of-text token belongs to the document that it ends: it is a next token there and
never part of a context. Padding, and a beginning-of-sequence token before each block, are not part
of the text. In a sample of a split the text does not continue from block to block, so each block
begins a document.

The text is read several times, once for each part of the contexts: those whose hash falls into one
range. All pairs of a part are held, sorted by hash and counted. Two contexts are equal if their
tokens are, never by the hash alone.

Axes: N pairs held, L tokens of a context, W = L + 1 of a window, M distinct contexts.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int, Int32, Int64, UInt64

from tightframe.corpus.shards import Split, TokenShards
from tightframe.corpus.tokenizer import token_names

Line: TypeAlias = tuple[Int32[np.ndarray, " _"], Bool[np.ndarray, " _"]]
"""Tokens, and which of them begin a document (or come after a break in it)."""

Tokens: TypeAlias = TokenShards | Split | np.ndarray | Sequence[np.ndarray | Sequence[int]]

PIECE = 2**20  # tokens read at once; memory only, never the result


@dataclasses.dataclass(frozen=True)
class Documents:
    """A text to count contexts in.

    Attributes:
        lines: Gives the text from its beginning, in pieces; may be called again.
        n_tokens: At most so many tokens come.
        vocab_size: V: ids from it on are dropped, and no pair contains them.
        source: Name, fingerprint and split of the text, where they are known.
        words: Names of the V tokens, see `token_names`; empty where unknown.
    """

    lines: Callable[[], Iterator[Line]]
    n_tokens: int
    vocab_size: int
    source: dict[str, str]
    words: tuple[str, ...] = ()


def documents(tokens: Tokens, *, split: str, vocab_size: int | None) -> Documents:
    """Return a text from token shards, a split of them, a document (1-D), rows (2-D), or a list.

    Raises:
        ValueError: Ids that are negative or no integers, or `vocab_size` for shards.
    """
    if isinstance(tokens, TokenShards):
        of_split = documents(tokens.split(split), split=split, vocab_size=vocab_size)
        source = {"tokens": tokens.name, "fingerprint": tokens.fingerprint, "split": split}
        words = tuple(token_names(tokens.tokenizer, tokens.vocab_size))
        return dataclasses.replace(of_split, source=source, words=words)
    if isinstance(tokens, Split):
        size = tokens.vocab_size if vocab_size is None else vocab_size
        source = {"split": tokens.name, "fingerprint": tokens.fingerprint}
        return Documents(lambda: _blocks(tokens), tokens.n_tokens, size, source)
    arrays = [_checked(document, number) for number, document in enumerate(_listed(tokens))]
    largest = max((int(array.max()) for array in arrays if len(array)), default=0)
    size = largest + 1 if vocab_size is None else vocab_size
    total = sum(len(array) for array in arrays)
    return Documents(lambda: _arrays(arrays), total, size, {})


def _listed(tokens: np.ndarray | Sequence[np.ndarray | Sequence[int]]) -> list[np.ndarray]:
    if isinstance(tokens, np.ndarray) and tokens.ndim == 1:
        return [tokens]
    if isinstance(tokens, np.ndarray) and tokens.ndim != 2:
        raise ValueError(f"tokens: expected a document or rows of them, got shape {tokens.shape}")
    return [np.asarray(document) for document in tokens]


def _checked(document: np.ndarray, number: int) -> Int[np.ndarray, " _"]:
    if document.ndim != 1:
        raise ValueError(
            f"tokens: document {number} has shape {document.shape}, expected a line of ids; "
            "put one document into a list"
        )
    if document.size and document.dtype.kind not in "iu":
        raise ValueError(f"tokens: document {number} holds {document.dtype}, expected integers")
    wrong = np.flatnonzero((document < 0) | (document > np.iinfo(np.int32).max))
    if len(wrong):
        raise ValueError(
            f"tokens: {document[wrong[0]]} at position {wrong[0]} of document {number}; "
            "expected token ids from 0"
        )
    return document


def _arrays(arrays: Sequence[Int[np.ndarray, " _"]]) -> Iterator[Line]:
    held: list[np.ndarray] = []
    n_held = 0
    for array in arrays:
        held.append(array)
        n_held += len(array)
        if n_held >= PIECE:
            yield from _cut(held, n_held)
            held, n_held = [], 0
    yield from _cut(held, n_held)


def _cut(documents: Sequence[Int[np.ndarray, " _"]], total: int) -> Iterator[Line]:
    """Yield whole documents as pieces of a line."""
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    breaks = np.zeros(total, dtype=bool)
    breaks[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    line = np.concatenate([np.empty(0, np.int32), *documents]).astype(np.int32)
    for start in range(0, total, PIECE):
        yield line[start : start + PIECE], breaks[start : start + PIECE]


def _blocks(split: Split) -> Iterator[Line]:
    begins = split.document_starts().numpy()
    step = max(1, PIECE // split.block)
    columns = np.arange(split.block)
    ended = True  # whether the token before was an end-of-text
    for first in range(0, split.n_blocks, step):
        last = min(first + step, split.n_blocks)
        rows, lengths = (array.numpy() for array in split.rows(np.arange(first, last)))
        starts = np.zeros(rows.shape, dtype=bool)
        here = slice(*np.searchsorted(begins, [first * split.block, last * split.block]))
        starts.flat[begins[here] - first * split.block] = True
        text = columns < lengths[:, None]
        if split.bos is not None:
            text[:, 0] = False
        if not split.goes_on:
            starts[:, int(split.bos is not None)] = True
        line, breaks = rows[text].astype(np.int32), starts[text]
        if split.end_of_text is not None and len(line):
            is_end = line == split.end_of_text
            breaks[1:] |= is_end[:-1]
            breaks[0] |= ended
            ended = bool(is_end[-1])
        yield line, breaks


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
        sizes: Number of different tokens that follow each context.
        following: Next tokens, context by context, increasing.
        counts: Number of times that each of them followed.
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
        """Return some contexts, by index or mask, in this order."""
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
        """Return the counts without some next tokens, and without contexts that then have none."""
        context = np.repeat(np.arange(len(self.sizes)), self.sizes)[~entries]
        sizes = np.bincount(context, minlength=len(self.sizes))
        return Counted(
            self.contexts[sizes > 0],
            sizes[sizes > 0],
            self.following[~entries],
            self.counts[~entries],
        )


def joined(parts: list[Counted]) -> Counted:
    """Return parts that have no context in common as one."""
    return Counted(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Counted)
        )
    )


def n_parts(n_tokens: int, length: int, memory: int) -> int:
    """Return the number of parts that keeps what is held within `memory` bytes, a power of two."""
    needed = n_tokens * (_BYTES_A_TOKEN * (length + 1) + _BYTES_A_PAIR)
    return 1 << max(0, (needed - 1) // memory).bit_length()


def pairs_by_parts(
    text: Documents, length: int, *, parts: int, hashed: Hash | None = None
) -> Iterator[Counted]:
    """Yield the counts of each part of the contexts, with one reading of the text per part."""
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
    """Yield all runs of `length` + 1 tokens within a document and the vocabulary."""
    for tokens, ends in _runs(text, length):
        if len(ends):
            windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
            yield windows[ends - length]


def n_windows(text: Documents, length: int) -> int:
    """Return the number of windows that there would be if every id were in the vocabulary."""
    every = dataclasses.replace(text, vocab_size=2**31)
    return sum(len(ends) for _, ends in _runs(every, length))


def _runs(
    text: Documents, length: int
) -> Iterator[tuple[Int32[np.ndarray, " _"], Int64[np.ndarray, " _"]]]:
    """Yield the text in overlapping pieces, and where the windows of each end.

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
    """Return 64 bits that spread evenly, the upper ones too; equal windows have equal hashes."""
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:
        hashes += column.astype(np.uint64) + np.uint64(1)
        hashes *= _FACTOR
        hashes ^= hashes >> np.uint64(29)
    return hashes * _FACTOR


def count_windows(hashes: UInt64[np.ndarray, " N"], windows: Int32[np.ndarray, "N W"]) -> Counted:
    """Count distinct contexts, the first L columns of the windows, and their next tokens."""
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
    """Return where another context begins; sort windows with clashing hashes in place."""
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
