"""How many dimensions are filled, and how much the classifier's rows overlap."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from tightframe.collapse.values import Geometry, Value
from tightframe.moments.geometry import (
    cut,
    entropy_rank,
    participation_ratio,
    spectrum,
    spectrum_slope,
    squared_gram_norm,
    stable_rank,
)


def between_participation(geometry: Geometry) -> Value:
    """Participation ratio of the between-class scatter."""
    return _over_classes(geometry, participation_ratio(geometry.classes.eigenvalues))


def between_stable(geometry: Geometry) -> Value:
    """Stable rank of the between-class scatter."""
    return _over_classes(geometry, stable_rank(geometry.classes.eigenvalues))


def between_entropy(geometry: Geometry) -> Value:
    """Effective rank of the between-class scatter."""
    return _over_classes(geometry, entropy_rank(geometry.classes.eigenvalues))


def between_entropy_singular(geometry: Geometry) -> Value:
    """The same of singular values instead of eigenvalues."""
    return _over_classes(geometry, entropy_rank(geometry.classes.eigenvalues.sqrt()))


def between_slope(geometry: Geometry) -> Value:
    """Slope of the log spectrum; the means must fill half of the dimensions, 20 or more."""
    dim = geometry.classes.dim
    return _over_classes(geometry, spectrum_slope(geometry.classes.eigenvalues, 10, dim // 2))


def within_participation(geometry: Geometry) -> Value:
    """Participation ratio of the pooled within-class scatter, each sample with equal weight."""
    return _within(geometry, participation_ratio)


def within_stable(geometry: Geometry) -> Value:
    """Its stable rank."""
    return _within(geometry, stable_rank)


def within_entropy(geometry: Geometry) -> Value:
    """Its effective rank."""
    return _within(geometry, entropy_rank)


def head_participation(geometry: Geometry) -> Value:
    """Participation ratio of the classifier's rows of the selected classes, not centred."""
    return _over_classes(geometry, participation_ratio(spectrum(geometry.classifier)))


def head_stable(geometry: Geometry) -> Value:
    """Their stable rank."""
    return _over_classes(geometry, stable_rank(spectrum(geometry.classifier)))


def head_entropy(geometry: Geometry) -> Value:
    """Their effective rank."""
    return _over_classes(geometry, entropy_rank(spectrum(geometry.classifier)))


def head_overlap(geometry: Geometry) -> Value:
    """Mean squared cosine of two rows of the classifier; 1/D for uniform ones."""
    return _overlap(geometry, geometry.classifier)


def head_overlap_centred(geometry: Geometry) -> Value:
    """The same of rows centred by their mean over the selected classes."""
    return _overlap(geometry, geometry.classifier - geometry.classifier.mean(0))


def _overlap(geometry: Geometry, rows: Float64[Tensor, "K D"]) -> Value:
    """Rows that were never trained are 0 or alike by the thousand: they would rule the mean."""
    _, group, sizes = geometry.classifier.unique(dim=0, return_inverse=True, return_counts=True)
    rows = rows[(sizes[group] == 1) & geometry.classifier.any(1)]
    k = len(rows)
    directions = rows / rows.square().sum(1, keepdim=True).sqrt()
    value = (squared_gram_norm(directions) - k) / (k * (k - 1)) if k > 1 else math.nan
    left = {"of rows that are 0 or alike": geometry.classes.n_pairs - k * (k - 1) // 2}
    return geometry.of_pairs(value, k * (k - 1) // 2, left=left)


def _over_classes(geometry: Geometry, value: float) -> Value:
    return geometry.of_classes(value, geometry.classes.k)


def _within(geometry: Geometry, rank: Callable[[Float64[Tensor, " D"]], float]) -> Value:
    covariance, reason = geometry.within()
    if covariance is None:
        return geometry.undefined(reason)
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0)
    return _over_classes(geometry, rank(cut(eigenvalues, len(eigenvalues))))
