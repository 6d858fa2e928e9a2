r"""Pure formulas on class moments, in float64; never a K x K matrix where K > D.

With :math:`m_c` the centred means and :math:`A = \sum_c m_c m_c^T`, everything here costs
O(K D min(K, D)) at most. What needs the pairs themselves is in `pairs`.

Axes: C classes of the moments, K selected ones, k the first of those, D embedding.
"""

import dataclasses
import math
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int, Int64
from scipy.special import digamma, polygamma
from torch import Tensor

from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.noise import GroupNoise

EPS = torch.finfo(torch.float64).eps
PART = 1 << 15  # numbers that are squared at once: 256 KiB, which stay in the cache
SAME = 1e-12  # what is left of a vector below this share of it is rounding
# Half-open bins of the samples of a class begin here; the last has no end.
EDGES = (1, 2, 5, 10, 30, 100, 300, 1_000, 10_000, 100_000, 1_000_000)


class PairMoments(NamedTuple):
    """Mean and mean square of one number per pair of classes, from sums in closed form."""

    pairs: int
    mean: float
    mean_square: float

    @classmethod
    def of(cls, k: int, total: float, total_square: float) -> "PairMoments":
        """Divide the sums over all pairs of k classes; NaN without pairs."""
        pairs = k * (k - 1) // 2
        if pairs == 0:
            return cls(0, math.nan, math.nan)
        return cls(pairs, total / pairs, max(0.0, total_square) / pairs)

    @property
    def variance(self) -> float:
        """Variance over pairs, ddof 0; what rounding has put below 0 is 0."""
        return root(self.mean_square - self.mean**2) ** 2

    @property
    def std(self) -> float:
        """Standard deviation over pairs, ddof 1."""
        return (
            math.sqrt(self.variance * self.pairs / (self.pairs - 1)) if self.pairs > 1 else math.nan
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSet:
    """Some classes, seen from their unweighted global mean.

    Classes with two samples or more come first, and before them those whose noise is known from
    groups of documents, so that either set is a prefix.
    """

    ids: Int64[Tensor, " K"]
    counts: Int64[Tensor, " K"]  # samples of each, at least 1
    means: Float64[Tensor, "K D"]  # minus the global mean; their sum is 0
    global_mean: Float64[Tensor, " D"]  # of the class means, each class once
    within_ss: Float64[Tensor, " K"]  # sum of squared distances to the class mean
    by_groups: GroupNoise | None = None  # noise of their means; else samples are independent

    @property
    def k(self) -> int:
        """Number of classes."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return self.means.shape[1]

    @property
    def n_pairs(self) -> int:
        """Number of unordered pairs of distinct classes."""
        return self.k * (self.k - 1) // 2

    @cached_property
    def with_two_samples(self) -> "ClassSet":
        """Classes with two samples or more, around a global mean of their own."""
        return self._first(int((self.counts >= 2).sum()))

    def grouped(self, noise: GroupNoise) -> "ClassSet":
        """Return the classes whose noise is known from groups, around a mean of their own."""
        first = self._first(len(noise.ids))
        return dataclasses.replace(first, by_groups=noise)

    def _first(self, k: int) -> "ClassSet":
        if k == self.k:
            return self
        means = self.means[:k]
        shift = means.mean(0)
        return ClassSet(
            self.ids[:k],
            self.counts[:k],
            means - shift,
            self.global_mean + shift,
            self.within_ss[:k],
        )

    @property
    def raw_means(self) -> Float64[Tensor, "K D"]:
        """Class means, not centred."""
        return self.means + self.global_mean

    @cached_property
    def squared_norms(self) -> Float64[Tensor, " K"]:
        """Squared norms of the centred means."""
        return squared_norms_about(self.means)

    @cached_property
    def norms(self) -> Float64[Tensor, " K"]:
        """Distances of the class means to the global mean."""
        return self.squared_norms.sqrt()

    @cached_property
    def raw_norms(self) -> Float64[Tensor, " K"]:
        """Norms of the class means, not centred."""
        return squared_norms_about(self.means, -self.global_mean).sqrt()

    @cached_property
    def nonzero(self) -> Bool[Tensor, " K"]:
        """Mask of the classes whose mean is not the global one, up to rounding."""
        rounding = 4 * EPS * (self.raw_norms + self.global_mean.square().sum().sqrt())
        return self.norms > rounding

    @property
    def directions(self) -> Float64[Tensor, "k D"]:
        """Unit vectors of the classes that are `nonzero`."""
        return self.means[self.nonzero] / self.norms[self.nonzero, None]

    @property
    def shares(self) -> Float64[Tensor, " K"]:
        """Share of all samples that each class holds."""
        return self.counts.double() / self.counts.sum()  # int / int would give float32

    @property
    def variances(self) -> Float64[Tensor, " K"]:
        """Mean squared distance to the class mean, divided by n; 0 for a single sample."""
        return self.within_ss / self.counts

    @property
    def unbiased_variances(self) -> Float64[Tensor, " K"]:
        """Variance of a sample about the true mean; NaN for a single independent sample.

        The spread about the class mean lacks what that mean is off: (n - 1) / n of it is left where
        samples are independent.
        """
        if self.by_groups is not None:
            return self.variances + self.noise
        return self.within_ss / (self.counts - 1)

    @property
    def noise(self) -> Float64[Tensor, " K"]:
        """Expected squared error of each class mean, from independent samples or from groups."""
        if self.by_groups is not None:
            return self.by_groups.own
        return self.unbiased_variances / self.counts

    @property
    def debiased_squared_norms(self) -> Float64[Tensor, " K"]:
        """Squared norms without what the noise of the means adds to them; may be negative."""
        noise, k = self.noise, max(1, self.k)
        rows = noise if self.by_groups is None else self.by_groups.rows
        return self.squared_norms - (noise - 2 / k * rows) - rows.sum() / k**2

    @cached_property
    def noise_share(self) -> float:
        """Share of noise in the mean squared distance of two class means."""
        return 1 - float(self.debiased_squared_norms.sum() / self.squared_norms.sum())

    @cached_property
    def cosines(self) -> "PairMoments":
        """Moments of the cosines between classes that have a direction."""
        directions = self.directions
        k = len(directions)
        total = (float(directions.sum(0).square().sum()) - k) / 2
        return PairMoments.of(k, total, (squared_gram_norm(directions) - k) / 2)

    @cached_property
    def weighted_cosines(self) -> "PairMoments":
        """Moments of the cosines, each pair weighted by the product of its classes' samples."""
        return weighted_cosines(self.directions, self.counts[self.nonzero])

    @cached_property
    def dots(self) -> "PairMoments":
        """Moments of the inner products of the centred means; they sum to -tr(A)/2."""
        squares = self.squared_norms
        total_square = squared_gram_norm(self.means) - float(squares.square().sum())
        return PairMoments.of(self.k, -float(squares.sum()) / 2, total_square / 2)

    @cached_property
    def principal_means(self) -> Float64[Tensor, "K D"]:
        """Centred means in the eigenvectors of A, from the least eigenvalue to the largest."""
        vectors: Tensor = torch.linalg.eigh(self.means.T @ self.means).eigenvectors
        return self.means @ vectors

    @cached_property
    def eigenvalues(self) -> Float64[Tensor, " r"]:
        """Eigenvalues of the between-class scatter A, descending; 0 where they are rounding."""
        return spectrum(self.means)


def select(
    moments: ClassMoments,
    *,
    min_count: int = 1,
    classes: Bool[Tensor, " C"] | None = None,
    first: Bool[Tensor, " C"] | None = None,
) -> ClassSet:
    """Select the classes with at least `min_count` samples; with `classes`, only among those.

    Those in `first`, which have two samples or more, come first.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    enough = moments.counts >= min_count
    if classes is not None:
        enough &= classes.to(enough.device)
    ids = enough.nonzero().flatten()
    order = (moments.counts[ids] < 2).to(torch.uint8)
    if first is not None:
        order += ~first.to(enough.device)[ids]
    ids = ids[order.argsort(stable=True)]
    chosen = moments.of_classes(ids)
    centre = chosen.means.mean(0)  # NaN where no class is selected
    return ClassSet(ids, chosen.counts, chosen.means.sub_(centre), centre, chosen.within_ss)


def strata(counts: Int[Tensor, " C"]) -> dict[str, Bool[Tensor, " C"]]:
    """Return which classes are in each bin of their training counts, by name; no empty ones.

    A name says which counts are in it: "count 1", "count 100-299", "count 1000000-".
    """
    masks = {}
    for low, high in zip(EDGES, (*EDGES[1:], math.inf), strict=True):
        inside = (counts >= low) & (counts < high)
        if bool(inside.any()):
            last = "" if math.isinf(high) else f"{int(high) - 1}"
            masks[f"count {low}" if last == f"{low}" else f"count {low}-{last}"] = inside
    return masks


def without_principal(classes: ClassSet, n: int) -> ClassSet:
    """Project the classes to the D - n dimensions without the first n principal ones.

    Those are the eigenvectors of the between-class scatter. What is left of a mean is 0 if it is
    rounding.
    """
    return _seen_as(classes, classes.principal_means[:, : max(0, classes.dim - n)])


def standardised(classes: ClassSet, variances: Float64[Tensor, " D"]) -> ClassSet:
    """Divide each dimension by its standard deviation; leave constant ones out."""
    varied = variances > 0
    return _seen_as(classes, classes.means[:, varied] / variances[varied].sqrt())


def _seen_as(classes: ClassSet, means: Float64[Tensor, "K d"]) -> ClassSet:
    """Return the classes with other means, which are seen from their global mean."""
    norms = squared_norms_about(means).sqrt()
    left = norms > SAME * classes.norms
    if not bool(left.all()):
        means = means.where(left[:, None], 0.0)
    return dataclasses.replace(classes, means=means, global_mean=means.new_zeros(means.shape[1]))


def squared_norms_about(
    rows: Float64[Tensor, "K D"], origin: Float64[Tensor, " D"] | None = None
) -> Float64[Tensor, " K"]:
    """Return squared distances of the rows to an origin, in parts that stay in the cache."""
    shift = rows.new_zeros(rows.shape[1]) if origin is None else origin
    parts = rows.split(max(1, PART // max(1, rows.shape[1])))
    return torch.cat([(part - shift).square_().sum(1) for part in parts])


def weighted_cosines(
    directions: Float64[Tensor, "K D"], weights: Int64[Tensor, " K"]
) -> PairMoments:
    """Return mean cosine and squared cosine over pairs of unit vectors, weighted w_i w_j."""
    k = len(directions)
    shares = weights.double() / weights.sum()  # int / int would give float32
    total = float((shares * (1 - shares)).sum())  # of the weights of all ordered pairs
    if k < 2:
        return PairMoments(0, math.nan, math.nan)
    own = float(shares.square().sum())
    mean = (float((shares @ directions).square().sum()) - own) / total
    squares = squared_gram_norm(directions * shares.sqrt()[:, None]) - own
    return PairMoments(k * (k - 1) // 2, mean, max(0.0, squares) / total)


def gram(rows: Float64[Tensor, "K D"]) -> Float64[Tensor, "m m"]:
    """Return the smaller of the Gram matrices of rows and columns; both have the same spectrum."""
    return rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows


def squared_gram_norm(rows: Float64[Tensor, "K D"]) -> float:
    """Sum the squared inner products of all pairs of rows, each with itself included."""
    return float(gram(rows).square().sum())


def spectrum(rows: Float64[Tensor, "K D"]) -> Float64[Tensor, " r"]:
    """Return the eigenvalues of the Gram matrix, descending; below D eps of the largest, 0."""
    if rows.shape[0] == 0:
        return rows.new_empty(0)
    return cut(torch.linalg.eigvalsh(gram(rows)).flip(0), rows.shape[1])


def cut(eigenvalues: Float64[Tensor, " r"], dim: int) -> Float64[Tensor, " r"]:
    """Set eigenvalues to 0 that are rounding: below dim * eps of the largest."""
    return eigenvalues.where(eigenvalues > dim * EPS * eigenvalues.max(), 0.0)


def participation_ratio(eigenvalues: Float64[Tensor, " r"]) -> float:
    """Return (sum of eigenvalues)^2 / sum of squares, in [1, rank]; NaN if all are 0."""
    return float(eigenvalues.sum().square() / eigenvalues.square().sum())


def stable_rank(eigenvalues: Float64[Tensor, " r"]) -> float:
    """Return the sum of eigenvalues / largest, in [1, rank]; NaN if all are 0."""
    return float(eigenvalues.sum() / eigenvalues.max()) if len(eigenvalues) else math.nan


def entropy_rank(weights: Float64[Tensor, " r"]) -> float:
    """Return exp of the entropy of the weights, scaled to sum to 1; in [1, rank]."""
    shares = weights / weights.sum()
    return math.exp(float(torch.special.entr(shares).sum())) if len(weights) else math.nan


def spectrum_slope(eigenvalues: Float64[Tensor, " r"], first: int, last: int) -> float:
    """Return the least-squares slope of ln eigenvalue on ln index, first..last from 1.

    NaN with fewer than two indices, or where an eigenvalue is 0.
    """
    chosen = eigenvalues[first - 1 : last]
    if len(chosen) < 2 or len(chosen) < last - first + 1 or not bool(chosen.min() > 0):
        return math.nan
    x = torch.arange(first, last + 1, dtype=torch.float64, device=chosen.device).log()
    x -= x.mean()
    return float((x @ chosen.log()) / (x @ x))


def simplex_error(trace: float, squared_norm: float, k: int) -> float:
    r"""Return the distance of a matrix G to a simplex, :math:`\lVert G/|G| - S/|S| \rVert_F`.

    S = I - J/K is the Gram matrix of a simplex ETF, J all ones. Where the rows or columns of G
    sum to 0, tr(G S) = tr(G), so its trace and squared Frobenius norm are enough. In [0, 2]; what
    is below 1e-8 is rounding.
    """
    if k < 2 or squared_norm == 0:
        return math.nan
    return root(2 - 2 * trace / math.sqrt(squared_norm * (k - 1)))


def root(square: float) -> float:
    """Return the square root; what rounding has put below 0 is 0, and NaN stays."""
    return 0.0 if square < 0 else math.sqrt(square)


def pinv_quotient(
    within: Float64[Tensor, "D D"], between: Float64[Tensor, "D D"]
) -> tuple[float, int]:
    """Return the trace of within pinv(between), and the rank of `between`."""
    values, vectors = torch.linalg.eigh(between)
    kept = cut(values, len(values)) > 0
    along = (vectors * (within @ vectors)).sum(0)  # (D,), within along each eigenvector
    return float((along[kept] / values[kept]).sum()), int(kept.sum())


def sphere_log_kernel_mean(dim: int | float) -> float:
    r"""Return the mean of :math:`-\ln\lVert u - v \rVert` for uniform u, v on the sphere.

    (1 - cos)/2 is Beta(a, a) distributed with a = (D - 1)/2; `dim` need not be whole.
    """
    a = (dim - 1) / 2
    return -(math.log(4) + float(digamma(a) - digamma(2 * a))) / 2 if a > 0 else math.nan


def sphere_log_kernel_variance(dim: int | float) -> float:
    """Return the variance of the kernel of `sphere_log_kernel_mean`."""
    a = (dim - 1) / 2
    return float(polygamma(1, a) - polygamma(1, 2 * a)) / 4 if a > 0 else math.nan
