r"""One sweep over the pairs of classes, in tiles of the upper triangle, with many reductions.

Every quantity of a pair comes from one matrix product a tile, the squared distance
:math:`d_{ij}^2 = \lVert m_i - m_j \rVert^2`. The vectors are centred beforehand, which removes most
of the cancellation; pairs for which that is not enough are done again from the vectors. Memory
is O(K D + tile^2), whatever the reductions.

Axes: K classes, k the first k of them, D embedding, I and J rows and columns of a tile, N pairs.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tightframe.moments.reductions import Aggregate, Pairs, PairSummary, Reduction

__all__ = ["Aggregate", "Cdnv", "PairSummary", "Pairs", "Quantity", "UnitDistance", "sweep"]

TILE = 512
# A squared distance below this share of the squared norms is taken from the vectors: there, the
# product of matrices has lost five of its sixteen digits. It is the rare case.
NEAR = 1e-5
# Points closer than this share of their norms are one point: the means are not known better.
SAME = 1e-12
# A debiased distance below this share of the plain one is 0.
ROUNDING = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Cdnv:
    r"""Mean variance of two classes over their distance, :math:`(s_i + s_j) / 2 / d_{ij}^{2p}`.

    With `noise`, the squared distance is debiased: :math:`d_{ij}^2 - v_i - v_j`, where
    :math:`v_c` is the expected squared error of a class mean. Pairs at distance 0, or debiased to
    0 or less, have no value; to a median, the latter count as infinite.
    """

    variances: Float[Tensor, " k"]
    power: int = 1
    noise: Float[Tensor, " k"] | None = None

    @property
    def k(self) -> int:
        """How many classes."""
        return len(self.variances)

    @property
    def debiased(self) -> Literal["infinite"] | None:
        """What pairs debiased to distance 0 or less count as to a median."""
        return None if self.noise is None else "infinite"


@dataclasses.dataclass(frozen=True, eq=False)
class UnitDistance:
    r"""Squared distance of two directions, :math:`2 - 2 \cos`, in [0, 4].

    It is taken from the distance of the points as
    :math:`(d_{ij}^2 - (r_i - r_j)^2) / (r_i r_j)`, which keeps its digits where the cosine is
    near 1, as it is for all pairs seen from far away. Pairs in one direction have no value;
    neither have those of a class whose norm is NaN, which has no direction. To a median, pairs
    debiased to 0 or less count as 0.
    """

    norms: Float[Tensor, " k"]  # distances to the origin that the directions are seen from
    origin: Float[Tensor, " D"]  # where that lies
    noise: Float[Tensor, " k"] | None = None  # as in Cdnv; the norms are then debiased, too

    @property
    def k(self) -> int:
        """How many classes."""
        return len(self.norms)

    @property
    def debiased(self) -> Literal["zero"] | None:
        """What pairs debiased to distance 0 or less count as to a median."""
        return None if self.noise is None else "zero"


Quantity: TypeAlias = Cdnv | UnitDistance


def sweep(
    points: Float[Tensor, "K D"],
    requests: Mapping[str, tuple[Quantity, Collection[Aggregate]]],
    *,
    tile: int = TILE,
    extremes: int = 20,
) -> dict[str, PairSummary]:
    """Reduce quantities over all pairs i < j of the first k points, k being the quantity's length.

    Args:
        points: One vector a class, float64, centred.
        requests: By a name of the caller's: the quantity, and what is wanted of it. "median",
            "tail" and "tail001" are exact, and need further sweeps (usually one) over their
            quantity only.
        tile: Pairs held at once are tile * tile; memory only, never the result.
        extremes: How many pairs "largest" and "smallest" keep.
    """
    if points.dtype != torch.float64:
        raise TypeError(f"points must be float64, got {points.dtype}")
    for name, value in (("tile", tile), ("extremes", extremes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    space = _Space(points, min(tile, len(points)))
    reductions = {
        name: Reduction(
            quantity.k,
            wanted,
            dim=points.shape[1],
            debiased=quantity.debiased,
            extremes=extremes,
            device=points.device,
        )
        for name, (quantity, wanted) in requests.items()
    }
    pending = list(reductions)
    while pending:
        for rows, columns in _upper_tiles(len(points), tile):
            distances = _squared_distances(space, rows, columns)
            for name in pending:
                _reduce(reductions[name], requests[name][0], space, distances, rows, columns)
        pending = [name for name in pending if not reductions[name].end_pass()]
    return {name: reduction.summary for name, reduction in reductions.items()}


def _upper_tiles(n_points: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, n_points, tile):
        for j in range(i, n_points, tile):
            yield slice(i, min(i + tile, n_points)), slice(j, min(j + tile, n_points))


class _Space:
    """The points, and the memory that all tiles share: fresh pages cost more than the sums."""

    def __init__(self, points: Tensor, tile: int) -> None:
        self.points = points
        self.squared_norms = points.square().sum(1)  # (K,)
        self._memory = points.new_empty(4, tile * tile)

    def distances(self, rows: slice, columns: slice) -> Tensor:
        return self._view(0, rows, columns)

    def values(self, rows: slice, columns: slice) -> Tensor:
        return self._view(1, rows, columns)

    def spare(self, rows: slice, columns: slice) -> Tensor:
        return self._view(2, rows, columns)

    def scale(self, rows: slice, columns: slice) -> Tensor:
        """Sum of the squared norms (I, J)."""
        norms = self.squared_norms
        out = self._view(3, rows, columns)
        return torch.add(norms[rows, None], norms[columns], out=out)

    def _view(self, index: int, rows: slice, columns: slice) -> Tensor:
        n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
        return self._memory[index, : n_rows * n_columns].view(n_rows, n_columns)


def _squared_distances(space: _Space, rows: slice, columns: slice) -> Tensor:
    """Squared distances of a tile (I, J); NaN on and below the diagonal of all pairs."""
    left, right, norms = space.points[rows], space.points[columns], space.squared_norms
    scale = space.scale(rows, columns)
    squared = torch.addmm(scale, left, right.T, alpha=-2, out=space.distances(rows, columns))
    if rows == columns:
        squared.masked_fill_(torch.ones_like(squared, dtype=torch.bool).tril_(), math.nan)
    # NaN compares as False: tiles with absent pairs are looked at in full.
    if not bool(squared.min() >= NEAR * (norms[rows].max() + norms[columns].max())):
        near = squared < scale.mul_(NEAR)
        if bool(near.any()):
            i, j = near.nonzero(as_tuple=True)
            squared[i, j] = _gaps(left, right, i, j, scale[i, j] / NEAR)
    return squared


def _gaps(left: Tensor, right: Tensor, i: Tensor, j: Tensor, scale: Tensor) -> Tensor:
    """Squared distances of some pairs, from the vectors; 0 where they are the same to float64."""
    parts = max(1, i.numel() * left.shape[1] >> 20)  # of 8 MiB
    gaps = [
        (left[part_i] - right[part_j]).square_().sum(1)
        for part_i, part_j in zip(i.tensor_split(parts), j.tensor_split(parts), strict=True)
    ]
    squared = torch.cat(gaps)
    return squared.masked_fill_(squared <= SAME**2 * scale, 0)


def _reduce(
    reduction: Reduction,
    quantity: Quantity,
    space: _Space,
    distances: Tensor,
    rows: slice,
    columns: slice,
) -> None:
    """Give a reduction what a tile (I, J) of squared distances holds of its quantity."""
    rows, columns = (slice(part.start, min(part.stop, reduction.k)) for part in (rows, columns))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    distances = distances[: rows.stop - rows.start, : columns.stop - columns.start]
    if isinstance(quantity, Cdnv):
        values, base = _cdnv(quantity, space, distances, rows, columns)
    else:
        values = _unit_distances(quantity, space, distances, rows, columns)
        base = values
    reduction.add(values, base, rows, columns, space.spare(rows, columns))


def _cdnv(
    quantity: Cdnv, space: _Space, distances: Tensor, rows: slice, columns: slice
) -> tuple[Tensor, Tensor]:
    """The ratios of a tile (I, J), and the distances in them."""
    distances = _debiased(quantity.noise, space, distances, rows, columns)
    half = quantity.variances / 2
    values = torch.add(half[rows, None], half[columns], out=space.values(rows, columns))
    for _ in range(quantity.power):
        values.div_(distances)
    return values, distances


def _unit_distances(
    quantity: UnitDistance, space: _Space, distances: Tensor, rows: slice, columns: slice
) -> Tensor:
    """Squared distances of the directions of a tile (I, J); NaN where one has no direction."""
    left, right = quantity.norms[rows], quantity.norms[columns]
    distances = _debiased(quantity.noise, space, distances, rows, columns)
    values = torch.sub(left[:, None], right, out=space.values(rows, columns))
    torch.addcmul(distances, values, values, value=-1, out=values)
    if quantity.noise is None:
        _repair(quantity, space, values, rows, columns)
    else:
        _without_rounding(values, distances)
    inverse_left, inverse_right = left.reciprocal(), right.reciprocal()
    return values.mul_(inverse_left[:, None]).mul_(inverse_right)


def _repair(
    quantity: UnitDistance, space: _Space, values: Tensor, rows: slice, columns: slice
) -> None:
    """Take near directions from the vectors; the values are not divided by the norms yet."""
    left, right, norms = quantity.norms[rows], quantity.norms[columns], space.squared_norms
    # The size of what was subtracted: the distances' own parts, and the gap of the norms.
    both = torch.cat([left, right]).square()
    lost = norms[rows].max() + norms[columns].max() + both.max() - both.min()
    if bool(values.min() >= NEAR * lost):
        return
    scale = space.scale(rows, columns)
    scale += (left.square()[:, None] - right.square()).abs_()
    near = values < scale.mul_(NEAR)
    if not bool(near.any()):
        return
    i, j = near.nonzero(as_tuple=True)
    from_left, from_right = (
        (space.points[part] - quantity.origin) / quantity.norms[part, None]
        for part in (rows, columns)
    )
    gaps = _gaps(from_left, from_right, i, j, torch.full_like(left[i], 2.0))
    values[i, j] = gaps.mul_(left[i]).mul_(right[j])


def _debiased(
    noise: Tensor | None, space: _Space, distances: Tensor, rows: slice, columns: slice
) -> Tensor:
    if noise is None:
        return distances
    out = space.spare(rows, columns)
    torch.sub(distances, torch.add(noise[rows, None], noise[columns], out=out), out=out)
    return _without_rounding(out, distances)


def _without_rounding(differences: Tensor, minuends: Tensor) -> Tensor:
    """Set differences to 0 of which nothing is left but rounding."""
    if not bool(differences.min() > ROUNDING * minuends.max()):
        differences.masked_fill_(differences <= ROUNDING * minuends, 0)
    return differences
