"""The nuclear-norm problem for a modelling language, and the projection by bisection."""

import warnings

import cvxpy as cp
import numpy as np


def solve_with_cvxpy(support, solver="CLARABEL", **options):
    """Optimum and logits, on all columns, constraints vectorised: one row an (in, off) relation."""
    tokens, contexts = support.shape
    logits = cp.Variable((tokens, contexts))
    level = cp.Variable((1, contexts))
    spread = logits - np.ones((tokens, 1)) @ level
    inside = support.astype(float)
    constraints = [
        cp.multiply(inside, spread) == 0,
        cp.multiply(1 - inside, spread + 1) <= 0,
    ]
    problem = cp.Problem(cp.Minimize(cp.normNuc(logits)), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of accuracy: what is compared is the optimum, to 1e-6
        problem.solve(solver=solver, **options)
    return float(problem.value), logits.value


def nearest_feasible(point, support, margin, scales):
    """One context's nearest feasible logits: the level by bisection, to rounding."""

    def slope(level):
        inside = sum(
            q * (q * level - y) for y, s, q in zip(point, support, scales, strict=True) if s
        )
        outside = sum(
            q * max(0.0, y - q * (level - margin))
            for y, s, q in zip(point, support, scales, strict=True)
            if not s
        )
        return inside - outside

    low, high = -1e3, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return np.array(
        [
            q * low if s else min(y, q * (low - margin))
            for y, s, q in zip(point, support, scales, strict=True)
        ]
    )
