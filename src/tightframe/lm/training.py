"""The one training loop.

Axes: B rows of a batch.
"""

import contextlib
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tightframe.corpus.tokens import TokenShards
from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.lm import hardware, resume
from tightframe.lm.adamw import AdamW
from tightframe.lm.evaluation import evaluate
from tightframe.lm.interface import IGNORE
from tightframe.lm.loss import cross_entropy
from tightframe.lm.objectives import next_token
from tightframe.lm.recipes import TrainSettings
from tightframe.lm.runs import Run
from tightframe.lm.schedule import Schedule
from tightframe.lm.transformer import Transformer, TransformerConfig, save_checkpoint

__all__ = ["Hook", "TrainSettings", "train"]

# Called with the step, the model and the record whenever one has been written to the log.
Hook = Callable[[int, Transformer, Mapping[str, Any]], None]

# Called with the model and the step after each step, and before the first; it leaves the model as
# it is, and its time is not that of the training.
StepHook = Callable[[Transformer, int], None]


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
    training = _Training(settings, shards, hooks, step_hooks)
    with exclusive(settings.out, what="run"), hardware.prepared(settings.threads):
        run = Run.claim(settings, training.facts())
        if run.finished:
            _say(f"{run.path}: is finished already")
        else:
            training.finish(run)
        resume.clear(run.resume_folder)
    return run


class _Training:
    """What the loop holds; `finish` goes from wherever the run is to its end."""

    def __init__(
        self,
        settings: TrainSettings,
        shards: TokenShards,
        hooks: Sequence[Hook],
        step_hooks: Sequence[StepHook],
    ):
        self.settings = settings
        self.shards = shards
        self.hooks = hooks
        self.step_hooks = step_hooks
        self.split = shards.split("train")
        self.schedule = Schedule(settings, self.split.n_blocks)
        config = TransformerConfig(
            vocab_size=shards.vocab_size,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            positions=shards.block,
            window=settings.window,
            tied=settings.tied,
        )
        self.model = Transformer(config, seed=settings.seed, name=settings.out.resolve().name)
        self.model.to(settings.device)
        self.optimizer = AdamW(
            self.model,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        sums = torch.zeros(3, dtype=torch.float64, device=settings.device)
        self.progress = resume.Progress(sums)
        self.recorded = 0, 0.0  # tokens and seconds at the last record
        self.clock = 0.0  # when it was last read, in seconds

    def facts(self) -> dict[str, Any]:
        """The first line of the log."""
        return {
            "tokens": self.shards.fingerprint,
            "tokens_name": self.shards.name,
            "steps": self.schedule.steps,
            "n_parameters": self.model.n_parameters,
            "version": version("tightframe"),
            "torch": torch.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
        }

    def finish(self, run: Run) -> None:
        """Train from the newest state, or from the start, to the end."""
        progress, steps = self.progress, self.schedule.steps
        resumed = resume.load_state(run.resume_folder, self.model, self.optimizer, progress)
        run.rewind(progress.step if resumed else -1)
        self.recorded = progress.tokens, progress.seconds
        self.clock = time.perf_counter()
        if resumed:
            _say(f"{run.path}: resumes at step {progress.step} of {steps}")
        elif 0 in self.schedule.checkpoints:
            self._keep_checkpoint(run)
        self._show_step()
        with _bar(steps, progress.step) as show:
            for rows in self.schedule.batches(progress.step):
                self._update(rows)
                if progress.step % self.settings.log_every == 0 or progress.step == steps:
                    self._record_training(run, show)
                kept = progress.step in self.schedule.checkpoints
                if kept:
                    self._keep_checkpoint(run)
                if progress.step < steps and (
                    kept or progress.step % self.settings.save_every == 0
                ):
                    self._save_state(run)
                self._show_step()

    def _update(self, rows: Int[np.ndarray, " B"]) -> None:
        """One step of the optimizer."""
        settings, progress, model = self.settings, self.progress, self.model
        progress.step += 1
        batch = next_token(*self.split.rows(rows))
        n_labels = int((batch.targets != IGNORE).sum())
        if n_labels == 0:  # a last batch may be a row of one token
            return
        batch = batch.to(settings.device)
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.precision == "bf16"):
            embeddings = model.embed(batch).flatten(0, 1)
            loss = cross_entropy(embeddings, model.classifier, model.bias, batch.targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
        self.optimizer.update(self.schedule.learning_rate(progress.step - 1))
        progress.sums += torch.stack([loss.detach(), norm, torch.ones_like(norm)])
        progress.tokens += n_labels

    def _show_step(self) -> None:
        if self.step_hooks:
            with self._clock_stopped():
                for hook in self.step_hooks:
                    hook(self.model, self.progress.step)

    def _record_training(self, run: Run, show: Hook) -> None:
        """Log and show the means since the last record, if there was an update."""
        progress = self.progress
        loss_sum, norm_sum, n_updates = progress.sums.tolist()
        progress.sums.zero_()
        if n_updates == 0:
            return
        self._read_clock()
        tokens, seconds = progress.tokens - self.recorded[0], progress.seconds - self.recorded[1]
        self.recorded = progress.tokens, progress.seconds
        record = {
            "kind": "train",
            **self._place(),
            "loss": loss_sum / n_updates,
            "learning_rate": self.schedule.learning_rate(progress.step - 1),
            "gradient_norm": norm_sum / n_updates,
            "tokens_per_second": round(tokens / seconds, 1),
            "seconds": round(progress.seconds, 3),
        }
        self._log(run, record)
        show(progress.step, self.model, record)

    def _keep_checkpoint(self, run: Run) -> None:
        """Validate, in float32, and keep the model."""
        with self._clock_stopped():
            found = evaluate(self.model, self.shards.split("val"))
            record = {
                "kind": "checkpoint",
                **self._place(),
                "val_loss": found.loss,
                "val_accuracy": found.accuracy,
                "val_perplexity": found.perplexity,
            }
            if (floor := self.shards.entropy_floor) is not None:
                record["entropy_floor"] = floor["mean_conditional_entropy"]
                record["realised_floor"] = floor["realised_nll"]
            save_checkpoint(self.model, run.checkpoint(self.progress.step))
            self._log(run, record)

    def _save_state(self, run: Run) -> None:
        with self._clock_stopped():
            resume.save_state(run.resume_folder, self.model, self.optimizer, self.progress)

    def _place(self) -> dict[str, Any]:
        progress = self.progress
        epoch = round(self.schedule.epoch(progress.step), 6)
        return {"step": progress.step, "epoch": epoch, "tokens": progress.tokens}

    def _log(self, run: Run, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(
                    f"{run.path}: {name} is {value} at step {record['step']}; train again in "
                    f"another folder with a learning_rate below {self.settings.learning_rate:g}"
                )
        run.add_record(record)
        for hook in self.hooks:
            hook(record["step"], self.model, record)

    def _read_clock(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.clock = now

    @contextlib.contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        self._read_clock()
        yield
        self.clock = time.perf_counter()


@contextlib.contextmanager
def _bar(steps: int, step: int) -> Iterator[Hook]:
    """A progress bar, on a terminal only; yields what shows a record of the training."""
    columns = (
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}, {task.fields[speed]:,.0f} tokens/s, time left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps, completed=step, loss=math.nan, speed=math.nan)
        yield lambda step, model, record: bar.update(
            task, completed=step, loss=record["loss"], speed=record["tokens_per_second"]
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr)
