"""States on disk: one safetensors file each, whole or not at all, that tells when it is damaged."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tightframe.errors import UserError
from tightframe.files import whole_file

SCHEMA = 1


def save_state(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Any) -> None:
    """Write the tensors of a state, and JSON-able `facts` in the file's metadata."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "kind": kind,
        "schema": str(SCHEMA),
        "version": version("tightframe"),
        "facts": json.dumps(facts, sort_keys=True),
    }
    metadata["sha256"] = _digest(plain, metadata["facts"])
    with whole_file(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # not an OSError, even where the disk is full
            raise UserError(f"{path}: cannot be written ({error}); is the disk full?") from None


def load_state(path: Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors and facts of a state; a file that is anything else is refused in one line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; measure first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it is damaged, measure again") from None
    found = metadata.get("kind", "something else")
    if found != kind:
        raise UserError(f"{path}: holds {found}, expected {kind}")
    if metadata.get("schema") != str(SCHEMA):
        raise UserError(
            f"{path}: schema {metadata.get('schema')} (tightframe {metadata.get('version')}), "
            f"expected {SCHEMA}; measure again"
        )
    facts = metadata.get("facts", "")
    if metadata.get("sha256") != _digest(tensors, facts):
        raise UserError(f"{path}: its content has changed since it was written; measure again")
    return tensors, json.loads(facts)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
