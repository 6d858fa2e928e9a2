"""Measured numbers for readers: by property or layer by layer, each reason once, and in words.

Results files and `--json` hold every number in full; what is printed is for reading.
"""

import dataclasses
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from tightframe.geometry.measures import MEASURES
from tightframe.geometry.views import (
    NO_DEBIASED,
    PUBLISHED,
    ROBUST,
    best_form,
    counted,
    is_near_unigram,
)
from tightframe.lm.interface import PRENORM
from tightframe.results import Header, Row

# What the measures of a property begin with, and what stands above them.
PROPERTIES = (
    (("nc1_",), "NC1: variability within classes"),
    (("nc2_",), "NC2: equal norms and angles of class means"),
    (("gnc2_",), "GNC2: directions of class means spread evenly"),
    (("nc3_",), "NC3: class means along their rows of the classifier"),
    (("unc3_",), "UNC3: all classes equally along them"),
    (("nc4_", "ncc_"), "NC4: the nearest class mean decides as the classifier"),
    (("nc5_",), "NC5: class means orthogonal to other text"),
    (("rank_", "spectrum_", "head_"), "Ranks"),
    (("dim_",), "Dimensions"),
    (("val_", "entropy_floor", "realised_floor"), "Loss"),
)
_ORDER = [name for view in (ROBUST, PUBLISHED) for panel in view.panels for name in panel.forms]
# Measures of the robust view that have one form only, which the noise of class means is in.
_PLAIN_ONLY = {
    panel.metric for panel in ROBUST.panels if not panel.others and panel.family != "NC4"
}
# What stands side by side where there are several layers or strata: each in the form of the view.
HEADLINES = (
    *("nc1_cdnv_med_db", "gnc2_log_kernel_excess", "nc3_cos_mean", "unc3_cos_var"),
    *("ncc_accuracy", "rank_pr"),
)
# What a value says in words, and what it is at full collapse; in whichever form.
WORDS = {
    "nc1_cdnv_med_db": (
        "variance within classes is {:.2g} times the squared distance between them",
        "0",
    ),
    "nc3_cos_mean": ("class means have a cosine of {:.2g} with their rows of the classifier", "1"),
    "nc4_rate_fullv": (
        "the nearest class mean decides as the classifier at {:.1%} of positions",
        "100%",
    ),
}

_PLAIN, _BELIEVED = "nc1_cdnv_p2", "nc1_cdnv_med_db"
BELIEVE = (
    "as published, it depends on counts and on the scale of embeddings: where it disagrees with "
    "{}, believe that one"
)
_NOISY = NO_DEBIASED[0].lower() + NO_DEBIASED[1:-1]

# Values of the randomly initialized control, by layer, subset and measure.
Control: TypeAlias = Mapping[tuple[int, str, str], float]

_DIRECTION = {measure.name: measure.direction for measure in MEASURES}
_OF_INTERVALS = ("interval ", "no interval: ")
_COLUMN = 11  # characters of a column of a table, at least
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def lines_of_summary(
    header: Header,
    rows: Sequence[Row],
    control: Control,
    *,
    full: bool = False,
    chosen: bool = False,
    width: int = 80,
) -> Iterator[str]:
    """Yield the lines that a measurement prints.

    Args:
        header: Of the results.
        rows: What was asked for, by layer, subset and measure.
        control: Values of the model with random weights.
        full: Every number, not only those of the two views.
        chosen: The reader has named the measures: all of them are shown.
        width: Characters of a line.
    """
    measured = [row for row in rows if _property(row) != "Loss"]
    places = list(dict.fromkeys((row.layer, row.subset) for row in measured))
    rows, left_out = _without_class_set(rows, header.measurement["min_count"])
    forms = counted(rows)
    rows = _with_view(rows, forms)
    if len(places) > 1 and not full:
        label = max(map(len, map(_label, places)))
        shown = _columns(rows, forms, chosen=chosen, width=width, label=label)
        kept = [_bare(row) for row in rows if row.metric in shown]
        kept += [row for row in rows if row.metric not in _DIRECTION]
    else:
        views = [panel.metric for one in (ROBUST, PUBLISHED) for panel in one.of(forms).panels]
        kept = [row for row in rows if full or chosen or row.metric in (*views, *_losses(rows))]
    notes = _Notes(kept)
    yield from _wrapped(_title(header, rows, left_out), width)
    if len(places) > 1 and not full:
        yield from _side_by_side(kept, places, shown, notes)
        rest = [row for row in kept if row.metric not in _DIRECTION]
        yield from _by_property(rest, notes, {})
    else:
        for place in places or [(rows[0].layer, rows[0].subset)]:
            here = [row for row in kept if (row.layer, row.subset) == place]
            if len(places) > 1:
                yield from ("", f"layer {_label(place)}")
            yield from _by_property(here, notes, control)
        apart = [row for row in kept if (row.layer, row.subset) not in places]
        yield from _by_property(apart if places else [], notes, {})
    if notes.texts:
        yield ""
    for number, text in enumerate(notes.texts, start=1):
        yield from _wrapped(f"({number}) {text}", width)
    if len(places) > 1 and not full and (noisy := [x for x in shown if x in _PLAIN_ONLY]):
        yield from _wrapped(f"{', '.join(noisy)}: {_NOISY}", width)
    yield ""
    yield from _wrapped(_in_words(kept, control, header), width)
    if sinks := header.measurement.get("sinks"):
        yield from _wrapped(sinks, width)
    yield from _wrapped(_near_unigram(header, rows), width)
    if hidden := len({row.metric for row in rows} - {row.metric for row in kept}):
        yield from _wrapped(f"--full prints {hidden} more measures of each layer.", width)


def _title(header: Header, rows: Sequence[Row], left_out: int) -> str:
    of, least = header.model, header.measurement["min_count"]
    step = f" at step {header.step}" if header.step or header.settings else ""
    fewer = f" ({left_out:,} with fewer left out)" if left_out else ""
    samples = "" if least == 1 else f" with {least} samples or more{fewer}"
    groups = header.measurement.get("groups", 1)
    unit = next((row.resampled for row in rows if row.resampled), "documents")
    intervals = ""
    if groups > 1:
        n = max((row.documents for row in rows if row.split == "train"), default=0)
        counted = f" ({n:,} documents)" if n and unit == "documents" else ""
        intervals = (
            f"; 95 % intervals from {groups} groups of {unit}{counted}, beside values without "
            "the bias of small counts"
        )
    labels = {"next": "the next token", "current": "the current token"}.get(rows[0].labels)
    skipped = _skipped(header)
    return (
        f"{header.run}{step} on {header.tokens['name']}: {of['n_classes']:,} classes"
        f"{samples} in {of['width']:,} dimensions (K/D {of['classes_per_dimension']:.1f}); a class "
        f"is {labels or 'a shuffled token'}{skipped}{intervals}"
    )


def _skipped(header: Header) -> str:
    first, special = (header.measurement.get(name) for name in ("skip_positions", "skip_special"))
    parts = [
        f"the first {first} of each block" if first and first > 1 else "the first of each block"
    ]
    parts = (parts if first else []) + (["those after a special token"] if special else [])
    return f"; positions left out: {' and '.join(parts)}" if parts else ""


def _by_property(rows: Sequence[Row], notes: "_Notes", control: Control) -> Iterator[str]:
    """Yield a paragraph for each property, in which measures of the robust view come first."""
    names = max((len(row.metric) for row in rows), default=0)
    arrows = max((len(arrow(row.metric)) for row in rows), default=0)
    values = [f"{row.shown:.4g}" for row in rows]
    digits = max(map(len, values), default=0)
    intervals = {id(row): _interval(row) for row in rows}
    space = max(map(len, intervals.values()), default=0)
    beside = [control.get((row.layer, row.subset, row.metric)) for row in rows]
    others = {id(row): f"{x:.4g}" for row, x in zip(rows, beside, strict=True) if x is not None}
    last = max((len(text) for text in others.values()), default=0)
    if others:
        start = 2 + names + 2 + arrows + 2 + digits + 2 + space + 2
        yield from ("", f"{'random':>{start + last}}", f"{'weights':>{start + last}}")
    order = {name: place for place, name in enumerate(_ORDER)}
    before = None
    for row in sorted(rows, key=lambda row: (_rank(row), order.get(row.metric, len(order)))):
        if _property(row) != before:
            before = _property(row)
            yield from ("", before)
        line = f"  {row.metric:{names}}  {arrow(row.metric):{arrows}}  {row.shown:>{digits}.4g}"
        line += f"  {intervals[id(row)]:{space}}"
        if others:
            line += f"  {others.get(id(row), ''):>{last}}"
        yield f"{line.rstrip()}  {notes.marks(row)}".rstrip()


def _side_by_side(
    rows: Sequence[Row], places: Sequence[tuple[int, str]], shown: Sequence[str], notes: "_Notes"
) -> Iterator[str]:
    """Yield a line for each layer and subset, and where the model is most collapsed."""
    by_place = {(row.layer, row.subset, row.metric): row for row in rows}
    heads = [[*_broken(name), arrow(name)] for name in shown]
    height = max(map(len, heads))
    label = max(len("layer"), *(len(_label(place)) for place in places))
    yield ""
    for line in range(height):
        cells = [([""] * (height - len(head)) + head)[line] for head in heads]
        first = "layer" if line == height - 1 else ""
        yield (f"{first:{label}}" + "".join(f" {cell:>{_COLUMN}}" for cell in cells)).rstrip()
    for place in places:
        found = [by_place.get((*place, name)) for name in shown]
        cells = ["" if x is None else f"{x.value:.4g}{notes.marks(x) or '   '}" for x in found]
        yield (f"{_label(place):{label}}" + "".join(f" {x:>{_COLUMN}}" for x in cells)).rstrip()


def _in_words(rows: Sequence[Row], control: Control, header: Header) -> str:
    """Return one sentence on what the numbers mean."""
    layers = list(dict.fromkeys(row.layer for row in rows if row.subset == "all"))
    inner = [row for row in rows if row.subset == "all" and row.metric in _DIRECTION]
    if len({row.layer for row in inner}) > 1:
        best: dict[int, list[str]] = {}
        for name in dict.fromkeys(row.metric for row in inner):
            far = {x.layer: _distance(name, x.value) for x in inner if x.metric == name}
            far = {layer: value for layer, value in far.items() if not math.isnan(value)}
            if len(far) > 1:
                best.setdefault(min(far, key=far.__getitem__), []).append(name)
        said = [f"at layer {_name(x)} by {', '.join(best[x])}" for x in layers if x in best]
        return f"Most collapsed {'; '.join(said)}." if said else "No layer is more collapsed."
    values = {row.metric: row for row in rows if row.subset == "all"}
    said, ends = [], []
    forms = counted(rows)
    for name, (words, end) in ((best_form(name, forms), said) for name, said in WORDS.items()):
        if name in values and not math.isnan(values[name].value):
            row = values[name]
            other = control.get((row.layer, row.subset, name))
            compared = "" if other is None else f" (random weights: {_short(words, other)})"
            said.append(words.format(row.shown) + compared)
            ends.append(end)
    step = f" at step {header.step}" if header.step or header.settings else ""
    if not said:
        return f"Arrows point to more collapsed values ({header.run}{step})."
    listed = ", ".join(said[:-1]) + (", and " if said[:-1] else "") + said[-1]
    end = ", ".join(ends[:-1]) + (" and " if ends[:-1] else "") + ends[-1]
    verb = "these are" if len(ends) > 1 else "this is"
    return f"In words: in {header.run}{step}, {listed}; at full collapse {verb} {end}."


def _near_unigram(header: Header, rows: Sequence[Row]) -> str:
    """Say that a model predicts hardly better than frequencies do; "" if it does."""
    entropy = header.tokens.get("unigram_entropy", math.nan)
    for row in rows:
        if row.metric == "val_loss" and is_near_unigram(row.value, entropy):
            return (
                f"Close to a unigram model: val_loss is {row.value:.4g}, the entropy of the "
                f"frequencies of tokens {entropy:.4g} nats. So little was learnt that the "
                "geometry says little."
            )
    return ""


def arrow(metric: str) -> str:
    """Return an arrow towards more collapsed values, or to the value at full collapse."""
    direction = _DIRECTION.get(metric, "-")
    plain = {"low": "\N{DOWNWARDS ARROW}", "high": "\N{UPWARDS ARROW}", "-": ""}
    return plain.get(direction) or direction.replace("->", "\N{RIGHTWARDS ARROW}").strip("-")


class _Notes:
    """Reasons of many rows, each said once: equal but for their numbers, they are one."""

    def __init__(self, rows: Sequence[Row]) -> None:
        numbers: dict[str, list[list[str]]] = {}
        for part in (part for row in rows for part in _parts(row.reason)):
            numbers.setdefault(_NUMBER.sub("#", part), []).append(_NUMBER.findall(part))
        self._places = {form: place for place, form in enumerate(numbers, start=1)}
        self.texts = []
        for form, found in numbers.items():
            spans = [_span(numbers) for numbers in zip(*found, strict=True)]
            pieces = zip(form.split("#"), [*spans, ""], strict=True)
            self.texts.append("".join(part for piece in pieces for part in piece))

    def marks(self, row: Row) -> str:
        """Return the numbers of a row's reasons, to stand behind its value."""
        places = sorted(self._places[_NUMBER.sub("#", part)] for part in _parts(row.reason))
        return f"({','.join(map(str, places))})" if places else ""


def _span(numbers: Sequence[str]) -> str:
    """Return a number that all share, or the smallest and the largest."""
    ordered = sorted(set(numbers), key=lambda number: float(number.replace(",", "")))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _without_class_set(rows: Sequence[Row], min_count: int) -> tuple[list[Row], int]:
    """Leave out of the reasons what is true of all rows: which classes take part."""
    form = re.compile(rf"classes with fewer than {min_count} samples: (\d+) left out(?:; |$)")
    found = [int(m[1]) for row in rows if row.subset == "all" and (m := form.search(row.reason))]
    left = [dataclasses.replace(row, reason=form.sub("", row.reason)) for row in rows]
    return left, max(found, default=0)


def _with_view(rows: Sequence[Row], forms: Mapping[str, int]) -> list[Row]:
    """Say which NC1 to believe where both views show one, and which measures are not debiased."""
    believed = best_form(_BELIEVED, forms)
    robust = {(row.layer, row.subset) for row in rows if row.metric == believed}
    found = []
    for row in rows:
        why = _NOISY if row.metric in _PLAIN_ONLY else ""
        if row.metric == _PLAIN and (row.layer, row.subset) in robust:
            why = BELIEVE.format(believed)
        reason = "; ".join(filter(None, [row.reason, why]))
        found.append(dataclasses.replace(row, reason=reason))
    return found


def _bare(row: Row) -> Row:
    """Leave out of a row's reason what a table says in its columns' names or does not show."""
    parts = [part for part in _parts(row.reason) if not part.startswith((*_OF_INTERVALS, _NOISY))]
    return dataclasses.replace(row, reason="; ".join(parts))


def _columns(
    rows: Sequence[Row], forms: Mapping[str, int], *, chosen: bool, width: int, label: int
) -> list[str]:
    names = list(dict.fromkeys(row.metric for row in rows if row.metric in _DIRECTION))
    headlines = [best_form(name, forms) for name in HEADLINES]
    wanted = names if chosen else [name for name in headlines if name in names] or names
    return wanted[: max(1, (width - max(label, 5)) // (_COLUMN + 1))]


def _parts(reason: str) -> list[str]:
    """Return what a reason consists of; what to do about it stays with it."""
    return [part for part in re.split(r"; (?!raise )", reason) if part]


def _property(row: Row) -> str:
    for prefixes, name in PROPERTIES:
        if row.metric.startswith(prefixes) and "." not in row.metric:
            return name
    return row.metric.partition(".")[0]


def _rank(row: Row) -> int:
    names = [name for _, name in PROPERTIES]
    return names.index(_property(row)) if _property(row) in names else len(names)


def _losses(rows: Sequence[Row]) -> list[str]:
    return [row.metric for row in rows if row.metric not in _DIRECTION]


def _interval(row: Row) -> str:
    return "" if math.isnan(row.low) else f"[{row.low:.4g}, {row.high:.4g}]"


def _distance(metric: str, value: float) -> float:
    """Return how far a value is from collapse, for comparing layers; NaN if nothing says so."""
    direction = _DIRECTION[metric]
    if direction in ("low", "high"):
        return value if direction == "low" else -value
    end = direction.removeprefix("-> ")
    return abs(value - float(end)) if end in ("0", "1") else math.nan


def _name(layer: int) -> str:
    return "prenorm" if layer == PRENORM else str(layer)


def _label(place: tuple[int, str]) -> str:
    layer, subset = place
    return _name(layer) if subset == "all" else f"{_name(layer)}, {subset}"


def _broken(name: str) -> list[str]:
    """Break the name of a measure at underscores into lines as wide as a column."""
    lines = [""]
    for piece in re.findall(r"[^_]+_?", name):
        if lines[-1] and len(lines[-1]) + len(piece) > _COLUMN:
            lines.append("")
        lines[-1] += piece
    return lines


def _short(words: str, value: float) -> str:
    """Return a value as the sentence writes it, without the sentence."""
    form = re.search(r"\{.*?\}", words)
    assert form is not None
    return form[0].format(value)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
