"""Train and measure the models of the laboratory.

    python -m studies.laboratory.run

Both corpora are trained in one process, a run at a time; what is finished is skipped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tightframe.geometry.study import measure_model
from tightframe.jobs import sweep
from tightframe.jobs.programs import endings_in_one_line, say
from tightframe.lm.options import TrainOptions
from tightframe.lm.training import train
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args(arguments)
    for corpus in CORPORA:
        train_and_measure(corpus)


if __name__ == "__main__":
    with endings_in_one_line():
        main()
