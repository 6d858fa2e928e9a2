"""NC2: equal norms, equal angles, and the distance to a simplex; closed forms, no pairs."""

import math

from jaxtyping import Float64
from torch import Tensor

from tightframe.geometry.closed_forms import root, simplex_error, squared_gram_norm
from tightframe.geometry.values import Geometry, Value, coefficient, note_near_zero, std


def norm_cov(geometry: Geometry) -> Value:
    """Coefficient of variation of the norms."""
    return _over_norms(geometry, geometry.classes.norms)


def squared_norm_cov(geometry: Geometry) -> Value:
    """Coefficient of variation of the squared norms."""
    return _over_norms(geometry, geometry.classes.squared_norms)


def log_norm_cov(geometry: Geometry) -> Value:
    """Coefficient of variation of the log norms, which depends on the unit of length."""
    return _over_norms(geometry, _log_norms(geometry))


def scaled_log_norm_cov(geometry: Geometry) -> Value:
    """The same of squared norms over the root of D."""
    return _over_norms(geometry, 2 * _log_norms(geometry) - math.log(geometry.classes.dim) / 2)


def log_norm_std(geometry: Geometry) -> Value:
    """Standard deviation of the log norms (ddof 1)."""
    logs = _log_norms(geometry)
    return geometry.of_classes(std(logs), len(logs), why="at the global mean")


def cosine_mean(geometry: Geometry, *, view: str = "") -> Value:
    """Mean cosine of two centred means, in one of `values.VIEWS`."""
    classes, reason = geometry.view(view)
    if classes is None:
        return geometry.undefined(reason, pairs=True)
    return _over_cosines(geometry, classes.cosines.mean, n=classes.cosines.pairs)


def cosine_std(geometry: Geometry, *, view: str = "") -> Value:
    """Standard deviation of the cosines (ddof 1)."""
    classes, reason = geometry.view(view)
    if classes is None:
        return geometry.undefined(reason, pairs=True)
    return _over_cosines(geometry, classes.cosines.std, n=classes.cosines.pairs)


def cosine_cov(geometry: Geometry) -> Value:
    """Coefficient of variation of the cosines; their mean, which is near 0, rules it."""
    cosines = geometry.classes.cosines
    note = note_near_zero(cosines.mean, cosines.std)
    return _over_cosines(geometry, coefficient(cosines.std, cosines.mean), note)


def cosine_deviation(geometry: Geometry) -> Value:
    """Root mean square deviation of the cosines from -1/(K - 1), that of a simplex."""
    cosines = geometry.classes.cosines
    target = -1 / max(1, geometry.classes.k - 1)
    square = cosines.mean_square - 2 * target * cosines.mean + target**2
    return _over_cosines(geometry, root(square))


def squared_cosine_mean(geometry: Geometry) -> Value:
    """Mean squared cosine of two centred means."""
    return _over_cosines(geometry, geometry.classes.cosines.mean_square)


def squared_cosine_excess(geometry: Geometry) -> Value:
    """D times the mean squared cosine, minus 1: 0 for uniform points."""
    mean_square = geometry.classes.cosines.mean_square
    return _over_cosines(geometry, geometry.classes.dim * mean_square - 1)


def weighted_cosine_mean(geometry: Geometry) -> Value:
    """Mean cosine over pairs that are weighted by their classes' samples."""
    return _over_cosines(geometry, geometry.classes.weighted_cosines.mean)


def weighted_cosine_std(geometry: Geometry) -> Value:
    """Their standard deviation (ddof 0: weights have no degrees of freedom)."""
    return _over_cosines(geometry, root(geometry.classes.weighted_cosines.variance))


def weighted_squared_cosine_mean(geometry: Geometry) -> Value:
    """Mean squared cosine over pairs that are weighted by their classes' samples."""
    return _over_cosines(geometry, geometry.classes.weighted_cosines.mean_square)


def weighted_squared_cosine_excess(geometry: Geometry) -> Value:
    """D times that, minus 1."""
    mean_square = geometry.classes.weighted_cosines.mean_square
    return _over_cosines(geometry, geometry.classes.dim * mean_square - 1)


def dot_mean(geometry: Geometry) -> Value:
    """Mean inner product of two centred means: the mean squared norm over -(K - 1), no more."""
    return geometry.of_pairs(geometry.classes.dots.mean, geometry.classes.n_pairs)


def dot_variance(geometry: Geometry) -> Value:
    """Variance of the inner products (ddof 0)."""
    return geometry.of_pairs(geometry.classes.dots.variance, geometry.classes.n_pairs)


def etf_error(geometry: Geometry) -> Value:
    """Frobenius distance between the Gram matrices of the centred means and of a simplex."""
    classes = geometry.classes
    trace = float(classes.squared_norms.sum())
    value = simplex_error(trace, squared_gram_norm(classes.means), classes.k)
    return geometry.of_classes(value, classes.k)


def _log_norms(geometry: Geometry) -> Float64[Tensor, " k"]:
    return geometry.classes.norms[geometry.classes.nonzero].log()


def _over_norms(geometry: Geometry, values: Float64[Tensor, " k"]) -> Value:
    """Coefficient of variation of a number a class."""
    spread, mean = std(values), float(values.mean())
    note = note_near_zero(mean, spread)
    value = coefficient(spread, mean)
    return geometry.of_classes(value, len(values), why="at the global mean", note=note)


def _over_cosines(
    geometry: Geometry, value: float, note: str = "", *, n: int | None = None
) -> Value:
    classes = geometry.classes
    n = classes.cosines.pairs if n is None else n
    return geometry.of_pairs(
        value, n, left={"of classes at the global mean": classes.n_pairs - n}, note=note
    )
