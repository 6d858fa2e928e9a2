"""A training run: its directory, and what is checked before it begins.

The directory:

::

    config.toml                    the resolved settings, written before the first step
    log.jsonl                      one line of facts, then one record on each line
    checkpoints/step-N/            model.safetensors, config.json
    resume/step-N.safetensors      while the run is unfinished: what to resume from
    results/                       measurements

A directory belongs to its settings and tokens for good; other settings are refused. Nothing here
needs torch, so that what cannot be trained is refused before torch is loaded.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pydantic

from tightframe.corpus.manifest import read_manifest
from tightframe.errors import UserError
from tightframe.files import (
    append_line,
    check_writable,
    fingerprint,
    read_text,
    remove,
    write_text,
)
from tightframe.formats import Count, Record, parse_json
from tightframe.lm.options import RunSettings, TrainOptions, config_of
from tightframe.settings import as_dict, read_toml, resolve, write_toml

S = TypeVar("S")
R = TypeVar("R", bound="RunFolder[Any]")


class LogRecord(Record):
    """A line of the log, with further fields by its kind."""

    model_config = pydantic.ConfigDict(extra="allow")

    kind: str
    step: Count
    fingerprint: str  # of the line and all before it


class LogFacts(Record):
    """The first line of the log: what the run is made from, with further fields by its kind."""

    model_config = pydantic.ConfigDict(extra="allow")

    kind: Literal["start"]
    steps: Count
    fingerprint: str


class RunFolder(Generic[S]):
    """A run directory; `open` finds one, `claim` makes or resumes one.

    A subclass says which settings its runs have, and what they are made from.
    """

    SETTINGS: ClassVar[type]  # what config.toml holds
    MADE_BY: ClassVar[str]  # the command that makes one
    MADE_FROM: ClassVar[str]  # the setting that says where the data lie; the fact of their
    # fingerprint has the same name

    def __init__(self, path: Path):
        self.path = path
        self.name = path.resolve().name
        self._last_signature: str | None = None  # of the last line of the log; None: not known

    @classmethod
    def open(cls: type[R], path: str | Path) -> R:
        """Open the run in a directory, finished or not."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such run directory; train one with `{cls.MADE_BY}`")
        if not (path / "config.toml").is_file():
            raise UserError(
                f"{path}: holds no config.toml, so it is no run directory; train one with "
                f"`{cls.MADE_BY}`"
            )
        return cls(path)

    @classmethod
    def claim(cls: type[R], settings: Any, facts: dict[str, Any]) -> R:
        """Return the run of these settings, in a new directory or in that of the same settings.

        Args:
            settings: Resolved, nothing "auto"; their `out` is the directory.
            facts: The first line of the log; the fingerprint of what the run is made from must not
                change, and its `steps` are those of the whole run.
        """
        path: Path = settings.out
        run = cls(path)
        cls.check_place(settings, facts)
        if not (path / "config.toml").exists():
            write_toml(path / "config.toml", as_dict(settings))
        if not run.log_path.exists():  # also after a kill between the two files
            write_text(run.log_path, log_text([{"kind": "start", **facts}]))
        return run

    @classmethod
    def check_place(cls, settings: Any, facts: Mapping[str, Any]) -> None:
        """Refuse a directory that belongs to other settings or data, or holds other files."""
        path: Path = settings.out
        if (path / "config.toml").exists():
            cls(path)._refuse_other(settings, facts)
        elif path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
            raise UserError(f"{path}: holds other files, but no run; choose another `out`")

    @cached_property
    def settings(self) -> S:
        """The resolved settings."""
        path = self.path / "config.toml"
        settings: S = resolve(self.SETTINGS, read_toml(path), source=str(path))
        return settings

    @property
    def log_path(self) -> Path:
        """Path of `log.jsonl`."""
        return self.path / "log.jsonl"

    @property
    def resume_folder(self) -> Path:
        """Folder of the states that an unfinished run resumes from."""
        return self.path / "resume"

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the run: fingerprint of its tokens, steps, n_parameters, versions."""
        return self._lines()[0]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The records of the log, each of `kind` "train", "check" or "checkpoint"."""
        return self._lines()[1:]

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, in order."""
        folders = (self.path / "checkpoints").glob("step-*")
        names = (folder.name.removeprefix("step-") for folder in folders)
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def finished(self) -> bool:
        """True once the training has come to its end."""
        if not self.log_path.exists():
            return False
        last = (self.log or [self.facts])[-1]
        ended = last.get("ended") or last.get("step") == self.facts["steps"]
        return last["kind"] == "checkpoint" and bool(ended)

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step, which need not exist yet."""
        return self.path / "checkpoints" / f"step-{step}"

    def kept(self, step: int | None = None) -> int:
        """Return the step of a checkpoint that exists, by default the last."""
        if not self.steps:
            raise UserError(f"{self.path}: has no checkpoint yet; train it first")
        if step is None:
            return self.steps[-1]
        if step not in self.steps:
            steps = ", ".join(map(str, self.steps))
            raise UserError(f"{self.path}: has no checkpoint of step {step}; it has {steps}")
        return step

    def add_record(self, record: dict[str, Any]) -> None:
        """Append to the log."""
        if self._last_signature is None:
            self._lines()
        line, self._last_signature = _signed(record, self._last_signature or "")
        append_line(self.log_path, line)

    def rewind(self, step: int) -> None:
        """Forget what lies after `step` (-1: everything) and what a killed process left half."""
        for folder in (self.path, self.path / "checkpoints", self.resume_folder):
            for leftover in folder.glob(".*.part"):
                remove(leftover)
        kept = [line for line in self._lines() if line.get("step", -1) <= step]
        write_text(self.log_path, log_text(kept))
        self._last_signature = None
        for later in (later for later in self.steps if later > step):
            shutil.rmtree(self.checkpoint(later))

    def _refuse_other(self, settings: S, facts: Mapping[str, Any]) -> None:
        recorded, wanted = as_dict(self.settings), as_dict(settings)
        differing = [name for name in wanted if wanted[name] != recorded[name]]
        places = (self.MADE_FROM, "out")  # where things lie, not what the run is
        for name in (name for name in differing if name not in places):
            raise UserError(
                f"{self.path}: belongs to a run with {name} = {recorded[name]}, not "
                f"{wanted[name]}; choose another `out`, or remove the folder"
            )
        source = self.MADE_FROM
        if self.log_path.exists() and self.facts[source] != facts[source]:
            raise UserError(
                f"{self.path}: was trained on {source} {self.facts[source]}, but "
                f"{getattr(settings, source)} holds {facts[source]}; choose another `out`"
            )

    def _lines(self) -> list[dict[str, Any]]:
        """Read facts and records; a last line that a kill has cut short doesn't count."""
        remedy = "train again elsewhere"
        lines: list[dict[str, Any]] = []
        signature = ""
        for number, text in enumerate(read_text(self.log_path).split("\n")[:-1], start=1):
            source = f"{self.log_path}:{number}"
            schema = LogRecord if lines else LogFacts
            line = dict(parse_json(text, schema, source=source, remedy=remedy))
            found = line.pop("fingerprint")
            signature = _signed(line, signature)[1]
            if found != signature:
                raise UserError(f"{source}: altered or damaged; {remedy}")
            lines.append(line)
        if not lines:
            raise UserError(f"{self.log_path}: altered or damaged; {remedy}")
        self._last_signature = signature
        return lines


def log_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the lines of a log, each signed together with all before it."""
    text, signature = "", ""
    for record in records:
        line, signature = _signed(record, signature)
        text += line + "\n"
    return text


def _signed(record: Mapping[str, Any], before: str) -> tuple[str, str]:
    """Return a line of a log, and its signature, which depends on all lines before it."""
    signature = fingerprint([before, record])
    return json.dumps({**record, "fingerprint": signature}, allow_nan=False), signature


class Run(RunFolder[TrainOptions]):
    """A training on the tokens of a corpus."""

    SETTINGS = TrainOptions
    MADE_BY = "tightframe train"
    MADE_FROM = "tokens"


def check_training(settings: TrainOptions) -> None:
    """Refuse a training with invalid tokens, sizes or output folder.

    Args:
        settings: Settings as they were given, with "auto" where the machine decides.
    """
    check_sizes(settings)
    check_threads(settings.threads)
    check_device(settings.device)
    check_writable(settings.out)
    if (settings.out / "config.toml").exists():
        settings = as_recorded(settings, Run.open(settings.out).settings)
    Run.check_place(settings, {"tokens": read_manifest(settings.tokens)["fingerprint"]})


def check_sizes(settings: TrainOptions) -> None:
    """Refuse a network that is impossible, or that no memory can hold; see `check_fits`."""
    manifest = read_manifest(settings.tokens)
    config = config_of(settings, manifest["vocab_size"], manifest["block"])
    if settings.device == "cpu" or (settings.device == "auto" and not may_have_gpu()):
        rows = min(settings.batch, manifest["splits"]["train"]["blocks"])
        check_fits(config.training_bytes(rows), free_cpu_memory(), "cpu", what=config.sizes)


CHOICES = {"device": "auto", "precision": "auto", "threads": 0}  # what asks for a choice


MOST_THREADS = 1024  # more than any machine has cores for one process; torch starts all of them


# Files of the drivers of GPUs: without any of them torch finds none.
_DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "kfd", "dxg")


M = TypeVar("M", bound=RunSettings)


def as_recorded(settings: M, recorded: M) -> M:
    """Return settings with every "auto" replaced by what a run that exists has chosen."""
    again = {n: getattr(recorded, n) for n, auto in CHOICES.items() if getattr(settings, n) == auto}
    return dataclasses.replace(settings, **again)


def check_threads(threads: int) -> None:
    """Refuse more threads than any machine has."""
    if threads > MOST_THREADS:
        raise UserError(f"threads is {threads:,}; expected at most {MOST_THREADS:,}")


def check_device(device: str) -> None:
    """Refuse a GPU on a machine that has no driver of one."""
    if device == "cuda" and not may_have_gpu():
        raise no_gpu()


def no_gpu(device: str = "cuda") -> UserError:
    """Return the error of a GPU that is not there."""
    return UserError(f"device is '{device}', but torch finds no GPU here; set device=cpu")


def may_have_gpu() -> bool:
    """Return whether the machine has the driver of a GPU; only torch knows whether it has one."""
    return any(True for pattern in _DRIVERS for _ in Path("/dev").glob(pattern))


def free_cpu_memory() -> int | None:
    """Return the bytes that can still be taken; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def check_fits(needed: int, free: int | None, device: str, *, what: str) -> None:
    """Refuse what would not fit into the free memory of a device, before it is allocated."""
    if free is not None and needed > free:
        raise UserError(
            f"{what} takes about {needed / 1e9:,.1f} GB of memory, but {free / 1e9:,.1f} GB are "
            f"free on {device}; choose smaller sizes"
        )
