import numpy as np
import pytest

from tightframe.ntp.similarity import (
    cosine,
    distance,
    gram_structural_similarity,
    structural_similarity,
    unit_rows,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_matrix_is_exactly_like_itself_and_the_opposite_of_its_negative(rng):
    a = rng.normal(size=(7, 9))
    assert structural_similarity(a, a) == pytest.approx(1, abs=1e-15)
    # -var + C over var + C: -1 but for C.
    assert structural_similarity(a, -a) == pytest.approx(-1, abs=1e-4)
    assert structural_similarity(a, -a) == pytest.approx(
        (-a.var() + 1e-5) / (a.var() + 1e-5), rel=1e-12
    )


def test_structural_similarity_is_pearson_s_r_but_for_the_constant(rng):
    a, b = rng.normal(size=(2, 30, 40)) * 100
    pearson = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert structural_similarity(a, b) == pytest.approx(pearson, abs=1e-8)


def test_constant_matrices_are_alike(rng):
    # Nothing varies: C over C.
    assert structural_similarity(np.ones((3, 3)), np.full((3, 3), 5.0)) == 1


def test_the_similarity_of_grams_is_that_of_the_formed_ones(rng):
    a, b = rng.normal(size=(40, 5)), rng.normal(size=(40, 8))
    assert gram_structural_similarity(a, b) == pytest.approx(
        structural_similarity(a @ a.T, b @ b.T), rel=1e-12
    )


def test_rotated_rows_have_the_same_gram(rng):
    a = unit_rows(rng.normal(size=(40, 5)))[0]
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert gram_structural_similarity(a, a @ rotation) == pytest.approx(1, abs=1e-12)


def test_unit_rows_leave_out_what_has_no_direction():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-11]])
    units, directed = unit_rows(rows)
    assert directed.tolist() == [True, False, True]
    assert units == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]]), abs=1e-15)
    assert unit_rows(rows, rounding=1e-10)[1].tolist() == [True, False, False]


def test_cosine_and_distance_of_parallel_orthogonal_and_opposite_matrices():
    a, b = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    assert [cosine(a, 3 * a), cosine(a, b), cosine(a, -a)] == [1, 0, -1]
    # |x - y|^2 = 2 - 2 cos of unit vectors.
    assert [distance(c) for c in (1.0, 0.0, -1.0)] == pytest.approx([0, np.sqrt(2), 2])
    assert np.isnan(cosine(a, 0 * a))
    assert np.isnan(distance(np.nan))


def test_other_shapes_are_refused(rng):
    with pytest.raises(ValueError, match=r"of one shape, got \(2, 3\) and \(3, 2\)"):
        structural_similarity(np.ones((2, 3)), np.ones((3, 2)))
