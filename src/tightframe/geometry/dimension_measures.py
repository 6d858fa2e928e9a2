"""What single dimensions do: outliers, heavy tails, and the direction that all embeddings share.

They are about embeddings, not about classes: they say in which space the class means lie.
"""

import math
from collections.abc import Callable

from jaxtyping import Float64
from torch import Tensor

from tightframe.geometry.dimensions import DimensionMoments
from tightframe.geometry.values import Geometry, Value

OUTLIER = 6.0  # standard deviations
NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution


def outliers(geometry: Geometry) -> Value:
    """How many dimensions have a mean far from those of the others.

    Far is six robust standard deviations: Kovaleva et al. take three plain ones, of a model's
    layer norm; here the deviation is the median absolute one, so that outliers don't hide one
    another (m equal ones of D dimensions can't be beyond sqrt(D/m - 1) plain deviations).
    """

    def count(moments: DimensionMoments) -> tuple[float, int]:
        gaps = (moments.means - _median(moments.means)).abs()
        return float((gaps > OUTLIER * NORMAL * _median(gaps)).sum()), moments.dim

    return _of_dimensions(geometry, count)


def median_kurtosis(geometry: Geometry) -> Value:
    """Of the dimensions' kurtoses, the median; those that are constant have none."""
    return _of_kurtoses(geometry, lambda kurtoses: float(_median(kurtoses)))


def largest_kurtosis(geometry: Geometry) -> Value:
    """The largest of them."""
    return _of_kurtoses(geometry, lambda kurtoses: float(kurtoses.max()))


def top_share(geometry: Geometry) -> Value:
    """Share of the mean squared norm that the largest 1 % of the dimensions hold (one at least)."""

    def share(moments: DimensionMoments) -> tuple[float, int]:
        squares = moments.mean_squares
        largest = squares.topk(-(-moments.dim // 100)).values
        return float(largest.sum() / squares.sum()), moments.dim

    return _of_dimensions(geometry, share)


def anisotropy(geometry: Geometry) -> Value:
    """Mean cosine of two different embeddings, exactly: all pairs, by the mean unit vector."""
    moments, reason = geometry.dimensions
    if moments is None:
        observed = int(geometry.moments.counts[geometry.asked].sum())
        return Value(math.nan, 0, observed, reason)
    n, zero = moments.n_nonzero, moments.n - moments.n_nonzero
    reason = f"embeddings that are 0: {zero} left out" if zero else ""
    if n < 2:
        return Value(math.nan, 0, moments.n, reason or "fewer than two embeddings")
    square = float(moments.direction.square().sum())
    return Value((n * square - 1) / (n - 1), n, zero, reason)


def _of_kurtoses(geometry: Geometry, reduce: Callable[[Float64[Tensor, " d"]], float]) -> Value:
    def of(moments: DimensionMoments) -> tuple[float, int]:
        kurtoses = moments.kurtoses
        kurtoses = kurtoses[~kurtoses.isnan()]
        return reduce(kurtoses) if len(kurtoses) else math.nan, len(kurtoses)

    return _of_dimensions(geometry, of)


def _of_dimensions(
    geometry: Geometry, measure: Callable[[DimensionMoments], tuple[float, int]]
) -> Value:
    """A value over n of the D dimensions; the others are constant."""
    moments, reason = geometry.dimensions
    dim = geometry.classes.dim
    if moments is None:
        return Value(math.nan, 0, dim, reason)
    value, n = measure(moments)
    if math.isnan(value):
        return Value(math.nan, 0, dim, "no embeddings, or all alike")
    return Value(value, n, dim - n, f"constant dimensions: {dim - n} left out" if n < dim else "")


def _median(values: Float64[Tensor, " d"]) -> Float64[Tensor, ""]:
    """Of an even number, the mean of the two in the middle."""
    return values.quantile(0.5)
