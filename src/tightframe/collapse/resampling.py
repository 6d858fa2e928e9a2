r"""Two designs of resamples by group, and the intervals that they give.

**Leaving one group out** (the grouped jackknife), with :math:`\theta_{(g)}` the measure without
group g:

.. math::
    \hat\theta = G\,\theta - (G - 1)\,\bar\theta_{(\cdot)}, \qquad
    \mathrm{SE}^2 = \frac{G - 1}{G} \sum_g (\theta_{(g)} - \bar\theta_{(\cdot)})^2

and :math:`\hat\theta \pm t_{G-1}\,\mathrm{SE}`. It is exact to first order for whatever is smooth
in the group sums, and its remainder goes as :math:`1/n^2`. Splitting the documents in halves tells
that remainder by Richardson extrapolation; where it exceeds the SE, there is no interval. Two
ways of splitting them tell how sure the bias itself is, which is added to the variance.

**Balanced halves**, for medians: a median moves with the few pairs at the middle, and leaving out
one group moves too few of them: its jackknife is known to be wrong (about 0.65 of the intervals
for `nc1_cdnv_med_db` hold the truth, at 100 classes and 100 samples a class). G - 1 halves
:math:`\theta_h` that are orthogonal to each other (a Hadamard matrix) have the same first-order
variance, and disturb the means by as much as sampling does:

.. math::
    \hat\theta = 2\,\theta - \bar\theta_h, \qquad
    \mathrm{SE}^2 = \frac{G}{(G - 1)(G - 2)} \sum_h (\theta_h - \bar\theta_h)^2

Sources: Miller 1974 and Shao & Tu 1995 on the jackknife; McCarthy 1969 on balanced half-samples.

Axes: C classes, G groups, R resamples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int64
from scipy.stats import t as student
from torch import Tensor

LEVEL = 0.95
GROUPS = (20, 12, 8)  # numbers of groups that every kind of interval accepts, the usual one first
MIN_COUNT = 20  # fewest samples a class at which the coverage of intervals is tested
KEPT = 0.9  # share of a measure's classes that must be fixed, or there is no interval
SPLITS = (1, 2)  # the bits of a group's number by which the remainder's halves are made

Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]


class Interval(NamedTuple):
    """Both ends, or NaN and why there are none."""

    low: float
    high: float
    reason: str = ""

    @classmethod
    def none(cls, reason: str) -> "Interval":
        """No interval, and why."""
        return cls(math.nan, math.nan, f"no interval: {reason}")


def jackknife(
    full: float, without: Sequence[float], halves: Sequence[float] = (), *, log: bool = False
) -> Interval:
    """From the value with all groups, those without each one of them, and those of some halves.

    Two halves that make up the whole follow each other. Means of two know nothing of the first
    order; how they differ from pair to pair is the error of the bias that is taken out.
    """
    if reason := _unusable([full, *without, *halves], log):
        return Interval.none(reason)
    (theta,), left = _scaled([full], log), _scaled(without, log)
    n = len(left)
    error = _jackknife_error(left)
    if len(halves) > 2:
        error = math.hypot(error, float(_scaled(halves, log).reshape(-1, 2).mean(1).std(ddof=1)))
    return _around(n * theta - (n - 1) * left.mean(), error, n - 1, log)


def half_samples(full: float, halves: Sequence[float], *, log: bool = False) -> Interval:
    """From the value with all groups, and those of `balanced_halves`."""
    if reason := _unusable([full, *halves], log):
        return Interval.none(reason)
    (theta,), half = _scaled([full], log), _scaled(halves, log)
    n = len(half)
    # The halves don't hold each group equally often: their mean has 1/n of the variance itself.
    error = float(half.std(ddof=1)) * math.sqrt((n + 1) / n)
    return _around(2 * theta - half.mean(), error, n, log)


def remainder(
    full: float, without: Sequence[float], halves: Sequence[float], *, log: bool = False
) -> float:
    """What the jackknife leaves of the bias, by extrapolation to second order, in its errors.

    With x the inverse of the share of documents, the parabola through the means at x = 1,
    G / (G - 1) and 2 is followed to x = 0; halves come in pairs that make up the whole.
    """
    n = len(without)
    x = (1.0, n / (n - 1), 2.0)
    theta, left, half = (_scaled(values, log) for values in ([full], without, halves))
    y = [float(values.mean()) for values in (theta, left, half)]
    second = sum(
        y[i] * math.prod(x[j] / (x[j] - x[i]) for j in range(3) if j != i) for i in range(3)
    )
    return (second - (n * y[0] - (n - 1) * y[1])) / _jackknife_error(left)


def balanced_halves(n_groups: int) -> Bool[Tensor, "R G"] | None:
    """G - 1 halves of the groups, any two of which have half of theirs in common.

    From quadratic residues (Paley 1933), where G - 1 is prime and G a multiple of 4; None for
    other numbers of groups.
    """
    q = n_groups - 1
    if n_groups < 8 or n_groups % 4 or any(q % k == 0 for k in range(2, math.isqrt(q) + 1)):
        return None
    residues = {x * x % q for x in range(1, q)}
    rows = [[(column - row) % q in residues for column in range(q)] for row in range(q)]
    halves = torch.tensor([[*row, True] for row in rows])
    halves[1::2] = ~halves[1::2]  # or the last group would be in all of them
    return halves


def plan_leaving_out(groups: Sequence[int]) -> list[list[int]]:
    """What is left out of each resample: each of the groups, then halves that come in pairs."""
    halves = []
    if len(groups) >= 2 ** len(SPLITS):
        numbered = list(enumerate(groups))
        halves = [
            [group for i, group in numbered if bool(i & bit) == odd]
            for bit in SPLITS
            for odd in (False, True)
        ]
    return [[group] for group in groups] + halves


def plan_halving(n_groups: int) -> list[list[int]] | None:
    """The same where the resamples are `balanced_halves`."""
    halves = balanced_halves(n_groups)
    return None if halves is None else [(~half).nonzero().flatten().tolist() for half in halves]


def survivors(counts: Int64[Tensor, "G C"], plan: Sequence[Sequence[int]]) -> Bool[Tensor, " C"]:
    """Tell which classes keep two samples whatever the plan leaves out."""
    total = counts.sum(0)
    least = torch.stack([total - counts[left_out].sum(0) for left_out in plan])
    return least.amin(0) >= 2


def usual_min_count(counts: Int64[Tensor, "G C"]) -> int | None:
    """Return the smallest count from `MIN_COUNT` on whose classes have intervals.

    Args:
        counts: Samples of each class by group.

    Returns:
        The count at which a share `KEPT` of the classes keeps two samples in every resample; None
        if those classes are fewer than two, or hold less than half of all samples.
    """
    total = counts.sum(0)
    plans = [plan_leaving_out(range(len(counts))), plan_halving(len(counts)) or []]
    fixed = survivors(counts, [left_out for plan in plans for left_out in plan])
    for least in (MIN_COUNT, *total[total > MIN_COUNT].unique().tolist()):
        taken = total >= least
        if int(taken.sum()) < 2 or 2 * int(total[taken].sum()) < int(total.sum()):
            return None
        if float(fixed[taken].double().mean()) >= KEPT:
            return int(least)
    return None


def _around(centre: float, error: float, freedom: int, log: bool) -> Interval:
    reach = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    low, high = float(centre) - reach, float(centre) + reach
    return Interval(math.exp(low), math.exp(high)) if log else Interval(low, high)


def _scaled(values: Sequence[float], log: bool) -> Numbers:
    return np.log(values) if log else np.asarray(values)


def _jackknife_error(left: Numbers) -> float:
    n = len(left)
    return math.sqrt((n - 1) / n * float(np.square(left - left.mean()).sum()))


def _unusable(values: Sequence[float], log: bool) -> str:
    if not np.isfinite(values).all():
        return "undefined in some of the resamples"
    if log and min(values) <= 0:
        return "0 in some of the resamples"
    return "the same in every resample" if len(set(values)) == 1 else ""
