r"""Resamples by group of documents, and the intervals that they give.

**Leaving one group out** (the grouped jackknife), with :math:`\theta_{(g)}` the measure without
group g of G, gives the first order: pseudo-values and the standard error

.. math::
    e_g = (G - 1)(\bar\theta_{(\cdot)} - \theta_{(g)}), \qquad
    \mathrm{SE}^2 = \frac{1}{G (G - 1)} \sum_g e_g^2

**Halves** tell what small counts do: with x the inverse of the share of documents, the measure
goes as :math:`\theta + b x + c x^2`, and the centre of the interval is the parabola through
:math:`x = 1`, :math:`G / (G - 1)` and 2 at :math:`x = 0`. What a half h owes to the groups that it
holds, :math:`\sum_{g \in h} 2 e_g / G`, is taken off first, so that the centre is no noisier than
the jackknife's own (which follows the line only: at 60 documents what it leaves of the bias of
some measures is half a standard error and more).

The jackknife counts parts of the error that are of second order twice, halves three times (Efron &
Stein 1981): where halves tell of a much larger variance, the interval is too wide.

**Balanced halves** alone serve medians: a median moves with the few pairs at the middle, and
leaving out one group moves too few of them. G - 1 halves :math:`\theta_h` that are orthogonal to
each other (a Hadamard matrix) have the same first-order variance, and disturb the means by as much
as sampling does:

.. math::
    \hat\theta = 2\,\theta - \bar\theta_h, \qquad
    \mathrm{SE}^2 = \frac{G}{(G - 1)(G - 2)} \sum_h (\theta_h - \bar\theta_h)^2

Quantiles are Student's, with one degree of freedom less than there are groups in effect: classes
that are in few of them, or mostly in few, tell less than G - 1 would say.

Sources: Miller 1974, Efron & Stein 1981 and Shao & Tu 1995 on the jackknife; McCarthy 1969 on
balanced half-samples; Kish 1965 on effective numbers; Hill 1975 on tails.

Axes: C classes, G groups, R resamples, H halves.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.stats import t as student
from torch import Tensor

from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.segments import squared_norms

LEVEL = 0.95
GROUPS = (20, 12, 8)  # numbers of groups that every kind of interval accepts, the usual one first
FEWEST_DOCUMENTS = {"train": 20, "val": 8}  # at which intervals of a split's numbers are tested
MIN_COUNT = 20  # fewest samples a class at which the coverage of intervals is tested
KEPT = 0.9  # share of a measure's classes that must be fixed, or there is no interval
ALIKE = 0.05  # correlation of groups that follow each other beyond which nothing has an interval
SPLITS = (1, 2)  # the bits of a group's number by which halves are made where none are balanced

Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]


class Interval(NamedTuple):
    """Both ends and the estimate between them, or NaN and why there are none."""

    low: float
    high: float
    centre: float
    reason: str = ""

    @classmethod
    def none(cls, reason: str) -> "Interval":
        """No interval, and why."""
        return cls(math.nan, math.nan, math.nan, f"no interval: {reason}")


def jackknife(
    full: float, without: Sequence[float], *, freedom: float | int | None = None, log: bool = False
) -> Interval:
    """Return the interval from the value of all groups and those without each one of them.

    Args:
        full: The value of all groups.
        without: The values without each group.
        freedom: Degrees of freedom; by default one less than there are groups.
        log: Whether errors are in proportion to the value.
    """
    if reason := _unusable([full, *without], log) or _unusable(without, log):
        return Interval.none(reason)
    (theta,), left = _scaled([full], log), _scaled(without, log)
    n = len(left)
    return _around(n * theta - (n - 1) * left.mean(), _jackknife_error(left), freedom or n - 1, log)


def extrapolate(
    full: float,
    without: Sequence[float],
    halves: Sequence[float],
    kept: Bool[np.ndarray, "H G"],
    *,
    freedom: float | int | None = None,
    log: bool = False,
) -> tuple[Interval, float, float]:
    """Return the interval around the parabola's end, and how far that is from the line's.

    Args:
        full: The value of all groups.
        without: The values without each group.
        halves: The values of halves of the groups.
        kept: Which groups each half holds.
        freedom: Degrees of freedom; by default one less than there are groups.
        log: Whether errors are in proportion to the value.

    Returns:
        The interval, the distance of its centre to the jackknife's in standard errors, and the
        variance of balanced halves over the jackknife's: around 1 if nothing is of second order.
    """
    if reason := _unusable([full, *without, *halves], log) or _unusable(without, log):
        return Interval.none(reason), math.nan, math.nan
    (theta,), left, half = (_scaled(values, log) for values in ([full], without, halves))
    n = len(left)
    owed = kept @ ((n - 1) * (left.mean() - left)) / kept.sum(1)  # to the groups of each half
    x = 1.0, n / (n - 1), 2.0
    y = float(theta), float(left.mean()), float((half - owed).mean())
    centre = sum(
        y[i] * math.prod(x[j] / (x[j] - x[i]) for j in range(3) if j != i) for i in range(3)
    )
    error = _jackknife_error(left)
    bent = abs(centre - (n * y[0] - (n - 1) * y[1])) / error
    curved = float(half.var(ddof=1)) / error**2 if balanced_halves(n) is not None else math.nan
    return _around(centre, error, freedom or n - 1, log), bent, curved


def half_samples(
    full: float, halves: Sequence[float], *, freedom: float | int | None = None, log: bool = False
) -> Interval:
    """Return the interval from the value of all groups and those of `balanced_halves`."""
    if reason := _unusable([full, *halves], log):
        return Interval.none(reason)
    (theta,), half = _scaled([full], log), _scaled(halves, log)
    n = len(half)
    # The halves don't hold each group equally often: their mean has 1/n of the variance itself.
    error = float(half.std(ddof=1)) * math.sqrt((n + 1) / n)
    return _around(2 * theta - half.mean(), error, freedom or n, log)


def effective_groups(counts: Int64[Tensor, "G C"]) -> float:
    """Return the number of equal groups that tell as much of a class, by the median over classes.

    It is (sum of n)^2 / sum of n^2, with n the samples of the class in each group.
    """
    n = counts.double()
    return float((n.sum(0).square() / n.square().sum(0)).nanmedian())


def tail_index(
    counts: Int64[Tensor, "G C"], within_ss: Float64[Tensor, "G C"], share: float
) -> float:
    """Return Hill's index of the mean squared deviations of a class in each group.

    Below 2, squared deviations have no variance, and the mean of some tells little of the next
    ones. Infinite where there are too few numbers for a tail.

    Args:
        counts: Samples of each class in each group.
        within_ss: Their squared distances to the mean of the class in all groups, summed.
        share: Of these mean squared deviations, what makes up the tail.
    """
    shares = within_ss / counts * (counts.sum(0) / within_ss.sum(0))  # of the variance of the class
    ordered = shares[shares > 0].sort(descending=True).values
    n = int(share * len(ordered))
    if n < 10:
        return math.inf
    mean_log = float((ordered[:n] / ordered[n]).log().mean())
    return 1 / mean_log if mean_log else math.inf


def concentration(
    counts: Int64[Tensor, "G C"], spreads: Float64[Tensor, "G C"]
) -> tuple[float, float]:
    r"""Return how far single groups decide the errors of class variances, and its standard error.

    With :math:`z_g = \sqrt{n_g} (v_g / v - 1)` of a class, v its variance and v_g that of group g,
    :math:`q = \sum z_g^4 / (\sum z_g^2)^2` is 1 if one group decides, and for normal errors
    :math:`3 \sum (1 - p_g)^2 / (G^2 - 1)` on average, p_g being the group's share of the class.
    What is returned is the mean of q over classes on a scale from 0 for normal errors to 1.
    Averages of samples with heavy tails never become normal, however many there are; Hill's index
    misses that where groups are large. NaN without classes in three groups.

    Args:
        counts: Samples of each class in each group.
        spreads: Their squared distances to the mean of the class in all groups, summed.
    """
    n = counts.double()
    total, groups = n.sum(0), (counts > 0).sum(0)
    shares = n / total
    ratios = spreads / n.clamp(min=1) * (total / spreads.sum(0))
    squares = n * (ratios - 1).square()  # z^2; 0 where a group has no sample
    decided = squares.square().sum(0) / squares.sum(0).square()
    normal = 3 * ((1 - shares).square() * (counts > 0)).sum(0) / (groups.square() - 1)
    usable = (groups >= 3) & decided.isfinite()
    beyond, scale = (decided - normal)[usable], float((1 - normal)[usable].mean())
    error = math.sqrt(float(beyond.square().mean() - beyond.mean().square()) / max(1, len(beyond)))
    return float(beyond.mean()) / scale, error / scale


def neighbour_correlation(moments: ClassMoments, fixed: Bool[Tensor, " C"]) -> tuple[float, float]:
    r"""Return how class means of groups that follow each other correlate, and its standard error.

    With :math:`u_g = \sqrt{n_g} (\mu_g - \mu)` of a class and v their sum of squares over G - 1,
    independent groups have :math:`\langle u_g, u_{g+1} \rangle = -v \sqrt{p_g p_{g+1}}` on average,
    as the errors add up to 0. What is returned is the mean over classes and pairs of groups of
    :math:`\langle u_g, u_{g+1} \rangle / v + \sqrt{p_g p_{g+1}}`: 0 if groups are independent.
    Its error is that of a mean over pairs of groups; NaN where there are none.

    Args:
        moments: Kept by group.
        fixed: Classes that take part.
    """
    counts = moments.counts_by_group[:, fixed].double()
    means = moments.means[fixed]
    squares = torch.zeros_like(counts)
    products = torch.zeros_like(counts[1:])
    before = torch.zeros_like(means)
    for group, of_group in enumerate(moments.means_by_group):
        drawn = (of_group[fixed] - means) * counts[group].sqrt()[:, None]  # (K, D)
        squares[group] = squared_norms(drawn)
        if group:
            products[group - 1] = (drawn * before).sum(1)
        before = drawn
    groups = (counts > 0).sum(0)
    mean_square = squares.sum(0) / (groups - 1)
    both = (counts[1:] > 0) & (counts[:-1] > 0) & (mean_square > 0)
    shares = counts / counts.sum(0)
    alike = products / mean_square + (shares[1:] * shares[:-1]).sqrt()
    by_pair = (alike.where(both, 0).sum(1) / both.sum(1))[both.any(1)]
    return float(by_pair.mean()), float(by_pair.std()) / math.sqrt(max(1, len(by_pair)))


def alike_groups(moments: ClassMoments, fixed: Bool[Tensor, " C"]) -> str:
    """Tell why groups are no independent samples; "" if those that follow each other differ."""
    alike, error = neighbour_correlation(moments, fixed)
    surely = float(student.ppf(0.999, max(1, moments.n_groups - 2))) * error
    if not alike > max(ALIKE, surely):
        return ""
    return (
        f"groups that follow each other are alike (errors of class means correlate by {alike:.2f}, "
        f"expected {ALIKE:g} or less); use fewer and longer groups (--groups) or more text"
    )


def balanced_halves(n_groups: int) -> Bool[Tensor, "H G"] | None:
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


def halves_of(n_groups: int) -> Bool[Tensor, "H G"]:
    """Return balanced halves, or four that come in pairs where there are none; no fewer than 4."""
    balanced = balanced_halves(n_groups)
    if balanced is not None:
        return balanced
    bits = SPLITS if n_groups >= 2 ** len(SPLITS) else ()
    numbers = torch.arange(n_groups)
    made = [((numbers & bit) > 0) == odd for bit in bits for odd in (True, False)]
    return torch.stack(made) if made else torch.zeros(0, n_groups, dtype=torch.bool)


def plan_of(groups: Sequence[int]) -> list[list[int]]:
    """Return what each resample leaves out: each of the groups, then half of them."""
    numbers = torch.tensor(groups)
    return [[group] for group in groups] + [
        numbers[~half].tolist() for half in halves_of(len(groups))
    ]


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
        if the classes that do are fewer than two, or hold less than half of all samples.
    """
    total = counts.sum(0)
    fixed = survivors(counts, plan_of(range(len(counts))))
    for least in (MIN_COUNT, *total[total > MIN_COUNT].unique().tolist()):
        taken = total >= least
        kept = taken & fixed
        if int(kept.sum()) < 2 or 2 * int(total[kept].sum()) < int(total.sum()):
            return None
        if int(kept.sum()) / int(taken.sum()) >= KEPT:
            return int(least)
    return None


def _around(centre: float, error: float, freedom: float | int, log: bool) -> Interval:
    reach = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    low, high, middle = float(centre) - reach, float(centre) + reach, float(centre)
    if log:
        low, high, middle = math.exp(low), math.exp(high), math.exp(middle)
    return Interval(low, high, middle)


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
