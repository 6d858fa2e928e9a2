"""Train and measure the models of the laboratory, and judge them by the rule of design.toml.

    python -m studies.laboratory.run                                    train, measure
    python -m studies.laboratory.run --collect docs/results/laboratory  a table per corpus
    python -m studies.laboratory.run --judge docs/results/laboratory    verdicts from them

All models are trained in one process, a run at a time; what is finished is skipped.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from studies.laboratory import figure, judge
from tightframe.geometry.study import measure_model
from tightframe.jobs import sweep
from tightframe.jobs.programs import endings_in_one_line, say
from tightframe.lm.options import TrainOptions
from tightframe.lm.training import train
from tightframe.report.figures import save
from tightframe.results import read_csv, write_csv
from tightframe.settings import read_toml, resolve

HERE = Path(__file__).parent
CORPORA = ("emma", "stories")


def train_and_measure(corpus: str) -> None:
    """Finish every run of one corpus."""
    runs = sweep.plan(HERE / f"{corpus}.toml")
    for number, planned in enumerate(runs, 1):
        if planned.state != "finished":
            train(resolve(TrainOptions, read_toml(planned.plan), source=str(planned.plan)))
            measure_model(str(planned.run), planned.options, say)
            say(f"{corpus}: {number} of {len(runs)}, {planned.name}")


def collect(folder: Path) -> None:
    """Write the models of both corpora, one row per model."""
    folder.mkdir(parents=True, exist_ok=True)
    for corpus in CORPORA:
        settings = sweep.read_sweep(HERE / f"{corpus}.toml", sizes=False).settings
        write_csv(folder / f"{corpus}.csv", judge.models(settings.path, settings.measures))


def write_verdicts(folder: Path) -> str:
    """Judge the models of a folder; write tables and figure, and return them as text."""
    design = read_toml(HERE / "design.toml")
    files = {corpus: folder / f"{corpus}.csv" for corpus in CORPORA}
    tables = {corpus: read_csv(file) for corpus, file in files.items() if file.exists()}

    def joined(of: Callable[[pd.DataFrame, Any], pd.DataFrame]) -> pd.DataFrame:
        parts = [of(table, design).assign(corpus=corpus) for corpus, table in tables.items()]
        found = pd.concat(parts, ignore_index=True)
        return found[["corpus", *(name for name in found if name != "corpus")]]

    written = {
        "verdicts": joined(judge.verdicts),
        "differences": joined(judge.differences),
        "tied": judge.tied_against_untied(tables, design),
    }
    for name, table in written.items():
        write_csv(folder / f"{name}.csv", table)
    save(figure.draw(tables, design), folder / "laboratory.png")
    return "\n\n".join(
        table.to_string(index=False, float_format="{:.4g}".format) for table in written.values()
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collect", type=Path, help="folder for a table of each corpus")
    parser.add_argument("--judge", type=Path, help="folder of these tables; takes the verdicts")
    given = parser.parse_args(arguments)
    if given.collect:
        collect(given.collect)
    if given.judge:
        print(write_verdicts(given.judge))
    if not given.collect and not given.judge:
        for corpus in CORPORA:
            train_and_measure(corpus)


if __name__ == "__main__":
    with endings_in_one_line():
        main()
