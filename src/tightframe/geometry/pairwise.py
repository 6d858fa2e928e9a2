"""Measures that are read off the sweep over pairs of classes: parts of NC1, NC2 and GNC2."""

import dataclasses
import math
from collections.abc import Callable

from tightframe.geometry.closed_forms import (
    ClassSet,
    participation_ratio,
    sphere_log_kernel_mean,
    sphere_log_kernel_variance,
)
from tightframe.geometry.pairs import Aggregate, PairSummary
from tightframe.geometry.values import Geometry, Value, coefficient, estimator_of, view_of

# Where sampling is a larger share of the mean squared distance, what is left after it was taken out
# moves a value by 2 % or more; by the table of biases in docs/measures.md.
NOISY: dict[Aggregate, tuple[float, str]] = {
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
    "median": (
        0.25,
        "a median over pairs is a few percent off, rather read a ratio of means",
    ),
}

RULING = 0.15  # share from which on the middle of the interval of a log kernel is of no use either


@dataclasses.dataclass(frozen=True)
class OfPairs:
    """A measure of pairs; calling it gives its value over the pairs that have one.

    It says what it needs of the sweep, so that one sweep can serve many.
    """

    quantity: str  # a name of `Geometry.quantity`
    aggregate: Aggregate
    read: Callable[[PairSummary, ClassSet], float]

    def __call__(self, geometry: Geometry) -> Value:
        """Read it off the sweep, which takes place at the first call."""
        view = view_of(self.quantity)
        classes, reason = geometry.view(view)
        if classes is None:
            return geometry.undefined(reason, pairs=True)
        if self._debiased:
            classes, reason = geometry.debiased(self._debiased)
            if classes is None:
                return geometry.undefined(reason, pairs=True)
        removed = geometry.classes.dim - classes.dim
        if view.startswith("pc") and min(geometry.classes.dim, classes.k - 1) - removed < 2:
            # On a line directions are alike or opposite; which ones are alike is up to rounding.
            return geometry.undefined("fewer than two dimensions of the means are left", pairs=True)
        pairs = geometry.pairs(self.quantity, self.aggregate)
        value = self.read(pairs, classes)
        if pairs.nearest is not None and self.aggregate == "nearest":
            n = int(pairs.nearest.isfinite().sum())
            return geometry.of_classes(value, n, why="without a direction")
        without = pairs.pairs - pairs.n  # pairs that have no value
        if self._debiased and self.aggregate == "median":
            infinite = pairs.ranked - pairs.n
            note = f"pairs debiased to distance 0 or less: {infinite}, infinite" if infinite else ""
            note = "; ".join(filter(None, [note, self._why_noisy(classes, value)]))
            left = {"of classes debiased to norm 0 or less": pairs.pairs - pairs.ranked}
            return geometry.of_pairs(value, pairs.ranked, classes=classes, left=left, note=note)
        n = pairs.logs.n if self.aggregate in ("logs", "mean_log") else pairs.n
        left = {self._lacking: without, "of classes without any spread": pairs.n - n}
        notes = [_why_uneven(pairs)] if self.aggregate == "moments" else []
        if self.aggregate in ("tail", "tail001") and value > 0.5:
            notes.append("a few pairs decide the mean")
        elif self._debiased and without > 0.01 * pairs.pairs:
            notes.append("that is more than 1 %: rather read a median or a ratio of means")
        note = "; ".join(filter(None, [*notes, self._why_noisy(classes, value)]))
        return geometry.of_pairs(value, n, classes=classes, left=left, note=note)

    def _why_noisy(self, classes: ClassSet, value: float) -> str:
        """Return what the noise that single pairs still have does to this, where it shows.

        Right on average, a debiased distance is not right in a ratio or a logarithm.
        """
        limit, why = NOISY.get(self.aggregate, (math.inf, ""))
        share = min(1.0, classes.noise_share) if self._debiased else 0.0
        if not math.isfinite(value) or not share > limit:
            return ""
        if self.aggregate == "logs" and share > RULING:
            why = "what is left of it in single pairs decides the mean of their log kernels"
        return f"sampling is {share:.0%} of the mean squared distance: {why}"

    @property
    def _debiased(self) -> str:
        return estimator_of(self.quantity)

    @property
    def _lacking(self) -> str:
        """Of pairs that have no value."""
        if self._debiased:
            return "debiased to distance 0 or less"
        return "with one mean" if "cdnv" in self.quantity else "in one direction, or in none"


def _why_uneven(pairs: PairSummary) -> str:
    """Return that the sum over pairs rests on few of them, if it does: their share is 1 %."""
    effective, n = pairs.values.effective, pairs.n
    if n < 10 or not effective < max(2, n / 100):
        return ""
    return (
        f"a few pairs decide it, as if {effective:,.0f} of {n:,} held all of the sum: rather read "
        "a median or a ratio of means"
    )


def mean(pairs: PairSummary, _: ClassSet) -> float:
    """Mean over pairs."""
    return pairs.values.mean


def std(pairs: PairSummary, _: ClassSet) -> float:
    """Standard deviation over pairs (ddof 1)."""
    return math.sqrt(pairs.values.variance(ddof=1))


def cov(pairs: PairSummary, classes: ClassSet) -> float:
    """Coefficient of variation over pairs."""
    return coefficient(std(pairs, classes), mean(pairs, classes))


def mean_log(pairs: PairSummary, _: ClassSet) -> float:
    """Mean of the logarithms; pairs at 0 are left out."""
    return pairs.logs.mean


def median(pairs: PairSummary, _: ClassSet) -> float:
    """Median over pairs; of an even number, the mean of the two in the middle."""
    return sum(pairs.middle) / 2


def tail_share(pairs: PairSummary, _: ClassSet) -> float:
    """Share of the sum that the largest 1 % of the pairs hold."""
    return pairs.tail_share


def far_tail_share(pairs: PairSummary, _: ClassSet) -> float:
    """Share that the largest 0.1 % of the pairs hold."""
    return pairs.tail001_share


def scale_free(pairs: PairSummary, classes: ClassSet) -> float:
    """Mean times the mean squared norm of the centred class means."""
    return pairs.values.mean * float(classes.squared_norms.mean())


def scale_free_debiased(pairs: PairSummary, classes: ClassSet) -> float:
    """The same, of debiased norms; undefined where nothing is left of them."""
    between = float(classes.debiased_squared_norms.mean())
    return pairs.values.mean * between if between > 0 else math.nan


# The log kernel is -ln |u - v|: minus half the logarithm of the squared distance that is swept.


def kernel_mean(pairs: PairSummary, _: ClassSet) -> float:
    """Mean of the log kernel."""
    return -pairs.logs.mean / 2


def kernel_variance(pairs: PairSummary, _: ClassSet) -> float:
    """Its variance (ddof 0)."""
    return pairs.logs.variance(ddof=0) / 4


def kernel_std(pairs: PairSummary, _: ClassSet) -> float:
    """Its standard deviation (ddof 1)."""
    return math.sqrt(pairs.logs.variance(ddof=1)) / 2


def kernel_cov(pairs: PairSummary, classes: ClassSet) -> float:
    """Its coefficient of variation; the sign is the mean's."""
    return coefficient(kernel_std(pairs, classes), kernel_mean(pairs, classes))


def kernel_median(pairs: PairSummary, _: ClassSet) -> float:
    """Its median; infinite where at least half of the pairs are debiased to distance 0."""
    if pairs.middle[0] == 0:
        return math.inf
    return -sum(math.log(value) for value in pairs.middle) / 4


def kernel_excess(pairs: PairSummary, classes: ClassSet) -> float:
    """Its mean over that of uniform points on the sphere."""
    return kernel_mean(pairs, classes) - sphere_log_kernel_mean(classes.dim)


def kernel_var_ratio(pairs: PairSummary, classes: ClassSet) -> float:
    """Its variance, as a multiple of that of uniform points."""
    return kernel_variance(pairs, classes) / sphere_log_kernel_variance(classes.dim)


def kernel_z(pairs: PairSummary, classes: ClassSet) -> float:
    """Its excess in standard errors of as many uniform points."""
    variance = sphere_log_kernel_variance(classes.dim)
    return kernel_excess(pairs, classes) * math.sqrt(pairs.logs.n / variance)


def kernel_excess_in_rank(pairs: PairSummary, classes: ClassSet) -> float:
    """Its excess over uniform points in as many dimensions as the means fill."""
    dim = participation_ratio(classes.eigenvalues)
    return kernel_mean(pairs, classes) - sphere_log_kernel_mean(dim)


def riesz(pairs: PairSummary, classes: ClassSet) -> float:
    """Logarithm of the mean Riesz kernel of exponent D - 2; 0 for uniform points."""
    if classes.dim <= 2 or pairs.n == 0:
        return math.nan
    return pairs.log_riesz - math.log(pairs.n)


def distance_mean(pairs: PairSummary, _: ClassSet) -> float:
    """Mean distance of two directions."""
    return pairs.roots.mean


def distance_variance(pairs: PairSummary, _: ClassSet) -> float:
    """Variance of their distance (ddof 0)."""
    return pairs.roots.variance(ddof=0)


def least_distance(pairs: PairSummary, _: ClassSet) -> float:
    """The least distance of two directions."""
    return math.sqrt(pairs.least) if pairs.n else math.nan


def nearest_cosine(pairs: PairSummary, _: ClassSet) -> float:
    """Mean over classes of the largest cosine with another class."""
    assert pairs.nearest is not None
    return 1 - float(pairs.nearest[pairs.nearest.isfinite()].mean()) / 2
