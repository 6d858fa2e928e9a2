"""Commands on many runs: a sweep planned, run and looked at, and the page of it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from tightframe.commands.console import OPTIONS, Json, as_parameters, done, say, warnings_said
from tightframe.errors import UserError
from tightframe.jobs.slurm import SlurmOptions

if TYPE_CHECKING:
    Submitting: TypeAlias = SlurmOptions
else:
    Submitting = as_parameters(SlurmOptions, slurm=OPTIONS)

Theories = Annotated[list[Path] | None, Parameter(negative="")]


def plan(
    file: Path,
    /,
    *,
    tflops: Annotated[float, Parameter(validator=Number(gt=0))] = 100.0,
    json: Json = False,
) -> None:
    """Write the settings of every run of a sweep, and print what they cost.

    Tokens, tokenizer and the room on the disk are checked.

    Parameters
    ----------
    file
        The sweep file (TOML).
    tflops
        Sustained speed of one GPU, in 10^12 operations per second: 100 is a third of an A100's
        peak in bfloat16; narrow models reach less.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs
    from tightframe.jobs.estimates import estimate

    runs = jobs.plan(file)
    plans = [run.plan for run in runs]
    folder = plans[0].parent.parent
    cost = estimate(plans, folder, tflops=tflops)
    cost.check_disk(folder)
    fields = {"plans": [str(path) for path in plans], **vars(cost)}
    done(f"{folder / 'plan'}: {cost}", json, **fields)


def run(file: Path, /, *, workers: int | None = None, json: Json = False) -> None:
    """Train and measure every run of a sweep; finished ones are skipped.

    Several of these may be at work on one sweep, also on machines that share a disk.

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
    """Show which runs of a sweep are finished, running, started or waiting.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    states = {run: run.state for run in jobs.plan(file, sizes=False)}
    lines = [
        f"{state:9} {run.name}" + (f" ({run.holder})" if state == "running" else "")
        for run, state in states.items()
    ]
    done("\n".join(lines), json, **{run.name: state for run, state in states.items()})


def submit(
    file: Path,
    /,
    *,
    options: Submitting = Submitting(),  # noqa: B008
    json: Json = False,
) -> None:
    """Submit the missing runs of a sweep to Slurm, as the elements of an array.

    Each element trains and measures its runs. Two minutes before its time is over it
    saves what it has and is queued again. `tightframe sweep status` shows how far they
    are; given again, this command submits what is still missing.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    array = jobs.submit(file, options)
    done(str(array), json, **vars(array))


def commands(file: Path, /, *, json: Json = False) -> None:
    """Print the shell command of each missing run of a sweep, one per line.

    They can be given to anything that runs commands; each run takes its own time and
    can be killed and given again.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    lines = [shlex.join(run.job.command) for run in jobs.missing(file)]
    done("\n".join(lines), json, commands=lines)


def report(
    path: Path, /, *, theory: Theories = None, out: Path | None = None, json: Json = False
) -> None:
    """Make the page, the figures and the tables of a sweep, a run, a series or a study.

    Of a context table, the page alone.

    Parameters
    ----------
    path
        The folder of a sweep, a run, a series (atlas/NAME) or a knowledge study, or of a
        context table (ntp/NAME).
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
