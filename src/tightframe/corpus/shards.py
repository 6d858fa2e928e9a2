"""Token shards on disk: `TokenShards` opens them, `Split` reads their rows and groups documents.

Axes: B requested rows, N rows of a shard, T positions of a block, V vocabulary.

A folder holds `manifest.json`, `tokenizer.json` and shards `train-00000.safetensors`,
`val-00000.safetensors`, ... of at most 64 MiB. A shard holds `tokens` (N, T) int32; `lengths` (N,)
int32, the real tokens of each block, the rest being padding; and `documents` int64, the flat
offsets (row * T + column) at which documents begin. A block of T tokens labels T - 1 positions:
position t predicts token t + 1, and padding is never a label. Where blocks begin with a token
that is no part of the text (the manifest's `bos`, or blocks="whole"), that is the token which is
no label.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int, Int64
from tokenizers import Tokenizer
from torch import Tensor

from tightframe.corpus.manifest import REMEDY, read_manifest
from tightframe.corpus.tokenizer import read
from tightframe.errors import UserError
from tightframe.files import fingerprint
from tightframe.formats import check_digest, check_layout, read_json, read_listed


class Groups(NamedTuple):
    """Contiguous groups of labels; group g holds those in [bounds[g], bounds[g + 1])."""

    bounds: Int64[Tensor, " bounds"]  # flat offsets, row * T + column; the first is 0
    unit: Literal["documents", "blocks"]  # what lies whole inside a group


def even_cuts(weights: Int64[np.ndarray, " items"], n: int) -> Int64[np.ndarray, " cuts"]:
    """Return the first item of each group but the first, for `n` groups of about equal weight.

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


SPLITS = ("train", "val")
_SHARD = {"tokens": "int32 N T", "lengths": "int32 N", "documents": "count starts"}
_CHUNK_TOKENS = 2**20  # read at once where a whole split is gone through; memory only


@dataclasses.dataclass(frozen=True)
class TokenShards:
    """A tokenized corpus, verified when it is opened: every file has the manifest's SHA-256."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "TokenShards":
        """Open and verify a tokens folder; what is missing, damaged or changed is named."""
        path = Path(path)
        manifest = read_manifest(path)
        digest = manifest["tokenizer"]["sha256"]
        check_digest(path / "tokenizer.json", digest, remedy=REMEDY)
        for split in SPLITS:
            _check_split(path, manifest, manifest["splits"][split])
        return cls(path, manifest)

    @property
    def name(self) -> str:
        """Name of the folder when it was built."""
        return str(self.manifest["name"])

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, V; every id is below it."""
        return int(self.manifest["vocab_size"])

    @property
    def block(self) -> int:
        """Tokens per block, T."""
        return int(self.manifest["block"])

    @property
    def end_of_text(self) -> int | None:
        """Id of the end-of-text token, if the tokenizer has one."""
        return cast("int | None", self.manifest["end_of_text"])

    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-sequence token that every block begins with, if there is one."""
        return cast("int | None", self.manifest["bos"])

    @property
    def notes(self) -> list[str]:
        """Remarks on how the text was read, for people, one line each."""
        return [str(note) for note in self.manifest["source"].get("notes", ())]

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the content, whatever the folder's name and place."""
        return str(self.manifest["fingerprint"])

    @property
    def entropy_floor(self) -> dict[str, float] | None:
        """Nats per label token of the validation split that no model can beat, where known."""
        return cast("dict[str, float] | None", self.manifest["entropy_floor"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return read(self.path / "tokenizer.json")

    @cached_property
    def special(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for no text, such as the end of one, in increasing order."""
        added = read_json(self.path / "tokenizer.json").get("added_tokens", [])
        ids = {int(token["id"]) for token in added if token["special"]}
        ids |= {token for token in (self.end_of_text, self.bos) if token is not None}
        return tuple(sorted(ids))

    def split(self, name: str) -> "Split":
        """Return the rows of "train" or "val"."""
        if name not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
        return Split(self, name)


class Split:
    """The blocks of one split, memory-mapped: only the rows asked for are read."""

    def __init__(self, shards: TokenShards, name: str) -> None:
        entry = shards.manifest["splits"][name]
        self.name = name
        self.block = shards.block
        self.vocab_size = shards.vocab_size
        self.n_blocks: int = entry["blocks"]
        self.n_tokens: int = entry["tokens"]  # padding left out, `bos` included
        self.n_labels: int = entry["labels"]  # positions 1.. of each block within its length
        self.n_bytes: int = entry["bytes"]  # UTF-8 bytes of the text that the tokens stand for
        self.fingerprint = fingerprint(
            [shards.manifest["tokenizer"]["sha256"], *(s["sha256"] for s in entry["shards"])]
        )
        # Mapped; as arrays: a few rows are gathered faster by numpy than by torch's threads.
        files = [read_listed(shards.path / shard["file"]) for shard in entry["shards"]]
        self._tokens = [file["tokens"].numpy() for file in files]  # (N, T) each
        self._lengths = [file["lengths"].numpy() for file in files]  # (N,)
        self._documents = [file["documents"].numpy() for file in files]
        # Blocks before each shard, and in all.
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._tokens)])
        self.end_of_text = shards.end_of_text
        self.bos = shards.bos
        self.special = shards.special
        # Whether the text continues from each block to the next one; not so in a sample.
        self.goes_on = True
        # Whether a block's first token, which nothing predicts, is part of the text.
        self._first_is_text = shards.bos is None and shards.manifest["blocks"] != "whole"

    def __len__(self) -> int:
        return self.n_blocks

    def sample(self, n_labels: int, *, seed: int) -> "Split":
        """Sample whole blocks by `seed`, with about so many labelled positions, into memory.

        All blocks where that many positions are all there are. `n_bytes` of a sample is its
        share by tokens.
        """
        if n_labels < 1:
            raise ValueError(f"n_labels must be at least 1, got {n_labels}")
        wanted = math.ceil(n_labels * self.n_blocks / max(1, self.n_labels))
        n_blocks = min(self.n_blocks, wanted)
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.choice(self.n_blocks, n_blocks, replace=False))
        tokens, lengths = self.rows(chosen)
        sample = copy.copy(self)
        sample.goes_on = False
        sample.n_blocks = n_blocks
        sample.n_tokens = int(lengths.sum())
        sample.n_labels = sample.n_tokens - n_blocks
        sample.n_bytes = round(self.n_bytes * sample.n_tokens / max(1, self.n_tokens))
        sample.fingerprint = fingerprint([self.fingerprint, chosen.tolist()])
        sample._tokens = [tokens.numpy().astype(np.int32)]
        sample._lengths = [lengths.numpy().astype(np.int32)]
        rows, columns = np.divmod(self.document_starts().numpy(), self.block)
        kept = np.isin(rows, chosen)
        places = np.searchsorted(chosen, rows[kept])
        sample._documents = [places * self.block + columns[kept]]
        sample._starts = np.array([0, n_blocks])
        vars(sample).pop("_labels_before", None)  # cached, of all blocks
        return sample

    def rows(
        self, indices: Sequence[int] | Int[np.ndarray, " B"] | Int[Tensor, " B"]
    ) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
        """Return tokens and lengths of the blocks at `indices`, in their order; they may repeat."""
        asked = self._checked(indices)
        shard_of = np.searchsorted(self._starts, asked, side="right") - 1
        tokens = np.empty((len(asked), self.block), dtype=np.int64)
        lengths = np.empty(len(asked), dtype=np.int64)
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            local = asked[here] - self._starts[shard]
            tokens[here] = self._tokens[shard][local]
            lengths[here] = self._lengths[shard][local]
        return torch.from_numpy(tokens), torch.from_numpy(lengths)

    def _checked(
        self, indices: Sequence[int] | Int[np.ndarray, " B"] | Int[Tensor, " B"]
    ) -> Int64[np.ndarray, " B"]:
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.n_blocks:
            raise ValueError(
                f"rows must lie in [0, {self.n_blocks}), got {rows.min()}..{rows.max()}"
            )
        return rows

    @property
    def largest_id(self) -> int:
        """Largest id that occurs, in an input or as a label; the tokenizer may have larger ones."""
        parts = (range(i, min(i + 1024, self.n_blocks)) for i in range(0, self.n_blocks, 1024))
        return max((int(self.rows(part)[0].max()) for part in parts), default=-1)

    def label_counts(self) -> Int64[Tensor, " V"]:
        """Count how often each token is a label: at positions 1.. of a block, within its length."""
        counts = torch.zeros(self.vocab_size, dtype=torch.int64)
        columns = torch.arange(1, self.block)
        step = max(1, _CHUNK_TOKENS // self.block)
        for start in range(0, self.n_blocks, step):
            tokens, lengths = self.rows(np.arange(start, min(start + step, self.n_blocks)))
            labels = tokens[:, 1:][columns < lengths[:, None]]
            counts += torch.bincount(labels, minlength=self.vocab_size)
        return counts

    def bits_per_byte(self, nats_per_token: float) -> float:
        r"""Return a loss in bits per byte of text, which models with other tokenizers share.

        .. math:: \frac{\text{nats per label token} \times \text{tokens}}{\text{bytes} \ln 2}

        Tokens are those that stand for the text and the ends of its documents, which every model
        has to predict; bytes are of the text in UTF-8. A token that is put before each block is
        no part of either. Where there is none, the first token of a block is part of the text
        though nothing predicts it: it is taken to cost what the others cost on average. So the
        size of blocks changes only what the model sees, not what its loss is divided by.

        Args:
            nats_per_token: Mean cross-entropy over the labels of this split.
        """
        n_tokens = self.n_tokens if self._first_is_text else self.n_labels
        return nats_per_token * n_tokens / self.n_bytes / math.log(2)

    @cached_property
    def _labels_before(self) -> Int64[np.ndarray, " ends"]:
        """Number of labels in the blocks before each one, and in all."""
        n_labels = np.concatenate(self._lengths).astype(np.int64) - 1
        return np.concatenate([[0], np.cumsum(n_labels)])

    def label_ordinals(
        self, indices: Sequence[int] | Int[np.ndarray, " B"] | Int[Tensor, " B"]
    ) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
        """Return which labels of the split, counted from 0, stand in each block: [first, end)."""
        rows = self._checked(indices)
        return self._labels_before[rows], self._labels_before[rows + 1]

    def labels(self, ordinals: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """Return the labels at these places among all labels of the split, in any order."""
        rows = np.searchsorted(self._labels_before, ordinals, side="right") - 1
        columns = ordinals - self._labels_before[rows] + 1
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        labels = np.empty(len(ordinals), dtype=np.int64)
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            labels[here] = self._tokens[shard][rows[here] - self._starts[shard], columns[here]]
        return labels

    def groups(self, n: int, beside: "Split | None" = None) -> Groups:
        """Return `n` contiguous groups of whole documents, about equal in labels.

        Where fewer than `n` documents have a label, groups are of whole blocks: stretches of one
        document, which depend on each other, if less the longer they are. Only documents and
        blocks with a label are counted.

        Args:
            n: Number of groups.
            beside: The same documents in other tokens: groups of documents are then those of both,
                about equal in the labels of both together.
        """
        if n < 1:
            raise ValueError(f"expected one group or more, got {n}")
        starts, weights = self._documents_with_labels()
        if beside is not None:
            _, others = beside._documents_with_labels()
            weights = (weights + others) * ((weights > 0) & (others > 0))
        documents = self._cut(starts, weights, n)
        if documents is not None:
            return Groups(documents, "documents")
        starts = np.arange(self.n_blocks) * self.block
        of_blocks = self._labels_of(starts)
        blocks = self._cut(starts, of_blocks, n)
        if blocks is not None:
            return Groups(blocks, "blocks")
        raise UserError(
            f"split '{self.name}' of {len(weights):,} documents: {int((weights > 0).sum()):,} of "
            f"them and {int((of_blocks > 0).sum()):,} of its blocks have labels, too few for "
            f"{n:,} groups; ask for fewer"
        )

    def _documents_with_labels(
        self,
    ) -> tuple[Int64[np.ndarray, " documents"], Int64[np.ndarray, " documents"]]:
        """Return the offset of each document and its labels; the first has what is before it."""
        starts = self.document_starts().numpy()
        starts = np.concatenate([[0], starts[1:]])
        return starts, self._labels_of(starts)

    def _labels_of(self, starts: Int64[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
        """Count the labels of each item, given where they begin."""
        rows, columns = np.divmod(starts, self.block)
        # Labels before an item: those of earlier blocks, and of columns 1.. before its own.
        first, stop = self.label_ordinals(rows)
        before = np.minimum(first + np.maximum(columns - 1, 0), stop)
        return np.diff(before, append=self.n_labels)

    def _cut(
        self, starts: Int64[np.ndarray, " items"], weights: Int64[np.ndarray, " items"], n: int
    ) -> Int64[Tensor, " bounds"] | None:
        """Return the bounds of `n` groups of the items with labels; None if these are fewer."""
        starts, weights = starts[weights > 0], weights[weights > 0]
        if len(starts) < n:
            return None
        end = self.n_blocks * self.block
        return torch.from_numpy(np.concatenate([[0], starts[even_cuts(weights, n)], [end]]))

    @cached_property
    def n_documents(self) -> int:
        """Number of documents with a label."""
        return int((self._documents_with_labels()[1] > 0).sum())

    def document_starts(self) -> Int64[Tensor, " documents"]:
        """Return the flat offsets (row * T + column) at which documents begin, in order."""
        offsets = zip(self._documents, self._starts, strict=False)
        found = [documents + start * self.block for documents, start in offsets]
        return torch.from_numpy(np.concatenate(found))


def _check_split(folder: Path, manifest: dict[str, Any], entry: dict[str, Any]) -> None:
    """Refuse shards that are damaged, or that are not what the manifest says of them."""
    found = dict.fromkeys(("blocks", "documents", "tokens", "labels"), 0)
    for shard in entry["shards"]:
        path = folder / shard["file"]
        tensors = read_listed(path, shard["sha256"], remedy=REMEDY)
        check_layout(path, tensors, _SHARD, remedy=REMEDY)
        tokens, lengths, starts = (tensors[name].numpy() for name in _SHARD)
        blocks, block = tokens.shape
        wrong = ""
        if (blocks, block) != (shard["blocks"], manifest["block"]):
            wrong = f"{blocks} blocks of {block} tokens"
        elif not 0 <= tokens.min() <= tokens.max() < manifest["vocab_size"]:
            wrong = f"tokens {tokens.min()}..{tokens.max()}"
        elif not 1 <= lengths.min() <= lengths.max() <= block:
            wrong = f"lengths {lengths.min()}..{lengths.max()}"
        elif len(starts) and not (starts[-1] < tokens.size and (np.diff(starts) > 0).all()):
            wrong = "starts of documents out of order"
        if wrong:
            raise UserError(f"{path}: holds {wrong}, not what the manifest says; {REMEDY}")
        counts = (blocks, len(starts), int(lengths.sum(dtype=np.int64)))
        for name, n in zip(found, (*counts, counts[2] - blocks), strict=True):
            found[name] += n
    if any(found[name] != entry[name] for name in found):
        said = ", ".join(f"{entry[name]:,} {name}" for name in found)
        raise UserError(f"{folder}: its manifest says {said}, its shards don't; {REMEDY}")
