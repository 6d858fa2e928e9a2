import numpy as np
import pytest
import scipy.sparse as sp

from reference.closed_forms import closed_form
from reference.supports import blocks, cyclic_pairs, fano, one_hot, random_support, subsets
from tightframe.ntp.prediction import predict, proxy
from tightframe.ntp.proxies import proxy_report, proxy_triplets
from tightframe.ntp.soft_labels import centred_support
from tightframe.ntp.svm import solve_svm

EXACT = [
    (one_hot([3] * 5), closed_form("one-hot", tokens=5, contexts=3)),
    (one_hot([10] * 5 + [1] * 5), closed_form("two levels", classes=10, ratio=10)),
    (subsets(5, [2]), closed_form("subsets", tokens=5, sizes=[2])),
    (subsets(6, [1, 3]), closed_form("subsets", tokens=6, sizes=[1, 3])),
    (fano(), closed_form("design", points=7, replication=3, concurrence=1)),
    (blocks([2, 2, 2], [3, 3, 3]), closed_form("blocks", tokens=[2] * 3, contexts=[3] * 3)),
    (blocks([1, 4, 2], [5, 1, 3]), closed_form("blocks", tokens=[1, 4, 2], contexts=[5, 1, 3])),
]


def reported(support):
    """The norm, and the largest off-support polar entry, with nothing merged."""
    left, values, right = np.linalg.svd(centred_support(support), full_matrices=False)
    kept = values > 1e-6 * values[0]
    return values.sum(), (left[:, kept] @ right[kept])[~support].max()


@pytest.mark.parametrize(("support", "form"), EXACT)
def test_supports_with_a_closed_form_are_exact(support, form):
    report = proxy_report(support)
    assert report.verdict == "exact"
    assert report.upper == pytest.approx(form.nuclear_norm, rel=1e-12)
    assert report.bound == report.upper
    predicted = proxy(support)
    assert predicted.kind == "exact"
    assert predicted.gap == 0
    assert predicted.logits == pytest.approx(centred_support(support), abs=1e-12)


@pytest.mark.parametrize("tokens", range(3, 14))
def test_the_verdict_on_cyclic_pairs_is_that_of_an_unmerged_decomposition(tokens):
    # All rows and columns differ, so nothing is merged. The matrix is circulant: singular values
    # 2 |cos(pi f / V)|, f = 1 .. V - 1, none 0 for odd V and one for even V.
    report, support = proxy_report(cyclic_pairs(tokens)), cyclic_pairs(tokens)
    expected = 2 * np.abs(np.cos(np.pi * np.arange(1, tokens) / tokens)).sum()
    upper, entry = reported(support)
    assert report.upper == pytest.approx(expected, rel=1e-12)
    assert upper == pytest.approx(expected, rel=1e-12)
    assert report.off_support == pytest.approx(entry, abs=1e-12)
    assert report.rank == tokens - 1 - (tokens % 2 == 0)
    assert report.bound <= report.upper
    if entry <= 1e-9:
        assert report.verdict == "exact"
    else:
        assert report.verdict == ("not exact" if tokens % 2 else "undecided")


@pytest.mark.parametrize(("support", "form"), EXACT)
def test_the_solver_meets_the_closed_form(support, form):
    solution = solve_svm(support, gap=1e-9)
    assert solution.gap <= 1e-9
    assert solution.upper == pytest.approx(form.nuclear_norm, rel=1e-8)
    predicted = predict(solution)
    assert predicted.logits == pytest.approx(centred_support(support), abs=1e-10)
    words, expected = predicted.classifier_cosines, proxy(support).classifier_cosines
    assert words == pytest.approx(expected, abs=1e-10)
    assert predicted.embedding_cosines == pytest.approx(proxy(support).embedding_cosines, abs=1e-10)


@pytest.mark.parametrize("tokens", range(5, 14))
def test_on_cyclic_pairs_the_verdict_agrees_with_the_solver(tokens):
    # At 12 the rank leaves the test undecided; the solver decides.
    report, solution = proxy_report(cyclic_pairs(tokens)), solve_svm(cyclic_pairs(tokens), 1e-6)
    assert solution.status == "optimal"
    assert report.bound <= solution.upper * (1 + 1e-12)
    excess = (report.upper - solution.upper) / report.upper
    if report.verdict == "exact":
        assert abs(excess) <= 1e-9
    elif report.verdict == "not exact":
        assert excess > solution.gap
    else:
        assert tokens == 12


def test_a_full_rank_of_contexts_decides_too():
    # 30 tokens, 16 contexts of rank 16: no other dual matrix has U^T Y = 0 and Y V = 0.
    support = random_support(30, 16, (3, 3), seed=0)
    with pytest.warns(UserWarning, match=r"7 tokens follow no context \(the first is 4\)"):
        report = proxy_report(support)
    with pytest.warns(UserWarning, match="follow no context"):
        solution = solve_svm(support, 1e-6)
    assert report.rank == report.distinct_contexts == 16
    assert report.verdict == "not exact"
    assert report.upper - solution.upper > 1e-3 * report.upper


@pytest.mark.parametrize("seed", range(4))
def test_bounds_enclose_the_optimum_and_merging_changes_no_verdict(seed):
    support = random_support(9, 14, (2, 4), seed)
    support[support.sum(axis=1) == 0, 0] = True
    report = proxy_report(support)
    again = proxy_report(np.repeat(np.repeat(support, 2, axis=0), 3, axis=1))
    assert report.bound < report.upper
    # Twofold tokens and threefold contexts multiply every norm by sqrt(6).
    assert again.upper == pytest.approx(report.upper * np.sqrt(6), rel=1e-12)
    assert again.bound == pytest.approx(report.bound * np.sqrt(6), rel=1e-12)
    assert again.off_support == pytest.approx(report.off_support, abs=1e-12)
    assert again.verdict == report.verdict == "not exact"
    assert (again.tokens, again.contexts) == (18, 42)
    assert (again.distinct_tokens, again.distinct_contexts) == (
        report.distinct_tokens,
        report.distinct_contexts,
    )


def test_the_bound_is_the_value_of_a_dual_matrix():
    # In plain steps: signs, column sums, spectral norm; then <S, Z>.
    support = random_support(7, 9, (2, 3), seed=5)
    support[support.sum(axis=1) == 0, 0] = True
    left, values, right = np.linalg.svd(centred_support(support), full_matrices=False)
    kept = values > 1e-6 * values[0]
    dual = left[:, kept] @ right[kept]
    dual[~support & (dual > 0)] = 0
    for j in range(9):
        dual[support[:, j], j] -= dual[:, j].sum() / support[:, j].sum()
    dual /= np.linalg.norm(dual, 2)
    assert proxy_report(support).bound == pytest.approx(dual[support].sum(), rel=1e-10)


def test_a_slice_in_sparse_form_equals_a_dense_reference():
    support = random_support(500, 2000, (2, 14), seed=0)
    left, values, right = np.linalg.svd(centred_support(support), full_matrices=False)
    triplets = proxy_triplets(sp.csc_array(support), 12)
    assert triplets.singular_values == pytest.approx(values[:12], rel=1e-6)
    product = (triplets.left * triplets.singular_values) @ triplets.right.T
    expected = (left[:, :12] * values[:12]) @ right[:12]
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)
    assert triplets.residuals.max() <= 1e-6
    largest = np.abs(triplets.left).argmax(axis=0)
    assert (triplets.left[largest, np.arange(12)] > 0).all()
    again = proxy_triplets(support, 12)
    assert (again.left == triplets.left).all()


def test_many_and_few_triplets_agree():
    # 12 of 16 is by a dense decomposition, 6 by iteration.
    support = random_support(16, 40, (2, 5), seed=1)
    few, many = proxy(support, 6), proxy(support, 12)
    assert few.classifier == pytest.approx(many.classifier[:, :6], abs=1e-8)
    assert few.embeddings == pytest.approx(many.embeddings[:, :6], abs=1e-8)
    assert few.kind == many.kind == "proxy"


def test_a_context_that_all_tokens_follow_is_warned_of_and_changes_nothing():
    support = cyclic_pairs(7)
    full = np.hstack([support, np.ones((7, 1), dtype=bool)])
    plain = proxy_report(support)
    with pytest.warns(UserWarning, match=r"all tokens follow 1 contexts \(the first is 7\)"):
        report = proxy_report(full)
    assert report.verdict == plain.verdict == "not exact"
    assert report.upper == pytest.approx(plain.upper, rel=1e-12)
    assert report.bound == pytest.approx(plain.bound, rel=1e-12)


def test_a_tall_support_with_a_full_context_is_decided_by_its_other_contexts():
    support = random_support(30, 16, (3, 3), seed=0)[:, :6]
    with pytest.warns(UserWarning, match="follow no context"):
        plain = proxy_report(support)
    support = np.hstack([support, np.ones((30, 1), dtype=bool)])
    with pytest.warns(UserWarning, match="constrain nothing"):
        report = proxy_report(support)
    assert (report.verdict, report.rank) == (plain.verdict, plain.rank)
    assert report.verdict != "undecided"


def test_what_is_too_large_is_not_tested_and_said():
    support = random_support(20, 40, (2, 4), seed=0)
    report = proxy_report(support, memory=20 * 40 * 8)
    assert report.verdict == "undecided"
    assert report.reason.startswith("not tested: ")
    assert np.isnan([report.upper, report.bound, report.off_support]).all()
    with pytest.raises(ValueError, match=r"support: .* bytes, memory allows 6,400; ask for a rank"):
        proxy(support, memory=20 * 40 * 8)
    assert proxy(support, 3, memory=20 * 40 * 8).rank == 3


@pytest.mark.parametrize("function", [proxy, proxy_report, proxy_triplets])
def test_what_is_no_support_matrix_is_refused(function):
    with pytest.raises(ValueError, match="support: all tokens follow every context"):
        function(np.ones((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="support: no token follows context 1"):
        function(np.array([[True, False], [True, False]]))


@pytest.mark.parametrize("rank", [0, 8])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank: {rank}, expected 1 to 7"):
        proxy(cyclic_pairs(7), rank)
