"""The documents that contexts are counted in, read as one line of tokens with its breaks.

A context lies within one document. A document may go on over blocks and shards: the table is that
of the text, whatever the size of blocks. The end-of-text token belongs to the document that it
ends: it is a next token there, and never part of a context. Padding, and a beginning-of-sequence
token before each block, are no part of the text. In a sample of a split the text does not go on
from block to block, so each begins anew.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Int32

from tightframe.corpus.token_names import token_names
from tightframe.corpus.tokens import Split, TokenShards

Line: TypeAlias = tuple[Int32[np.ndarray, "_"], Bool[np.ndarray, "_"]]
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
        source: What the text is: name, fingerprint, split, where they are known.
        words: Names of the V tokens, see `token_names`; empty where unknown.
    """

    lines: Callable[[], Iterator[Line]]
    n_tokens: int
    vocab_size: int
    source: dict[str, str]
    words: tuple[str, ...] = ()


def documents(tokens: Tokens, *, split: str, vocab_size: int | None) -> Documents:
    """A split of token shards, a Split, a document (1-D), one a row (2-D), or a list of them.

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


def _checked(document: np.ndarray, number: int) -> Int[np.ndarray, "_"]:
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


def _arrays(arrays: Sequence[Int[np.ndarray, "_"]]) -> Iterator[Line]:
    held: list[np.ndarray] = []
    n_held = 0
    for array in arrays:
        held.append(array)
        n_held += len(array)
        if n_held >= PIECE:
            yield from _cut(held, n_held)
            held, n_held = [], 0
    yield from _cut(held, n_held)


def _cut(documents: Sequence[Int[np.ndarray, "_"]], total: int) -> Iterator[Line]:
    """Whole documents as pieces of a line."""
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
