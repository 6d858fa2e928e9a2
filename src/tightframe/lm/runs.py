"""A training run: its settings, recipes that supply their defaults, and its directory.

A recipe supplies only what is not given; every explicit setting wins. The directory:

::

    config.toml                    the resolved settings, written before the first step
    log.jsonl                      one line of facts, then one record on each line
    checkpoints/step-N/            model.safetensors, config.json
    resume/step-N.safetensors      while the run is unfinished: what to resume from
    results/                       measurements

A directory belongs to its settings and tokens for good; other settings are refused.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tightframe.errors import UserError
from tightframe.files import append_line, fingerprint, read_text, remove, write_text
from tightframe.formats import Count, Record, parse_json
from tightframe.settings import as_dict, given_settings, read_toml, resolve, write_toml

BY_RECIPE: Any = None  # the class default of a setting that the recipe supplies

Share = Annotated[float, Field(ge=0, lt=1)]


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class TrainSettings:
    """Settings of one training run; `tokens` and `out` say where, the others what."""

    tokens: Path  # folder of token shards, which also fix vocabulary and context
    out: Path  # the run directory
    recipe: Literal["small-data", "linguistic-collapse"] = "small-data"

    # The model.
    width: PositiveInt = 128  # length of an embedding
    depth: PositiveInt = 2  # number of blocks
    heads: PositiveInt = BY_RECIPE  # attention heads; must divide the width
    window: NonNegativeInt = 256  # every second block sees keys closer than this; 0: all see all
    tied: bool = True  # the classifier is the token embedding

    # The course of the training.
    epochs: PositiveFloat = 1.0  # passes over the training split; may be fractional
    batch: PositiveInt = BY_RECIPE  # rows of tokens in a step; an epoch's last batch may be smaller
    learning_rate: PositiveFloat = BY_RECIPE  # its peak
    schedule: Literal["linear", "cosine", "constant"] = BY_RECIPE  # decay after the warm-up
    warmup: NonNegativeFloat = BY_RECIPE  # below 1 a share of all steps, else steps
    final_rate: Share = 0.0  # where the decay ends, as a share of the peak

    # AdamW.
    weight_decay: NonNegativeFloat = BY_RECIPE  # matrices only: neither biases nor norms
    betas: tuple[Share, Share] = BY_RECIPE
    eps: PositiveFloat = 1e-8
    clip: NonNegativeFloat = 1.0  # largest norm of the whole gradient; 0: not clipped

    # Randomness.
    seed: NonNegativeInt = BY_RECIPE  # of the initial weights
    order_seed: NonNegativeInt = BY_RECIPE  # of the order of the rows, drawn anew each epoch

    # What is kept. The end of the training is always a checkpoint.
    checkpoints: tuple[NonNegativeFloat, ...] = BY_RECIPE  # epochs; may be fractional
    checkpoint_steps: tuple[NonNegativeInt, ...] = ()  # and steps
    log_every: PositiveInt = 10  # steps between the records of log.jsonl
    save_every: PositiveInt = 200  # steps between states to resume from; each replaces the last

    # The machine. What is "auto" or 0 is chosen once and recorded.
    precision: Literal["auto", "fp32", "bf16"] = BY_RECIPE  # bf16: autocast over float32 weights
    threads: NonNegativeInt = 0  # bits on a CPU depend on it; 0: as many as torch takes
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _supplied_by_recipe(cls, values: Any) -> Any:
        given = given_settings(values)
        recipe = RECIPES.get(given.get("recipe", "small-data"))
        return {**recipe(given), **given} if recipe else given

    @pydantic.model_validator(mode="after")
    def _checkpoints_lie_in_the_run(self) -> "TrainSettings":
        if self.checkpoints and max(self.checkpoints) > self.epochs:
            raise ValueError(
                f"a checkpoint at epoch {max(self.checkpoints):g}, but the run has "
                f"{self.epochs:g} epochs; change `checkpoints` or `epochs`"
            )
        return self


def small_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """A first run of a million tokens learns something: warm-up, cosine decay, a high rate.

    Batches are small (1,000 tokens with rows of 256), because steps are what a short run lacks.
    The rate falls with the width. It was tuned once on the generated corpus, see
    docs/decisions.md.
    """
    width = _size(given, "width", 128)
    return {
        "heads": 4,
        "batch": 4,
        "learning_rate": 3e-3 * 128 / width,
        "schedule": "cosine",
        "warmup": 0.05,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "seed": 0,
        "order_seed": 0,
        "checkpoints": (),
        "precision": "auto",
    }


def linguistic_collapse(given: Mapping[str, Any]) -> dict[str, Any]:
    """The published study's training.

    Its weight decay is 5e-4 (the runs "d") or 0.1 ("L"), its planned epochs 1, 3 or 10, its rows
    2,048 tokens; the decay of "d" is the default here.

    Source: Wu & Papyan (2024), arXiv:2405.17767, and its code; transformers' `Trainer`, about
    version 4.37.
    """
    depth, width = _size(given, "depth", 2), _size(given, "width", 128)
    epochs = given.get("epochs", 1)
    return {
        "heads": 16,
        "batch": _published_batch(depth, width),
        "learning_rate": 5e-5,
        "schedule": "linear",
        "warmup": 0.0,
        "weight_decay": 5e-4,
        "betas": (0.9, 0.999),
        "seed": 42,
        "order_seed": 42,
        "checkpoints": tuple(range(1, int(epochs) + 1)) if isinstance(epochs, int | float) else (),
        "precision": "bf16",
    }


RECIPES: dict[object, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "small-data": small_data,
    "linguistic-collapse": linguistic_collapse,
}


def _published_batch(depth: int, width: int) -> int:
    """Rows in a step by shape; a depth between two published ones takes that of the next."""
    if depth == 1 or (depth == 2 and width <= 768):
        return 16
    if depth <= 4 or (depth <= 8 and width <= 256):
        return 8
    return 4


def _size(given: Mapping[str, Any], name: str, default: int) -> int:
    """A size that a default depends on; a wrong one is refused later, by its own check."""
    value = given.get(name, default)
    return value if isinstance(value, int) and value >= 1 else default


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
    """A run directory that exists; `open` finds one, `claim` makes one or goes on.

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
        """The run in a directory, finished or not."""
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
        """The run of these settings: a new directory, or the one that belongs to them already.

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
        """`log.jsonl`."""
        return self.path / "log.jsonl"

    @property
    def resume_folder(self) -> Path:
        """Where states to go on from lie while the run is unfinished."""
        return self.path / "resume"

    @property
    def facts(self) -> dict[str, Any]:
        """What the run is made from: tokens (fingerprint), steps, n_parameters, versions."""
        return self._lines()[0]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The records, each of `kind` "train" or "checkpoint"."""
        return self._lines()[1:]

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, in order."""
        folders = (self.path / "checkpoints").glob("step-*")
        names = (folder.name.removeprefix("step-") for folder in folders)
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        if not self.log_path.exists():
            return False
        last = (self.log or [self.facts])[-1]
        return (last["kind"], last.get("step")) == ("checkpoint", self.facts["steps"])

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of a step, which may be one to come."""
        return self.path / "checkpoints" / f"step-{step}"

    def kept(self, step: int | None = None) -> int:
        """The step of a checkpoint that is there, by default the last."""
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
        for leftover in self.path.rglob(".*.part"):
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
        """Facts and records; a last line that a kill has cut short doesn't count."""
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
    """A line of a log, and its signature, which depends on all lines before it."""
    signature = fingerprint([before, record])
    return json.dumps({**record, "fingerprint": signature}, allow_nan=False), signature


class Run(RunFolder[TrainSettings]):
    """A training on the tokens of a corpus."""

    SETTINGS = TrainSettings
    MADE_BY = "tightframe train"
    MADE_FROM = "tokens"
