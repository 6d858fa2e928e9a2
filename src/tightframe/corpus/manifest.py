"""What a tokens folder says of itself, and whether its files are still what it says."""

import json
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.files import fingerprint, sha256, write_text
from tightframe.formats import read_json

SCHEMA = 1

# Where the text came from and what its folder is called don't make the tokens others.
_NOT_CONTENT = ("name", "source", "fingerprint")


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` with its schema and the fingerprint of its content."""
    content = {"schema": SCHEMA} | manifest
    content["fingerprint"] = _content_fingerprint(content)
    write_text(folder / "manifest.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _content_fingerprint(manifest: dict[str, Any]) -> str:
    content = {k: value for k, value in manifest.items() if k not in _NOT_CONTENT}
    if content.get("bos") is None:  # says what its absence says in older folders
        content.pop("bos", None)
    return fingerprint(content)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a tokens folder says of itself; a missing, damaged or changed one is named."""
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


def verify(path: Path, expected: str) -> None:
    """Refuse a file that is missing, or has another SHA-256 than the manifest says."""
    if not path.exists():
        raise UserError(f"{path}: missing; copy the folder again or build the tokens again")
    if sha256(path) != expected:
        raise UserError(
            f"{path}: damaged or changed (its SHA-256 is not the manifest's); "
            "copy the folder again or build the tokens again"
        )
