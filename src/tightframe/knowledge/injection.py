"""Facts into a model: the course of its lessons, from its start to a learner that can be asked."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.knowledge.benchmark import load_benchmark, write_facts
from tightframe.knowledge.clusters import facts_fingerprint
from tightframe.knowledge.exchanges import Lesson
from tightframe.knowledge.facts import Fact
from tightframe.knowledge.injection_runs import (
    FACTS,
    InjectionRun,
    InjectSettings,
    choose_facts,
    facts_digest,
)
from tightframe.knowledge.learners import Learner
from tightframe.knowledge.lessons import Budget, Stream
from tightframe.knowledge.starts import load, start
from tightframe.lm import hardware, optimizer
from tightframe.lm.interface import Batch, Example, collate
from tightframe.lm.options import learning_rate, warmup_steps
from tightframe.lm.training import Hook, Loop, made_by, say

__all__ = [
    "InjectSettings",
    "InjectionRun",
    "choose_facts",
    "inject",
    "load_learner",
    "load_untouched",
]

ENCODED = 2**18  # lessons whose tokens are kept; memory only, never the result


def inject(settings: InjectSettings, *, hooks: Sequence[Hook] = ()) -> InjectionRun:
    """Train a model on facts, or go on with a run that was interrupted.

    On a CPU an interrupted run ends with the bits of an uninterrupted one; a finished one is left
    alone.

    Args:
        settings: Of the run; the same ones go on with it.
        hooks: Called with each record of the log.
    """
    facts = choose_facts(load_benchmark(settings.data), settings)
    there = (settings.out / "config.toml").exists()
    earlier = InjectionRun.open(settings.out) if there else None
    settings = hardware.choose(settings, earlier.settings if earlier else None)
    with exclusive(settings.out, what="run"), hardware.prepared(settings.threads):
        course = _Injection(settings, facts)
        warmup = warmup_steps(settings, course.steps)
        if course.steps <= warmup:
            raise UserError(
                f"{settings.out}: its {course.steps:,} steps end within the {warmup:,} of the "
                "warm-up, so that little is learnt; give more exposures, or warmup=0.1"
            )
        run = InjectionRun.claim(settings, course.facts())
        if not (run.path / FACTS).exists():
            write_facts(run.path / FACTS, facts)
        if run.finished:
            say(f"{run.path}: is finished already")
        else:
            Loop(run, settings, course, hooks=hooks).finish()
        optimizer.clear_states(run.resume_folder)
    return run


def load_learner(path: str | Path, *, step: int | None = None, device: str = "auto") -> Learner:
    """The trained model of an injection run, ready to be asked.

    Args:
        path: The run directory.
        step: Of the checkpoint; the last one if None.
        device: "cpu", "cuda", or what there is.
    """
    run = InjectionRun.open(path)
    learner = load(run.checkpoint(run.kept(step)))
    learner.module.to(hardware.device_named(device)).eval()
    learner.name = run.name
    return learner


def load_untouched(
    source: str | Path, *, device: str = "auto", paper_format: bool = False
) -> Learner:
    """Load a model of transformers without any injection: what injected ones are compared with.

    Args:
        source: A folder, or a name on the hub.
        device: "cpu", "cuda", or what there is.
        paper_format: Ask as published, without its chat template.
    """
    from tightframe.knowledge.hub_learners import load_hub_learner

    there = hardware.device_named(device)
    return load_hub_learner(source, device=there, paper_format=paper_format or None)


class _Injection:
    """A course through the lessons."""

    def __init__(self, settings: InjectSettings, facts: Sequence[Fact]):
        self.settings = settings
        self.injected = facts
        # The objective of a model of transformers depends on its kind: it is loaded first.
        self.learner, self.objective = start(settings, facts)
        self.learner.module.to(settings.device).train()
        self.stream = Stream(
            facts,
            settings.exposures,
            objective=self.objective,
            seed=settings.seed,
            max_span=settings.max_span,
            wordings=settings.wordings,
            qa_ratio=settings.qa_ratio,
        )
        self.encode = lru_cache(ENCODED)(self.learner.encode)
        # One that is too long is refused before any training.
        sizes = [_size(self._encoded(lesson)) for lesson in self.stream.distinct]
        self.batch: int | Budget = settings.batch
        if settings.batch_tokens:
            self.batch = Budget(settings.batch_tokens, np.array(sizes))
        self.steps = self.stream.n_batches(self.batch)
        self.checkpoints = frozenset(
            {self._step(exposures) for exposures in settings.checkpoints} | {self.steps}
        )

    @property
    def module(self) -> nn.Module:
        return self.learner.module

    def facts(self) -> dict[str, Any]:
        """The first line of the log."""
        trained = [p.numel() for p in self.module.parameters() if p.requires_grad]
        return {
            "data": facts_fingerprint(self.injected),
            "facts": facts_digest(self.injected),
            "n_facts": len(self.injected),
            "objective": self.objective,
            "stream": self.stream.digest,
            "lessons": len(self.stream),
            "steps": self.steps,
            "n_parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "n_trained": sum(trained),
            **made_by(),
        }

    def learning_rate(self, step: int) -> float:
        return learning_rate(self.settings, step, steps=self.steps)

    def batches(self, step: int) -> Iterator[Batch]:
        for lessons in self.stream.batches(self.batch, first=step):
            yield collate([self._encoded(lesson) for lesson in lessons], pad=self.learner.pad)

    def loss(self, batch: Batch, step: int) -> Float[Tensor, ""]:
        # Dropout, where a model has some, is drawn from the step: a resumed run draws the same.
        device = self.settings.device
        with torch.random.fork_rng(devices=[device] if device == "cuda" else []):
            torch.manual_seed(self.settings.seed * 1_000_003 + step)
            return self.learner.loss(batch)

    def keep(self, folder: Path) -> dict[str, Any]:
        self.learner.save(folder)
        return {}

    def place(self, step: int) -> dict[str, Any]:
        return {"exposures": round(self.settings.exposures * step / self.steps, 3)}

    def _encoded(self, lesson: Lesson) -> Example:
        example: Example = self.encode(lesson)
        return example

    def _step(self, exposures: int) -> int:
        return max(1, round(self.steps * exposures / self.settings.exposures))


def _size(example: Example) -> int:
    """Tokens of a row, those of an encoder's among them."""
    return len(example.inputs) + len(example.source)
