"""The page of a context table, and its section on the page of a sweep: curves, maps, spectrum.

Axes: V tokens, M contexts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tightframe.report import plots
from tightframe.report.by_token import readable
from tightframe.report.plots import Json, Shared, four
from tightframe.report.rendering import facts, json_numbers, render_template
from tightframe.report.theory import Curves, Theory

OPEN_BOX = "\N{OPEN BOX}"
LOOKS: dict[str, tuple[str, float, float, str]] = {  # dash, width, opacity, mark of a single point
    "measured": ("solid", 1.75, 1, "circle"),
    "second": ("6px,4px", 1.5, 1, "square-open"),
    "third": ("8px,3px,2px,3px", 1.5, 1, "diamond-open"),
    "predicted": ("2px,3px", 2.25, 1, "cross"),
    "baseline": ("6px,4px", 1, 0.55, "x"),
}
N_MODELS = 4  # colours of models


def figures(theory: Theory, place: int, shared: Shared) -> dict[str, Json]:
    """Return curves, heat maps and the spectrum of a table.

    Args:
        theory: What is shown.
        place: Of the table among those of the page.
        shared: Takes the words of the heat maps.
    """
    prefix = f"theory-{place}"
    drawn = {
        f"{prefix} curve {i}": _curves(one, theory.models) for i, one in enumerate(theory.panels)
    }
    if theory.spectra:
        drawn[f"{prefix} spectrum"] = spectrum(theory.spectra)
    if (maps := theory.maps) is not None:
        # Spaces between its words are no part of a token.
        contexts = [readable(text).replace(OPEN_BOX, " ") for text in maps.contexts]
        words = shared.put(f"{prefix} words", [readable(word) for word in maps.words])
        texts = shared.put(f"{prefix} contexts", contexts)
        n_words, n_texts = len(maps.words), len(contexts)
        for i, one in enumerate(maps.columns):
            for kind, matrix, down, across, n in (
                ("contexts", one.contexts, texts, texts, n_texts),
                ("words", one.words, words, words, n_words),
                ("logits", one.logits, words, texts, n_texts),
            ):
                drawn[f"{prefix} map {kind} {i}"] = heat_map(
                    {"bytes": matrix, "columns": n}, down, across, square=kind != "logits"
                )
    return drawn


def _curves(panel: Curves, models: Sequence[str]) -> Json:
    """Return the lines of a panel; step 0 (or a model from elsewhere) stands left of the others."""
    steps = [step for line in panel.lines for step in line.steps]
    positive = sorted(step for step in steps if step > 0)
    first = positive[0] if positive else 1
    zero = first / 4
    decades = [10.0**i for i in range(12) if positive and first <= 10**i <= positive[-1]]
    ticks = [*([zero] if 0 in steps else []), *(decades or positive[:1])]
    traces = []
    for line in panel.lines:
        told = f"<b>{readable(line.model)}</b>, {line.label}"
        told += ", predicted" if line.look == "predicted" else ""
        hover = [
            f"{told}<br>step {step:,}: <b>{four(value)}</b>"
            for step, value in zip(line.steps, line.values, strict=True)
        ]
        places = [step or zero for step in line.steps]
        traces.append(curve(line.look, models.index(line.model), places, line.values, hover))
    names = ["0" if tick == zero else f"{tick:,.0f}" for tick in ticks]
    return plots.figure(
        traces,
        x=plots.axis("step", type="log", tickvals=ticks, ticktext=names),
        y=plots.axis(panel.kind.axis, panel.ticks),
        about=panel.kind.title,
    )


def render_theory(theory: Theory, sources: Mapping[str, Any], commands: Sequence[str]) -> str:
    """Return the page of a table that is part of no sweep.

    Args:
        theory: What is shown.
        sources: What it was made from.
        commands: What makes the results and this page.
    """
    shared = Shared()
    drawn = figures(theory, 0, shared)
    return render_template(
        "theory_page.html",
        name=theory.name,
        view="",
        first_section="theory-0",
        theory=dataclasses.replace(theory, name=""),  # it stands above all
        data={"template": plots.TEMPLATE, "figures": drawn, "shared": shared},
        sources=facts([sources]),
        commands=commands,
    )


def curve(
    look: str,
    place: int,
    steps: Sequence[int | float],
    values: Sequence[float],
    hover: Sequence[str],
) -> Json:
    """Return a line of a model against the step; a single point is told by its shape.

    Args:
        look: One of `LOOKS`.
        place: Of the model among all, which decides its colour.
        steps: Places, positive.
        values: Finite.
        hover: Escaped.
    """
    dash, width, opacity, symbol = LOOKS[look]
    own, single = plots.colour(f"model-{place % N_MODELS}"), len(steps) == 1
    return {
        "x": [*steps],
        "y": json_numbers(values, digits=6),
        # A single checkpoint has no line: its points differ by their shapes.
        "mode": "lines+markers" if look == "measured" or single else "lines",
        "opacity": opacity,
        "hoverinfo": "text",
        "hovertext": [*hover],
        "line": {"color": own, "width": width, "dash": dash},
        "marker": {
            "size": 9 if single else 5,
            "color": own,
            "symbol": symbol if single else "circle",
        },
    }


def heat_map(matrix: Any, down: Json, across: Json, *, square: bool) -> Json:
    """Return numbers in [-1, 1] as colours.

    Args:
        matrix: Rows of numbers, or `{"bytes": ..., "columns": ...}`: signed bytes in base 64, 127
            being 1, row by row.
        down: Array of the words of the rows, escaped.
        across: Array of the words of the columns, escaped.
        square: Whether both axes have one scale.
    """
    ends = zip((0, 0.5, 1), ("map-low", "map-middle", "map-high"), strict=True)
    trace = {
        "type": "heatmap",
        "z": matrix,
        "zmin": -1,
        "zmax": 1,
        "showscale": False,
        "colorscale": [[place, plots.colour(name)] for place, name in ends],
        "hoverinfo": "text",
        "hovertext": {"down": down, "across": across},  # the script joins them
    }
    hidden: Json = {"visible": False, "fixedrange": True}
    together = {"scaleanchor": "x", "constrain": "domain"} if square else {}
    upright = hidden | {"autorange": "reversed", **together}
    margin = {"l": 4, "r": 4, "t": 4, "b": 4}
    return plots.figure([trace], x=hidden, y=upright, about="", margin=margin, dragmode=False)


def spectrum(spectra: Mapping[str, Sequence[float]]) -> Json:
    """Return singular values, each over its largest, one line per spectrum."""
    traces = [
        {
            "x": list(range(1, len(values) + 1)),
            "y": json_numbers([value / values[0] for value in values], digits=5),
            "name": label,
            "customdata": json_numbers(values, digits=4),
            "hovertemplate": f"{label}<br>number %{{x}}: <b>%{{customdata}}</b><extra></extra>",
            "mode": "lines+markers",
            "line": {
                "color": plots.colour(f"model-{place}"),
                "width": 1.5,
                "dash": "6px,4px" if place else "solid",
            },
            "marker": {"size": 4, "color": plots.colour(f"model-{place}")},
        }
        for place, (label, values) in enumerate(spectra.items())
    ]
    return plots.figure(
        traces,
        x=plots.axis("number"),
        y=plots.axis("singular value over the largest", rangemode="tozero"),
        about="Singular values",
        showlegend=True,
        legend={"x": 1, "xanchor": "right", "y": 1, "bgcolor": "rgba(0,0,0,0)"},
    )
