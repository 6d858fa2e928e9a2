"""The one training loop (update, log, save, resume), and the training of a corpus through it.

`Loop` knows nothing of what is trained: a corpus is one use of it, injected facts another.

Axes: B rows of a batch.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.corpus.shards import TokenShards
from tightframe.errors import PartlyDoneError, UserError
from tightframe.files import exclusive
from tightframe.leases import Lease
from tightframe.lm import hardware, optimizer
from tightframe.lm.checkpoints import save_checkpoint
from tightframe.lm.hardware import ALONE, ProcessGroup, barrier, made_by, process_group
from tightframe.lm.interface import IGNORE, Batch, TrainingTask, next_token
from tightframe.lm.loss import cross_entropy, evaluate
from tightframe.lm.optimizer import AdamW
from tightframe.lm.options import RunSettings, Schedule, TrainOptions, config_of
from tightframe.lm.regularizers import Regularizer, no_averages
from tightframe.lm.runs import Run, RunFolder
from tightframe.lm.transformer import Transformer
from tightframe.progress import bar
from tightframe.tracking import track

# Called with the step, the model and the record whenever one has been written to the log.
Hook = Callable[[int, Any, Mapping[str, Any]], None]

# Called with the model and the step after each step, and before the first; it leaves the model as
# it is, and its time is not that of the training.
StepHook = Callable[[Any, int], None]


class Loop:
    """A run between its start and its end; `finish` trains it from wherever it is.

    Args:
        run: Folder of its log, checkpoints and states.
        settings: Settings of the run.
        task: The model that is trained, and on what.
        lease: Hold on the folder; nothing is written without it, or once it is lost.
        world: Processes that share each batch. Their number changes sums by rounding alone.
        kept: Tensors of the task that change with the steps; a resumed run continues from them.
        hooks: Called with each record of the log.
        step_hooks: Called at each step.
    """

    def __init__(
        self,
        run: RunFolder[Any],
        settings: RunSettings,
        task: TrainingTask,
        *,
        lease: Lease | None,
        world: ProcessGroup = ALONE,
        kept: Mapping[str, Tensor] | None = None,
        hooks: Sequence[Hook] = (),
        step_hooks: Sequence[StepHook] = (),
    ):
        self.run = run
        self.settings = settings
        self.task = task
        self.lease = lease
        self.world = world
        self.hooks = hooks
        self.step_hooks = step_hooks
        self.optimizer = AdamW(
            task.module,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        sums = torch.zeros(3, dtype=torch.float64, device=settings.device)
        self.progress = optimizer.TrainingProgress(sums, dict(kept or {}))
        self.recorded = 0, 0.0  # tokens and seconds at the last record
        self.clock = 0.0  # when it was last read, in seconds
        self.cpu_clock = 0.0
        self.shown = ""  # beside the progress
        self.signals: list[int] = []  # that asked to stop
        self.stop = False  # the same in all processes

    def finish(self) -> None:
        """Train from the newest state, or from the start, to the end."""
        run, progress, steps = self.run, self.progress, self.task.steps
        resumed = optimizer.load_state(run.resume_folder, self.optimizer, progress)
        if self.lease is not None:
            run.rewind(progress.step if resumed else -1)
        self.recorded = progress.tokens, progress.seconds
        self._start_clock()
        if resumed and self.lease is not None:
            say(f"{run.path}: resumes at step {progress.step} of {steps}")
        if not resumed and 0 in self.task.checkpoints:
            self._keep_checkpoint()
        self._show_step()
        with bar() as show, hardware.usr1_noted() as self.signals:
            for batch in self.task.batches(progress.step):
                self._update(batch)
                ends = self._examine() or progress.step == steps
                if progress.step % self.settings.log_every == 0 or ends:
                    self._record_training()
                kept = progress.step in self.task.checkpoints
                if kept or ends:
                    self._keep_checkpoint(ended=ends and progress.step < steps)
                due = kept or progress.step % self.settings.save_every == 0
                if (self.stop or due) and not ends:
                    self._save_state()
                self._show_step()
                show("training", progress.step / steps, progress.tokens, self.shown)
                if ends:
                    return
                if self.stop:
                    raise PartlyDoneError(
                        f"{run.path}: saved at step {progress.step} of {steps}, as SIGUSR1 asked; "
                        "the same command resumes"
                    )

    def _update(self, batch: Batch) -> None:
        """Take one step of the optimizer."""
        settings, progress = self.settings, self.progress
        progress.step += 1
        n_labels = int((batch.targets != IGNORE).sum())
        if n_labels == 0:  # a last batch may be a row of one token
            return
        loss = self._backward(batch, n_labels)
        norm = nn.utils.clip_grad_norm_(
            self.optimizer.parameters.values(), settings.clip or math.inf
        )
        self.optimizer.update(self.task.learning_rate(progress.step - 1))
        progress.sums += torch.stack([loss, norm, torch.ones_like(norm)])
        progress.tokens += batch.n_learnt

    def _backward(self, batch: Batch, n_labels: int) -> Float[Tensor, ""]:
        """Compute the loss on a batch and its gradients, in all processes together."""
        settings = self.settings
        batch = batch.share(*self.world).to(settings.device)
        n_own = int((batch.targets != IGNORE).sum())
        loss = torch.zeros((), device=settings.device)
        if n_own:
            low = settings.precision == "bf16"
            with torch.autocast(settings.device, torch.bfloat16, enabled=low):
                loss = self.task.loss(batch, self.progress.step) * (n_own / n_labels)
            loss.backward()
        self.stop = bool(self.signals)
        if self.world.size > 1:
            loss, self.stop = self.optimizer.sum_over_processes(loss, self.stop)
        return loss.detach()

    def _show_step(self) -> None:
        if self.step_hooks and self.lease is not None:
            with self._clock_stopped():
                for hook in self.step_hooks:
                    hook(self.task.module, self.progress.step)

    def _record_training(self) -> None:
        """Log the means since the last record, if there was an update."""
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
            "learning_rate": self.task.learning_rate(progress.step - 1),
            "gradient_norm": norm_sum / n_updates,
            "tokens_per_second": round(tokens / seconds, 1),
            "seconds": round(progress.seconds, 3),
            "cpu_seconds": round(progress.cpu_seconds, 3),
        }
        self._log(record)
        self.shown = f"loss {record['loss']:.3f}"

    def _examine(self) -> bool:
        """Log what the task says of this step; return whether it ends the training."""
        with self._clock_stopped():
            found = self.task.examine(self.progress.step)
            if found:
                self._log({"kind": "check", **self._place(), **found})
        return bool(found.get("ended"))

    def _keep_checkpoint(self, *, ended: bool = False) -> None:
        if self.lease is not None:
            self.lease.check()
        with self._clock_stopped():
            found = self.task.keep(self.run.checkpoint(self.progress.step))
            self._log(
                {
                    "kind": "checkpoint",
                    **self._place(),
                    **found,
                    **({"ended": True} if ended else {}),
                }
            )

    def _save_state(self) -> None:
        if self.lease is None:
            return
        self.lease.check()
        with self._clock_stopped():
            optimizer.save_state(self.run.resume_folder, self.optimizer, self.progress)

    def _place(self) -> dict[str, Any]:
        step = self.progress.step
        return {"step": step, **self.task.place(step), "tokens": self.progress.tokens}

    def _log(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(
                    f"{self.run.path}: {name} is {value} at step {record['step']}; train again in "
                    f"another folder with a learning_rate below {self.settings.learning_rate:g}"
                )
        if self.lease is None:
            return
        self.lease.check()
        self.run.add_record(record)
        kind, values = record["kind"], record.items()
        track({f"{kind}/{k}": x for k, x in values if isinstance(x, float)}, record["step"])
        for hook in self.hooks:
            hook(record["step"], self.task.module, record)

    def _start_clock(self) -> None:
        self.clock, self.cpu_clock = time.perf_counter(), time.process_time()

    def _read_clock(self) -> None:
        self.progress.seconds += time.perf_counter() - self.clock
        self.progress.cpu_seconds += time.process_time() - self.cpu_clock
        self._start_clock()

    @contextlib.contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        self._read_clock()
        yield
        self._start_clock()


def say(line: str) -> None:
    """Print a message on standard error, beside what a command prints."""
    print(line, file=sys.stderr)


def train(
    settings: TrainOptions, *, hooks: Sequence[Hook] = (), step_hooks: Sequence[StepHook] = ()
) -> Run:
    """Train a model, or go on with a run that was interrupted; a finished one is left alone.

    On a CPU an interrupted run ends with the bits of an uninterrupted one. Under `torchrun` the
    processes share each batch, and the first one writes. Any number of them has the same batches,
    so that a run may resume with another number; sums then differ by rounding.

    Args:
        settings: Settings of the run; the same ones resume it.
        hooks: Called with each record of the log.
        step_hooks: Called at each step, e.g. `CollapseCallback(...).step`.
    """
    with process_group() as world, contextlib.ExitStack() as stack:
        shards = TokenShards.open(settings.tokens)
        earlier = Run.open(settings.out) if (settings.out / "config.toml").exists() else None
        settings = hardware.choose(settings, earlier.settings if earlier else None)
        task = _Corpus(settings, shards, world)
        lease = None
        if world.rank == 0:
            lease = stack.enter_context(exclusive(settings.out, what="run"))
            Run.claim(settings, task.facts())
        stack.enter_context(hardware.prepared(settings.threads))
        barrier(world)  # the run has begun
        run = Run.open(settings.out)
        if not run.finished:
            kept = task.regularizer.state if task.regularizer else None
            Loop(
                run,
                settings,
                task,
                lease=lease,
                world=world,
                kept=kept,
                hooks=hooks,
                step_hooks=step_hooks,
            ).finish()
        elif lease is not None:
            say(f"{run.path}: is finished already")
        barrier(world)  # the last record is written
        if lease is not None:
            optimizer.clear_states(run.resume_folder)
    return run


class _Corpus:
    """Next-token prediction on the blocks of a corpus, in a new order each epoch."""

    def __init__(self, settings: TrainOptions, shards: TokenShards, world: ProcessGroup):
        self.shards = shards
        self.world = world
        self.split = shards.split("train")
        self.schedule = Schedule(settings, self.split.n_blocks)
        config = config_of(settings, shards.vocab_size, shards.block)
        rows = math.ceil(min(settings.batch, self.split.n_blocks) / world.size)
        needed = config.training_bytes(rows)
        hardware.check_memory(needed, settings.device, what=config.sizes)
        self.module = Transformer(config, seed=settings.seed, name=settings.out.resolve().name)
        self.module.to(settings.device)
        self.regularizer = None
        if settings.regularizer and settings.strength:
            if world.size > 1:
                raise UserError("regularizer: a term of whole batches; train in one process")
            averages = no_averages(config.vocab_size, config.width, device=settings.device)
            self.regularizer = Regularizer(
                settings.regularizer, settings.strength, averages, seed=settings.order_seed
            )
        self.steps = self.schedule.steps
        self.checkpoints = self.schedule.checkpoints
        self.learning_rate = self.schedule.learning_rate

    def facts(self) -> dict[str, Any]:
        """Return the facts of the first line of the log."""
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
        loss = cross_entropy(embeddings, self.module.classifier, self.module.bias, targets)
        if self.regularizer:
            loss = loss + self.regularizer(embeddings, self.module.classifier, targets, step)
        return loss

    def keep(self, folder: Path) -> dict[str, Any]:
        """Validate in float32, save the model, and return the validation losses."""
        found = evaluate(self.module, self.shards.split("val"), world=self.world)
        record = {
            "val_loss": found.loss,
            "val_accuracy": found.accuracy,
            "val_perplexity": found.perplexity,
        }
        if (floor := self.shards.entropy_floor) is not None:
            record["entropy_floor"] = floor["mean_conditional_entropy"]
            record["realised_floor"] = floor["realised_nll"]
        if self.world.rank == 0:
            save_checkpoint(self.module, folder)
        return record

    def place(self, step: int) -> dict[str, Any]:
        return {"epoch": round(self.schedule.epoch(step), 6)}

    def examine(self, step: int) -> dict[str, Any]:
        return {}
