"""One self-contained page: the panels, the runs, what the measures mean, where all of it is from.

Names of runs, settings and texts are strangers' words: jinja2 escapes them in the page
(`rendering.py`), `payload.py` for plotly, which reads some HTML.
"""

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tightframe.analysis.association import FEW_RUNS, POOLED
from tightframe.analysis.checkpoints import Checkpoints
from tightframe.geometry.views import (
    LOSS,
    VIEWS,
    Panel,
    View,
    arrow,
    is_near_unigram,
    measure,
    views_of,
)
from tightframe.report import by_token, profiles, tables, theory
from tightframe.report.panels import SizeScale, correlation, course, floors, parameters
from tightframe.report.payload import (
    against_step,
    is_scattered,
    payload,
    setting,
    views_of_metrics,
)
from tightframe.report.rendering import render_template, word
from tightframe.results import Header


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
    views = views_of(table if len(table) else looks)
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
        explained=profiles.explained(smalls, views),
        sinks=_sinks(headers, smalls),
        fewest=profiles.FEWEST,
        sizes=_size_ticks(everything),
        summary=_summary(table, everything),
        courses=training,
        near_unigram=_near_unigram(table),
        steps=[(view, [LOSS, *panels]) for view, panels in steps],
        n_looks=len(looks),
        views=views,
        measure=measure,
        arrow=arrow,
        associations=_associations(found, table),
        kinds=[] if found.empty else [g for g in dict.fromkeys(found["group"]) if g != POOLED],
        correlation=correlation,
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


def facts(each: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """For every name its different values: numbers by size, words as they come."""
    values: dict[str, dict[str, Any]] = {}
    for one in each:
        for name, value in _flat(one):
            values.setdefault(name, {})[word(value)] = value
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


def _lines(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the lines of the table of runs, the best first."""
    if table.empty:
        return []
    short = tables.short_names(table["run"].tolist())
    shown = table.assign(short=table["run"].map(short))
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
            "setting": setting(metric, shown),
        }
        for metric, views in views_of_metrics(table).items()
        if metric in table
    ]
    return found


def _associations(found: pd.DataFrame, table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """A line a measure of the views: r, R^2, Spearman, R^2 of the log, and of last checkpoints."""
    records = found.to_dict("records")
    line = {(f["metric"], f["log"], f["checkpoints"]): f for f in records if f["group"] == POOLED}
    parts = [f for f in records if f["group"] != POOLED and f["checkpoints"] == "all"]
    return [
        {
            **line[metric, False, "all"],
            "views": views,
            "r2_log": line[metric, True, "all"]["r2"],
            "r2_last": line[metric, False, "last"]["r2"],
            "within": [f for f in parts if f["metric"] == metric and not f["log"]],
        }
        for metric, views in views_of_metrics(table).items()
        if (metric, False, "all") in line
    ]


def _shown_courses(courses: pd.DataFrame) -> list[tuple[View, list[Panel]]]:
    """The views with those of their panels that were measured while training."""
    shown = [
        (view, [panel for panel in view.panels if course(courses, panel.metric)])
        for view in views_of(courses)
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


def _sinks(headers: Sequence[Header], smalls: Sequence[profiles.Profile]) -> list[str]:
    """Return what was found of attention sinks in the checkpoint that is shown layer by layer."""
    shown = {(one.run, one.step) for one in smalls if one.kind == "layers"}
    found = [h.measurement.get("sinks") for h in headers if (h.run, h.step) in shown]
    return list(dict.fromkeys(line for line in found if line))


def _near_unigram(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the checkpoints that predict hardly better than frequencies do."""
    lines = [] if table.empty else table.to_dict("records")
    return [
        line for line in lines if is_near_unigram(line["val_loss"], line["tokens_unigram_entropy"])
    ]


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
