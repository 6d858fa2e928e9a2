"""A grid of settings becomes runs: trained, measured, and skipped where they are finished.

On disk, under `sweeps/<name>/`: `sweep.toml` (the sweep as it was planned), `plan/<run>.toml` (all
that a run needs), `logs/<run>.txt` (what it printed), `runs/<run>/`. A run's threads are decided
once, when it is planned, because they are part of its identity (bits depend on them). So do they
decide how many runs go at a time: as many as have a core for each of their threads.

A sweep file is read and checked before torch is imported, by the functions that need it.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic

from tightframe.analysis.options import RelateOptions
from tightframe.errors import UserError
from tightframe.geometry.measures import check_measures, choose
from tightframe.geometry.options import MeasureOptions, check_numbers
from tightframe.jobs import slurm
from tightframe.jobs.estimates import estimate
from tightframe.jobs.executors import Job, check_done, check_workers, cores, run_and_say
from tightframe.leases import held_by
from tightframe.lm.options import TrainOptions
from tightframe.lm.runs import Run, check_sizes
from tightframe.results import read_rows
from tightframe.settings import read_toml, resolve, write_toml

SWEEP = "sweep.toml"  # in the sweep's folder: the file that it was planned from

Grid = dict[str, list[Any]]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class SweepSettings:
    """A sweep file: what its runs share, what varies, and how they are measured."""

    name: str  # the folder under `out`
    base: dict[str, Any] = dataclasses.field(default_factory=dict)  # settings of every run
    grid: Grid | list[Grid] = dataclasses.field(default_factory=dict)  # setting -> its values
    min_count: int = 1  # samples that a class needs to be measured
    measures: list[str] = dataclasses.field(default_factory=list)  # empty: the default list
    relate: dict[str, Any] = dataclasses.field(default_factory=dict)  # rule of `relate`
    out: str = "sweeps"

    @property
    def path(self) -> Path:
        """The sweep's folder."""
        return Path(self.out) / self.name


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file that was read, and the settings of its runs by their names, in order."""

    settings: SweepSettings
    values: dict[str, Any]  # what the file holds
    runs: dict[str, dict[str, Any]]


def read_sweep(file: Path, *, sizes: bool) -> Sweep:
    """Read a sweep file; what its runs cannot be trained with is refused.

    Args:
        file: The sweep file. One whose folder was planned from other settings is refused.
        sizes: Refuse runs that have not begun and that this machine cannot train.
    """
    values = read_toml(file)
    settings = resolve(SweepSettings, {"name": file.stem, **values}, source=str(file))
    written = settings.path / SWEEP
    if written.exists() and read_toml(written) != values:
        raise UserError(
            f"{settings.path}: belongs to another version of {file.name}; "
            "set another `name`, or remove the folder"
        )
    check_measures(settings.measures)
    check_numbers(min_count=settings.min_count)
    resolve(RelateOptions, settings.relate, source=f"{file}, [relate]")
    _check_grid(settings, file)
    combinations = list(_combinations(settings))
    threads = 1 if len(combinations) >= cores() else max(1, cores() // len(combinations))
    runs: dict[str, dict[str, Any]] = {}
    for varied in combinations:
        name = "-".join(f"{key}{_short(value)}" for key, value in varied.items()) or "run"
        if name in runs:
            raise UserError(f"{file}: two runs would both be called '{name}'; vary another setting")
        folder = settings.path / "runs" / name
        runs[name] = {"threads": threads, **settings.base, **varied, "out": str(folder)}
        resolved = resolve(TrainOptions, runs[name], source=str(file))
        if sizes and not (folder / "config.toml").exists():
            check_sizes(resolved)
    return Sweep(settings, values, runs)


def _check_grid(settings: SweepSettings, file: Path) -> None:
    """Refuse a setting that is to vary and has no values, or a grid that is to have members."""
    grids = _grids(settings)
    if not grids:
        raise UserError(f"{file}: grid is an empty list; leave it out, or name settings to vary")
    for name, values in (item for grid in grids for item in grid.items()):
        if not values:
            raise UserError(f"{file}: setting '{name}' has no values; give some, or leave it out")


def _grids(settings: SweepSettings) -> list[Grid]:
    return settings.grid if isinstance(settings.grid, list) else [settings.grid]


def _combinations(settings: SweepSettings) -> Iterator[dict[str, Any]]:
    for grid in _grids(settings):
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    plan: Path  # its settings, a TOML file that `tightframe train` reads
    run: Path
    log: Path
    options: MeasureOptions  # with which its checkpoints are measured

    @property
    def state(self) -> Literal["finished", "running", "started", "waiting"]:
        """Finished: trained, and every kept checkpoint measured as the sweep asks."""
        if not (self.run / "config.toml").exists():
            return "running" if self.holder else "waiting"
        run = Run.open(self.run)
        if run.finished and self._measured(run) >= set(run.steps):
            return "finished"
        return "running" if self.holder else "started"

    @property
    def holder(self) -> str:
        """The process that trains or measures the run; "" if there is none."""
        return held_by(self.run) or held_by(self.run / "states")

    @property
    def job(self) -> Job:
        """The command that trains and measures the run."""
        command = [sys.executable, "-m", "tightframe", "train", str(self.plan), "--measure"]
        command += ["--min-count", str(self.options.min_count)]
        command += [part for name in self.options.measures for part in ("--measures", name)]
        return Job(self.name, command, self.log)

    def _measured(self, run: Run) -> set[int]:
        """Return the checkpoints that have all the sweep's measures of the run's own tokens."""
        from tightframe.geometry.rows import least_count  # imports torch

        options = self.options
        fewest = options.chosen_min_count
        wanted = {(one.name, least_count(one, fewest)) for one in choose(options.measures)}
        key = options.key.items()
        steps = set()
        for file in (self.run / "results").glob("step-*.jsonl"):
            header, rows = read_rows(file)
            own = header.tokens.get("fingerprint") == run.facts["tokens"]
            of_all = {(row.metric, row.min_count) for row in rows if row.subset == "all"}
            if own and key <= header.measurement.items() and of_all >= wanted:
                steps.add(header.step)
        return steps


def plan(file: Path, *, sizes: bool = True) -> list[PlannedRun]:
    """Write the sweep's plan (once) and return its runs, in order.

    A sweep that was planned from other settings is refused: give the new one another name.

    Args:
        file: The sweep file.
        sizes: Refuse runs that have not begun and that this machine cannot train.
    """
    sweep = read_sweep(file, sizes=sizes)
    settings = sweep.settings
    options = MeasureOptions(
        measures=tuple(settings.measures),
        min_count=settings.min_count,
        groups=1,
        skip_positions=0,
        skip_special=False,
    )
    planned = []
    for name, values in sweep.runs.items():
        plan, log = settings.path / "plan" / f"{name}.toml", settings.path / "logs" / f"{name}.txt"
        if not plan.exists():
            write_toml(plan, values)
        planned.append(PlannedRun(name, plan, Path(values["out"]), log, options))
    write_toml(settings.path / SWEEP, sweep.values)
    return planned


def run(
    file: Path, *, workers: int | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Train and measure every run that isn't finished; returns the sweep's folder.

    Several processes may do this at once, on one machine or on many that share a disk: each run
    is held by the one that trains it.

    Args:
        file: The sweep file.
        workers: Runs at a time; by default as many as have a core for each of their threads, and
            one if they go to a GPU.
        say: Gets a line for every run that starts, ends or fails.

    Raises:
        PartlyDoneError: Some runs failed, or others are at work on them. The message lists them.
    """
    check_workers(workers)
    runs = plan(file)
    settings = read_sweep(file, sizes=False).settings
    left = [planned for planned in runs if planned.state != "finished"]
    if len(left) < len(runs):
        say(f"{len(runs) - len(left)} of {len(runs)} runs are finished already")
    if left:
        cost = estimate([planned.plan for planned in left], settings.path, tflops=1.0)
        cost.check_disk(settings.path)
    jobs = [planned.job for planned in left]
    failed = run_and_say(jobs, workers=workers or _workers(left), say=say)
    check_done(failed, n_runs=len(runs), held=_held(left))
    return settings.path


def _held(runs: Iterable[PlannedRun]) -> dict[str, str]:
    """Return the runs that some process is at work on, and which one."""
    return {run.name: run.holder for run in runs if run.state == "running"}


def missing(file: Path) -> list[PlannedRun]:
    """Return the planned runs that are not finished, and that nobody is at work on."""
    return [run for run in plan(file, sizes=False) if run.state in ("started", "waiting")]


def submit(file: Path, options: slurm.SlurmOptions) -> slurm.Array:
    """Write a Slurm array of the missing runs, and submit it unless it is a dry run."""
    runs = missing(file)
    folder = read_sweep(file, sizes=False).settings.path
    threads = max((int(read_toml(run.plan)["threads"]) for run in runs), default=0)
    return slurm.submit([run.job for run in runs], folder, options, threads=threads)


def _workers(runs: list[PlannedRun]) -> int:
    """Return how many runs have a core for each of their threads; a GPU takes one at a time."""
    from tightframe.lm import hardware  # imports torch

    plans = [resolve(TrainOptions, read_toml(one.plan), source=str(one.plan)) for one in runs]
    chosen = [hardware.choose(settings) for settings in plans]
    if any(settings.device == "cuda" for settings in chosen):
        return 1
    return max(1, cores() // max((settings.threads for settings in chosen), default=1))
