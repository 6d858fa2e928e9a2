"""Counting what follows every beginning of a document: the contexts of autoregressive training.

Beginnings are a tree: one of t + 1 tokens is one of t tokens and a token. Level by level, the
documents whose beginnings are equal share a node, told by its number, so equality is exact and
takes no hash. The text is held in memory, 5 bytes a token.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32, Int64

from tightframe.ntp.documents import Documents
from tightframe.ntp.pairs import Counted
from tightframe.ntp.table import PAD


def prefixes_by_length(text: Documents, max_length: int | None) -> Iterator[Counted]:
    """The counts of all contexts of 1 token, of 2, ...; all padded to the longest there are.

    A document is read up to its first token outside the vocabulary.
    """
    tokens, starts, lengths = _held(text)
    longest = int(lengths.max(initial=1)) - 1
    width = longest if max_length is None else min(max_length, longest)
    nodes = np.zeros(len(starts), dtype=np.int64)  # one for all: nothing is read yet
    for depth in range(width + 1):
        going = lengths > depth
        starts, lengths, nodes = starts[going], lengths[going], nodes[going]
        keys, nodes_after, counts = np.unique(
            (nodes << 32) | tokens[starts + depth], return_inverse=True, return_counts=True
        )
        if depth:
            numbers, documents = np.unique(nodes, return_index=True)
            contexts = np.full((len(numbers), width), PAD, dtype=np.int32)
            places = starts[documents, None] + np.arange(depth)
            contexts[:, width - depth :] = tokens[places]
            sizes = np.bincount(np.searchsorted(numbers, keys >> 32), minlength=len(numbers))
            following = (keys & 0xFFFFFFFF).astype(np.int32)
            yield Counted(contexts, sizes, following, counts)
        nodes = nodes_after


def n_beginnings(text: Documents, max_length: int | None) -> int:
    """How many pairs there would be if every id were in the vocabulary."""
    _, _, lengths = _held(dataclasses.replace(text, vocab_size=2**31))
    return int(np.minimum(lengths - 1, 2**31 if max_length is None else max_length).sum())


def _held(
    text: Documents,
) -> tuple[
    Int32[np.ndarray, " N"], Int64[np.ndarray, " documents"], Int64[np.ndarray, " documents"]
]:
    """All tokens, where documents begin, and how many tokens of each are in the vocabulary."""
    lines = list(text.lines())
    if not lines:
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64)
    tokens = np.concatenate([line for line, _ in lines])
    breaks = np.concatenate([starts for _, starts in lines])
    breaks[0] = True
    starts = np.flatnonzero(breaks)
    ends = np.append(starts[1:], len(tokens))
    unknown = np.append(np.flatnonzero(tokens >= text.vocab_size), len(tokens))
    ends = np.minimum(ends, unknown[np.searchsorted(unknown, starts)])
    return tokens, starts, ends - starts
