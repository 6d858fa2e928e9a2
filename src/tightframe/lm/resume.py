"""States to go on from: weights, optimizer and progress of an unfinished run.

A state is one safetensors file whose name holds its SHA-256, so that it is either whole or refused.
It is written before the one before it is removed: at any moment there is one to go on from.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from tightframe.errors import UserError
from tightframe.files import sha256, whole_file
from tightframe.lm.adamw import AdamW

DIGITS = 16  # of the SHA-256 in a file's name
NUMBERS = ("step", "tokens", "seconds", "cpu_seconds")  # of the progress


@dataclasses.dataclass
class Progress:
    """How far a run has come."""

    sums: Tensor  # (3,) float64, since the last record: losses, gradient norms, updates
    step: int = 0  # batches seen
    tokens: int = 0  # labelled positions trained on
    seconds: float = 0.0  # of training, without validation and saving
    cpu_seconds: float = 0.0  # of this process' threads in the same time


def save_state(folder: Path, optimizer: AdamW, progress: Progress) -> None:
    """Write a state of what is trained, then remove the earlier ones."""
    weights = {f"weight.{name}": value.detach() for name, value in optimizer.parameters.items()}
    numbers = {name: getattr(progress, name) for name in NUMBERS}
    content = safetensors.torch.save(
        weights | optimizer.state() | {"sums": progress.sums},
        metadata={"progress": json.dumps(numbers)},
    )
    digest = hashlib.sha256(content).hexdigest()[:DIGITS]
    earlier = _states(folder)
    path = folder / f"step-{progress.step}-{digest}.safetensors"
    with whole_file(path) as temporary:
        temporary.write_bytes(content)  # by Python, so that a full disk is an OSError
    for state in earlier:
        if state != path:
            state.unlink()


def load_state(folder: Path, optimizer: AdamW, progress: Progress) -> bool:
    """Put the newest state into the parameters, optimizer and progress; False if there is none.

    The tensors are copied: those of a file are unaligned, and bits may depend on alignment.
    """
    states = _states(folder)
    if not states:
        return False
    path = states[-1]
    if sha256(path)[:DIGITS] != path.stem.rpartition("-")[2]:
        raise UserError(
            f"{path}: truncated or altered (its name is not its SHA-256); "
            "remove it, and the run starts from an earlier state or anew"
        )
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = json.loads(file.metadata()["progress"])
    with torch.no_grad():
        for name, parameter in optimizer.parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
    optimizer.restore(tensors)
    progress.sums.copy_(tensors["sums"])
    for name in NUMBERS:
        setattr(progress, name, numbers[name])
    return True


def clear(folder: Path) -> None:
    """Remove the states of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    """The states, oldest first."""
    return sorted(folder.glob("step-*-*.safetensors"), key=lambda p: int(p.name.split("-")[1]))
