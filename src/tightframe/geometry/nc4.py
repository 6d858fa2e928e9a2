"""NC4: whether the classifier decides as the nearest class mean does, on validation positions.

S are the classes that had a mean when it was decided: `Decisions.seen`. Where only some classes are
asked for, positions are those whose label is one of them; what is chosen may be any.
"""

import dataclasses
import math
from collections.abc import Callable

from jaxtyping import Int64
from torch import Tensor

from tightframe.geometry.decisions import Decisions
from tightframe.geometry.values import Geometry, Value

NOT_TOLD = "not among the `extras` of these decisions; ranks are known at the last layer only"


def hits(geometry: Geometry) -> Value:
    """How many positions agree, both choosing in S; of positions whose label is in S."""
    return _of_decisions(geometry, lambda d: d.agreements, seen=True, rate=False)


def rate(geometry: Geometry) -> Value:
    """The share of them."""
    return _of_decisions(geometry, lambda d: d.agreements, seen=True)


def rate_full(geometry: Geometry) -> Value:
    """The share of all positions, the classifier choosing among all ids: what decoding does."""
    return _of_decisions(geometry, lambda d: d.agreements_full)


def rate_top5(geometry: Geometry) -> Value:
    """Share of positions where the classifier's five best, in S, hold the nearest class mean."""
    return _of_decisions(geometry, lambda d: d.agreements_top5, seen=True)


def rate_cosine(geometry: Geometry) -> Value:
    """As `rate`, with the mean at the smallest angle to the embedding, both seen from mu_G.

    Nearness without lengths: how much of `rate` is due to directions alone. Classes whose mean is
    mu_G have no direction and are never chosen.
    """
    return _of_decisions(geometry, lambda d: d.agreements_cosine, seen=True)


def rate_library(geometry: Geometry) -> Value:
    """The share of all positions by the reference library's rule, to be compared with its values.

    All rows of the classifier and as many means take part; tokens that have no mean have it at the
    origin, the smallest id of them standing for all. A spurious centre, which an embedding near
    the origin chooses and the classifier doesn't.
    """
    return _of_decisions(geometry, lambda d: d.agreements_library)


def accuracy(geometry: Geometry) -> Value:
    """Share of all positions where the nearest class mean is the label's.

    It cannot be where the label has no mean; the reason tells how much of the text that is.
    """
    value = _of_decisions(geometry, lambda d: d.nearest_hits)
    decisions = geometry.decisions
    if decisions is None or value.n == 0:
        return value
    without = int(decisions.counts[geometry.asked & ~decisions.seen].sum())
    if not without:
        return value
    most, share = 1 - without / value.n, f"{without:,} of {value.n:,} positions"
    reason = f"at most {most:.3g}: {share} have a label that has no class mean"
    return dataclasses.replace(value, reason=reason)


def rate_macro(geometry: Geometry) -> Value:
    """Mean over labels of the share of their positions that agree; labels in S."""
    decisions = geometry.decisions
    if decisions is None:
        return _without(geometry)
    asked = (decisions.counts > 0) & geometry.asked
    shown = asked & decisions.seen
    rates = decisions.agreements[shown].double() / decisions.counts[shown]
    n, left_out = int(shown.sum()), int((asked & ~decisions.seen).sum())
    reason = f"labels that have no class mean: {left_out} left out" if left_out else ""
    if n == 0:
        return Value(math.nan, 0, left_out, reason or "no positions")
    return Value(float(rates.mean()), n, left_out, reason)


def _of_decisions(
    geometry: Geometry,
    hits_of: Callable[[Decisions], Int64[Tensor, " C"] | None],
    *,
    seen: bool = False,
    rate: bool = True,
) -> Value:
    """Hits over positions, or their number; with `seen`, only of labels that have a mean."""
    decisions = geometry.decisions
    if decisions is None:
        return _without(geometry)
    found = hits_of(decisions)
    if found is None:
        return Value(math.nan, 0, 0, NOT_TOLD)
    labels = geometry.asked & decisions.seen if seen else geometry.asked
    hits, n = int(found[labels].sum()), int(decisions.counts[labels].sum())
    left_out = int(decisions.counts[geometry.asked].sum()) - n
    reason = f"positions whose label has no class mean: {left_out} left out" if left_out else ""
    if n == 0:
        return Value(math.nan, 0, left_out, reason or "no positions")
    return Value(hits / n if rate else float(hits), n, left_out, reason)


def _without(geometry: Geometry) -> Value:
    return Value(math.nan, 0, 0, "no decisions were given; take them on a validation split")
