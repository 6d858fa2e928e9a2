r"""Constraints and certificate of the nuclear-norm problem: what any answer is worth.

.. math::
    \min_L \lVert L \rVert_* \quad\text{subject to, in every column,}\quad
    L_{z} = L_{z'} = a \text{ in the support},\; L_v \le a - 1 \text{ off it}

has the dual

.. math::
    \max_Z -\sum_{off} Z \quad\text{subject to}\quad Z \le 0 \text{ off the supports},\;
    1^T Z = 0,\; \lVert Z \rVert_2 \le 1.

For feasible logits L and feasible Z

.. math::
    \lVert L \rVert_* \ge \langle Z, L \rangle
    = \sum_{off} Z (L - a) \ge -\sum_{off} Z,

so any Z, once it is repaired to meet the constraints, is a lower bound that needs no trust in how
it was found. Certificates are float64, whatever found the answer.

`Constraints` projects logits onto the feasible ones. For a context with scale :math:`\sqrt c` and
tokens with scales :math:`q = \sqrt r`, feasible logits are :math:`q_z a` on the support, for some
level a, and at most :math:`q_v (a - \sqrt c)` off it. The level of the nearest ones is the root of

.. math::
    k a - \sum_{in} q y - \sum_{off} q \max(0, y - q (a - \sqrt c)), \qquad k = \sum_{in} q^2,

which is increasing, concave and piecewise linear: Newton's steps rise to it from below and reach it
after finitely many, without a sort. From any start one step leads below it, so the level of the
step before is a good start.

Axes: V tokens, M contexts; R, C distinct ones, contexts as rows so that each is contiguous.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tightframe.ntp.support import DistinctSupport, group

TILE = 1 << 16  # entries of a tile that stays in the cache; memory and time only
ROWS = 1 << 10  # contexts that are repaired at once; memory only
NEWTON_STEPS = 100  # far more than were ever needed
NULL = 1e-10  # singular values below this share of the largest are rounding


@dataclasses.dataclass(frozen=True, eq=False)
class Constraints:
    """Constraints of a problem whose equal rows and columns are merged.

    Attributes:
        support: S, contexts as rows.
        margins: sqrt(c), by which logits in and off the support of a context are set apart.
        scales: sqrt(r) of each token.
        sizes: k, the number of tokens in each support, with their multiplicities.
    """

    support: Bool[Tensor, "C R"]
    margins: Float[Tensor, " C"]
    scales: Float[Tensor, " R"]
    sizes: Float[Tensor, " C"]

    @classmethod
    def of(
        cls,
        groups: DistinctSupport,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> "Constraints":
        """Return the constraints of grouped rows and columns, on a device."""
        sizes = groups.row_counts @ groups.support
        return cls(
            torch.from_numpy(np.ascontiguousarray(groups.support.T)).to(device),
            torch.from_numpy(groups.column_scales).to(device, dtype),
            torch.from_numpy(groups.row_scales).to(device, dtype),
            torch.from_numpy(sizes).to(device, dtype),
        )

    def to(self, dtype: torch.dtype) -> "Constraints":
        """Return the constraints in another precision."""
        return Constraints(
            self.support, self.margins.to(dtype), self.scales.to(dtype), self.sizes.to(dtype)
        )

    def rows(self, rows: slice) -> "Constraints":
        """Return the constraints of some contexts alone, without a copy."""
        return Constraints(self.support[rows], self.margins[rows], self.scales, self.sizes[rows])

    def centred(self) -> Float[Tensor, "C R"]:
        """Return S~, the scaled centred support: feasible with margin exactly 1."""
        tokens = self.scales.square().sum()
        within = self.support.to(tokens.dtype) - (self.sizes / tokens)[:, None]
        proxy: Float[Tensor, "C R"] = within * self.margins[:, None] * self.scales
        return proxy

    def levels(
        self,
        points: Float[Tensor, "C R"],
        start: Float[Tensor, " C"] | None = None,
        *,
        steps: int = NEWTON_STEPS,
    ) -> Float[Tensor, " C"]:
        """Return the level a of each context's nearest feasible logits.

        Args:
            points: Logits y to project.
            start: Levels from which Newton's method begins; nearer is faster, any is correct.
            steps: Maximum number of Newton steps.
        """
        levels = torch.empty_like(self.margins)
        n, width = points.shape
        tile = max(1, TILE // width) if points.device.type == "cpu" else n
        for first in range(0, n, tile):
            rows = slice(first, first + tile)
            begin = None if start is None else start[rows]
            levels[rows] = self.rows(rows)._levels(points[rows], begin, steps)
        return levels

    def nearest(
        self,
        points: Float[Tensor, "C R"],
        levels: Float[Tensor, " C"],
        out: Float[Tensor, "C R"] | None = None,
    ) -> Float[Tensor, "C R"]:
        """Return the nearest feasible logits with these levels; feasible whatever the levels."""
        nearest = torch.outer(levels - self.margins, self.scales, out=out)
        torch.minimum(nearest, points, out=nearest)
        inside = torch.outer(levels, self.scales)
        torch.where(self.support, inside, nearest, out=nearest)
        return nearest

    def _levels(
        self, points: Float[Tensor, "T R"], start: Float[Tensor, " T"] | None, steps: int
    ) -> Float[Tensor, " T"]:
        within = (points * self.support) @ self.scales
        squares = self.scales.square()
        level = within / self.sizes if start is None else start
        excess, active = torch.empty_like(points), torch.empty_like(points)
        off = points if steps == 1 else points.masked_fill(self.support, -torch.inf)
        precision = 4 * points.shape[1] ** 0.5 * torch.finfo(points.dtype).eps  # of the sums
        for step in range(steps):
            torch.addr(off, level - self.margins, self.scales, alpha=-1, out=excess)
            excess.clamp_(min=0)
            if steps == 1:
                excess.masked_fill_(self.support, 0)
            torch.sign(excess, out=active)
            change = (within - self.sizes * level + excess @ self.scales) / (
                self.sizes + active @ squares
            )
            level = level + change
            if step + 1 == steps:
                break
            # After the first step the levels only rise: one that falls has met its rounding.
            moving = change if step else change.abs()
            if not bool((moving > precision * (level.abs() + self.margins)).any()):
                break
        return level


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds of the optimum, computed from candidate logits.

    Attributes:
        upper: Nuclear norm of the nearest feasible logits.
        lower: Dual value; a bound whether a dual matrix was given or not.
        gap: (upper - lower) / upper for a dual matrix that was given; NaN without one.
        bound: (upper - lower) / upper for the polar factor as dual matrix, where none was given;
            loose, so it does not show how near the optimum is. NaN with a dual matrix.
        violation: Largest amount by which the given logits miss a constraint.
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
    """Return bounds of the optimum from a candidate, repaired where it misses the constraints.

    Args:
        logits: (V, M), of any origin.
        support: S.
        dual: Z (V, M); positive entries off the supports are cut, column sums are repaired evenly
            within the supports, and Z is divided by its spectral norm if that is above 1.
            At a point of the ridge path, Z is minus the gradient over lambda.

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
    groups: DistinctSupport, logits: Float[np.ndarray, "R C"], dual: Float[np.ndarray, "R C"]
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
    """Return (upper - lower) / upper, or 0 where nothing is constrained."""
    return (upper - lower) / upper if upper > 0 else 0.0


def repaired(dual: Float[Tensor, "C R"], constraints: Constraints) -> Float[Tensor, "C R"]:
    """Repair the signs and column sums of a dual matrix in place, and return it.

    `dual_value` takes care of its norm.
    """
    for first in range(0, len(dual), ROWS):
        rows = slice(first, first + ROWS)
        support, part = constraints.support[rows], dual[rows]
        torch.where(support, part, part.clamp(max=0), out=part)
        shares = (part @ constraints.scales) / constraints.sizes[rows]
        part -= (support * constraints.scales).mul_(shares[:, None])
    return dual


def off_support(dual: Float[Tensor, "C R"], constraints: Constraints) -> float:
    """Return minus the sum off the supports, by the margins: the dual value before scaling."""
    total = 0.0
    for first in range(0, len(dual), ROWS):
        rows = slice(first, first + ROWS)
        off = dual[rows].masked_fill(constraints.support[rows], 0) @ constraints.scales
        total -= float(constraints.margins[rows] @ off)
    return total


def dual_value(dual: Float[Tensor, "C R"], constraints: Constraints) -> float:
    """Return the lower bound that a dual matrix of right signs and column sums gives."""
    return off_support(dual, constraints) / max(1.0, spectral_norm(dual))


def singular_values(matrix: Float[Tensor, "C R"]) -> Float[Tensor, " s"]:
    """Return the singular values, largest first, each to rounding of the largest."""
    values: Float[Tensor, " s"] = torch.linalg.svdvals(matrix)
    return values


def nuclear_norm(matrix: Float[Tensor, "C R"]) -> float:
    """Return the sum of the singular values."""
    return float(singular_values(matrix).sum())


def spectral_norm(matrix: Float[Tensor, "C R"]) -> float:
    """Return the largest singular value, computed from the smaller Gram matrix."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return math.sqrt(max(float(torch.linalg.eigvalsh(small @ small.T)[-1]), 0.0))


def polar_factor(matrix: Float[Tensor, "C R"]) -> Float[Tensor, "C R"]:
    """Return U V^T of the thin SVD without its null part."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = values > NULL * values[0]
    polar: Float[Tensor, "C R"] = left[:, kept] @ right[kept]
    return polar


def worst(logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]) -> float:
    """Return the largest violation of a constraint, 0 where all are met.

    A violation is a difference of logits in a support, or what the distance between the lowest
    logit in a support and the highest off it lacks to 1.
    """
    lowest = np.where(support, logits, np.inf).min(axis=0)
    highest = np.where(support, logits, -np.inf).max(axis=0)
    outside = np.where(support, -np.inf, logits).max(axis=0)
    unequal = (highest - lowest).max(initial=0)
    return float(max(unequal, (outside + 1 - lowest).max(initial=0), 0.0))


def scaled(groups: DistinctSupport, logits: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R C"]:
    """Return diag(sqrt r) L diag(sqrt c), which has the singular values of the expanded logits."""
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
