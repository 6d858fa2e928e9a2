"""How many 95 % intervals hold the truth, in worlds like text, by documents and measure.

    PYTHONPATH=tests python -m reference.coverage --folder FOLDER [--draws N] [--seed S]
    PYTHONPATH=tests python -m reference.coverage --write

The first command makes `benchmarks/results/coverage.json` (model and counts of each worker lie in
the folder; again, it resumes where it was; `--worker i/n` shares the draws), the second the table
of docs/measures.md from it.
"""

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reference.worlds import WORLDS, Text, of_stories
from tightframe.files import write_text
from tightframe.geometry.measures import metrics
from tightframe.geometry.resampling import plan_of, survivors, usual_min_count

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
BEGIN, END = "<!-- coverage: made by tests/reference/coverage.py -->\n", "<!-- end -->"
DOCUMENTS = (60, 150, 400)  # in 20 groups: three documents each is the hard case
STORIES = "stories"  # real embeddings
# The worlds, and how many documents are drawn of each.
CELLS = (
    *((world, n) for world in list(WORLDS)[:5] for n in DOCUMENTS),
    ("text, long documents", 20),
    ("text, 8 groups", 150),
    ("one text, short memory", 400),
    ("one text, long memory", 400),
    *((STORIES, n) for n in DOCUMENTS),
)
MEASURES = (
    *("nc1_cdnv_med_db", "nc1_cdnv_med_dbg", "nc1_cdnv_rom_db", "nc2_equinorm_std_log"),
    *("nc2_equiang_std", "gnc2_log_kernel_excess", "gnc2_log_kernel_excess_dbg"),
    *("nc3_cos_mean", "nc3_cos_mean_dbg", "unc3_cos_var", "rank_pr"),
)
DRAWS = 400  # of each cell: the standard error of a coverage of 0.95 is 0.011
LEAST, MOST = 0.93, 0.97  # of the intervals hold the truth
NARROWEST = 0.90  # the same, where most intervals are announced as narrow
ANNOUNCED = ("narrow interval", "wide interval")
SHOWN = 0.1  # share of draws with an interval, below which a cell counts as refused


class Cell:
    """Intervals of one measure in one world."""

    def __init__(self, draws=0, shown=0, held=0, looked=0, announced=0):
        self.draws, self.shown, self.held = draws, shown, held
        self.looked = looked  # intervals whose reason was looked at
        self.announced = announced  # those of them that are called narrow or wide

    @property
    def counts(self):
        """All counts, to be added to those of other draws."""
        return [self.draws, self.shown, self.held, self.looked, self.announced]

    def add(self, value, truth):
        """Count one draw."""
        self.draws += 1
        if not math.isnan(value.low):
            self.shown += 1
            self.held += value.low <= truth <= value.high
            self.looked += 1
            self.announced += any(word in value.reason for word in ANNOUNCED)

    @property
    def coverage(self):
        """Share of the intervals that hold the truth; NaN where they are refused."""
        refused = self.shown < max(1, SHOWN * self.draws)
        return math.nan if refused else self.held / self.shown

    @property
    def is_announced(self):
        """Whether most intervals say that they are narrow or wide."""
        return 2 * self.announced > self.looked

    @property
    def agrees(self):
        """Whether it is refused, or within two standard errors of 0.93 to 0.97, or says not."""
        if math.isnan(self.coverage):
            return True
        least, most = (NARROWEST, 1) if self.is_announced else (LEAST, MOST)
        low, high = (2 * math.sqrt(p * (1 - p) / self.shown) for p in (least, most))
        return least - low <= self.coverage <= most + high

    @property
    def words(self):
        """Its coverage, with the share of draws that have an interval where some are refused."""
        if math.isnan(self.coverage):
            return "refused"
        share = self.shown / self.draws
        mark = "" if self.agrees else " (!)"
        if self.is_announced:
            mark = " (narrow)" if self.coverage < 0.95 else " (wide)"
        few = f", {self.draws} draws" if self.draws < DRAWS else ""
        return f"{self.coverage:.3f}{mark}" + ("" if share > 0.995 else f" of {share:.0%}") + few


def added(first, second):
    """Add up counts, of which older ones may be fewer."""
    return [x + y for x, y in itertools.zip_longest(first, second, fillvalue=0)]


def count(population_of, n_documents, draws, measures=MEASURES):
    """Count the intervals that hold the truth over some draws, with the settings of a user.

    Args:
        population_of: Gives the population of each draw.
        n_documents: Documents of each.
        draws: Which draws, by number.
        measures: Names.
    """
    cells = {name: Cell() for name in measures}
    for draw in draws:
        population = population_of(draw)
        moments = population.sample(n_documents)
        least = usual_min_count(moments.counts_by_group)
        if least is None:
            for name in measures:
                cells[name].draws += 1
            continue
        values = metrics(moments, population.classifier, measures=measures, min_count=least)
        fixed = survivors(moments.counts_by_group, plan_of(range(moments.n_groups)))
        truth = population.truth(measures, fixed & (moments.counts >= least))
        for name in measures:
            cells[name].add(values[name], truth[name])
    return cells


def of_cell(world, n_documents, draws, folder=None, *, seed=0, measures=MEASURES):
    """Count in a world: each draw is from another made population, or from the one real one."""
    if world != STORIES:
        return count(lambda draw: Text(WORLDS[world], [seed, draw]), n_documents, draws, measures)
    stories = of_stories(folder)

    def reseeded(draw):
        stories.rng = np.random.default_rng([seed, n_documents, draw])
        return stories

    return count(reseeded, n_documents, draws, measures)


def run(folder, draws, worker, measures, seed):
    """Count in every cell, ten draws at a time, those of this worker; and write what there is.

    Of another seed the file has another name, and all are added up.
    """
    torch.set_num_threads(1)
    mine, workers = worker
    file = folder / f"counts-{seed}-{mine}-of-{workers}.json"
    held = json.loads(file.read_text()) if file.exists() else {}
    for first in range(0, draws, 10 * workers):
        for world, n in CELLS:
            place = held.setdefault(f"{world} | {n}", {})
            wanted = [name for name in measures if place.get(name, [0])[0] * workers <= first]
            if not wanted:
                continue
            numbers = range(first + mine, first + 10 * workers, workers)
            for name, cell in of_cell(
                world, n, numbers, folder, seed=seed, measures=wanted
            ).items():
                place[name] = added(place.get(name, []), cell.counts)
            write_text(file, json.dumps(held, indent=1))
    gather(folder)


def gather(folder):
    """Add up the counts of all workers."""
    total = {}
    for file in sorted(folder.glob("counts-*.json")):
        for key, cells in json.loads(file.read_text()).items():
            place = total.setdefault(key, {})
            for name in [name for name in MEASURES if name in cells]:
                place[name] = added(place.get(name, []), cells[name])
    lines = [f"{json.dumps(key)}: {json.dumps(cells)}" for key, cells in total.items()]
    write_text(RESULTS, "{\n" + ",\n".join(lines) + "\n}\n")


def cells_of(results=RESULTS):
    """The cells that were counted, by world, number of documents and measure."""
    return {
        (*key.split(" | "), name): Cell(*counts)
        for key, cells in json.loads(results.read_text()).items()
        for name, counts in cells.items()
    }


def table(cells):
    """Return the coverage as a Markdown table, a line for each world and number of documents."""
    names = [name for name in MEASURES if any(key[2] == name for key in cells)]
    lines = ["| world | documents | " + " | ".join(f"`{name}`" for name in names) + " |"]
    lines.append("|" + "---|" * (2 + len(names)))
    for world, n in CELLS:
        found = [cells.get((world, str(n), name)) for name in names]
        words = ["" if cell is None else cell.words for cell in found]
        lines.append(f"| {world} | {n} | " + " | ".join(words) + " |")
    usual = statistics.mode(cell.draws for cell in cells.values())
    fewer = any(cell.draws < usual for cell in cells.values())
    error = math.sqrt(0.95 * 0.05 / usual)
    counted = (
        f"{usual} draws of each cell{', where it is not said otherwise' if fewer else ''}: the "
        f"standard error of a coverage of 0.95 is {error:.3f}"
    )
    return "\n".join([*lines, "", f"{counted}."]) + "\n"


def write(page=ROOT / "docs" / "measures.md"):
    """Put the table in its place on the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    write_text(page, before + BEGIN + table(cells_of()) + END + after)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, or write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", default="0/1")
    parser.add_argument("--measures", nargs="*", default=list(MEASURES))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if options.write:
        write()
    else:
        i, n = map(int, options.worker.split("/"))
        run(options.folder, options.draws, (i, n), options.measures, options.seed)


if __name__ == "__main__":
    main()
