"""95 % intervals of the measures, from states that are kept by group of documents.

Positions of one document depend on each other, documents don't: what is resampled are groups of
documents (G of them, usually 20 contiguous ones), from the moments of one and the same pass.

What an interval is of: the value for infinitely many documents, over the classes it is taken on.
Class means from few samples are noisy, and most measures take the noise for geometry. The bias
goes as 1/n, so resamples with fewer documents tell its size and it is taken out (`resampling.py`).
An interval may therefore exclude the plain value; its `centre` is the estimate that it is of.

The classes are fixed beforehand: those of the measure that keep two samples in every resample;
value and resamples are all taken over them. A measure that changes with the number of classes has
an interval only if these are all of its classes. Positive ratios and within_ss, whose range is
[0, inf), are treated on a log scale, where their errors are nearer to symmetric.

There is no interval where none would hold: where the two estimates of the bias disagree, of
variances whose samples have heavy tails, and of logarithms and inverses of distances where some
are mostly noise. `tests/test_coverage.py` holds the coverage of the others
to 93 to 97 % in worlds that look like text; docs/measures.md has the table.

Intervals of decisions (NC4) resample validation documents and take the class means as given.

Axes: C classes, G groups.
"""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tightframe.geometry.decisions import Decisions
from tightframe.geometry.diagnostics import alike_groups, heavy_tailed, unresolved
from tightframe.geometry.mean_families import PairMeasure
from tightframe.geometry.resampling import (
    GROUPS,
    KEPT,
    Interval,
    Resamples,
    balanced_halves,
    effective_groups,
    plan_of,
    survivors,
)
from tightframe.geometry.values import Geometry, Value

NARROW = (
    "narrow interval: squared distances to the class means have heavy tails; in tests 91 to 96 % "
    "of such intervals held"
)
DOCUMENTS = "documents"
_NUMBER = re.compile(r"-?(\d+(\.\d+)?|inf)")


@dataclasses.dataclass(frozen=True)
class MeasureTraits:
    """A measure, as far as its interval is concerned."""

    name: str
    function: Callable[[Geometry], Value]
    split: Literal["train", "val"]
    range: str  # in words, "[0, inf)"
    least_count: int  # samples that a class needs to take part
    why_none: str = ""  # why it can have no sound interval
    by_groups: bool = False  # whether it is over the classes whose noise groups tell
    counts_classes: bool = False  # whether it changes with the number of classes
    of_variances: bool = False  # whether it is made of the variances of classes

    @property
    def is_median(self) -> bool:
        """True if the measure moves with a few pairs, and so needs halves of the groups."""
        return isinstance(self.function, PairMeasure) and self.function.aggregate == "median"

    @property
    def of_near_pairs(self) -> bool:
        """True for means of logarithms or inverses of distances, which near means decide."""
        if not isinstance(self.function, PairMeasure):
            return False
        inverse = self.function.quantity.startswith("cdnv") and self.function.aggregate == "moments"
        return inverse or self.function.aggregate in ("logs", "mean_log")

    @property
    def is_log(self) -> bool:
        """True for a ratio or a spread, whose errors are in proportion to it."""
        return self.range == "[0, inf)"


def plain_values(measures: Sequence[MeasureTraits], geometry: Geometry) -> dict[str, Value]:
    """Return the values of the measures, without intervals."""
    plan_pairs([one.function for one in measures], geometry)
    return {one.name: one.function(geometry) for one in measures}


def with_intervals(
    values: Mapping[str, Value],
    measures: Sequence[MeasureTraits],
    geometry: Geometry,
    classifier: Float[Tensor, "V D"],
) -> dict[str, Value]:
    """Return the values with their intervals, as far as the states are kept by group."""
    ranges = {one.name: one.range for one in measures}
    intervals = {
        one.name: _of(one, found) for one, found in resample(values, measures, geometry, classifier)
    }
    return {
        name: _filled(value, intervals[name], ranges[name]) if name in intervals else value
        for name, value in values.items()
    }


def resample(
    values: Mapping[str, Value],
    measures: Sequence[MeasureTraits],
    geometry: Geometry,
    classifier: Float[Tensor, "V D"],
) -> list[tuple[MeasureTraits, Resamples]]:
    """Return the resamples of those measures that have a value and states kept by group."""
    grouped = {
        "train": geometry.moments.n_groups > 1,
        "val": geometry.decisions is not None and geometry.decisions.n_groups > 1,
    }
    asked = [one for one in measures if grouped[one.split] and values[one.name].n]
    found = {one.name: Resamples(refused=one.why_none) for one in asked if one.why_none}
    able = [one for one in asked if not one.why_none]
    found |= _of_decisions([one for one in able if one.split == "val"], geometry)
    found |= _of_moments([one for one in able if one.split == "train"], geometry, classifier)
    return [(one, found[one.name]) for one in asked]


def _of(measure: MeasureTraits, resamples: Resamples) -> Interval:
    """Return the interval of a measure of one model."""
    found = resamples.interval(log=measure.is_log)
    return _around(resamples.full, found) if measure.split == "val" else found


def _of_moments(
    measures: Sequence[MeasureTraits], geometry: Geometry, classifier: Float[Tensor, "V D"]
) -> dict[str, Resamples]:
    """By leaving out each group and halves of them, over the classes that survive it all."""
    if not measures:
        return {}
    moments = geometry.moments
    counts = moments.counts_by_group
    groups = _occupied(counts)
    if len(groups) < 2:
        return _none(measures, "the documents are in one group")
    plan = plan_of(groups)
    taken = torch.zeros_like(moments.counts, dtype=torch.bool)
    taken[geometry.classes.ids] = True
    fixed = taken & survivors(counts, plan)

    def sizes(measure: MeasureTraits) -> tuple[int, int]:
        """Classes of the measure that are fixed, and all of them."""
        own = taken & (moments.counts >= measure.least_count)
        if measure.by_groups:
            own &= geometry.has_group_noise
        return int((own & fixed).sum()), int(own.sum())

    def without(asked: Sequence[MeasureTraits], left_out: Sequence[int]) -> Geometry:
        state = moments.without(*left_out, among=fixed)
        by_groups = any(one.by_groups for one in asked)
        noise = geometry.noise.without(left_out) if by_groups and geometry.noise else None
        resampled = Geometry(state, classifier, ood=geometry.ood, noise=noise)
        plan_pairs([one.function for one in asked], resampled)
        return resampled

    def values(asked: Sequence[MeasureTraits], left_out: Sequence[int]) -> list[float]:
        resampled = without(asked, left_out)
        return [one.function(resampled).value for one in asked]

    refused = {one.name: _refusal(one, geometry, *sizes(one)) for one in measures}
    able = [one for one in measures if not refused[one.name]]
    if able and (reason := alike_groups(moments, fixed)):
        refused |= {one.name: reason for one in able}
        able = []
    whole = without(able, ())
    of_variances = [one.name for one in able if one.of_variances]
    too_heavy, heavy = heavy_tailed(moments, fixed) if of_variances else ("", False)
    near = [one.name for one in able if one.of_near_pairs]
    too_near = unresolved(moments, fixed) if near else ""
    refused |= dict.fromkeys(of_variances if too_heavy else (), too_heavy)
    refused |= dict.fromkeys(near if too_near else (), too_near)
    out = {name: Resamples(refused=reason) for name, reason in refused.items() if reason}
    smooth = [one for one in able if one.name not in out and not one.is_median]
    medians = [one for one in able if one.name not in out and one.is_median]
    if not (asked := smooth + medians):
        return out
    full = [one.function(whole).value for one in asked]
    left = [values(smooth, group) for group in plan[: len(groups)]] if smooth else []
    halves = [values(asked, half) for half in plan[len(groups) :]]
    freedom = effective_groups(counts[:, fixed]) - 1
    for place, one in enumerate(asked):
        notes = [NARROW] * (one.is_median and heavy and one.of_variances)
        n_fixed, n = sizes(one)
        if n_fixed < n:
            notes.append(
                f"interval over the {n_fixed} of {n} classes with two samples in resamples"
            )
        out[one.name] = Resamples(
            full[place],
            () if one.is_median else tuple(value[place] for value in left),
            tuple(value[place] for value in halves),
            freedom,
            note="; ".join(notes),
        )
    return out


def _refusal(measure: MeasureTraits, geometry: Geometry, n_fixed: int, n: int) -> str:
    """Return why classes or groups allow no interval of a measure; "" if they do."""
    moments = geometry.moments
    if n_fixed < max(2, KEPT * n):
        return f"only {n_fixed} of {n} classes have two samples in every resample; raise min_count"
    if measure.counts_classes and n_fixed < n:
        return (
            f"it changes with the number of classes, and only {n_fixed} of {n} have two samples "
            "in every resample; raise min_count"
        )
    if not measure.is_median:
        return ""
    if len(_occupied(moments.counts_by_group)) < moments.n_groups:
        return "some groups have no documents, and a median needs balanced halves"
    if balanced_halves(moments.n_groups) is None:
        known = ", ".join(map(str, GROUPS))
        return f"{moments.n_groups} groups have no balanced halves; {known} do"
    return ""


def of_positions(
    decisions: Decisions,
    value_of: Callable[[Decisions], float],
    *,
    range: str,
    log: bool = False,
) -> Value:
    """Compute something of all positions, such as a loss, with its interval if kept by group."""
    value = Value(value_of(decisions), decisions.n, 0)
    if decisions.n_groups == 1 or not decisions.n:
        return value
    found = resample_positions(decisions, value_of).interval(log=log)
    return _filled(value, _around(value.value, found), range)


def resample_positions(decisions: Decisions, value_of: Callable[[Decisions], float]) -> Resamples:
    """Compute something of all positions, and of those without each group."""
    groups = _occupied(decisions.counts_by_group)
    if len(groups) < 2:
        return Resamples(refused="the documents are in one group")
    without = tuple(value_of(decisions.without(group)) for group in groups)
    return Resamples(value_of(decisions), without, freedom=_freedom(decisions))


def _of_decisions(measures: Sequence[MeasureTraits], geometry: Geometry) -> dict[str, Resamples]:
    """By leaving out one group of validation positions; the class means stay as they are."""
    decisions = geometry.decisions
    if not measures or decisions is None:
        return {}
    groups = _occupied(decisions.counts_by_group)
    if len(groups) < 2:
        return _none(measures, "the documents are in one group")
    without = []
    for group in groups:
        given = copy.copy(geometry)
        given.decisions = decisions.without(group)
        without.append(given)
    return {
        one.name: Resamples(
            one.function(geometry).value,
            tuple(one.function(given).value for given in without),
            freedom=_freedom(decisions),
            note="interval given the measured class means",
        )
        for one in measures
    }


def _around(value: float, interval: Interval) -> Interval:
    """Return the interval of a mean over positions, which has no bias to be taken out."""
    return interval._replace(centre=value) if interval.low <= value <= interval.high else interval


def _freedom(decisions: Decisions) -> float:
    return effective_groups(decisions.counts_by_group.sum(1, keepdim=True)) - 1


def plan_pairs(functions: Sequence[Callable[[Geometry], Value]], geometry: Geometry) -> None:
    """Say what the measures will ask of the pairs, so that one sweep serves them all."""
    for function in functions:
        if isinstance(function, PairMeasure):
            geometry.plan(function.quantity, function.aggregate)


def _occupied(counts: Int64[Tensor, "G C"]) -> list[int]:
    return [group for group, n in enumerate(counts.sum(1).tolist()) if n]


def _none(measures: Sequence[MeasureTraits], reason: str) -> dict[str, Resamples]:
    return {measure.name: Resamples(refused=reason) for measure in measures}


def _filled(value: Value, interval: Interval, range: str) -> Value:
    """Return the value with its interval, no wider than what the measure can be.

    An end of the range that is no number, such as a dimension, bounds nothing.
    """
    ends = re.fullmatch(r"[\[(](.+), (.+)[\])]", range)
    first, last = ends.groups() if ends else ("", "")
    least = float(first) if _NUMBER.fullmatch(first) else -math.inf
    most = float(last) if _NUMBER.fullmatch(last) else math.inf
    low, high, centre = (min(max(end, least), most) for end in interval[:3])
    if high - low <= (interval.high - interval.low) / 10:  # nearly all of it lies beyond an end
        interval = Interval.none(f"all of it, or nearly, is outside of {range}")
    reason = "; ".join(filter(None, [value.reason, interval.reason]))
    if math.isnan(interval.low):
        return dataclasses.replace(value, reason=reason)
    return dataclasses.replace(
        value, low=low, high=high, centre=centre, resampled=DOCUMENTS, reason=reason
    )
