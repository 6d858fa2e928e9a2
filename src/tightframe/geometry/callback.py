"""The geometry of a model while it trains: class moments of a fixed probe every N steps.

At a step that is due, the weights stand still for one pass over the probe (`geometry/probe.py`).
The moments are exactly those of the weights of this step, over the positions of the probe; nothing
is averaged over steps. Rows have the subset "probe": over a whole split a measure is another
number, because plain estimators depend on the counts.

Each step has its own file, `results/probe-SPLIT-STEP-<hash>.jsonl`, written whole. A training that
is resumed from an earlier step forgets the rows of the steps that it takes again, and says so. That
it is the same training is told by its weights: those of a measured step are in the header of its
rows, those of a checkpoint between them in `probe-SPLIT-STEP-<hash>.saved.json`. One that begins
anew where there are rows of later steps, or with weights that nobody recorded, is refused.
"""

import dataclasses
import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.files import fingerprint
from tightframe.formats import Record, read_signed, write_signed
from tightframe.geometry.measures import DEFAULT, choose
from tightframe.geometry.options import MeasureOptions, Precision
from tightframe.geometry.passes import LabelRequest
from tightframe.geometry.probe import Probe
from tightframe.geometry.rows import header_of, least_count, row_of
from tightframe.geometry.subject import Subject
from tightframe.geometry.values import Value
from tightframe.lm.frozen import left_as_found, unwrapped
from tightframe.lm.load import Model, as_language_model
from tightframe.lm.runs import Run
from tightframe.results import Header, Row, read_rows, write_rows
from tightframe.tracking import track, tracked_rows

SUBSET = "probe"  # of its rows

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class SavedWeights(Record):
    """Record of a checkpoint that was saved at a step that was not measured."""

    weights: str  # the digest of all of them
    fingerprint: str


class CollapseCallback:
    """Measures a model every N steps of its training, and changes nothing of it.

    For transformers' Trainer it is a callback, `Trainer(..., callbacks=[callback])`; for our loop
    a hook, `train(settings, step_hooks=[callback.step])`; in any other loop, call
    `callback.step(model, step)` before the first step and after each. Of several processes the
    first one measures and writes.

    Args:
        tokens: Token shards, or their folder, made by the model's own tokenizer.
        out: Folder that takes `results/`; its name is what rows call the run. With our loop, the
            run directory.
        split: Whose positions are measured. Measures about decisions need "train".
        probe_tokens: Labelled positions to measure, about; whole blocks are drawn.
        seed: Of that draw.
        every: Steps between two measurements; step 0 is the first. By default so many that
            measuring takes 1 % of the time by counting multiplications, and at most 2 % by the
            clock. The clock has no say in it, so a resumed training measures at the same steps.
            Of models that don't use all weights for a token (mixtures of experts), say it.
        step_tokens: Tokens that a process trains on in a step, for that count. Known from our
            loop; of Trainer, rows as long as the blocks are assumed.
        measures: Names from `MEASURES`; by default `DEFAULT` without those about decisions,
            and without those that need groups of documents, which the probe has none of.
        min_count: Embeddings in the probe that a class needs to take part.
        precision: Of the forward passes; by default bf16 where the training has it, else fp32.
        track: "auto" puts the values also into Trainer's own log, and so before whatever it reports
            to, as `geometry/METRIC`; measured steps are then logged, too. Not for step 0, at which
            Trainer has no log.
    """

    def __init__(
        self,
        tokens: TokenShards | str | Path,
        *,
        out: str | Path,
        split: Literal["train", "val"] = "train",
        probe_tokens: int = 2**14,
        seed: int = 0,
        every: int | None = None,
        step_tokens: int | None = None,
        measures: Sequence[str] | None = None,
        min_count: int = 1,
        precision: Precision | None = None,
        track: Literal["auto"] | None = None,
    ) -> None:
        for name, value in (("every", every), ("step_tokens", step_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        chosen = choose(measures)
        if measures is None:
            own = (one for one in choose(DEFAULT) if one.split == "train")
            chosen = tuple(one for one in own if one.estimator != "debiased by groups")
        if split == "val" and any(one.split == "val" for one in chosen):
            raise ValueError(
                "decisions compare validation embeddings with class means of training; "
                "take split='train', or measures that are not about decisions"
            )
        self.shards = tokens if isinstance(tokens, TokenShards) else TokenShards.open(tokens)
        self.probe = Probe(
            self.shards, split, probe_tokens, measures=chosen, min_count=min_count, seed=seed
        )
        self.out = Path(out)
        self.name = self.out.resolve().name
        self.every = every
        self.step_tokens = step_tokens
        self.precision: Precision | None = precision
        self.track = track
        self._pending: dict[str, float] = {}  # values that Trainer's next log takes
        self._run: Run | None = None
        self._digest = ""  # of what the rows are made from; empty before the first step

    def step(self, model: nn.Module, step: int) -> None:
        """Measure if it is time to; call it before the first step of a training and after each.

        Args:
            model: As the loop trains it, wrapped or not.
            step: Steps taken so far.
        """
        if _rank() > 0 or (self._digest and step % (self.every or 1)):
            return
        with left_as_found(inner := unwrapped(model)):
            # Tried out at every look: weights may have become infinite, or adapters of another use.
            measured = as_language_model(inner, name=self.name)
            if not self._digest:
                self._begin(measured, step)
            if step % (self.every or 1) == 0:
                self._measure(measured, step)

    def saved(self, model: nn.Module, step: int) -> None:
        """Record whose checkpoint of a step it is, so that a training resumed from it is known.

        Trainer and our loop need no call. In a loop of your own, call it when a checkpoint is saved
        at a step that is not measured, if the training may be resumed from there.

        Args:
            model: As in `step`.
            step: Steps taken so far.
        """
        if _rank() > 0 or not self._digest or self._run is not None:
            return
        if not self._rows(step).exists():
            with left_as_found(inner := unwrapped(model)):
                measured = as_language_model(inner, name=self.name)
                write_signed(self._saved(step), {"weights": _weights(measured)})

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Trainer has saved a checkpoint."""
        if state.is_world_process_zero:
            self.saved(given["model"], state.global_step)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Trainer starts, or goes on from `state.global_step`."""
        self._digest = ""
        if self.step_tokens is None:
            rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
            self.step_tokens = rows * self.shards.block
        if self.precision is None:
            self.precision = "bf16" if args.bf16 else "fp32"
        if self.track:
            self._go_first()
        self.on_step_end(args, state, control, **given)
        self._pending = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Trainer has taken a step."""
        if state.is_world_process_zero:
            self.step(given["model"], state.global_step)
            control.should_log |= bool(self._pending)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Trainer logs: it takes what was measured at this step."""
        for log in (given["logs"], *state.log_history[-1:]):
            log.update(self._pending)
        self._pending = {}

    def _go_first(self) -> None:
        """Move to the front of Trainer's callbacks, or its reporters would be told before.

        Trainer passes the list to nobody; it is found where Trainer calls from.
        """
        frame = sys._getframe(1)
        while (above := frame.f_back) is not None:
            callbacks = getattr(above.f_locals.get("self"), "callbacks", None)
            if isinstance(callbacks, list) and self in callbacks:
                callbacks.insert(0, callbacks.pop(callbacks.index(self)))
                return
            frame = above

    def __getattr__(self, name: str) -> Callable[..., None]:
        # Trainer's other events. Not by inheritance, which would need transformers to be there.
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _begin(self, model: Model, step: int) -> None:
        """Settle what is measured when, and forget the rows of steps that will be taken again."""
        if (self.out / "config.toml").is_file():
            self._run = Run.open(self.out)
            settings = self._run.settings
            self.step_tokens = self.step_tokens or settings.batch * self.shards.block
            self.precision = self.precision or ("bf16" if settings.precision == "bf16" else "fp32")
        self.precision = self.precision or "fp32"
        if self.every is None:
            if self.step_tokens is None:
                raise ValueError("this loop doesn't say how many tokens a step has; give `every`")
            self.every = self.probe.every(model, self.step_tokens)
        names = [measure.name for measure in self.probe.measures]
        self._digest = fingerprint(
            [self.name, self.shards.fingerprint, self._request.key, names, self.probe.facts]
        )
        self._forget_later_rows(model, step)

    def _forget_later_rows(self, model: Model, step: int) -> None:
        """Remove rows of the steps that a resumed training takes again; refuse those of another.

        In a run of ours the settings say that it is the same training, also from step 0 on.
        Otherwise one that begins at step 0 is not the one that went on from there: the weights
        can't tell, as all trainings of one pretrained model begin with the same ones. One that is
        resumed from a later step is the same if its weights are those recorded of this step.
        """
        results, split = self.out / "results", self.probe.split.name
        later: dict[int, Path] = {}
        for path in results.glob(f"probe-{split}-*-*.jsonl"):
            at, digest = path.stem.split("-")[2:]
            if digest != self._digest:
                raise UserError(
                    f"{path}: is of another probe or other measures; go on with the settings that "
                    "it was made with, or choose another `out`"
                )
            if int(at) > step:
                later[int(at)] = path
        known = self._recorded(step)
        if known is not None and known[1] != _weights(model):
            raise UserError(
                f"{known[0]}: is of other weights at step {step}, so of another training; "
                "choose another `out`"
            )
        if later and self._run is None:
            steps = f"step{'s' if len(later) > 1 else ''} {', '.join(map(str, sorted(later)))}"
            if step == 0:
                raise UserError(
                    f"{results}: has rows of {steps} of an earlier training, and this one begins "
                    "at step 0; choose another `out`, resume from a checkpoint, or remove "
                    f"probe-{split}-*.jsonl there"
                )
            if known is None:
                raise UserError(
                    f"{results}: has rows of {steps}, and nothing there tells that its training "
                    f"passed step {step} with these weights; choose another `out`, resume from a "
                    "step that was measured or saved while it was measured, or remove the rows "
                    "of later steps"
                )
            warnings.warn(
                f"{results}: rows of {steps} are removed, because the training is resumed from "
                f"step {step} and takes these steps again",
                UserWarning,
                stacklevel=2,
            )
        for path in later.values():
            path.unlink()
        for path in results.glob(f"probe-{split}-*-{self._digest}.saved.json"):
            if int(path.name.split("-")[2]) > step:
                path.unlink()

    def _recorded(self, step: int) -> tuple[Path, str] | None:
        """Return the digest of the weights of a step and the file that has it; None if none has."""
        if (path := self._rows(step)).exists():
            return path, str(read_rows(path)[0].measurement.get("weights"))
        if (path := self._saved(step)).exists():
            return path, read_signed(path, SavedWeights).weights
        return None

    def _rows(self, step: int) -> Path:
        """Path of the rows of a step."""
        name = f"probe-{self.probe.split.name}-{step}-{self._digest}.jsonl"
        return self.out / "results" / name

    def _saved(self, step: int) -> Path:
        """Path of the record of a checkpoint that was saved at a step that was not measured."""
        return self._rows(step).with_suffix(".saved.json")

    def _measure(self, model: Model, step: int) -> None:
        """Write the rows of a step, unless the training went on from there."""
        if (path := self._rows(step)).exists():
            return
        reading = self.probe.read(model, precision=self.precision or "fp32")
        subject = Subject(model, self.name, step, self.out, self._run)
        header = header_of(subject, self.shards, self._request, reading.moments)
        details = {
            "probe": self.probe.facts,
            "window": "the weights of this step alone, over the probe",
            "every": self.every,
            "weights": _weights(model),
        }
        header = dataclasses.replace(header, measurement=header.measurement | details)
        rows = []
        for measure in self.probe.measures:
            split = "val" if measure.split == "val" else self.probe.split.name
            least = least_count(measure, self.probe.min_count)
            value = reading.values[measure.name]
            rows.append(self._row(header, split, least, measure.name, value))
        if (decisions := reading.decisions) is not None:
            loss = Value(decisions.loss, decisions.n + decisions.n_passed, 0)
            rows.append(self._row(header, "val", 1, "val_loss", loss))
        write_rows(path, header, rows)
        values = tracked_rows(rows, header.model["depth"])
        track(values, step)
        if self.track:
            self._pending = {name: x for name, x in values.items() if math.isfinite(x)}

    def _row(self, header: Header, split: str, least: int, metric: str, value: Value) -> Row:
        layer = header.model["depth"]
        return row_of(header, self._request, layer, split, SUBSET, least, metric, value)

    @property
    def _request(self) -> LabelRequest:
        options = MeasureOptions(
            min_count=self.probe.min_count,
            groups=1,
            skip_positions=0,
            skip_special=False,
            precision=self.precision or "fp32",
        )
        return LabelRequest(options, "next", layers=(), measures=self.probe.measures)


@torch.no_grad()
def _weights(model: Model) -> str:
    """Digest of all weights, of which a training may change any few.

    Each tensor counts by the sum of its bit patterns as integers, which is the same in any order
    and on any device, and as fast as its memory is read.
    """
    digest = hashlib.sha256()
    for name, values in sorted(model.named_parameters()):
        patterns = values.detach().contiguous().view(_INTEGERS[values.element_size()])
        digest.update(f"{name} {int(patterns.sum(dtype=torch.int64))} ".encode())
    return digest.hexdigest()[:12]


def _rank() -> int:
    """Return the number of this process among those that train together; 0 if it is alone."""
    here = torch.distributed
    return here.get_rank() if here.is_available() and here.is_initialized() else 0
