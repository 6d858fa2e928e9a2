"""Batches of labelled embeddings, reduced to count, mean and sum of squares per class.

The rows are reduced in the order of their labels, so that a class is a segment and is summed in one
go: no one-hot, no atomic additions, and a label that half of the batch carries costs no more than a
rare one. All sums are float64, of deviations from an embedding of the class itself, so that a mean
a thousand standard deviations away from 0 costs no digits of the sum of squares.

Axes: N labelled positions, D embedding, n rows of a chunk, U classes of a chunk.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor

CHUNK = 2**18  # numbers reduced at once on a CPU: 2 MiB, which stays in the cache between steps


class Segments(NamedTuple):
    """Count, mean and within-class sum of squares of some distinct classes."""

    classes: Int[Tensor, " U"]
    counts: Int[Tensor, " U"]  # at least 1
    means: Float64[Tensor, "U D"]
    within_ss: Float64[Tensor, " U"]  # sum of squared distances to the mean
    deviations: Float64[Tensor, "n D"] | None = None  # of each row from the mean of its class
    owners: Int[Tensor, " n"] | None = None  # which of the U classes a row belongs to


class NonFiniteError(ValueError):
    """Error of an embedding that is NaN or infinite; `position` is its place in the batch."""

    def __init__(self, position: int, label: int):
        super().__init__(
            f"embedding {position} of the batch (label {label}) is not finite; "
            "did training diverge, or float16 overflow?"
        )
        self.position = position


def require_finite(
    embeddings: Float[Tensor, "N D"], labels: Int[Tensor, " N"], order: Int[Tensor, " n"]
) -> None:
    """Refuse NaN and infinities in the rows `order`; other rows may hold anything."""
    # One fast pass: a row that isn't finite makes the sum infinite or NaN. So may rows that are not
    # used, or an overflow, hence the second look.
    if bool(embeddings.sum().isfinite()):
        return
    rows = order.sort().values
    bad = rows[~embeddings[rows].isfinite().all(1)]
    if len(bad):
        raise NonFiniteError(int(bad[0]), int(labels[bad[0]]))


class Reducer:
    """Reducer of batches to segments; it keeps its buffers, as fresh memory costs as much as sums.

    A class may continue in the next chunk; merging both is the same as merging it whole.
    """

    def __init__(self) -> None:
        self._buffers: tuple[Tensor, Tensor, Tensor] | None = None

    def segments(
        self,
        embeddings: Float[Tensor, "N D"],
        labels: Int[Tensor, " N"],
        order: Int[Tensor, " n"],
        *,
        deviations: bool = False,
    ) -> Iterator[Segments]:
        """Reduce the rows `order` of a batch, chunk by chunk.

        Args:
            embeddings: Finite, of any float type; widened to float64 before anything is
                subtracted.
            labels: Class of each row.
            order: The rows to reduce, by ascending label.
            deviations: Also return them, for scatters; they are valid until the next chunk.
        """
        step = max(1, len(order))
        if embeddings.device.type == "cpu":
            step = min(step, max(1, CHUNK // embeddings.shape[1]))
        taken, widened, origins_of_rows = self._room(embeddings, step)
        for rows in order.split(step) if len(order) else ():
            n = len(rows)
            classes, owners, counts = torch.unique_consecutive(
                labels[rows], return_inverse=True, return_counts=True
            )
            starts = counts.cumsum(0) - counts  # (U,)
            x = widened[:n].copy_(torch.index_select(embeddings, 0, rows, out=taken[:n]))  # (n, D)
            # The origin of a class is its first row. Being a member, it is never so far out that
            # the correction from it to the mean would cancel more digits than the count has.
            origins = x.index_select(0, starts)  # (U, D)
            x -= torch.index_select(origins, 0, owners, out=origins_of_rows[:n])
            shifts = _sums(x, starts).div_(counts[:, None].double())  # (U, D), origin to mean
            squares = torch.segment_reduce(squared_norms(x), "sum", lengths=counts)  # about origin
            within_ss = squares - counts * squared_norms(shifts)
            assert bool((within_ss >= -1e-10 * squares).all()), "a negative spread, beyond rounding"
            if deviations:
                x -= torch.index_select(shifts, 0, owners, out=origins_of_rows[:n])
            yield Segments(
                classes,
                counts,
                origins.add_(shifts),
                within_ss.clamp_(min=0),
                x if deviations else None,
                owners if deviations else None,
            )

    def _room(
        self, embeddings: Float[Tensor, "N D"], n: int
    ) -> tuple[Float[Tensor, "n D"], Float64[Tensor, "n D"], Float64[Tensor, "n D"]]:
        """Return buffers of at least n rows: one of the embeddings' type, and two of float64."""
        kept = self._buffers
        shape = (n, embeddings.shape[1])
        if (
            kept is None
            or len(kept[0]) < n
            or (kept[0].shape[1], kept[0].dtype) != (shape[1], embeddings.dtype)
        ):
            with torch.inference_mode(False):  # so that a later batch may come outside of it
                taken, widened, origins_of_rows = (
                    torch.empty(shape, dtype=dtype, device=embeddings.device)
                    for dtype in (embeddings.dtype, torch.float64, torch.float64)
                )
            self._buffers = kept = (taken, widened, origins_of_rows)
        return kept


def _sums(values: Float64[Tensor, "n X"], starts: Int[Tensor, " U"]) -> Float64[Tensor, "U X"]:
    """Sum each segment of rows; bags of embeddings are what torch sums fastest."""
    rows = torch.arange(len(values), device=values.device)
    return F.embedding_bag(rows, values, starts, mode="sum")


def squared_norms(vectors: Float64[Tensor, "n D"]) -> Float64[Tensor, " n"]:
    """Return squared norms from the norms, whose sum of squares needs no second matrix."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return norms.square_()


def add_outer(
    total: Float64[Tensor, "D D"], rows: Float64[Tensor, "n D"], weights: Float64[Tensor, " n"]
) -> None:
    """Add the weighted outer products of some rows."""
    total.addmm_((rows * weights[:, None]).T, rows)
