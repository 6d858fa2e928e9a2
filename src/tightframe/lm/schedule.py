"""When things happen in a run: learning rate, checkpoints and the order of the rows, by step.

Everything is a function of the settings and the step, so that nothing of it has to be saved.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from tightframe.errors import UserError
from tightframe.lm.runs import TrainSettings

WARMUP = 200  # steps, where nothing else is said; of a short run a tenth


@runtime_checkable
class RateSettings(Protocol):
    """The settings of a learning rate; `lm.recipes.TrainSettings` says what each is."""

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def schedule(self) -> str: ...  # noqa: D102
    @property
    def warmup(self) -> float | None: ...  # noqa: D102
    @property
    def final_rate(self) -> float: ...  # noqa: D102


def warmup_steps(settings: RateSettings, steps: int) -> int:
    """Return the steps before the peak of the learning rate, in a run of so many."""
    if settings.warmup is None:
        return min(WARMUP, steps // 10)
    return round(settings.warmup * steps if settings.warmup < 1 else settings.warmup)


def learning_rate(settings: RateSettings, step: int, *, steps: int) -> float:
    """The rate of the update that follows `step` of `steps` updates.

    It climbs to the peak in equal parts, (step + 1) / (warmup_steps + 1), then decays from 1 at
    the end of the warm-up to `final_rate` at the end of the run, which no update reaches: without
    warm-up, `linear` is transformers' rule.
    """
    peak, floor, warmup = settings.learning_rate, settings.final_rate, warmup_steps(settings, steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    left = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
    }[settings.schedule]
    return peak * (floor + (1 - floor) * left)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of a run over `n_rows` rows of tokens."""

    settings: TrainSettings
    n_rows: int

    def __post_init__(self) -> None:
        late = [step for step in self.settings.checkpoint_steps if step > self.steps]
        if late:
            raise UserError(
                f"checkpoint_steps holds {late[0]}, but the run has {self.steps} steps "
                f"({self.settings.epochs:g} epochs of {self.epoch_steps}); leave it out, or train "
                "longer"
            )

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch; the last one takes what is left over."""
        return math.ceil(self.n_rows / self.settings.batch)

    @property
    def steps(self) -> int:
        """Optimizer updates of the whole run."""
        return self._step(self.settings.epochs)

    @property
    def warmup_steps(self) -> int:
        """Steps before the peak of the learning rate."""
        return warmup_steps(self.settings, self.steps)

    @property
    def checkpoints(self) -> frozenset[int]:
        """Steps after which the model is kept and validated; the end is always one."""
        by_epoch = (self._step(epoch) if epoch else 0 for epoch in self.settings.checkpoints)
        return frozenset({*by_epoch, *self.settings.checkpoint_steps, self.steps})

    def epoch(self, step: int) -> float:
        """Passes over the training split after `step` updates."""
        return step / self.epoch_steps

    def learning_rate(self, step: int) -> float:
        """The rate of the update that follows `step` updates."""
        return learning_rate(self.settings, step, steps=self.steps)

    def order(self, epoch: int) -> Int[np.ndarray, " rows"]:
        """The permutation of the rows in one epoch (from 0); each has its own generator."""
        generator = np.random.default_rng([self.settings.order_seed, epoch])
        return generator.permutation(self.n_rows)

    def batches(self, step: int) -> Iterator[Int[np.ndarray, " B"]]:
        """The rows of each update that follows `step` updates, to the end of the run."""
        order = None
        for following in range(step, self.steps):
            epoch, index = divmod(following, self.epoch_steps)
            if order is None or index == 0:
                order = self.order(epoch)
            yield order[index * self.settings.batch :][: self.settings.batch]

    def _step(self, epoch: float) -> int:
        return max(1, round(epoch * self.epoch_steps))
