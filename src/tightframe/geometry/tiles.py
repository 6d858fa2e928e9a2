"""Tiles of the matrix of all pairs: their squared distances, and fast elementwise passes over them.

NumPy does elementwise passes several times faster than torch on few CPU cores. Of a tile of
float64 numbers on one core with AVX-512, torch and NumPy need, in nanoseconds per number: logarithm
2.0 and 0.6, exponential 1.5 and 0.65, square root 1.7 and 1.0, comparison 0.35 and 0.1, what a mask
of few selects 0.8 and 0.15, minimum 0.3 and 0.09. NumPy's loops run on one core: beyond four, as on
other devices, torch's are used. Where torch shares its loops among the cores, the others wait for
NumPy in vain in between, at full power: on two cores that doubled the processor time of a sweep.
So each core gets one thread with all loops of its own tiles.

Squared distances come from one matrix product per tile. Centred points lose little by that; pairs
for which it is too much are computed again from the vectors.

Axes: K points, D dimensions, I and J rows and columns of a tile, N pairs, n selected numbers.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tightframe.geometry.closed_forms import squared_norms_about

FACTOR = 1e-37  # eight numbers above it multiply to one that keeps all digits
CORES = 4  # up to which one core by NumPy is faster than all by torch


def by_numpy(values: Float[Tensor, "..."]) -> bool:
    """Return whether NumPy is faster than torch here."""
    return values.device.type == "cpu" and torch.get_num_threads() <= CORES


def log(values: Float[Tensor, "..."], *, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Compute the logarithm of positive numbers; NumPy's is faster only with AVX-512."""
    if by_numpy(values) and torch.backends.cpu.get_cpu_capability() == "AVX512":
        np.log(values.numpy(), out=out.numpy())
        return out
    return torch.log(values, out=out)


def sum_of_logs(values: Float[Tensor, " n"], least: float, *, spare: Float[Tensor, " n"]) -> float:
    """Sum the logarithms of positive numbers, as logarithms of products of eight."""
    parts = values.numel() // 8
    if parts and least > FACTOR:
        half = 4 * parts
        products = torch.mul(values[:half], values[half : 2 * half], out=spare[:half])
        while half > parts:
            half //= 2
            products = products[:half].mul_(products[half:])
        total = float(log(products, out=products).sum())
        if total < math.inf:
            rest = values[8 * parts :]
            return total + float(log(rest, out=spare[: rest.numel()]).sum())
    return float(log(values, out=spare).sum())


def exp(values: Float[Tensor, "..."], *, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Compute the exponential of numbers below 709; NumPy's is faster only with AVX-512."""
    if by_numpy(values) and torch.backends.cpu.get_cpu_capability() == "AVX512":
        np.exp(values.numpy(), out=out.numpy())
        return out
    return torch.exp(values, out=out)


def sqrt(values: Float[Tensor, "..."], *, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Compute the square root of numbers that are not negative."""
    if by_numpy(values):
        np.sqrt(values.numpy(), out=out.numpy())
        return out
    return torch.sqrt(values, out=out)


def minimum(values: Float[Tensor, "..."]) -> float:
    """Return the smallest number; NaN if one is."""
    return float(values.numpy().min() if by_numpy(values) else values.min())


def minimum_present(values: Float[Tensor, "..."]) -> float:
    """Return the smallest number that is not NaN; NaN if there is none."""
    if by_numpy(values):
        return float(np.fmin.reduce(values.numpy(), axis=None))
    return float(values[~values.isnan()].amin()) if not values.isnan().all() else math.nan


def maximum(values: Float[Tensor, "..."]) -> float:
    """Return the largest number; NaN if one is."""
    return float(values.numpy().max() if by_numpy(values) else values.max())


def minimum_along(values: Float[Tensor, "I J"], dim: int) -> Float[Tensor, " n"]:
    """Return the smallest numbers along a dimension."""
    if by_numpy(values) and dim == 0:
        return torch.from_numpy(values.numpy().min(0))
    return values.amin(dim)


def argmin_along(
    values: Float[Tensor, "I J"], dim: int, of: Int64[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Find the first of the smallest numbers along a dimension, of some rows or columns."""
    if by_numpy(values):
        return torch.from_numpy(values.numpy().take(of.numpy(), 1 - dim).argmin(dim))
    return values.index_select(1 - dim, of).argmin(dim)


def greater(values: Float[Tensor, "..."], bound: float) -> Bool[Tensor, "..."]:
    """Return which numbers are larger than the bound."""
    return torch.from_numpy(values.numpy() > bound) if by_numpy(values) else values > bound


def greater_equal(values: Float[Tensor, "..."], bound: float) -> Bool[Tensor, "..."]:
    """Return which numbers are the bound or larger."""
    return torch.from_numpy(values.numpy() >= bound) if by_numpy(values) else values >= bound


def count_true(mask: Bool[Tensor, "..."]) -> int:
    """Count the true values of a mask."""
    if mask.device.type == "cpu":
        return int(np.count_nonzero(mask.numpy()))
    return int(mask.count_nonzero())


def masked(values: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, " n"]:
    """Return the numbers where the mask is true."""
    if not by_numpy(values):
        return values[mask]
    # By indices, where many are left out: a mask of no pattern costs eight times as much.
    if count_true(mask) < 0.95 * mask.numel():
        return torch.from_numpy(np.compress(mask.numpy().ravel(), values.numpy()))
    return torch.from_numpy(values.numpy()[mask.numpy()])


@contextmanager
def apart(device: torch.device) -> Iterator[int]:
    """Set torch to one core per thread where NumPy is used; yield the number of threads."""
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores > CORES:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield cores
    finally:
        torch.set_num_threads(cores)


def side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run each task in its own thread; raise the first error when all have ended."""
    if len(tasks) == 1:
        tasks[0]()
        return
    inference = torch.is_inference_mode_enabled()  # of this thread; others start without

    def run(task: Callable[[], None]) -> None:
        with torch.inference_mode(inference):
            task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for future in [pool.submit(run, task) for task in tasks]:
            future.result()


# A squared distance below this share of the squared norms is computed from the vectors: there, the
# product of matrices has lost five of its sixteen digits. It is the rare case.
NEAR = 1e-5
# Points closer than this share of their norms are one point: the means are not known better.
SAME = 1e-12
# A debiased distance below this share of the plain one is 0.
ROUNDING = 1e-10
BUFFERS = 5


class BlockMinMax:
    """Minimum and maximum of stretches of some numbers, searched once in each.

    All tiles need the same few stretches; NaN if one of the numbers is.
    """

    def __init__(self, numbers: Float[Tensor, " K"]) -> None:
        self._numbers = numbers
        self._found: dict[tuple[int, int], tuple[float, float]] = {}

    def __call__(self, part: slice) -> tuple[float, float]:
        """Return the minimum and maximum of one stretch."""
        ends = part.start, part.stop
        if ends not in self._found:
            low, high = self._numbers[part].aminmax()
            self._found[ends] = float(low), float(high)
        return self._found[ends]


class Subspace:
    """Points in some dimensions, and the memory that all tiles share.

    Fresh pages cost more than the sums. Squared distances grow from space to space: `inner` is the
    space of fewer dimensions whose distances of the same tile are in the shared memory before.
    """

    def __init__(
        self,
        points: Float[Tensor, "K d"],
        memory: Float[Tensor, "buffers n"],
        added: Float[Tensor, "K a"],
        inner: "Subspace | None" = None,
    ) -> None:
        """Use `added`, the dimensions that the inner space lacks, for distances.

        The points themselves are used where the product of matrices is not exact enough.
        """
        self.points = points
        self.grown = inner is not None
        self.added = added
        added_norms = squared_norms_about(added)
        self.squared_norms = added_norms  # (K,)
        if inner is not None:
            self.squared_norms = inner.squared_norms + added_norms
            # Few dimensions as a rule: with the norms as factors, one product adds all of them.
            ones, norms = torch.ones_like(added_norms)[:, None], added_norms[:, None]
            self.left = torch.cat([-2 * added, norms, ones], 1)
            self.right = torch.cat([added, ones, norms], 1)
        self.ranges = BlockMinMax(self.squared_norms)
        self.memory = memory

    def beside(self, memory: Float[Tensor, "buffers n"]) -> "Subspace":
        """Return the same subspace with memory of its own."""
        twin = copy.copy(self)
        twin.memory = memory
        return twin

    def distances(self, rows: slice, columns: slice) -> Float[Tensor, "I J"]:
        """Return memory for the squared distances of a tile."""
        return self._view(0, rows, columns)

    def values(self, rows: slice, columns: slice) -> Float[Tensor, "I J"]:
        """Return memory for the values of a tile."""
        return self._view(1, rows, columns)

    def spare(self, rows: slice, columns: slice, index: int = 0) -> Float[Tensor, "I J"]:
        """Return one of two pieces of memory to work in."""
        return self._view(2 + index, rows, columns)

    def debiased(self, rows: slice, columns: slice) -> Float[Tensor, "I J"]:
        """Return memory for the debiased distances of a tile."""
        return self._view(4, rows, columns)

    def scale(
        self, rows: slice, columns: slice, norms: Float[Tensor, " K"]
    ) -> Float[Tensor, "I J"]:
        """Return the sums of squared norms, in the second spare memory."""
        return torch.add(norms[rows, None], norms[columns], out=self.spare(rows, columns, 1))

    def _view(self, index: int, rows: slice, columns: slice) -> Tensor:
        n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
        return self.memory[index, : n_rows * n_columns].view(n_rows, n_columns)


def spaces(
    points: Float[Tensor, "K D"],
    rotated: Float[Tensor, "K D"] | None,
    dims: set[int],
    tile: int,
) -> dict[int, Subspace]:
    """Return the subspaces of the first dimensions for each number in `dims`, each in the next.

    With `rotated`, all but the whole space are of its dimensions. The same points, seen in other
    axes, have the same distances: those of the whole space still grow out of the others.
    """
    memory = points.new_empty(BUFFERS, min(tile, len(points)) ** 2)
    seen = points if rotated is None else rotated
    found: dict[int, Subspace] = {}
    inner, before = None, 0
    for dim in sorted(dims):
        own = points if dim == points.shape[1] else seen[:, :dim]
        # Alone, the whole space needs no other axes.
        added = own if inner is None else seen[:, before:dim]
        inner = found[dim] = Subspace(own, memory, added, inner)
        before = dim
    return found


def squared_distances(
    space: Subspace, rows: slice, columns: slice, inner_least: float = math.nan
) -> tuple[Float[Tensor, "I J"], float]:
    """Compute the squared distances of a tile, and a lower bound of them.

    On and below the diagonal of all pairs they are NaN, and so is the bound. Those of the inner
    space, if there is one, are in the memory before; `inner_least` is what none of them is below.
    """
    norms = space.squared_norms
    squared = space.distances(rows, columns)
    if space.grown:
        squared.addmm_(space.left[rows], space.right[columns].T)
    else:
        start = space.scale(rows, columns, norms)
        torch.addmm(start, space.added[rows], space.added[columns].T, alpha=-2, out=squared)
    if rows == columns:
        squared.masked_fill_(torch.ones_like(squared, dtype=torch.bool).tril_(), math.nan)
    # NaN compares as False: a tile without pairs is searched in full.
    largest = space.ranges(rows)[1] + space.ranges(columns)[1]
    if inner_least >= NEAR * largest:  # more dimensions, larger distances
        return squared, inner_least
    least = minimum(squared)
    present = minimum_present(squared) if math.isnan(least) else least
    if not present >= NEAR * largest:
        scale = space.scale(rows, columns, norms)
        near = squared < scale.mul_(NEAR)
        if bool(near.any()):
            i, j = near.nonzero(as_tuple=True)
            left, right = space.points[rows], space.points[columns]
            squared[i, j] = gaps(left, right, i, j, scale[i, j] / NEAR)
            least = minimum(squared)
    return squared, least


def gaps(
    left: Float[Tensor, "I d"],
    right: Float[Tensor, "J d"],
    i: Int64[Tensor, " N"],
    j: Int64[Tensor, " N"],
    scale: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Compute squared distances of some pairs from the vectors; 0 where they are equal."""
    parts = max(1, i.numel() * left.shape[1] >> 20)  # of 8 MiB
    found = [
        (left[part_i] - right[part_j]).square_().sum(1)
        for part_i, part_j in zip(i.tensor_split(parts), j.tensor_split(parts), strict=True)
    ]
    squared = torch.cat(found)
    return squared.masked_fill_(squared <= SAME**2 * scale, 0)


def without_rounding(
    differences: Float[Tensor, "I J"], minuends: Float[Tensor, "I J"]
) -> Float[Tensor, "I J"]:
    """Set differences to 0 of which only rounding is left."""
    if not minimum(differences) > ROUNDING * maximum(minuends):
        differences.masked_fill_(differences <= ROUNDING * minuends, 0)
    return differences
