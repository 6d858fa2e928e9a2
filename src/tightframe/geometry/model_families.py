"""NC3, NC4, NC5, ranks and dimensions: class means beside the classifier, decisions and embeddings.

The formulas are in `catalogue`; here are their functions, by name, with those of `mean_families`.
If the classifier is tied, it is also the input embedding: a results file says so in its header.

Axes: C classes of the moments, K selected ones, k some of those, D embedding, d some dimensions.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from tightframe.geometry import mean_families
from tightframe.geometry.closed_forms import (
    cut,
    entropy_rank,
    participation_ratio,
    root,
    simplex_error,
    spectrum,
    spectrum_slope,
    squared_gram_norm,
    stable_rank,
    weighted_cosines,
)
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.dimensions import DimensionMoments
from tightframe.geometry.values import ESTIMATORS, Geometry, Value, coefficient, note_near_zero, std

NOISY = 0.25  # share of noise from which on the convexity of 1 / norm shows
NOT_TOLD = "not among the `extras` of these decisions; ranks are known at the last layer only"
NO_DECISIONS = "no decisions were given; make them on a validation split"
OUTLIER = 6.0  # standard deviations
NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution

# NC3 and UNC3: how well, and how evenly, the classifier's rows point along the class means. The
# means are centred; the rows are not, unless a name says so.


def _over_directions(geometry: Geometry, value: float, note: str = "") -> Value:
    n = len(geometry.cosines)
    return geometry.of_classes(value, n, why="without a direction, or their row", note=note)


def _cosine_mean_debiased(geometry: Geometry, estimator: str) -> Value:
    """Compute the mean cosine of row and mean with the norm of each mean debiased.

    Its inner product with the row has no bias. What is left at two samples per class is the bias
    of 1 / norm, which is convex: on the mixtures of the tests about 1 %.
    """
    classes, reason = geometry.class_set(estimator)
    if classes is None:
        return geometry.undefined(reason)
    rows = geometry.classifier[: classes.k]
    squared_norms = classes.debiased_squared_norms
    rows_squared = rows.square().sum(1)
    defined = (squared_norms > 0) & (rows_squared > 0)
    dots = (rows * classes.means).sum(1)[defined]
    cosines = dots / (rows_squared * squared_norms)[defined].sqrt()
    why = "debiased to norm 0 or less, or whose row is 0"
    note = ""
    if (share := min(1.0, classes.noise_share)) > NOISY:
        note = f"sampling is {share:.0%} of the mean squared norm: 1 / norm is a few percent off"
    value = float(cosines.mean())
    return geometry.of_classes(value, len(cosines), classes=classes, why=why, note=note)


def _cosine_cov(geometry: Geometry) -> Value:
    mean, deviation = float(geometry.cosines.mean()), std(geometry.cosines)
    note = note_near_zero(mean, deviation)
    return _over_directions(geometry, coefficient(deviation, mean), note)


def _cosine_variance(geometry: Geometry) -> Value:
    r"""Compute the variance of the cosines (ddof 1).

    Noise in the means spreads the cosines, and there is no debiased form. To first order a cosine
    moves by :math:`\langle a_c, \varepsilon_c \rangle / \lVert m_c \rVert`, where
    :math:`\varepsilon_c` is the error of the mean and :math:`a_c` the part of the row's direction
    across it, so that what is to be subtracted is the mean of
    :math:`a_c^\top \Sigma_c a_c / (n_c \, n2_c)`: covariances within each class, along a line that
    is known when the pass is over. Only their trace is kept. Estimated from group means, it is of
    no use at two samples per class, and several percent off at five. Raise the minimum count, or
    compare at equal counts.
    """
    return _over_directions(geometry, std(geometry.cosines) ** 2)


def _centred_cosine_mean(geometry: Geometry) -> Value:
    """Compute the mean cosine of mean and row, the rows centred by their mean over the classes."""
    rows = geometry.classifier - geometry.classifier.mean(0)
    classes = geometry.classes
    norms = rows.square().sum(1).sqrt()
    defined = classes.nonzero & (norms > 0)
    cosines = (rows * classes.means).sum(1)[defined] / (norms * classes.norms)[defined]
    return geometry.of_classes(float(cosines.mean()), len(cosines), why="without a direction")


def _distances(geometry: Geometry) -> Float64[Tensor, " k"]:
    return (2 - 2 * geometry.cosines).clamp(min=0).sqrt()


def _dual_error(geometry: Geometry) -> Value:
    """Compute the distance between the products of all rows with all means, and a simplex."""
    rows, means = geometry.classifier, geometry.classes.means
    k, dim = means.shape
    # |W M^T|^2 = tr(W^T W M^T M): the smaller of the two forms.
    if k < dim:
        squared_norm = (rows @ means.T).square().sum()
    else:
        squared_norm = ((rows.T @ rows) * (means.T @ means)).sum()
    value = simplex_error(float(geometry.dots.sum()), float(squared_norm), k)
    return geometry.of_classes(value, k)


def _frobenius_distance(geometry: Geometry) -> Value:
    """Compute the distance of the matrices of all rows and of all means, each scaled to norm 1."""
    rows, means = geometry.classifier, geometry.classes.means
    norms = math.sqrt(float(rows.square().sum() * means.square().sum()))
    value = root(2 - 2 * coefficient(float(geometry.dots.sum()), norms))
    return geometry.of_classes(value, geometry.classes.k)


_NC3: dict[str, Callable[[Geometry], Value]] = {
    "nc3_cos_mean": lambda g: _over_directions(g, float(g.cosines.mean())),
    **{f"nc3_cos_mean_{e}": partial(_cosine_mean_debiased, estimator=e) for e in ESTIMATORS},
    "nc3_cos_wc_mean": _centred_cosine_mean,
    "nc3_dot_mean": lambda g: g.of_classes(float(g.dots.mean()), g.classes.k),
    "nc3_dist_mean": lambda g: _over_directions(g, float(_distances(g).mean())),
    "nc3_dist_var": lambda g: _over_directions(g, std(_distances(g)) ** 2),
    "nc3_dual_error": _dual_error,
    "nc3_frob": _frobenius_distance,
    "unc3_cos_cov": _cosine_cov,
    "unc3_cos_var": _cosine_variance,
    "unc3_dot_var": lambda g: g.of_classes(std(g.dots) ** 2, g.classes.k),
}

# NC4: whether the classifier decides as the nearest class mean does, on validation positions. S are
# the classes that had a mean when it was decided: `Decisions.seen`. Where only some classes are
# requested, positions are those whose label is one of them; what is chosen may be any.


def _agreement(
    geometry: Geometry,
    hits_of: Callable[[Decisions], Int64[Tensor, " C"] | None],
    *,
    seen: bool = False,
    rate: bool = True,
) -> Value:
    """Compute hits over positions, or their number; with `seen`, of labels that have a mean."""
    decisions = geometry.decisions
    if decisions is None:
        return Value(math.nan, 0, 0, NO_DECISIONS)
    found = hits_of(decisions)
    if found is None:
        return Value(math.nan, 0, 0, NOT_TOLD)
    labels = geometry.class_mask & decisions.seen if seen else geometry.class_mask
    hits, n = int(found[labels].sum()), int(decisions.counts[labels].sum())
    left_out = int(decisions.counts[geometry.class_mask].sum()) - n
    reason = f"positions whose label has no class mean: {left_out} left out" if left_out else ""
    if n == 0:
        return Value(math.nan, 0, left_out, reason or "no positions")
    return Value(hits / n if rate else float(hits), n, left_out, reason)


def _accuracy(geometry: Geometry) -> Value:
    """Compute the share of all positions where the nearest class mean is the label's.

    Positions whose label has no mean never count as hits; the reason says how many they are.
    """
    value = _agreement(geometry, lambda d: d.nearest_hits)
    decisions = geometry.decisions
    if decisions is None or value.n == 0:
        return value
    without = int(decisions.counts[geometry.class_mask & ~decisions.seen].sum())
    if not without:
        return value
    share = f"at most {1 - without / value.n:.3g}: {without:,} of {value.n:,} positions"
    return dataclasses.replace(value, reason=f"{share} have a label that has no class mean")


def _macro_rate(geometry: Geometry) -> Value:
    """Compute the mean over labels in S of the share of their positions that agree."""
    decisions = geometry.decisions
    if decisions is None:
        return Value(math.nan, 0, 0, NO_DECISIONS)
    present = (decisions.counts > 0) & geometry.class_mask
    shown = present & decisions.seen
    rates = decisions.agreements[shown].double() / decisions.counts[shown]
    n, left_out = int(shown.sum()), int((present & ~decisions.seen).sum())
    reason = f"labels that have no class mean: {left_out} left out" if left_out else ""
    if n == 0:
        return Value(math.nan, 0, left_out, reason or "no positions")
    return Value(float(rates.mean()), n, left_out, reason)


_NC4: dict[str, Callable[[Geometry], Value]] = {
    "nc4_hits": lambda g: _agreement(g, lambda d: d.agreements, seen=True, rate=False),
    "nc4_rate": lambda g: _agreement(g, lambda d: d.agreements, seen=True),
    "nc4_rate_fullv": lambda g: _agreement(g, lambda d: d.agreements_full),  # as in decoding
    # All rows of the classifier and as many means take part; tokens that have no mean have it at
    # the origin, the smallest id of them standing for all. A spurious centre, which an embedding
    # near the origin chooses and the classifier doesn't; only to be compared with published values.
    "nc4_rate_lib": lambda g: _agreement(g, lambda d: d.agreements_library),
    # Nearness without lengths: how much of the rate is due to directions alone. Classes whose mean
    # is mu_G have no direction and are never chosen.
    "nc4_cos_rate": lambda g: _agreement(g, lambda d: d.agreements_cosine, seen=True),
    "nc4_rate_macro": _macro_rate,
    "nc4_top5_head": lambda g: _agreement(g, lambda d: d.agreements_top5, seen=True),
    "ncc_accuracy": _accuracy,
}


def _ood_deviation(geometry: Geometry, *, centred: bool = False) -> Value:
    """Compute the mean absolute cosine of a class mean and the mean embedding of another stream.

    With `centred`, both are seen from the global mean.
    """
    if geometry.ood is None:
        return geometry.undefined("no out-of-distribution moments were given")
    classes = geometry.classes
    means = classes.means if centred else classes.raw_means
    counts, of_ood = geometry.ood.rows["counts"], geometry.ood.rows["means"]
    other = (counts.double() @ of_ood / counts.sum()).to(means)  # NaN without any
    if centred:
        other = other - classes.global_mean
    norms = means.square().sum(1).sqrt()
    defined = classes.nonzero if centred else norms > 0
    cosines = (means @ other)[defined] / (norms[defined] * other.square().sum().sqrt())
    return geometry.of_classes(float(cosines.abs().mean()), len(cosines), why="without a direction")


# Ranks: how many dimensions are filled by the scatter between classes, within them, or both, each
# sample with equal weight, and by the classifier's rows of the selected classes, not centred.


def _rank(
    geometry: Geometry, rank: Callable[[Float64[Tensor, " r"]], float], scatter: str
) -> Value:
    """Compute a rank of the eigenvalues of a scatter: "between", "within", "total" or "head"."""
    classes = geometry.classes
    if scatter == "between":
        eigenvalues = classes.eigenvalues
    elif scatter == "head":
        eigenvalues = spectrum(geometry.classifier)
    else:
        covariance, reason = geometry.within()
        if covariance is None:
            return geometry.undefined(reason)
        if scatter == "total":
            deviations = classes.means - classes.shares @ classes.means  # (K, D)
            covariance = covariance + (deviations * classes.shares[:, None]).T @ deviations
        eigenvalues = cut(torch.linalg.eigvalsh(covariance).flip(0), len(covariance))
    return geometry.of_classes(rank(eigenvalues), classes.k)


def _singular_entropy(eigenvalues: Float64[Tensor, " r"]) -> float:
    return entropy_rank(eigenvalues.sqrt())


def _slope(geometry: Geometry, scatter: str) -> Value:
    """Compute the slope of a log spectrum; it must fill half of the dimensions, 20 or more."""
    dim = geometry.classes.dim
    return _rank(geometry, lambda values: spectrum_slope(values, 10, dim // 2), scatter)


def _overlap(geometry: Geometry, rows: Float64[Tensor, "K D"]) -> Value:
    """Compute the mean squared cosine of two rows of the classifier; 1/D for uniform ones."""
    directions = _directions(rows[_single_rows(geometry)])
    k = len(directions)
    value = (squared_gram_norm(directions) - k) / (k * (k - 1)) if k > 1 else math.nan
    return _over_rows(geometry, value, k)


def _overlap_weighted(geometry: Geometry) -> Value:
    """Compute the mean squared cosine of two rows, weighted by their classes' samples."""
    kept = _single_rows(geometry)
    directions = _directions(geometry.classifier[kept])
    cosines = weighted_cosines(directions, geometry.classes.counts[kept])
    return _over_rows(geometry, cosines.mean_square, len(directions))


def _single_rows(geometry: Geometry) -> Bool[Tensor, " K"]:
    """Return which rows are neither 0 nor equal to others.

    Rows that were never trained are 0 or alike by the thousand: they would decide the mean.
    """
    _, group, sizes = geometry.classifier.unique(dim=0, return_inverse=True, return_counts=True)
    alone: Bool[Tensor, " K"] = (sizes[group] == 1) & geometry.classifier.any(1)
    return alone


def _directions(rows: Float64[Tensor, "k D"]) -> Float64[Tensor, "k D"]:
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def _over_rows(geometry: Geometry, value: float, k: int) -> Value:
    left = {"of rows that are 0 or alike": geometry.classes.n_pairs - k * (k - 1) // 2}
    return geometry.of_pairs(value, k * (k - 1) // 2, left=left)


_RANKS: dict[str, Callable[[Float64[Tensor, " r"]], float]] = {
    "rank_pr": participation_ratio,
    "rank_stable": stable_rank,
    "rank_entropy": entropy_rank,
}
_SCATTERS = {"": "between", "_within": "within", "_total": "total", "_head": "head"}

# Dimensions: outliers, heavy tails, and the direction that all embeddings share. They are about
# embeddings, not about classes: they say in which space the class means lie.


def _over_dimensions(
    geometry: Geometry, measure: Callable[[DimensionMoments], tuple[float, int]]
) -> Value:
    """Compute a value over n of the D dimensions; the others are constant."""
    moments, reason = geometry.dimensions
    dim = geometry.classes.dim
    if moments is None:
        return Value(math.nan, 0, dim, reason)
    value, n = measure(moments)
    if math.isnan(value):
        return Value(math.nan, 0, dim, "no embeddings, or all alike")
    return Value(value, n, dim - n, f"constant dimensions: {dim - n} left out" if n < dim else "")


def _outliers(moments: DimensionMoments) -> tuple[float, int]:
    """Count the dimensions that have a mean far from those of the others.

    Far is six robust standard deviations: Kovaleva et al. take three plain ones, of a model's
    layer norm; here the deviation is the median absolute one, so that outliers don't hide one
    another (m equal ones of D dimensions can't be beyond sqrt(D/m - 1) plain deviations).
    """
    gaps = (moments.means - _median(moments.means)).abs()
    return float((gaps > OUTLIER * NORMAL * _median(gaps)).sum()), moments.dim


def _top_share(moments: DimensionMoments) -> tuple[float, int]:
    """Return the share of the mean squared norm that the largest 1 % of the dimensions hold."""
    squares = moments.mean_squares
    largest = squares.topk(-(-moments.dim // 100)).values  # one at least
    return float(largest.sum() / squares.sum()), moments.dim


def _kurtosis(
    moments: DimensionMoments, reduce: Callable[[Float64[Tensor, " d"]], Tensor]
) -> tuple[float, int]:
    """Reduce the kurtoses of the dimensions that are not constant."""
    kurtoses = moments.kurtoses
    kurtoses = kurtoses[~kurtoses.isnan()]
    return float(reduce(kurtoses)) if len(kurtoses) else math.nan, len(kurtoses)


def _anisotropy(geometry: Geometry) -> Value:
    """Compute the mean cosine of two different embeddings, exactly, from the mean unit vector."""
    moments, reason = geometry.dimensions
    if moments is None:
        observed = int(geometry.moments.counts[geometry.class_mask].sum())
        return Value(math.nan, 0, observed, reason)
    n, zero = moments.n_nonzero, moments.n - moments.n_nonzero
    reason = f"embeddings that are 0: {zero} left out" if zero else ""
    if n < 2:
        return Value(math.nan, 0, moments.n, reason or "fewer than two embeddings")
    square = float(moments.direction.square().sum())
    return Value((n * square - 1) / (n - 1), n, zero, reason)


def _median(values: Float64[Tensor, " d"]) -> Float64[Tensor, ""]:
    return values.quantile(0.5)  # of an even number, the mean of the two in the middle


FORMULAS: dict[str, Callable[[Geometry], Value]] = {
    **mean_families.FORMULAS,
    **_NC3,
    **_NC4,
    "nc5_orthodev": _ood_deviation,
    "nc5_orthodev_ctr": partial(_ood_deviation, centred=True),
    **{
        f"{name}{ending}": partial(_rank, rank=rank, scatter=scatter)
        for name, rank in _RANKS.items()
        for ending, scatter in _SCATTERS.items()
    },
    "rank_entropy_sv": partial(_rank, rank=_singular_entropy, scatter="between"),
    "rank_entropy_sv_total": partial(_rank, rank=_singular_entropy, scatter="total"),
    "spectrum_slope": partial(_slope, scatter="between"),
    "spectrum_slope_total": partial(_slope, scatter="total"),
    "head_overlap_sq": lambda g: _overlap(g, g.classifier),
    "head_overlap_sq_ctr": lambda g: _overlap(g, g.classifier - g.classifier.mean(0)),
    "head_overlap_sq_fw": _overlap_weighted,
    "dim_outliers": partial(_over_dimensions, measure=_outliers),
    "dim_kurtosis_med": partial(_over_dimensions, measure=partial(_kurtosis, reduce=_median)),
    "dim_kurtosis_max": partial(_over_dimensions, measure=partial(_kurtosis, reduce=torch.max)),
    "dim_top01_share": partial(_over_dimensions, measure=_top_share),
    "dim_anisotropy": _anisotropy,
}
