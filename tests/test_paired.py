import math

import numpy as np
import pytest
from scipy.stats import binom

from tightframe.knowledge.evaluation.paired import (
    differences,
    estimates,
    resampled_means,
    sign_test,
    verdict,
)


def draw(n_facts, *, seed=0, most=7):
    """Scores of up to `most` questions a fact, some facts easier than others."""
    generator = np.random.default_rng(seed)
    facts = np.repeat(np.arange(n_facts), generator.integers(1, most + 1, n_facts))
    ease = generator.beta(1, 1, n_facts)[facts]
    values = 100.0 * (generator.random((len(facts), 2)) < ease[:, None])
    return values, facts


def test_resamples_are_those_of_drawing_facts_one_by_one():
    values, facts = draw(9)
    sums = np.array([values[facts == fact].sum(0) for fact in range(9)])
    counts = np.array([(facts == fact).sum() for fact in range(9)])
    generator = np.random.default_rng(3)
    for mean in resampled_means(sums, counts, resamples=50, seed=3):
        drawn = generator.integers(9, size=9)
        questions = np.concatenate([values[facts == fact] for fact in drawn])
        assert mean == pytest.approx(questions.mean(0), rel=1e-12)


def test_how_many_resamples_are_held_at_once_changes_nothing(monkeypatch):
    sums, counts = np.arange(10.0)[:, None], np.ones(10, dtype=int)
    whole = resampled_means(sums, counts, resamples=100)
    monkeypatch.setattr("tightframe.knowledge.evaluation.paired._HELD", 70)
    assert np.array_equal(resampled_means(sums, counts, resamples=100), whole)


def test_the_interval_is_that_of_the_binomial_where_facts_have_one_question_each():
    n, right = 400, 120
    values = 100.0 * (np.arange(n) < right)[:, None]
    (found,) = estimates(values, np.arange(n))
    assert (found.value, found.n, found.n_facts) == (30, n, n)
    ends = 100 * binom.ppf([0.025, 0.975], n, right / n) / n
    assert [found.low, found.high] == pytest.approx(ends, abs=0.6)  # 1000 draws of the ends


def test_more_questions_on_the_same_facts_make_nothing_surer():
    values, facts = draw(200, most=1)
    once = estimates(values, facts)
    many = estimates(np.repeat(values, 5, axis=0), np.repeat(facts, 5))
    for one, five in zip(once, many, strict=True):
        assert one[:3] == pytest.approx(five[:3])
    assert [one.n for one in many] == [1000, 1000]


def test_the_order_of_questions_changes_nothing_and_the_seed_fixes_everything():
    values, facts = draw(40)
    order = np.random.default_rng(1).permutation(len(facts))
    assert estimates(values[order], facts[order]) == estimates(values, facts)
    assert estimates(values, facts, seed=1) != estimates(values, facts)
    assert estimates(values[:, :1], facts)[0] == estimates(values, facts)[0]


def test_where_resampling_can_tell_nothing_the_reason_says_so():
    (none,) = estimates(np.zeros((0, 1)), np.zeros(0, dtype=int))
    assert math.isnan(none.value)
    assert none.reason == "no questions"
    (single,) = estimates(np.array([[100.0], [0.0]]), np.array([5, 5]))
    assert single.value == 50
    assert math.isnan(single.low)
    assert single.reason == "no interval: a single fact"
    (same,) = estimates(np.full((9, 1), 100.0), np.arange(9))
    assert same[:3] == (100, 100, 100)
    assert "the same on every fact" in same.reason


def test_swapping_the_arms_turns_the_sign_and_nothing_else():
    ours, facts = draw(60)
    theirs = 100.0 * (np.random.default_rng(1).random(ours.shape) < 0.4)
    for one, other in zip(
        differences(ours, theirs, facts), differences(theirs, ours, facts), strict=True
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
    (found, _), (arm, _) = differences(ours, theirs, facts), estimates(ours, facts)
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
    (found,) = differences(theirs + gain + noise[:, None], theirs, np.arange(n_facts))
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
    ours = np.tile([[100 / 3], [200 / 3]], (40, 1))
    theirs = np.tile([[0.0], [100.0]], (40, 1))
    assert (ours - theirs)[:2].sum() > 0
    (found,) = differences(ours, theirs, np.repeat(np.arange(40), 2))
    assert found.estimate[:3] == (0, 0, 0)
    assert verdict(*found.estimate[:3]) == "not reproduced"
    (swapped,) = differences(theirs, ours, np.repeat(np.arange(40), 2))
    assert verdict(*swapped.estimate[:3]) == "not reproduced"


def test_an_interval_that_ends_at_the_margin_but_for_rounding_lies_within_it():
    assert verdict(0.0, -5 - 1e-14, 5 + 1e-14) == "not reproduced"
    assert verdict(0.0, -5 - 1e-6, 5.0) == "inconclusive"


@pytest.mark.slow
def test_95_of_100_intervals_hold_the_truth():
    # Facts of unequal ease with 1 to 7 questions; the truth is the ratio that many facts tend to:
    # ease and number of questions are independent, so 50. Plain resampling of questions would
    # hold it in about 80 of 100.
    held = np.zeros(2)
    n = 600
    for seed in range(n):
        values, facts = draw(150, seed=seed)
        for one in estimates(values, facts, seed=seed):
            held[0] += one.low <= 50 <= one.high
        for one in estimates(values, np.arange(len(values)), seed=seed):
            held[1] += one.low <= 50 <= one.high
    by_fact, by_question = held / (2 * n)
    assert 0.93 <= by_fact <= 0.97
    assert by_question < 0.9
