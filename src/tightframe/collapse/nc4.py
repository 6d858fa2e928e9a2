"""NC4: whether the classifier decides as the nearest class mean does, on validation positions.

S are the classes that had a mean when it was decided: `Decisions.seen`.
"""

import math
from collections.abc import Callable

from tightframe.collapse.values import Geometry, Value
from tightframe.moments.state import Decisions


def hits(geometry: Geometry) -> Value:
    """How many positions agree, both choosing in S; of positions whose label is in S."""
    return _of_decisions(geometry, lambda d: (int(d.agreements.sum()), _labels_seen(d)), rate=False)


def rate(geometry: Geometry) -> Value:
    """The share of them."""
    return _of_decisions(geometry, lambda d: (int(d.agreements.sum()), _labels_seen(d)))


def rate_full(geometry: Geometry) -> Value:
    """The share of all positions, the classifier choosing among all ids: what decoding does."""
    return _of_decisions(geometry, lambda d: (int(d.agreements_full.sum()), d.n))


def accuracy(geometry: Geometry) -> Value:
    """Share of all positions where the nearest class mean is the label's."""
    return _of_decisions(geometry, lambda d: (int(d.nearest_hits.sum()), d.n))


def rate_macro(geometry: Geometry) -> Value:
    """Mean over labels of the share of their positions that agree; labels in S."""
    decisions = geometry.decisions
    if decisions is None:
        return _without(geometry)
    asked = decisions.counts > 0
    shown = asked & decisions.seen
    rates = decisions.agreements[shown].double() / decisions.counts[shown]
    n, left_out = int(shown.sum()), int((asked & ~decisions.seen).sum())
    reason = f"labels that have no class mean: {left_out} left out" if left_out else ""
    if n == 0:
        return Value(math.nan, 0, left_out, reason or "no positions")
    return Value(float(rates.mean()), n, left_out, reason)


def _of_decisions(
    geometry: Geometry, count: Callable[[Decisions], tuple[int, int]], *, rate: bool = True
) -> Value:
    decisions = geometry.decisions
    if decisions is None:
        return _without(geometry)
    hits, n = count(decisions)
    left_out = decisions.n - n
    reason = f"positions whose label has no class mean: {left_out} left out" if left_out else ""
    if n == 0:
        return Value(math.nan, 0, left_out, reason or "no positions")
    return Value(hits / n if rate else float(hits), n, left_out, reason)


def _labels_seen(decisions: Decisions) -> int:
    return int(decisions.counts[decisions.seen].sum())


def _without(geometry: Geometry) -> Value:
    return Value(math.nan, 0, 0, "no decisions were given; take them on a validation split")
