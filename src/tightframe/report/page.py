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

from tightframe.report import by_token, profiles, theory
from tightframe.report.panels import (
    ON_DARK,
    ON_LIGHT,
    SizeScale,
    course,
    fit,
    floors,
    loss_range,
    parameters,
)
from tightframe.report.rendering import json_numbers, render_template
from tightframe.report.views import VIEWS, Panel, View, arrow, measure
from tightframe.results import Header

FEWEST = 3  # checkpoints: fewer have no association with the loss, and no figure of one
_KEY_SETTINGS = ("recipe", "width", "depth", "epochs", "learning_rate", "seed")


def render(
    table: pd.DataFrame,
    found: pd.DataFrame,
    headers: Sequence[Header],
    *,
    name: str,
    commands: Sequence[str],
    classes: pd.DataFrame | None = None,
    courses: pd.DataFrame | None = None,
    shown: Sequence[profiles.Profile] = (),
    theories: Sequence[theory.Theory] = (),
) -> str:
    """The page as HTML.

    Args:
        table: One line a checkpoint, with its floors; empty if all was measured while training.
        found: Their associations.
        headers: Of the results files.
        courses: One line a run and step, of what was measured while training.
        name: Of the sweep or the run.
        commands: What makes the results and this page.
        classes: Of one model, see `by_token.find`; without them there is no section on tokens.
        shown: Of one checkpoint each; without them there is no section on layers or frequency.
        theories: What tables predict, a section each.
    """
    courses = pd.DataFrame() if courses is None else courses
    everything = pd.concat([table, courses], ignore_index=True)
    few = 0 < len(table) < FEWEST
    scripts = ["page.js", "sorting.js"]
    scripts += ["profiles.js"] if shown else []
    scripts += ["by_token.js"] if classes is not None else []
    scripts += ["plots.js", "theory.js"] if theories else []
    return render_template(
        "template.html",
        scripts,
        name=name,
        view=VIEWS[0].name,
        few=few,
        first_section=("training" if len(courses) else "runs")
        if few
        else ("training" if table.empty else "figures"),
        theories=theories,
        theory_data=[theory.payload(one) for one in theories],
        payload=payload(table, found, courses),
        classes=None if classes is None else by_token.payload(classes),
        of_classes=None if classes is None else by_token.summary(classes),
        class_panels=by_token.PANELS,
        profiles=shown,
        profile_data={profile.kind: profiles.payload(profile) for profile in shown},
        key_name=profiles.key_name,
        fewest=profiles.FEWEST,
        sizes=_size_ticks(everything),
        summary=_summary(table, everything),
        courses=_shown_courses(courses),
        n_looks=len(courses),
        views=VIEWS,
        measure=measure,
        arrow=arrow,
        associations=_associations(found),
        columns=_columns(table),
        checkpoints=table.sort_values("val_loss").to_dict("records") if len(table) else [],
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


def payload(
    table: pd.DataFrame, found: pd.DataFrame, courses: pd.DataFrame | None = None
) -> dict[str, Any]:
    """What the script draws, as plain JSON-able values: points once, then a line a panel."""
    sizes = SizeScale.of(pd.concat([table, courses], ignore_index=True))
    shared = {
        "sizeRange": [math.log10(sizes.low), math.log10(sizes.high)],
        "colours": {"light": ON_LIGHT, "dark": ON_DARK},
        "courses": {} if courses is None else _courses(courses),
    }
    return shared | (_points(table, found) if len(table) else {})


def _points(table: pd.DataFrame, found: pd.DataFrame) -> dict[str, Any]:
    """The checkpoints against their validation losses."""
    runs = table.sort_values("step", kind="stable").groupby("run", sort=False)
    panels = {}
    for panel in dict.fromkeys(panel for view in VIEWS for panel in view.panels):
        if panel.metric in table:
            panels[panel.metric] = {
                "x": json_numbers(table[panel.metric], digits=7),
                "linear": dataclasses.asdict(fit(table, found, panel.metric, log=False)),
                "log": dataclasses.asdict(fit(table, found, panel.metric, log=True)),
            }
    return {
        "loss": json_numbers(table["val_loss"], digits=7),
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
                    "arrow": arrow(panel.metric),
                }
                for panel in view.panels
            ]
            for view in VIEWS
        },
    }


def _courses(courses: pd.DataFrame) -> dict[str, Any]:
    """Every measure of the views against the step, a line a run."""
    drawn = {}
    for metric in _views_of_metrics():
        if (one := course(courses, metric)) is not None:
            lines = zip(one.runs, one.sizes, one.steps, one.values, strict=True)
            drawn[metric] = {
                "positive": one.positive,
                "stepTicks": one.step_ticks,
                "valueTicks": one.value_ticks,
                "arrow": arrow(metric, upright=True),
                "lines": [
                    {
                        "run": _escape(run),
                        "size": math.log10(size),
                        "x": steps,
                        "y": json_numbers(values, digits=7),
                    }
                    for run, size, steps, values in lines
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


def _columns(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The columns of the table of runs: key, heading, format, and the views that show it."""
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
    shown = [
        {"key": key, "label": label, "kind": kind, "views": always}
        for key, label, kind in columns
        if key in table and not table[key].isna().all()
    ]
    shown += [
        {"key": metric, "label": metric, "kind": "measure", "views": views}
        for metric, views in _views_of_metrics().items()
        if metric in table
    ]
    return shown


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
