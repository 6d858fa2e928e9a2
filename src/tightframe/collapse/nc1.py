"""NC1 without pairs: within-class variability against the spread of the class means."""

import math

from tightframe.collapse.values import Geometry, Value, coefficient
from tightframe.moments.geometry import ClassSet, pinv_quotient


def quotient(geometry: Geometry) -> Value:
    """Mean variance of a class over mean squared norm of a centred mean."""
    return geometry.of_classes(_quotient(geometry.classes), geometry.classes.k)


def quotient_debiased(geometry: Geometry) -> Value:
    """The same of unbiased variances and norms."""
    classes = geometry.classes.repeated
    return geometry.of_classes(_quotient_debiased(classes), classes.k, classes=classes)


def cdnv_ratio_of_means(geometry: Geometry) -> Value:
    """Mean variance of the pairs' classes over mean squared distance: (K-1)/(2K) x quotient."""
    classes = geometry.classes
    value = _quotient(classes) * (classes.k - 1) / (2 * max(1, classes.k))
    return geometry.of_pairs(value, classes.n_pairs)


def cdnv_ratio_of_means_debiased(geometry: Geometry) -> Value:
    """The same of unbiased variances and distances."""
    classes = geometry.classes.repeated
    value = _quotient_debiased(classes) * (classes.k - 1) / (2 * max(1, classes.k))
    return geometry.of_pairs(value, classes.n_pairs, classes=classes)


def quotient_tokens(geometry: Geometry) -> Value:
    """Pooled variance over the variance of the means, each sample with equal weight."""
    classes = geometry.classes
    shares = classes.counts.double() / classes.counts.sum()  # int / int would give float32
    centre = shares @ classes.means  # the mean over tokens, seen from the global mean
    between = float(shares @ (classes.means - centre).square().sum(1))
    within = float(classes.spreads.sum() / classes.counts.sum())
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


def _pinv(geometry: Geometry, *, balanced: bool, divisor: int | None = None) -> Value:
    classes = geometry.classes
    within, reason = geometry.within(balanced=balanced)
    if within is None:
        return geometry.undefined(reason)
    between = classes.means.T @ classes.means / (divisor or classes.k)
    trace, rank = pinv_quotient(within, between)
    value = trace / classes.k if rank else math.nan
    return geometry.of_classes(value, classes.k, note=f"Sb has rank {rank} of {classes.dim}")
