"""A model in a folder: model.safetensors, and config.json that says what it is. No code, no pickle.

config.json holds the SHA-256 of the weights and a fingerprint of itself: a damaged or altered
folder is refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import whole_folder
from tightframe.formats import Record, Sha256, read_json, read_signed, write_listed, write_signed

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
REMEDY = "use another checkpoint"


class Content(Record):
    """What config.json says of the weights beside it."""

    format: str
    name: str
    sha256: Sha256  # of the weights
    fingerprint: str
    model: dict[str, Any]  # what the model is, by the class that `format` names


def save_weights(folder: Path, model: nn.Module, *, format: str, name: str, config: Any) -> None:
    """Write a new folder with the weights and what they are; `config` is a dataclass."""
    with whole_folder(folder) as temporary:
        content = {
            "format": format,
            "name": name,
            "model": dataclasses.asdict(config),
            "sha256": write_listed(temporary / WEIGHTS, model.state_dict()),
        }
        write_signed(temporary / CONFIG, content)


def load_content(folder: Path, *, format: str) -> Content:
    """What config.json says of the weights beside it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    path = folder / CONFIG
    if (found := read_json(path, dict[str, Any], remedy=REMEDY).get("format")) != format:
        raise UserError(f"{path}: holds {found!a}, expected a checkpoint of tightframe, {format}")
    content: Content = read_signed(path, Content, remedy=REMEDY)
    return content


def digest_of_weights(folder: Path) -> str:
    """Return the SHA-256 that a checkpoint's config.json lists: which weights it holds."""
    content: Content = read_signed(folder / CONFIG, Content, remedy=REMEDY)
    return content.sha256


def fill(model: nn.Module, tensors: dict[str, Tensor], *, source: Path | str) -> None:
    """Give a model on the meta device a copy of these weights; `source` is named in errors.

    Tensors of a mapped file are aligned otherwise than torch's own, which changes the last bits
    of products; the copy gives the bits of the model that was saved.
    """
    for name, value in model.state_dict().items():
        if name in tensors and tensors[name].shape != value.shape:
            raise UserError(
                f"{source}: the weights don't fit config.json: {name} is "
                f"{list(tensors[name].shape)}, expected {list(value.shape)}; {REMEDY}"
            )
    copies = {name: value.clone() for name, value in tensors.items()}
    try:
        model.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        reason = str(error).split("\n\t")[1]  # the first line says only that there is one
        raise UserError(f"{source}: the weights don't fit config.json: {reason}") from None
