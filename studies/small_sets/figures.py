"""Trained models beside the geometry that their text predicts, as PNG: courses and heat maps.

Courses are drawn from one line a checkpoint, heat maps from classifier and embeddings; nothing is
measured here.

Axes: V tokens, M distinct contexts, D embedding.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from tightframe.ntp.similarity import cosines_of_rows
from tightframe.report.figures import INK, STYLE, blank

COLUMNS = 4  # of panels
PREDICTED: dict[str, Any] = {"linestyle": ":", "linewidth": 1.8}
BASELINE: dict[str, Any] = {"linestyle": (0, (6, 3)), "linewidth": 0.7}
LINE_COLOURS = ("#41329b", "#b3500f", "#0b7a62", "#6b6f78")  # of the lines of a panel, in order


class Line(NamedTuple):
    """One measure of a panel."""

    metric: str
    label: str


class CoursePanel(NamedTuple):
    """Measures against the step."""

    title: str
    lines: tuple[Line, ...]
    log: bool = False  # a logarithmic vertical axis


class Embedded(NamedTuple):
    """A model, or a prediction: logits are `classifier @ embeddings.T`."""

    title: str
    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]


def draw_course(course: pd.DataFrame, panels: Sequence[CoursePanel], *, title: str) -> Figure:
    """Measures of a model against the step, four panels a line.

    Solid is the trained model, dotted the prediction at its own loss, dashed the baseline. Measures
    that are nowhere defined are left out, and so are panels without any.

    Args:
        course: One line a checkpoint with `step` and the metrics; a column `at_same_loss.<metric>`
            is the prediction, `shuffled.<metric>` the baseline.
        panels: What to draw.
        title: Above all.
    """
    drawn = [panel for panel in (_defined(panel, course) for panel in panels) if panel.lines]
    lines = -(-len(drawn) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = blank(2.6 * COLUMNS, 2.35 * lines + 0.6, dpi=130)
        axes = figure.subplots(lines, COLUMNS, squeeze=False)
        for place in axes.flat[len(drawn) :]:
            place.remove()
        for place, panel in zip(axes.flat, drawn, strict=False):
            _draw_course(place, course, panel)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        how = [
            Line2D([], [], color=INK, marker="o", markersize=2.5, label="trained model"),
            Line2D([], [], color=INK, label="predicted at the model's loss", **PREDICTED),
            Line2D([], [], color=INK, label="of supports drawn at random", **BASELINE),
        ]
        figure.legend(handles=how, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _defined(panel: CoursePanel, course: pd.DataFrame) -> CoursePanel:
    found = (
        line for line in panel.lines if line.metric in course and course[line.metric].notna().any()
    )
    return panel._replace(lines=tuple(found))


def _draw_course(axes: Axes, course: pd.DataFrame, panel: CoursePanel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=8.5)
    axes.set_xlabel("step")
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_locator(FixedLocator([0, 1, 10, 100, 1000, 10_000]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for line, colour in zip(panel.lines, LINE_COLOURS, strict=False):
        axes.plot(
            course["step"],
            course[line.metric],
            color=colour,
            linewidth=1.1,
            marker="o",
            markersize=2,
            label=line.label,
        )
        for prefix, look in (("at_same_loss", PREDICTED), ("shuffled", BASELINE)):
            if f"{prefix}.{line.metric}" in course:
                values = course[f"{prefix}.{line.metric}"]
                axes.plot(course["step"], values, color=colour, **look)
    if len(panel.lines) > 1:
        axes.legend(fontsize=6.5, frameon=False)


def draw_heat_maps(
    columns: Sequence[Embedded],
    *,
    words: Int[np.ndarray, " V"],
    contexts: Int[np.ndarray, " M"],
    title: str,
) -> Figure:
    """Cosines of contexts, cosines of words and logits (rows of panels) of models and theory.

    The classifier is centred over words first, which changes no probability; logits are divided
    by the largest of the panel.

    Args:
        columns: A column of panels each.
        words: The order of the words in every panel.
        contexts: The order of the contexts.
        title: Above all.
    """
    rows: tuple[tuple[str, Literal["equal", "auto"]], ...] = (
        ("cosines of contexts", "equal"),
        ("cosines of words", "equal"),
        ("logits over their largest", "auto"),
    )
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = blank(2.2 * len(columns) + 0.9, 7.2, dpi=150)
        axes = figure.subplots(3, len(columns), squeeze=False)
        for place, column in zip(axes.T, columns, strict=True):
            classifier = (column.classifier - column.classifier.mean(axis=0))[words]
            embeddings = column.embeddings[contexts]
            logits = classifier @ embeddings.T
            shown = (
                cosines_of_rows(embeddings),
                cosines_of_rows(classifier),
                logits / np.abs(logits).max(),
            )
            for axes_, matrix, (_, aspect) in zip(place, shown, rows, strict=True):
                image = axes_.imshow(
                    matrix, vmin=-1, vmax=1, cmap="RdBu_r", aspect=aspect, interpolation="nearest"
                )
                axes_.set_xticks([])
                axes_.set_yticks([])
            place[0].set_title(column.title, fontsize=9)
        for place, (label, _) in zip(axes[:, 0], rows, strict=True):
            place.set_ylabel(label)
        figure.colorbar(image, ax=axes, aspect=50, shrink=0.6, pad=0.02)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure
