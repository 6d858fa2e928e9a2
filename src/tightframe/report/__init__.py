"""Results files -> figures, tables and one self-contained page."""

from collections.abc import Sequence
from pathlib import Path


def report(path: Path, *, out: Path | None = None, theories: Sequence[Path] = ()) -> Path:
    """Make the page, the figures and the tables of a sweep or a run from its results files.

    For the folder of a context table (`ntp/<name>`) only the page is made; for the folder of a
    knowledge study (with a `study.toml`), page, figures and tables in `path/report`.

    Each file is written whole or not at all: `results.parquet` (all rows), `report/index.html`,
    `report/figures/*.{pdf,png}`, `report/tables/*.csv`. If all rows were measured while
    training, the page shows them against the step only. Results of the same model with random
    weights (`random-SEED/results` beside the results of a run) are drawn layer by layer only.

    Args:
        path: A sweep's folder (with `runs/*/results`) or a run's folder (with `results`).
        out: Folder that takes all of it; `results.parquet` in `path` and the rest in
            `path/report` by default.
        theories: Folders of context tables, which the page gives a section each.

    Returns:
        The page.
    """
    from tightframe.files import check_writable
    from tightframe.report import inputs
    from tightframe.report.knowledge_folder import read_study

    folder = path / "report" if out is None else out
    check_writable(folder)
    for theory in theories:
        inputs.check_theory(theory)
    if inputs.is_theory(path):
        from tightframe.report import writing  # imports torch, as do those below

        return writing.write_theory(path, folder)
    if inputs.is_study(path):
        study = read_study(path)
        from tightframe.report import writing

        return writing.write_study(path, study, folder)
    measured = inputs.read_measured(path)
    from tightframe.report import writing

    return writing.write_results(path, measured, out=out, theories=theories)
