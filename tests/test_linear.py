import cvxpy as cp
import numpy as np
import pytest

from reference.supports import random_support
from tightframe.ntp.extras import linear_svm
from tightframe.ntp.soft_labels import SoftLabels, centred_support, finite_component


def random_labels(tokens, contexts, sizes, seed):
    counts = np.random.default_rng(seed).integers(1, 5, size=(tokens, contexts))
    return SoftLabels.from_counts(counts * random_support(tokens, contexts, sizes, seed))


def test_one_hot_contexts_give_the_two_components_of_logits():
    # Columns part: the centred column is the least one with margin 1, and L_in fits the ratios.
    labels = random_labels(6, 9, (1, 4), seed=0)
    solved = linear_svm(np.eye(9), labels)
    assert solved.direction == pytest.approx(centred_support(labels.matrix), abs=1e-12)
    assert solved.finite == pytest.approx(finite_component(labels).toarray(), abs=1e-12)
    assert solved.separable
    assert solved.compatible


def test_an_independent_solver_agrees():
    labels = random_labels(5, 6, (2, 3), seed=1)
    embeddings = np.random.default_rng(2).normal(size=(6, 8))
    solved = linear_svm(embeddings, labels)
    matrix, support = cp.Variable((5, 8)), labels.matrix
    logits, constraints = matrix @ embeddings.T, []
    for j in range(6):
        inside, outside = np.flatnonzero(support[:, j]), np.flatnonzero(~support[:, j])
        constraints += [logits[inside[0], j] == logits[z, j] for z in inside[1:]]
        constraints += [logits[inside[0], j] - logits[v, j] >= 1 for v in outside]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(matrix)), constraints)
    problem.solve(solver=cp.CLARABEL)
    assert np.square(solved.direction).sum() == pytest.approx(problem.value, rel=1e-6)
    assert solved.direction == pytest.approx(matrix.value, abs=1e-5)
    assert solved.violation < 1e-12
    assert abs(solved.gap) < 1e-12


def test_both_parts_meet_their_conditions_recomputed_in_plain_loops():
    labels = random_labels(10, 20, (3, 6), seed=3)
    embeddings = np.random.default_rng(4).normal(size=(20, 24))
    solved = linear_svm(embeddings, labels)
    p = labels.probabilities.toarray()
    fitted, growing = solved.finite @ embeddings.T, solved.direction @ embeddings.T
    for j in range(20):
        inside, outside = np.flatnonzero(p[:, j]), np.flatnonzero(p[:, j] == 0)
        for z in inside:
            ratio = np.log(p[z, j] / p[inside[0], j])
            assert fitted[z, j] - fitted[inside[0], j] == pytest.approx(ratio, abs=1e-10)
            assert growing[z, j] == pytest.approx(growing[inside[0], j], abs=1e-10)
        assert (growing[inside[0], j] - growing[outside, j] >= 1 - 1e-10).all()
    # The two are orthogonal: one lies in the span of in-support differences, one has none of it.
    assert (solved.finite * solved.direction).sum() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_larger_embeddings_need_a_smaller_classifier(scale):
    labels = random_labels(5, 6, (2, 3), seed=1)
    embeddings = np.random.default_rng(2).normal(size=(6, 8))
    one, other = linear_svm(embeddings, labels), linear_svm(scale * embeddings, labels)
    assert other.direction * scale == pytest.approx(one.direction, rel=1e-9)
    assert other.finite * scale == pytest.approx(one.finite, rel=1e-9)
    assert other.separable


def test_equal_embeddings_of_different_supports_are_told():
    # Contexts 0 and 1 look the same; one wants token 0 above 1, the other the reverse.
    labels = SoftLabels.from_counts(np.array([[1, 0], [0, 1], [1, 1]]))
    solved = linear_svm(np.ones((2, 3)), labels)
    assert not solved.separable
    assert solved.direction is None
    assert solved.compatible  # the fit wants only w_0 - w_2 and w_1 - w_2 to be 0 along h
    assert np.isnan(solved.gap)


def test_ratios_that_no_classifier_fits_are_told():
    # Equal embeddings with ratios log 3 and 0: the best fit is half of each.
    labels = SoftLabels.from_counts(np.array([[3, 1], [1, 1], [0, 0]]))
    solved = linear_svm(np.ones((2, 1)), labels)
    assert not solved.compatible
    assert solved.misfit == pytest.approx(np.sqrt(0.5))
    assert solved.separable  # token 2 is below both after either
    assert solved.to_dict()["separable"] is True


def test_nothing_to_separate_is_separated_by_nothing():
    labels = SoftLabels.from_counts(np.array([[1, 2], [3, 1]]))
    assert linear_svm(np.eye(2), labels).direction == pytest.approx(0)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones((3, 2)), r"embeddings: 3 rows \(axis 0\), expected one per context, 2"),
        (np.array([[1.0, 0], [0, np.inf]]), "embeddings: inf for context 1, dimension 1"),
        (np.zeros((2, 2)), "embeddings: all are 0"),
    ],
)
def test_wrong_embeddings_are_refused(embeddings, message):
    labels = SoftLabels.from_counts(np.array([[1, 0], [0, 1]]))
    with pytest.raises(ValueError, match=message):
        linear_svm(embeddings, labels)


def test_too_large_a_problem_is_refused_with_its_size():
    labels = SoftLabels.from_counts(np.eye(400, dtype=int))
    with pytest.raises(ValueError, match=r"take [\d,]+ bytes, at most 2,147,483,648 are allowed"):
        linear_svm(np.ones((400, 64)), labels)
