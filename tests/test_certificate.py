import math

import numpy as np
import pytest

from tightframe.ntp import certify, solve_svm
from tightframe.ntp.soft_labels import centred_support

SUPPORT = np.random.default_rng(0).random((10, 25)) < 0.2
SUPPORT[0] |= ~SUPPORT.any(axis=0)
SUPPORT[:, :10] |= np.eye(10, dtype=bool)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_one_word_per_context_is_a_simplex_etf(n):
    # Each context has its own single next word: the optimum is the centred identity, norm n - 1,
    # and it is its own polar factor.
    centred = np.eye(n) - 1 / n
    bounds = certify(centred, np.eye(n, dtype=bool), centred)
    assert bounds.lower == pytest.approx(n - 1)
    assert bounds.upper == pytest.approx(n - 1)
    assert bounds.gap == pytest.approx(0, abs=1e-12)
    assert math.isnan(bounds.bound)


def test_without_a_dual_matrix_it_is_a_bound_and_no_gap():
    bounds = certify(centred_support(SUPPORT), SUPPORT)
    optimum = solve_svm(SUPPORT, 1e-9)
    assert math.isnan(bounds.gap)
    assert 0 < bounds.lower <= optimum.upper <= bounds.upper
    assert bounds.bound == pytest.approx((bounds.upper - bounds.lower) / bounds.upper)
    assert bounds.bound > optimum.gap


@pytest.mark.parametrize("seed", range(5))
def test_any_dual_matrix_gives_a_lower_bound_and_any_logits_an_upper_one(seed):
    generator = np.random.default_rng(seed)
    optimum = solve_svm(SUPPORT, 1e-9)
    noise = generator.standard_normal(SUPPORT.shape)
    for size in (1e-3, 0.1, 3):
        bounds = certify(optimum.logits + size * noise, SUPPORT, optimum.dual + size * noise)
        assert bounds.lower <= optimum.upper * (1 + 1e-12)
        assert bounds.upper >= optimum.lower * (1 - 1e-12)
        assert bounds.violation > 0.1 * size


def test_the_violation_is_the_largest_of_any_constraint():
    support = np.eye(3, dtype=bool)
    support[1, 0] = True
    logits = centred_support(support)
    assert certify(logits, support).violation == pytest.approx(0, abs=1e-15)
    unequal = logits.copy()
    unequal[1, 0] += 0.25  # of tokens 0 and 1, both in the support of context 0
    assert certify(unequal, support).violation == pytest.approx(0.25)
    close = logits.copy()
    close[2, 1] += 0.125  # 0.875 below token 1
    assert certify(close, support).violation == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("logits", np.zeros((3, 2)), r"logits: expected \(V, M\) = \(3, 3\), got \(3, 2\)"),
        ("dual", np.zeros((2, 3)), r"dual: expected \(V, M\) = \(3, 3\), got \(2, 3\)"),
        ("logits", np.diag([0, np.nan, 0]), "logits: nan for token 1, context 1"),
        ("support", np.eye(3, dtype=bool) & [True, False, True], "support: no token follows con"),
    ],
)
def test_bad_input_is_named(argument, value, message):
    support = np.eye(3, dtype=bool)
    given = {"logits": centred_support(support), "support": support, "dual": None} | {
        argument: value
    }
    with pytest.raises(ValueError, match=message):
        certify(**given)
