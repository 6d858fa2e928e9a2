r"""What is sure of scores: intervals that resample facts, and two arms on the same facts.

Questions on one fact are right or wrong together, and so are the seeds of one arm: facts are what
is drawn. A mean over questions is a ratio of sums over facts, :math:`\sum_f S_f / \sum_f n_f`, so
a resample is a weighting of the facts, and all resamples are one product of matrices.

Axes: Q questions, F facts, S scores, R resamples.
"""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
LEVEL = 0.95
MARGIN = 5.0  # points; a difference that surely is smaller counts as none

_HELD = 4_000_000  # weights held at once; memory only, never the result
_TIE = 1e-9  # points; means over seeds or F1, added in another order, differ by rounding

Verdict: TypeAlias = Literal["reproduced", "reversed", "not reproduced", "inconclusive"]


class Estimate(NamedTuple):
    """A mean over questions with the interval of resampled facts, of 95 % if not told otherwise."""

    value: float
    low: float  # NaN with fewer than two facts
    high: float
    n: int  # questions
    n_facts: int
    reason: str = ""  # why there is no interval, or what to beware of


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
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Estimate]:
    """The mean of each score over the questions; all scores of one resample are of the same facts.

    Args:
        values: Scores of the questions, without NaN.
        facts: The fact of each question, any whole number. Resamples are drawn in its order.
        resamples: How many.
        level: Share of the resamples that lie in the interval.
        seed: Of the resamples.
    """
    sums, counts = _by_fact(values, facts)
    n, n_facts = len(values), len(counts)
    if n == 0:
        return [Estimate(math.nan, math.nan, math.nan, 0, 0, "no questions")] * values.shape[1]
    means = sums.sum(0) / counts.sum()  # (S,)
    if n_facts < 2:
        reason = "no interval: a single fact"
        return [Estimate(float(mean), math.nan, math.nan, n, 1, reason) for mean in means]
    resampled = resampled_means(sums, counts, resamples=resamples, seed=seed)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    same = np.ptp(sums / counts[:, None], axis=0) < _TIE
    reasons = np.where(same, "the same on every fact: the interval can't tell how sure it is", "")
    return [
        Estimate(float(mean), float(a), float(b), n, n_facts, str(reason))
        for mean, a, b, reason in zip(means, low, high, reasons, strict=True)
    ]


def resampled_means(
    sums: Float[np.ndarray, "F S"],
    counts: Int[np.ndarray, " F"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float[np.ndarray, "R S"]:
    """The means over questions of resamples that draw as many facts as there are, with replacement.

    Args:
        sums: Sums of the scores over the questions of a fact.
        counts: Questions of a fact, at least one.
        resamples: How many.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    n_facts = len(counts)
    step = max(1, _HELD // n_facts)
    means = []
    for start in range(0, resamples, step):
        n = min(step, resamples - start)
        drawn = generator.integers(n_facts, size=(n, n_facts))
        drawn += np.arange(n)[:, None] * n_facts
        weights = np.bincount(drawn.ravel(), minlength=n * n_facts).reshape(n, n_facts)
        weights = weights.astype(np.float64)  # (r, F), how often each fact was drawn
        means.append(weights @ sums / (weights @ counts)[:, None])
    return np.concatenate(means)


def differences(
    ours: Float[np.ndarray, "Q S"],
    theirs: Float[np.ndarray, "Q S"],
    facts: Int[np.ndarray, " Q"],
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
        resamples: How many.
        level: Share of the resamples that lie in the interval.
        seed: Of the resamples.
    """
    apart = ours - theirs
    found = estimates(apart, facts, resamples=resamples, level=level, seed=seed)
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
