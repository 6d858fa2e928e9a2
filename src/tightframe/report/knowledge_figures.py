"""The figures of a knowledge study as PDF and PNG, by matplotlib; the same tables, the same bytes.

Axes: K clusters.
"""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from tightframe.report import knowledge
from tightframe.report.figures import (
    INK,
    LIGHT,
    SOFT,
    STYLE,
    blank,
    save_for_print,
    settle,
    small_panels,
)
from tightframe.report.knowledge_folder import Ensemble, Study

COLOURS = [LIGHT[f"arm-{i}"] for i in range(6)]
MARKERS = ("X", "s", "o", "D", "^", "P")


def draw_study(study: Study, bins: pd.DataFrame, folder: Path) -> list[Path]:
    """Write all figures of a study.

    Args:
        study: What its folder holds.
        bins: See `knowledge.recall_by_feature`.
        folder: Takes `accuracy_by_facts`, `accuracy_by_position`, with them `routing_<ensemble>`
            and `geometry` where there is something to draw, as `.pdf` and `.png`.
    """
    arms = knowledge.arms_of(study)
    figures = {
        "accuracy_by_facts": draw_by_facts(study.scores, arms),
        "accuracy_by_position": draw_by_position(study.scores, arms),
    }
    for one in study.ensembles:
        figures[f"routing_{one.name}"] = draw_routing(one)
    if len(bins):
        figures["geometry"] = draw_recall(bins, arms)
    files = []
    for name, figure in figures.items():
        settle(figure)
        files += save_for_print(figure, folder, name)
    return files


def draw_by_facts(scores: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Accuracy against the number of facts, a panel a form, a line an arm with 95 % intervals."""
    forms = list(_forms(scores[scores["subset"] == "all"]))
    with mpl.rc_context(STYLE):
        figure, places = _panels(len(forms), arms)
        for axes, (form, score, exposures, rows) in zip(places, forms, strict=True):
            _titles(axes, form, f"{score}, percent", exposures)
            counts = sorted(set(rows["n_facts"]))
            for i, arm in enumerate(arms):
                own = rows[rows["arm"] == arm].sort_values("n_facts")
                if own.empty:
                    continue
                beside = 1.02 ** (i - (len(arms) - 1) / 2)
                _intervals(axes, own["n_facts"] * beside, own, arm, arms)
            axes.set_xscale("log")
            axes.set_xticks(counts, labels=[f"{n:,}" for n in counts])
            axes.minorticks_off()
            axes.set_xlim(counts[0] / 1.4, counts[-1] * 1.4)
            axes.set_xlabel("facts (logarithmic)")
            axes.set_ylim(-3, 103)
    return figure


def draw_by_position(scores: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Accuracy by position of the answer where most arms were run, bars with intervals."""
    forms = list(_forms(scores))
    with mpl.rc_context(STYLE):
        figure, places = _panels(len(forms), arms)
        for axes, (form, score, exposures, rows) in zip(places, forms, strict=True):
            n_facts = _busiest(rows)
            rows = rows[rows["n_facts"] == n_facts]
            _titles(axes, form, f"{score}, percent", exposures, f"{n_facts:,} facts x ")
            groups = knowledge.ordered(rows["subset"].tolist(), knowledge.POSITIONS)
            there = [arm for arm in arms if arm in set(rows["arm"])]
            width = 0.8 / len(there)
            for i, arm in enumerate(there):
                own = rows[rows["arm"] == arm]
                left = own["subset"].map(groups.index) + (i - (len(there) - 1) / 2) * width
                place, reordered = knowledge.look_of(arm, arms)
                colour = COLOURS[place % len(COLOURS)]
                filled = {"color": "white", "edgecolor": colour, "hatch": "////"}
                look: dict[str, Any] = filled if reordered else {"color": colour}
                axes.bar(left, own["value"], 0.92 * width, **look)
                axes.errorbar(
                    left, own["value"], _errors(own), fmt="none", ecolor=INK, elinewidth=0.8
                )
            axes.set_xticks(range(len(groups)), labels=groups)
            axes.grid(visible=False, axis="x")
            axes.set_ylim(0, 103)
    return figure


def draw_routing(ensemble: Ensemble) -> Figure:
    """Questions by the cluster of their fact and the cluster they were sent to, in numbers."""
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
    return figure


def draw_recall(bins: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Facts recalled among those of like geometry, a panel a measure, where most arms were run."""
    bins = bins[bins["n_facts"] == _busiest(bins)]
    arms = [arm for arm in arms if arm in set(bins["arm"])]
    features = knowledge.ordered(bins["feature"].tolist(), knowledge.FEATURES)
    with mpl.rc_context(STYLE):
        figure, places = _panels(len(features), arms)
        for axes, feature in zip(places, features, strict=True):
            rows = bins[bins["feature"] == feature]
            for arm in arms:
                own = rows[rows["arm"] == arm]
                if len(own):
                    _intervals(axes, own["median"], own, arm, arms)
            low, high = rows["median"].min(), rows["median"].max()
            if low > 0 and high / low > 30:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(feature.replace("_", " "), loc="left", fontsize=8.5)
            axes.set_xlabel(
                textwrap.fill(knowledge.FEATURES.get(feature, "median of the group"), 34)
            )
            axes.set_ylabel("recalled, percent")
            axes.set_ylim(-3, 103)
    return figure


def _busiest(rows: pd.DataFrame) -> int:
    """The number of facts that most arms were given, the largest of these."""
    arms = rows.groupby("n_facts")["arm"].nunique()
    return int(arms[arms == arms.max()].index.max())


def _forms(scores: pd.DataFrame) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """Of each form the score that is drawn, at most exposures: that of the rule, or the rank."""
    for form in knowledge.ordered(scores["form"].tolist(), knowledge.FORMS):
        own = scores[(scores["form"] == form) & scores["value"].notna()]
        found = knowledge.ordered(own["score"].tolist(), knowledge.SCORES)
        if found:
            most = int(own["exposures"].max())
            yield form, found[0], most, own[(own["score"] == found[0]) & (own["exposures"] == most)]


def _panels(n: int, arms: Sequence[str]) -> tuple[Figure, list[Axes]]:
    figure, places = small_panels(n, legend=0.4)
    keys = [Line2D([], [], label=arm, **arm_look(arm, arms)) for arm in arms]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(6, len(arms)), frameon=False)
    return figure, places


def _titles(axes: Axes, form: str, score: str, exposures: int, before: str = "") -> None:
    axes.set_title(form, loc="left", fontsize=9, weight="bold")
    axes.set_title(
        f"{before}{exposures:,}" if before else f"{exposures:,} exposures",
        loc="right",
        fontsize=6.5,
        color=SOFT,
    )
    axes.set_ylabel(score)


def _intervals(
    axes: Axes, x: "pd.Series[float]", rows: pd.DataFrame, arm: str, arms: Sequence[str]
) -> None:
    axes.errorbar(
        x, rows["value"], _errors(rows), elinewidth=0.9, capsize=1.5, **arm_look(arm, arms)
    )


def _errors(rows: pd.DataFrame) -> Float[np.ndarray, "2 _"]:
    """Ends of intervals as distances from the value; 0 where there is none."""
    below, above = rows["value"] - rows["low"], rows["high"] - rows["value"]
    ends: Float[np.ndarray, "2 _"] = np.nan_to_num(np.array([below, above], dtype=float)).clip(
        min=0
    )
    return ends


def arm_look(arm: str, arms: Sequence[str]) -> dict[str, Any]:
    """How an arm's line is drawn: one colour and mark on every figure, open where reordered."""
    place, reordered = knowledge.look_of(arm, arms)
    colour = COLOURS[place % len(COLOURS)]
    return {
        "color": colour,
        "marker": MARKERS[place % len(MARKERS)],
        "markerfacecolor": "white" if reordered else colour,
        "linestyle": (0, (3.5, 2)) if reordered else "-",
        "markersize": 4,
        "linewidth": 1.2,
    }
