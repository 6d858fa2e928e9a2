"""Results files -> figures, tables and one self-contained page."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tightframe.analysis.association import associations
from tightframe.analysis.checkpoints import checkpoints
from tightframe.collapse.checks import PREFIXES
from tightframe.errors import UserError
from tightframe.files import whole_file, write_text
from tightframe.report import (
    by_token,
    figures,
    knowledge,
    knowledge_figures,
    knowledge_page,
    page,
    payload,
    profiles,
    tables,
)
from tightframe.report.knowledge_folder import STUDY, is_study, read_study
from tightframe.report.theory_folder import is_theory, read_theory
from tightframe.results import gather, read_rows, write_csv


def report(path: Path, *, out: Path | None = None, theories: Sequence[Path] = ()) -> Path:
    """Make the page, the figures and the tables of a sweep or a run from its results files.

    Of the folder of a context table (`ntp/<name>`), the page alone; of a knowledge study's (it has
    a `study.toml`), page, figures and tables in `path/report`.

    Each file is written whole or not at all: `results.parquet` (all rows), `report/index.html`,
    `report/figures/*.{pdf,png}`, `report/tables/*.csv`. Where all rows were measured while
    training, the page shows their course alone. What the same model gives with random weights
    (`random-SEED/results` beside the results of a run) is drawn layer by layer only.

    Args:
        path: A sweep's folder (with `runs/*/results`) or a run's folder (with `results`).
        out: Folder that takes all of it; `results.parquet` in `path` and the rest in
            `path/report` by default.
        theories: Folders of context tables, which the page gives a section each.

    Returns:
        The page.
    """
    if is_theory(path):
        return _report_theory(path, path / "report" if out is None else out)
    if is_study(path):
        return _report_study(path, path / "report" if out is None else out)
    predicted = [read_theory(folder)[0] for folder in theories]
    files = _results_files(path)
    rows = gather(files)
    shown, looks = checkpoints(rows), checkpoints(rows, subset="probe")
    table, courses = shown.table, looks.table
    only_courses = table.empty and not courses.empty
    if not only_courses and ("val_loss" not in table or table["val_loss"].isna().all()):
        raise UserError(
            f"{path}: its results have no validation loss; measure with tokens that have a "
            "validation split"
        )
    folder = path / "report" if out is None else out
    _write_parquet((path if out is None else out) / "results.parquet", rows)
    found, smalls = pd.DataFrame(), list[profiles.Profile]()
    if not only_courses:
        table = tables.with_floors(table)
        shown = shown._replace(table=table)
        found = associations(table, tables.measured(table))
        write_csv(folder / "tables" / "runs.csv", tables.runs(table))
        write_csv(folder / "tables" / "settings.csv", shown.settings)
        write_csv(folder / "tables" / "associations.csv", found)
        if payload.is_scattered(table):
            figures.draw_all(shown, found, folder / "figures")
        if len(steps := payload.against_step(table)):
            figures.draw_courses(steps, folder / "figures", name="steps")
        smalls = profiles.profiles(rows, table.groupby("run")["val_loss"].min(), _twins(path))
    for profile in smalls:
        write_csv(folder / "tables" / f"{profile.kind}.csv", profiles.table(profile))
        figures.draw_profile(profile, folder / "figures")
    for published, prefix in PREFIXES.items():
        if rows["metric"].str.startswith(f"{prefix}.").any():
            columns = tables.published(rows, published)
            write_csv(folder / "tables" / f"{published}.csv", columns)
    if not courses.empty:
        write_csv(folder / "tables" / "training.csv", courses)
        figures.draw_courses(courses, folder / "figures", name="training")
    text = page.render(
        shown,
        found,
        [read_rows(file)[0] for file in files],
        courses=looks,
        name=path.resolve().name,
        commands=_commands(path)[-1:] if only_courses else _commands(path),
        classes=None if only_courses else by_token.find(path, table),
        smalls=smalls,
        theories=predicted,
    )
    write_text(folder / "index.html", text)
    return folder / "index.html"


def _report_theory(path: Path, folder: Path) -> Path:
    theory, sources = read_theory(path)
    shown = Path(path.resolve().parent.name) / path.resolve().name
    commands = [
        f"tightframe ntp table TOKENS --out {shown}",
        f"tightframe ntp solve {shown}",
        f"tightframe ntp compare MODEL --table {shown}",
        f"tightframe report {shown}",
    ]
    write_text(folder / "index.html", page.render_theory(theory, sources, commands))
    return folder / "index.html"


def _report_study(path: Path, folder: Path) -> Path:
    study = read_study(path)
    types = knowledge.by_type(study.questions)
    bins = knowledge.recall_by_feature(study.recall)
    written = {"scores": study.scores, "differences": study.differences, "runs": study.runs}
    for name, table in (written | {"types": types, "recall": bins}).items():
        if len(table):
            write_csv(folder / "tables" / f"{name}.csv", table)
    knowledge_figures.draw_study(study, bins, folder / "figures")
    shown = Path(path.resolve().parent.name) / study.name
    commands = [
        f"tightframe knowledge study CONFIG.toml --data FACTS --out {shown}  # kept: {STUDY}",
        f"tightframe report {shown}",
    ]
    text = knowledge_page.render_study(study, types, bins, commands)
    write_text(folder / "index.html", text)
    return folder / "index.html"


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


def _twins(path: Path) -> dict[str, tuple[int, pd.DataFrame]]:
    """Of every run whose architecture was measured with random weights: its first seed, the rows.

    A run is known by its name in the rows, which its folder need not have.
    """
    twins: dict[str, tuple[int, pd.DataFrame]] = {}
    of_a_run = "runs/*/" if (path / "runs").is_dir() else ""
    for folder in sorted(path.glob(f"{of_a_run}random-*/results")):
        seed = folder.parent.name.removeprefix("random-")
        if seed.isdecimal() and (files := sorted(folder.glob("*.jsonl"))):
            rows = gather(files)
            run = str(rows["run"].iloc[0]).removesuffix("-random")
            if run not in twins or int(seed) < twins[run][0]:
                twins[run] = int(seed), rows
    return twins


def _commands(path: Path) -> list[str]:
    # Parents' names say more about their owner's machine than about the results.
    shown = Path(path.resolve().parent.name) / path.resolve().name
    if (path / "runs").is_dir() and not (path / "sweep.toml").exists():
        return [
            "tightframe measure MODEL --text TEXT  # each of the models",
            f"tightframe report {shown}",
        ]
    if (path / "runs").is_dir():
        return [
            f"tightframe sweep run {shown.name}.toml  # kept as {shown / 'sweep.toml'}",
            f"tightframe report {shown}",
        ]
    if not (path / "config.toml").exists():  # a model from elsewhere
        return [
            f"tightframe measure MODEL --tokens TOKENS --out {shown}",
            f"tightframe report {shown}",
        ]
    return [
        f"tightframe train {shown / 'config.toml'}",
        f"tightframe measure {shown}",
        f"tightframe report {shown}",
    ]


def _write_parquet(path: Path, rows: pd.DataFrame) -> None:
    with whole_file(path) as temporary:
        _one_type_a_column(rows).to_parquet(temporary, index=False)


def _one_type_a_column(rows: pd.DataFrame) -> pd.DataFrame:
    """A setting that is a number in one run and a word in another is written as words."""
    mixed = {
        name: rows[name].map(str, na_action="ignore")
        for name in rows.columns
        if rows[name].dropna().map(type).nunique() > 1
    }
    return rows.assign(**mixed)
