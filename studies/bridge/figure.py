"""The bridge between text and class means as one figure: predicted against measured."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tightframe.report.figures import STYLE, blank, round_log_ticks

PANELS = (
    ("nc1_cdnv_med_db", "NC1: variability within classes"),
    ("gnc2_log_kernel_excess", "GNC2: class means crowded beyond uniform"),
    ("nc3_cos_mean", "NC3: cosine of class mean and classifier"),
)
_COLOURS = ("#41329b", "#0b7a62", "#b3500f", "#6b6f78", "#8c2d5a")
_LINE = "#cbc8c0"
_MARKERS = {"limit": "o", "finite": "^", "random": "x"}


def draw(values: pd.DataFrame, classes: pd.DataFrame) -> Figure:
    """Three measures, predicted against measured, and how alike class means lie, by loss.

    Args:
        values: A line a model, prediction and measure; see `analysis.agreement.order`.
        classes: A line a model and prediction: length, variant, loss, cosines.
    """
    lengths = sorted(int(length) for length in values["length"].unique())
    colours = {length: _COLOURS[i % len(_COLOURS)] for i, length in enumerate(lengths)}
    with mpl.rc_context(STYLE):
        figure = blank(8.4, 6.8)
        axes = figure.subplots(2, 2)
        for place, (measure, title) in zip(axes.flat, PANELS, strict=False):
            place.set_title(title)
            _draw_measure(place, values[values["measure"] == measure], colours)
            if _spans(values[values["measure"] == measure]):
                place.set_xscale("log")
                place.set_yscale("log")
                round_log_ticks(place.xaxis)
                round_log_ticks(place.yaxis)
            place.set_xlabel(f"predicted {measure}")
            place.set_ylabel(f"measured {measure}")
        place = axes[1, 1]
        place.set_title("class by class: do the means lie as predicted?")
        _draw_classes(place, classes, colours)
        place.set_xlabel("training loss (nats per token)")
        place.set_ylabel("r of the cosines of all pairs of class means")
        handles, labels = place.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_measure(place: Axes, values: pd.DataFrame, colours: Mapping[int, str]) -> None:
    shown = values[values["variant"].isin(["limit", "finite"])]
    ends = np.concatenate([shown["predicted"], shown["measured"]])
    ends = ends[np.isfinite(ends)]
    if len(ends):
        low, high = float(ends.min()), float(ends.max())
        place.plot([low, high], [low, high], color=_LINE, linewidth=1, zorder=0)
    for variant in ("limit", "finite"):
        for length, colour in colours.items():
            group = shown[(shown["variant"] == variant) & (shown["length"] == length)]
            _scatter(place, group["predicted"], group["measured"], colour, variant)


def _spans(values: pd.DataFrame) -> bool:
    """Whether predictions span so much that logarithmic axes show more; all are positive then."""
    shown = values[values["variant"].isin(_MARKERS) & (values["variant"] != "random")]
    ends = shown[["predicted", "measured"]].to_numpy(float)
    ends = ends[np.isfinite(ends)]
    return len(ends) > 0 and bool(0 < 5 * ends.min() < ends.max())


def _draw_classes(place: Axes, classes: pd.DataFrame, colours: Mapping[int, str]) -> None:
    for variant in _MARKERS:
        for length, colour in colours.items():
            group = classes[(classes["variant"] == variant) & (classes["length"] == length)]
            label = f"{variant}, contexts of {length}"
            _scatter(place, group["loss"], group["cosines"], colour, variant, label)
    place.axhline(0, color=_LINE, linewidth=1, zorder=0)


def _scatter(
    place: Axes,
    x: "pd.Series[float]",
    y: "pd.Series[float]",
    colour: str,
    variant: str,
    label: str | None = None,
) -> None:
    """Filled where the model's loss plays a part, hollow where text and width are all."""
    place.plot(
        x,
        y,
        linestyle="none",
        marker=_MARKERS[variant],
        markersize=4.5,
        markeredgewidth=0.9,
        markeredgecolor=colour,
        markerfacecolor=colour if variant == "finite" else "none",
        label=label,
    )
