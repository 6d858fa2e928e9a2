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
balanced half-samples; Kish 1965 on effective numbers.

Axes: C classes, G groups, R resamples, H halves.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int64
from scipy.stats import t as student
from torch import Tensor

LEVEL = 0.95
BENT = 2.0  # standard errors by which the line and the parabola may differ
LONG = (
    "wide interval: halves of the groups differ more than leaving out single ones explains, so "
    "that its error is overestimated"
)
WIDE = 1.1  # variance by halves over that by leaving out one group, beyond which it is too large
GROUPS = (20, 12, 8)  # numbers of groups that every kind of interval accepts, the usual one first
FEWEST_DOCUMENTS = {"train": 20, "val": 8}  # at which intervals of a split's numbers are tested
MIN_COUNT = 20  # fewest samples a class at which the coverage of intervals is tested
KEPT = 0.9  # share of a measure's classes that must be fixed, or there is no interval
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


@dataclasses.dataclass(frozen=True)
class Resamples:
    """A measure over all groups, without each of them and over halves; or why there is none."""

    full: float = math.nan
    without: tuple[float, ...] = ()  # none of medians
    halves: tuple[float, ...] = ()  # none where the class means are taken as given
    freedom: float = math.nan
    refused: str = ""
    note: str = ""  # what to beware of where there is an interval

    def minus(self, other: "Resamples") -> "Resamples":
        """Return the differences to another model's, of the same documents in the same groups."""
        pairs = ((self.without, other.without), (self.halves, other.halves))
        without, halves = (tuple(x - y for x, y in zip(*pair, strict=True)) for pair in pairs)
        return Resamples(
            self.full - other.full,
            without,
            halves,
            min(self.freedom, other.freedom),
            self.refused or other.refused,
            "; ".join(dict.fromkeys(filter(None, [self.note, other.note]))),
        )

    def interval(self, *, log: bool = False) -> Interval:
        """Return the 95 % interval.

        Args:
            log: Whether errors are in proportion to the value.
        """
        if self.refused:
            return Interval.none(self.refused)
        if not self.without:
            found = half_samples(self.full, self.halves, freedom=self.freedom, log=log)
        elif self.halves:
            found = _smooth(self.full, self.without, self.halves, self.freedom, log)
        else:
            found = jackknife(self.full, self.without, freedom=self.freedom, log=log)
        if math.isnan(found.low):
            return found
        return found._replace(reason="; ".join(filter(None, [found.reason, self.note])))


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


def _smooth(
    full: float, without: Sequence[float], halves: Sequence[float], freedom: float, log: bool
) -> Interval:
    """Return the interval of a measure that moves smoothly with the documents."""
    kept = halves_of(len(without)).numpy()
    found, bent, curved = extrapolate(full, without, halves, kept, freedom=freedom, log=log)
    if bent > BENT:
        return Interval.none(
            "its bias by small counts is too large to be taken out, two estimates of it differ by "
            f"{bent:.1f} standard errors; raise min_count"
        )
    if curved > WIDE and not found.reason:
        found = found._replace(reason=LONG)
    return found


def effective_groups(counts: Int64[Tensor, "G C"]) -> float:
    """Return the number of equal groups that tell as much of a class, by the median over classes.

    It is (sum of n)^2 / sum of n^2, with n the samples of the class in each group.
    """
    n = counts.double()
    return float((n.sum(0).square() / n.square().sum(0)).nanmedian())


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


def smallest_min_count(
    counts: Int64[Tensor, "G C"], sets: Collection[tuple[int, bool, bool]]
) -> int | None:
    """Return the smallest count from which the classes of measures survive resampling.

    Args:
        counts: Samples of each class by group.
        sets: Of each measure, the fewest samples of a class, whether it is over the classes of
            which no group holds more than half, and whether it changes with the number of classes.

    Returns:
        The count at which two classes or more, and a share `KEPT` of those of each measure or all
        of them, keep two samples in every resample; None if there is no such count.
    """
    occupied = counts.sum(1).nonzero().flatten().tolist()
    if len(occupied) < 2:
        return None
    counts = counts[:, counts.sum(0) > 0]
    total, fixed = counts.sum(0), survivors(counts, plan_of(occupied))
    told = 2 * counts.amax(0) <= total
    least: int
    for least in [1, *(total.unique() + 1).tolist()]:  # classes change at no other counts
        for fewest, by_groups, every in sets:
            taken = (total >= max(least, fewest)) & (told | (not by_groups))
            n, kept = int(taken.sum()), int((taken & fixed).sum())
            if kept < max(2, n if every else KEPT * n):
                break
        else:
            return least
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
