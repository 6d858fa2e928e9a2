"""Checked rows, studies and tables -> figures, tables and one self-contained page."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tightframe.analysis.association import FEW_RUNS, associations
from tightframe.analysis.checkpoints import at_centres
from tightframe.analysis.options import RelateOptions, rules_of, with_rule
from tightframe.analysis.relate import relate_table
from tightframe.errors import UserError
from tightframe.files import whole_file, write_text
from tightframe.geometry.options import PREFIXES
from tightframe.report import (
    by_token,
    figures,
    knowledge,
    knowledge_figures,
    knowledge_page,
    page,
    profiles,
    tables,
    theory_page,
)
from tightframe.report.inputs import STUDY, Measured
from tightframe.report.knowledge_folder import Study
from tightframe.report.theory import read_theory
from tightframe.results import gather, read_rows, write_csv


def write_results(
    path: Path, measured: Measured, *, out: Path | None, theories: Sequence[Path]
) -> Path:
    """Write all of a sweep or a run; returns the page. See `tightframe.report.report`."""
    predicted = [read_theory(folder)[0] for folder in theories]
    files, rows, shown, looks = measured
    table, courses = shown.table, looks.table
    only_courses = measured.only_courses
    folder = path / "report" if out is None else out
    _write_parquet((path if out is None else out) / "results.parquet", rows)
    found, smalls, classes = pd.DataFrame(), list[profiles.Profile](), None
    if not only_courses:
        table = tables.with_floors(table)
        shown = shown._replace(table=table)
        write_csv(folder / "tables" / "runs.csv", tables.runs(table))
        shown = at_centres(shown)
        table = shown.table
        found = associations(table, tables.measured(table))
        write_csv(folder / "tables" / "settings.csv", shown.settings)
        write_csv(folder / "tables" / "associations.csv", found)
        write_text(folder / "tables" / "associations.md", tables.associations_text(found, table))
        classes = by_token.find(path, table)
        smalls = profiles.profiles(rows, table.groupby("run")["val_loss"].min(), _twins(path))
    drawn = page.figures(shown, found, courses, classes=classes, smalls=smalls, theories=predicted)
    if page.is_scattered(table):
        figures.draw_all(table, drawn, folder / "figures")
    if len(steps := page.against_step(table)):
        figures.draw_trajectories(steps, drawn, folder / "figures", name="steps")
    for profile in smalls:
        write_csv(folder / "tables" / f"{profile.kind}.csv", profiles.table(profile))
        figures.draw_profile(profile, drawn, folder / "figures")
    for published, prefix in PREFIXES.items():
        if rows["metric"].str.startswith(f"{prefix}.").any():
            columns = tables.published(rows, published)
            write_csv(folder / "tables" / f"{published}.csv", columns)
    if not courses.empty:
        write_csv(folder / "tables" / "training.csv", courses)
        figures.draw_trajectories(courses, drawn, folder / "figures", name="training")
    text = page.render(
        shown,
        found,
        [read_rows(file)[0] for file in files],
        training=looks,
        name=path.resolve().name,
        commands=_commands(path)[-1:] if only_courses else _commands(path),
        finding="" if only_courses else _finding(path, table),
        data=drawn,
        classes=classes,
        smalls=smalls,
        theories=predicted,
    )
    write_text(folder / "index.html", text)
    return folder / "index.html"


def _finding(path: Path, table: pd.DataFrame) -> str:
    """Return what relating the measures to the loss says; "" of few runs, or of several texts.

    The rule is that of the sweep's file; by default the seven published measures, with size and
    step held fixed where they differ.
    """
    if table["run"].nunique() < FEW_RUNS or table["tokens_fingerprint"].nunique() > 1:
        return ""
    facts = {"log_n_params": "model_n_parameters", "step": "step"}
    controls = tuple(name for name, fact in facts.items() if table[fact].nunique() > 1)
    rules = rules_of([path])
    options = with_rule(rules[0], RelateOptions()) if rules else RelateOptions(controls=controls)
    try:
        return relate_table(table, options).conclusion
    except UserError:  # other measures, or nothing that varies: the page says the rest
        return ""


def write_theory(path: Path, folder: Path) -> Path:
    """Write the page of a context table."""
    theory, sources = read_theory(path)
    shown = Path(path.resolve().parent.name) / path.resolve().name
    commands = [
        f"tightframe ntp count TOKENS --out {shown}",
        f"tightframe ntp solve {shown}",
        f"tightframe ntp compare MODEL --table {shown}",
        f"tightframe report {shown}",
    ]
    write_text(folder / "index.html", theory_page.render_theory(theory, sources, commands))
    return folder / "index.html"


def write_study(path: Path, study: Study, folder: Path) -> Path:
    """Write page, figures and tables of a knowledge study, `path`."""
    types = knowledge.by_type(study.questions)
    bins = knowledge.recall_by_feature(study.recall)
    written = {"scores": study.scores, "differences": study.differences, "runs": study.runs}
    for name, table in (written | {"types": types, "recall": bins}).items():
        if len(table):
            write_csv(folder / "tables" / f"{name}.csv", table)
    arms = knowledge.arms_of(study)
    data = knowledge_page.page_data(study, types, bins, arms)
    knowledge_figures.draw_study(study, bins, data["figures"], folder / "figures")
    shown = Path(path.resolve().parent.name) / study.name
    commands = [
        f"tightframe knowledge study CONFIG.toml --data FACTS --out {shown}  # kept: {STUDY}",
        f"tightframe report {shown}",
    ]
    text = knowledge_page.render_study(study, data, bins, commands)
    write_text(folder / "index.html", text)
    return folder / "index.html"


def _twins(path: Path) -> dict[str, tuple[int, pd.DataFrame]]:
    """Return seed and rows of the model with random weights, for every run that has one.

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
    if shown.parent.name == "atlas":
        return [
            "tightframe atlas run MODEL --text TEXT  # a name on the hub, or a folder",
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
    """Return rows in which a setting with numbers and words has words only."""
    mixed = {
        name: rows[name].map(str, na_action="ignore")
        for name in rows.columns
        if rows[name].dropna().map(type).nunique() > 1
    }
    return rows.assign(**mixed)
