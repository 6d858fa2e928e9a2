"""The page of a sweep or a run: panels, runs, what the measures mean, where all of it is from.

Names of runs, settings and texts are strangers' words: jinja2 escapes them in the page
(`rendering.py`), `plots.py` for plotly, which reads some HTML.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
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
    top,
    views_of,
)
from tightframe.report import by_token, plots, profiles, tables, theory, theory_page
from tightframe.report.panels import (
    Fit,
    SizeScale,
    correlation,
    error_bars,
    fit,
    floors,
    loss_range,
    trajectory,
)
from tightframe.report.plots import Json, Shared
from tightframe.report.rendering import facts, json_numbers, parameters, render_template
from tightframe.results import Header

FEWEST = 3  # checkpoints: fewer have no association with the loss, and no figure of one


def render(
    shown: Checkpoints,
    found: pd.DataFrame,
    headers: Sequence[Header],
    *,
    name: str,
    commands: Sequence[str],
    finding: str = "",
    data: Json | None = None,
    classes: pd.DataFrame | None = None,
    training: Checkpoints | None = None,
    smalls: Sequence[profiles.Profile] = (),
    theories: Sequence[theory.Theory] = (),
) -> str:
    """Return the page as HTML.

    Args:
        shown: One line per checkpoint, with its floors; empty if all was measured while training.
        found: Their associations.
        headers: Of the results files.
        name: Of the sweep or the run.
        commands: What makes the results and this page.
        finding: What `relate` says of them, for the first screen.
        data: What `figures` gives of these; made here if it is not given.
        classes: Of one model, see `by_token.find`; without them there is no section on tokens.
        training: One line per run and step, of what was measured while training.
        smalls: Profiles of one checkpoint each; without them there are no sections of them.
        theories: What tables predict, a section each.
    """
    table = shown.table
    looks = pd.DataFrame() if training is None else training.table
    views = views_of(table if len(table) else looks)
    everything = pd.concat([table, looks], ignore_index=True)
    few = len(table) > 0 and not is_scattered(table)
    against = {"steps": _views_with(against_step(table)), "training": _views_with(looks)}
    sections = {"figures": len(table) and not few, **against}
    return render_template(
        "page.html",
        name=name,
        finding=finding,
        view=VIEWS[0].name,
        few=few,
        first_section=next((name for name, shown in sections.items() if shown), "runs"),
        fewest_runs=FEW_RUNS,
        theories=theories,
        data=data
        or figures(shown, found, looks, classes=classes, smalls=smalls, theories=theories),
        of_classes=None if classes is None else by_token.summary(classes),
        class_panels=by_token.PANELS,
        profiles=smalls,
        key_name=profiles.key_name,
        explained=profiles.explained(smalls, views),
        sinks=_sinks(headers, smalls),
        fewest=profiles.FEWEST,
        sizes=_size_ticks(everything),
        summary=_summary(table, everything),
        training=against["training"],
        near_unigram=_near_unigram(table),
        steps=[(view, [LOSS, *panels]) for view, panels in against["steps"]],
        n_looks=len(looks),
        views=views,
        measure=measure,
        arrow=arrow,
        associations=_associations(found, table),
        kinds=[] if found.empty else [g for g in dict.fromkeys(found["group"]) if g != POOLED],
        correlation=correlation,
        columns=_columns(shown),
        checkpoints=_lines(table),
        refused=[*shown.refused.items(), *([] if training is None else training.refused.items())],
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


def figures(
    shown: Checkpoints,
    found: pd.DataFrame,
    looks: pd.DataFrame,
    *,
    classes: pd.DataFrame | None = None,
    smalls: Sequence[profiles.Profile] = (),
    theories: Sequence[theory.Theory] = (),
) -> Json:
    """Return all that the script draws, as plain JSON-able values; arguments as in `render`."""
    shared = Shared()
    sizes = SizeScale.of(pd.concat([shown.table, looks], ignore_index=True))
    drawn = _scatters(shown, found, sizes, shared) if is_scattered(shown.table) else {}
    drawn |= _trajectories("steps", against_step(shown.table), sizes)
    drawn |= _trajectories("training", looks, sizes)
    for one in smalls:
        drawn |= profiles.figures(one)
    if classes is not None:
        drawn |= by_token.figures(classes, shared)
    for place, predicted in enumerate(theories):
        drawn |= theory_page.figures(predicted, place, shared)
    return {"template": plots.TEMPLATE, "figures": drawn, "shared": shared}


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


def _scatters(
    shown: Checkpoints, found: pd.DataFrame, sizes: SizeScale, shared: Shared
) -> dict[str, Json]:
    """Return the checkpoints against their validation losses, on linear and logarithmic axes."""
    table = shown.table.reset_index(drop=True)
    runs = table.sort_values("step", kind="stable").groupby("run", sort=False)
    threads = [place for _, run in runs for place in (*run.index, None)]

    def thread(name: str, values: Sequence[float | None]) -> Json:
        return shared.put(name, [None if i is None else values[i] for i in threads])

    losses = json_numbers(table["val_loss"], digits=7)
    shades = json_numbers(np.log10(table["model_n_parameters"].astype(float)), digits=7)
    common = {
        "y": shared.put("loss", losses),
        "thread_y": thread("loss of runs", losses),
        "size": shared.put("size", shades),
        "hover": shared.put("hover", plots.checkpoint_labels(table)),
        **_bars(table, "val_loss", "error_y"),
    }
    drawn = {}
    for panel in dict.fromkeys(panel for view in views_of(table) for panel in view.panels):
        metric = panel.metric
        known = metric in table
        x = json_numbers(table[metric], digits=7) if known else [None] * len(table)
        points = common | {
            "x": shared.put(metric, x),
            "thread_x": thread(f"{metric} of runs", x),
            **_bars(table, metric, "error_x"),
        }
        words = "; ".join(filter(None, [arrow(metric), setting(metric, shown)]))
        missing = shown.refused.get(metric, f"no {metric} in these results")
        for scale in ("linear", "log"):
            line = Fit(False, "not shown", missing, "left")
            drawn[f"scatter {metric} {scale}"] = plots.scatter(
                metric,
                points,
                fit(table, found, metric, log=scale == "log") if known else line,
                title=f"{metric}<br>({words})",
                top=top(metric),
                losses=loss_range(table),
                floors=floors(table),
                sizes=sizes,
            )
    return drawn


def _bars(table: pd.DataFrame, metric: str, name: str) -> dict[str, Json]:
    """Return the error bars of the intervals of a metric; nothing where there is none."""
    low, high = error_bars(table, metric)
    if low.isna().all():
        return {}
    below, above = (
        json_numbers(part, digits=4) for part in (table[metric] - low, high - table[metric])
    )
    look = {"color": plots.colour("soft"), "thickness": 1, "width": 0}
    return {name: plots.bars(below, above, look)}


def _trajectories(kind: str, table: pd.DataFrame, sizes: SizeScale) -> dict[str, Json]:
    """Return the loss and every measure of the views against the step, one line per run."""
    drawn = {}
    for metric in ("val_loss", *views_of_metrics(table)):
        if (one := trajectory(table, metric)) is not None:
            for axes in ("linear", "log"):
                drawn[f"{kind} {metric} {axes}"] = plots.trajectories(
                    metric,
                    one,
                    sizes,
                    title=f"{metric}<br>({arrow(metric, upright=True)})",
                    top=top(metric),
                    log=axes == "log",
                )
    return drawn


def setting(metric: str, shown: Checkpoints) -> str:
    """Return with which minimum count a metric was measured, in words; "" where that is 1."""
    least = shown.min_counts.get(metric)
    return "" if least is None else f"min_count {least:,}"


def views_of_metrics(table: pd.DataFrame) -> dict[str, str]:
    """Return the measures in the order of their panels, with the views that show each."""
    views: dict[str, list[str]] = {}
    shown = views_of(table)
    for pair in zip(*(view.panels for view in shown), strict=True):
        for view, panel in zip(shown, pair, strict=True):
            views.setdefault(panel.metric, []).append(view.name)
    return {metric: " ".join(names) for metric, names in views.items()}


def _without(values: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in left_out}


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
    """Return one line per measure of the views: r, R^2, Spearman, and R^2 of other choices."""
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


def _views_with(table: pd.DataFrame) -> list[tuple[View, list[Panel]]]:
    """Return the views with those of their panels that have lines against the step."""
    shown = [
        (view, [panel for panel in view.panels if trajectory(table, panel.metric)])
        for view in views_of(table)
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
    """Return a name for each text of the checkpoints; two texts of one name are two."""
    if "tokens_fingerprint" not in table:
        return []
    different = table.drop_duplicates("tokens_fingerprint")
    pairs = zip(different["tokens_name"], different["tokens_fingerprint"], strict=True)
    return [f"{name} ({mark})" for name, mark in pairs]


def _size_ticks(table: pd.DataFrame) -> list[tuple[float, str]]:
    """Return the ticks of the colour scale: places in percent of its length, and words."""
    sizes = SizeScale.of(table)
    length = math.log(sizes.high / sizes.low)
    return [(100 * math.log(t / sizes.low) / length, parameters(t)) for t in sizes.ticks]
