"""The page of a relation: what was found, every correlation, every model as a point, and the rule.

Names of columns, models and their settings are strangers' words: jinja2 escapes them in the page
(`rendering.py`), this module for plotly, and the script puts them into the page as text only.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tightframe.analysis.design import DIRECTIONS, column, has_column, keys, numbers
from tightframe.analysis.relation import CONTROLS, DENOMINATOR, Relation
from tightframe.geometry.views import VIEWS, arrow
from tightframe.report import plots
from tightframe.report.panels import SIZES
from tightframe.report.plots import Json, Shared, colour, escaped
from tightframe.report.rendering import facts, json_numbers, parameters, render_template, word
from tightframe.report.theory_page import heat_map

MOST_PANELS = 12  # measures that are drawn beside each other; the others can be chosen
MOST_KINDS = 6  # values of a column of words that are told apart by colour and shape
MOST_COLUMNS = 12  # columns to colour by
MOST_LABELS = 16  # measures that are named at the axes of their matrix
WIDE = 10.0  # colours of numbers that span more than this factor are logarithmic
# Columns of the table of numbers: key, heading, and the ends of the interval beside it.
NUMBERS = {
    "n": "n",
    "clusters": "clusters",
    "r": "r",
    "r2": "R²",
    "r_log": "r of the log",
    "spearman": "Spearman",
    "p": "p",
    "partial_r": "r, controls held",
    "additive_r": "r, without interactions",
    "partial_p": "p, controls held",
    "p_holm": "p, Holm",
    "p_bh": "p, BH",
    "p_maxt": "p, max-T",
    "t_cr3": "t, CR3",
    "p_cr3": "p, CR3",
    "within_r": "r within runs",
    "within_p": "p within runs",
    "gain": "gain",
    "gain_percent": "gain, %",
    "gain_p": "p of the gain",
    "beyond_loss": "r beyond the loss",
    "beyond_loss_p": "p beyond the loss",
}
ENDS = {
    "r": ("low", "high"),
    "partial_r": ("partial_low", "partial_high"),
    "additive_r": ("additive_low", "additive_high"),
}
# What the forest shows of a measure: key, its mark, and what it is.
MARKS = {
    "r": ("plain", "as it is"),
    "partial_r": ("held", "with the controls held fixed"),
    "additive_r": ("additive", "with the controls held fixed, without interactions"),
}
_PANELS = {form: panel for view in VIEWS for panel in view.panels for form in panel.forms}


def render_relation(relation: Relation, *, name: str) -> str:
    """Return the page as HTML."""
    table = relation.table
    strata = relation.strata.drop(columns="measure", errors="ignore")
    shown = [key for key in NUMBERS if key in table and table[key].notna().any()]
    headings = {key: NUMBERS[key] for key in shown} | {one: f"r, {one}" for one in strata}
    rows = table.merge(relation.strata, on="measure", how="left") if len(strata) else table
    return render_template(
        "relation_page.html",
        name=name,
        view="",
        first_section="found",
        relation=relation,
        options=relation.options,
        data=page_data(relation),
        rows=[line | _named(line["measure"]) for line in rows.to_dict("records")],
        marks=[(key, *mark) for key, mark in MARKS.items() if key in shown],
        ends=ENDS,
        headings=headings,
        adjusted=f"p_{relation.options.correction}",
        has_matrix=len(_related(relation)) > 1,
        has_predictions=not relation.predictions.empty,
        most_panels=MOST_PANELS,
        rule=facts([dataclasses.asdict(relation.options)]),
    )


def page_data(relation: Relation) -> dict[str, Any]:
    """Return what the script draws: the models as points, and the figures that do not depend."""
    shared = Shared()
    figures = {"scatter": _scatter(), "predicted": _predicted(relation, shared)}
    if len(_related(relation)) > 1:
        figures["matrix"] = _matrix(relation, shared)
    return {
        "template": plots.TEMPLATE,
        "figures": figures,
        "shared": shared,
        "words": {line["measure"]: _in_words(line) for line in relation.table.to_dict("records")},
        "models": _models(relation),
    }


def _named(measure: str) -> dict[str, str]:
    """Return what the literature calls a measure, and its title; "" of anyone else's."""
    panel = _PANELS.get(measure)
    return {"family": panel.family if panel else "", "title": panel.title if panel else ""}


def _in_words(line: dict[Any, Any]) -> str:
    """Return what is said of a measure beside its figure."""
    held = "" if math.isnan(line["partial_r"]) else f", {line['partial_r']:+.2f} with controls held"
    numbers_of = "" if math.isnan(line["r"]) else f": r = {line['r']:+.2f}{held}"
    notes = "; ".join(filter(None, [line["flags"], line["reason"]]))
    sentence = f"{line['verdict'].capitalize()}{numbers_of.replace('-', chr(0x2212))}."
    return f"{sentence} {notes[:1].upper()}{notes[1:]}.".removesuffix(" .")


def _related(relation: Relation) -> list[str]:
    """Return the measures that have a correlation."""
    known: list[str] = relation.table.loc[relation.table["r"].notna(), "measure"].tolist()
    return known


# The models as points.


def _models(relation: Relation) -> dict[str, Any]:
    """Return what the script draws points of: measures, outcomes, colours, subsets, settings."""
    models, points = relation.models, relation.points
    names = keys(models, np.ones(len(models), dtype=bool))
    level = next(iter(relation.options.clusters), "")
    clusters = column(models, level).astype(str) if level else pd.Series(range(len(models)))
    colours = _colours(relation)
    subsets: list[Json] = [{"name": "all models", "of": None, "value": None}]
    for place, one in enumerate(colours):
        for words, value in one.pop("subsets"):
            subsets.append({"name": f"{one['name']} = {words}", "of": place, "value": value})
    return {
        "names": names,
        "hover": [f"<b>{escaped(one)}</b>" for one in names],
        "measures": [
            {
                "name": row.measure,
                "title": _title(str(row.measure)),
                "values": json_numbers(points[row.measure], digits=6),
                "unlined": "; ".join(
                    flag for flag in str(row.flags).split("; ") if flag.startswith(DENOMINATOR)
                ),
            }
            for row in relation.table.itertuples()
        ],
        "outcomes": [
            {"name": one, "title": escaped(one), "values": json_numbers(values, digits=7)}
            for one, values in _outcomes(relation)
        ],
        "colours": colours,
        "subsets": subsets,
        "clusters": pd.factorize(clusters)[0].tolist(),
        "settings": [
            [one, ["" if pd.isna(value) else word(value) for value in models[one].tolist()]]
            for one in _facts(relation)
        ],
    }


def _title(measure: str) -> str:
    """Return a measure as the title of an axis, with the way that is more collapsed."""
    return f"{measure}<br>({arrow(measure)})" if measure in DIRECTIONS else escaped(measure)


def _outcomes(relation: Relation) -> list[tuple[str, "pd.Series[Any]"]]:
    """Return the numbers that can be put on the vertical axis: y first."""
    found = [(relation.options.y, relation.points[relation.options.y])]
    for name in relation.outcomes:
        if name != relation.options.y and pd.api.types.is_numeric_dtype(relation.models[name]):
            found.append((name, relation.models[name].astype(float)))
    return found


def _facts(relation: Relation) -> list[str]:
    """Return the columns that say what a model is, not what was measured of it.

    Those in which the models differ come first.
    """
    measured = {*relation.table["measure"], *relation.outcomes, *DIRECTIONS}
    names = [
        str(name)
        for name in relation.models
        if name not in measured
        and not str(name).startswith(("low_", "high_", "centre_"))
        and relation.models[name].notna().any()
    ]
    return sorted(names, key=lambda name: relation.models[name].astype(str).nunique() == 1)


def _colours(relation: Relation) -> list[Json]:
    """Return the columns that points are coloured by, the number of parameters and y's first.

    Words are `kinds`, whose values are their places; numbers are on the scale that they are
    coloured on. `subsets` are the values that a column has, where there are few of them.
    """
    options, models = relation.options, relation.models
    declared = [name.removeprefix("log_") for name in options.controls if ":" not in name]
    declared += [options.within, options.family, *options.fixed, *options.clusters]
    found: dict[str, Json] = {}
    for name in ["n_params", *filter(None, declared), *_facts(relation)]:
        known = has_column(models, name)
        if name in found or not known or len(found) == MOST_COLUMNS:
            continue
        if any(column(models, name).equals(column(models, other)) for other in found):
            continue
        if shades := _shades(models, name):
            found[name] = {"name": name, **shades}
    return list(found.values())


def _shades(models: pd.DataFrame, name: str) -> Json:
    """Return the words or the numbers of a column; nothing if there are too many words."""
    values = column(models, name)
    different = sorted(
        values.dropna().unique().tolist(), key=lambda value: (str(type(value)), value)
    )
    few = [word(value) for value in different] if 2 <= len(different) <= MOST_KINDS else []
    if few and (len(few) == 2 or not pd.api.types.is_numeric_dtype(values)):
        codes = pd.Categorical(values, different).codes.tolist()
        return {"values": codes, "kinds": few, "subsets": [*zip(few, range(len(few)), strict=True)]}
    if len(different) < 2 or not pd.api.types.is_numeric_dtype(values):
        return {}
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low > WIDE

    def place(known: Any) -> list[float | None]:
        return json_numbers(np.log10(known) if log else known, digits=5)

    return {
        "values": place(numbers(models, name)),
        "ends": [parameters(low), parameters(high)],
        "subsets": [*zip(few, place(np.array(different[: len(few)], float)), strict=True)],
    }


def _scatter() -> Json:
    """Return what all scatter plots have in common; the script puts the points of one in."""
    steps = len(SIZES) - 1
    quiet: Json = {"x": [], "y": [], "hoverinfo": "skip", "mode": "lines"}
    marker = {
        "size": 9,
        "color": colour("accent"),
        "colorscale": [[i / steps, colour(f"size-{i}")] for i in range(steps + 1)],
        "line": {"color": colour("card"), "width": 1},
    }
    ring = {"size": 17, "symbol": "circle-open", "color": colour("ink"), "line": {"width": 2}}
    note: Json = {"xref": "paper", "yref": "paper", "y": 1, "yanchor": "top", "text": ""}
    return plots.figure(
        [
            quiet,
            {**quiet, "line": {"color": colour("ink"), "width": 1.75}},
            {"x": [], "y": [], "mode": "markers", "marker": marker},
            {"x": [], "y": [], "mode": "markers", "hoverinfo": "skip", "marker": ring},
        ],
        x=plots.axis(""),
        y=plots.axis(""),
        about="",
        annotations=[
            {**note, "font": {"color": colour("ink"), "size": 17}},
            {**note, "font": {"color": colour("soft"), "size": 11.5}, "yshift": -25},
        ],
    )


# Figures of all measures.


def _matrix(relation: Relation, shared: Shared) -> Json:
    """Return the correlations of the measures with each other."""
    names = _related(relation)
    table = relation.points[names].corr().to_numpy()
    rows = [shared.put(f"r {i}", json_numbers(row, digits=4)) for i, row in enumerate(table)]
    words = shared.put("related", [escaped(name) for name in names])
    made = heat_map(rows, words, words, square=True)
    made["layout"]["yaxis"]["constraintoward"] = "top"
    made["about"] = f"Matrix of the correlations of {len(names)} measures with each other."
    made["csv"] = [["measure", names], *map(list, zip(names, rows, strict=True))]
    if len(names) <= MOST_LABELS:
        ticks = {"visible": True, "tickvals": [*range(len(names))], "ticktext": words, "ticks": ""}
        small = {"font": {"size": 10.5}}
        for axis in ("xaxis", "yaxis"):
            made["layout"][axis] |= ticks | {"tickfont": small["font"], "showgrid": False}
        made["layout"]["xaxis"]["tickangle"] = -60
        made["layout"]["margin"] |= {"b": 60}
    return made


def _predicted(relation: Relation, shared: Shared) -> Json:
    """Return y against its prediction by a fit to the other families, for the chosen measure."""
    y, predictions = relation.points[relation.options.y], relation.predictions
    observed = shared.put("observed", json_numbers(y, digits=6))
    nothing = [math.nan] * len(y)
    for i, name in enumerate(relation.table["measure"]):
        shared.put(f"predicted {i}", json_numbers(predictions.get(name, nothing), digits=6))
    alone = shared.put("alone", json_numbers(predictions.get(CONTROLS, nothing), digits=6))
    names = [f"<b>{escaped(one)}</b>" for one in keys(relation.models, y.notna().to_numpy())]
    hover = shared.put("predicted models", names)
    ends = json_numbers([y.min(), y.max()], digits=6)

    def points(x: Json, title: str, **marker: Any) -> Json:
        template = f"%{{customdata}}<br>observed <b>%{{y:.4g}}</b><br>{title} <b>%{{x:.4g}}</b>"
        return {
            **{"x": x, "y": observed, "mode": "markers", "marker": marker, "customdata": hover},
            "hovertemplate": f"{template}<extra></extra>",
        }

    with_it = {"shared": "predicted {measure}"}
    soft = {"color": colour("soft"), "width": 1.25}
    made = plots.figure(
        [
            {"x": ends, "y": ends, "mode": "lines", "hoverinfo": "skip", "line": soft},
            points(alone, CONTROLS, size=8, symbol="circle-open", color=colour("current")),
            points(with_it, "with the measure", size=8, color=colour("accent")),
        ],
        x=plots.axis("predicted by a fit to the other families"),
        y=plots.axis(f"observed {escaped(relation.options.y)}"),
        about="Observed against predicted values of families that the fit has not seen.",
    )
    plain = keys(relation.models, y.notna().to_numpy())
    columns: Sequence[list[Any]] = [
        ["observed", observed],
        [CONTROLS, alone],
        ["predicted", with_it],
    ]
    made["csv"] = [["model", plain], *columns]
    return made
