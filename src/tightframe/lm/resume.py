"""States to go on from: weights, optimizer and progress of an unfinished run.

A state is one safetensors file with a digest of its content, so that it is either whole or refused.
It is written before the one before it is removed: at any moment there is one to go on from.
"""

import dataclasses
import shutil
from pathlib import Path

import torch
from torch import Tensor

from tightframe.errors import UserError
from tightframe.formats import Count, Record, TensorFormat
from tightframe.lm.adamw import AdamW


@dataclasses.dataclass
class Progress:
    """How far a run has come."""

    sums: Tensor  # (3,) float64, since the last record: losses, gradient norms, updates
    step: int = 0  # batches seen
    tokens: int = 0  # labelled positions trained on
    seconds: float = 0.0  # of training, without validation and saving
    cpu_seconds: float = 0.0  # of this process' threads in the same time


class ProgressFacts(Record):
    """The numbers of a `Progress`."""

    step: Count
    tokens: Count
    seconds: float
    cpu_seconds: float


FORMAT: TensorFormat[ProgressFacts] = TensorFormat(
    "a state of a training",
    ProgressFacts,
    {"*": "*float* ..."},
    remedy="remove it, and the run starts from an earlier state or anew",
)


def save_state(folder: Path, optimizer: AdamW, progress: Progress) -> None:
    """Write a state of what is trained, then remove the earlier ones."""
    numbers = {name: getattr(progress, name) for name in ProgressFacts.model_fields}
    earlier = _states(folder)
    path = folder / f"step-{progress.step}.safetensors"
    FORMAT.write(path, _tensors(optimizer, progress), numbers)
    for state in earlier:
        if state != path:
            state.unlink()


def load_state(folder: Path, optimizer: AdamW, progress: Progress) -> bool:
    """Put the newest state into the parameters, optimizer and progress; False if there is none."""
    states = _states(folder)
    if not states:
        return False
    found, numbers = FORMAT.read(states[-1])
    ours = _tensors(optimizer, progress)
    shapes, expected = ({n: x.shape for n, x in each.items()} for each in (found, ours))
    if shapes != expected:
        raise UserError(f"{states[-1]}: is of another model; {FORMAT.remedy}")
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(found[name])
    for name, value in numbers:
        setattr(progress, name, value)
    return True


def _tensors(optimizer: AdamW, progress: Progress) -> dict[str, Tensor]:
    """What is trained, the optimizer's state and the sums: the tensors themselves."""
    weights = {f"weight.{name}": value.detach() for name, value in optimizer.parameters.items()}
    return weights | optimizer.state() | {"sums": progress.sums}


def clear(folder: Path) -> None:
    """Remove the states of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    """The states, oldest first."""
    return sorted(folder.glob("step-*.safetensors"), key=lambda path: int(path.stem.split("-")[1]))
