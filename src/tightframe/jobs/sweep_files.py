"""What a sweep file asks for: its runs and their settings, checked before torch is loaded."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from tightframe.errors import UserError
from tightframe.geometry.measures import check_measures
from tightframe.geometry.options import check_numbers
from tightframe.jobs.executors import cores
from tightframe.lm.options import TrainOptions
from tightframe.lm.runs import check_sizes
from tightframe.settings import read_toml, resolve

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
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_")
