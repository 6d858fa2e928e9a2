import cvxpy
import numpy as np
import pytest
from scipy.optimize import minimize

from reference import path_sets as reference
from reference.path_sets import SETS
from tightframe.ntp import SoftLabels, ridge_path
from tightframe.ntp.ridge import UnconstrainedFeatures, decades, lambda_max, ridge_gap
from tightframe.ntp.soft_labels import centred_support, cross_entropy


def _one_hot(n):
    return SoftLabels.from_counts(np.eye(n))


@pytest.fixture(scope="module")
def narrow():
    return SETS["narrow"].labels()


@pytest.fixture(scope="module")
def at_a_thousandth(narrow):
    [point] = ridge_path(narrow, [1e-3], dim=16)
    return point


@pytest.mark.parametrize("lam", [0.2, 1e-2, 1e-5])
def test_one_word_per_context_has_its_optimum_in_closed_form(lam):
    # By symmetry L = s (I - 1/n), of nuclear norm s (n - 1) and CE = ln(1 + (n - 1) e^-s). Its
    # slope by s vanishes where a token off the support has probability 1/(e^s + n - 1) = lam.
    n = 4
    [point] = ridge_path(_one_hot(n), [lam], dim=n, threshold=1e-8)
    scale = np.log(1 / lam - (n - 1))
    assert point.status == "certified"
    assert point.nuclear_norm == pytest.approx(scale * (n - 1), rel=1e-6)
    assert point.excess == pytest.approx(-np.log1p(-(n - 1) * lam), rel=1e-6)
    np.testing.assert_allclose(point.logits, scale * centred_support(np.eye(n, dtype=bool)), 1e-5)


def test_the_largest_ridge_is_where_zero_becomes_the_optimum(narrow):
    # Of n one-hot contexts the slope at 0 is (1/n - I) / n, of spectral norm 1/n.
    assert lambda_max(_one_hot(5)) == pytest.approx(1 / 5)
    largest, zero = lambda_max(narrow), np.zeros((10, 30))
    assert ridge_gap(zero, narrow, 1.001 * largest) == 0
    assert ridge_gap(zero, narrow, 0.999 * largest) == np.inf


@pytest.mark.parametrize("lam", [0.5, 1e-2, 1e-4])
@pytest.mark.parametrize("name", ["narrow", "varied"])
def test_the_gap_is_its_definition(name, lam):
    labels = SETS[name].labels()
    shape = labels.vocab_size, labels.n_contexts
    logits = np.random.default_rng(0).normal(size=shape)
    expected = reference.ridge_gap(logits, labels, lam)
    assert ridge_gap(logits, labels, lam) == pytest.approx(expected, rel=1e-10)


def test_the_gap_bounds_how_far_any_logits_are_from_the_optimum(narrow, at_a_thousandth):
    def objective(logits):
        return cross_entropy(logits, narrow) + 1e-3 * np.linalg.norm(logits, "nuc")

    rng, best = np.random.default_rng(0), at_a_thousandth.logits
    for size in (1e-3, 1e-2, 0.1, 1.0):
        logits = best + size * rng.normal(size=best.shape)
        bound = ridge_gap(logits, narrow, 1e-3) * 1e-3 * np.linalg.norm(logits, "nuc")
        assert 0 < objective(logits) - objective(best) <= bound


def test_an_independent_solver_finds_the_same_optimum():
    rng = np.random.default_rng(1)
    support = rng.random((6, 5)) < 0.4
    support[np.arange(5), np.arange(5)] = True
    labels = SoftLabels.from_counts(np.where(support, rng.integers(1, 5, (6, 5)), 0))
    lam, p = 5e-3, labels.probabilities.toarray()
    logits = cvxpy.Variable((6, 5))
    losses = cvxpy.log_sum_exp(logits, axis=0) - cvxpy.sum(cvxpy.multiply(p, logits), axis=0)
    asked = cvxpy.Minimize(labels.weights @ losses + lam * cvxpy.normNuc(logits))
    least = cvxpy.Problem(asked).solve(solver="CLARABEL")
    [point] = ridge_path(labels, [lam], dim=6, threshold=1e-7)
    assert labels.entropy + point.excess + lam * point.nuclear_norm == pytest.approx(
        least, rel=1e-7
    )
    np.testing.assert_allclose(point.logits, logits.value - logits.value.mean(axis=0), atol=1e-3)


@pytest.fixture(scope="module")
def repeating():
    """Tokens that follow the same contexts as often, or none, and contexts that are alike."""
    few = np.array([[3, 0, 1], [0, 2, 1], [0, 0, 4], [0, 0, 0]])
    tokens, contexts = [0, 1, 3, 0, 2, 3, 1, 3], [0, 1, 0, 2, 1, 0]
    return SoftLabels.from_counts(few[np.ix_(tokens, contexts)])


def test_what_occurs_alike_has_equal_embeddings_and_the_whole_is_certified(repeating):
    problem = UnconstrainedFeatures(repeating, 8)
    assert problem.tokens.counts.tolist() == [2, 2, 3, 1]
    assert problem.contexts.counts.tolist() == [3, 2, 1]
    assert problem.shape == (7, 3)  # as many columns as a matrix of 4 x 3 can have rank
    [point] = ridge_path(repeating, [1e-3], dim=8, threshold=1e-6)
    assert point.status == "certified"
    assert point.classifier.shape == (8, 8)
    np.testing.assert_array_equal(point.classifier, point.classifier[[0, 1, 2, 0, 4, 2, 1, 2]])
    np.testing.assert_array_equal(point.embeddings, point.embeddings[[0, 1, 0, 3, 1, 0]])


def test_the_optimum_of_groups_is_that_of_all_tokens_and_contexts(repeating):
    # The same labels, moved so little that no two rows or columns are equal any more.
    rng, joint = np.random.default_rng(0), repeating.probabilities.toarray() * repeating.weights
    moved = SoftLabels.from_counts(joint * (1 + 1e-10 * rng.random(joint.shape)))
    assert (
        UnconstrainedFeatures(moved, 8).shape[0] == 8 - 3 + 1 + 6
    )  # unused tokens are still equal
    lam = 3e-2
    [once], [each] = (ridge_path(of, [lam], dim=8, threshold=1e-8) for of in (repeating, moved))
    objectives = [point.excess + lam * point.nuclear_norm for point in (once, each)]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-8)
    np.testing.assert_allclose(once.logits, each.logits, atol=1e-3)


@pytest.mark.parametrize("lam", [0.5, 1e-2, 1e-4])
def test_loss_slope_and_gap_of_groups_are_those_of_all_tokens_and_contexts(repeating, lam):
    labels = repeating
    problem, rng = UnconstrainedFeatures(labels, 3), np.random.default_rng(0)
    factors, along = rng.normal(size=(2, 7 * 3))
    each = factors.reshape(7, 3) / np.sqrt([[2], [2], [3], [1], [3], [2], [1]])
    classifier = each[:4][[0, 1, 2, 0, 3, 2, 1, 2]]
    embeddings = each[4:][[0, 1, 0, 2, 1, 0]]
    value, slope = problem(factors, lam)
    expected = reference.objective(classifier, embeddings, labels, lam) - labels.entropy
    assert value * lam == pytest.approx(expected, rel=1e-10)
    change = [problem(factors + h * along, lam)[0] for h in (1e-5, -1e-5)]
    assert slope @ along == pytest.approx((change[0] - change[1]) / 2e-5, rel=1e-6)
    expected = reference.ridge_gap(classifier @ embeddings.T, labels, lam)
    assert problem.gap(factors, lam) == pytest.approx(expected, rel=1e-9)


def test_factors_are_balanced_and_reach_the_objective_of_the_logits(narrow, at_a_thousandth):
    point = at_a_thousandth
    grams = [side.T @ side for side in (point.classifier, point.embeddings)]
    np.testing.assert_allclose(grams[0], grams[1], atol=1e-10)
    assert point.nuclear_norm == pytest.approx(np.trace(grams[0]), rel=1e-12)
    assert reference.objective(point.classifier, point.embeddings, narrow, 1e-3) == pytest.approx(
        narrow.entropy + point.excess + 1e-3 * point.nuclear_norm, rel=1e-12
    )
    assert point.to_dict()["status"] == "certified"
    assert point.relgap == ridge_gap(point.logits, narrow, 1e-3)


def test_tokens_and_contexts_have_no_order(narrow, at_a_thousandth):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(10), rng.permutation(30)
    p = narrow.probabilities.toarray()[rows][:, columns]
    mixed = SoftLabels(SoftLabels.from_counts(p).probabilities, narrow.weights[columns])
    [point] = ridge_path(mixed, [1e-3], dim=16)
    expected = at_a_thousandth.logits[rows][:, columns]
    np.testing.assert_allclose(point.logits, expected, atol=0.05)
    assert point.nuclear_norm == pytest.approx(at_a_thousandth.nuclear_norm, rel=1e-3)


def test_a_seed_repeats_a_path_and_another_one_ends_at_the_same_optimum(narrow):
    first, again, other = (ridge_path(narrow, [1e-2, 1e-3], dim=12, seed=s) for s in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.classifier, b.classifier)
        assert (a.classifier != c.classifier).any()
        assert a.excess == pytest.approx(c.excess, rel=1e-3)


def test_the_slope_is_that_of_the_objective(narrow):
    rng, objective = np.random.default_rng(0), UnconstrainedFeatures(narrow, 3)
    factors, along = rng.normal(size=(2, 40 * 3))
    value, slope = objective(factors, 0.01)
    classifier, embeddings = factors.reshape(40, 3)[:10], factors.reshape(40, 3)[10:]
    expected = reference.objective(classifier, embeddings, narrow, 0.01) - narrow.entropy
    assert value * 0.01 == pytest.approx(expected, rel=1e-10)
    change = [objective(factors + h * along, 0.01)[0] for h in (1e-5, -1e-5)]
    assert slope @ along == pytest.approx((change[0] - change[1]) / 2e-5, rel=1e-7)


def test_a_saddle_of_low_rank_is_told_by_its_gap_and_left(narrow):
    # Stationary among factors of rank 3, and so among all factors, padded by zeros: descent from
    # there moves nowhere. The gap tells, and a path through a ridge where only few directions live
    # does not end there.
    lam, n = 1e-3, 40
    trapped = minimize(
        UnconstrainedFeatures(narrow, 3),
        np.random.default_rng(0).normal(size=n * 3),
        args=(lam,),
        jac=True,
        options={"maxiter": 5000, "gtol": 1e-8},
    ).x.reshape(n, 3)
    padded = np.pad(trapped, ((0, 0), (0, 7)))
    _, slope = UnconstrainedFeatures(narrow, 10)(padded.ravel(), lam)
    assert np.abs(slope).max() < 1e-4
    assert ridge_gap(padded[:10] @ padded[10:].T, narrow, lam) > 0.05
    few, point = ridge_path(narrow, [0.9 * lambda_max(narrow), lam], dim=16)
    assert np.linalg.matrix_rank(few.logits, tol=1e-3 * few.nuclear_norm) <= 3
    assert few.status == point.status == "certified"


def test_what_stays_uncertified_is_said_with_its_gap(narrow):
    words = r"lambda 0.001: uncertified, relative duality gap \d\.\d is above 0.001; dim 3 may be"
    with pytest.warns(UserWarning, match=words + " too small, 9 is enough"):
        [point] = ridge_path(narrow, [1e-3], dim=3)
    assert point.status == "uncertified"
    assert point.relgap > 0.05


def test_ridges_fall_by_decades(narrow):
    assert decades(narrow, 1e-4) == pytest.approx([1e-2, 1e-3, 1e-4])  # lambda_max is 0.05
    assert decades(narrow, 5e-4) == pytest.approx([1e-2, 1e-3, 5e-4])
    points = ridge_path(narrow, [1e-3, 1e-2], dim=12)
    assert [point.lam for point in points] == [1e-2, 1e-3]
    assert decades(narrow)[-1] == 1e-7


@pytest.mark.parametrize("lam", [0.0, -1e-3, np.inf, np.nan])
def test_a_ridge_is_positive(narrow, lam):
    with pytest.raises(ValueError, match=f"lambdas: {lam}, expected a ridge > 0"):
        ridge_path(narrow, [1e-3, lam], dim=4)
    with pytest.raises(ValueError, match=f"lam: {lam}, expected a ridge > 0"):
        ridge_gap(np.zeros((10, 30)), narrow, lam)


def test_a_ridge_whose_optimum_is_zero_is_refused_with_the_largest(narrow):
    largest = lambda_max(narrow)
    with pytest.raises(ValueError, match=f"lambdas: .* below lambda_max = {largest:.6g}, where"):
        ridge_path(narrow, [1e-3, largest], dim=4)
    with pytest.raises(ValueError, match=f"down_to: 0.5 is not below lambda_max = {largest:.6g}"):
        decades(narrow, 0.5)


def test_what_else_is_refused(narrow):
    with pytest.raises(ValueError, match="dim: 0, expected at least 1"):
        ridge_path(narrow, dim=0)
    with pytest.raises(ValueError, match=r"threshold: 0\.0, expected > 0"):
        ridge_path(narrow, dim=4, threshold=0.0)
    with pytest.raises(ValueError, match=r"logits: expected \(V, M\) = \(10, 30\), got \(30, 10\)"):
        ridge_gap(np.zeros((30, 10)), narrow, 1e-3)
    with pytest.raises(ValueError, match="logits: nan for token 0, context 0"):
        ridge_gap(np.full((10, 30), np.nan), narrow, 1e-3)
