"""NC1 without pairs: within-class variability against the spread of the class means."""

import math

from jaxtyping import Float64
from torch import Tensor

from tightframe.geometry.closed_forms import ClassSet, pinv_quotient
from tightframe.geometry.values import Geometry, Value, coefficient

# Share of noise in the mean squared distance from which on a ratio of means is not sure to 2 %, as
# what documents have in common moves all pairs at once: see the table of biases, docs/measures.md.
NOISY = 0.5


def quotient(geometry: Geometry) -> Value:
    """Mean variance of a class over mean squared norm of a centred mean."""
    return geometry.of_classes(_quotient(geometry.classes), geometry.classes.k)


def quotient_debiased(geometry: Geometry, *, estimator: str) -> Value:
    """Return the same of unbiased variances and norms."""
    classes, reason = geometry.debiased(estimator)
    if classes is None:
        return geometry.undefined(reason)
    value = _quotient_debiased(classes)
    return geometry.of_classes(value, classes.k, classes=classes, note=_beware(value, classes))


def cdnv_ratio_of_means(geometry: Geometry) -> Value:
    """Mean variance of the pairs' classes over mean squared distance: (K-1)/(2K) x quotient."""
    classes = geometry.classes
    value = _quotient(classes) * (classes.k - 1) / (2 * max(1, classes.k))
    return geometry.of_pairs(value, classes.n_pairs)


def cdnv_ratio_of_means_debiased(geometry: Geometry, *, estimator: str) -> Value:
    """Return the same of unbiased variances and distances."""
    classes, reason = geometry.debiased(estimator)
    if classes is None:
        return geometry.undefined(reason, pairs=True)
    value = _quotient_debiased(classes) * (classes.k - 1) / (2 * max(1, classes.k))
    note = _beware(value, classes)
    return geometry.of_pairs(value, classes.n_pairs, classes=classes, note=note)


def cdnv_ratio_of_means_weighted(geometry: Geometry) -> Value:
    """The ratio of means over pairs that are weighted by their classes' samples."""
    classes = geometry.classes
    value = _weighted_ratio(classes, classes.variances, 0.0)
    return geometry.of_pairs(value, classes.n_pairs)


def cdnv_ratio_of_means_debiased_weighted(geometry: Geometry, *, estimator: str) -> Value:
    """Return the same of unbiased variances and distances."""
    classes, reason = geometry.debiased(estimator)
    if classes is None:
        return geometry.undefined(reason, pairs=True)
    shares = _shares(classes)
    noise = float((shares * (1 - shares)) @ classes.noise)
    if classes.by_groups is not None:
        noise -= classes.by_groups.between(shares)
    value = _weighted_ratio(classes, classes.unbiased_variances, noise)
    note = _beware(value, classes)
    return geometry.of_pairs(value, classes.n_pairs, classes=classes, note=note)


def quotient_tokens(geometry: Geometry) -> Value:
    """Pooled variance over the variance of the means, each sample with equal weight."""
    classes = geometry.classes
    between = _between_tokens(classes)
    within = float(classes.within_ss.sum() / classes.counts.sum())
    return geometry.of_classes(coefficient(within, between), classes.k)


def pinv_tokens(geometry: Geometry) -> Value:
    """tr(Sw pinv(Sb)) / K of the covariance within classes, each sample with equal weight."""
    return _pinv(geometry, balanced=False)


def pinv_balanced(geometry: Geometry) -> Value:
    """The same, each class with equal weight."""
    return _pinv(geometry, balanced=True)


def pinv_library(geometry: Geometry) -> Value:
    """`pinv_tokens` with Sb divided by D instead of K, as the reference library has it."""
    return _pinv(geometry, balanced=False, divisor=geometry.classes.dim)


def _quotient(classes: ClassSet) -> float:
    return coefficient(float(classes.variances.mean()), float(classes.squared_norms.mean()))


def _quotient_debiased(classes: ClassSet) -> float:
    between = float(classes.debiased_squared_norms.mean())
    within = float(classes.unbiased_variances.mean())
    return coefficient(within, between) if between > 0 else math.nan


def _beware(value: float, classes: ClassSet) -> str:
    """Return why a debiased ratio of means has no value although there are pairs, or is off."""
    if math.isnan(value):
        lost = classes.n_pairs > 0
        return "the mean squared distance is debiased to 0 or less" if lost else ""
    if (share := classes.noise_share) > NOISY:
        return f"sampling is {share:.0%} of the mean squared distance: it may be a few percent off"
    return ""


def _shares(classes: ClassSet) -> Float64[Tensor, " K"]:
    return classes.counts.double() / classes.counts.sum()  # int / int would give float32


def _between_tokens(classes: ClassSet) -> float:
    """Variance of the class means over tokens: sum_{i<j} p_i p_j d_ij^2 = sum_i p_i |mu_i - mu|^2.

    mu is the mean over tokens.
    """
    shares = _shares(classes)
    centre = shares @ classes.means  # seen from the global mean
    return float(shares @ (classes.means - centre).square().sum(1))


def _weighted_ratio(classes: ClassSet, variances: Float64[Tensor, " K"], noise: float) -> float:
    """sum_{i<j} p_i p_j (s_i + s_j) / 2 over sum_{i<j} p_i p_j d_ij^2 without its noise."""
    shares = _shares(classes)
    within = float((shares * (1 - shares)) @ variances) / 2
    between = _between_tokens(classes) - noise
    return within / between if between > 0 else math.nan


def _pinv(geometry: Geometry, *, balanced: bool, divisor: int | None = None) -> Value:
    classes = geometry.classes
    within, reason = geometry.within(balanced=balanced)
    if within is None:
        return geometry.undefined(reason)
    between = classes.means.T @ classes.means / (divisor or classes.k)
    trace, rank = pinv_quotient(within, between)
    value = trace / classes.k if rank else math.nan
    return geometry.of_classes(value, classes.k, note=f"Sb has rank {rank} of {classes.dim}")
