import math

import numpy as np
import pytest
from scipy.stats import t

from tightframe.knowledge.intervals import (
    PERCENT,
    differences,
    estimates,
    power,
    sign_test,
    verdict,
)

BOTH = [PERCENT, None]  # bounds of two scores
ONE = [PERCENT]


def draw(n_facts, *, seed=0, most=7):
    """Scores of up to `most` questions a fact, some facts easier than others."""
    generator = np.random.default_rng(seed)
    facts = np.repeat(np.arange(n_facts), generator.integers(1, most + 1, n_facts))
    ease = generator.beta(1, 1, n_facts)[facts]
    values = 100.0 * (generator.random((len(facts), 2)) < ease[:, None])
    return values, facts


def test_more_questions_on_the_same_facts_make_nothing_surer():
    values, facts = draw(200, most=1)
    once = estimates(values, facts, BOTH)
    many = estimates(np.repeat(values, 5, axis=0), np.repeat(facts, 5), BOTH)
    for one, five in zip(once, many, strict=True):
        assert one[:3] == pytest.approx(five[:3])
    assert [one.n for one in many] == [1000, 1000]


def test_the_order_of_questions_changes_nothing_and_the_seed_fixes_everything():
    values, facts = draw(40)
    order = np.random.default_rng(1).permutation(len(facts))
    found = estimates(values, facts, BOTH)
    assert estimates(values[order], facts[order], BOTH) == found
    assert estimates(values, facts, BOTH, seed=1)[1] != found[1]
    assert estimates(values[:, :1], facts, ONE)[0] == found[0]


def test_without_questions_there_is_no_number():
    (none,) = estimates(np.zeros((0, 1)), np.zeros(0, dtype=int), ONE)
    assert math.isnan(none.value)
    assert none.reason == "no questions"


def test_a_mean_of_too_few_facts_stands_without_an_interval():
    (found,) = estimates(np.array([[100.0], [0.0]]), np.array([5, 5]), ONE)
    assert (found.value, found.n, found.n_facts) == (50, 2, 1)
    assert math.isnan(found.low)
    assert found.reason == "no interval: a single fact, fewer than 15"


def test_swapping_the_arms_turns_the_sign_and_nothing_else():
    ours, facts = draw(60)
    theirs = 100.0 * (np.random.default_rng(1).random(ours.shape) < 0.4)
    for one, other in zip(
        differences(ours, theirs, facts, BOTH),
        differences(theirs, ours, facts, BOTH),
        strict=True,
    ):
        assert one.estimate.value != 0
        assert one.estimate.value == -other.estimate.value
        mirrored = [-other.estimate.high, -other.estimate.low]
        assert [one.estimate.low, one.estimate.high] == pytest.approx(mirrored, abs=1e-9)
        assert one.signs.p == other.signs.p
        assert (one.signs.better, one.signs.worse) == (other.signs.worse, other.signs.better)


def test_the_difference_of_two_arms_is_surer_than_the_arms():
    theirs, facts = draw(300, most=1)
    ours = theirs.copy()
    ours[:30] = 100.0
    (found, _), (arm, _) = differences(ours, theirs, facts, BOTH), estimates(ours, facts, BOTH)
    assert found.estimate.value == pytest.approx(ours[:, 0].mean() - theirs[:, 0].mean())
    assert found.estimate.high - found.estimate.low < (arm.high - arm.low) / 2


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 / 2
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (6, 1, 2 * (1 + 7) / 128),
        (4, 4, 1.0),
    ],
)
def test_the_sign_test_is_exact_and_leaves_ties_out(better, worse, p):
    found = sign_test(np.array([30.0] * better + [-1.0] * worse + [0.0, 1e-13, -1e-13]))
    assert (found.better, found.worse) == (better, worse)
    assert found.p == pytest.approx(p, rel=1e-12)


def arms(n_facts, gain, *, spread=30.0, seed=0):
    """The difference of two arms on one question a fact, of a known mean."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=n_facts)
    noise = (noise - noise.mean()) / noise.std() * spread
    theirs = np.full((n_facts, 1), 50.0)
    (found,) = differences(theirs + gain + noise[:, None], theirs, np.arange(n_facts), ONE)
    return found.estimate


@pytest.mark.parametrize(
    ("n_facts", "gain", "expected"),
    [
        (200, 20, "reproduced"),
        (200, -20, "reversed"),
        (2000, 0, "not reproduced"),
        (20, 0, "inconclusive"),
    ],
)
def test_known_differences_get_their_verdicts(n_facts, gain, expected):
    found = arms(n_facts, gain)
    assert found.value == pytest.approx(gain, abs=1e-9)
    assert verdict(found.value, found.low, found.high) == expected


@pytest.mark.parametrize(
    ("d", "low", "high", "expected"),
    [
        (2, 0.1, 4, "reproduced"),  # surely above 0 comes before within 5 points
        (-2, -4, -0.1, "reversed"),
        (2, 0, 4, "not reproduced"),  # 0 itself is not above 0
        (0, -5, 5, "not reproduced"),
        (0, -5.01, 5, "inconclusive"),
        (0, -5, 5.01, "inconclusive"),
        (0, -9, 9, "inconclusive"),
        (3, math.nan, math.nan, "inconclusive"),
    ],
)
def test_the_rule_at_its_edges(d, low, high, expected):
    assert verdict(float(d), float(low), float(high)) == expected


@pytest.mark.parametrize(("d", "low", "high"), [(0, 1, -1), (-1, 1, 2), (1, -2, -1), (0, 1, 2)])
def test_an_interval_of_another_difference_is_refused(d, low, high):
    with pytest.raises(ValueError, match="can't be the interval of a difference"):
        verdict(float(d), float(low), float(high))


def test_arms_that_are_equal_but_for_rounding_get_no_verdict_of_their_sign():
    # Three seeds on two questions: right with 1 against 0, then with 2 against 3. Equal on every
    # fact, but in floats (100/3 - 0) + (200/3 - 100) is 7e-15, which is above 0.
    ours = np.tile([[100 / 3], [200 / 3]], (80, 1))
    theirs = np.tile([[0.0], [100.0]], (80, 1))
    assert (ours - theirs)[:2].sum() > 0
    (found,) = differences(ours, theirs, np.repeat(np.arange(80), 2), ONE)
    assert found.estimate.value == 0
    assert found.estimate.reason == "none of the facts tell the arms apart: a wide interval"
    assert verdict(*found.estimate[:3]) == "not reproduced"
    (swapped,) = differences(theirs, ours, np.repeat(np.arange(80), 2), ONE)
    assert verdict(*swapped.estimate[:3]) == "not reproduced"


def test_an_interval_that_ends_at_the_margin_but_for_rounding_lies_within_it():
    assert verdict(0.0, -5 - 1e-14, 5 + 1e-14) == "not reproduced"
    assert verdict(0.0, -5 - 1e-6, 5.0) == "inconclusive"


def test_the_detectable_difference_is_found_in_80_of_100_studies():
    # Draws of the estimate around it, whose standard error is drawn, too: t with 24 degrees.
    found = power(-10.0, 10.0, 25)
    generator = np.random.default_rng(0)
    error = 10 / t.ppf(0.975, 24)
    draws = generator.normal(found.detectable, error, 20_000)
    errors = error * np.sqrt(generator.chisquare(24, 20_000) / 24)
    assert (draws > t.ppf(0.975, 24) * errors).mean() == pytest.approx(0.8, abs=0.015)


def test_the_chance_to_show_equal_arms_is_that_of_an_interval_within_the_margin():
    draws = np.random.default_rng(1).normal(0, 3 / t.ppf(0.975, 99), 20_000)
    within = (abs(draws) + 3 <= 5).mean()
    assert power(-3.0, 3.0, 100).none == pytest.approx(within, abs=0.01)
    assert power(-1.0, 7.0, 100).none == pytest.approx(power(-4.0, 4.0, 100).none)
    assert power(-5.1, 5.1, 100).none == 0  # wider than the margin, wherever it lies
    assert np.isnan(power(math.nan, math.nan, 100)).all()
    assert power(-3.0, 3.0, 100, margin=1.0).none == 0
