"""NC3 and UNC3: how well, and how evenly, the classifier's rows point along the class means.

The means are centred; the rows are not, unless a name says so. If the classifier is tied, it is
the input embedding, too: a results file says so in its header.
"""

import math

from tightframe.geometry.closed_forms import root, simplex_error
from tightframe.geometry.values import Geometry, Value, coefficient, note_near_zero, std

NOISY = 0.25  # share of noise from which on the convexity of 1 / norm shows


def cosine_mean(geometry: Geometry) -> Value:
    """Mean cosine of row and mean."""
    return _over_directions(geometry, float(geometry.cosines.mean()))


def cosine_mean_debiased(geometry: Geometry, *, estimator: str) -> Value:
    """Return the same with the norm of each mean debiased.

    Its inner product with the row has no bias.
    What is left at two samples a class is the bias of 1 / norm, which is convex: on the mixtures
    of the tests about 1 %.
    """
    classes, reason = geometry.debiased(estimator)
    if classes is None:
        return geometry.undefined(reason)
    rows = geometry.classifier[: classes.k]
    squared_norms = classes.debiased_squared_norms
    rows_squared = rows.square().sum(1)
    defined = (squared_norms > 0) & (rows_squared > 0)
    dots = (rows * classes.means).sum(1)[defined]
    cosines = dots / (rows_squared * squared_norms)[defined].sqrt()
    n = len(cosines)
    why = "debiased to norm 0 or less, or whose row is 0"
    note = ""
    if (share := min(1.0, classes.noise_share)) > NOISY:
        note = f"sampling is {share:.0%} of the mean squared norm: 1 / norm is a few percent off"
    return geometry.of_classes(float(cosines.mean()), n, classes=classes, why=why, note=note)


def cosine_cov(geometry: Geometry) -> Value:
    """Standard deviation of the cosines over their mean: the published form."""
    mean, spread = float(geometry.cosines.mean()), std(geometry.cosines)
    note = note_near_zero(mean, spread)
    return _over_directions(geometry, coefficient(spread, mean), note)


def cosine_variance(geometry: Geometry) -> Value:
    r"""Variance of the cosines (ddof 1).

    Noise in the means within_ss the cosines, and there is no debiased form. To first order a cosine
    moves by :math:`\langle a_c, \varepsilon_c \rangle / \lVert m_c \rVert`, where
    :math:`\varepsilon_c` is the error of the mean and :math:`a_c` the part of the row's direction
    across it, so that what is to be subtracted is the mean of
    :math:`a_c^\top \Sigma_c a_c / (n_c \, n2_c)`: covariances within each class, along a line that
    is known when the pass is over. Kept is their trace; that noise is alike in all directions does
    not hold for embeddings. Group means tell the variance along any line, but at few samples it is
    as large as the truth, and terms of higher order are not small beside it: tried on mixtures,
    that is of no use at two samples a class, and several percent off at five. The views and the
    terminal say so beside it. Raise the minimum count, or compare at equal counts.
    """
    return _over_directions(geometry, std(geometry.cosines) ** 2)


def centred_cosine_mean(geometry: Geometry) -> Value:
    """Mean cosine of mean and row, the rows centred by their mean over the same classes."""
    rows = geometry.classifier - geometry.classifier.mean(0)
    classes = geometry.classes
    norms = rows.square().sum(1).sqrt()
    defined = classes.nonzero & (norms > 0)
    cosines = (rows * classes.means).sum(1)[defined] / (norms * classes.norms)[defined]
    return geometry.of_classes(float(cosines.mean()), len(cosines), why="without a direction")


def dot_mean(geometry: Geometry) -> Value:
    """Mean inner product of row and mean."""
    return geometry.of_classes(float(geometry.dots.mean()), geometry.classes.k)


def dot_variance(geometry: Geometry) -> Value:
    """Variance of the inner products (ddof 1), which depends on the unit of length."""
    return geometry.of_classes(std(geometry.dots) ** 2, geometry.classes.k)


def distance_mean(geometry: Geometry) -> Value:
    """Mean distance of the unit vectors of row and mean."""
    distances = (2 - 2 * geometry.cosines).clamp(min=0).sqrt()
    return _over_directions(geometry, float(distances.mean()))


def distance_variance(geometry: Geometry) -> Value:
    """Variance of that distance (ddof 1)."""
    distances = (2 - 2 * geometry.cosines).clamp(min=0).sqrt()
    return _over_directions(geometry, std(distances) ** 2)


def dual_error(geometry: Geometry) -> Value:
    """Frobenius distance between the products of all rows with all means, and a simplex."""
    rows, means = geometry.classifier, geometry.classes.means
    k, dim = means.shape
    # |W M^T|^2 = tr(W^T W M^T M): the smaller of the two forms.
    if k < dim:
        squared_norm = (rows @ means.T).square().sum()
    else:
        squared_norm = ((rows.T @ rows) * (means.T @ means)).sum()
    value = simplex_error(float(geometry.dots.sum()), float(squared_norm), k)
    return geometry.of_classes(value, k)


def frobenius_distance(geometry: Geometry) -> Value:
    """Distance of the matrices of all rows and of all means, each scaled to norm 1."""
    rows, means = geometry.classifier, geometry.classes.means
    norms = math.sqrt(float(rows.square().sum() * means.square().sum()))
    value = root(2 - 2 * coefficient(float(geometry.dots.sum()), norms))
    return geometry.of_classes(value, geometry.classes.k)


def _over_directions(geometry: Geometry, value: float, note: str = "") -> Value:
    n = len(geometry.cosines)
    return geometry.of_classes(value, n, why="without a direction, or their row", note=note)
