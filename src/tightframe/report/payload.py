"""What the script of the page draws: points against losses, lines against steps.

Plotly reads some HTML, so that names of runs and settings are escaped here.
"""

import dataclasses
import html
import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd

from tightframe.analysis.association import FEW_RUNS
from tightframe.analysis.checkpoints import Checkpoints
from tightframe.geometry.views import arrow, top, views_of
from tightframe.report.panels import (
    ON_DARK,
    ON_LIGHT,
    SizeScale,
    course,
    error_bars,
    fit,
    floors,
    loss_range,
    parameters,
)
from tightframe.report.rendering import json_numbers, word

FEWEST = 3  # checkpoints: fewer have no association with the loss, and no figure of one
_KEY_SETTINGS = ("recipe", "width", "depth", "epochs", "learning_rate", "seed")


def is_scattered(table: pd.DataFrame) -> bool:
    """Tell whether measures are drawn against losses: not those of one run, nor of two points."""
    return len(table) >= FEWEST and table["run"].nunique() > 1


def against_step(table: pd.DataFrame) -> pd.DataFrame:
    """Return the checkpoints to draw against their steps.

    They are those of runs with several, where there are fewer runs than say something together.
    """
    if table.empty or table["run"].nunique() >= FEW_RUNS:
        return table.iloc[:0]
    return table[table.groupby("run")["step"].transform("size") >= FEWEST]


def payload(
    shown: Checkpoints, found: pd.DataFrame, courses: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return what the script draws, as plain JSON-able values: points once, then each panel."""
    table = shown.table
    sizes = SizeScale.of(pd.concat([table, courses], ignore_index=True))
    shared = {
        "sizeRange": [math.log10(sizes.low), math.log10(sizes.high)],
        "colours": {"light": ON_LIGHT, "dark": ON_DARK},
        "courses": {
            "steps": _courses(against_step(table)),
            "training": {} if courses is None else _courses(courses),
        },
    }
    return shared | (_points(shown, found) if len(table) else {})


def _points(shown: Checkpoints, found: pd.DataFrame) -> dict[str, Any]:
    """Return the checkpoints against their validation losses."""
    table, refused = shown.table, shown.refused
    runs = table.sort_values("step", kind="stable").groupby("run", sort=False)
    panels, views = {}, views_of(table)
    for panel in dict.fromkeys(panel for view in views for panel in view.panels):
        if panel.metric in table:
            panels[panel.metric] = {
                "x": json_numbers(table[panel.metric], digits=7),
                "bars": _bars(table, panel.metric),
                "linear": dataclasses.asdict(fit(table, found, panel.metric, log=False)),
                "log": dataclasses.asdict(fit(table, found, panel.metric, log=True)),
            }
    return {
        "loss": json_numbers(table["val_loss"], digits=7),
        "lossBars": _bars(table, "val_loss"),
        "lossRange": loss_range(table),
        "size": json_numbers(np.log10(table["model_n_parameters"].astype(float)), digits=7),
        "floors": [{"value": value, "label": label} for value, label in floors(table)],
        "threads": [[int(place) for place in run.index] for _, run in runs],
        "hover": _hover(table),
        "panels": panels,
        "views": {
            view.name: [
                {
                    "metric": panel.metric,
                    "family": panel.family,
                    "title": panel.title,
                    "top": top(panel.metric),
                    "arrow": "; ".join(
                        filter(None, [arrow(panel.metric), setting(panel.metric, shown)])
                    ),
                    "missing": refused.get(panel.metric, f"no {panel.metric} in these results"),
                }
                for panel in view.panels
            ]
            for view in views
        },
    }


def _bars(table: pd.DataFrame, metric: str) -> dict[str, list[float | None]] | None:
    """Return how far intervals reach beyond the values; None where there is none."""
    low, high = error_bars(table, metric)
    if low.isna().all():
        return None
    return {
        "below": json_numbers(table[metric] - low, digits=4),
        "above": json_numbers(high - table[metric], digits=4),
    }


def setting(metric: str, shown: Checkpoints) -> str:
    """Say with which minimum count a metric was measured; "" where that is 1."""
    least = shown.min_counts.get(metric)
    return "" if least is None else f"min_count {least:,}"


def _courses(courses: pd.DataFrame) -> dict[str, Any]:
    """Return every measure of the views, and the loss, against the step, a line a run."""
    drawn = {}
    for metric in ("val_loss", *views_of_metrics(courses)):
        if (one := course(courses, metric)) is not None:
            lines = zip(
                *(one.runs, one.sizes, one.steps, one.values, one.low, one.high), strict=True
            )
            drawn[metric] = {
                "positive": one.positive,
                "decades": one.decades,
                "top": top(metric),
                "stepTicks": one.step_ticks,
                "valueTicks": one.value_ticks,
                "arrow": arrow(metric, upright=True),
                "lines": [
                    {
                        "run": _escape(run),
                        "size": math.log10(size),
                        "x": steps,
                        "y": json_numbers(values, digits=7),
                        "low": json_numbers(low, digits=7),
                        "high": json_numbers(high, digits=7),
                    }
                    for run, size, steps, values, low, high in lines
                ],
            }
    return drawn


def _hover(table: pd.DataFrame) -> list[str]:
    """The run of every point, its loss, size and settings, escaped and in short lines.

    Shown are the settings in which the runs differ, and the usual ones.
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
        texts.append("<br>".join([f"<b>{_escape(run)}</b>", *map(_escape, parts)]))
    return texts


def _escape(text: str) -> str:
    return html.escape(text, quote=False)  # plotly knows &lt; &gt; &amp; and not &quot;


def views_of_metrics(table: pd.DataFrame) -> dict[str, str]:
    """The measures in the order of their panels, and the views that show each of a table."""
    views: dict[str, list[str]] = {}
    shown = views_of(table)
    for pair in zip(*(view.panels for view in shown), strict=True):
        for view, panel in zip(shown, pair, strict=True):
            views.setdefault(panel.metric, []).append(view.name)
    return {metric: " ".join(names) for metric, names in views.items()}
