"""Figures for print as PDF and PNG: the figures of a page, drawn by matplotlib, several on a sheet.

The same figures give the same bytes: nothing here depends on the machine or the day.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tightframe.files import whole_file
from tightframe.geometry.views import LOSS, Panel, views_of
from tightframe.report.panels import SIZES, SizeScale
from tightframe.report.profiles import Profile
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
_PIXEL = 0.6  # points on paper for a pixel of the page
_MARKS = {"circle": "o", "square": "s", "diamond": "D", "x": "X", "triangle-up": "^", "cross": "P"}
_SHADES = LinearSegmentedColormap.from_list("size", [light for light, _ in SIZES])


class SheetPanel(NamedTuple):
    """A figure of the page, with the family and title that stand above it."""

    family: str  # bold
    title: str
    figure: Mapping[str, Any]


def draw_panels(
    panels: Sequence[SheetPanel],
    shared: Mapping[str, Any],
    *,
    columns: int = SMALL_COLUMNS,
    sizes: SizeScale | None = None,
    legend: bool = False,
) -> Figure:
    """Draw figures of a page in panels, in reading order.

    Args:
        panels: At least one.
        shared: The arrays that they refer to.
        columns: Of panels.
        sizes: The scale of colours, shown beside the panels if it has several ticks.
        legend: Whether the names of the lines stand below.
    """
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = blank(8.7 / min(columns, 3) * columns, 2.9 * lines + 0.4 * legend)
        places = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes, panel in zip(places, panels, strict=False):
            _draw(axes, _plain(panel.figure, shared))
            family = axes.set_title(panel.family, loc="left", fontsize=9, weight="bold")
            where: dict[str, Any] = {"xycoords": family, "textcoords": "offset points"}
            axes.annotate(panel.title, (1, 0), (6, 0), fontsize=9, va="bottom", **where)
        for axes in places[len(panels) :]:
            axes.remove()
        if sizes is not None and len(sizes.ticks) > 1:
            scale = ScalarMappable(LogNorm(sizes.low, sizes.high), _SHADES)
            bar = figure.colorbar(scale, ax=places[: len(panels)], aspect=22 * lines, pad=0.02)
            bar.set_label("parameters")
            bar.set_ticks(list(sizes.ticks), labels=[parameters(tick) for tick in sizes.ticks])
            bar.ax.minorticks_off()
        if legend:
            named: dict[str, Any] = {}
            for axes in places[: len(panels)]:
                handles, labels = axes.get_legend_handles_labels()
                named |= dict(zip(labels, handles, strict=True))
            below: dict[str, Any] = {"loc": "outside lower center", "frameon": False}
            figure.legend(named.values(), named.keys(), ncols=min(6, len(named)), **below)
    settle(figure)
    return figure


def blank(width: float, height: float, *, dpi: int = 200) -> Figure:
    """Return an empty figure, in inches, that finds room for titles and legends by itself."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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


def save_for_print(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.pdf` and `<name>.png`."""
    for kind in ("pdf", "png"):
        save(figure, folder / f"{name}.{kind}")


def _plain(part: Any, shared: Mapping[str, Any]) -> Any:
    """Return a figure with light colours and shared arrays put in."""
    if isinstance(part, Mapping):
        if "light" in part:
            return part["light"]
        if "shared" in part:
            return shared[part["shared"]]
        return {name: _plain(own, shared) for name, own in part.items()}
    return [_plain(own, shared) for own in part] if isinstance(part, list | tuple) else part


def _draw(axes: Axes, figure: dict[str, Any]) -> None:
    layout = figure["layout"]
    bars = [trace for trace in figure["data"] if trace.get("type") == "bar"]
    for i, trace in enumerate(bars):
        _draw_bars(axes, trace, (i - (len(bars) - 1) / 2) * 0.8 / len(bars), 0.8 / len(bars))
    for trace in figure["data"]:
        if trace.get("type") != "bar" and len(trace["x"]):
            _draw_trace(axes, trace)
    _draw_axis(axes.xaxis, layout["xaxis"])
    _draw_axis(axes.yaxis, layout["yaxis"])
    for shape in layout.get("shapes", ()):
        line = shape["line"]
        look = {"color": line["color"], "linestyle": _dash(line["dash"])}
        axes.axhline(shape["y0"], linewidth=_PIXEL * line["width"], zorder=1, **look)
    for note in layout.get("annotations", ()):
        _draw_note(axes, note, log=layout["xaxis"].get("type") == "log")


def _draw_trace(axes: Axes, trace: dict[str, Any]) -> None:
    x, y = (np.array(trace[name], dtype=float) for name in "xy")  # None is NaN
    if "fillcolor" in trace:
        axes.fill(x, y, color=trace["fillcolor"], linewidth=0)
        return
    line, marker = trace.get("line", {}), trace.get("marker", {})
    for name in ("error_x", "error_y"):
        if name in trace:
            _draw_intervals(axes, x, y, trace[name], name[-1])
    if isinstance(marker.get("color"), list):  # points in shades
        ends: dict[str, Any] = {"vmin": marker["cmin"], "vmax": marker["cmax"], "cmap": _SHADES}
        edge: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3}
        axes.scatter(x, y, c=marker["color"], s=26, **ends, **edge)
        return
    look: dict[str, Any] = {"color": line["color"], "linestyle": _dash(line.get("dash", "solid"))}
    if "markers" in trace["mode"]:
        symbol = marker.get("symbol", "circle")
        hollow = symbol.endswith("-open") or marker["color"] != line["color"]
        look["marker"] = _MARKS[symbol.removesuffix("-open")]
        look["markersize"] = _PIXEL * marker["size"]
        look["markerfacecolor"] = "white" if hollow else marker["color"]
    label = html.unescape(trace["name"]) if "name" in trace else None
    axes.plot(x, y, label=label, linewidth=_PIXEL * line["width"], zorder=2, **look)


def _draw_intervals(axes: Axes, x: Any, y: Any, reach: dict[str, Any], which: str) -> None:
    ends = np.nan_to_num(np.array([reach["arrayminus"], reach["array"]], dtype=float)).clip(min=0)
    look = {"ecolor": reach["color"], "elinewidth": 0.7, "capsize": reach.get("width", 0) / 2}
    axes.errorbar(x, y, fmt="none", zorder=2, **{f"{which}err": ends}, **look)


def _draw_bars(axes: Axes, trace: dict[str, Any], shift: float, width: float) -> None:
    x, y = np.array(trace["x"], dtype=float) + shift, np.array(trace["y"], dtype=float)
    colour = trace["marker"]["color"]
    hatched = {"color": "white", "edgecolor": colour, "hatch": "////"}
    look: dict[str, Any] = hatched if "pattern" in trace["marker"] else {"color": colour}
    axes.bar(x, y, 0.92 * width, label=html.unescape(trace["name"]), **look)
    _draw_intervals(axes, x, y, trace["error_y"], "y")


def _draw_axis(axis: Axis, spec: dict[str, Any]) -> None:
    axes = axis.axes
    which = "x" if axis is axes.xaxis else "y"
    log = spec.get("type") == "log"
    if log:
        axes.set(**{f"{which}scale": "log"})
        axis.set_minor_locator(NullLocator())
    elif "tickvals" not in spec:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_number))
    if "tickvals" in spec:
        axis.set_ticks(spec["tickvals"], labels=[_words(text) for text in spec["ticktext"]])
    ends = [10**end if log else end for end in spec["range"]] if "range" in spec else None
    if ends is not None:
        axes.set(**{f"{which}lim": ends})
    if "autorangeoptions" in spec:
        low, high = axis.get_view_interval()
        axes.set(**{f"{which}lim": (low, min(high, spec["autorangeoptions"]["clipmax"]))})
    if not spec.get("showgrid", True):
        axis.grid(visible=False)
    axis.set_label_text(_words(spec["title"]["text"]))


def _draw_note(axes: Axes, note: dict[str, Any], *, log: bool) -> None:
    in_data = axes.transData
    place = {
        (True, True): axes.transAxes,
        (True, False): axes.get_yaxis_transform(),  # along the panel, at a value
    }.get((note.get("xref") == "paper", note.get("yref") == "paper"), in_data)
    x = 10 ** note["x"] if log and place is in_data else note["x"]
    axes.annotate(
        _words(note["text"]),
        (x, note["y"]),
        (_PIXEL * note.get("xshift", 0), _PIXEL * note.get("yshift", 0)),
        xycoords=place,
        textcoords="offset points",
        ha=note["xanchor"],
        va=note.get("yanchor", "center"),
        fontsize=_PIXEL * note["font"]["size"],
        weight="bold" if note["text"].startswith("<b>") else "normal",
        color=note["font"]["color"],
        annotation_clip=False,
    )


def _dash(dash: str) -> Any:
    if dash == "solid":
        return "-"
    return (0, tuple(float(part.removesuffix("px")) / 1.7 for part in dash.split(",")))


def _words(text: str) -> str:
    """Return pseudo-HTML as plain text."""
    return html.unescape(re.sub("<[^>]*>", "", text.replace("<br>", "\n")))


def _number(tick: float, place: int | None = None) -> str:
    return f"{tick:g}".replace("-", "\N{MINUS SIGN}")


# Which figures stand on which sheet.


def draw_all(table: pd.DataFrame, drawn: Mapping[str, Any], folder: Path) -> None:
    """Write every view, on linear and on logarithmic axes, as PDF and PNG.

    Args:
        table: One line per checkpoint.
        drawn: What `page.figures` gives.
        folder: Takes `<view>[_nc2_nc3][_log].{pdf,png}`.
    """
    sizes = SizeScale.of(table)
    for view in views_of(table):
        for part, shown in (("", view.main), ("_nc2_nc3", view.more)):
            for scale in ("linear", "log"):
                panels = _panels(shown, "scatter {} " + scale, drawn)
                columns = 2 if len(panels) == 4 else SMALL_COLUMNS
                sheet = draw_panels(panels, drawn["shared"], columns=columns, sizes=sizes)
                ending = "_log" if scale == "log" else ""
                save_for_print(sheet, folder, f"{view.name}{part}{ending}")


def draw_trajectories(
    table: pd.DataFrame, drawn: Mapping[str, Any], folder: Path, *, name: str
) -> None:
    """Write the loss and the measures of every view against the step, as PDF and PNG.

    Args:
        table: One line per run and step.
        drawn: What `page.figures` gives.
        folder: Takes `<name>_<view>.{pdf,png}`.
        name: "training" for what was measured then, "steps" for checkpoints.
    """
    for view in views_of(table):
        if _panels(view.panels, name + " {} log", drawn):
            panels = _panels([LOSS, *view.panels], name + " {} log", drawn)
            save_for_print(draw_panels(panels, drawn["shared"]), folder, f"{name}_{view.name}")


def draw_profile(profile: Profile, drawn: Mapping[str, Any], folder: Path) -> None:
    """Write the measures of a checkpoint by layer or by frequency, as PDF and PNG.

    Args:
        profile: With at least one panel.
        drawn: What `page.figures` gives.
        folder: Takes `layers.{pdf,png}` or `frequency.{pdf,png}`.
    """
    panels = _panels([small.panel for small in profile.smalls], profile.kind + " {}", drawn)
    save_for_print(draw_panels(panels, drawn["shared"], legend=True), folder, profile.kind)


def _panels(shown: Iterable[Panel], name: str, drawn: Mapping[str, Any]) -> list[SheetPanel]:
    """Return the panels of measures that have a figure; {} in the name is that of the measure."""
    figures = drawn["figures"]
    return [
        SheetPanel(one.family, one.title, figures[name.format(one.metric)])
        for one in shown
        if name.format(one.metric) in figures
    ]
