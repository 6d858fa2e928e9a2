r"""One sweep over the pairs of classes, in tiles of the upper triangle, with many reductions.

Every quantity of a pair comes from one matrix product a tile, the squared distance
:math:`d_{ij}^2 = \lVert m_i - m_j \rVert^2`. The vectors are centred beforehand, which removes most
of the cancellation; pairs for which that is not enough are done again from the vectors. Memory
is O(K D + tile^2), whatever the reductions.

Axes: K classes, k the first k of them, D embedding, I and J rows and columns of a tile, N pairs.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tightframe.moments import elementwise
from tightframe.moments.geometry import squared_norms
from tightframe.moments.reductions import Aggregate, Pairs, PairSummary, Reduction

__all__ = ["Aggregate", "Cdnv", "PairSummary", "Pairs", "Quantity", "UnitDistance", "sweep"]

TILE = 512
# A squared distance below this share of the squared norms is taken from the vectors: there, the
# product of matrices has lost five of its sixteen digits. It is the rare case.
NEAR = 1e-5
# Points closer than this share of their norms are one point: the means are not known better.
SAME = 1e-12
# Classes of a group, all pairs in which are sampled.
GROUP = 128
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
    origin: Float[Tensor, " d"]  # where that lies; of the points, the first d dimensions count
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
Wanted: TypeAlias = tuple[Quantity, Reduction]


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
            "tail" and "tail001" are exact; where a sample misleads about where they are, they need
            further sweeps over their quantity only.
        tile: Pairs held at once are tile * tile; memory only, never the result.
        extremes: How many pairs "largest" and "smallest" keep.
    """
    if points.dtype != torch.float64:
        raise TypeError(f"points must be float64, got {points.dtype}")
    for name, value in (("tile", tile), ("extremes", extremes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    wanted = {
        name: (
            quantity,
            Reduction(
                quantity.k,
                aggregates,
                dim=_dim(quantity, points),
                debiased=quantity.debiased,
                extremes=extremes,
                device=points.device,
            ),
        )
        for name, (quantity, aggregates) in requests.items()
    }
    _sample(points, [(quantity, it) for quantity, it in wanted.values() if it.wants_sample])
    pending = list(wanted.values())
    while pending:
        spaces = _spaces(points, pending, tile)
        for rows, columns in _upper_tiles(len(points), tile):
            for space, here in spaces:
                distances = _squared_distances(space, rows, columns)
                for quantity, reduction in here:
                    _reduce(reduction, quantity, space, distances, rows, columns)
        pending = [(quantity, it) for quantity, it in pending if not it.end_pass()]
    return {name: reduction.summary for name, (_, reduction) in wanted.items()}


def _dim(quantity: Quantity, points: Tensor) -> int:
    """How many dimensions of the points count."""
    return points.shape[1] if isinstance(quantity, Cdnv) else len(quantity.origin)


def _sample(points: Tensor, wanted: Sequence[Wanted]) -> None:
    """Show the reductions all pairs in random groups of classes.

    Every class is in one group of nearly one size, so that a few unlike classes don't mislead.
    """
    generator = torch.Generator().manual_seed(0)
    for k in {quantity.k for quantity, _ in wanted}:
        mine = [(quantity, reduction) for quantity, reduction in wanted if quantity.k == k]
        for ids in torch.randperm(k, generator=generator).tensor_split(-(-k // GROUP)):
            ids, whole = ids.to(points.device), slice(0, len(ids))
            for space, here in _spaces(points[ids], mine, len(ids)):
                distances = _squared_distances(space, whole, whole)
                for quantity, reduction in here:
                    part = _part(quantity, ids)
                    values, base = _values(part, space, distances, whole, whole)
                    reduction.sample(values, base, len(ids) * (len(ids) - 1) // 2)
    for _, reduction in wanted:
        reduction.end_sample()


def _part(quantity: Quantity, ids: Tensor) -> Quantity:
    """A quantity about some of its classes."""
    noise = None if quantity.noise is None else quantity.noise[ids]
    if isinstance(quantity, Cdnv):
        return dataclasses.replace(quantity, variances=quantity.variances[ids], noise=noise)
    return dataclasses.replace(quantity, norms=quantity.norms[ids], noise=noise)


def _upper_tiles(n_points: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, n_points, tile):
        for j in range(i, n_points, tile):
            yield slice(i, min(i + tile, n_points)), slice(j, min(j + tile, n_points))


class _Space:
    """The points in their first dimensions, and the memory that all tiles share.

    Fresh pages cost more than the sums. Squared distances grow from space to space: `inner` is the
    space of fewer dimensions whose distances of the same tile are in the shared memory before.
    """

    def __init__(self, points: Tensor, memory: Tensor, inner: "_Space | None" = None) -> None:
        self.points = points
        self.grown = inner is not None
        self.added = points if inner is None else points[:, inner.points.shape[1] :]
        self.added_norms = squared_norms(self.added)  # (K,)
        self.squared_norms = self.added_norms
        if inner is not None:
            self.squared_norms = inner.squared_norms + self.added_norms
        self.memory = memory

    def distances(self, rows: slice, columns: slice) -> Tensor:
        return self._view(0, rows, columns)

    def values(self, rows: slice, columns: slice) -> Tensor:
        return self._view(1, rows, columns)

    def spare(self, rows: slice, columns: slice, index: int = 0) -> Tensor:
        return self._view(2 + index, rows, columns)

    def scale(self, rows: slice, columns: slice, norms: Tensor) -> Tensor:
        """Sum of squared norms (I, J), in the second spare memory."""
        return torch.add(norms[rows, None], norms[columns], out=self.spare(rows, columns, 1))

    def _view(self, index: int, rows: slice, columns: slice) -> Tensor:
        n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
        return self.memory[index, : n_rows * n_columns].view(n_rows, n_columns)


def _spaces(
    points: Tensor, wanted: Sequence[Wanted], tile: int
) -> list[tuple[_Space, list[Wanted]]]:
    """The spaces that the quantities live in, each in the next, with those that do."""
    memory = points.new_empty(4, min(tile, len(points)) ** 2)
    dims = [_dim(quantity, points) for quantity, _ in wanted]
    spaces: list[tuple[_Space, list[Wanted]]] = []
    for dim in sorted(set(dims)):
        space = _Space(points[:, :dim], memory, spaces[-1][0] if spaces else None)
        spaces.append((space, [one for one, its in zip(wanted, dims, strict=True) if its == dim]))
    return spaces


def _squared_distances(space: _Space, rows: slice, columns: slice) -> Tensor:
    """Squared distances of a tile (I, J); NaN on and below the diagonal of all pairs."""
    left, right, norms = space.points[rows], space.points[columns], space.squared_norms
    squared = space.distances(rows, columns)
    start = space.scale(rows, columns, space.added_norms)
    if space.grown:
        start = squared.add_(start)
    torch.addmm(start, space.added[rows], space.added[columns].T, alpha=-2, out=squared)
    if rows == columns:
        squared.masked_fill_(torch.ones_like(squared, dtype=torch.bool).tril_(), math.nan)
    # NaN compares as False: tiles with absent pairs are looked at in full.
    largest = float(norms[rows].max() + norms[columns].max())
    if not elementwise.least(squared) >= NEAR * largest:
        scale = space.scale(rows, columns, norms)
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
    values, base = _values(quantity, space, distances, rows, columns)
    spares = (space.spare(rows, columns), space.spare(rows, columns, 1))
    reduction.add(values, base, rows, columns, spares)


def _values(
    quantity: Quantity, space: _Space, distances: Tensor, rows: slice, columns: slice
) -> tuple[Tensor, Tensor]:
    """The values of a tile (I, J), and what is positive where a pair has one."""
    if isinstance(quantity, Cdnv):
        return _cdnv(quantity, space, distances, rows, columns)
    values = _unit_distances(quantity, space, distances, rows, columns)
    return values, values


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
    if elementwise.least(values) >= NEAR * float(lost):
        return
    scale = space.scale(rows, columns, norms)
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
    if not elementwise.least(differences) > ROUNDING * elementwise.greatest(minuends):
        differences.masked_fill_(differences <= ROUNDING * minuends, 0)
    return differences
