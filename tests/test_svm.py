import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from reference.svm import solve_with_cvxpy
from tightframe.errors import UserError
from tightframe.ntp import certify, solve_svm
from tightframe.ntp.soft_labels import centred_support
from tightframe.ntp.svm import LARGE, needed_memory

TIGHT = 1e-9


def random_support(tokens, contexts, sizes=(2, 6), seed=0):
    """Each context is followed by so many tokens, at random; every token follows some context."""
    generator = np.random.default_rng(seed)
    support = np.zeros((tokens, contexts), dtype=bool)
    for context in range(contexts):
        size = generator.integers(sizes[0], sizes[1] + 1)
        support[generator.choice(tokens, size, replace=False), context] = True
    for token in np.flatnonzero(~support.any(axis=1)):
        support[token, token % contexts] = True
    return support


def subsets(tokens, *sizes):
    """A context for every set of so many tokens."""
    sets = [s for size in sizes for s in itertools.combinations(range(tokens), size)]
    support = np.zeros((tokens, len(sets)), dtype=bool)
    for context, members in enumerate(sets):
        support[list(members), context] = True
    return support


def blocks(*shapes):
    """Disjoint blocks of (tokens, contexts)."""
    tokens, contexts = np.sum(shapes, axis=0)
    support = np.zeros((tokens, contexts), dtype=bool)
    row = column = 0
    for t, c in shapes:
        support[row : row + t, column : column + c] = True
        row, column = row + t, column + c
    return support


def fano():
    """The projective plane of order 2: 7 points, 7 lines of 3; 3 lines a point, 1 a pair."""
    return np.array([[(token - line) % 7 in (0, 1, 3) for line in range(7)] for token in range(7)])


def seli(classes, many):
    """One token a context; the first half of the tokens follow `many` contexts each, the rest 1."""
    counts = [many] * (classes // 2) + [1] * (classes // 2)
    return np.repeat(np.eye(classes, dtype=bool), counts, axis=1)


def nuclear(matrix):
    return np.linalg.svd(matrix, compute_uv=False).sum()


@pytest.mark.parametrize(
    ("support", "norm"),
    [
        # (V - 1) sqrt(c): c = 3 contexts a token.
        pytest.param(np.repeat(np.eye(7, dtype=bool), 3, axis=1), 6 * math.sqrt(3), id="one-hot"),
        # The worked example: V = 5, k = 2, norm 4 sqrt(3).
        pytest.param(subsets(5, 2), 4 * math.sqrt(3), id="pairs"),
        pytest.param(subsets(6, 3), 5 * math.sqrt(math.comb(4, 2)), id="triples"),
        # The sum of C(V-2, k-1) over both sizes: 1 + 4 for V = 6, k = 1, 2.
        pytest.param(subsets(6, 1, 2), 5 * math.sqrt(1 + 4), id="one or two"),
        # (v - 1) sqrt(r - lam) = 6 sqrt(3 - 1).
        pytest.param(fano(), 6 * math.sqrt(2), id="2-design"),
        # (B - 1) sqrt(t c) = 2 sqrt(2 * 4).
        pytest.param(blocks((2, 4), (2, 4), (2, 4)), 2 * math.sqrt(8), id="equal blocks"),
        # K = 10, R = 10: (K/2 - 1)(sqrt R + 1) + sqrt((R + 1)/2) = 18.994319.
        pytest.param(seli(10, 10), 4 * (math.sqrt(10) + 1) + math.sqrt(5.5), id="imbalanced"),
    ],
)
def test_the_optimum_has_its_closed_form_and_is_the_centred_support(support, norm):
    solution = solve_svm(support, TIGHT)
    assert solution.upper == pytest.approx(norm, rel=1e-8)
    assert solution.status == "optimal"
    assert solution.gap <= TIGHT
    np.testing.assert_allclose(solution.logits, centred_support(support), atol=1e-10)


def test_balanced_one_hot_labels_give_the_centred_identity_to_the_last_digits():
    support = np.repeat(np.eye(9, dtype=bool), 2, axis=1)
    solution = solve_svm(support, TIGHT)
    np.testing.assert_allclose(solution.logits, centred_support(support), atol=1e-12)
    assert solution.rank == 8
    assert solution.iterations == 0


def test_unequal_blocks_have_the_norm_of_a_matrix_with_an_entry_a_pair_of_blocks():
    shapes = [(1, 2), (3, 1), (2, 5)]
    t, c = np.array(shapes).T
    entries = np.sqrt(np.outer(t, c)) * (np.eye(3) - t[None, :] / t.sum())
    assert solve_svm(blocks(*shapes), TIGHT).upper == pytest.approx(nuclear(entries), rel=1e-8)


ORACLE = {
    "random": random_support(10, 14, (2, 4)),
    "symmetric": np.array([[(t - c) % 8 < 2 for c in range(8)] for t in range(8)]),
    "repeated": random_support(8, 6, (1, 3), seed=1)[:, [0, 1, 2, 3, 4, 5, 0, 0, 1, 3, 3, 3]],
    # Fewer contexts than tokens, one of them with all but one token; nested supports.
    "degenerate": np.tril(np.ones((9, 6), dtype=bool), -1)[:, ::-1],
    "one context": random_support(6, 1),
}


@pytest.mark.parametrize("name", ORACLE)
def test_an_interior_point_solver_finds_the_same_optimum(name):
    support = ORACLE[name]
    exact = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    optimum, logits = solve_with_cvxpy(support, **exact)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some of these are dense
        solution = solve_svm(support, 1e-8)
    assert solution.upper == pytest.approx(optimum, rel=1e-6)
    assert solution.lower <= optimum * (1 + 1e-8)
    assert solution.upper >= optimum * (1 - 1e-8)
    assert solution.violation <= 1e-12
    if name == "random":
        np.testing.assert_allclose(solution.logits, logits, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "contexts"), [(10, 20), (20, 50), (40, 100)])
def test_a_first_order_conic_solver_finds_the_same_optimum_of_larger_problems(tokens, contexts):
    support = random_support(tokens, contexts)
    optimum, _ = solve_with_cvxpy(support, "SCS", eps=1e-8, max_iters=100_000)
    solution = solve_svm(support, 1e-7)
    assert solution.upper == pytest.approx(optimum, rel=1e-6)
    assert solution.lower <= optimum * (1 + 1e-6)
    assert solution.violation <= 1e-12


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("tokens", "contexts"), [(20, 50), (30, 16)])
def test_the_certificate_holds_when_it_is_recomputed(tokens, contexts, dtype):
    support = random_support(tokens, contexts)
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    solution = solve_svm(support, 1e-5, dtype=dtype)
    logits, dual = solution.logits, solution.dual
    # Primal: one level a support, 1 below it elsewhere.
    level = np.where(support, logits, np.inf).min(axis=0)
    assert np.abs(np.where(support, logits - level, 0)).max() <= 1e-12
    assert np.where(support, -np.inf, logits - level + 1).max() <= 1e-12
    # Dual: signs, column sums, spectral norm.
    assert np.where(support, 0, dual).max() <= 0
    assert np.abs(dual.sum(axis=0)).max() <= 1e-12
    assert np.linalg.norm(dual, 2) <= 1 + 1e-12
    # Both values, and with them that nothing between is left: the product is at most the norm.
    assert solution.upper == pytest.approx(nuclear(logits), rel=1e-12)
    assert solution.lower == pytest.approx(dual.sum(where=support), rel=1e-12)
    assert (solution.upper - solution.lower) / solution.upper <= 1e-5
    # Complementary slackness, of the columns where the dual matrix presses.
    slack = (level - 1 - logits)[~support]
    assert (-dual[~support] * slack).sum() <= 2e-5 * solution.upper
    assert np.abs(logits.sum(axis=0)).max() <= tolerance


@pytest.mark.parametrize("tokens", range(4, 12))
def test_of_cyclic_pairs_the_norm_is_below_the_proxy_wherever_that_is_not_optimal(tokens):
    # An independent verdict: S~ is optimal iff its polar factor has no positive entry off the
    # supports, where S~ has rank V - 1 (odd V); a rank below leaves even V undecided.
    support = np.array([[(t - c) % tokens < 2 for c in range(tokens)] for t in range(tokens)])
    proxy = centred_support(support)
    left, values, right = np.linalg.svd(proxy)
    rank = int((values > 1e-9).sum())
    exact = (left[:, :rank] @ right[:rank])[~support].max() <= 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        solution = solve_svm(support, 1e-8)
    assert solution.status == "optimal"
    if exact:
        assert solution.upper == pytest.approx(values.sum(), rel=1e-8)
    elif rank == tokens - 1:
        assert values.sum() - solution.upper > 10 * solution.gap * solution.upper


def test_permuted_tokens_and_contexts_permute_the_logits():
    support = random_support(12, 30)
    generator = np.random.default_rng(3)
    rows, columns = generator.permutation(12), generator.permutation(30)
    logits = solve_svm(support, 1e-10).logits
    permuted = solve_svm(support[np.ix_(rows, columns)], 1e-10).logits
    np.testing.assert_allclose(permuted, logits[np.ix_(rows, columns)], atol=1e-5)


def test_contexts_repeated_c_times_multiply_the_norm_by_the_root_of_c():
    support = random_support(12, 20)
    once, four = solve_svm(support, 1e-8), solve_svm(np.repeat(support, 4, axis=1), 1e-8)
    assert four.upper == pytest.approx(2 * once.upper, rel=1e-8)
    assert four.logits.shape == (12, 80)


def test_weights_are_repetitions():
    support, weights = random_support(10, 8), np.array([1, 3, 2, 1, 1, 5, 1, 2])
    repeated = solve_svm(np.repeat(support, weights, axis=1), TIGHT)
    weighted = solve_svm(support, TIGHT, weights=weights)
    assert weighted.upper == pytest.approx(repeated.upper, rel=1e-8)
    assert weighted.logits.shape == (10, 8)
    left, values, right = weighted.factors()
    np.testing.assert_allclose((left * values) @ right.T, weighted.logits, atol=1e-5)
    np.testing.assert_allclose(right.T @ (weights[:, None] * right), np.eye(len(values)), atol=1e-9)


def test_equal_rows_and_columns_may_be_solved_once_or_apart():
    # Token 8 to 10 have the rows of token 0 to 2, token 11 follows nothing, nor does 12.
    few = random_support(8, 9, (1, 3), seed=2)
    support = np.vstack([few, few[:3], np.zeros((2, 9), dtype=bool)])[:, [*range(9), 0, 0, 4]]
    with pytest.warns(UserWarning, match="2 of 13 tokens follow no context"):
        once = solve_svm(support, TIGHT)
    with pytest.warns(UserWarning, match="2 of 13 tokens follow no context"):
        apart = solve_svm(support, TIGHT, merge=False)
    assert once.groups.support.shape == (9, 9)
    assert apart.groups.support.shape == (13, 12)
    assert once.upper == pytest.approx(apart.upper, rel=1e-8)
    assert certify(once.logits, support, once.dual).gap <= 2e-9


def test_a_context_that_all_tokens_follow_constrains_nothing():
    support = np.hstack([np.eye(4, dtype=bool), np.ones((4, 1), dtype=bool)])
    with pytest.warns(UserWarning, match="all tokens follow 1 contexts, the first 4; their logits"):
        solution = solve_svm(support, TIGHT)
    assert solution.upper == pytest.approx(3, rel=1e-12)  # the four others: V - 1
    assert (solution.logits[:, 4] == 0).all()


def test_a_support_without_any_constraint_has_norm_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        solution = solve_svm(np.ones((3, 2), dtype=bool))
    assert (solution.upper, solution.lower, solution.gap) == (0, 0, 0)
    assert (solution.status, solution.rank) == ("optimal", 0)


def test_factors_multiply_to_the_logits_and_have_orthonormal_columns():
    solution = solve_svm(random_support(12, 30), TIGHT)
    left, values, right = solution.factors()
    assert left.shape == (12, solution.rank)
    assert right.shape == (30, solution.rank)
    np.testing.assert_allclose((left * values) @ right.T, solution.logits, atol=1e-10)
    np.testing.assert_allclose(left.T @ left, np.eye(len(values)), atol=1e-12)
    np.testing.assert_allclose(right.T @ right, np.eye(len(values)), atol=1e-12)
    assert (np.diff(values) <= 0).all()
    assert (left[np.abs(left).argmax(axis=0), range(len(values))] > 0).all()
    np.testing.assert_allclose(values, solution.singular_values[: len(values)], rtol=1e-10)


def test_too_few_steps_are_never_called_optimal():
    solution = solve_svm(random_support(20, 50), 1e-8, max_iter=3)
    assert (solution.status, solution.iterations) == ("max_iter", 3)
    assert solution.gap > 1e-8
    assert solution.violation <= 1e-12


def test_float32_meets_the_same_optimum_within_its_gap():
    support = random_support(30, 80)
    exact, single = solve_svm(support, 1e-8), solve_svm(support, 1e-5, dtype="float32")
    assert single.status == "optimal"
    assert single.dtype == "float32"
    assert single.upper == pytest.approx(exact.upper, rel=1e-6)
    assert single.lower <= exact.upper


def test_large_problems_begin_in_float32_and_end_where_float64_does(monkeypatch):
    support = random_support(20, 50)
    alone = solve_svm(support, 1e-9)
    monkeypatch.setattr("tightframe.ntp.svm.LARGE", 1)
    both = solve_svm(support, 1e-9)
    assert both.upper == pytest.approx(alone.upper, rel=1e-9)
    assert both.status == "optimal"


def test_the_same_support_gives_the_same_bits():
    support = random_support(15, 25)
    np.testing.assert_array_equal(solve_svm(support).logits, solve_svm(support).logits)


def test_blocks_are_memory_only(monkeypatch):
    support = random_support(20, 50)
    whole = solve_svm(support, 1e-8)
    monkeypatch.setattr("tightframe.ntp.admm.BLOCK", 100)
    monkeypatch.setattr("tightframe.ntp.certificate.TILE", 60)
    assert solve_svm(support, 1e-8).upper == pytest.approx(whole.upper, rel=1e-10)


ONE = np.eye(3, dtype=bool)


@pytest.mark.parametrize(
    ("support", "options", "message"),
    [
        (ONE[:, :2] & ONE[:, 1:], {}, "support: no token follows context 0"),
        (2 * np.eye(3), {}, "support: 2.0 for token 0, context 0; expected booleans, or 0 and 1"),
        (np.full((2, 2), np.nan), {}, "support: nan for token 0, context 0"),
        (np.ones((3, 0)), {}, r"support: \(3, 0\) tokens and contexts, expected at least one each"),
        (
            ONE[:, :2],
            {"vocab_size": 2},
            "support: 3 rows, expected one per token, 2; it is transposed",
        ),
        (ONE, {"vocab_size": 5}, "support: 3 rows, expected one per token, 5$"),
        (ONE, {"gap": 0.0}, "gap: 0.0, expected 1e-10 or more in float64, below 1"),
        (ONE, {"gap": 1e-11}, "gap: 1e-11, expected 1e-10"),
        (ONE, {"gap": 1e-6, "dtype": "float32"}, "gap: 1e-06, expected 1e-05 or more in flo"),
        (ONE, {"max_iter": -1}, "max_iter: -1, expected at least 0"),
        (ONE, {"weights": np.ones(2)}, r"weights: expected 3, one per context, got \(2,\)"),
        (ONE, {"weights": np.array([1, 0, 1])}, "weights: 0.0 for context 1; expected > 0"),
    ],
)
def test_bad_input_is_named(support, options, message):
    with pytest.raises((ValueError, UserError), match=message):
        solve_svm(support, **options)


def test_a_problem_too_large_for_the_memory_is_refused_with_its_estimate():
    support = np.repeat(random_support(20, 50), 10, axis=1)
    needed = needed_memory(20, 50)  # of distinct contexts, not of the 500
    message = f"20 distinct tokens x 50 distinct contexts need {needed:,} bytes, 1,000 are free"
    with pytest.raises(MemoryError, match=message):
        solve_svm(support, memory=1000)
    assert solve_svm(support, memory=needed).status == "optimal"


MEASURE = """
import sys, warnings
from pathlib import Path
import numpy as np
from tightframe.ntp import solve_svm
from tightframe.ntp.svm import needed_memory

warnings.simplefilter("ignore")
tokens, contexts, gap = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
generator, shares = np.random.default_rng(0), 1 / np.arange(1, tokens + 1)
drawn = [generator.choice(tokens, 6, replace=False, p=shares / shares.sum())
         for _ in range(contexts)]
support = np.zeros((tokens, contexts), dtype=bool)
support[np.array(drawn).T, np.arange(contexts)] = True
solve_svm(np.eye(9, dtype=bool))  # what the libraries take once

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) * 1024

before = peak()
solution = solve_svm(support, gap)
print(needed_memory(*solution.groups.support.shape), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux")
@pytest.mark.parametrize(("tokens", "contexts", "gap"), [(400, 6000, 1e-3), (150, 1500, 1e-5)])
def test_the_memory_that_is_asked_for_is_enough_and_not_much_more(tokens, contexts, gap):
    arguments = [str(tokens), str(contexts), str(gap)]
    command = [sys.executable, "-c", MEASURE, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    needed, taken = map(int, done.stdout.split())
    assert taken <= needed
    entries = tokens * contexts
    assert taken >= (0.5 if entries >= LARGE else 0.2) * needed
    assert needed <= (6 * 8 if entries >= LARGE else 10 * 8) * entries + 64 * tokens**2 + 2**26


def test_supports_of_more_than_half_the_tokens_are_pointed_out():
    support = ~np.eye(5, dtype=bool)
    with pytest.warns(UserWarning, match="support: 80% of it is set"):
        solve_svm(support)
