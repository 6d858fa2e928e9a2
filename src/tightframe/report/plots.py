"""The figures of pages as plotly's JSON: traces and layout, with a colour for light and for dark.

`page.js` takes the colours of the reader's scheme and the arrays that several figures share, and
draws. Labels are pseudo-HTML to plotly: strangers' words are escaped here (`escaped`), or by
whoever calls where an argument says so.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tightframe.report.panels import SIZES, Fit, SizeScale, Trajectory
from tightframe.report.rendering import COLOURS, json_numbers, parameters, word

Json = dict[str, Any]
_KEY_SETTINGS = ("recipe", "width", "depth", "epochs", "learning_rate", "seed")


def colour(name: str, opacity: float = 1.0) -> Json:
    """Return a colour of the page for light and for dark, by its name in `rendering.COLOURS`."""
    alpha = "" if opacity == 1 else f"{round(255 * opacity):02x}"
    return dict(zip(("light", "dark"), (one + alpha for one in COLOURS[name]), strict=True))


def escaped(text: str) -> str:
    """Return text for plotly, which knows &lt; &gt; &amp; and not &quot;; lines end with <br>."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def four(value: float) -> str:
    """Return a number with four digits for a label; a dash where it is not finite."""
    if not math.isfinite(value):
        return "\N{EM DASH}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


class Shared(dict[str, Any]):
    """Arrays that several figures of a page refer to by name."""

    def put(self, name: str, values: Sequence[Any]) -> Json:
        """Keep an array and return what stands for it in a figure."""
        self[name] = values
        return {"shared": name}


_AXIS: Json = {
    "gridcolor": colour("grid"),
    "linecolor": colour("rule"),
    "tickcolor": colour("rule"),
    "zeroline": False,
    "ticks": "outside",
    "ticklen": 4,
    "automargin": True,
    "nticks": 6,
    "tickfont": {"color": colour("soft"), "size": 12},
    "exponentformat": "power",
    "minexponent": 5,
    "title": {"standoff": 8, "font": {"color": colour("ink"), "size": 12.5}},
}
TEMPLATE: Json = {  # of the layout of all figures; page.js adds the letters of the page
    "font": {"color": colour("ink")},
    "paper_bgcolor": colour("card"),
    "plot_bgcolor": colour("card"),
    "margin": {"l": 52, "r": 10, "t": 8, "b": 50},
    "showlegend": False,
    "hovermode": "closest",
    "hoverdistance": 24,
    "hoverlabel": {
        "align": "left",
        "bgcolor": colour("card"),
        "bordercolor": colour("soft"),
        "font": {"color": colour("ink"), "size": 12.5},
    },
    "annotationdefaults": {"showarrow": False, "borderpad": 2},
    "xaxis": _AXIS,
    "yaxis": _AXIS,
}


def figure(traces: Sequence[Json], *, x: Json, y: Json, about: str, **layout: Any) -> Json:
    """Return a figure; `about` is what a screen reader says of it."""
    return {"data": [*traces], "layout": {"xaxis": x, "yaxis": y, **layout}, "about": about}


def axis(title: str, ticks: Sequence[float] | None = None, **more: Any) -> Json:
    """Return an axis with a title; with ticks it is logarithmic, and they are written as they are.

    Args:
        title: Pseudo-HTML.
        ticks: Places of the ticks of a logarithmic axis; none where plotly chooses them.
        more: Other attributes of plotly's axes.
    """
    log: Json = {}
    if ticks:
        log = {"type": "log", "tickvals": [*ticks], "ticktext": [four(tick) for tick in ticks]}
    return {"title": {"text": title}, **log, **more}


def clipped(top: float | None) -> Json:
    """Return the attributes of an axis whose automatic range does not exceed `top`."""
    return {} if top is None else {"autorangeoptions": {"clipmax": top}}


def bars(below: Sequence[float | None], above: Sequence[float | None], look: Json) -> Json:
    """Return error bars that reach so far below and above the values; None is no bar."""
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


# Sweeps and runs.


def scatter(
    metric: str,
    points: Json,
    fit: Fit,
    *,
    title: str,
    top: float | None,
    losses: tuple[float, float],
    floors: Sequence[tuple[float, str]],
    sizes: SizeScale,
) -> Json:
    """Return validation loss (vertical) against a measure: points, runs joined, and the line.

    Args:
        metric: Name of the measure.
        points: Arrays `x`, `y`, `size`, `hover` (escaped), `thread_x`, `thread_y` (checkpoints of
            a run in order, None between two runs), and perhaps `error_x`, `error_y`.
        fit: The line and what is written beside it.
        title: Of the horizontal axis, pseudo-HTML.
        top: Largest value that the measure can have.
        losses: Ends of the axis of the loss.
        floors: Entropy floors with their labels.
        sizes: The scale of colours.
    """
    quiet: Json = {"hoverinfo": "skip", "mode": "lines"}
    thread: Json = {"x": points["thread_x"], "y": points["thread_y"]}
    line: Json = {"x": fit.x or (), "y": fit.y or ()}
    steps = len(SIZES) - 1
    marker = {
        "size": 10,
        "color": points["size"],
        "cmin": math.log10(sizes.low),
        "cmax": math.log10(sizes.high),
        "colorscale": [[i / steps, colour(f"size-{i}")] for i in range(steps + 1)],
        "line": {"color": colour("card"), "width": 1},
    }
    ring = {"size": 17, "symbol": "circle-open", "color": colour("ink"), "line": {"width": 2}}
    reach: Json = {name: points[name] for name in ("error_x", "error_y") if name in points}
    traces: list[Json] = [
        thread | quiet | {"line": {"color": colour("thread"), "width": 1}},
        line | quiet | {"line": {"color": colour("ink"), "width": 1.75}},
        {
            "x": points["x"],
            "y": points["y"],
            "mode": "markers",
            "customdata": points["hover"],
            "hovertemplate": f"%{{customdata}}<br>{metric} <b>%{{x:.4g}}</b><extra></extra>",
            "marker": marker,
            **reach,
        },
        # The point under the pointer, ringed by the script in every panel.
        {"x": [], "y": [], "hoverinfo": "skip", "mode": "markers", "marker": ring},
    ]
    scale = axis(title, fit.ticks) if fit.log else axis(title, **clipped(top))
    return figure(
        traces,
        x=scale,
        y=axis("validation loss, nats per token", range=losses),
        about=f"Scatter plot of validation loss against {metric} on a "
        f"{'logarithmic' if fit.log else 'linear'} axis. {fit.headline}, {fit.detail}. The values "
        "are in the table of runs.",
        shapes=[_floor_line(value) for value, _ in floors],
        annotations=[*_fit_notes(fit), *(_floor_note(one, losses[0], fit) for one in floors)],
    )


def checkpoint_labels(table: pd.DataFrame) -> list[str]:
    """Return the run of every point, its loss, size and settings, escaped and in short lines.

    Labels show the settings in which the runs differ, and step and parameters.
    """
    names = [name for name in table.columns if name.startswith("set_") and name != "set_out"]
    usual = {f"set_{name}" for name in _KEY_SETTINGS}
    shown = [name for name in names if name in usual or table[name].nunique(dropna=False) > 1]
    texts = []
    for line in table.to_dict("records"):
        above = line["loss_above_floor"]
        known = "" if math.isnan(above) else f", {above:.3f} above the floor"
        settings = [
            f"{name.removeprefix('set_').replace('_', ' ')} {word(line[name])}"
            for name in shown
            if not pd.isna(line[name])
        ]
        # A line breaks between two settings, not within one.
        joined = "; ".join(setting.replace(" ", "\N{NO-BREAK SPACE}") for setting in settings)
        parts = [
            f"step {line['step']:,}; {parameters(line['model_n_parameters'])} parameters",
            f"loss {line['val_loss']:.3f}{known}",
            *textwrap.wrap(joined, 44, max_lines=6, break_on_hyphens=False),
        ]
        run = str(line["run"])
        run = run if len(run) <= 44 else f"{run[:43]}\N{HORIZONTAL ELLIPSIS}"
        texts.append("<br>".join([f"<b>{escaped(run)}</b>", *map(escaped, parts)]))
    return texts


def _note(text: str, side: str, name: str, size: float, **place: Any) -> Json:
    """Return escaped text at the left or the right end of a panel."""
    return {
        "text": text,
        "xref": "paper",
        "x": 0.01 if side == "left" else 0.99,
        "xanchor": side,
        "align": side,
        "font": {"color": colour(name), "size": size},
        **place,
    }


def _fit_notes(fit: Fit) -> list[Json]:
    at_top = {"yref": "paper", "y": 1, "yanchor": "top"}
    headline = f"<b>{escaped(fit.headline)}</b>" if fit.headline else ""
    below = {"yshift": -25 if headline else 0}
    return [
        _note(headline, fit.free_corner, "ink", 17.0, **at_top),
        _note(escaped(fit.detail), fit.free_corner, "soft", 11.5, **at_top, **below),
    ]


def _floor_note(floor: tuple[float, str], lowest: float, fit: Fit) -> Json:
    value, label = floor
    side = "right" if fit.free_corner == "left" else "left"
    words = label if value >= lowest else f"\N{DOWNWARDS ARROW} {label}"
    return _note(words, side, "floor", 11.5, y=max(value, lowest), yanchor="bottom")


def _floor_line(value: float) -> Json:
    line = {"color": colour("floor"), "width": 1.25, "dash": "6px,4px"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
    return {"type": "line", "layer": "below", "line": line, **ends}


def trajectories(
    metric: str, drawn: Trajectory, sizes: SizeScale, *, title: str, top: float | None, log: bool
) -> Json:
    """Return a measure against the step, one line per run, coloured by parameters.

    Args:
        metric: Name of the measure.
        drawn: The lines.
        sizes: The scale of colours.
        title: Of the vertical axis, pseudo-HTML.
        top: Largest value that the measure can have.
        log: Whether axes that can be logarithmic are; such a horizontal one leaves step 0 out.
    """
    log_steps, log_values = log and drawn.decades, log and drawn.positive
    traces = []
    for line in drawn.lines:
        kept = [i for i, step in enumerate(line.steps) if step > 0 or not log_steps]
        look = sizes.colour(line.size)
        values, low, high = (
            json_numbers([part[i] for i in kept], digits=7)
            for part in (line.values, line.low, line.high)
        )
        trace = {
            "x": [line.steps[i] for i in kept],
            "y": values,
            "mode": "lines+markers",
            "meta": escaped(line.run),
            "hovertemplate": "<b>%{meta}</b><br>step %{x:,}<br>"
            f"{metric} <b>%{{y:.4g}}</b><extra></extra>",
            "line": {"color": look, "width": 1.75},
            "marker": {"size": 5, "color": look},
        }
        if any(end is not None for end in low):
            below, above = reaches(values, low, high)
            trace["error_y"] = bars(below, above, {"color": look, "thickness": 1, "width": 0})
        traces.append(trace)
    return figure(
        traces,
        x=axis("step", drawn.step_ticks if log_steps else None),
        y=axis(title, drawn.value_ticks) if log_values else axis(title, **clipped(top)),
        about=f"Lines of {metric} against the step on a "
        f"{'logarithmic' if log_steps else 'linear'} axis, one per run.",
    )


def reaches(
    values: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """Return how far intervals reach below and above values; None where there is none."""

    def between(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else float(f"{b - a:.6g}")

    below = [between(end, value) for end, value in zip(low, values, strict=True)]
    above = [between(value, end) for value, end in zip(values, high, strict=True)]
    return below, above


# One checkpoint.

_SYMBOLS = {"next": "circle", "current": "square", "shuffled": "diamond"}


def profile(lines: Sequence[Any], *, x: Json, y: Json, about: str) -> Json:
    """Return lines of a measure over layers or counts, with bands for their intervals.

    Args:
        lines: Of `profiles.Line`.
        x: The horizontal axis.
        y: The vertical axis.
        about: What a screen reader says of it.
    """
    traces = [trace for line in lines for trace in _bands(line)]
    for line in lines:
        own, many = colour(line.labels), len(line.x) > 20
        traces.append(
            {
                "x": line.x,
                "y": json_numbers(line.y, digits=6),
                "name": escaped(line.name),
                "mode": "lines+markers",
                "cliponaxis": False,
                "connectgaps": False,
                "hoverinfo": "text",
                "hovertext": line.hover,
                "line": {"color": own, "width": 1.75, "dash": "5px,4px" if line.twin else "solid"},
                "marker": {
                    "size": min(6.5, 120 / len(line.x)),
                    "color": colour("card") if line.twin else own,
                    "symbol": _SYMBOLS[line.labels],
                    "line": {"color": own, "width": 1 if many else 1.5},
                },
            }
        )
    return figure(traces, x=x, y=y, about=about)


def _bands(line: Any) -> list[Json]:
    """Return a band for every stretch of places whose values have both ends of an interval."""
    stretches: list[list[int]] = [[]]
    for i, ends in enumerate(zip(line.low, line.high, strict=True)):
        if all(map(math.isfinite, ends)):
            stretches[-1].append(i)
        else:
            stretches.append([])
    fill = {"fill": "toself", "fillcolor": colour(line.labels, 0.12 if line.twin else 0.2)}
    return [
        {
            "x": [line.x[i] for i in (*places, *reversed(places))],
            "y": [*(line.low[i] for i in places), *(line.high[i] for i in reversed(places))],
            "mode": "lines",
            "hoverinfo": "skip",
            **(fill if len(places) > 1 else {}),
            "line": {"width": 0.75 if len(places) > 1 else 5, "color": colour(line.labels, 0.35)},
        }
        for places in stretches
        if places
    ]
