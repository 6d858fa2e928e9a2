"""What a report is made of: read and checked before torch, matplotlib and the like are loaded."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tightframe.analysis.checkpoints import Checkpoints, checkpoints
from tightframe.errors import UserError
from tightframe.results import gather

STUDY = "study.toml"  # in the folder of a knowledge study


class Measured(NamedTuple):
    """The results files of a sweep or a run, their rows, and these by checkpoint."""

    files: list[Path]
    rows: pd.DataFrame
    shown: Checkpoints
    looks: Checkpoints  # while training

    @property
    def only_courses(self) -> bool:
        """True if all rows were measured while training."""
        return self.shown.table.empty and not self.looks.table.empty


def is_theory(path: Path) -> bool:
    """Return whether this is the folder of a context table."""
    return (path / "table.safetensors").is_file()


def check_theory(path: Path) -> None:
    """Refuse what is no folder of a context table."""
    if not is_theory(path):
        raise UserError(
            f"{path}: no folder of a context table; make one with `tightframe ntp count`"
        )


def is_study(path: Path) -> bool:
    """Return whether this is the folder of a knowledge study."""
    return (path / STUDY).is_file()


def read_measured(path: Path) -> Measured:
    """Read the rows of a sweep or a run; those that no page can be made of are refused."""
    files = _results_files(path)
    rows = gather(files)
    found = Measured(files, rows, checkpoints(rows), checkpoints(rows, subset="probe"))
    table = found.shown.table
    if not found.only_courses and ("val_loss" not in table or table["val_loss"].isna().all()):
        raise UserError(
            f"{path}: its results have no validation loss; measure with tokens that have a "
            "validation split"
        )
    return found


def _results_files(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a sweep or a run")
    sweep = (path / "runs").is_dir()
    files = sorted(path.glob("runs/*/results/*.jsonl" if sweep else "results/*.jsonl"))
    if not files and (sweep or (path / "sweep.toml").exists()):
        raise UserError(
            f"{path}: this sweep has no results yet; run `tightframe sweep run SWEEP.toml` first"
        )
    if not files and any(path.glob("*/results/*.jsonl")):
        above = path.parent if path.name else path.resolve().parent
        raise UserError(
            f"{path}: is a folder of runs; `tightframe report {above}` shows them together"
            + ("" if path.resolve().name == "runs" else " if it is called `runs`")
        )
    if not files:
        raise UserError(f"{path}: {_measure_first(path)}")
    return files


def _measure_first(path: Path) -> str:
    """Return what a folder without results is, and how results come about."""
    if (path / "manifest.json").is_file():
        return (
            f"holds tokens, no results; run `tightframe measure MODEL --tokens {path}` first, "
            "whose last line says what to report"
        )
    if (path / "config.json").is_file():
        return (
            f"holds a model, no results; run `tightframe measure {path} --text TEXT` first, "
            f"and report runs/{path.resolve().name}"
        )
    return f"no results yet; run `tightframe measure {path}` first"
