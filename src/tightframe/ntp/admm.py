r"""Iteration of the nuclear-norm problem: ADMM as one fixed point, accelerated.

With :math:`L = proj_C(Y)`, the projection of `certificate.Constraints`, and the scaled dual
:math:`U = Y - L`, an over-relaxed ADMM step is

.. math::
    Y \leftarrow Y + R(Y), \qquad R(Y) = \alpha\,(prox(2 L - Y) - L),

where prox lowers singular values by :math:`1/\rho`. So Y and the levels of its projection are the
whole state, and R = 0 at an optimum. Anderson's method (type II) takes the combination of the last
few steps with the smallest residual. Its history is float32: differences keep their digits.

Axes: C distinct contexts (rows, so that each is contiguous), R distinct tokens, H steps of history,
S the fewer of C and R.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tightframe.lm.hardware import exact_float32
from tightframe.ntp.certificate import Constraints

RELAXATION = 1.6
HISTORY = 4  # steps that are combined
BLOCK = 1 << 19  # entries worked on at once; memory and time only
GROWTH = 2.0  # a residual that grows by more sets acceleration back
DAMPING = 1e-8  # of the least squares: what float32 products are worth


class Splitting:
    """The state of the iteration, and its steps.

    Args:
        constraints: Constraints of the distinct contexts and tokens, in the precision to work in.
        points: Y to begin from; overwritten.
        penalty: rho.

    Attributes:
        levels: Levels of the projection of Y.
        iterations: Steps taken.
    """

    def __init__(
        self, constraints: Constraints, points: Float[Tensor, "C R"], penalty: float
    ) -> None:
        self.constraints, self.points, self.penalty = constraints, points, penalty
        self.levels = constraints.levels(points)
        self.iterations = 0
        n, width = points.shape
        self._blocks = [slice(i, i + BLOCK // width + 1) for i in range(0, n, BLOCK // width + 1)]
        self._residuals = points.new_empty((n, width), dtype=torch.float32)
        self._history: list[int] = []  # places of the steps that are combined, oldest first
        self._latest: int | None = None  # the place of the last step, whose change is not yet known
        self._combined = False  # whether the last step was
        self._last_squared = float("inf")
        self._forget()
        self._reflect()

    def refine(self, constraints: Constraints) -> None:
        """Continue in the precision of these constraints; the history stays."""
        self.constraints = constraints
        self._residuals = self._residuals.new_empty(0)  # nothing that the next step needs
        self.points = self.points.to(constraints.margins.dtype)
        self._residuals = torch.empty_like(self.points, dtype=torch.float32)
        self.levels = constraints.levels(self.points, self.levels.to(constraints.margins.dtype))
        self._reflect()

    def release(self) -> None:
        """Give the memory of the history back; the next steps gather a new one."""
        self._changes = self._moves = self.points.new_empty(0)
        self._history.clear()
        self._latest, self._combined = None, False

    def step(self) -> None:
        """Take one step."""
        if not self._changes.numel():
            self._forget()
        slopes, squared = self._residual(self._shrinkage())
        self.iterations += 1
        if self._combined and squared > GROWTH**2 * self._last_squared:
            self._take_back()
            return
        if self._latest is not None:
            self._history.append(self._latest)
        self._last_squared = squared
        self._move(self._weights(slopes))

    def bounds(self) -> tuple[float, float]:
        """Return upper and lower bound of the optimum, to half the digits of float64."""
        order = min(self.points.shape)
        grams = self.points.new_zeros((2, order, order), dtype=torch.float64)
        value = 0.0
        for rows in [slice(None)] if self._wide else self._blocks:
            constraints, points = self.constraints.rows(rows), self.points[rows]
            nearest = constraints.nearest(points, self.levels[rows])
            grams[0] += self._gram_of(nearest)
            dual = torch.sub(points, nearest, out=nearest)
            grams[1] += self._gram_of(dual)
            off = dual.masked_fill_(constraints.support, 0) @ constraints.scales
            value += float(constraints.margins @ off)
        values = torch.linalg.eigvalsh(grams).clamp(min=0).sqrt()
        norm = self.penalty * float(values[1, -1])
        return float(values[0].sum()), self.penalty * value / max(1.0, norm)

    def _gram_of(self, matrix: Float[Tensor, "B R"]) -> Float[Tensor, "S S"]:
        """Return a Gram matrix in float64, on the smaller side of the whole."""
        exact = matrix.double()
        return product(exact, exact.T) if self._wide else product(exact.T, exact)

    def _forget(self) -> None:
        """Reset the history."""
        shape = (HISTORY, *self.points.shape)
        # Of the last steps: what the residual changed by, and what Y + R changed by.
        self._changes = self.points.new_zeros(shape, dtype=torch.float32)
        self._moves = self.points.new_zeros(shape, dtype=torch.float32)
        self._products = np.zeros((HISTORY, HISTORY))

    def _shrinkage(self) -> Float[Tensor, "S S"]:
        """Return the factor that turns a matrix with the current Gram matrix into its prox."""
        values, vectors = torch.linalg.eigh(self._gram)
        kept = (1 - 1 / (self.penalty * values.clamp(min=0).sqrt())).clamp(min=0)
        shrinkage: Float[Tensor, "S S"] = (vectors * kept) @ vectors.T
        return shrinkage

    def _residual(self, shrinkage: Float[Tensor, "S S"]) -> tuple[Float64[np.ndarray, " H"], float]:
        """Compute R of all blocks; return its products with the history, and with itself."""
        slopes, products, squared = np.zeros(HISTORY), np.zeros(HISTORY), 0.0
        for rows in self._blocks:
            points, residual = self.points[rows], self._residuals[rows]
            if self._wide:
                reflected = self._reflected[rows]
                lowered = product(shrinkage[rows], self._reflected)
            else:
                reflected = self._reflected[rows] if self._kept else self._reflection(rows)
                lowered = product(reflected, shrinkage)
            # L is halfway between Y and its reflection.
            lowered.sub_(reflected, alpha=0.5).sub_(points, alpha=0.5)
            torch.mul(lowered, RELAXATION, out=residual)
            flat, changes = residual.reshape(-1), self._changes[:, rows].flatten(1)
            squared += float(flat @ flat)
            if self._latest is not None:
                change = changes[self._latest].add_(flat)
                self._moves[self._latest][rows].view(-1).add_(change)
                products += (changes @ change).cpu().numpy()
            slopes += (changes @ flat).cpu().numpy()
        if self._latest is not None:
            self._products[self._latest] = self._products[:, self._latest] = products
        return slopes, squared

    def _weights(self, slopes: Float64[np.ndarray, " H"]) -> Float64[np.ndarray, " H"]:
        """Return how much of each remembered move to undo for the smallest residual."""
        weights = np.zeros(HISTORY)
        if self._history:
            products = self._products[np.ix_(self._history, self._history)]
            damping = DAMPING * (products.trace() + self._last_squared)
            products += (damping + np.finfo(float).tiny) * np.eye(len(products))
            weights[self._history] = np.linalg.solve(products, slopes[self._history])
        return weights

    def _take_back(self) -> None:
        """Replace the last step by one without acceleration, and end the history."""
        assert self._latest is not None
        for rows in self._blocks:
            # The step moved Y by (its move less the change of the residual) instead of by R.
            self.points[rows] += self._residuals[rows].sub_(self._moves[self._latest][rows])
            self._settle(rows)
        self._history.clear()
        self._latest, self._combined = None, False
        self._reflect()

    def _settle(self, rows: slice) -> None:
        """Update the levels of new points by one Newton step: they converge together."""
        constraints = self.constraints.rows(rows)
        self.levels[rows] = constraints.levels(self.points[rows], self.levels[rows], steps=1)

    def _move(self, weights: Float64[np.ndarray, " H"]) -> None:
        """Update Y, its levels and the Gram matrix of 2 L - Y, block by block."""
        self._combined = bool(self._history)
        taken_back = torch.from_numpy(weights).to(self._moves)
        if len(self._history) == HISTORY:
            self._history.pop(0)
        self._latest = min(set(range(HISTORY)) - set(self._history))
        for rows in self._blocks:
            residual, moves = self._residuals[rows].view(-1), self._moves[:, rows].flatten(1)
            move = torch.addmv(residual, moves.T, taken_back, alpha=-1)
            moves[self._latest] = move
            torch.neg(residual, out=self._changes[self._latest][rows].view(-1))
            self.points[rows].view(-1).add_(move)
            self._settle(rows)
        self._reflect()

    def _reflect(self) -> None:
        """Compute 2 L - Y, where it is kept, and its Gram matrix on the smaller side."""
        n, width = self.points.shape
        self._wide = n < width
        self._kept = self._wide or len(self._blocks) == 1
        if self._kept:
            parts = [self._reflection(rows) for rows in self._blocks]
            self._reflected = parts[0] if len(parts) == 1 else torch.cat(parts)
            whole = self._reflected.T if self._wide else self._reflected
            self._gram = product(whole.T, whole)
        else:
            self._gram = self.points.new_zeros(width, width)
            for rows in self._blocks:
                reflected = self._reflection(rows)
                self._gram += product(reflected.T, reflected)

    def _reflection(self, rows: slice) -> Float[Tensor, "B R"]:
        points = self.points[rows]
        nearest = self.constraints.rows(rows).nearest(points, self.levels[rows])
        return nearest.mul_(2).sub_(points)


def product(left: Float[Tensor, "a b"], right: Float[Tensor, "b c"]) -> Float[Tensor, "a c"]:
    """Return a product by the fastest library: NumPy for float64, oneDNN for float32 on the CPU."""
    if left.device.type != "cpu":
        return left @ right
    if left.dtype == torch.float64:
        return torch.from_numpy(left.numpy() @ right.numpy())
    with exact_float32():
        return left @ right
