"""Token shards on disk: `TokenShards` opens them, `Split` reads rows, `ShardWriter` writes them.

Axes: B rows asked for, N rows written, T positions of a block, V vocabulary.

A folder holds `manifest.json`, `tokenizer.json` and shards `train-00000.safetensors`,
`val-00000.safetensors`, ... of at most 64 MiB. A shard holds `tokens` (N, T) int32; `lengths` (N,)
int32, the real tokens of each block, the rest being padding; and `documents` int64, the flat
offsets (row * T + column) at which documents begin. A block of T tokens labels T - 1 positions:
position t predicts token t + 1, and padding is never a label.
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Int, Int32, Int64
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from tightframe.corpus.tokenizer import load
from tightframe.errors import UserError
from tightframe.files import fingerprint, read_json, sha256, write_text

SCHEMA = 1
SPLITS = ("train", "val")
SHARD_TOKENS = 2**24  # 64 MiB of int32
_CHUNK_TOKENS = 2**20  # read at once where a whole split is gone through; memory only

# Where the text came from and what its folder is called don't make the tokens others.
_NOT_CONTENT = ("name", "source", "fingerprint")


@dataclasses.dataclass(frozen=True)
class TokenShards:
    """A tokenized corpus, verified when it is opened: every file has the manifest's SHA-256."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "TokenShards":
        """Open and verify a tokens folder; what is missing, damaged or changed is named."""
        path = Path(path)
        manifest = _read_manifest(path)
        tokenizer = {"file": "tokenizer.json", "sha256": manifest["tokenizer"]["sha256"]}
        shards = [shard for split in SPLITS for shard in manifest["splits"][split]["shards"]]
        for entry in [tokenizer, *shards]:
            _verify(path / entry["file"], entry["sha256"])
        return cls(path, manifest)

    @property
    def name(self) -> str:
        """Name of the folder when it was built."""
        return str(self.manifest["name"])

    @property
    def vocab_size(self) -> int:
        """V: every id is below it."""
        return int(self.manifest["vocab_size"])

    @property
    def block(self) -> int:
        """T: tokens of a block."""
        return int(self.manifest["block"])

    @property
    def end_of_text(self) -> int | None:
        """Id of the end-of-text token, if the tokenizer has one."""
        value = self.manifest["end_of_text"]
        return None if value is None else int(value)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the content: tokens, blocks, tokenizer, entropy floor.

        The same text and settings give the same digits wherever the folder is and whatever
        it is called.
        """
        return str(self.manifest["fingerprint"])

    @property
    def entropy_floor(self) -> dict[str, float] | None:
        """Nats per label token of the validation split that no model can beat, where known."""
        floor: dict[str, float] | None = self.manifest["entropy_floor"]
        return floor

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return load(self.path / "tokenizer.json")

    def split(self, name: str) -> "Split":
        """The rows of "train" or "val"."""
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
        self.n_tokens: int = entry["tokens"]  # padding left out
        self.n_labels: int = entry["labels"]  # positions 1.. of each block within its length
        self.n_bytes: int = entry["bytes"]  # UTF-8 bytes of the text that the tokens stand for
        self.fingerprint = fingerprint(
            [shards.manifest["tokenizer"]["sha256"], *(s["sha256"] for s in entry["shards"])]
        )
        # Mapped by safetensors' torch reader (its numpy one copies); as arrays, because a few rows
        # are gathered faster by numpy than by torch's threads.
        files = [
            safe_open(shards.path / shard["file"], framework="pt") for shard in entry["shards"]
        ]
        self._tokens = [file.get_tensor("tokens").numpy() for file in files]  # (N, T) each
        self._lengths = [file.get_tensor("lengths").numpy() for file in files]  # (N,)
        self._documents = [file.get_tensor("documents").numpy() for file in files]
        # Blocks before each shard, and in all.
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._tokens)])

    def __len__(self) -> int:
        return self.n_blocks

    def rows(
        self, indices: Sequence[int] | Int[np.ndarray, " B"] | Int[Tensor, " B"]
    ) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
        """Tokens and lengths of the blocks at `indices`, in their order; repeats are allowed."""
        asked = np.asarray(indices, dtype=np.int64)
        if asked.size and not 0 <= asked.min() <= asked.max() < self.n_blocks:
            raise ValueError(
                f"rows must lie in [0, {self.n_blocks}), got {asked.min()}..{asked.max()}"
            )
        shard_of = np.searchsorted(self._starts, asked, side="right") - 1
        tokens = np.empty((len(asked), self.block), dtype=np.int64)
        lengths = np.empty(len(asked), dtype=np.int64)
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            local = asked[here] - self._starts[shard]
            tokens[here] = self._tokens[shard][local]
            lengths[here] = self._lengths[shard][local]
        return torch.from_numpy(tokens), torch.from_numpy(lengths)

    def label_counts(self) -> Int64[Tensor, " V"]:
        """How often each token is a label: at positions 1.. of a block, within its length."""
        counts = torch.zeros(self.vocab_size, dtype=torch.int64)
        columns = torch.arange(1, self.block)
        step = max(1, _CHUNK_TOKENS // self.block)
        for start in range(0, self.n_blocks, step):
            tokens, lengths = self.rows(np.arange(start, min(start + step, self.n_blocks)))
            labels = tokens[:, 1:][columns < lengths[:, None]]
            counts += torch.bincount(labels, minlength=self.vocab_size)
        return counts

    def document_starts(self) -> Int64[Tensor, " documents"]:
        """Flat offsets (row * T + column) at which documents begin, in increasing order."""
        offsets = zip(self._documents, self._starts, strict=False)
        found = [documents + start * self.block for documents, start in offsets]
        return torch.from_numpy(np.concatenate(found))


class ShardWriter:
    """Writes the blocks of one split into numbered shards, holding at most one in memory."""

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
        # Bytes through Python: a full disk is then an OSError, which the caller names.
        path.write_bytes(safetensors.numpy.save(arrays))
        self._shards.append({"file": path.name, "blocks": len(lengths), "sha256": sha256(path)})
        self.n_blocks += len(lengths)
        self.n_documents += len(documents)
        self.n_tokens += int(lengths.sum(dtype=np.int64))
        self.n_labels += int((lengths - 1).sum(dtype=np.int64))
        self._pending, self._n_pending = [], 0


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with its schema and the fingerprint of its content."""
    content = {"schema": SCHEMA} | manifest
    content["fingerprint"] = _content_fingerprint(content)
    write_text(folder / "manifest.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _content_fingerprint(manifest: dict[str, Any]) -> str:
    return fingerprint({k: value for k, value in manifest.items() if k not in _NOT_CONTENT})


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it with `tightframe corpus build`")
    if not path.exists():
        raise UserError(
            f"{folder}: holds no manifest.json, so it is no tokens folder; "
            "make one with `tightframe corpus build`"
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise UserError(f"{path}: not a manifest of tokens; build the tokens again")
    if manifest["schema"] != SCHEMA:
        raise UserError(
            f"{path}: schema {manifest['schema']}, expected {SCHEMA}; build the tokens again"
        )
    if manifest.get("fingerprint") != _content_fingerprint(manifest):
        raise UserError(f"{path}: damaged or changed; build the tokens again")
    return manifest


def _verify(path: Path, expected: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: missing; copy the folder again or build the tokens again")
    if sha256(path) != expected:
        raise UserError(
            f"{path}: damaged or changed (its SHA-256 is not the manifest's); "
            "copy the folder again or build the tokens again"
        )
