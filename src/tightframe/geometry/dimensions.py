"""Moments of each dimension of the embeddings, and their norms, whatever their labels.

Both are mergeable and computed in one pass. Sums of powers of deviations are about the mean of a
part and joined by the formulas of Pebay (2008, "Formulas for robust, one-pass parallel computation
of covariances and arbitrary-order statistical moments"), so that nothing is lost where a mean is
hundreds of standard deviations away from 0, as it is in outlier dimensions.

Axes: N embeddings, D embedding.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

CHUNK = 1 << 16  # numbers processed at once, so that they stay in cache; memory only
ROUNDING = 1e-12  # a standard deviation below this share of the mean is rounding
OCTAVE = 8  # bins of a histogram of norms to a factor of 2
OCTAVES = 64  # norms from 2^-64 to 2^64 have bins of their own
FAR = 10.0  # times the median norm: what is longer is far out


class DimensionMoments:
    """Mean, variance and kurtosis of each dimension, and the mean of the unit vectors; float64.

    Args:
        dim: Length of an embedding.
        device: Where the state lives; embeddings are moved there.

    Attributes:
        n: Embeddings seen.
        n_nonzero: Those that are not 0, and so have a direction.
        means: Of each dimension; 0 where nothing was seen.
        squares, cubes, fourths: Sums of these powers of the deviations from the mean.
        direction: Mean of the unit vectors of the embeddings that have a direction.
    """

    _SUMS = ("means", "squares", "cubes", "fourths", "direction")

    def __init__(self, dim: int, *, device: torch.device | str = "cpu") -> None:
        if dim < 1:
            raise ValueError(f"expected at least 1 dimension, got {dim}")
        self.n = 0
        self.n_nonzero = 0

        def zeros() -> Tensor:
            return torch.zeros(dim, dtype=torch.float64, device=device)

        self.means: Float64[Tensor, " D"] = zeros()
        self.squares: Float64[Tensor, " D"] = zeros()
        self.cubes: Float64[Tensor, " D"] = zeros()
        self.fourths: Float64[Tensor, " D"] = zeros()
        self.direction: Float64[Tensor, " D"] = zeros()

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return len(self.means)

    @property
    def variances(self) -> Float64[Tensor, " D"]:
        """Mean squared deviation (divided by n, not n - 1); NaN where nothing was seen.

        A dimension whose deviation is rounding is constant: it has 0.
        """
        variances = self.squares / self.n
        return variances.masked_fill(variances.sqrt() <= ROUNDING * self.means.abs(), 0.0)

    @property
    def kurtoses(self) -> Float64[Tensor, " D"]:
        """Fourth moment over squared variance, 3 for a normal one; NaN for a constant one."""
        variances = self.variances
        kurtoses = self.fourths / self.n / variances.square()
        return kurtoses.masked_fill(variances == 0, math.nan)

    @property
    def mean_squares(self) -> Float64[Tensor, " D"]:
        """Mean squared value of each dimension; their sum is the mean squared norm."""
        return self.means.square() + self.squares / self.n

    @torch.no_grad()
    def update(self, embeddings: Float[Tensor, "N D"]) -> None:
        """Add a batch; it is refused whole, before anything changes, or taken whole."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(
                f"embeddings must have shape (N, {self.dim}), got {tuple(embeddings.shape)}"
            )
        batch = _batch(embeddings.detach().to(self.means.device))
        if not bool(batch.fourths.isfinite().all()):
            raise ValueError("embeddings must be finite, and their fourth powers too")
        self._join(batch)

    def merge(self, other: "DimensionMoments") -> None:
        """Add everything that `other` has seen, in place; `other` stays as it is."""
        if self.dim != other.dim:
            raise ValueError(
                f"states of different shape: {self.dim} dimensions here, {other.dim} there"
            )
        self._join(other)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state as named tensors, for `from_tensors`."""
        counts = torch.tensor([self.n, self.n_nonzero])
        return {"counts": counts} | {name: getattr(self, name) for name in self._SUMS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "DimensionMoments":
        """Return the state that the tensors were made of."""
        state = cls(len(tensors["means"]), device=tensors["means"].device)
        state.n, state.n_nonzero = tensors["counts"].tolist()
        for name in cls._SUMS:
            setattr(state, name, tensors[name].clone())
        return state

    def _join(self, other: "DimensionMoments") -> None:
        """Merge two states by Pebay's formulas."""
        if other.n == 0:
            return
        total = self.n + other.n
        # Shares, not counts: products of four counts are beyond 64 bits from 10^5 embeddings on.
        a, b = self.n / total, other.n / total
        theirs = {name: getattr(other, name).to(self.means) for name in self._SUMS}
        gap = theirs["means"] - self.means  # (D,)
        self.fourths += (
            theirs["fourths"]
            + gap**4 * (total * a * b * (a * a - a * b + b * b))
            + 6 * gap**2 * (a * a * theirs["squares"] + b * b * self.squares)
            + 4 * gap * (a * theirs["cubes"] - b * self.cubes)
        )
        self.cubes += (
            theirs["cubes"]
            + gap**3 * (total * a * b * (a - b))
            + 3 * gap * (a * theirs["squares"] - b * self.squares)
        )
        self.squares += theirs["squares"] + gap**2 * (total * a * b)
        self.means += gap * b
        self.n = total
        self.n_nonzero += other.n_nonzero
        if other.n_nonzero:
            weight = other.n_nonzero / self.n_nonzero
            self.direction += weight * (theirs["direction"] - self.direction)


def _batch(embeddings: Float[Tensor, "N D"]) -> DimensionMoments:
    """Return the state of one batch, about its own mean; two passes, widened by chunks."""
    n, dim = embeddings.shape
    batch = DimensionMoments(dim, device=embeddings.device)
    if n == 0:
        return batch
    chunks = embeddings.split(max(1, CHUNK // dim))
    memory = torch.empty(2, *chunks[0].shape, dtype=torch.float64, device=embeddings.device)
    batch.n = n
    for chunk in chunks:
        rows = memory[0, : len(chunk)].copy_(chunk)
        batch.means += rows.sum(0)
        norms = torch.linalg.vector_norm(rows, dim=1)  # (N,)
        batch.n_nonzero += int(norms.count_nonzero())
        batch.direction += norms.reciprocal().masked_fill_(norms == 0, 0.0) @ rows
    batch.means /= n
    batch.direction /= max(1, batch.n_nonzero)
    for chunk in chunks:
        deviations = memory[0, : len(chunk)].copy_(chunk).sub_(batch.means)  # (N, D)
        powers = torch.square(deviations, out=memory[1, : len(chunk)])
        batch.squares += powers.sum(0)
        batch.cubes += deviations.mul_(powers).sum(0)
        batch.fourths += powers.square_().sum(0)
    return batch


class Sinks(NamedTuple):
    """A few embeddings that outweigh all others together, like those of attention sinks."""

    share: float  # of the embeddings, in (0, 0.5)
    times: float  # their root mean squared norm, in medians of all norms
    weight: float  # their share of the sum of all squared norms, in (0.5, 1)


class NormHistogram:
    """Histogram of the norms of embeddings on a logarithmic scale; merged by adding.

    Attributes:
        counts: Embeddings by the logarithm of their norm, in bins of 1/8 of a factor of 2; zeros
            and what is shorter than 2^-64 are in the first bin, what is longer than 2^64 in the
            last.
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.counts: Int64[Tensor, " bins"] = torch.zeros(
            2 * OCTAVES * OCTAVE, dtype=torch.int64, device=device
        )

    def update(self, embeddings: Float[Tensor, "N D"]) -> None:
        """Add a batch of finite embeddings."""
        wide = torch.promote_types(embeddings.dtype, torch.float32)  # 16 bits would overflow
        norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=wide)  # (N,)
        bins = (norms.log2_() + OCTAVES).mul_(OCTAVE).clamp_(0, len(self.counts) - 1)
        self.counts += torch.bincount(bins.long(), minlength=len(self.counts))

    def sinks(self) -> Sinks | None:
        """Return the embeddings beyond 10 times the median norm if they outweigh the others.

        They do if more than half of the sum of squared norms is theirs; otherwise it is None.
        Norms are known to within 5 %, the width of half a bin.
        """
        counts = self.counts.double().cpu()
        n = float(counts.sum())
        if n == 0:
            return None
        middles = (torch.arange(len(counts)).double() + 0.5) / OCTAVE - OCTAVES  # log2 of norms
        median = middles[int((counts.cumsum(0) < n / 2).sum())]
        squares = counts * torch.exp2(2 * (middles - median))  # in squared medians
        far = middles > median + math.log2(FAR)
        weight = float(squares[far].sum() / squares.sum())
        if weight <= 0.5:
            return None
        outside = float(counts[far].sum())
        return Sinks(outside / n, math.sqrt(float(squares[far].sum()) / outside), weight)
