"""What is sure of scores: means with intervals over facts, and two arms on the same facts.

Questions on one fact are right or wrong together, and so are the seeds of one arm: facts are the
units of all intervals (`fact_intervals`).

Axes: Q questions, F facts, S scores.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from tightframe.knowledge.fact_intervals import Bounds, interval

RESAMPLES = 1000
LEVEL = 0.95
POWER = 0.8  # share of studies that tell the detectable difference from 0
MARGIN = 5.0  # points; a difference that surely is smaller counts as none

_TIE = 1e-9  # points; means over seeds or F1, added in another order, differ by rounding

Verdict: TypeAlias = Literal["reproduced", "reversed", "not reproduced", "inconclusive"]


class Estimate(NamedTuple):
    """A mean over questions with its interval over facts, of 95 % if not told otherwise."""

    value: float
    low: float  # NaN where no interval holds
    high: float
    n: int  # questions
    n_facts: int
    reason: str = ""  # why there is no interval, or what to beware of


class Power(NamedTuple):
    """What a comparison with an interval of this width could have found."""

    detectable: float  # points; a difference as large is told from 0 in 80 % of such studies
    none: float  # chance that the interval of two equal arms lies within the margin


class SignTest(NamedTuple):
    """Facts on which one arm is better, and how likely so uneven a split is by chance."""

    better: int
    worse: int
    p: float  # exact, two-sided; 1 where no fact tells the arms apart


class Difference(NamedTuple):
    """One arm less another on the same questions, in the unit of the score."""

    estimate: Estimate
    signs: SignTest


def estimates(
    values: Float[np.ndarray, "Q S"],
    facts: Int[np.ndarray, " Q"],
    bounds: Sequence[Bounds],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Estimate]:
    """Return the mean of each score over the questions, with its interval over facts.

    Args:
        values: Scores of the questions, without NaN.
        facts: The fact of each question, any whole number. Resamples are drawn in its order.
        bounds: Ends of the range of each score, None for a score without bounds.
        resamples: Of facts, for scores without bounds.
        level: Share of such intervals that hold the truth.
        seed: Of the resamples.
    """
    sums, counts = _by_fact(values, facts)
    n, n_facts = len(values), len(counts)
    if n == 0:
        return [Estimate(math.nan, math.nan, math.nan, 0, 0, "no questions")] * values.shape[1]
    found = []
    for column, ends in zip(sums.T, bounds, strict=True):
        low, high, reason = interval(
            column, counts, ends, level=level, resamples=resamples, seed=seed
        )
        found.append(Estimate(float(column.sum() / n), low, high, n, n_facts, reason))
    return found


def differences(
    ours: Float[np.ndarray, "Q S"],
    theirs: Float[np.ndarray, "Q S"],
    facts: Int[np.ndarray, " Q"],
    bounds: Sequence[Bounds],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Difference]:
    """Ours less theirs, question by question, with interval and sign test over facts.

    Swapping the arms gives the opposite difference and interval, and the same p. What is 0 but for
    rounding is 0: a verdict asks for the sign.

    Args:
        ours: Scores of one arm, the mean over its seeds where it has several; no NaN.
        theirs: Those of the other arm on the same questions.
        facts: The fact of each question.
        bounds: Ends of the range of each score, not of its difference; None without.
        resamples: Of facts, for scores without bounds.
        level: Share of such intervals that hold the truth.
        seed: Of the resamples.
    """
    apart = ours - theirs
    spans = [None if ends is None else (ends[0] - ends[1], ends[1] - ends[0]) for ends in bounds]
    found = estimates(apart, facts, spans, resamples=resamples, level=level, seed=seed)
    sums, _ = _by_fact(apart, facts)
    return [
        Difference(_without_rounding(one), sign_test(sums[:, column]))
        for column, one in enumerate(found)
    ]


def sign_test(differences: Float[np.ndarray, " F"]) -> SignTest:
    """Whether facts favour one arm: exact binomial test of the signs, ties left out."""
    from scipy.stats import binomtest

    better, worse = int((differences > _TIE).sum()), int((differences < -_TIE).sum())
    if better + worse == 0:
        return SignTest(0, 0, 1.0)
    return SignTest(better, worse, float(binomtest(better, better + worse).pvalue))


def verdict(d: float, low: float, high: float, *, margin: float = MARGIN) -> Verdict:
    """What a difference says of the claim that the first arm is better; fixed before any run.

    In this order: the interval lies above 0: reproduced; below 0: reversed; within the margin of 0:
    not reproduced, there is no difference worth the name; else, or without an interval:
    inconclusive.

    Args:
        d: First arm less second, in points.
        low: Of the interval of d.
        high: Of the interval of d.
        margin: Points up to which a difference counts as none.
    """
    if low > high or low > 0 >= d or high < 0 <= d:
        raise ValueError(f"[{low}, {high}] can't be the interval of a difference of {d}")
    if low > 0:
        return "reproduced"
    if high < 0:
        return "reversed"
    within = low >= -margin - _TIE and high <= margin + _TIE
    return "not reproduced" if within else "inconclusive"


def power(
    low: float, high: float, n_facts: int, *, level: float = LEVEL, margin: float = MARGIN
) -> Power:
    """Return what could be told at this number of facts; NaN without an interval.

    Args:
        low: Of the interval of the difference.
        high: Of the interval of the difference.
        n_facts: Facts that it is over.
        level: Of the interval.
        margin: Points up to which a difference counts as none.
    """
    from scipy.stats import norm, t

    if not low < high:
        return Power(math.nan, math.nan)
    half, quantile = (high - low) / 2, float(t.ppf((1 + level) / 2, n_facts - 1))
    error = half / quantile
    within = max(0.0, margin - half) / error  # of 0, in standard errors
    return Power(
        (quantile + float(t.ppf(POWER, n_facts - 1))) * error, float(2 * norm.cdf(within) - 1)
    )


def _without_rounding(found: Estimate) -> Estimate:
    """With 0 where there is nothing but rounding: thirds of three seeds seldom cancel exactly."""
    value, low, high = (0.0 if abs(number) < _TIE else number for number in found[:3])
    return found._replace(value=value, low=low, high=high)


def _by_fact(
    values: Float[np.ndarray, "Q S"], facts: Int[np.ndarray, " Q"]
) -> tuple[Float[np.ndarray, "F S"], Int[np.ndarray, " F"]]:
    """Sums and numbers of questions of each fact that has some, in order of the fact's number."""
    _, codes, counts = np.unique(facts, return_inverse=True, return_counts=True)
    columns = [np.bincount(codes, column, len(counts)) for column in values.T]
    return np.stack(columns, axis=1, dtype=np.float64), counts
