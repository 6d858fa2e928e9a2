"""How many dimensions are filled, and how much the classifier's rows overlap."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tightframe.geometry.closed_forms import (
    cut,
    entropy_rank,
    participation_ratio,
    spectrum,
    spectrum_slope,
    squared_gram_norm,
    stable_rank,
    weighted_cosines,
)
from tightframe.geometry.values import Geometry, Value


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


def total_participation(geometry: Geometry) -> Value:
    """Participation ratio of the covariance of all embeddings: within and between classes."""
    return _total(geometry, participation_ratio)


def total_stable(geometry: Geometry) -> Value:
    """Its stable rank."""
    return _total(geometry, stable_rank)


def total_entropy(geometry: Geometry) -> Value:
    """Its effective rank."""
    return _total(geometry, entropy_rank)


def total_entropy_singular(geometry: Geometry) -> Value:
    """The same of singular values: RankMe, but of embeddings that are centred."""
    return _total(geometry, lambda eigenvalues: entropy_rank(eigenvalues.sqrt()))


def total_slope(geometry: Geometry) -> Value:
    """Slope of its log spectrum: the negative of alpha-ReQ's exponent."""
    dim = geometry.classes.dim
    return _total(geometry, lambda eigenvalues: spectrum_slope(eigenvalues, 10, dim // 2))


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


def head_overlap_weighted(geometry: Geometry) -> Value:
    """The same over pairs of rows that are weighted by their classes' samples."""
    kept = _single_rows(geometry)
    directions = _directions(geometry.classifier[kept])
    value = weighted_cosines(directions, geometry.classes.counts[kept]).mean_square
    return _over_rows(geometry, value, len(directions))


def _overlap(geometry: Geometry, rows: Float64[Tensor, "K D"]) -> Value:
    directions = _directions(rows[_single_rows(geometry)])
    k = len(directions)
    value = (squared_gram_norm(directions) - k) / (k * (k - 1)) if k > 1 else math.nan
    return _over_rows(geometry, value, k)


def _single_rows(geometry: Geometry) -> Bool[Tensor, " K"]:
    """Rows that were never trained are 0 or alike by the thousand: they would rule the mean."""
    _, group, sizes = geometry.classifier.unique(dim=0, return_inverse=True, return_counts=True)
    alone: Tensor = sizes[group] == 1
    return alone & geometry.classifier.any(1)


def _directions(rows: Float64[Tensor, "k D"]) -> Float64[Tensor, "k D"]:
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def _over_rows(geometry: Geometry, value: float, k: int) -> Value:
    left = {"of rows that are 0 or alike": geometry.classes.n_pairs - k * (k - 1) // 2}
    return geometry.of_pairs(value, k * (k - 1) // 2, left=left)


def _over_classes(geometry: Geometry, value: float) -> Value:
    return geometry.of_classes(value, geometry.classes.k)


def _within(geometry: Geometry, rank: Callable[[Float64[Tensor, " D"]], float]) -> Value:
    covariance, reason = geometry.within()
    if covariance is None:
        return geometry.undefined(reason)
    return _over_classes(geometry, rank(_eigenvalues(covariance)))


def _total(geometry: Geometry, rank: Callable[[Float64[Tensor, " D"]], float]) -> Value:
    within, reason = geometry.within()
    if within is None:
        return geometry.undefined(reason)
    classes = geometry.classes
    shares = classes.counts.double() / classes.counts.sum()  # int / int would give float32
    deviations = classes.means - shares @ classes.means  # (K, D), from the mean over tokens
    between = (deviations * shares[:, None]).T @ deviations
    return _over_classes(geometry, rank(_eigenvalues(within + between)))


def _eigenvalues(covariance: Float64[Tensor, "D D"]) -> Float64[Tensor, " D"]:
    return cut(torch.linalg.eigvalsh(covariance).flip(0), len(covariance))
