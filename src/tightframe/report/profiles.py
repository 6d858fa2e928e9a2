"""One checkpoint in small multiples: its measures layer by layer, and by the counts of its classes.

What is drawn, by the page and for print alike: lines of a measure over places in order, with the
95 % interval of each value where there is one.
"""

import dataclasses
import html
import math
from typing import Any, Literal

import pandas as pd

from tightframe.analysis.checkpoints import MEASURED
from tightframe.analysis.profiles import LABELS, by_frequency, by_layer, stratum_start
from tightframe.lm.interface import PRENORM
from tightframe.report.panels import log_ticks
from tightframe.report.rendering import json_numbers
from tightframe.report.views import ROBUST, Panel, arrow

NAMES = {"next": "next token", "current": "current token", "shuffled": "shuffled labels"}
TWIN = "random weights"
_OF_VIEW = {panel.metric: panel for panel in ROBUST.panels}
_NEAREST = Panel(
    "ncc_accuracy",
    "NC4",
    "Accuracy of the nearest mean",
    "How often the nearest class mean is that of the label, on validation text.",
)
_FILLED = Panel(
    "rank_pr",
    "NC2",
    "Dimensions filled",
    "How many dimensions the class means fill: the participation ratio of their variances.",
)
PANELS: dict[str, tuple[Panel, ...]] = {
    "layers": (
        _NEAREST,
        *(_OF_VIEW[name] for name in ("nc1_cdnv_med_db", "gnc2_log_kernel_excess")),
        *(_OF_VIEW["nc2_equiang_std"], _FILLED, _OF_VIEW["nc3_cos_mean"]),
    ),
    "frequency": (
        _NEAREST,
        *(_OF_VIEW[name] for name in ("nc1_cdnv_med_db", "gnc2_log_kernel_excess")),
        *(_OF_VIEW[name] for name in ("nc2_equiang_std", "nc3_cos_mean", "nc4_rate_fullv")),
    ),
}
_LOG = ("nc1_cdnv_med_db",)  # spans decades from layer to layer
_TICKS = 8  # that are numbers of layers, at most
FEWEST = 10  # classes, pairs or positions that a value is drawn of


@dataclasses.dataclass(frozen=True)
class Line:
    """A measure over places; NaN where the line is broken."""

    labels: str  # what a class is
    twin: bool  # of the model with random weights
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]  # ends of the 95 % intervals, NaN where there is none
    high: tuple[float, ...]
    hover: tuple[str, ...]  # of each point, escaped


@dataclasses.dataclass(frozen=True)
class Small:
    """One of the small multiples."""

    panel: Panel
    log: bool
    value_ticks: tuple[float, ...]  # of a logarithmic axis
    lines: tuple[Line, ...]
    left_out: str  # what this axis can't hold, in words; "" if it holds everything


@dataclasses.dataclass(frozen=True)
class Profile:
    """All that is drawn of a checkpoint along one axis."""

    kind: Literal["layers", "frequency"]
    run: str
    step: int
    seed: int | None  # of the weights of its twin; None if it has none
    axis: str
    ticks: tuple[tuple[float, str], ...]
    smalls: tuple[Small, ...]
    rows: pd.DataFrame  # what is drawn and all other measures, for a table

    @property
    def ends(self) -> tuple[float, float]:
        """Of the axis, with some room on each side."""
        first, last = self.ticks[0][0], self.ticks[-1][0]
        room = 0.06 * (last - first)
        return first - room, last + room

    @property
    def keys(self) -> tuple[tuple[str, bool], ...]:
        """The kinds of lines that occur, in their order: labels, and whether of the twin."""
        found = {(line.labels, line.twin) for small in self.smalls for line in small.lines}
        return tuple(
            (labels, twin) for twin in (False, True) for labels in LABELS if (labels, twin) in found
        )


def profiles(
    rows: pd.DataFrame, losses: "pd.Series[float]", twins: dict[str, tuple[int, pd.DataFrame]]
) -> list[Profile]:
    """The profiles that these rows hold: by layer, by frequency, both or none.

    Args:
        rows: Of a run or a sweep; drawn is the best run that has several layers, or strata.
        losses: The lowest validation loss of each run.
        twins: For the name of a run, the seed and the rows of the same model with random weights.
    """
    found = []
    for kind, choose in (("layers", by_layer), ("frequency", by_frequency)):
        own = choose(rows, losses)
        if own.empty:
            continue
        run, step, tokens = own.iloc[0][["run", "step", "tokens_fingerprint"]]
        seed, other = twins.get(run, (None, rows.iloc[:0]))
        # On another text, or measured in another way, the twin would be no comparison.
        other = other[other["tokens_fingerprint"] == tokens]
        for name in MEASURED:
            other = other[other[name] == own.iloc[0][name]]
        twin = choose(other, losses)
        twin = twin[twin["labels"] != "shuffled"]  # a null of a null
        both = pd.concat([own.assign(twin=False), twin.assign(twin=True)], ignore_index=True)
        found.append(_profile(kind, str(run), int(step), None if twin.empty else seed, both))
    return found


def payload(profile: Profile) -> dict[str, Any]:
    """What the script draws, as plain JSON-able values."""
    return {
        "axis": profile.axis,
        "ticks": [place for place, _ in profile.ticks],
        "tickNames": [name.replace("\n", "<br>") for _, name in profile.ticks],
        "range": profile.ends,
        "panels": {
            small.panel.metric: {
                "arrow": arrow(small.panel.metric, upright=True),
                "log": small.log,
                "valueTicks": small.value_ticks,
                "lines": [
                    {
                        "labels": line.labels,
                        "twin": line.twin,
                        "x": line.x,
                        **{
                            name: json_numbers(getattr(line, name), digits=6)
                            for name in ("y", "low", "high")
                        },
                        "hover": line.hover,
                    }
                    for line in small.lines
                ],
            }
            for small in profile.smalls
        },
    }


def table(profile: Profile) -> pd.DataFrame:
    """All measures along the axis, a line a value, in reading order."""
    names = ["run", "step", "twin", "labels", "layer", "subset", "metric", "value", "low", "high"]
    names += ["n", "min_count", "excluded", "reason"]
    order = profile.rows["labels"].map(LABELS.index)
    lines = profile.rows.assign(order=order)
    return lines.sort_values(["twin", "order", "metric", "place"], kind="stable")[names]


def key_name(labels: str, twin: bool) -> str:
    """What a line is called."""
    return f"{NAMES[labels]}, {TWIN}" if twin else NAMES[labels]


def _profile(kind: Any, run: str, step: int, seed: int | None, both: pd.DataFrame) -> Profile:
    if kind == "layers":
        depth = int(both["layer"].max())
        place = both["layer"].map(lambda layer: _place_of_layer(layer, depth))
        words = both["layer"].map(lambda layer: _name_of_layer(layer, depth))
        ticks = _layer_ticks(sorted(set(both["layer"]) - {PRENORM}), depth, both["layer"])
        axis = "layer"
    else:
        starts = sorted({stratum_start(name) for name in both["subset"] if name != "all"})
        places = {start: float(i) for i, start in enumerate(starts)}
        everything = len(starts) + 0.5  # apart, and not joined to the strata
        place = both["subset"].map(
            lambda name: everything if name == "all" else places[stratum_start(name)]
        )
        words = both["subset"].map(lambda name: "all classes" if name == "all" else name)
        ticks = (*((places[start], _short(start)) for start in starts), (everything, "all"))
        axis = "count in the training text, from"
    both = both.assign(place=place, words=words)
    smalls = [_small(panel, both[both["metric"] == panel.metric]) for panel in PANELS[kind]]
    shown = tuple(small for small in smalls if small.lines)
    return Profile(kind, run, step, seed, axis, tuple(ticks), shown, both)


def _place_of_layer(layer: int, depth: int) -> float:
    """Blocks stand one apart; the two sides of the final norm further, so that both have a name."""
    gap = max(1.0, depth / 5)
    if layer == PRENORM:
        return depth - 1 + gap
    return depth - 1 + 2 * gap if layer == depth else float(layer)


def _name_of_layer(layer: int, depth: int) -> str:
    if layer == PRENORM:
        return "before the final norm"
    if layer == depth:
        return "after the final norm"
    return "the input embedding" if layer == 0 else f"after block {layer}"


def _layer_ticks(
    layers: list[int], depth: int, measured: "pd.Series[int]"
) -> tuple[tuple[float, str], ...]:
    names = {PRENORM: "before\nnorm", 0: "embed-\nding", depth: "final"}
    inner = [layer for layer in layers if 0 < layer < depth]
    every = 1 + (len(inner) - 1) // _TICKS
    clear = 0.1 * _place_of_layer(depth, depth)  # of the name of the first
    ticks = [layer for layer in inner if layer % every == 0 and layer > clear]
    ticks += {0, depth, PRENORM} & set(measured)
    return tuple(
        sorted((_place_of_layer(layer, depth), names.get(layer, str(layer))) for layer in ticks)
    )


def _short(count: int) -> str:
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count // unit}{name}"
    return str(count)


def _small(panel: Panel, rows: pd.DataFrame) -> Small:
    log = panel.metric in _LOG and bool((rows["value"] > 0).any())
    why = [_why_not(row["value"], row["n"], log=log) for row in rows.to_dict("records")]
    rows = rows.assign(why=why)
    drawn = rows[rows["why"] == ""]
    lines = [
        _line(panel.metric, group, labels, twin)
        for twin in (False, True)
        for labels in LABELS
        if len(group := drawn[(drawn["twin"] == twin) & (drawn["labels"] == labels)])
    ]
    ticks = log_ticks(drawn["value"].min(), drawn["value"].max()) if log and lines else ()
    return Small(_with_width(panel, rows), log, ticks, tuple(lines), _left_out(rows))


def _with_width(panel: Panel, rows: pd.DataFrame) -> Panel:
    """The title of a rank says of how many dimensions, where all layers have as many."""
    widths = set(rows["model_width"].dropna()) if "model_width" in rows else set()
    if panel is not _FILLED or len(widths) != 1 or rows["reason"].str.contains("projected").any():
        return panel
    return dataclasses.replace(panel, title=f"{panel.title}, of {int(widths.pop()):,}")


def _line(metric: str, rows: pd.DataFrame, labels: str, twin: bool) -> Line:
    points: list[tuple[float, float, float, float, str]] = []
    for row in rows.sort_values("place").to_dict("records"):
        if row["words"] == "all classes" and points:
            points.append((row["place"] - 0.5, math.nan, math.nan, math.nan, ""))
        words = _hover(metric, row, key_name(labels, twin))
        points.append((row["place"], row["value"], row["low"], row["high"], words))
    x, y, low, high, hover = zip(*points, strict=True)
    return Line(labels, twin, x, y, low, high, hover)


def _hover(metric: str, row: dict[Any, Any], name: str) -> str:
    known = not math.isnan(row["low"])
    lines = [
        f"<b>{html.escape(name, quote=False)}</b>",
        html.escape(row["words"], quote=False),
        f"{metric} <b>{_four(row['value'])}</b>",
        *([f"95 %: {_four(row['low'])} to {_four(row['high'])}"] if known else []),
        f"n = {row['n']:,}"
        + (f", classes of {row['min_count']:,} or more" if row["min_count"] > 1 else ""),
    ]
    return "<br>".join(lines)


def _left_out(rows: pd.DataFrame) -> str:
    """What is not drawn: of which lines, why, and where or at how many places."""
    parts = []
    for _, group in rows[rows["why"] != ""].groupby(["twin", "labels", "why"], sort=False):
        first = group.iloc[0]
        where = first["words"] if len(group) == 1 else f"{len(group)} places"
        name = key_name(first["labels"], bool(first["twin"]))
        parts.append(f"{name}, {first['why']} at {where}")
    return f"Not drawn: {'; '.join(parts)}." if parts else ""


def _why_not(value: float, n: int, *, log: bool) -> str:
    """Why an axis does not hold a value; "" if it does."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "infinite"
    if n < FEWEST:
        return "too few"
    return "not positive" if log and value <= 0 else ""


def _four(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
