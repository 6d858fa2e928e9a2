"""Checkpoints of a model as the theory sees it, many in one file: classifier and embeddings each.

Axes: V tokens that may follow, M distinct contexts, D embedding.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Float32

from tightframe.errors import UserError
from tightframe.files import whole_file


class ModelCheckpoint(NamedTuple):
    """A model at a step; its logits are `classifier @ embeddings.T`."""

    step: int  # optimizer updates taken
    classifier: Float32[np.ndarray, "V D"]  # rows of the table's tokens
    embeddings: Float32[np.ndarray, "M D"]  # of the table's contexts, in their order

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """In float64: products of float32 would hide the last digits of a small loss."""
        logits: Float[np.ndarray, "V M"] = self.classifier.astype(float) @ self.embeddings.T
        return logits


def save_model_checkpoints(
    path: Path, checkpoints: Sequence[ModelCheckpoint], about: Mapping[str, Any]
) -> None:
    """Write a safetensors file whole; `about` (plain values) is its metadata."""
    tensors = {}
    for checkpoint in checkpoints:
        tensors[f"step-{checkpoint.step}.classifier"] = checkpoint.classifier
        tensors[f"step-{checkpoint.step}.embeddings"] = checkpoint.embeddings
    with whole_file(path) as temporary:
        temporary.write_bytes(
            safetensors.numpy.save(tensors, metadata={"about": json.dumps(about)})
        )


def load_model_checkpoints(path: Path) -> tuple[list[ModelCheckpoint], dict[str, Any]]:
    """The checkpoints of a file by step, and what is known about them."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; train the model first")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        steps = sorted({int(name.split(".")[0].removeprefix("step-")) for name in tensors})
        checkpoints = [
            ModelCheckpoint(
                step, tensors[f"step-{step}.classifier"], tensors[f"step-{step}.embeddings"]
            )
            for step in steps
        ]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: damaged, or not checkpoints of a model; remove it") from None
    return checkpoints, about
