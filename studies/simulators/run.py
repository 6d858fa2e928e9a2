"""How often tests err and intervals hold in worlds whose truth is known.

    python -m studies.simulators.run --draws 1000 --out docs/results/statistics

`relate` is called as a user would call it: size held fixed, cells as clusters, families left out.
The table goes into docs/results/statistics.md.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.simulators.worlds import MEASURES, WORLDS, World, draw, true_correlation
from tightframe.analysis.relate import relate
from tightframe.results import write_csv

ALPHA = 0.05
PERMUTATIONS, BOOTSTRAPS = 499, 500


def one_draw(world: World, seed: int, *, families: int = 8) -> dict[str, Any]:
    """Return what `relate` says of one table: tests under controls, the interval of r, the gain."""
    table = draw(world, seed, families=families)
    found = relate(
        table,
        measures=MEASURES,
        controls="log_size",
        clusters="cell",
        family="family",
        permutations=PERMUTATIONS,
        draws=BOOTSTRAPS,
        seed=seed,
    ).table
    first = found.iloc[0]
    return {
        "partial_p": first["partial_p"],
        "any_maxt": found["p_maxt"].min(),
        "any_plain": found["partial_p"].min(),
        "p_cr3": first["p_cr3"],
        "low": first["low"],
        "high": first["high"],
        "gain": first["gain"],
        "gain_p": first["gain_p"],
        "r": first["r"],
    }


def summary(world: World, draws: int, *, families: int = 8) -> dict[str, Any]:
    """Return the shares over many draws of one world."""
    rows = pd.DataFrame([one_draw(world, seed, families=families) for seed in range(draws)])
    truth = true_correlation(world)
    held = (rows["low"] <= truth) & (truth <= rows["high"])
    return {
        "world": world,
        "clusters": families * 5,
        "draws": draws,
        "partial p < 0.05": (rows["partial_p"] < ALPHA).mean(),
        "CR3 p < 0.05": (rows["p_cr3"] < ALPHA).mean(),
        "any of five, max-T": (rows["any_maxt"] < ALPHA).mean(),
        "any of five, plain": (rows["any_plain"] < ALPHA).mean(),
        "true r": truth,
        "interval holds": held.mean(),
        "gain > 0": (rows["gain"] > 0).mean(),
        "gain p < 0.05": (rows["gain_p"] < ALPHA).mean(),
        "mean gain": rows["gain"].mean(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table as CSV and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, help="default: all, of two sizes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    lines = [summary(world, given.draws) for world in given.worlds or WORLDS]
    if not given.worlds:
        lines.append(summary("causes", given.draws, families=4))  # 20 clusters, printed as it is
    table = pd.DataFrame(lines)
    given.out.mkdir(parents=True, exist_ok=True)
    write_csv(given.out / "simulators.csv", table)
    print(markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, with shares in percent."""

    def cell(name: str, value: Any) -> str:
        if isinstance(value, str | int | np.integer):
            return f"{value}"
        if name in ("true r", "mean gain"):
            return "-" if math.isnan(value) else f"{value:.3f}"
        return f"{100 * value:.1f} %"

    names = list(table.columns)
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [
        " | ".join(cell(name, row[name]) for name in names) for row in table.to_dict("records")
    ]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
