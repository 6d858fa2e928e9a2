r"""Confidence intervals over facts: of means over questions, and of the difference of two arms.

Questions on one fact are right or wrong together, so facts are the units: a mean over questions is
the ratio :math:`\bar y = \sum_f S_f / \sum_f n_f`, with the linearized variance
:math:`\frac{F}{F-1} \sum_f (S_f - n_f \bar y)^2 / (\sum_f n_f)^2`.

- Numbers with bounds (percent, their differences): Wilson's interval with as many independent facts
  as would give this variance, and with the quantile of t instead of the normal one.
- Where fewer than `FEW` facts tell anything (next to all are at 0, or two arms are equal on next to
  all) no variance can be estimated, and the interval is wide rather than right: exact binomial
  (Clopper and Pearson) with at most as many independent answers as facts; for differences t with
  one fact more at either end (Bonett and Price). The reason says so.
- Numbers without bounds: the studentized bootstrap over facts.

Percentile intervals over 9 to 39 facts hold the truth in 81 to 95 % of draws instead of 95 %; how
often these do: docs/measures.md. Below `FEWEST` facts there is none, with the reason.

Axes: F facts, R resamples.

Questions on one fact are right or wrong together, and so are the seeds of one arm: facts are the
units of all intervals (`fact_intervals`).

Axes: Q questions, F facts, S scores.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import beta, t

FEWEST = 15  # facts that an interval of a number with bounds needs
FEWEST_UNBOUNDED = 25  # facts that one of a number without bounds needs
FEW = 5  # facts; where fewer tell anything, the interval is a wide one
SAME = 1e-9  # of the unit of the score; means over seeds differ by rounding

Bounds: TypeAlias = tuple[float, float] | None  # ends of the range of a score, None without
PERCENT: Bounds = (0.0, 100.0)

_HELD = 4_000_000  # numbers of facts held at once; memory only, never the result


class FactInterval(NamedTuple):
    """Ends of an interval; NaN, with a reason, if there is none."""

    low: float
    high: float
    reason: str = ""  # why there is no interval, or what to beware of


def interval(
    sums: Float[np.ndarray, " F"],
    counts: Int[np.ndarray, " F"],
    bounds: Bounds,
    *,
    level: float,
    resamples: int,
    seed: int,
) -> FactInterval:
    """Return the interval of the mean over questions.

    Args:
        sums: Sum of the scores over the questions of each fact.
        counts: Questions of each fact, at least one.
        bounds: Least and largest score; None where there are none.
        level: Share of such intervals that hold the truth.
        resamples: Number of resamples of facts, for a score without bounds.
        seed: Seed of the resamples.
    """
    n_facts, means = len(counts), sums / counts
    fewest = FEWEST_UNBOUNDED if bounds is None else FEWEST
    if n_facts < fewest:
        facts = "a single fact" if n_facts == 1 else f"{n_facts} facts"
        return _none(f"{facts}, fewer than {fewest}")
    constant = np.ptp(means) < SAME
    if bounds is None:
        if constant:
            return _none("the same on every fact")
        return _studentized(sums, counts, level=level, resamples=resamples, seed=seed)
    low, high = bounds
    shares = (sums - low * counts) / (high - low)  # of the range
    above, below, apart = (
        int(one.sum()) for one in (means - low >= SAME, high - means >= SAME, abs(means) >= SAME)
    )
    reason = ""
    if min(above, below) < FEW:
        found = _exact(shares, counts, level)
        what = f"above {low:g}" if above <= below else f"below {high:g}"
        reason = _rough(min(above, below), f"score {what}")
    elif low == -high and apart < FEW:
        found = _with_one_more_at_either_end(shares, counts, level)
        reason = _rough(apart, "tell the arms apart")
    elif constant:
        return _none("the same on every fact")
    else:
        found = _wilson(shares, counts, level)
    span = high - low
    return FactInterval(low + span * found[0], low + span * found[1], reason)


def ratio(
    sums: Float[np.ndarray, "*R F"], counts: Float[np.ndarray, "*R F"] | Int[np.ndarray, "*R F"]
) -> tuple[Float[np.ndarray, "*R"], Float[np.ndarray, "*R"]]:
    """Return means over questions and their standard errors over facts."""
    total, n_facts = counts.sum(-1), counts.shape[-1]
    means = np.asarray(sums.sum(-1) / total)
    apart = sums - means[..., None] * counts
    return means, np.asarray(np.sqrt((apart**2).sum(-1) * n_facts / (n_facts - 1)) / total)


def _wilson(
    sums: Float[np.ndarray, " F"], counts: Int[np.ndarray, " F"], level: float
) -> tuple[float, float]:
    """Return Wilson's interval of a mean in [0, 1] with the effective number of facts."""
    mean, error = (float(one) for one in ratio(sums, counts))
    square = float(t.ppf((1 + level) / 2, len(counts) - 1)) ** 2
    n = mean * (1 - mean) / error**2  # independent facts that would have this error
    centre = (mean + square / (2 * n)) / (1 + square / n)
    half = math.sqrt(square * mean * (1 - mean) / n + square**2 / (4 * n**2)) / (1 + square / n)
    return centre - half, centre + half


def _exact(
    sums: Float[np.ndarray, " F"], counts: Int[np.ndarray, " F"], level: float
) -> tuple[float, float]:
    """Return Clopper and Pearson's interval, as if all questions on a fact had one answer."""
    mean, error = (float(one) for one in ratio(sums, counts))
    n = counts.sum() ** 2 / (counts**2).sum()
    if 0 < mean < 1:
        n = min(n, mean * (1 - mean) / error**2)
    right, tail = mean * n, (1 - level) / 2
    low = 0.0 if mean <= 0 else float(beta.ppf(tail, right, n - right + 1))
    high = 1.0 if mean >= 1 else float(beta.ppf(1 - tail, right + 1, n - right))
    return low, high


def _with_one_more_at_either_end(
    sums: Float[np.ndarray, " F"], counts: Int[np.ndarray, " F"], level: float
) -> tuple[float, float]:
    """Return the interval of t after adding a fact at 0 and one at 1, each of typical size."""
    typical = counts.mean()
    mean, error = ratio(np.append(sums, [0.0, typical]), np.append(counts, [typical, typical]))
    half = t.ppf((1 + level) / 2, len(counts) + 1) * error
    return float(mean - half), float(mean + half)


def _studentized(
    sums: Float[np.ndarray, " F"],
    counts: Int[np.ndarray, " F"],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> FactInterval:
    """Return the bootstrap interval of the mean in units of its standard error."""
    mean, error = ratio(sums, counts)
    generator = np.random.default_rng(seed)
    n_facts = len(counts)
    step = max(1, _HELD // n_facts)
    apart = []
    for start in range(0, resamples, step):
        drawn = generator.integers(n_facts, size=(min(step, resamples - start), n_facts))
        means, errors = ratio(sums[drawn], counts[drawn])
        with np.errstate(divide="ignore", invalid="ignore"):
            apart.append(np.where(means == mean, 0.0, (means - mean) / errors))
    found = np.concatenate(apart)
    # Outwards, so that the opposite numbers have the opposite interval.
    least = np.quantile(found, (1 - level) / 2, method="lower")
    largest = np.quantile(found, (1 + level) / 2, method="higher")
    low, high = float(mean - largest * error), float(mean - least * error)
    if not math.isfinite(low) or not math.isfinite(high):
        return _none("too many facts are the same")
    return FactInterval(min(low, float(mean)), max(high, float(mean)))


def _none(why: str) -> FactInterval:
    return FactInterval(math.nan, math.nan, f"no interval: {why}")


def _rough(n: int, what: str) -> str:
    return f"{f'only {n}' if n else 'none'} of the facts {what}: a wide interval"


RESAMPLES = 1000
LEVEL = 0.95
POWER = 0.8  # share of studies that tell the detectable difference from 0
# Variance of the difference of two arms on a fact: what several seeds share, and that of one seed.
# Of intervals over 200 facts x 3 seeds and 1,000 x 1 (docs/results/knowledge.md, prefix_span less
# causal_span on cloze questions).
OF_FACTS, OF_SEEDS = 0.010, 0.159
MARGIN = 5.0  # points; a difference that surely is smaller counts as none

_TIE = 1e-9  # points; means over seeds or F1, added in another order, differ by rounding

Verdict: TypeAlias = Literal["reproduced", "reversed", "not reproduced", "inconclusive"]


class Estimate(NamedTuple):
    """A mean over questions with its interval over facts, of 95 % by default."""

    value: float
    low: float  # NaN where no interval holds
    high: float
    n: int  # questions
    n_facts: int
    reason: str = ""  # why there is no interval, or what to beware of


class Power(NamedTuple):
    """Power of a comparison with an interval of some width."""

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
        resamples: Number of resamples of facts, for scores without bounds.
        level: Share of such intervals that hold the truth.
        seed: Seed of the resamples.
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
    """Return the difference of two arms, question by question, with interval and sign test.

    Swapping the arms gives the opposite difference and interval, and the same p. What is 0 but for
    rounding is 0: a verdict asks for the sign.

    Args:
        ours: Scores of one arm, the mean over its seeds where it has several; no NaN.
        theirs: Scores of the other arm on the same questions.
        facts: The fact of each question.
        bounds: Ends of the range of each score, not of its difference; None without.
        resamples: Number of resamples of facts, for scores without bounds.
        level: Share of such intervals that hold the truth.
        seed: Seed of the resamples.
    """
    apart = ours - theirs
    spans = [None if ends is None else (ends[0] - ends[1], ends[1] - ends[0]) for ends in bounds]
    found = estimates(apart, facts, spans, resamples=resamples, level=level, seed=seed)
    sums, _ = _by_fact(apart, facts)
    return [
        Difference(_without_rounding(one), sign_test(sums[:, column]))
        for column, one in enumerate(found)
    ]


def paired_p(apart: Float[np.ndarray, " Q"], facts: Int[np.ndarray, " Q"]) -> float:
    """Return the two-sided p of the t test over facts that a mean difference is 0.

    NaN below two facts; 1 where all differences are 0.
    """
    sums, counts = _by_fact(apart[:, None], facts)
    if len(counts) < 2:
        return math.nan
    mean, error = ratio(sums[:, 0], counts)
    if abs(mean) < _TIE:
        return 1.0
    return float(2 * t.sf(abs(mean) / error, len(counts) - 1)) if error else 0.0


def detectable(n_facts: int, seeds: int, *, comparisons: int = 1, level: float = LEVEL) -> float:
    """Return the smallest difference, in points, that a planned study finds with `POWER`.

    Args:
        n_facts: Number of facts, at least 2.
        seeds: Runs of each arm; their noise averages out, that of the facts does not.
        comparisons: Comparisons that Holm's correction is over; the strictest step counts.
        level: Level of the intervals.
    """
    spread = math.sqrt(OF_FACTS + OF_SEEDS / seeds)
    tail = (1 - level) / (2 * comparisons)
    quantiles = t.isf(tail, n_facts - 1) + t.ppf(POWER, n_facts - 1)
    return float(100 * quantiles * spread / math.sqrt(n_facts))


def sign_test(differences: Float[np.ndarray, " F"]) -> SignTest:
    """Test whether facts favour one arm: exact binomial test of the signs, ties left out."""
    from scipy.stats import binomtest

    better, worse = int((differences > _TIE).sum()), int((differences < -_TIE).sum())
    if better + worse == 0:
        return SignTest(0, 0, 1.0)
    return SignTest(better, worse, float(binomtest(better, better + worse).pvalue))


def verdict(d: float, low: float, high: float, *, margin: float = MARGIN) -> Verdict:
    """Return the verdict on the claim that the first arm is better, by rules fixed before any run.

    In this order: the interval lies above 0: reproduced; below 0: reversed; within the margin of 0:
    not reproduced, there is no difference worth the name; else, or without an interval:
    inconclusive.

    Args:
        d: First arm less second, in points.
        low: Lower end of the interval of d.
        high: Upper end of the interval of d.
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
    """Return the power of a comparison over this number of facts; NaN without an interval.

    Args:
        low: Lower end of the interval of the difference.
        high: Upper end of the interval of the difference.
        n_facts: Number of facts.
        level: Level of the interval.
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
    """Return 0 for what is rounding only: thirds of three seeds seldom cancel exactly."""
    value, low, high = (0.0 if abs(number) < _TIE else number for number in found[:3])
    return found._replace(value=value, low=low, high=high)


def _by_fact(
    values: Float[np.ndarray, "Q S"], facts: Int[np.ndarray, " Q"]
) -> tuple[Float[np.ndarray, "F S"], Int[np.ndarray, " F"]]:
    """Return sums and numbers of questions of each fact, in the order of the facts' numbers."""
    _, codes, counts = np.unique(facts, return_inverse=True, return_counts=True)
    columns = [np.bincount(codes, column, len(counts)) for column in values.T]
    return np.stack(columns, axis=1, dtype=np.float64), counts
