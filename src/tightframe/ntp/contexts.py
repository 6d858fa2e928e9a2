"""Count the contexts of a text: apply floors, choose contexts, order them.

Contexts are of a fixed length (`windows.py`), or every beginning of a document, as autoregressive
training has them. Beginnings are a tree: one of t + 1 tokens is one of t tokens and a token. Level
by level, the documents whose beginnings are equal share a node with a number, so that equality is
exact and needs no hash. For beginnings the text is held in memory, 5 bytes for each token.

Axes: N pairs, L tokens of a context, M distinct contexts, V tokens.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int32, Int64, UInt64

from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.ntp.options import MEMORY, CountOptions
from tightframe.ntp.table import PAD, ContextTable
from tightframe.ntp.windows import (
    Counted,
    Documents,
    Hash,
    Tokens,
    documents,
    hash_windows,
    joined,
    n_parts,
    n_windows,
    pairs_by_parts,
)
from tightframe.progress import tell


def prefixes_by_length(text: Documents, max_length: int | None) -> Iterator[Counted]:
    """Yield the counts of all contexts of 1 token, of 2, ..., each padded to the longest one.

    A document is read up to its first token outside the vocabulary.
    """
    tokens, starts, lengths = _held(text)
    longest = int(lengths.max(initial=1)) - 1
    width = longest if max_length is None else min(max_length, longest)
    nodes = np.zeros(len(starts), dtype=np.int64)  # one node for all: nothing is read yet
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


def n_prefixes(text: Documents, max_length: int | None) -> int:
    """Return the number of pairs that there would be if every id were in the vocabulary."""
    _, _, lengths = _held(dataclasses.replace(text, vocab_size=2**31))
    return int(np.minimum(lengths - 1, 2**31 if max_length is None else max_length).sum())


def _held(
    text: Documents,
) -> tuple[
    Int32[np.ndarray, " N"], Int64[np.ndarray, " documents"], Int64[np.ndarray, " documents"]
]:
    """Return all tokens, where documents begin, and how many of each are in the vocabulary."""
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


_DENSE = 0.5  # share of (token, context) pairs above which supports say little


def count(
    tokens: Tokens | Sequence[int] | str | Path,
    length: int | Literal["all"] = 5,
    *,
    vocab_size: int | None = None,
    memory: int = MEMORY,
    hashed: Hash | None = None,
    **options: Any,
) -> ContextTable:
    """Count which tokens follow each context of a text; the most frequent contexts come first.

    Contexts lie within a document. The end-of-text token that ends one is a next token, and never
    part of a context; beginning-of-sequence tokens and padding are no part of the text.

    Args:
        tokens: Token shards or their folder, a split of them, or documents of ids: a 1-D array or
            a list of ids is one document; the rows of a 2-D array, or a list of lists or arrays,
            are several.
        length: Number of tokens of a context; "all": every beginning of a document is a context.
        vocab_size: V, where `tokens` does not say or ids from it on are padding: pairs that
            contain such ids are left out.
        memory: Bytes that are held at once, beside the table; never the result.
        hashed: Hash function of windows in place of the usual one; never the result.
        options: Other fields of `CountOptions`: split, min_count, min_context, max_contexts,
            sample_seed, max_length.

    Raises:
        ValueError: Ids that are no token ids.
        UserError: An option out of its range, no pair in the text, none above the floors, or
            contexts that do not fit into memory.

    >>> import tightframe as tf
    >>> tf.ntp.count([0, 1, 0, 2, 0, 1], length=1).support
    array([[False,  True,  True],
           [ True, False, False],
           [ True, False, False]])
    """
    chosen = CountOptions(length=length, **options)
    if memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory}")
    text = documents(_opened(tokens), split=chosen.split, vocab_size=vocab_size)
    if chosen.length == "all":
        parts = prefixes_by_length(text, chosen.max_length)
        n_all, too_much = n_prefixes(text, chosen.max_length), memory
    else:
        n_readings = n_parts(text.n_tokens, chosen.length, memory)
        parts = pairs_by_parts(text, chosen.length, parts=n_readings, hashed=hashed)
        n_all, too_much = n_windows(text, chosen.length), None
    kept = _Kept(chosen, too_much)
    for part in parts:
        kept.add(part)
        tell("contexts", min(kept.n_pairs / max(n_all, 1), 1.0), kept.n_pairs)
    counted = kept.result()
    if not kept.n_pairs:
        raise UserError(_too_short(text, chosen.length))
    if counted is None:
        raise UserError(
            f"none of {kept.n_pairs:,} pairs is left with min_context={chosen.min_context}, "
            f"min_count={chosen.min_count}; lower them"
        )
    source: dict[str, Any] = text.source | {
        "length": "prefixes" if chosen.length == "all" else chosen.length,
        "pairs": n_all,
        "dropped_pairs": {"vocab_size": n_all - kept.n_pairs} | kept.dropped,
        "dropped_contexts": kept.dropped_contexts,
        "min_count": chosen.min_count,
        "min_context": chosen.min_context,
        "max_contexts": chosen.max_contexts,
        "sample_seed": chosen.sample_seed,
        "max_length": chosen.max_length,
    }
    table = _table(counted, text, source)
    _warn(table)
    return table


def _opened(tokens: Tokens | Sequence[int] | str | Path) -> Tokens:
    """Return tokens for `documents`: a folder is opened, a list of ids is one document."""
    if isinstance(tokens, str | Path):
        return TokenShards.open(Path(tokens))
    if isinstance(tokens, TokenShards | Split | np.ndarray):
        return tokens
    ids = [one for one in tokens if isinstance(one, int)]
    return [ids] if ids else [one for one in tokens if not isinstance(one, int)]


class _Kept:
    """Counts above the floors so far, and how many pairs were dropped for which reason."""

    def __init__(self, options: CountOptions, memory: int | None) -> None:
        self.n_pairs = self.dropped_contexts = 0
        self.dropped = {"min_context": 0, "min_count": 0, "max_contexts": 0}
        self._options, self._memory = options, memory
        self._parts: list[Counted] = []

    def add(self, part: Counted) -> None:
        """Add the counts of contexts that are in no other part."""
        n_contexts, n_pairs = len(part.sizes), int(part.counts.sum())
        self.n_pairs += n_pairs
        floors = self._options
        if floors.min_context > 1:
            part = part.taken(part.totals >= floors.min_context)
            n_pairs = self._drop("min_context", n_pairs, part)
        if floors.min_count > 1:
            part = part.without(part.counts < floors.min_count)
            n_pairs = self._drop("min_count", n_pairs, part)
        self.dropped_contexts += n_contexts - len(part.sizes)
        self._parts.append(part)
        if floors.max_contexts is not None:
            self._choose(floors.max_contexts)
        held = sum(part.contexts.nbytes for part in self._parts)
        if self._memory is not None and held > self._memory:
            raise UserError(
                f"the beginnings of these documents take more than {self._memory:,} bytes; "
                "keep fewer with max_length, min_context or max_contexts, or allow more memory"
            )

    def result(self) -> Counted | None:
        """Return the counts, most frequent contexts first, ties by ids; None if none is left."""
        parts, self._parts = self._parts, []
        if not sum(len(part.sizes) for part in parts):
            return None
        found = joined(parts)
        del parts
        return found.taken(_by_frequency(found))

    def _choose(self, max_contexts: int) -> None:
        """Drop contexts that cannot be among the chosen ones, whatever is still to come."""
        found = joined(self._parts)
        if len(found.sizes) > max_contexts:
            n_pairs = int(found.counts.sum())
            if self._options.sample_seed is None:
                order = _by_frequency(found)
            else:
                order = np.argsort(_drawn(found.contexts, self._options.sample_seed), kind="stable")
            self.dropped_contexts += len(order) - max_contexts
            found = found.taken(np.sort(order[:max_contexts]))
            self._drop("max_contexts", n_pairs, found)
        self._parts = [found]

    def _drop(self, reason: str, n_pairs: int, left: Counted) -> int:
        n_left = int(left.counts.sum())
        self.dropped[reason] += n_pairs - n_left
        return n_left


def _by_frequency(found: Counted) -> Int64[np.ndarray, " M"]:
    return np.lexsort((*_packed(found.contexts)[::-1], -found.totals))


def _packed(contexts: Int32[np.ndarray, "M L"]) -> list[UInt64[np.ndarray, " M"]]:
    """Return words of 64 bits that sort as the rows of ids do, PAD first; the first word leads."""
    bits = max(1, (int(contexts.max(initial=0)) + 1).bit_length())
    a_word = 64 // bits
    words = []
    for start in range(0, contexts.shape[1], a_word):
        word = np.zeros(len(contexts), dtype=np.uint64)
        for column in contexts.T[start : start + a_word]:
            word = (word << np.uint64(bits)) | (column + 1).astype(np.uint64)
        words.append(word)
    return words


def _drawn(contexts: Int32[np.ndarray, "M L"], seed: int) -> UInt64[np.ndarray, " M"]:
    """Return a random number for each context, which depends on its ids and the seed alone."""
    first = np.full((len(contexts), 1), seed, dtype=np.int64)
    return hash_windows(np.hstack([first, contexts]))


def _table(found: Counted, text: Documents, source: dict[str, Any]) -> ContextTable:
    counts = sp.csr_array(
        (found.counts, found.following, np.append(0, np.cumsum(found.sizes))),
        shape=(len(found.sizes), text.vocab_size),
    )
    tokens = np.arange(text.vocab_size, dtype=np.int64)
    return ContextTable(found.contexts, counts, tokens, text.words, source, text.words)


def _too_short(text: Documents, length: int | Literal["all"]) -> str:
    name = text.source.get("tokens", "the text")
    wanted = "a token and a next one" if length == "all" else f"{length} tokens and a next one"
    return f"{name}: no document of {text.n_tokens:,} tokens has {wanted}; use a shorter context"


def _warn(table: ContextTable) -> None:
    n_entries = table.counts.nnz
    density = n_entries / (table.n_contexts * table.vocab_size)
    if density > _DENSE:
        warnings.warn(
            f"{density:.0%} of all (token, context) pairs occur, and such supports say "
            "little; use longer contexts or a count floor",
            UserWarning,
            stacklevel=3,
        )
    if n_entries == table.n_contexts:
        warnings.warn(
            "every context is followed by a single token: the finite component is 0, and the "
            "geometry that of imbalanced classes",
            UserWarning,
            stacklevel=3,
        )
