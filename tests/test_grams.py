import numpy as np
import pytest

from tightframe.ntp.similarity import (
    gram_cosine,
    gram_distance,
    gram_inner,
    gram_moments,
    gram_norm,
)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, 4)), rng.normal(size=(9, 6))


def test_factors_say_what_the_grams_say(pair):
    a, b = pair
    whole_a, whole_b = a @ a.T, b @ b.T
    norms = np.linalg.norm(whole_a), np.linalg.norm(whole_b)
    assert gram_inner(a, b) == pytest.approx((whole_a * whole_b).sum(), rel=1e-12)
    assert gram_norm(a) == pytest.approx(norms[0], rel=1e-12)
    expected = (whole_a * whole_b).sum() / (norms[0] * norms[1])
    assert gram_cosine(a, b) == pytest.approx(expected, rel=1e-12)
    distance = np.linalg.norm(whole_a / norms[0] - whole_b / norms[1])
    assert gram_distance(a, b) == pytest.approx(distance, rel=1e-12)


def test_moments_are_those_of_all_entries(pair):
    a, b = pair
    whole_a, whole_b = a @ a.T, b @ b.T
    covariance = np.cov(whole_a.ravel(), whole_b.ravel(), ddof=0)
    assert gram_moments(a, b) == pytest.approx(
        (
            whole_a.mean(),
            whole_b.mean(),
            covariance[0, 0],
            covariance[1, 1],
            covariance[0, 1],
        ),
        rel=1e-12,
    )


def test_rotation_and_scale_of_a_factor_change_nothing(pair):
    a, b = pair
    turned = 7 * b @ np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert gram_cosine(a, turned) == pytest.approx(gram_cosine(a, b), rel=1e-12)
    assert gram_cosine(b, turned) == pytest.approx(1, abs=1e-14)
    assert gram_distance(b, turned) == pytest.approx(0, abs=1e-14)


def test_a_tiny_distance_keeps_its_digits():
    # Grams diag(1, 0) and diag(1, e^2): with e^4 = 0 they are e^2 = 1e-10 apart, where
    # sqrt(2 - 2 cosine) is 0 or 1.5e-8.
    a, b = np.array([[1.0], [0.0]]), np.diag([1.0, 1e-5])
    assert gram_distance(a, b) == pytest.approx(1e-10, rel=1e-5)


def test_nothing_has_no_direction():
    nothing, something = np.zeros((3, 2)), np.ones((3, 1))
    assert np.isnan(gram_cosine(nothing, something))
    assert np.isnan(gram_distance(something, nothing))


@pytest.mark.parametrize("function", [gram_inner, gram_cosine, gram_distance, gram_moments])
def test_different_numbers_of_rows_are_refused(function):
    with pytest.raises(ValueError, match=r"b: 4 rows \(axis 0\), expected 3 as in a"):
        function(np.ones((3, 2)), np.ones((4, 2)))
