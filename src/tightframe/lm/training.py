"""Training our Transformer on the tokens of a corpus, by next-token prediction."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tightframe.corpus.tokens import TokenShards
from tightframe.files import exclusive
from tightframe.lm import hardware, resume
from tightframe.lm.evaluation import evaluate
from tightframe.lm.interface import Batch
from tightframe.lm.loop import Hook, Loop, StepHook, made_by, say
from tightframe.lm.loss import cross_entropy
from tightframe.lm.objectives import next_token
from tightframe.lm.recipes import TrainSettings
from tightframe.lm.runs import Run
from tightframe.lm.schedule import Schedule
from tightframe.lm.sizes import config_of
from tightframe.lm.transformer import Transformer, save_checkpoint

__all__ = ["Hook", "TrainSettings", "train"]


def train(
    settings: TrainSettings, *, hooks: Sequence[Hook] = (), step_hooks: Sequence[StepHook] = ()
) -> Run:
    """Train a model, or go on with a run that was interrupted; a finished one is left alone.

    On a CPU an interrupted run ends with the bits of an uninterrupted one.

    Args:
        settings: Of the run; the same ones go on with it.
        hooks: Called with each record of the log.
        step_hooks: Called at each step, e.g. `CollapseCallback(...).step`.
    """
    shards = TokenShards.open(settings.tokens)
    earlier = Run.open(settings.out) if (settings.out / "config.toml").exists() else None
    settings = hardware.choose(settings, earlier.settings if earlier else None)
    course = _Corpus(settings, shards)
    with exclusive(settings.out, what="run"), hardware.prepared(settings.threads):
        run = Run.claim(settings, course.facts())
        if run.finished:
            say(f"{run.path}: is finished already")
        else:
            Loop(run, settings, course, hooks=hooks, step_hooks=step_hooks).finish()
        resume.clear(run.resume_folder)
    return run


class _Corpus:
    """A course through the blocks of a corpus, a new order each epoch."""

    def __init__(self, settings: TrainSettings, shards: TokenShards):
        self.shards = shards
        self.split = shards.split("train")
        self.schedule = Schedule(settings, self.split.n_blocks)
        config = config_of(settings, shards.vocab_size, shards.block)
        rows = min(settings.batch, self.split.n_blocks)
        needed = config.training_bytes(rows)
        hardware.check_memory(needed, settings.device, what=config.sizes)
        self.module = Transformer(config, seed=settings.seed, name=settings.out.resolve().name)
        self.module.to(settings.device)
        self.steps = self.schedule.steps
        self.checkpoints = self.schedule.checkpoints
        self.learning_rate = self.schedule.learning_rate

    def facts(self) -> dict[str, Any]:
        """The first line of the log."""
        return {
            "tokens": self.shards.fingerprint,
            "tokens_name": self.shards.name,
            "steps": self.steps,
            "n_parameters": self.module.n_parameters,
            **made_by(),
        }

    def batches(self, step: int) -> Iterator[Batch]:
        for rows in self.schedule.batches(step):
            yield next_token(*self.split.rows(rows))

    def loss(self, batch: Batch, step: int) -> Float[Tensor, ""]:
        embeddings = self.module.embed(batch).flatten(0, 1)
        targets = batch.targets.flatten()
        return cross_entropy(embeddings, self.module.classifier, self.module.bias, targets)

    def keep(self, folder: Path) -> dict[str, Any]:
        """Validate, in float32, and keep the model."""
        found = evaluate(self.module, self.shards.split("val"))
        record = {
            "val_loss": found.loss,
            "val_accuracy": found.accuracy,
            "val_perplexity": found.perplexity,
        }
        if (floor := self.shards.entropy_floor) is not None:
            record["entropy_floor"] = floor["mean_conditional_entropy"]
            record["realised_floor"] = floor["realised_nll"]
        save_checkpoint(self.module, folder)
        return record

    def place(self, step: int) -> dict[str, Any]:
        return {"epoch": round(self.schedule.epoch(step), 6)}
