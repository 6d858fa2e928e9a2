"""Many small logistic regressions at once, by Newton's method.

A permutation test fits thousands; one by one they would spend nearly all their time in Python.

Axes: P regressions, n rows, d predictors.
"""

import numpy as np
from jaxtyping import Bool, Float

_STEPS = 100
_TOLERANCE = 1e-9  # of the gradient, a row


def fit_logistic(
    x: Float[np.ndarray, "P n d"], y: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "P d"], Float[np.ndarray, " P"]]:
    r"""Weights and intercept of each regression of one outcome on other predictors.

    Minimises :math:`\sum_i \ln(1 + e^{-y_i z_i}) + \lVert w\rVert^2 / 2`, y in {-1, 1} and
    z = w x + b,
    the intercept not penalised (scikit-learn's `LogisticRegression` with C = 1). The outcome takes
    both values.
    """
    if y.all() or not y.any():
        raise ValueError("the outcome is the same in all rows, so the intercept is infinite")
    n_rows, width = x.shape[1], x.shape[2] + 1
    design = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
    penalty = np.ones(width)
    penalty[-1] = 0.0
    weights = np.zeros((len(x), width))
    cost = _costs(design, y, weights, penalty)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-_odds(design, weights)))  # (P, n)
        gradient = ((chances - y)[:, None] @ design)[:, 0] + penalty * weights
        if np.abs(gradient).max() < _TOLERANCE * n_rows:
            return weights[:, :-1], weights[:, -1]
        curved = design * (chances * (1 - chances))[..., None]
        hessian = curved.transpose(0, 2, 1) @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        length = np.ones((len(x), 1))
        while True:  # halve the steps that went too far; a short enough one always helps
            tried = weights - length * step
            found = _costs(design, y, tried, penalty)
            far = found > cost + 1e-12 * np.abs(cost)
            if not far.any():
                break
            length[far] /= 2
        weights, cost = tried, found
    raise AssertionError(f"no optimum after {_STEPS} steps")


def _odds(
    design: Float[np.ndarray, "P n k"], weights: Float[np.ndarray, "P k"]
) -> Float[np.ndarray, "P n"]:
    odds: Float[np.ndarray, "P n"] = (design @ weights[..., None])[..., 0]
    return odds


def _costs(
    design: Float[np.ndarray, "P n k"],
    y: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "P k"],
    penalty: Float[np.ndarray, " k"],
) -> Float[np.ndarray, " P"]:
    odds = _odds(design, weights)
    losses = np.logaddexp(0, np.where(y, -odds, odds)).sum(1)
    costs: Float[np.ndarray, " P"] = losses + (penalty * weights**2).sum(1) / 2
    return costs
