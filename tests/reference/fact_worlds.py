"""Planted scores of facts whose means are known, to measure how often intervals hold the truth.

Fixed before any result was seen: the worlds, the numbers of facts, the candidates, and the rule.

Worlds are the kinds of numbers that intervals over facts are made of: percentages of 0s and 1s of
one to three questions on a fact that are right together (beta-binomial, p from 2 to 98 %), means of
three seeds, numbers of questions that go with the ease of the fact, paired differences between two
arms that differ on few or many facts, and numbers without bounds (lengths, log losses, ranks).
Each is drawn for 9, 15, 25, 39 and 80 facts, 1,000 times (fewer in the default tests).

Candidates (`benchmarks/fact_intervals.py`): the percentile bootstrap, BCa, the studentized
bootstrap, t with the linearized standard error of a ratio and facts - 1 degrees of freedom; for
numbers with bounds also Wilson's interval with the effective number of facts, and t with one
pseudo-fact at either end of the range (Agresti and Coull; Bonett and Price for differences).

The rule: per kind of world the simplest candidate whose coverage lies in 93 to 97 % in most cells
and nowhere far below; where a number of facts fails for it, intervals are refused up to there, or,
where what fails can be told from the data, the interval says so. A refusal is counted apart. What
is drawn must not look at the truth.

Added after the first results, and never looked at before the form of the intervals was fixed:
`HELD_OUT`, and the seed of the draws.

Axes: Q questions.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

FACTS = (9, 15, 25, 39, 80)
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class World:
    """A kind of scores: one draw gives values (Q,) and the fact of each (Q,)."""

    name: str
    kind: str  # "percent", "difference", "share" or "number"
    draw: Draw
    truth: float  # what the mean over questions tends to with the number of facts

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Ends of the range of the values, where there are some."""
        return {"percent": (0.0, 100.0), "difference": (-100.0, 100.0), "share": (0.0, 1.0)}.get(
            self.kind
        )


def _percent(p: float, *, correlation: float = 0.5, most: int = 3, seeds: int = 1) -> Draw:
    """Beta-binomial: the ease of a fact has mean p; two questions on it correlate so."""
    total = 1 / correlation - 1

    def draw(generator: np.random.Generator, n_facts: int) -> tuple[np.ndarray, np.ndarray]:
        ease = generator.beta(total * p, total * (1 - p), n_facts)
        facts = np.repeat(np.arange(n_facts), generator.integers(1, most + 1, n_facts))
        right = generator.random((seeds, len(facts))) < ease[facts]
        return 100.0 * right.mean(0), facts

    return draw


def _harder_asked_more(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Facts of uniform ease have three questions below 1/2 and one above."""
    ease = generator.random(n)
    facts = np.repeat(np.arange(n), np.where(ease < 0.5, 3, 1))
    return 100.0 * (generator.random(len(facts)) < ease[facts]), facts


def _discordant(share: float, lean: float) -> Draw:
    """One question a fact; the arms differ on a share of them, and lean to the first."""

    def draw(generator: np.random.Generator, n_facts: int) -> tuple[np.ndarray, np.ndarray]:
        differ = generator.random(n_facts) < share
        better = generator.random(n_facts) < (1 + lean) / 2
        return 100.0 * differ * np.where(better, 1, -1), np.arange(n_facts)

    return draw


def _seeds_apart(gain: float) -> Draw:
    """Three seeds, one to three questions; arms share the ease of half of the facts.

    The first arm also knows a share `gain` of what the second gets wrong.
    """

    def draw(generator: np.random.Generator, n_facts: int) -> tuple[np.ndarray, np.ndarray]:
        facts = np.repeat(np.arange(n_facts), generator.integers(1, 4, n_facts))
        theirs, own = generator.random((2, n_facts))
        ours = np.where(generator.random(n_facts) < 0.5, theirs, own)
        ours = ours + gain * (1 - ours)
        right = [
            (generator.random((3, len(facts))) < ease[facts]).mean(0) for ease in (ours, theirs)
        ]
        return 100.0 * (right[0] - right[1]), facts

    return draw


def _lengths(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Words of outputs: log-normal, half of the variance of the log between facts."""
    facts = np.repeat(np.arange(n), generator.integers(1, 4, n))
    log = generator.normal(size=n)[facts] + generator.normal(size=len(facts))
    return np.exp(np.sqrt(0.5) * log), facts


def _gains(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Log losses saved: mostly a little, seldom a large loss; three seeds of a fact alike."""
    facts = np.repeat(np.arange(n), 3)
    lost = generator.exponential(size=n)[facts] * generator.uniform(0.5, 1.5, len(facts))
    return 0.3 * (1 - lost), facts


def _tails(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric with heavy tails: t with 4 degrees of freedom."""
    return generator.standard_t(4, n), np.arange(n)


def _reciprocal_ranks(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """1 / rank among twenty: 1 for 60 %, else anywhere."""
    rank = np.where(generator.random(n) < 0.6, 1, generator.integers(1, 21, n))
    return 1 / rank, np.arange(n)


def _log_probabilities(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of answers: a gamma of shape 1.5 below 0, one to three questions with a share of noise."""
    facts = np.repeat(np.arange(n), generator.integers(1, 4, n))
    return -(
        generator.gamma(1.5, 20 / 3, n)[facts] * generator.uniform(0.8, 1.2, len(facts))
    ), facts


_HARMONIC = sum(1 / k for k in range(1, 21)) / 20

WORLDS = (
    *(World(f"{p} %", "percent", _percent(p / 100), p) for p in (2, 10, 30, 50, 90, 98)),
    World("30 %, questions nearly independent", "percent", _percent(0.3, correlation=0.1), 30),
    *(
        World(f"{p} %, one question", "percent", _percent(p / 100, most=1), p)
        for p in (2, 10, 50, 98)
    ),
    *(World(f"{p} %, three seeds", "percent", _percent(p / 100, seeds=3), p) for p in (10, 50, 98)),
    World("harder facts asked more", "percent", _harder_asked_more, 37.5),  # E[n e] / E[n]
    *(
        World(
            f"arms differ on {share:.0%}, by {100 * share * lean:g} points",
            "difference",
            _discordant(share, lean),
            100 * share * lean,
        )
        for share, lean in (
            (0.1, 0),
            (0.3, 0),
            (0.6, 0),
            (0.3, 0.5),
            (0.6, 0.5),
            (0.1, 1),
            (0.3, 1),
        )
    ),
    *(
        World(f"three seeds, {50 * gain:g} points", "difference", _seeds_apart(gain), 50 * gain)
        for gain in (0, 0.4)
    ),
    World("lengths (log-normal)", "number", _lengths, math.exp(0.5)),
    World("log losses saved (exponential)", "number", _gains, 0.0),
    World("t with 4 degrees of freedom", "number", _tails, 0.0),
    World("reciprocal ranks", "share", _reciprocal_ranks, 0.6 + 0.4 * _HARMONIC),
)

HELD_OUT = (
    World("5 %, up to five questions", "percent", _percent(0.05, most=5), 5),
    World("20 %, correlation 0.8", "percent", _percent(0.2, correlation=0.8), 20),
    World("75 %, two seeds", "percent", _percent(0.75, correlation=0.3, seeds=2), 75),
    World("95 %, one question", "percent", _percent(0.95, most=1), 95),
    World("arms differ on 20%, by 10 points", "difference", _discordant(0.2, 0.5), 10),
    World("arms differ on 40%, by 40 points", "difference", _discordant(0.4, 1), 40),
    World("three seeds, 5 points", "difference", _seeds_apart(0.1), 5),
    World("log-probabilities (gamma)", "number", _log_probabilities, -10.0),
)
