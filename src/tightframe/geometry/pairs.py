r"""One sweep over the pairs of classes, in tiles of the upper triangle, with many reductions.

Every quantity of a pair comes from one matrix product per tile, the squared distance
:math:`d_{ij}^2 = \lVert m_i - m_j \rVert^2`. The vectors are centred beforehand, which removes most
of the cancellation. Memory is O(K D + tile^2) per core, whatever the reductions.

Axes: K classes, k the first k of them, D embedding, I and J rows and columns of a tile, N pairs.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tightframe.geometry import tiles
from tightframe.geometry.noise import Joint
from tightframe.geometry.order_statistics import Pairs
from tightframe.geometry.pair_statistics import KEPT, Aggregate, PairSummary, Reduction
from tightframe.geometry.tiles import NEAR, BlockMinMax, Subspace

__all__ = ["Aggregate", "Cdnv", "PairSummary", "Pairs", "Quantity", "UnitDistance", "sweep"]

TILE = 512
# Classes of a group, of which those of one half are sampled with those of the other.
GROUP = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Cdnv:
    r"""Mean variance of two classes over their distance, :math:`(s_i + s_j) / 2 / d_{ij}^{2p}`.

    With `noise`, the squared distance is debiased: :math:`d_{ij}^2 - v_i - v_j`, where
    :math:`v_c` is the expected squared error of a class mean; with `joint`, also
    :math:`+ 2 C_{ij}` with the errors' covariance. Pairs at distance 0, or debiased to
    0 or less, have no value; to a median, the latter count as infinite.
    """

    variances: Float[Tensor, " k"]
    power: int = 1
    noise: Float[Tensor, " k"] | None = None
    joint: Joint | None = None

    @property
    def k(self) -> int:
        """Number of classes."""
        return len(self.variances)

    @property
    def debiased(self) -> Literal["infinite"] | None:
        """Value in a median of pairs that are debiased to distance 0 or less."""
        return None if self.noise is None else "infinite"


@dataclasses.dataclass(frozen=True, eq=False)
class UnitDistance:
    r"""Squared distance of two directions, :math:`2 - 2 \cos`, in [0, 4].

    It is computed from the distance of the points as
    :math:`(d_{ij}^2 - (r_i - r_j)^2) / (r_i r_j)`, which keeps its digits where the cosine is
    near 1, as it is for all pairs seen from far away. Pairs in one direction have no value;
    neither have those of a class whose norm is NaN, which has no direction. To a median, pairs
    debiased to 0 or less count as 0.
    """

    norms: Float[Tensor, " k"]  # distances to the origin that the directions are seen from
    origin: Float[Tensor, " d"]  # where that lies; of the points, the first d dimensions count
    noise: Float[Tensor, " k"] | None = None  # as in Cdnv; the norms are then also debiased
    joint: Joint | None = None  # as in Cdnv

    @property
    def k(self) -> int:
        """Number of classes."""
        return len(self.norms)

    @property
    def debiased(self) -> Literal["zero"] | None:
        """Value in a median of pairs that are debiased to distance 0 or less."""
        return None if self.noise is None else "zero"

    @functools.cached_property
    def ranges(self) -> BlockMinMax:
        """Minimum and maximum of stretches of the norms."""
        return BlockMinMax(self.norms)


Quantity: TypeAlias = Cdnv | UnitDistance
Wanted: TypeAlias = tuple[Quantity, Reduction]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Quantities of one subspace that are computed from the same distances."""

    k: int
    noise: Float[Tensor, " k"] | None
    joint: Joint | None
    members: list[Wanted]

    def takes(self, quantity: Quantity) -> bool:
        """Return whether a quantity belongs to this group."""
        if self.k != quantity.k:
            return False
        mine, its = ((one.noise, *(one.joint or (None, None))) for one in (self, quantity))
        return all(_same(a, b) for a, b in zip(mine, its, strict=True))


_Plan: TypeAlias = list[tuple[Subspace, list[_Group]]]


def sweep(
    points: Float[Tensor, "K D"],
    requests: Mapping[str, tuple[Quantity, Collection[Aggregate]]],
    *,
    rotated: Float[Tensor, "K D"] | None = None,
    tile: int = TILE,
    extremes: int = 20,
) -> dict[str, PairSummary]:
    """Reduce quantities over all pairs i < j of the first k points, k being the quantity's length.

    Args:
        points: One vector per class, float64, centred.
        requests: By any name: the quantity, and its aggregates. "median",
            "tail" and "tail001" are exact; where a sample misleads about their place, they need
            further sweeps over their quantity only.
        rotated: The same points in other orthogonal axes: quantities of fewer than D dimensions
            is then about the first of these.
        tile: Pairs held at once by a core are tile * tile; memory only, never the result.
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
    with tiles.apart(points.device) as n_cores:
        if len(points) * (len(points) - 1) // 2 <= KEPT:
            n_cores = 1
        sampled = [(quantity, it) for quantity, it in wanted.values() if it.wants_sample]
        _sample(points, rotated, sampled)
        pending = list(wanted.values())
        while pending:
            _pass(points, rotated, pending, tile, n_cores)
            pending = [(quantity, it) for quantity, it in pending if not it.end_pass()]
            n_cores = 1  # a pass that a misleading sample costs is a rare one
    return {name: reduction.summary for name, (_, reduction) in wanted.items()}


def _pass(
    points: Tensor, rotated: Tensor | None, wanted: Sequence[Wanted], tile: int, n_cores: int
) -> None:
    """Pass all tiles to the reductions; each core has parts of them, which are then joined."""
    places = list(_upper_tiles(len(points), tile))
    own = _plan(points, rotated, wanted, tile)
    plans, parts = [own], []
    for _ in range(n_cores - 1):
        memory = torch.empty_like(own[0][0].memory)
        part: dict[int, Reduction] = {id(it): it.part() for _, it in wanted}
        groups = [
            (
                space.beside(memory),
                [
                    dataclasses.replace(g, members=[(q, part[id(it)]) for q, it in g.members])
                    for g in here
                ],
            )
            for space, here in own
        ]
        plans.append(groups)
        parts.append(part)

    def work(first: int) -> None:
        for rows, columns in places[first::n_cores]:
            least = math.nan
            for space, groups in plans[first]:
                squared, least = tiles.squared_distances(space, rows, columns, least)
                for group in groups:
                    _reduce(group, space, squared, least, rows, columns)

    tiles.side_by_side([functools.partial(work, first) for first in range(n_cores)])
    for part in parts:
        for _, reduction in wanted:
            reduction.join(part[id(reduction)])


def _plan(points: Tensor, rotated: Tensor | None, wanted: Sequence[Wanted], tile: int) -> _Plan:
    """Return the subspaces of the quantities, each in the next, with their quantities."""
    by_dim: dict[int, list[_Group]] = {}
    for quantity, reduction in wanted:
        groups = by_dim.setdefault(_dim(quantity, points), [])
        group = next((group for group in groups if group.takes(quantity)), None)
        if group is None:
            groups.append(group := _Group(quantity.k, quantity.noise, quantity.joint, []))
        group.members.append((quantity, reduction))
    found = tiles.spaces(points, rotated, set(by_dim), tile)
    return [(space, by_dim[dim]) for dim, space in found.items()]


def _dim(quantity: Quantity, points: Tensor) -> int:
    """Return the number of dimensions that a quantity is about."""
    return points.shape[1] if isinstance(quantity, Cdnv) else len(quantity.origin)


def _sample(points: Tensor, rotated: Tensor | None, wanted: Sequence[Wanted]) -> None:
    """Pass pairs between both halves of random groups of classes to the reductions.

    Every class is in one group of nearly one size, so that a few unlike classes don't mislead.
    """
    generator = torch.Generator().manual_seed(0)
    for k in sorted({quantity.k for quantity, _ in wanted}):
        mine = [(quantity, reduction) for quantity, reduction in wanted if quantity.k == k]
        whole = all(_dim(quantity, points) == points.shape[1] for quantity, _ in mine)
        axes = None if whole else rotated
        for ids in torch.randperm(k, generator=generator).tensor_split(-(-k // GROUP)):
            ids, half = ids.to(points.device), len(ids) // 2
            if half == 0:
                continue
            rows, columns = slice(0, half), slice(half, len(ids))
            parts = [(_part(quantity, ids), reduction) for quantity, reduction in mine]
            here, least = None if axes is None else axes[ids], math.nan
            for space, groups in _plan(points[ids], here, parts, len(ids)):
                squared, least = tiles.squared_distances(space, rows, columns, least)
                for group in groups:
                    base, least_base = _base(group, space, squared, least, rows, columns)
                    for part, reduction in group.members:
                        values, its, found = _values(part, space, base, least_base, rows, columns)
                        reduction.sample(values, its, least=found)
    for _, reduction in wanted:
        reduction.end_sample()


def _part(quantity: Quantity, ids: Tensor) -> Quantity:
    """Restrict a quantity to some of its classes."""
    noise = None if quantity.noise is None else quantity.noise[ids]
    joint = None if quantity.joint is None else quantity.joint.of(ids)
    if isinstance(quantity, Cdnv):
        variances = quantity.variances[ids]
        return dataclasses.replace(quantity, variances=variances, noise=noise, joint=joint)
    return dataclasses.replace(quantity, norms=quantity.norms[ids], noise=noise, joint=joint)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else a is b or torch.equal(a, b)


def _upper_tiles(n_points: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, n_points, tile):
        for j in range(i, n_points, tile):
            yield slice(i, min(i + tile, n_points)), slice(j, min(j + tile, n_points))


def _reduce(
    group: _Group, space: Subspace, squared: Tensor, least: float, rows: slice, columns: slice
) -> None:
    """Pass a tile (I, J) of squared distances to the reductions of a group."""
    cut = [slice(part.start, min(part.stop, group.k)) for part in (rows, columns)]
    if any(part.start >= part.stop for part in cut):
        return
    if cut != [rows, columns]:
        rows, columns = cut
        squared = squared[: rows.stop - rows.start, : columns.stop - columns.start]
        least = tiles.minimum(squared)
    base, least = _base(group, space, squared, least, rows, columns)
    spares = (space.spare(rows, columns), space.spare(rows, columns, 1))
    for quantity, reduction in group.members:
        if reduction.only_mean_log and isinstance(quantity, UnitDistance):
            total = _sum_of_logs(quantity, space, base, rows, columns)
            if total is not None:
                reduction.add_sum_of_logs(total, squared.numel())
                continue
        values, its, least_value = _values(quantity, space, base, least, rows, columns)
        reduction.add(values, its, rows, columns, spares, least=least_value)


def _base(
    group: _Group, space: Subspace, squared: Tensor, least: float, rows: slice, columns: slice
) -> tuple[Tensor, float]:
    """Return the distances of a tile (I, J), debiased for the group, and a lower bound."""
    if group.noise is None:
        return squared, least
    out = space.debiased(rows, columns)
    torch.add(group.noise[rows, None], group.noise[columns], out=out)
    if group.joint is not None:
        out.addmm_(*group.joint.between(rows, columns), alpha=-2)
    torch.sub(squared, out, out=out)
    tiles.without_rounding(out, squared)
    return out, tiles.minimum(out)


def _values(
    quantity: Quantity, space: Subspace, base: Tensor, least: float, rows: slice, columns: slice
) -> tuple[Tensor, Tensor, float]:
    """Return the values of a tile (I, J), what is positive where they exist, its minimum."""
    if isinstance(quantity, Cdnv):
        half = quantity.variances / 2
        values = torch.add(half[rows, None], half[columns], out=space.values(rows, columns))
        for _ in range(quantity.power):
            values.div_(base)
        return values, base, least
    values, least = _unit_distances(quantity, space, base, rows, columns)
    return values, values, least


def _unit_distances(
    quantity: UnitDistance, space: Subspace, base: Tensor, rows: slice, columns: slice
) -> tuple[Tensor, float]:
    """Compute squared distances of the directions of a tile (I, J); NaN without direction."""
    values = _times_norms(quantity, space, base, rows, columns)
    if quantity.noise is not None:
        tiles.without_rounding(values, base)
    left, right = quantity.norms[rows], quantity.norms[columns]
    values.mul_(left.reciprocal()[:, None]).mul_(right.reciprocal())
    least = tiles.minimum(values)
    if quantity.noise is not None:
        return values, least
    present = tiles.minimum_present(values) if math.isnan(least) else least
    smallest = present * quantity.ranges(rows)[0] * quantity.ranges(columns)[0]
    if not smallest >= _near(quantity, space, rows, columns):
        least = _repair(quantity, space, values, rows, columns)
    return values, least


def _sum_of_logs(
    quantity: UnitDistance, space: Subspace, base: Tensor, rows: slice, columns: slice
) -> float | None:
    """Sum the logarithms of squared distances of directions; None where some are near 0.

    The norms, which all pairs of a class share, are divided by in the end.
    """
    if quantity.noise is not None:
        return None
    values = _times_norms(quantity, space, base, rows, columns)
    least = tiles.minimum(values)
    if not least >= _near(quantity, space, rows, columns):
        return None
    total = tiles.sum_of_logs(values.flatten(), least, spare=space.spare(rows, columns).flatten())
    left, right = (float(quantity.norms[part].log().sum()) for part in (rows, columns))
    return total - left * values.shape[1] - right * values.shape[0]


def _times_norms(
    quantity: UnitDistance, space: Subspace, base: Tensor, rows: slice, columns: slice
) -> Tensor:
    """Compute squared distances of the directions of a tile (I, J), times both norms."""
    left, right = quantity.norms[rows], quantity.norms[columns]
    values = torch.sub(left[:, None], right, out=space.values(rows, columns))
    return torch.addcmul(base, values, values, value=-1, out=values)


def _near(quantity: UnitDistance, space: Subspace, rows: slice, columns: slice) -> float:
    """Return the bound, times both norms, below which digits are lost; NaN without direction."""
    (low, high), (first, last) = quantity.ranges(rows), quantity.ranges(columns)
    # The size of what was subtracted: the distances' own parts, and the gap of the norms.
    gap = max(high, last) ** 2 - min(low, first) ** 2
    return NEAR * (space.ranges(rows)[1] + space.ranges(columns)[1] + gap)


def _repair(
    quantity: UnitDistance, space: Subspace, values: Tensor, rows: slice, columns: slice
) -> float:
    """Compute near directions from the vectors; return the minimum."""
    left, right = quantity.norms[rows], quantity.norms[columns]
    scale = space.scale(rows, columns, space.squared_norms)
    scale += (left.square()[:, None] - right.square()).abs_()
    scale.div_(left[:, None]).div_(right)
    near = values < scale.mul_(NEAR)
    if bool(near.any()):
        i, j = near.nonzero(as_tuple=True)
        from_left, from_right = (
            (space.points[part] - quantity.origin) / quantity.norms[part, None]
            for part in (rows, columns)
        )
        values[i, j] = tiles.gaps(from_left, from_right, i, j, torch.full_like(left[i], 2.0))
    return tiles.minimum(values)
