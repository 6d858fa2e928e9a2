import math

import numpy as np
import pytest

from tightframe.ntp import best_of_rank, solve_svm

ONE_HOT = np.eye(5, dtype=bool)


def test_with_all_the_rank_that_the_optimum_has_it_is_the_optimum():
    # One-hot labels of 5 tokens: norm V - 1 = 4, rank 4.
    found = best_of_rank(ONE_HOT, 4, optimum=4.0, starts=2)
    assert found.found
    assert found.norm == pytest.approx(4, rel=1e-6)
    assert found.excess == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found.logits, np.eye(5) - 0.2, atol=1e-4)


def test_in_the_plane_one_hot_labels_make_a_regular_polygon():
    # Logits a cos(2 pi (z - j) / 5) have margin a (1 - cos 72 degrees) = 1 and norm 5 a.
    found = best_of_rank(ONE_HOT, 2, optimum=4.0, starts=2)
    assert found.norm == pytest.approx(5 / (1 - math.cos(2 * math.pi / 5)), rel=1e-6)


def test_less_rank_costs_more_and_on_a_line_nothing_is_found():
    # On a line the logits of a context rise or fall along the tokens: at most two can be largest.
    three = best_of_rank(ONE_HOT, 3, optimum=4.0, starts=1)
    assert 4.01 < three.norm < 7.2
    assert three.excess == pytest.approx(three.norm / 4 - 1)
    line = best_of_rank(ONE_HOT, 1, optimum=4.0, starts=2, rounds=2)
    assert not line.found
    assert math.isnan(line.norm)
    assert math.isnan(line.excess)
    assert line.violation > 0.1
    assert line.starts == (0, 2)


def test_what_is_found_is_feasible_of_that_rank_and_no_less_than_the_optimum():
    # Repeated contexts and an unused token, so that rows and columns are merged.
    generator = np.random.default_rng(0)
    support = np.zeros((7, 8), dtype=bool)
    for context in range(8):
        support[generator.choice(6, 2, replace=False), context] = True
    support = support[:, [*range(8), 3, 3]]
    with pytest.warns(UserWarning, match="follow no context"):
        solution = solve_svm(support, 1e-8)
    full = best_of_rank(support, solution.rank, optimum=solution.upper, starts=1)
    assert full.excess == pytest.approx(0, abs=1e-4)
    found = best_of_rank(support, solution.rank - 2, optimum=solution.upper, starts=1)
    logits = found.classifier @ found.embeddings.T
    values = np.linalg.svd(logits, compute_uv=False)
    assert found.found
    assert (values > 1e-9 * values[0]).sum() == solution.rank - 2
    assert found.norm == pytest.approx(values.sum(), rel=1e-9)
    assert found.excess > 1e-4
    # Feasible: one level a support, at least 1 above the rest.
    level = np.where(support, logits, np.inf).min(axis=0)
    assert np.abs(np.where(support, logits - level, 0)).max() <= 1e-6
    assert np.where(support, -np.inf, logits - level + 1).max() <= 1e-6
    # Balanced: W^T W = H^T H.
    np.testing.assert_allclose(
        found.classifier.T @ found.classifier, found.embeddings.T @ found.embeddings, atol=1e-8
    )


def test_the_same_seed_finds_the_same():
    first, again = (best_of_rank(ONE_HOT, 3, starts=2, rounds=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.logits, again.logits)


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (0, {}, "dim: 0, expected 1 or more"),
        (6, {}, "dim: 6, expected 5 at most"),
        (2, {"starts": 0}, "starts: 0, expected 1 or more"),
        (2, {"rounds": 0}, "rounds: 0, expected 1 or more"),
    ],
)
def test_bad_input_is_named(dim, options, message):
    with pytest.raises(ValueError, match=message):
        best_of_rank(ONE_HOT, dim, **options)


def test_a_context_without_support_is_named():
    with pytest.raises(ValueError, match="support: no token follows context 1"):
        best_of_rank(np.array([[True, False], [False, False]]), 1)
