"""Commands on many runs: a sweep planned, run and looked at, and the page of it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tightframe.commands.console import Json, done, say, warnings_said
from tightframe.errors import UserError

Theories = Annotated[list[Path] | None, Parameter(negative="")]


def plan(file: Path, /, *, json: Json = False) -> None:
    """Write the settings of every run of a sweep, without running them.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    runs = jobs.plan(file)
    done("\n".join(str(run.plan) for run in runs), json, plans=[str(run.plan) for run in runs])


def run(file: Path, /, *, workers: int | None = None, json: Json = False) -> None:
    """Train and measure every run of a sweep; finished ones are skipped.

    Parameters
    ----------
    file
        The sweep file (TOML).
    workers
        Runs at a time; by default as many as have a core for each of their threads, one on a GPU.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    path = jobs.run(file, workers=workers, say=say)
    done(f"{path}: done; `tightframe report {path}` makes the page", json, sweep=str(path))


def status(file: Path, /, *, json: Json = False) -> None:
    """Show which runs of a sweep are finished, started or waiting.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    states = {run.name: run.state for run in jobs.plan(file, sizes=False)}
    done("\n".join(f"{state:9} {name}" for name, state in states.items()), json, **states)


def report(
    path: Path, /, *, theory: Theories = None, out: Path | None = None, json: Json = False
) -> None:
    """Make the page, the figures and the tables of a sweep, a run or a knowledge study.

    Of a context table, the page alone.

    Parameters
    ----------
    path
        The folder of a sweep, a run or a knowledge study, or of a context table (ntp/NAME).
    theory
        The folder of a context table, whose prediction the page shows too; give it again for more.
    out
        Where to write; the folder `report` inside PATH by default.
    json
        Print one JSON object on standard output.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a sweep or a run")
    from tightframe.ntp.table import table_fingerprint
    from tightframe.report import report as write_report
    from tightframe.report.inputs import check_theory, is_theory

    tables = [*([path] if is_theory(path) else []), *(theory or ())]
    for table in tables:
        check_theory(table)
        table_fingerprint(table)
    if tables:
        from tightframe.ntp.summary import summarize  # imports torch

        for table in tables:
            summarize(table)
    with warnings_said():
        page = write_report(path, out=out, theories=theory or ())
    done(f"open {page}", json, page=str(page))
