r"""What an answer is worth: both bounds of the optimum, recomputed from the answer alone.

.. math::
    \max_Z -\sum_{off} Z \quad\text{subject to}\quad Z \le 0 \text{ off the supports},\;
    1^T Z = 0,\; \lVert Z \rVert_2 \le 1

is the dual of the nuclear-norm problem. For feasible logits L and feasible Z

.. math::
    \lVert L \rVert_* \ge \langle Z, L \rangle
    = \sum_{off} Z (L - a) \ge -\sum_{off} Z,

so any Z, once it is repaired to meet the constraints, is a lower bound that needs no trust in how
it was found. Everything is float64, whatever found it.

Axes: V tokens, M contexts; R, C distinct ones, contexts as rows.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tightframe.ntp.grouping import Groups, group
from tightframe.ntp.splitting import Constraints


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where the optimum lies: at least `lower`, at most `upper`.

    Attributes:
        upper: The nuclear norm of the nearest feasible logits.
        lower: The dual value; a bound whether a dual matrix was given or not.
        gap: (upper - lower) / upper, of a dual matrix that was given; NaN without one.
        bound: The same without a dual matrix, from the polar factor: loose, it shows nothing of
            how near the optimum is; NaN with one.
        violation: The largest by which the given logits miss a constraint of the problem.
    """

    upper: float
    lower: float
    gap: float
    bound: float
    violation: float


def certify(
    logits: Float[np.ndarray, "..."],
    support: Bool[np.ndarray, "V M"],
    dual: Float[np.ndarray, "..."] | None = None,
) -> Bounds:
    """Bounds of the optimum from a candidate, repaired where it misses the constraints.

    Args:
        logits: (V, M), of any origin.
        support: S.
        dual: Z (V, M); positive entries off the supports are cut, column sums are repaired evenly
            within the supports, and the whole is divided by its spectral norm if that is above 1.
            For a point of the ridge path, minus the gradient over lambda.

    Raises:
        ValueError: Shapes differ, an entry is not finite, or a context has no support.
    """
    _check(logits, support, "logits")
    problem = group(support, merge=False)
    constraints = Constraints.of(problem)
    points = torch.from_numpy(np.ascontiguousarray(logits.T))
    feasible = constraints.nearest(points, constraints.levels(points))
    violation = worst(logits, support)
    if dual is None:
        multipliers = polar_factor(feasible)
    else:
        _check(dual, support, "dual")
        multipliers = torch.from_numpy(np.array(dual.T, order="C"))
    upper = nuclear_norm(feasible)
    lower = dual_value(repaired(multipliers, constraints), constraints)
    share = relative_gap(upper, lower)
    gap, bound = (math.nan, share) if dual is None else (share, math.nan)
    return Bounds(upper, lower, gap, bound, violation)


def grouped_bounds(
    groups: Groups, logits: Float[np.ndarray, "R C"], dual: Float[np.ndarray, "R C"]
) -> tuple[Float[np.ndarray, " s"], float]:
    """Return what grouped logits and their dual matrix prove of the optimum.

    Returns:
        The singular values of the expanded logits, whose sum is the upper bound, and the lower
        bound.
    """
    constraints = Constraints.of(groups)
    multipliers = torch.from_numpy(np.ascontiguousarray(scaled(groups, dual).T))
    values = singular_values(torch.from_numpy(scaled(groups, logits))).numpy()
    return values, dual_value(repaired(multipliers, constraints), constraints)


def relative_gap(upper: float, lower: float) -> float:
    """(upper - lower) / upper; 0 where nothing is constrained."""
    return (upper - lower) / upper if upper > 0 else 0.0


def repaired(dual: Float[Tensor, "C R"], constraints: Constraints) -> Float[Tensor, "C R"]:
    """The signs and column sums that a dual matrix needs; the norm is for `dual_value`.

    Its own memory is overwritten.
    """
    for first in range(0, len(dual), TILE):
        rows = slice(first, first + TILE)
        support, part = constraints.support[rows], dual[rows]
        torch.where(support, part, part.clamp(max=0), out=part)
        shares = (part @ constraints.scales) / constraints.sizes[rows]
        part -= (support * constraints.scales).mul_(shares[:, None])
    return dual


TILE = 1 << 10  # contexts worked on at once; memory only


def off_support(dual: Float[Tensor, "C R"], constraints: Constraints) -> float:
    """Minus the sum off the supports, by the margins: the dual value before scaling."""
    total = 0.0
    for first in range(0, len(dual), TILE):
        rows = slice(first, first + TILE)
        off = dual[rows].masked_fill(constraints.support[rows], 0) @ constraints.scales
        total -= float(constraints.margins[rows] @ off)
    return total


def dual_value(dual: Float[Tensor, "C R"], constraints: Constraints) -> float:
    """The lower bound that a dual matrix of right signs and column sums gives."""
    return off_support(dual, constraints) / max(1.0, spectral_norm(dual))


def singular_values(matrix: Float[Tensor, "C R"]) -> Float[Tensor, " s"]:
    """Largest first, each to rounding of the largest."""
    values: Float[Tensor, " s"] = torch.linalg.svdvals(matrix)
    return values


def nuclear_norm(matrix: Float[Tensor, "C R"]) -> float:
    """The sum of the singular values."""
    return float(singular_values(matrix).sum())


def spectral_norm(matrix: Float[Tensor, "C R"]) -> float:
    """The largest singular value, by the smaller Gram matrix: exact to rounding for the largest."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return math.sqrt(max(float(torch.linalg.eigvalsh(small @ small.T)[-1]), 0.0))


def polar_factor(matrix: Float[Tensor, "C R"]) -> Float[Tensor, "C R"]:
    """U V^T of the thin SVD without its null part."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = values > NULL * values[0]
    polar: Float[Tensor, "C R"] = left[:, kept] @ right[kept]
    return polar


NULL = 1e-10  # singular values below this share of the largest are rounding


def worst(logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]) -> float:
    """The largest violation of a constraint, 0 where all are met.

    Unequal logits in a support, and less than 1 between the lowest in it and the highest off it.
    """
    lowest = np.where(support, logits, np.inf).min(axis=0)
    highest = np.where(support, logits, -np.inf).max(axis=0)
    outside = np.where(support, -np.inf, logits).max(axis=0)
    unequal = (highest - lowest).max(initial=0)
    return float(max(unequal, (outside + 1 - lowest).max(initial=0), 0.0))


def scaled(groups: Groups, logits: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R C"]:
    """diag(sqrt r) L diag(sqrt c): its singular values are those of the expanded logits."""
    matrix: Float[np.ndarray, "R C"] = groups.row_scales[:, None] * logits * groups.column_scales
    return matrix


def _check(matrix: Float[np.ndarray, "..."], support: Bool[np.ndarray, "V M"], name: str) -> None:
    if matrix.shape != support.shape:
        raise ValueError(f"{name}: expected (V, M) = {support.shape}, got {matrix.shape}")
    empty = np.flatnonzero(~support.any(axis=0))
    if len(empty):
        raise ValueError(f"support: no token follows context {empty[0]}; leave it out")
    wrong = np.argwhere(~np.isfinite(matrix))
    if len(wrong):
        token, context = wrong[0]
        raise ValueError(f"{name}: {matrix[token, context]} for token {token}, context {context}")
