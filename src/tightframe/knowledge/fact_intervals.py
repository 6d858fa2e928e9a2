r"""Confidence intervals of means over questions that hold for 15 facts and more.

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
"""

import math
from typing import NamedTuple, TypeAlias

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


class Interval(NamedTuple):
    """Ends of an interval; NaN, with a reason, where none holds."""

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
) -> Interval:
    """Return the interval of the mean over questions.

    Args:
        sums: Sum of the scores over the questions of each fact.
        counts: Questions of each fact, at least one.
        bounds: Least and largest score; None where there are none.
        level: Share of such intervals that hold the truth.
        resamples: Of facts, for a score without bounds.
        seed: Of the resamples.
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
    return Interval(low + span * found[0], low + span * found[1], reason)


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
    """Wilson's interval of a mean in [0, 1] with the effective number of facts."""
    mean, error = (float(one) for one in ratio(sums, counts))
    square = float(t.ppf((1 + level) / 2, len(counts) - 1)) ** 2
    n = mean * (1 - mean) / error**2  # independent facts that would have this error
    centre = (mean + square / (2 * n)) / (1 + square / n)
    half = math.sqrt(square * mean * (1 - mean) / n + square**2 / (4 * n**2)) / (1 + square / n)
    return centre - half, centre + half


def _exact(
    sums: Float[np.ndarray, " F"], counts: Int[np.ndarray, " F"], level: float
) -> tuple[float, float]:
    """Clopper and Pearson's interval, as if all questions on a fact had one answer at best."""
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
    """Interval of t after a fact at 0 and one at 1, each of as many questions as the mean."""
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
) -> Interval:
    """Bootstrap interval of the mean in units of its standard error."""
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
    return Interval(min(low, float(mean)), max(high, float(mean)))


def _none(why: str) -> Interval:
    return Interval(math.nan, math.nan, f"no interval: {why}")


def _rough(n: int, what: str) -> str:
    return f"{f'only {n}' if n else 'none'} of the facts {what}: a wide interval"
