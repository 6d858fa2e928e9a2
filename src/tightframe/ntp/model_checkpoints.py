"""Checkpoints of a model as the theory sees it, many in one file: classifier and embeddings each.

Axes: V tokens that may follow, M distinct contexts, D embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from tightframe.errors import UserError
from tightframe.formats import TensorFormat


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


FORMAT: TensorFormat[dict[str, Any]] = TensorFormat(
    "checkpoints of a model",
    dict[str, Any],
    {"step-*.classifier": "float32 V D", "step-*.embeddings": "float32 M D"},
    remedy="remove it, and train again",
)


def save_model_checkpoints(
    path: Path, checkpoints: Sequence[ModelCheckpoint], about: Mapping[str, Any]
) -> None:
    """Write a file whole or not at all; `about` (plain values) is what is known of the model."""
    tensors = {}
    for checkpoint in checkpoints:
        tensors[f"step-{checkpoint.step}.classifier"] = checkpoint.classifier
        tensors[f"step-{checkpoint.step}.embeddings"] = checkpoint.embeddings
    FORMAT.write(path, tensors, dict(about))


def load_model_checkpoints(path: Path) -> tuple[list[ModelCheckpoint], dict[str, Any]]:
    """The checkpoints of a file by step, and what is known about them."""
    tensors, about = FORMAT.read(path)
    try:
        steps = sorted({int(name.split(".")[0].removeprefix("step-")) for name in tensors})
        checkpoints = [
            ModelCheckpoint(
                step,
                tensors[f"step-{step}.classifier"].numpy(),
                tensors[f"step-{step}.embeddings"].numpy(),
            )
            for step in steps
        ]
    except (KeyError, ValueError):
        raise UserError(f"{path}: holds half a checkpoint; {FORMAT.remedy}") from None
    return checkpoints, about
