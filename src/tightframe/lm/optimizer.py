"""AdamW by torch's fused kernel, and the states that an unfinished run resumes from.

torch's own `Optimizer` class imports the compiler when it is first made, which takes a second of
every run. What is kept of a parameter has a name here, so that a state of the run is a dictionary
of tensors.

A state holds weights, optimizer and progress in one safetensors file with a digest of its content:
it is either whole or refused. It is written before the previous one is removed, so that there is
always one to resume from.
"""

import dataclasses
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tightframe.errors import UserError
from tightframe.formats import Count, Record, TensorFormat


class AdamW:
    """AdamW that decays matrices and embeddings, as `Trainer` does, but not biases and norms.

    Args:
        model: Its parameters that require gradients are updated in place, from them.
        betas: Decay of the running means of gradients and of their squares.
        eps: Added to the root of the second mean.
        weight_decay: A step takes `learning_rate * weight_decay` of a weight away.
    """

    def __init__(
        self, model: nn.Module, *, betas: tuple[float, float], eps: float, weight_decay: float
    ):
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.steps = {name: p.new_zeros(()) for name, p in self.parameters.items()}

    def update(self, learning_rate: float) -> None:
        """Take one step along the gradients, then drop them; a parameter without one stays."""
        given = {n: p for n, p in self.parameters.items() if p.grad is not None}
        decayed = [name for name, parameter in given.items() if parameter.ndim >= 2]
        others = [name for name, parameter in given.items() if parameter.ndim < 2]
        for names, weight_decay in ((decayed, self.weight_decay), (others, 0.0)):
            gradients = [self.parameters[name].grad for name in names]
            with torch.no_grad():
                adamw(
                    [self.parameters[name] for name in names],
                    [gradient for gradient in gradients if gradient is not None],
                    [self.first[name] for name in names],
                    [self.second[name] for name in names],
                    [],
                    [self.steps[name] for name in names],
                    fused=True,
                    amsgrad=False,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    lr=learning_rate,
                    weight_decay=weight_decay,
                    eps=self.eps,
                    maximize=False,
                )
        for parameter in self.parameters.values():
            parameter.grad = None

    def sum_over_processes(self, loss: Tensor, stop: bool) -> tuple[Tensor, bool]:
        """Sum the gradients of all processes in one exchange, and their losses.

        Returns:
            The sum of the losses, and whether any process wants to stop.
        """
        parameters = list(self.parameters.values())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sizes = [part.numel() for part in parts]
        numbers = torch.stack([loss.detach().float(), loss.new_tensor(stop, dtype=torch.float32)])
        joined = torch.cat([*(part.flatten() for part in parts), numbers])
        dist.all_reduce(joined)
        *gradients, (loss, stops) = joined.split([*sizes, 2])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return loss, bool(stops > 0)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves that a training resumes from."""
        return {
            f"{kind}.{name}": value
            for kind, kept in self._kept().items()
            for name, value in kept.items()
        }

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        return {"first": self.first, "second": self.second, "steps": self.steps}


@dataclasses.dataclass
class TrainingProgress:
    """Counters of how far a run has come."""

    sums: Tensor  # (3,) float64, since the last record: losses, gradient norms, updates
    kept: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # what the task adds, by name
    step: int = 0  # batches seen
    tokens: int = 0  # labelled positions trained on
    seconds: float = 0.0  # of training, without validation and saving
    cpu_seconds: float = 0.0  # of this process' threads in the same time


class TrainingProgressFacts(Record):
    """The numbers of a `TrainingProgress`."""

    step: Count
    tokens: Count
    seconds: float
    cpu_seconds: float


FORMAT: TensorFormat[TrainingProgressFacts] = TensorFormat(
    "a state of a training",
    TrainingProgressFacts,
    {"*": "*float* ..."},
    remedy="remove it, and the run starts from an earlier state or anew",
)


def save_state(folder: Path, optimizer: AdamW, progress: TrainingProgress) -> None:
    """Write a state of what is trained, then remove the earlier ones."""
    numbers = {name: getattr(progress, name) for name in TrainingProgressFacts.model_fields}
    earlier = _states(folder)
    path = folder / f"step-{progress.step}.safetensors"
    FORMAT.write(path, _tensors(optimizer, progress), numbers)
    for state in earlier:
        if state != path:
            state.unlink()


def load_state(folder: Path, optimizer: AdamW, progress: TrainingProgress) -> bool:
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


def _tensors(optimizer: AdamW, progress: TrainingProgress) -> dict[str, Tensor]:
    """Return the weights, the optimizer's state and the sums: the tensors themselves."""
    weights = {f"weight.{name}": value.detach() for name, value in optimizer.parameters.items()}
    return weights | optimizer.state() | progress.kept | {"sums": progress.sums}


def clear_states(folder: Path) -> None:
    """Remove the states of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    """Return the states, oldest first."""
    return sorted(folder.glob("step-*.safetensors"), key=lambda path: int(path.stem.split("-")[1]))
