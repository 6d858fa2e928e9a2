r"""The iteration of the nuclear-norm problem: ADMM as one fixed point, accelerated.

With :math:`L = proj_C(Y)` and the scaled dual :math:`U = Y - L`, an over-relaxed ADMM step is

.. math::
    Y \leftarrow Y + R(Y), \qquad R(Y) = \alpha\,(prox(2 L - Y) - L),

where prox lowers singular values by :math:`1/\rho`. So Y and the levels of its projection are the
whole state, and R = 0 at an optimum. Anderson's method (type II) takes, of the last few steps, the
combination with the least residual. Its history is float32: differences keep their digits.

Axes: C distinct contexts (rows, so that each is contiguous), R distinct tokens, H steps of history,
S the fewer of C and R.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tightframe.ntp.feasible import Constraints

RELAXATION = 1.6
HISTORY = 4  # steps that are combined
BLOCK = 1 << 21  # entries worked on at once; memory and time only
GROWTH = 2.0  # a residual that grows by more sets acceleration back
DAMPING = 1e-8  # of the least squares: what float32 products are worth


class Splitting:
    """The state of the iteration, and its steps.

    Args:
        constraints: Of the distinct contexts and tokens, in the precision to work in.
        points: Y to begin from; overwritten.
        penalty: rho.

    Attributes:
        levels: Of the projection of Y.
        iterations: Steps taken.
    """

    def __init__(
        self, constraints: Constraints, points: Float[Tensor, "C R"], penalty: float
    ) -> None:
        self.constraints, self.points, self.penalty = constraints, points, penalty
        self.levels = constraints.levels(points)
        self.iterations = 0
        shape = n, width = points.shape
        self._blocks = [slice(i, i + BLOCK // width + 1) for i in range(0, n, BLOCK // width + 1)]
        self._residuals = points.new_empty(shape, dtype=torch.float32)
        # Of the last steps: what the residual changed by, and what Y + R changed by.
        self._changes = points.new_empty((HISTORY, *shape), dtype=torch.float32)
        self._moves = points.new_empty((HISTORY, *shape), dtype=torch.float32)
        self._products = torch.zeros(HISTORY, HISTORY, dtype=torch.float64)
        self._history: list[int] = []  # places of the steps that are combined, oldest first
        self._latest: int | None = None  # the place of the last step, whose change is not yet known
        self._combined = False  # whether the last step was
        self._last_squared = float("inf")
        self._reflected = torch.empty_like(points) if n < width else None  # 2 L - Y
        self._gram = self._gram_of_reflected()

    def step(self) -> None:
        """One step."""
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
        """Upper and lower bound of the optimum, to half the digits of float64."""
        order = min(self.points.shape)
        grams = self.points.new_zeros((2, order, order), dtype=torch.float64)
        value = 0.0
        for rows in self._blocks if self._reflected is None else [slice(None)]:
            constraints, points = self.constraints.rows(rows), self.points[rows]
            nearest = constraints.nearest(points, self.levels[rows])
            _add_gram(grams[0], nearest.double())
            dual = torch.sub(points, nearest, out=nearest)
            _add_gram(grams[1], dual.double())
            off = dual.masked_fill_(constraints.support, 0) @ constraints.scales
            value += float(constraints.margins @ off)
        values = torch.linalg.eigvalsh(grams).clamp(min=0).sqrt()
        norm = self.penalty * float(values[1, -1])
        return float(values[0].sum()), self.penalty * value / max(1.0, norm)

    def feasible(self) -> Float[Tensor, "C R"]:
        """L."""
        return self.constraints.nearest(self.points, self.levels)

    def _shrinkage(self) -> Float[Tensor, "S S"]:
        """What takes a matrix with the Gram matrix at hand to its prox."""
        values, vectors = torch.linalg.eigh(self._gram)
        kept = (1 - 1 / (self.penalty * values.clamp(min=0).sqrt())).clamp(min=0)
        shrinkage: Float[Tensor, "S S"] = (vectors * kept) @ vectors.T
        return shrinkage

    def _residual(self, shrinkage: Float[Tensor, "S S"]) -> tuple[list[float], float]:
        """R of all blocks; its products with the history, and with itself."""
        places = [*self._history, *([] if self._latest is None else [self._latest])]
        slopes, squared = [0.0] * HISTORY, 0.0
        products = [0.0] * HISTORY
        for rows in self._blocks:
            points = self.points[rows]
            nearest = self.constraints.rows(rows).nearest(points, self.levels[rows])
            if self._reflected is None:
                lowered = torch.sub(2 * nearest, points) @ shrinkage
            else:
                lowered = shrinkage[rows] @ self._reflected
            residual = self._residuals[rows]
            residual.copy_(lowered.sub_(nearest).mul_(RELAXATION))
            squared += _dot(residual, residual)
            if self._latest is not None:
                change = self._changes[self._latest][rows].add_(residual)
                self._moves[self._latest][rows].add_(change)
            for place in places:
                slopes[place] += _dot(self._changes[place][rows], residual)
                if self._latest is not None:
                    products[place] += _dot(self._changes[place][rows], change)
        if self._latest is not None:
            self._products[self._latest] = torch.tensor(products, dtype=torch.float64)
            self._products[:, self._latest] = self._products[self._latest]
        return slopes, squared

    def _weights(self, slopes: list[float]) -> dict[int, float]:
        """How much of each remembered move to take back: the least residual."""
        if not self._history:
            return {}
        products = self._products[self._history][:, self._history]
        damping = DAMPING * (float(products.trace()) + self._last_squared)
        products += damping * torch.eye(len(products), dtype=torch.float64)
        wanted = torch.tensor([slopes[place] for place in self._history], dtype=torch.float64)
        found = torch.linalg.lstsq(products, wanted).solution
        return dict(zip(self._history, found.tolist(), strict=True))

    def _take_back(self) -> None:
        """The step without acceleration instead of the last one; the history ends."""
        assert self._latest is not None
        for rows in self._blocks:
            # The step moved Y by (its move less the change of the residual) instead of by R.
            self.points[rows] += self._residuals[rows].sub_(self._moves[self._latest][rows])
            self._settle(rows)
        self._history.clear()
        self._latest, self._combined = None, False
        self._gram = self._gram_of_reflected()

    def _settle(self, rows: slice) -> None:
        """The levels of new points."""
        constraints = self.constraints.rows(rows)
        self.levels[rows] = constraints.levels(self.points[rows], self.levels[rows])

    def _move(self, weights: dict[int, float]) -> None:
        """Y, its levels and the Gram matrix of 2 L - Y, a block after the other."""
        if len(self._history) == HISTORY:
            self._history.pop(0)
        free = set(range(HISTORY)) - set(self._history)
        self._latest = min(free)
        for rows in self._blocks:
            points, residual = self.points[rows], self._residuals[rows]
            move = residual.clone()
            for place, weight in weights.items():
                move.sub_(self._moves[place][rows], alpha=weight)
            self._moves[self._latest][rows] = move
            torch.neg(residual, out=self._changes[self._latest][rows])
            points.add_(move)
            self._settle(rows)
        self._combined = bool(weights)
        self._gram = self._gram_of_reflected()

    def _gram_of_reflected(self) -> Float[Tensor, "S S"]:
        """Of 2 L - Y, on its smaller side."""
        gram = self._zeros()
        for rows in self._blocks:
            points = self.points[rows]
            nearest = self.constraints.rows(rows).nearest(points, self.levels[rows])
            reflected = nearest.mul_(2).sub_(points)
            if self._reflected is None:
                _add_gram(gram, reflected)
            else:
                self._reflected[rows] = reflected
        if self._reflected is not None:
            _add_gram(gram, self._reflected)
        return gram

    def _zeros(self) -> Float[Tensor, "S S"]:
        order = min(self.points.shape)
        return self.points.new_zeros(order, order)


def _add_gram(gram: Float[Tensor, "S S"], matrix: Float[Tensor, "C R"]) -> None:
    """Of its columns, or of its rows where that is the order of the sum."""
    if len(gram) == matrix.shape[1]:
        gram.addmm_(matrix.T, matrix)
    else:
        gram.addmm_(matrix, matrix.T)


def _dot(left: Float[Tensor, "C R"], right: Float[Tensor, "C R"]) -> float:
    return float(torch.dot(left.reshape(-1), right.reshape(-1)))
