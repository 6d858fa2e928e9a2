"""One checkpoint in small multiples: its measures layer by layer, and by the counts of its classes.

What is drawn, by the page and for print alike: lines of a measure over places in order, with the
95 % interval of each value where there is one.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from tightframe.analysis.checkpoints import MEASURED
from tightframe.analysis.profiles import LABELS, by_frequency, by_layer, stratum_start
from tightframe.geometry.measures import MEASURES
from tightframe.geometry.views import ROBUST, VIEWS, Panel, View, arrow, measure, top
from tightframe.report import plots
from tightframe.report.panels import log_ticks
from tightframe.report.plots import escaped, four
from tightframe.results import PRENORM

NAMES = {"next": "next token", "current": "current token", "shuffled": "shuffled labels"}
TWIN = "random weights"
_NEAREST = Panel(
    "ncc_accuracy",
    "NC4",
    "Accuracy of the nearest mean",
    "Share of positions whose nearest class mean is that of the label, on validation text.",
)
_RATIO = Panel(
    "nc1_cdnv_rom_dbg",
    "NC1",
    "Within-class variability",
    "Variance within classes over the squared distance between them; both are averaged over "
    "pairs of tokens before the division.",
    ("nc1_cdnv_rom_db",),
)
_FILLED = Panel(
    "rank_pr",
    "NC2",
    "Dimensions filled",
    "Number of dimensions that the class means fill: the participation ratio of their variances.",
)
_KNOWN = {
    panel.metric: panel
    for panel in (
        *(panel.of({name: 1}) for view in VIEWS for panel in view.panels for name in panel.forms),
        *(_NEAREST, *(_RATIO.of({name: 1}) for name in _RATIO.forms), _FILLED),
    )
}
# The places of the figure, each with the measures that may stand there: the one with most lines.
_FORMS = {panel.family: panel.forms for panel in ROBUST.panels}
_NC1 = (*_FORMS["NC1"], "nc1_cdnv_rom_dbg", "nc1_cdnv_rom_db")
PANELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "layers": (
        *(("ncc_accuracy",), _NC1, _FORMS["GNC2"]),
        *(("nc2_equiang_std",), ("rank_pr",), _FORMS["NC3"]),
    ),
    "frequency": (
        *(("ncc_accuracy",), _NC1, _FORMS["GNC2"]),
        *(("nc2_equiang_std",), _FORMS["NC3"], ("nc4_rate_fullv",)),
    ),
}
_STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 100)  # from one named layer to the next
_DIGITS = 20  # for which an axis has room
FEWEST = 10  # classes, pairs or positions that a value is drawn of


@dataclasses.dataclass(frozen=True)
class Line:
    """Values of a measure over layers or frequency strata; NaN interrupts the line."""

    labels: str  # what a class is
    twin: bool  # of the model with random weights
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]  # ends of the 95 % intervals, NaN where there is none
    high: tuple[float, ...]
    hover: tuple[str, ...]  # of each point, escaped

    @property
    def name(self) -> str:
        """Name of the line in a legend."""
        return key_name(self.labels, self.twin)


@dataclasses.dataclass(frozen=True)
class Small:
    """One of the small multiples."""

    panel: Panel
    log: bool
    min_count: int  # samples that a class needed to take part
    value_ticks: tuple[float, ...]  # of a logarithmic axis
    lines: tuple[Line, ...]
    left_out: str  # what this axis can't hold, in words; "" if it holds everything

    @property
    def n_lines(self) -> int:
        """Number of lines with several places, of labels that are not shuffled."""
        return sum(
            line.labels != "shuffled" and sum(map(math.isfinite, line.y)) > 1 for line in self.lines
        )


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
        """Ends of the axis, with some room on each side."""
        first, last = self.rows["place"].min(), self.rows["place"].max()
        room = 0.06 * (last - first)
        return first - room, last + room

    @property
    def keys(self) -> tuple[tuple[str, bool], ...]:
        """Kinds of lines that occur, in their order: labels, and whether of the twin."""
        found = {(line.labels, line.twin) for small in self.smalls for line in small.lines}
        return tuple(
            (labels, twin) for twin in (False, True) for labels in LABELS if (labels, twin) in found
        )


def profiles(
    rows: pd.DataFrame, losses: "pd.Series[float]", twins: dict[str, tuple[int, pd.DataFrame]]
) -> list[Profile]:
    """Return the profiles that these rows hold: by layer, by frequency, both or none.

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
        other = other.merge(own[["metric", "min_count"]].drop_duplicates())
        twin = choose(other, losses)
        twin = twin[twin["labels"] != "shuffled"]  # a null of a null
        both = pd.concat([own.assign(twin=False), twin.assign(twin=True)], ignore_index=True)
        drawn = _profile(kind, str(run), int(step), None if twin.empty else seed, both)
        found += [drawn] if drawn.smalls else []
    return found


def explained(smalls: Sequence[Profile], views: Sequence[View]) -> list[Panel]:
    """Return the panels of these profiles that stand in no view, for the guide of the page."""
    of_views = {panel.metric for view in views for panel in view.panels}
    shown = {small.panel.metric for profile in smalls for small in profile.smalls}
    return [panel_of(metric) for metric in sorted(shown - of_views)]


def panel_of(metric: str) -> Panel:
    """Return the panel of a measure; one that has no words of its own is named by its formula."""
    plain = Panel(metric, metric.partition("_")[0].upper(), measure(metric).formula, "")
    return _KNOWN.get(metric, plain)


def figures(profile: Profile) -> dict[str, plots.Json]:
    """Return the small multiples of a profile."""
    places, names = zip(*profile.ticks, strict=True)
    drawn = {}
    for small in profile.smalls:
        metric = small.panel.metric
        count = f"; min_count {small.min_count}" if small.min_count > 1 else ""
        title = f"{metric}<br>({arrow(metric, upright=True)}{count})"
        end = plots.clipped(None if small.log else top(metric))
        drawn[f"{profile.kind} {metric}"] = plots.profile(
            small.lines,
            x=plots.axis(
                profile.axis,
                range=profile.ends,
                tickvals=places,
                ticktext=[name.replace("\n", "<br>") for name in names],
                tickangle=0,
            ),
            y=plots.axis(title, small.value_ticks, **end),
            about=f"Lines of {metric} against the {profile.axis}. The values are in "
            f"tables/{profile.kind}.csv.",
        )
    return drawn


def table(profile: Profile) -> pd.DataFrame:
    """Return all measures along the axis, one line per value, in reading order."""
    names = ["run", "step", "twin", "labels", "layer", "subset", "metric", "value"]
    names += ["centre", "low", "high", "n", "min_count", "excluded", "documents", "reason"]
    order = profile.rows["labels"].map(LABELS.index)
    lines = profile.rows.assign(order=order)
    return lines.sort_values(["twin", "order", "metric", "place"], kind="stable")[names]


def key_name(labels: str, twin: bool) -> str:
    """Return the name of a line."""
    return f"{NAMES[labels]}, {TWIN}" if twin else NAMES[labels]


def _profile(kind: Any, run: str, step: int, seed: int | None, both: pd.DataFrame) -> Profile:
    if kind == "layers":
        depth = int(both["layer"].max())
        place = both["layer"].map(lambda layer: _place_of_layer(layer, depth))
        words = both["layer"].map(lambda layer: _name_of_layer(layer, depth))
        ticks = _layer_ticks(sorted(set(both["layer"])), depth)
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
    both = both.assign(place=place, words=words, apart=place == place.max())
    return Profile(kind, run, step, seed, axis, tuple(ticks), _smalls(kind, both), both)


def _smalls(kind: str, rows: pd.DataFrame) -> tuple[Small, ...]:
    """Return a panel for each place of the figure, then other measures where places are free."""
    places = PANELS[kind]
    named = {metric for place in places for metric in place}
    measured = set(rows["metric"])
    others = [(m.name,) for m in MEASURES if m.name in measured - named]
    shown: list[Small] = []
    for place in (*places, *others):
        drawn = [
            _small(panel_of(metric), rows[rows["metric"] == metric])
            for metric in place
            if metric in measured
        ]
        drawn = [small for small in drawn if small.n_lines]
        if drawn and len(shown) < len(places):
            shown.append(max(drawn, key=lambda small: small.n_lines))
    return tuple(shown)


def _place_of_layer(layer: int, depth: int) -> float:
    """Return a place: blocks stand one apart, what is after the final norm further, not joined."""
    if layer == PRENORM:  # the stream after the last block
        return float(depth)
    return depth + max(0.75, 0.14 * depth) if layer == depth else float(layer)


def _name_of_layer(layer: int, depth: int) -> str:
    if layer == PRENORM:
        return f"after block {depth}, before the final norm"
    if layer == depth:
        return "after the final norm"
    return "the input embedding" if layer == 0 else f"after block {layer}"


def _layer_ticks(layers: list[int], depth: int) -> tuple[tuple[float, str], ...]:
    """Return some measured layers with their numbers: the first, the last, and those between."""
    inner = sorted({depth if layer == PRENORM else layer for layer in layers if layer != depth})
    room = _DIGITS // len(str(depth))
    every = next((n for n in _STEPS if depth <= room * n), depth)
    ticks = [
        layer
        for layer in inner
        if layer in (inner[0], inner[-1])
        or (layer % every == 0 and 4 * (inner[-1] - layer) >= 3 * every)
    ]
    named = [(float(layer), str(layer)) for layer in ticks]
    return (*named, *([(_place_of_layer(depth, depth), "final")] if depth in layers else []))


def _short(count: int) -> str:
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count // unit}{name}"
    return str(count)


def _small(panel: Panel, rows: pd.DataFrame) -> Small:
    # What stands beside an interval is its centre.
    bare = rows["centre"].isna()
    ends = {end: rows[end].mask(bare) for end in ("low", "high")}
    rows = rows.assign(value=rows["centre"].fillna(rows["value"]), plain=rows["value"], **ends)
    log = panel.family == "NC1" and bool((rows["value"] > 0).any())  # spans decades
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
    min_count = int(rows["min_count"].iloc[0])
    named = _with_width(panel, rows)
    return Small(named, log, min_count, ticks, tuple(lines), _left_out(rows))


def _with_width(panel: Panel, rows: pd.DataFrame) -> Panel:
    """Return the panel; a rank's title has the number of dimensions, where layers agree."""
    widths = set(rows["model_width"].dropna()) if "model_width" in rows else set()
    if panel != _FILLED or len(widths) != 1 or rows["reason"].str.contains("projected").any():
        return panel
    return dataclasses.replace(panel, title=f"{panel.title}, of {int(widths.pop()):,}")


def _line(metric: str, rows: pd.DataFrame, labels: str, twin: bool) -> Line:
    points: list[tuple[float, float, float, float, str]] = []
    for row in rows.sort_values("place").to_dict("records"):
        if row["apart"] and points:
            points.append((row["place"] - 0.5, math.nan, math.nan, math.nan, ""))
        words = _hover(metric, row, key_name(labels, twin))
        points.append((row["place"], row["value"], row["low"], row["high"], words))
    x, y, low, high, hover = zip(*points, strict=True)
    return Line(labels, twin, x, y, low, high, hover)


def _hover(metric: str, row: dict[Any, Any], name: str) -> str:
    known = not math.isnan(row["low"])
    lines = [
        f"<b>{escaped(name)}</b>",
        escaped(row["words"]),
        f"{metric} <b>{four(row['value'])}</b>",
        *([f"95 %: {four(row['low'])} to {four(row['high'])}"] if known else []),
        *([f"with small counts' bias {four(row['plain'])}"] if known else []),
        f"n = {row['n']:,}"
        + (f", classes of {row['min_count']:,} or more" if row["min_count"] > 1 else ""),
    ]
    return "<br>".join(lines)


def _left_out(rows: pd.DataFrame) -> str:
    """Return what is not drawn: lines, reasons, and places or their number."""
    parts = []
    for _, group in rows[rows["why"] != ""].groupby(["twin", "labels", "why"], sort=False):
        first = group.iloc[0]
        where = first["words"] if len(group) == 1 else f"{len(group)} places"
        name = key_name(first["labels"], bool(first["twin"]))
        parts.append(f"{name}, {first['why']} at {where}")
    return f"Not drawn: {'; '.join(parts)}." if parts else ""


def _why_not(value: float, n: int, *, log: bool) -> str:
    """Return why an axis does not hold a value; "" if it does."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "infinite"
    if n < FEWEST:
        return "too few"
    return "not positive" if log and value <= 0 else ""
