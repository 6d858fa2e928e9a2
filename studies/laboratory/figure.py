"""What pushing the geometry does, as one figure: own measures and losses by strength."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from studies.laboratory.judge import LOSS, by_rank
from tightframe.report.figures import LIGHT, STYLE

SIZE = (2.1, 1.7)  # inches of a panel


def draw(tables: Mapping[str, pd.DataFrame], design: Mapping[str, Any]) -> Figure:
    """Draw a column per regularizer; of each corpus a row of its measure and a row of the loss.

    A thin line is a seed, the thick one their mean; strengths stand in equal steps.
    """
    names = list(design["measure"])
    with mpl.rc_context(STYLE):
        n_rows = 2 * len(tables)
        size = (SIZE[0] * len(names), SIZE[1] * n_rows)
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        grid = figure.subplots(n_rows, len(names), squeeze=False)
        for pair, (corpus, table) in enumerate(tables.items()):
            for place, name in enumerate(names):
                for below, column in enumerate((design["measure"][name], LOSS)):
                    axes = grid[2 * pair + below, place]
                    wide = by_rank(table, name, column)
                    ranks = range(len(wide.columns))
                    for seed in wide.index:
                        axes.plot(ranks, wide.loc[seed], color=LIGHT["soft"], linewidth=0.6)
                    axes.plot(ranks, wide.mean(), color=LIGHT["ink"], marker="o", markersize=3)
                    axes.set_xticks(ranks, [f"{strength:g}" for strength in wide.columns])
                    axes.set_title(column if below == 0 else "validation loss", fontsize=7)
                    if below == 0:
                        axes.set_title(f"{corpus}: {name}\n{column}", fontsize=7)
        for axes in grid[-1]:
            axes.set_xlabel("strength")
    return figure
