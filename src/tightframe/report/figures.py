"""Figures for print as PDF and PNG, by matplotlib; the same rows give the same bytes.

Nothing here depends on the machine or the day.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tightframe.analysis.checkpoints import Checkpoints
from tightframe.files import whole_file
from tightframe.geometry.views import LOSS, Panel, arrow, top, views_of
from tightframe.report.panels import (
    SIZES,
    Fit,
    SizeScale,
    error_bars,
    fit,
    floors,
    loss_range,
    trajectory,
)
from tightframe.report.profiles import Line, Profile, key_name
from tightframe.report.rendering import COLOURS, parameters

LIGHT = {name: light for name, (light, _) in COLOURS.items()}
INK, SOFT = LIGHT["ink"], LIGHT["soft"]
STYLE: dict[Any, Any] = {  # for `mpl.rc_context`, around all drawing
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "pdf.fonttype": 42,  # letters stay text, so that they can be searched and edited
}
SMALL_COLUMNS = 3  # of small panels
MARKERS = {"next": "o", "current": "s", "shuffled": "D"}
_COLOURS = LinearSegmentedColormap.from_list("size", [light for light, _ in SIZES])


def blank(width: float, height: float, *, dpi: int = 200) -> Figure:
    """Return an empty figure, in inches, that finds room for titles and legends by itself."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small_panels(n: int, *, legend: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return a figure of `n` small panels in reading order, with inches for a legend below."""
    columns = min(SMALL_COLUMNS, n)
    lines = -(-n // columns)
    figure = blank(2.9 * columns, 2.6 * lines + legend)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for place in axes[n:]:
        place.remove()
    return figure, axes[:n]


def round_log_ticks(axis: Axis) -> None:
    """Set the ticks of a logarithmic axis at 1, 2 and 5, written as they are."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def settle(figure: Figure) -> None:
    """Lay a figure out once: it is not done again for every file."""
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; its bytes hold no date and no name of a program."""
    stamp = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    with mpl.rc_context(STYLE), whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=stamp)


def save_for_print(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png`."""
    files = [folder / f"{name}.{kind}" for kind in ("pdf", "png")]
    for file in files:
        save(figure, file)
    return files


def draw_all(shown: Checkpoints, found: pd.DataFrame, folder: Path) -> None:
    """Write every view, on linear and on logarithmic axes, as PDF and PNG.

    Args:
        shown: One line per checkpoint, with its floors.
        found: Their associations.
        folder: Takes `<view>[_nc2_nc3][_log].{pdf,png}`.
    """
    for view in views_of(shown.table):
        for part, panels in (("", view.main), ("_nc2_nc3", view.more)):
            for log in (False, True):
                figure = draw(shown, found, panels, log=log)
                save_for_print(figure, folder, f"{view.name}{part}{'_log' if log else ''}")


def draw(shown: Checkpoints, found: pd.DataFrame, panels: Sequence[Panel], *, log: bool) -> Figure:
    """Draw validation loss (vertical) against the measure of each panel, coloured by parameters."""
    table = shown.table
    columns = 2 if len(panels) == 4 else len(panels)
    lines = len(panels) // columns
    with mpl.rc_context(STYLE):
        figure = blank(8.4, 3.2 * lines)
        axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
        sizes = SizeScale.of(table)
        norm = LogNorm(sizes.low, sizes.high)
        for place, panel in zip(axes.flat, panels, strict=True):
            _draw_titles(place, panel, shown.min_counts.get(panel.metric, 1))
            place.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            place.xaxis.set_major_formatter(FuncFormatter(_number))
            if panel.metric in table:
                _draw_points(place, table, panel.metric, norm)
                drawn = fit(table, found, panel.metric, log=log)
                _draw_fit(place, drawn)
                _draw_floors(place, table, at_left=drawn.free_corner == "right")
            else:
                _write(
                    place,
                    "right",
                    "not shown" if panel.metric in shown.refused else "not measured",
                    "",
                )
        for place in axes[:, 0]:
            place.set_ylabel("validation loss (nats per token)")
        axes[0, 0].set_ylim(*loss_range(table))
        if len(sizes.ticks) > 1:
            scale = ScalarMappable(norm, _COLOURS)
            bar = figure.colorbar(scale, ax=axes, aspect=22 * lines, pad=0.02)
            bar.set_label("parameters")
            bar.set_ticks(list(sizes.ticks), labels=[parameters(tick) for tick in sizes.ticks])
            bar.ax.minorticks_off()
    settle(figure)
    return figure


def draw_trajectories(table: pd.DataFrame, folder: Path, *, name: str) -> None:
    """Write the measures of every view against the step, as PDF and PNG.

    Args:
        table: One line per run and step.
        folder: Takes `<name>_<view>.{pdf,png}`.
        name: "training" for what was measured then, "steps" for checkpoints.
    """
    for view in views_of(table):
        if any(trajectory(table, panel.metric) for panel in view.panels):
            figure = draw_trajectory(table, [LOSS, *view.panels])
            save_for_print(figure, folder, f"{name}_{view.name}")


def draw_trajectory(table: pd.DataFrame, panels: Sequence[Panel]) -> Figure:
    """Draw measures against the step on logarithmic axes, one line per run, coloured by parameters.

    Steps within a factor of ten, and measures that are not positive everywhere, have a linear
    axis; a logarithmic one leaves step 0 out.
    """
    measured = [panel for panel in panels if trajectory(table, panel.metric) is not None]
    sizes = SizeScale.of(table)
    norm = LogNorm(sizes.low, sizes.high)
    with mpl.rc_context(STYLE):
        figure, places = small_panels(len(measured))
        for place, panel in zip(places, measured, strict=True):
            drawn = trajectory(table, panel.metric)
            assert drawn is not None
            _draw_titles(place, panel)
            place.set_xlabel("step")
            place.set_ylabel(f"{panel.metric}\n({arrow(panel.metric, upright=True)})")
            for line in drawn.lines:
                first = int(line.steps[0] == 0 and drawn.decades)
                colour = _COLOURS(float(norm(line.size)))
                steps, values = line.steps[first:], line.values[first:]
                place.plot(steps, values, color=colour, marker="o", markersize=2.5)
                place.vlines(
                    steps, line.low[first:], line.high[first:], color=colour, linewidth=0.8
                )
            if drawn.decades:
                place.set_xscale("log")
                _set_ticks(place.xaxis, drawn.step_ticks)
            if drawn.value_ticks:
                place.set_yscale("log")
                _set_ticks(place.yaxis, drawn.value_ticks)
            else:
                place.yaxis.set_major_formatter(FuncFormatter(_number))
    settle(figure)
    return figure


def draw_profile(profile: Profile, folder: Path) -> None:
    """Write the measures of a checkpoint by layer or by frequency, as PDF and PNG.

    Args:
        profile: With at least one panel.
        folder: Takes `layers.{pdf,png}` or `frequency.{pdf,png}`.
    """
    with mpl.rc_context(STYLE):
        figure, panels = small_panels(len(profile.smalls), legend=0.4)
        for place, small in zip(panels, profile.smalls, strict=True):
            metric = small.panel.metric
            _draw_titles(place, small.panel)
            place.set_xlabel(profile.axis)
            setting = f"; min_count {small.min_count:,}" if small.min_count > 1 else ""
            place.set_ylabel(f"{metric}\n({arrow(metric, upright=True)}{setting})")
            for line in small.lines:
                _draw_line(place, line)
            places, names = zip(*profile.ticks, strict=True)
            place.set_xticks(places, labels=names, fontsize=8 if len(names) < 8 else 7)
            place.set_xlim(*profile.ends)
            if small.log:
                place.set_yscale("log")
                _set_ticks(place.yaxis, small.value_ticks)
            else:
                place.yaxis.set_major_formatter(FuncFormatter(_number))
                place.set_ylim(top=min(place.get_ylim()[1], top(metric) or math.inf))
        keys = [_draw_key(*key) for key in profile.keys]
        figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False)
    settle(figure)
    save_for_print(figure, folder, profile.kind)


def _draw_line(axes: Axes, line: Line) -> None:
    look = _look(line.labels, line.twin)
    size = min(3.2, 60 / len(line.x))
    axes.plot(line.x, line.y, clip_on=False, in_layout=False, **look | {"markersize": size})
    colour = LIGHT[line.labels]
    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0.6)


def _draw_key(labels: str, twin: bool) -> Line2D:
    return Line2D([], [], label=key_name(labels, twin), **_look(labels, twin))


def _look(labels: str, twin: bool) -> dict[str, Any]:
    colour = LIGHT[labels]
    return {
        "color": colour,
        "marker": MARKERS[labels],
        "markersize": 3.2,
        "markerfacecolor": "white" if twin else colour,
        "linewidth": 1.2,
        "linestyle": (0, (3.5, 2)) if twin else "-",
    }


def _set_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    axis.set_ticks(ticks, labels=[_number(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _draw_titles(axes: Axes, panel: Panel, min_count: int = 1) -> None:
    family = axes.set_title(panel.family, loc="left", fontsize=9, weight="bold")
    beside: dict[str, Any] = {
        "xycoords": family,
        "textcoords": "offset points",
        "fontsize": 9,
        "va": "bottom",
    }
    axes.annotate(panel.title, (1, 0), (6, 0), **beside)
    setting = f"; min_count {min_count:,}" if min_count > 1 else ""
    axes.set_xlabel(f"{panel.metric}   ({arrow(panel.metric)}{setting})")


def _draw_points(axes: Axes, table: pd.DataFrame, metric: str, norm: LogNorm) -> None:
    # The checkpoints of a run are joined, in order: they depend on each other.
    for _, run in table.sort_values("step").groupby("run"):
        axes.plot(run[metric], run["val_loss"], color=LIGHT["thread"], linewidth=0.8, zorder=1)
    axes.scatter(
        table[metric],
        table["val_loss"],
        c=table["model_n_parameters"].astype(float),
        norm=norm,
        cmap=_COLOURS,
        s=26,
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    low, high = error_bars(table, metric)
    axes.hlines(table["val_loss"], low, high, color=SOFT, linewidth=0.7, zorder=2)
    low, high = error_bars(table, "val_loss")
    axes.vlines(table[metric], low, high, color=SOFT, linewidth=0.7, zorder=2)


def _draw_fit(axes: Axes, drawn: Fit) -> None:
    if drawn.x is not None and drawn.y is not None:
        axes.plot(drawn.x, drawn.y, color=INK, linewidth=1.1, alpha=0.75, zorder=2)
    _write(axes, drawn.free_corner, drawn.headline, drawn.detail)
    if drawn.ticks is not None:
        axes.set_xscale("log")
        axes.set_xticks(drawn.ticks, labels=[_number(tick) for tick in drawn.ticks])
        axes.minorticks_off()


def _number(tick: float, place: int | None = None) -> str:
    return f"{tick:g}".replace("-", "\N{MINUS SIGN}")


def _draw_floors(axes: Axes, table: pd.DataFrame, *, at_left: bool) -> None:
    bottom, _ = loss_range(table)
    for floor, label in floors(table):
        axes.axhline(floor, color=LIGHT["floor"], linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
        below = floor < bottom
        axes.annotate(
            f"{'↓ ' if below else ''}{label}",
            (0.01 if at_left else 0.99, bottom if below else floor),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left" if at_left else "right",
            fontsize=6.5,
            color=LIGHT["floor"],
        )


def _write(axes: Axes, corner: str, headline: str, detail: str) -> None:
    x, align = (0.02, "left") if corner == "left" else (0.98, "right")
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": align, "va": "top", "zorder": 4}
    axes.text(x, 0.985, headline, fontsize=10, weight="bold", **place)
    axes.text(x, 0.895, detail, fontsize=6.5, color=SOFT, **place)
