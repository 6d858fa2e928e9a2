"""What a tokens folder says of itself, and whether its files are still what it says."""

from pathlib import Path
from typing import Any, Literal

from tightframe.errors import UserError
from tightframe.formats import (
    Count,
    FileName,
    Positive,
    Record,
    Sha256,
    read_signed,
    write_signed,
)

SCHEMA: Literal[1] = 1
REMEDY = "copy the folder again or build the tokens again"

# Where the text came from and what its folder is called don't make the tokens others.
_NOT_CONTENT = ("name", "source")


class Shard(Record):
    """A file of a split."""

    file: FileName
    blocks: Positive
    sha256: Sha256


class SplitEntry(Record):
    """Counts and shards of a split."""

    documents: Count
    tokens: Count
    labels: Count
    bytes: Count
    blocks: Count
    shards: list[Shard]


class TokenizerEntry(Record):
    """The tokenizer's kind and the digest of its file."""

    kind: str
    sha256: Sha256


class Splits(Record):
    """The entries of both splits."""

    train: SplitEntry
    val: SplitEntry


class TokensManifest(Record):
    """The content of `manifest.json`."""

    revision: Literal[1]
    name: str
    source: dict[str, Any]
    blocks: str
    block: Positive
    vocab_size: Positive
    end_of_text: Count | None
    bos: Count | None
    tokenizer: TokenizerEntry
    splits: Splits
    entropy_floor: dict[str, float] | None
    fingerprint: str


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with the fingerprint of its content."""
    content = {"revision": SCHEMA, "bos": None, **manifest}
    write_signed(folder / "manifest.json", content, besides=_NOT_CONTENT)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest; one that is missing, damaged or changed is refused by name."""
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it with `tightframe corpus build`")
    if not path.exists():
        raise UserError(
            f"{folder}: holds no manifest.json, so it is no tokens folder; "
            "make one with `tightframe corpus build`"
        )
    manifest: TokensManifest = read_signed(
        path, TokensManifest, besides=_NOT_CONTENT, remedy=REMEDY
    )
    content: dict[str, Any] = manifest.model_dump()
    return content
