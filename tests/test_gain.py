import numpy as np
import pytest

from studies.recall_geometry.gain import FEWEST, out_of_fold, recall_gain


def synthetic(seed, *, n_facts=90, n_seeds=2, slope=0.0):
    """Recall goes with the log-probability, and with `slope` times what geometry knows beyond it.

    Both are alike within a fact, and geometry goes with the log-probability in any case.
    """
    rng = np.random.default_rng(seed)
    belief = rng.normal(size=(n_facts, 1)) + 0.5 * rng.normal(size=(n_facts, n_seeds))
    own = rng.normal(size=(n_facts, 1)) + 0.5 * rng.normal(size=(n_facts, n_seeds))
    odds = 1.5 * belief + slope * own + 0.5 * rng.normal(size=(n_facts, 1))
    recalled = rng.random((n_facts, n_seeds)) < 1 / (1 + np.exp(-odds))
    geometry = np.stack([belief + own, rng.normal(size=belief.shape)], axis=2)
    return belief[..., None], geometry, recalled


def test_geometry_that_knows_more_than_the_log_probability_is_found():
    found = recall_gain(*synthetic(0, slope=1.5), permutations=49)
    assert found.p == pytest.approx(1 / 50)
    assert found.low > 0
    assert found.both.auc > found.baseline.auc + 0.02
    assert found.gain == pytest.approx(found.baseline.loss - found.both.loss, abs=1e-12)


def test_geometry_that_knows_only_the_log_probability_is_not():
    # It foretells recall alone, and adds nothing: p is uniform on {1/20, ..., 1}. Of 16 draws, 6
    # or more at most 0.1 have probability 0.003, and their mean strays by 0.2 with 0.006.
    found = [recall_gain(*synthetic(seed), folds=3, permutations=19) for seed in range(16)]
    p = np.array([one.p for one in found])
    assert (p <= 0.1).sum() < 6
    assert abs(p.mean() - 0.525) < 0.2
    assert np.mean([one.beyond.auc for one in found]) > 0.6


@pytest.mark.slow
def test_p_is_uniform_where_geometry_adds_nothing():
    found = [recall_gain(*synthetic(seed), folds=3, permutations=19).p for seed in range(200)]
    for level in (0.05, 0.2, 0.5, 0.8):
        expected, deviation = 200 * level, np.sqrt(200 * level * (1 - level))
        assert abs((np.array(found) <= level + 1e-9).sum() - expected) < 3 * deviation


def test_what_marks_a_fact_does_not_leak_from_one_seed_to_another():
    # A mark of each fact and a coin for each fact, the same under all seeds: with a row of the
    # fact in training the mark would tell the coin; across facts it tells nothing.
    rng = np.random.default_rng(3)
    marks = np.repeat(rng.normal(size=(60, 1, 40)), 4, axis=1)
    coins = np.repeat(rng.random((60, 1)) < 0.5, 4, axis=1)
    nothing = rng.normal(size=(60, 4, 1))
    found = recall_gain(nothing, marks, coins, permutations=3)
    assert found.beyond.auc < 0.65
    rows = rng.permutation(240).reshape(5, 48)
    parts = [(np.setdiff1d(np.arange(240), part), part) for part in rows]
    leaking = out_of_fold(marks.reshape(1, 240, -1), coins.ravel(), parts)
    assert ((leaking[0] > 0) == coins.ravel()).mean() > 0.8


def test_scale_and_shift_of_predictors_and_a_mix_of_them_change_nothing():
    baseline, geometry, recalled = synthetic(1, slope=1.0)
    first = recall_gain(baseline, geometry, recalled, permutations=9)
    moved = recall_gain(3 * baseline - 7, geometry / 50 + 2, recalled, permutations=9)
    assert moved.gain == pytest.approx(first.gain, rel=1e-6)
    assert (moved.p, moved.both.auc) == (first.p, first.both.auc)


def test_the_same_seed_gives_the_same_numbers():
    data = synthetic(2)
    assert recall_gain(*data, permutations=5) == recall_gain(*data, permutations=5)


def test_where_next_to_all_are_recalled_there_is_no_number_but_a_reason():
    baseline, geometry, _ = synthetic(0)
    recalled = np.ones((90, 2), dtype=bool)
    recalled[: FEWEST - 1] = False
    found = recall_gain(baseline, geometry, recalled)
    assert found.reason == "81 facts with yes, 9 with no, fewer than 10"
    assert np.isnan([found.gain, found.p, found.baseline.auc, found.both.loss]).all()
    assert (found.n, found.n_facts, found.share) == (180, 90, pytest.approx(0.9))
