"""A model in a folder: model.safetensors, and config.json that says what it is. No code, no pickle.

config.json holds the SHA-256 of the weights and a fingerprint of itself: a damaged or altered
folder is refused.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import fingerprint, sha256, whole_folder
from tightframe.formats import read_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_weights(folder: Path, model: nn.Module, content: dict[str, Any]) -> None:
    """Write a new folder with the weights and `content`, which has a `format`."""
    with whole_folder(folder) as temporary:
        weights = temporary / WEIGHTS
        tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
        # Bytes through Python: a full disk is then an OSError, which whole_folder names.
        weights.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        content = content | {"sha256": sha256(weights)}
        content["fingerprint"] = fingerprint(content)
        (temporary / CONFIG).write_text(json.dumps(content, indent=2), encoding="utf-8")


def load_content(folder: Path, *, format: str) -> dict[str, Any]:
    """What config.json says of the weights beside it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    path = folder / CONFIG
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != format:
        raise UserError(f"{path}: not a checkpoint of tightframe; expected format {format}")
    if content.pop("fingerprint", None) != fingerprint(content):
        raise UserError(f"{path}: altered since it was written; use another checkpoint")
    return content


def fill(model: nn.Module, tensors: dict[str, Tensor], *, source: Path | str) -> None:
    """Give a model on the meta device a copy of these weights; `source` is named in errors.

    Tensors of a mapped file are aligned otherwise than torch's own, which changes the last bits
    of products; the copy gives the bits of the model that was saved.
    """
    copies = {name: value.clone() for name, value in tensors.items()}
    try:
        model.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        reason = str(error).split("\n\t")[1]  # the first line says only that there is one
        raise UserError(f"{source}: the weights don't fit config.json: {reason}") from None


def read_tensors(path: Path, *, digest: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose SHA-256 must be `digest` if one is given."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the checkpoint is incomplete")
    if digest is not None and sha256(path) != digest:
        raise UserError(f"{path}: truncated or altered (sha256 differs); use another checkpoint")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); copy or make it again"
        ) from None
    return tensors
