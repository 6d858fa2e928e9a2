"""Three ways of cutting documents into blocks of T tokens, by name.

`published`  as the study "Linguistic Collapse" did: groups of 1,000 documents are concatenated
             without separators and cut; the remainder of each group is dropped. Documents are
             first dealt to contiguous shards (its two worker processes), whose boundaries end a
             group early and so fix all counts.
`packed`     an end-of-text token between documents (nothing where the tokenizer has none), nothing
             dropped; the last block is partly filled. On request every block begins with a
             beginning-of-sequence token: context only, so that the first token of the text in a
             block is a label, too.
`whole`      every document lies inside one block, so that all of it is seen: a block begins with
             end-of-text, each document is followed by one, the rest is padding. All tokens of a
             document and the end-of-text after it are labels.

A maker takes documents one after the other (`add`), writes blocks as they fill, and ends with the
split's entry of the manifest (`finish`).
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from tightframe.errors import UserError
from tightframe.formats import write_listed

SHARD_TOKENS = 2**24  # 64 MiB of int32
GROUP = 1_000  # documents that the published chunking concatenates
OPEN_BLOCKS = 64  # blocks of `whole` that wait for a document which still fits
_CHUNK_TOKENS = 2**20  # written at once; memory only, never the result

Ids = Int32[np.ndarray, " n"]


class ShardWriter:
    """Writer of one split's blocks to numbered shards, of which it holds at most one in memory."""

    def __init__(
        self, folder: Path, split: str, block: int, *, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self.split = split
        self.block = block
        self.n_blocks = self.n_documents = self.n_tokens = self.n_labels = 0
        self._folder = folder
        self._blocks_per_shard = max(1, shard_tokens // block)
        self._shards: list[dict[str, Any]] = []
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_pending = 0

    def write(
        self,
        tokens: Int32[np.ndarray, "N T"],
        lengths: Int32[np.ndarray, " N"],
        documents: Int64[np.ndarray, " starts"],
    ) -> None:
        """Add blocks; `documents` are flat offsets within them, in increasing order."""
        while len(tokens):
            n = min(len(tokens), self._blocks_per_shard - self._n_pending)
            here = int(np.searchsorted(documents, n * self.block))
            shift = self._n_pending * self.block
            self._pending.append((tokens[:n], lengths[:n], documents[:here] + shift))
            self._n_pending += n
            if self._n_pending == self._blocks_per_shard:
                self._write_shard()
            tokens, lengths = tokens[n:], lengths[n:]
            documents = documents[here:] - n * self.block

    def close(self, *, n_bytes: int) -> dict[str, Any]:
        """Write what is left; the split's entry of the manifest."""
        if self._n_pending:
            self._write_shard()
        return {
            "documents": self.n_documents,
            "tokens": self.n_tokens,
            "labels": self.n_labels,
            "bytes": n_bytes,
            "blocks": self.n_blocks,
            "shards": self._shards,
        }

    def _write_shard(self) -> None:
        tokens, lengths, documents = map(np.concatenate, zip(*self._pending, strict=True))
        arrays = {"tokens": tokens, "lengths": lengths, "documents": documents}
        path = self._folder / f"{self.split}-{len(self._shards):05d}.safetensors"
        digest = write_listed(path, arrays)
        self._shards.append({"file": path.name, "blocks": len(lengths), "sha256": digest})
        self.n_blocks += len(lengths)
        self.n_documents += len(documents)
        self.n_tokens += int(lengths.sum(dtype=np.int64))
        self.n_labels += int((lengths - 1).sum(dtype=np.int64))
        self._pending, self._n_pending = [], 0


class _Stream:
    """Tokens in one line, written as full blocks once enough are pending.

    Args:
        writer: Takes the blocks.
        first: Token that every block begins with, not part of the line; None is none.
    """

    def __init__(self, writer: ShardWriter, *, first: int | None = None) -> None:
        self._writer = writer
        self._first = first
        self._width = writer.block - (first is not None)  # tokens of the line in a block
        self._pieces: list[Ids] = []
        self._starts: list[int] = []  # offsets of the pending documents
        self.n_pending = 0

    def append(self, ids: Ids, *, starts: bool) -> None:
        """Add tokens; `starts` says whether a document begins with them."""
        if starts:
            self._starts.append(self.n_pending)
        self._pieces.append(ids)
        self.n_pending += len(ids)
        if self.n_pending >= max(_CHUNK_TOKENS, self._width):
            self.cut()

    def cut(self) -> None:
        """Write all full blocks; less than a block stays pending."""
        n = self.n_pending // self._width
        if n:
            end = n * self._width
            tokens = np.concatenate(self._pieces)
            starts = np.array(self._starts, dtype=np.int64)
            here = int(np.searchsorted(starts, end))
            self._write(tokens[:end].reshape(n, self._width), self._width, starts[:here])
            self._pieces = [tokens[end:].copy()]
            self._starts = (starts[here:] - end).tolist()
            self.n_pending -= end

    def drop(self) -> None:
        """Forget what is pending."""
        self._pieces, self._starts, self.n_pending = [], [], 0

    def fill(self, padding: int) -> None:
        """Write what is pending, less than a block, as one partly filled block."""
        if self.n_pending:
            row = np.full((1, self._width), padding, dtype=np.int32)
            row[0, : self.n_pending] = np.concatenate(self._pieces)
            self._write(row, self.n_pending, np.array(self._starts, dtype=np.int64))
            self.drop()

    def _write(self, rows: np.ndarray, length: int, starts: np.ndarray) -> None:
        """Write rows of the line, each with `length` real tokens, behind their first token."""
        if self._first is not None:
            rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=self._first)
            starts = starts + starts // self._width + 1
            length += 1
        self._writer.write(rows, np.full(len(rows), length, dtype=np.int32), starts)


class Published:
    """Groups of 1,000 documents without separators, the remainder of each dropped.

    Args:
        n_documents: Number that will be added; needed for more than one shard.
        shards: Contiguous shards that the documents are dealt to, as `datasets.Dataset.shard`
            does: the first `n_documents % shards` hold one more. The study used 2.
    """

    def __init__(self, writer: ShardWriter, *, shards: int, n_documents: int | None) -> None:
        if shards > 1 and n_documents is None:
            raise ValueError("several shards need the number of documents")
        self.n_tokens = 0  # before remainders are dropped
        self._writer = writer
        self._stream = _Stream(writer)
        self._sizes = _group_sizes(shards, n_documents)
        self._size = next(self._sizes, 0)
        self._group: list[tuple[int, int]] = []  # tokens and bytes of each document
        self._n_bytes = 0

    def add(self, ids: Ids, n_bytes: int) -> None:
        """Add a document; an empty one counts as a member of its group, too."""
        self._group.append((len(ids), n_bytes))
        self.n_tokens += len(ids)
        if len(ids):
            self._stream.append(ids, starts=True)
        if len(self._group) == self._size:
            self._end_group()

    def finish(self) -> dict[str, Any]:
        """Write what is left. Bytes of a document that is cut count in proportion to tokens."""
        self._end_group()
        return self._writer.close(n_bytes=self._n_bytes)

    def _end_group(self) -> None:
        if self._group:
            self._stream.cut()
            tokens, n_bytes = np.array(self._group, dtype=np.int64).T
            ends = np.cumsum(tokens)
            kept = np.clip(ends[-1] - self._stream.n_pending - (ends - tokens), 0, tokens)
            self._n_bytes += int(np.rint((n_bytes * kept / np.maximum(tokens, 1)).sum()))
            self._stream.drop()
            self._group = []
        self._size = next(self._sizes, 0)


class Packed:
    """One line of documents, of which nothing is dropped.

    Args:
        writer: Takes the blocks.
        end: End-of-text, put between documents; None puts nothing there.
        bos: Beginning-of-sequence, put before each block's part of the line; None is none.
    """

    def __init__(self, writer: ShardWriter, *, end: int | None, bos: int | None = None) -> None:
        self.n_tokens = 0  # of the line
        self._writer = writer
        self._stream = _Stream(writer, first=bos)
        self._end = np.array([] if end is None else [end], dtype=np.int32)
        self._padding = next((token for token in (end, bos) if token is not None), 0)
        self._n_bytes = 0

    def add(self, ids: Ids, n_bytes: int, *, goes_on: bool = False) -> None:
        """Add a document, or more of the last one (`goes_on`); an empty one is passed over."""
        if not len(ids):
            return
        if self.n_tokens and not goes_on:
            self._stream.append(self._end, starts=False)
            self.n_tokens += len(self._end)
        self._stream.append(ids, starts=not goes_on)
        self.n_tokens += len(ids)
        self._n_bytes += n_bytes

    def finish(self) -> dict[str, Any]:
        """Write what is left, the last block partly filled."""
        self._stream.cut()
        self._stream.fill(self._padding)
        return self._writer.close(n_bytes=self._n_bytes)


class Whole:
    """Whole documents: each goes to the first open block that still has room for it.

    At most `OPEN_BLOCKS` are open; the oldest is written when one more is needed, so memory is
    bounded and a document stays near its place in the order.
    """

    def __init__(self, writer: ShardWriter, *, end: int) -> None:
        self.n_tokens = 0
        self._writer = writer
        self._end = end
        self._open: list[_OpenBlock] = []
        self._full: list[_OpenBlock] = []
        self._n_bytes = 0

    def add(self, ids: Ids, n_bytes: int) -> None:
        """Add a document; an empty one is passed over, one longer than a block is refused."""
        if not len(ids):
            return
        block = self._writer.block
        if len(ids) + 2 > block:
            raise UserError(
                f"a document of {len(ids):,} tokens is too long for blocks='whole' with blocks "
                f"of {block:,} ({block - 2:,} and two end-of-text fit); "
                "use larger blocks or blocks='packed'"
            )
        room = (slot for slot in self._open if slot.length + len(ids) + 1 <= block)
        slot = next(room, None)
        if slot is None:
            slot = _OpenBlock(block, self._end)
            self._open.append(slot)
            self.n_tokens += 1
            if len(self._open) > OPEN_BLOCKS:
                self._close(self._open[0])
        slot.add(ids)
        self.n_tokens += len(ids) + 1
        self._n_bytes += n_bytes
        if slot.length + 2 > block:
            self._close(slot)

    def finish(self) -> dict[str, Any]:
        """Write the blocks that are still open, the oldest first."""
        self._full += self._open
        self._write()
        return self._writer.close(n_bytes=self._n_bytes)

    def _close(self, slot: "_OpenBlock") -> None:
        self._open.remove(slot)
        self._full.append(slot)
        if len(self._full) * self._writer.block >= _CHUNK_TOKENS:
            self._write()

    def _write(self) -> None:
        if self._full:
            block = self._writer.block
            starts = [
                row * block + start for row, slot in enumerate(self._full) for start in slot.starts
            ]
            self._writer.write(
                np.stack([slot.tokens for slot in self._full]),
                np.array([slot.length for slot in self._full], dtype=np.int32),
                np.array(starts, dtype=np.int64),
            )
            self._full = []


class _OpenBlock:
    """A block that begins with end-of-text and still has room."""

    def __init__(self, block: int, end: int) -> None:
        self.tokens = np.full(block, end, dtype=np.int32)
        self.length = 1
        self.starts: list[int] = []

    def add(self, ids: Ids) -> None:
        """Put a document after the last one; the end-of-text after it already exists."""
        self.starts.append(self.length)
        self.tokens[self.length : self.length + len(ids)] = ids
        self.length += len(ids) + 1


def _group_sizes(shards: int, n_documents: int | None) -> Iterator[int]:
    if n_documents is None:
        yield from itertools.repeat(GROUP)
        return
    for shard in range(shards):
        size = n_documents // shards + (shard < n_documents % shards)
        yield from itertools.repeat(GROUP, size // GROUP)
        if size % GROUP:
            yield size % GROUP
