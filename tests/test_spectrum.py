import numpy as np
import pytest
import scipy.sparse as sp

from reference.supports import blocks, random_support
from tightframe.ntp.soft_labels import centred_support
from tightframe.ntp.support import (
    CentredSupport,
    dense_triplets,
    leading_triplets,
    residuals,
    signed,
)


@pytest.fixture(scope="module")
def support():
    return random_support(60, 150, (2, 6), seed=3)


def operator(support):
    return CentredSupport(sp.csc_array(support))


def test_the_operator_is_the_centred_support(support):
    rng, centred = np.random.default_rng(0), centred_support(support)
    x, y = rng.normal(size=(150, 3)), rng.normal(size=(60, 3))
    assert operator(support).times(x) == pytest.approx(centred @ x, abs=1e-12)
    assert operator(support).times(x[:, 0]) == pytest.approx(centred @ x[:, 0], abs=1e-12)
    assert operator(support).transposed_times(y) == pytest.approx(centred.T @ y, abs=1e-12)
    assert operator(support).dense() == pytest.approx(centred, abs=1e-14)


@pytest.mark.parametrize("transposed", [False, True])
def test_triplets_on_either_side_are_those_of_a_dense_decomposition(support, transposed):
    # A wide matrix is iterated on the token side, a tall one on the context side.
    support = support.T if transposed else support
    triplets = leading_triplets(operator(support), 8)
    left, values, right = np.linalg.svd(centred_support(support), full_matrices=False)
    assert triplets.singular_values == pytest.approx(values[:8], rel=1e-9)
    assert np.abs((triplets.left * left[:, :8]).sum(axis=0)) == pytest.approx(1, abs=1e-9)
    assert np.abs((triplets.right.T * right[:8]).sum(axis=1)) == pytest.approx(1, abs=1e-9)
    assert triplets.residuals.max() < 1e-8


def test_residuals_are_recomputed_from_the_triplets(support):
    centred, triplets = operator(support), leading_triplets(operator(support), 4)
    wrong = triplets.right.copy()
    wrong[:, 1] *= 1.01  # S~^T u - s v is off by 1 % of s v, and S~ v - s u by 1 % of s u
    off = residuals(centred, triplets.left, triplets.singular_values, wrong)
    assert off[1] == pytest.approx(0.01, rel=1e-6)
    assert np.delete(off, 1).max() < 1e-8


def test_what_is_null_is_left_out():
    # Five disjoint blocks have four directions, however many are asked for.
    blocky = operator(blocks([4] * 5, [6] * 5))
    assert len(leading_triplets(blocky, 9).singular_values) == 4
    assert len(dense_triplets(blocky).singular_values) == 4


def test_signs_make_the_largest_entry_positive_and_keep_the_product():
    left, right = np.array([[0.6, 0.8], [-0.8, 0.6]]), np.eye(2)
    fixed, values, other = signed(left, np.array([2.0, 1.0]), right)
    assert fixed == pytest.approx(left * [-1, 1])
    assert (fixed * values) @ other.T == pytest.approx((left * values) @ right.T)


def test_of_equal_entries_the_first_is_positive():
    left = np.array([[-1.0], [1.0 + 1e-15]]) / np.sqrt(2)
    assert signed(left, np.ones(1), np.ones((1, 1)))[0][0, 0] > 0


@pytest.mark.parametrize("rank", [0, 60])
def test_an_impossible_rank_is_refused(support, rank):
    with pytest.raises(ValueError, match=rf"rank: {rank}, expected 1 to 59 of \(60, 150\)"):
        leading_triplets(operator(support), rank)


def test_an_impossible_tolerance_is_refused(support):
    with pytest.raises(ValueError, match=r"tolerance: 0.0, expected between 0 and 1"):
        leading_triplets(operator(support), 2, tolerance=0.0)
