"""States on disk: one safetensors file each, whole or not at all, that tells when it is damaged."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tightframe.errors import UserError
from tightframe.files import disk_error, whole_file

SCHEMA = 2


def save_state(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Any) -> None:
    """Write the tensors of a state, and JSON-able `facts` in the file's metadata.

    Equal states give equal bytes: the metadata is one entry, since safetensors writes several in
    any order.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: dict[str, Any] = {
        "kind": kind,
        "schema": SCHEMA,
        "version": version("tightframe"),
        "facts": facts,
    }
    content["sha256"] = _digest(plain, facts)
    metadata = {"tightframe": json.dumps(content, sort_keys=True)}
    with whole_file(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:
            raise disk_error(error) from None


def load_state(
    path: Path, kind: str, *, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], Any]:
    """The tensors and facts of a state; a file that is anything else is refused in one line."""
    with _open(path) as file:
        content = _content(file)
        # Copies: mapped memory is aligned otherwise, which can change the last bits of products.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    found = content.get("kind", "something else")
    if found != kind:
        raise UserError(f"{path}: holds {found}, expected {kind}")
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: schema {content.get('schema')} (tightframe {content.get('version')}), "
            f"expected {SCHEMA}; measure again"
        )
    facts = content.get("facts")
    if content.get("sha256") != _digest(tensors, facts):
        raise UserError(f"{path}: its content has changed since it was written; measure again")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, facts


def facts_of(path: Path) -> Any:
    """The facts of a state, without its tensors."""
    with _open(path) as file:
        return _content(file).get("facts")


def kind_of(path: Path) -> str:
    """Which kind of state a file says that it holds."""
    with _open(path) as file:
        return str(_content(file).get("kind", "something else"))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; measure first")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it is damaged, measure again") from None


def _content(file: Any) -> dict[str, Any]:
    """What the file says of itself; nothing, if it is none of ours or an older one."""
    metadata = file.metadata() or {}
    try:
        content = json.loads(metadata.get("tightframe", "{}"))
    except json.JSONDecodeError:
        content = {}
    return metadata | (content if isinstance(content, dict) else {})


def _digest(tensors: Mapping[str, Tensor], facts: Any) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
