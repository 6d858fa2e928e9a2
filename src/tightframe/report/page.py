"""One self-contained page: the panels, the runs, what the measures mean, where all of it is from.

Names of runs, settings and texts are strangers' words: jinja2 escapes them in the page
(`rendering.py`), `_hover` for plotly, which reads some HTML.
"""

import dataclasses
import html
import math
import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tightframe.analysis.association import FEW_RUNS
from tightframe.analysis.checkpoints import Checkpoints, outside
from tightframe.report import by_token, profiles, tables, theory
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
from tightframe.report.rendering import json_numbers, render_template
from tightframe.report.views import LOSS, VIEWS, Panel, View, arrow, measure, top
from tightframe.results import Header

FEWEST = 3  # checkpoints: fewer have no association with the loss, and no figure of one
_KEY_SETTINGS = ("recipe", "width", "depth", "epochs", "learning_rate", "seed")


def render(
    shown: Checkpoints,
    found: pd.DataFrame,
    headers: Sequence[Header],
    *,
    name: str,
    commands: Sequence[str],
    classes: pd.DataFrame | None = None,
    courses: Checkpoints | None = None,
    smalls: Sequence[profiles.Profile] = (),
    theories: Sequence[theory.Theory] = (),
) -> str:
    """The page as HTML.

    Args:
        shown: One line a checkpoint, with its floors; empty if all was measured while training.
        found: Their associations.
        headers: Of the results files.
        courses: One line a run and step, of what was measured while training.
        name: Of the sweep or the run.
        commands: What makes the results and this page.
        classes: Of one model, see `by_token.find`; without them there is no section on tokens.
        smalls: Profiles of one checkpoint each; without them there are no sections of them.
        theories: What tables predict, a section each.
    """
    table = shown.table
    looks = pd.DataFrame() if courses is None else courses.table
    everything = pd.concat([table, looks], ignore_index=True)
    few = len(table) > 0 and not is_scattered(table)
    steps = _shown_courses(against_step(table))
    training = _shown_courses(looks)
    sections = {"figures": len(table) and not few, "steps": steps, "training": training}
    scripts = ["page.js", "sorting.js"]
    scripts += ["profiles.js"] if smalls else []
    scripts += ["by_token.js"] if classes is not None else []
    scripts += ["plots.js", "theory.js"] if theories else []
    return render_template(
        "template.html",
        scripts,
        name=name,
        view=VIEWS[0].name,
        few=few,
        first_section=next((name for name, shown in sections.items() if shown), "runs"),
        fewest_runs=FEW_RUNS,
        theories=theories,
        theory_data=[theory.payload(one) for one in theories],
        payload=payload(shown, found, looks),
        classes=None if classes is None else by_token.payload(classes),
        of_classes=None if classes is None else by_token.summary(classes),
        class_panels=by_token.PANELS,
        profiles=smalls,
        profile_data={profile.kind: profiles.payload(profile) for profile in smalls},
        key_name=profiles.key_name,
        explained=profiles.explained(smalls),
        fewest=profiles.FEWEST,
        sizes=_size_ticks(everything),
        summary=_summary(table, everything),
        courses=training,
        steps=[(view, [LOSS, *panels]) for view, panels in steps],
        n_looks=len(looks),
        views=VIEWS,
        measure=measure,
        arrow=arrow,
        associations=_associations(found),
        columns=_columns(shown),
        checkpoints=_lines(table),
        refused=[*shown.refused.items(), *([] if courses is None else courses.refused.items())],
        without_intervals=shown.without_intervals,
        settings=facts(_without(header.settings, "out") for header in headers),
        model=facts(header.model for header in headers),
        tokens=facts(header.tokens for header in headers),
        measurement=facts(
            {
                **_without(header.measurement, "measures", "weights"),
                "tightframe": header.version,
                "machine": header.machine,
            }
            for header in headers
        ),
        measured=sorted(header.created for header in headers),
        commands=commands,
    )


def render_theory(one: theory.Theory, sources: Mapping[str, Any], commands: Sequence[str]) -> str:
    """The page of a table that is part of no sweep.

    Args:
        one: What is shown.
        sources: What it was made from.
        commands: What makes the results and this page.
    """
    return render_template(
        "theory_page.html",
        ["plots.js", "theory.js"],
        name=one.name,
        view="",
        first_section="theory-0",
        theory=dataclasses.replace(one, name=""),  # it stands above all
        theory_data=[theory.payload(one)],
        sources=facts([sources]),
        commands=commands,
    )


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
    panels = {}
    for panel in dict.fromkeys(panel for view in VIEWS for panel in view.panels):
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
                        filter(None, [arrow(panel.metric), _setting(panel.metric, shown)])
                    ),
                    "missing": refused.get(panel.metric, f"no {panel.metric} in these results"),
                }
                for panel in view.panels
            ]
            for view in VIEWS
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


def _setting(metric: str, shown: Checkpoints) -> str:
    """Say with which minimum count a metric was measured; "" where that is 1."""
    least = shown.min_counts.get(metric)
    return "" if least is None else f"min_count {least:,}"


def _courses(courses: pd.DataFrame) -> dict[str, Any]:
    """Return every measure of the views, and the loss, against the step, a line a run."""
    drawn = {}
    for metric in ("val_loss", *_views_of_metrics()):
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


def facts(each: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """For every name its different values: numbers by size, words as they come."""
    values: dict[str, dict[str, Any]] = {}
    for one in each:
        for name, value in _flat(one):
            values.setdefault(name, {})[_word(value)] = value
    lines = []
    for name, different in values.items():
        numbers = all(isinstance(value, int | float) for value in different.values())
        lines.append(
            (name, sorted(different, key=lambda w: different[w]) if numbers else [*different])
        )
    return lines


def _without(values: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in left_out}


def _flat(one: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in one.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _word(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_word(item) for item in value) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
            f"{name.removeprefix('set_').replace('_', ' ')} {_word(line[name])}"
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


def _lines(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the lines of the table of runs, the best first.

    Beside a value stand the ends of its interval, or a mark where it lies outside of them.
    """
    if table.empty:
        return []
    short = tables.short_names(table["run"].tolist())
    marks = {
        f"outside_{metric}": outside(table[metric], table[f"low_{metric}"], table[f"high_{metric}"])
        for metric in table.columns
        if f"low_{metric}" in table
    }
    shown = table.assign(short=table["run"].map(short), **marks)
    return shown.sort_values("val_loss").to_dict("records")


def _columns(shown: Checkpoints) -> list[dict[str, Any]]:
    """Return the columns of the table of runs: key, heading, format, and views that show it."""
    table = shown.table
    columns = [
        ("run", "run", "text"),
        ("step", "step", "whole"),
        ("val_loss", "loss", "fixed"),
        ("loss_above_floor", "above floor", "fixed"),
        ("loss_above_realised", "above realised", "fixed"),
        ("val_accuracy", "accuracy", "percent"),
        ("val_perplexity", "perplexity", "short"),
        ("model_n_parameters", "parameters", "parameters"),
        ("model_width", "width", "whole"),
        ("model_depth", "depth", "whole"),
        ("set_epochs", "epochs", "short"),
    ]
    always = " ".join(view.name for view in VIEWS)
    found: list[dict[str, Any]] = [
        {"key": key, "label": label, "kind": kind, "views": always, "setting": ""}
        for key, label, kind in columns
        if key in table and not table[key].isna().all()
    ]
    found += [
        {
            "key": metric,
            "label": metric,
            "kind": "measure",
            "views": views,
            "setting": _setting(metric, shown),
        }
        for metric, views in _views_of_metrics().items()
        if metric in table
    ]
    return found


def _associations(found: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """A line a measure of the views: r, R^2, Spearman, R^2 of the log, and of last checkpoints."""
    line = {(f["metric"], f["log"], f["checkpoints"]): f for f in found.to_dict("records")}
    return [
        {
            **line[metric, False, "all"],
            "views": views,
            "r2_log": line[metric, True, "all"]["r2"],
            "r2_last": line[metric, False, "last"]["r2"],
        }
        for metric, views in _views_of_metrics().items()
        if (metric, False, "all") in line
    ]


def _views_of_metrics() -> dict[str, str]:
    """The measures in the order of their panels, and the views that show each."""
    views: dict[str, list[str]] = {}
    for pair in zip(*(view.panels for view in VIEWS), strict=True):
        for view, panel in zip(VIEWS, pair, strict=True):
            views.setdefault(panel.metric, []).append(view.name)
    return {metric: " ".join(names) for metric, names in views.items()}


def _shown_courses(courses: pd.DataFrame) -> list[tuple[View, list[Panel]]]:
    """The views with those of their panels that were measured while training."""
    shown = [
        (view, [panel for panel in view.panels if course(courses, panel.metric)]) for view in VIEWS
    ]
    return shown if any(panels for _, panels in shown) else []


def _summary(table: pd.DataFrame, everything: pd.DataFrame) -> dict[str, Any]:
    sizes = everything["model_n_parameters"]
    tied = everything.get("model_tied", pd.Series()).dropna()
    return {
        "runs": everything["run"].nunique(),
        "checkpoints": len(table),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "short": (short := tables.short_names(everything["run"].tolist())),
        "shortened": any(name != run for run, name in short.items()),
        "has_bars": any(name.startswith("low_") for name in table.columns),
        "best": table.nsmallest(1, "val_loss").to_dict("records")[0] if len(table) else None,
        "floors": floors(table) if len(table) else [],
        "tied": sorted({bool(one) for one in tied}),
        "texts": sorted(_texts(table)),
    }


def _texts(table: pd.DataFrame) -> list[str]:
    """A name for each text of the checkpoints; two texts of one name are two."""
    if "tokens_fingerprint" not in table:
        return []
    different = table.drop_duplicates("tokens_fingerprint")
    pairs = zip(different["tokens_name"], different["tokens_fingerprint"], strict=True)
    return [f"{name} ({mark})" for name, mark in pairs]


def _size_ticks(table: pd.DataFrame) -> list[tuple[float, str]]:
    """Where the ticks of the colour scale stand, in percent of its length, and their words."""
    sizes = SizeScale.of(table)
    length = math.log(sizes.high / sizes.low)
    return [(100 * math.log(t / sizes.low) / length, parameters(t)) for t in sizes.ticks]
