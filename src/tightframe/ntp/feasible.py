r"""The logits that separate every support: the nearest ones to given logits.

Of a context with scale :math:`\sqrt c` and tokens with scales :math:`q = \sqrt r`, feasible logits
are :math:`q_z a` on the support, for some level a, and at most :math:`q_v (a - \sqrt c)` off it.
The level of the nearest ones is the root of

.. math::
    k a - \sum_{in} q y - \sum_{off} q \max(0, y - q (a - \sqrt c)), \qquad k = \sum_{in} q^2,

which is increasing, concave and piecewise linear: Newton's steps rise to it from below and are
there after finitely many, without a sort. From any start one step leads below, so the level of the
last time is a good one.

Axes: C contexts (rows here, so that each is contiguous), R tokens.
"""

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tightframe.ntp.grouping import Groups

TILE = 1 << 16  # entries of a tile that stays in the cache; memory and time only
STEPS = 100  # of Newton's method: far more than were ever needed


@dataclasses.dataclass(frozen=True, eq=False)
class Constraints:
    """The constraints of a problem without repetitions.

    Attributes:
        support: S, contexts as rows.
        margins: sqrt(c).
        scales: sqrt(r).
        sizes: k, the tokens of each support with their multiplicities.
    """

    support: Bool[Tensor, "C R"]
    margins: Float[Tensor, " C"]
    scales: Float[Tensor, " R"]
    sizes: Float[Tensor, " C"]

    @classmethod
    def of(
        cls,
        groups: Groups,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> "Constraints":
        """Of grouped rows and columns, on a device."""
        sizes = groups.row_counts @ groups.support
        return cls(
            torch.from_numpy(np.ascontiguousarray(groups.support.T)).to(device),
            torch.from_numpy(groups.column_scales).to(device, dtype),
            torch.from_numpy(groups.row_scales).to(device, dtype),
            torch.from_numpy(sizes).to(device, dtype),
        )

    def to(self, dtype: torch.dtype) -> "Constraints":
        """In another precision."""
        return Constraints(
            self.support, self.margins.to(dtype), self.scales.to(dtype), self.sizes.to(dtype)
        )

    def rows(self, rows: slice) -> "Constraints":
        """Of some contexts alone; no copy."""
        return Constraints(self.support[rows], self.margins[rows], self.scales, self.sizes[rows])

    def centred(self) -> Float[Tensor, "C R"]:
        """S~: the scaled proxy, feasible with margin exactly 1."""
        tokens = self.scales.square().sum()
        within = self.support.to(tokens.dtype) - (self.sizes / tokens)[:, None]
        proxy: Float[Tensor, "C R"] = within * self.margins[:, None] * self.scales
        return proxy

    def levels(
        self,
        points: Float[Tensor, "C R"],
        start: Float[Tensor, " C"] | None = None,
        *,
        steps: int = STEPS,
    ) -> Float[Tensor, " C"]:
        """The level a of each context's nearest feasible logits.

        Args:
            points: y.
            start: Where Newton's method begins; near is fast, anything is right.
            steps: Of Newton's method, at most; those that are not needed are not taken.
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
        """The nearest feasible logits, by their levels; feasible to rounding for any levels."""
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
