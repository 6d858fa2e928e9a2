import numpy as np
import pytest
import scipy.sparse as sp

from tightframe.ntp.soft_labels import (
    SoftLabels,
    centred_support,
    cross_entropy,
    excess,
    finite_component,
    gradient,
    project_in_support,
    project_off_support,
)
from tightframe.ntp.table import ContextTable

# Three contexts over four tokens; the second is sure of its token.
COUNTS = np.array([[3, 0, 1], [1, 0, 1], [0, 2, 2], [0, 0, 0]])


@pytest.fixture
def labels():
    return SoftLabels.from_counts(COUNTS)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(4, 3))


def naive_cross_entropy(logits, labels):
    p, total = labels.probabilities.toarray(), 0.0
    for j in range(p.shape[1]):
        q = np.exp(logits[:, j]) / np.exp(logits[:, j]).sum()
        total -= labels.weights[j] * sum(p[z, j] * np.log(q[z]) for z in np.flatnonzero(p[:, j]))
    return total


def test_shares_and_weights_are_those_of_the_counts(labels):
    # 4, 2 and 4 of 10 pairs; 3/4 and 1/4, 1, then 1/4, 1/4 and 1/2.
    assert labels.weights == pytest.approx([0.4, 0.2, 0.4], abs=1e-15)
    assert labels.probabilities.toarray()[:, 0] == pytest.approx([0.75, 0.25, 0, 0], abs=1e-15)
    assert labels.support_sizes.tolist() == [2, 1, 3]
    assert labels.density == 6 / 12


def test_the_entropy_is_the_weighted_one_of_the_columns(labels):
    first = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert labels.entropies == pytest.approx([first, 0, 1.5 * np.log(2)], abs=1e-15)
    assert labels.entropy == pytest.approx(0.4 * first + 0.6 * np.log(2), abs=1e-15)


def test_the_cross_entropy_is_that_of_plain_loops(labels, logits):
    assert cross_entropy(logits, labels) == pytest.approx(
        naive_cross_entropy(logits, labels), rel=1e-13
    )


def test_a_tiny_excess_keeps_its_digits(labels):
    # In the support the logits are log P; off it, r below the in-support mass: each column's
    # divergence is log(1 + n_off * exp(-r)).
    p = labels.probabilities.toarray()
    logits = np.where(p > 0, np.log(np.where(p > 0, p, 1)), -30.0)
    n_off = 4 - labels.support_sizes
    expected = labels.weights @ np.log1p(n_off * np.exp(-30.0))
    assert excess(logits, labels) == pytest.approx(expected, rel=1e-10)


def test_the_gradient_is_the_slope_of_the_cross_entropy(labels, logits):
    slope, step = gradient(logits, labels), 1e-6
    assert np.abs(slope.sum(axis=0)).max() < 1e-15
    for token, context in np.ndindex(logits.shape):
        ahead = logits.copy()
        ahead[token, context] += step
        behind = logits.copy()
        behind[token, context] -= step
        secant = (cross_entropy(ahead, labels) - cross_entropy(behind, labels)) / (2 * step)
        assert slope[token, context] == pytest.approx(secant, abs=1e-9)


def test_the_finite_component_has_the_differences_of_log_probabilities(labels):
    within = finite_component(labels).toarray()
    assert within[0, 0] - within[1, 0] == pytest.approx(np.log(3), abs=1e-15)
    assert within[2, 1] == 0  # one token alone
    assert np.abs(within.sum(axis=0)).max() < 1e-15
    assert (within[~labels.matrix] == 0).all()


def test_uniform_labels_have_no_finite_component():
    assert not finite_component(SoftLabels.from_counts(np.array([[2, 1], [2, 1]]))).toarray().any()


def test_projections_are_idempotent_orthogonal_and_complete(labels, logits):
    within = project_in_support(logits, labels.matrix)
    rest = project_off_support(logits, labels.matrix)
    assert within + rest == pytest.approx(logits, abs=1e-15)
    assert (within * rest).sum() == pytest.approx(0, abs=1e-14)
    assert project_in_support(within, labels.matrix) == pytest.approx(within, abs=1e-15)
    compatible = finite_component(labels).toarray()
    assert project_in_support(compatible, labels.matrix) == pytest.approx(compatible, abs=1e-15)


def test_the_centred_support_has_margin_one_and_columns_that_sum_to_zero(labels):
    proxy = centred_support(labels.matrix)
    assert proxy[:, 0] == pytest.approx([0.5, 0.5, -0.5, -0.5], abs=1e-15)
    assert np.abs(proxy.sum(axis=0)).max() < 1e-15


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, sp.coo_array])
def test_counts_may_be_dense_or_sparse(kind, labels):
    other = SoftLabels.from_counts(kind(COUNTS))
    assert (other.probabilities != labels.probabilities).nnz == 0


def bad(counts, place, value):
    counts = counts.astype(float)
    counts[place] = value
    return counts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SoftLabels.from_counts(np.array([[1, 0], [2, 0]])), "follows context 1"),
        (lambda: SoftLabels.from_counts(bad(COUNTS, (1, 2), -1)), "-1.0 for token 1 after"),
        (lambda: SoftLabels.from_counts(bad(COUNTS, (1, 2), np.nan)), "nan for token 1 after"),
        (lambda: SoftLabels.from_counts(bad(COUNTS, (1, 2), np.inf)), "inf for token 1 after"),
        (
            lambda: SoftLabels(sp.csc_array(np.array([[0.5, 1.0], [0.4, 0.0]])), np.full(2, 0.5)),
            "column 0 sums to 0.9",
        ),
        (lambda: SoftLabels(sp.csc_array(np.eye(2)), np.array([1.0, 0.0])), "0.0 for context 1"),
        (lambda: SoftLabels(sp.csc_array(np.eye(2)), np.array([0.5, 0.6])), "sum to 1.1"),
        (lambda: SoftLabels(sp.csc_array(np.eye(2)), np.full(3, 1 / 3)), r"expected 2.*got \(3,\)"),
        (
            lambda: cross_entropy(np.zeros((3, 4)), SoftLabels.from_counts(COUNTS)),
            r"expected \(V, M\) = \(4, 3\), got \(3, 4\)",
        ),
        (
            lambda: gradient(np.full((4, 3), np.inf), SoftLabels.from_counts(COUNTS)),
            "inf for token 0, context 0",
        ),
        (
            lambda: ContextTable(
                np.zeros((2, 1), np.int32), sp.csr_array(COUNTS.T), np.arange(4, dtype=np.int64)
            ),
            "3 rows, expected one per context, 2",
        ),
    ],
)
def test_what_is_no_table_of_soft_labels_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_context_table_gives_soft_labels_and_support():
    table = ContextTable(
        np.arange(3, dtype=np.int32)[:, None],
        sp.csr_array(COUNTS.T),
        np.arange(4, dtype=np.int64),
        ("a", "b", "c", "d"),
    )
    assert table.n_pairs == 10
    assert (table.support == (COUNTS > 0)).all()
    assert table.empirical_entropy == SoftLabels.from_counts(COUNTS).entropy
