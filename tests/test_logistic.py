import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from studies.recall_geometry.logistic import fit_logistic


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_each_fit_is_that_of_scikit_learn(scale):
    rng = np.random.default_rng(0)
    x = scale * rng.normal(size=(6, 50, 3))
    y = rng.random(50) < 1 / (1 + np.exp(-x[0, :, 0] / scale))
    weights, intercepts = fit_logistic(x, y)
    for one, row, intercept in zip(x, weights, intercepts, strict=True):
        expected = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(one, y)
        assert row.tolist() == pytest.approx(expected.coef_[0].tolist(), rel=1e-6)
        assert intercept == pytest.approx(expected.intercept_[0], rel=1e-6)


def test_without_signal_the_intercept_is_the_log_odds_of_the_share():
    # Three of four rows are yes, and the predictor is 0 in all.
    weights, intercepts = fit_logistic(np.zeros((1, 4, 1)), np.array([True, True, True, False]))
    assert weights.tolist() == [[0]]
    assert intercepts[0] == pytest.approx(np.log(3), rel=1e-9)


def test_separable_rows_have_a_finite_fit_with_no_gradient():
    x = np.linspace(-40, 40, 20)[None, :, None]
    y = x[0, :, 0] > 0
    weights, intercepts = fit_logistic(x, y)
    chances = 1 / (1 + np.exp(-(x[0, :, 0] * weights[0, 0] + intercepts[0])))
    assert ((chances - y) * x[0, :, 0]).sum() + weights[0, 0] == pytest.approx(0, abs=1e-6)


def test_one_outcome_only_is_refused():
    with pytest.raises(ValueError, match="the outcome is the same in all rows"):
        fit_logistic(np.zeros((1, 4, 1)), np.ones(4, dtype=bool))
