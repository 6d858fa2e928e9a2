"""The figures of a knowledge study for print, as PDF and PNG; the same tables, the same bytes.

Axes: K clusters.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tightframe.report import knowledge
from tightframe.report.figures import (
    INK,
    LIGHT,
    STYLE,
    SheetPanel,
    blank,
    draw_panels,
    save_for_print,
    settle,
)
from tightframe.report.knowledge_folder import Ensemble, Study
from tightframe.report.knowledge_plots import N_ARMS, key


def draw_study(study: Study, bins: pd.DataFrame, drawn: Mapping[str, Any], folder: Path) -> None:
    """Write all figures of a study.

    Args:
        study: What its folder holds.
        bins: See `knowledge.recall_by_feature`.
        drawn: Figures of the page by name.
        folder: Takes `accuracy_by_facts`, `accuracy_by_position`, with them `routing_<ensemble>`
            and `geometry` where there is something to draw, as `.pdf` and `.png`.
    """
    by_facts, by_position = [], []
    for form, score, exposures, rows in _forms(study.scores):
        name = key("facts", form, score, exposures)
        by_facts.append(SheetPanel(form, f"{exposures:,} exposures", drawn[name]))
        n_facts = knowledge.busiest(rows)
        beside = f"{n_facts:,} facts x {exposures:,}"
        name = key("positions", form, score, n_facts, exposures)
        by_position.append(SheetPanel(form, beside, drawn[name]))
    sheets = {"accuracy_by_facts": by_facts, "accuracy_by_position": by_position}
    if len(bins):
        n_facts = knowledge.busiest(bins)
        features = knowledge.ordered(
            bins.loc[bins["n_facts"] == n_facts, "feature"].tolist(), knowledge.FEATURES
        )
        sheets["geometry"] = [
            SheetPanel(name.replace("_", " "), "", drawn[key("recall", name, n_facts)])
            for name in features
        ]
    for name, panels in sheets.items():
        save_for_print(draw_panels(panels, {}, legend=True), folder, name)
    for one in study.ensembles:
        save_for_print(draw_routing(one), folder, f"routing_{one.name}")


def draw_routing(ensemble: Ensemble) -> Figure:
    """Draw questions by the cluster of their fact and the cluster they were sent to, in numbers."""
    matrix = np.array(ensemble.report["routing"]["confusion"], dtype=float)  # (K + 1, K + 1)
    names = [str(one["source"]) for one in ensemble.report["sources"][:-1]] + ["none"]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 0.62 * len(names) + 1.4
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = blank(side + 0.6, side)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Purples", vmin=0, vmax=1.2)
        for row, column in np.ndindex(*matrix.shape):
            ink = "white" if shares[row, column] > 0.6 else INK
            axes.text(
                column, row, f"{matrix[row, column]:,.0f}", ha="center", va="center", color=ink
            )
        axes.set_xticks(range(len(names)), labels=names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), labels=names)
        axes.set_xlabel("sent to (none: the fallback)")
        axes.set_ylabel("cluster of the fact")
        axes.set_title("questions, shaded by share of the line", loc="left", fontsize=8.5)
    settle(figure)
    return figure


def _forms(scores: pd.DataFrame) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """Yield each form, the score that is drawn of it, its most exposures, and their rows."""
    for form in knowledge.ordered(scores["form"].tolist(), knowledge.FORMS):
        own = scores[(scores["form"] == form) & scores["value"].notna()]
        found = knowledge.ordered(own["score"].tolist(), knowledge.SCORES)
        if found and found[0] in knowledge.SCORES:
            most = int(own["exposures"].max())
            rows = own[(own["score"] == found[0]) & (own["exposures"] == most)]
            if (rows["subset"] == "all").any():
                yield form, found[0], most, rows


def arm_look(arm: str, arms: Sequence[str]) -> dict[str, Any]:
    """Return how matplotlib draws an arm's line: colour and mark of the page, open if reordered."""
    place, reordered = knowledge.look_of(arm, arms)
    colour = LIGHT[f"arm-{place % N_ARMS}"]
    return {
        "color": colour,
        "marker": ("X", "s", "o", "D", "^", "P")[place % N_ARMS],
        "markerfacecolor": "white" if reordered else colour,
        "linestyle": (0, (3.5, 2)) if reordered else "-",
        "markersize": 4,
        "linewidth": 1.2,
    }
