"""NC1, NC2 and GNC2: what class means and variances say of each other, in closed form or by pairs.

One sweep over the pairs serves all measures of them. Formulas are in `catalogue`, functions here.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

from jaxtyping import Float64
from torch import Tensor

from tightframe.geometry.closed_forms import (
    ClassSet,
    PairMoments,
    participation_ratio,
    pinv_quotient,
    root,
    simplex_error,
    sphere_log_kernel_mean,
    sphere_log_kernel_variance,
    squared_gram_norm,
)
from tightframe.geometry.pairs import Aggregate, PairSummary
from tightframe.geometry.values import (
    ESTIMATORS,
    VIEWS,
    Geometry,
    Value,
    coefficient,
    estimator_of,
    note_near_zero,
    std,
    view_of,
)

# Share of noise in the mean squared distance from which on a ratio of means is not sure to 2 %, as
# what documents have in common moves all pairs at once: see the table of biases, docs/measures.md.
NOISY_RATIO = 0.5
# Where sampling is a larger share of the mean squared distance, the noise that subtraction leaves
# moves a value by 2 % or more; by the table of biases in docs/measures.md.
NOISY_PAIRS: dict[Aggregate, tuple[float, str]] = {
    "moments": (
        0.08,
        "what is left of it in single pairs makes the mean too large, rather read a ratio of means",
    ),
    "mean_log": (0.1, "what is left of it in single pairs makes the mean of logarithms too large"),
    "logs": (
        0.02,
        "what is left of it in single pairs makes the mean of their log kernels too large, rather "
        "read the centre of its interval if it has one",
    ),
    "median": (0.25, "a median over pairs is a few percent off, rather read a ratio of means"),
}
RULING = 0.15  # share from which on the centre of the interval of a log kernel is of no use either


def _variability(geometry: Geometry, estimator: str = "", *, over_pairs: bool = False) -> Value:
    """Compute the mean variance over the mean squared norm of a centred mean.

    Over pairs, it is the mean variance of the pairs' classes over the mean squared distance, which
    is (K - 1) / (2 K) times as large.
    """
    classes, reason = geometry.class_set(estimator)
    if classes is None:
        return geometry.undefined(reason, pairs=over_pairs)
    variances = classes.unbiased_variances if estimator else classes.variances
    squared_norms = classes.debiased_squared_norms if estimator else classes.squared_norms
    between = float(squared_norms.mean())
    value = float(variances.mean()) / between if between > 0 else math.nan
    note = _caution(value, classes) if estimator else ""
    if not over_pairs:
        return geometry.of_classes(value, classes.k, classes=classes, note=note)
    value *= (classes.k - 1) / (2 * max(1, classes.k))
    return geometry.of_pairs(value, classes.n_pairs, classes=classes, note=note)


def _weighted_variability(geometry: Geometry, estimator: str = "") -> Value:
    """Compute the ratio of means over pairs that are weighted by their classes' samples.

    It is sum_{i<j} p_i p_j (s_i + s_j) / 2 over sum_{i<j} p_i p_j d_ij^2, without its noise.
    """
    classes, reason = geometry.class_set(estimator)
    if classes is None:
        return geometry.undefined(reason, pairs=True)
    shares, noise = classes.shares, 0.0
    weights = shares * (1 - shares)
    if estimator:
        noise = float(weights @ classes.noise)
        if classes.by_groups is not None:
            noise -= classes.by_groups.between(shares)
    variances = classes.unbiased_variances if estimator else classes.variances
    between = _between_tokens(classes) - noise
    value = float(weights @ variances) / 2 / between if between > 0 else math.nan
    note = _caution(value, classes) if estimator else ""
    return geometry.of_pairs(value, classes.n_pairs, classes=classes, note=note)


def _caution(value: float, classes: ClassSet) -> str:
    """Return why a debiased ratio of means has no value although there are pairs, or is off."""
    if math.isnan(value):
        lost = classes.n_pairs > 0
        return "the mean squared distance is debiased to 0 or less" if lost else ""
    if (share := classes.noise_share) > NOISY_RATIO:
        return f"sampling is {share:.0%} of the mean squared distance: it may be a few percent off"
    return ""


def _between_tokens(classes: ClassSet) -> float:
    """Return the variance of the class means over tokens, sum_i p_i |mu_i - mu|^2.

    mu is the mean over tokens; it equals sum_{i<j} p_i p_j d_ij^2.
    """
    centre = classes.shares @ classes.means  # seen from the global mean
    return float(classes.shares @ (classes.means - centre).square().sum(1))


def _quotient_tokens(geometry: Geometry) -> Value:
    """Compute pooled variance over variance of the means, each sample with equal weight."""
    classes = geometry.classes
    within = float(classes.within_ss.sum() / classes.counts.sum())
    return geometry.of_classes(coefficient(within, _between_tokens(classes)), classes.k)


def _pinv(geometry: Geometry, *, balanced: bool = False, over_dims: bool = False) -> Value:
    """Compute tr(Sw pinv(Sb)) / K; with `over_dims`, Sb is divided by D in place of K.

    Each sample has equal weight in the covariance within classes, or with `balanced` each class.
    """
    classes = geometry.classes
    within, reason = geometry.within(balanced=balanced)
    if within is None:
        return geometry.undefined(reason)
    between = classes.means.T @ classes.means / (classes.dim if over_dims else classes.k)
    trace, rank = pinv_quotient(within, between)
    value = trace / classes.k if rank else math.nan
    return geometry.of_classes(value, classes.k, note=f"Sb has rank {rank} of {classes.dim}")


def _log_norms(geometry: Geometry) -> Float64[Tensor, " k"]:
    return geometry.classes.norms[geometry.classes.nonzero].log()


def _norm_cov(geometry: Geometry, values: Float64[Tensor, " k"]) -> Value:
    """Compute the coefficient of variation of a number per class."""
    deviation, mean = std(values), float(values.mean())
    note = note_near_zero(mean, deviation)
    value = coefficient(deviation, mean)
    return geometry.of_classes(value, len(values), why="at the global mean", note=note)


def _log_norm_std(geometry: Geometry) -> Value:
    logs = _log_norms(geometry)
    return geometry.of_classes(std(logs), len(logs), why="at the global mean")


def _cosine(geometry: Geometry, read: Callable[[PairMoments], float], view: str = "") -> Value:
    """Compute a statistic of the cosines between centred means, in one of `values.VIEWS`."""
    classes, reason = geometry.view(view)
    if classes is None:
        return geometry.undefined(reason, pairs=True)
    return _over_cosines(geometry, read(classes.cosines), n=classes.cosines.pairs)


def _cosine_cov(geometry: Geometry) -> Value:
    """Compute the coefficient of variation of the cosines; their mean near 0 dominates it."""
    cosines = geometry.classes.cosines
    note = note_near_zero(cosines.mean, cosines.std)
    return _over_cosines(geometry, coefficient(cosines.std, cosines.mean), note=note)


def _cosine_deviation(geometry: Geometry) -> Value:
    """Compute the root mean square deviation of the cosines from -1/(K - 1), that of a simplex."""
    cosines = geometry.classes.cosines
    target = -1 / max(1, geometry.classes.k - 1)
    square = cosines.mean_square - 2 * target * cosines.mean + target**2
    return _over_cosines(geometry, root(square))


def _over_cosines(
    geometry: Geometry, value: float, *, n: int | None = None, note: str = ""
) -> Value:
    classes = geometry.classes
    n = classes.cosines.pairs if n is None else n
    return geometry.of_pairs(
        value, n, left={"of classes at the global mean": classes.n_pairs - n}, note=note
    )


def _etf_error(geometry: Geometry) -> Value:
    """Compute the distance between the Gram matrices of the centred means and of a simplex."""
    classes = geometry.classes
    trace = float(classes.squared_norms.sum())
    value = simplex_error(trace, squared_gram_norm(classes.means), classes.k)
    return geometry.of_classes(value, classes.k)


FORMULAS: dict[str, Callable[[Geometry], Value]] = {
    "nc1_quotient": _variability,
    "nc1_cdnv_rom": partial(_variability, over_pairs=True),
    "nc1_cdnv_rom_fw": _weighted_variability,
    "nc1_quotient_tok": _quotient_tokens,
    "nc1_pinv": partial(_pinv, balanced=True),
    "nc1_pinv_tok": _pinv,
    "nc1_pinv_lib": partial(_pinv, over_dims=True),
    "nc2_equinorm_cov": lambda g: _norm_cov(g, g.classes.norms),
    "nc2_equinorm_cov_sq": lambda g: _norm_cov(g, g.classes.squared_norms),
    # These two depend on the unit of length.
    "nc2_equinorm_cov_log": lambda g: _norm_cov(g, _log_norms(g)),
    "nc2_equinorm_cov_logscl": lambda g: _norm_cov(
        g, 2 * _log_norms(g) - math.log(g.classes.dim) / 2
    ),
    "nc2_equinorm_std_log": _log_norm_std,
    "nc2_equiang_mean": lambda g: _cosine(g, lambda cosines: cosines.mean),
    "nc2_equiang_std": lambda g: _cosine(g, lambda cosines: cosines.std),
    "nc2_equiang_cov": _cosine_cov,
    "nc2_equiang_rmsdev": _cosine_deviation,
    "nc2_cos_sq_mean": lambda g: _over_cosines(g, g.classes.cosines.mean_square),
    # 0 for uniform points
    "nc2_cos_sq_excess": lambda g: _over_cosines(
        g, g.classes.dim * g.classes.cosines.mean_square - 1
    ),
    "nc2_equiang_mean_fw": lambda g: _over_cosines(g, g.classes.weighted_cosines.mean),
    # ddof 0: weights have no degrees of freedom
    "nc2_equiang_std_fw": lambda g: _over_cosines(g, root(g.classes.weighted_cosines.variance)),
    "nc2_cos_sq_mean_fw": lambda g: _over_cosines(g, g.classes.weighted_cosines.mean_square),
    "nc2_cos_sq_excess_fw": lambda g: _over_cosines(
        g, g.classes.dim * g.classes.weighted_cosines.mean_square - 1
    ),
    # The mean squared norm over -(K - 1), and no more
    "nc2_dot_mean": lambda g: g.of_pairs(g.classes.dots.mean, g.classes.n_pairs),
    "nc2_dot_var": lambda g: g.of_pairs(g.classes.dots.variance, g.classes.n_pairs),
    "nc2_etf_error": _etf_error,
}
for _ending in ESTIMATORS:
    FORMULAS |= {
        f"nc1_quotient_{_ending}": partial(_variability, estimator=_ending),
        f"nc1_cdnv_rom_{_ending}": partial(_variability, estimator=_ending, over_pairs=True),
        f"nc1_cdnv_rom_{_ending}_fw": partial(_weighted_variability, estimator=_ending),
    }
for _view in VIEWS:
    FORMULAS |= {
        f"nc2_equiang_mean_{_view}": partial(_cosine, read=lambda c: c.mean, view=_view),
        f"nc2_equiang_std_{_view}": partial(_cosine, read=lambda c: c.std, view=_view),
    }


def _scale_free(pairs: PairSummary, classes: ClassSet, squared_norms: Tensor) -> float:
    """Multiply the mean by the mean squared norm; undefined where noise leaves nothing of it."""
    between = float(squared_norms.mean())
    return pairs.values.mean * between if between > 0 else math.nan


def _kernel_median(pairs: PairSummary, _: ClassSet) -> float:
    """Return the median log kernel; infinite where half of the pairs are debiased to distance 0."""
    if pairs.middle[0] == 0:
        return math.inf
    return -sum(math.log(value) for value in pairs.middle) / 4


def _kernel_excess(pairs: PairSummary, dim: int | float) -> float:
    """Return the mean log kernel over that of uniform points on the sphere."""
    return -pairs.logs.mean / 2 - sphere_log_kernel_mean(dim)


def _riesz(pairs: PairSummary, classes: ClassSet) -> float:
    """Return the logarithm of the mean Riesz kernel of exponent D - 2; 0 for uniform points."""
    if classes.dim <= 2 or pairs.n == 0:
        return math.nan
    return pairs.log_riesz - math.log(pairs.n)


def _nearest_cosine(pairs: PairSummary, _: ClassSet) -> float:
    """Return the mean over classes of the largest cosine with another class."""
    assert pairs.nearest is not None
    return 1 - float(pairs.nearest[pairs.nearest.isfinite()].mean()) / 2


# The log kernel is -ln |u - v|: minus half the logarithm of the squared distance that is swept.
# Standard deviations have ddof 1, variances ddof 0. Of an even number, the median is the mean of
# the two values in the middle.
STATISTICS: dict[str, Callable[[PairSummary, ClassSet], float]] = {
    "mean": lambda pairs, _: pairs.values.mean,
    "std": lambda pairs, _: math.sqrt(pairs.values.variance(ddof=1)),
    "cov": lambda pairs, _: coefficient(
        math.sqrt(pairs.values.variance(ddof=1)), pairs.values.mean
    ),
    "mean_log": lambda pairs, _: pairs.logs.mean,
    "median": lambda pairs, _: sum(pairs.middle) / 2,
    "tail": lambda pairs, _: pairs.tail_share,
    "tail001": lambda pairs, _: pairs.tail001_share,
    "scale_free": lambda pairs, c: _scale_free(pairs, c, c.squared_norms),
    "scale_free_debiased": lambda pairs, c: _scale_free(pairs, c, c.debiased_squared_norms),
    "kernel_mean": lambda pairs, _: -pairs.logs.mean / 2,
    "kernel_var": lambda pairs, _: pairs.logs.variance(ddof=0) / 4,
    "kernel_std": lambda pairs, _: math.sqrt(pairs.logs.variance(ddof=1)) / 2,
    "kernel_cov": lambda pairs, _: coefficient(
        math.sqrt(pairs.logs.variance(ddof=1)) / 2, -pairs.logs.mean / 2
    ),
    "kernel_med": _kernel_median,
    "kernel_excess": lambda pairs, c: _kernel_excess(pairs, c.dim),
    # Over uniform points in as many dimensions as the means fill
    "kernel_excess_pr": lambda pairs, c: _kernel_excess(pairs, participation_ratio(c.eigenvalues)),
    "kernel_var_ratio": lambda pairs, c: (
        pairs.logs.variance(ddof=0) / 4 / sphere_log_kernel_variance(c.dim)
    ),
    # In standard errors of as many uniform points
    "kernel_z": lambda pairs, c: (
        _kernel_excess(pairs, c.dim) * math.sqrt(pairs.logs.n / sphere_log_kernel_variance(c.dim))
    ),
    "riesz": _riesz,
    "min_dist": lambda pairs, _: math.sqrt(pairs.least) if pairs.n else math.nan,
    "dist_mean": lambda pairs, _: pairs.roots.mean,
    "dist_var": lambda pairs, _: pairs.roots.variance(ddof=0),
    "nearest_cosine": _nearest_cosine,
}


@dataclasses.dataclass(frozen=True)
class PairMeasure:
    """A measure over pairs; calling it gives its value over the pairs that have one.

    It says what it needs of the sweep, so that one sweep can serve many.
    """

    quantity: str  # a name of `Geometry.quantity`
    aggregate: Aggregate
    statistic: str  # a name of `STATISTICS`

    def __call__(self, geometry: Geometry) -> Value:
        """Compute the value from the sweep, which happens at the first call."""
        view = view_of(self.quantity)
        classes, reason = geometry.view(view)
        if classes is None:
            return geometry.undefined(reason, pairs=True)
        if estimator := estimator_of(self.quantity):
            classes, reason = geometry.class_set(estimator)
            if classes is None:
                return geometry.undefined(reason, pairs=True)
        removed = geometry.classes.dim - classes.dim
        if view.startswith("pc") and min(geometry.classes.dim, classes.k - 1) - removed < 2:
            # On a line directions are alike or opposite; which ones are alike is up to rounding.
            return geometry.undefined("fewer than two dimensions of the means are left", pairs=True)
        pairs = geometry.pairs(self.quantity, self.aggregate)
        debiased = f"{self.statistic}_debiased" if estimator else ""
        value = STATISTICS[debiased if debiased in STATISTICS else self.statistic](pairs, classes)
        if pairs.nearest is not None and self.aggregate == "nearest":
            n = int(pairs.nearest.isfinite().sum())
            return geometry.of_classes(value, n, why="without a direction")
        return self._value(geometry, value, classes, pairs)

    def _value(
        self, geometry: Geometry, value: float, classes: ClassSet, pairs: PairSummary
    ) -> Value:
        """Return the value with the pairs that are left out, and what to beware of."""
        debiased = bool(estimator_of(self.quantity))
        if debiased and self.aggregate == "median":
            n, infinite = pairs.ranked, pairs.ranked - pairs.n
            notes = []
            if infinite:
                notes.append(f"pairs debiased to distance 0 or less: {infinite}, infinite")
            left = {"of classes debiased to norm 0 or less": pairs.pairs - pairs.ranked}
        else:
            n = pairs.logs.n if self.aggregate in ("logs", "mean_log") else pairs.n
            without = pairs.pairs - pairs.n  # pairs that have no value
            lacking = "with one mean" if "cdnv" in self.quantity else "in one direction, or in none"
            lacking = "debiased to distance 0 or less" if debiased else lacking
            left = {lacking: without, "of classes without any spread": pairs.n - n}
            notes = [_why_uneven(pairs)] if self.aggregate == "moments" else []
            if self.aggregate in ("tail", "tail001") and value > 0.5:
                notes.append("a few pairs decide the mean")
            elif debiased and without > 0.01 * pairs.pairs:
                notes.append("that is more than 1 %: rather read a median or a ratio of means")
        note = "; ".join(filter(None, [*notes, self._why_noisy(classes, value)]))
        return geometry.of_pairs(value, n, classes=classes, left=left, note=note)

    def _why_noisy(self, classes: ClassSet, value: float) -> str:
        """Return what the noise that single pairs still have does to this, where it shows.

        Right on average, a debiased distance is not right in a ratio or a logarithm.
        """
        limit, why = NOISY_PAIRS.get(self.aggregate, (math.inf, ""))
        share = min(1.0, classes.noise_share) if estimator_of(self.quantity) else 0.0
        if not math.isfinite(value) or not share > limit:
            return ""
        if self.aggregate == "logs" and share > RULING:
            why = "what is left of it in single pairs decides the mean of their log kernels"
        return f"sampling is {share:.0%} of the mean squared distance: {why}"


def _why_uneven(pairs: PairSummary) -> str:
    """Return that the sum over pairs rests on few of them, if it does: their share is 1 %."""
    effective, n = pairs.values.effective, pairs.n
    if n < 10 or not effective < max(2, n / 100):
        return ""
    return (
        f"a few pairs decide it, as if {effective:,.0f} of {n:,} held all of the sum: rather read "
        "a median or a ratio of means"
    )
