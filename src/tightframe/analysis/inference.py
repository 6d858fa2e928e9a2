"""Inference about correlations when rows depend on each other and on controls.

Axes: N rows (one per checkpoint), M measures, P independent controls, G clusters (runs, say), T
permutations, B bootstrap draws.

Rows of one cluster are never taken apart: a permutation exchanges whole clusters of equal size, a
bootstrap draw takes whole clusters, and the cluster-robust standard error leaves out whole ones.
Controls are removed by projection. With residuals e of y and x of a measure, both after the
controls, the partial correlation is <x, e> / (|x| |e|), and permuting e (Freedman and Lane 1983)
gives <x, e*> / (|x| |e* - Q Q'e*|), with Q an orthonormal basis of the controls.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Vector = Float[np.ndarray, " N"]
Columns = Float[np.ndarray, "N M"]
Basis = Float[np.ndarray, "N P"]
Codes = Int[np.ndarray, " N"]

FEWEST_CLUSTERS = 6  # a bootstrap of fewer clusters has too few different draws
FEWEST_FAMILIES = 4  # fewer left-out families say nothing of a new one
TIES = 1e-9  # relative: equal statistics stay equal after rounding
COLLINEAR = 1e-9  # a column with less of its length left after the others adds nothing
CHUNK = 4_000_000  # numbers of a permuted array that are held at once; memory only
LEVEL = 0.95


class Permuted(NamedTuple):
    """Permutation tests of M correlations with one y."""

    r: Float[np.ndarray, " M"]
    p: Float[np.ndarray, " M"]  # two-sided, (hits + 1) / (T + 1)
    p_plain: Float[np.ndarray, " M"]  # hits / T
    p_maxt: Float[np.ndarray, " M"]  # step-down over the M measures (Westfall and Young 1993)


class Bootstrapped(NamedTuple):
    """Cluster-bootstrap intervals of M correlations."""

    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    without: Float[np.ndarray, "G M"]  # the correlations without each cluster


class Gain(NamedTuple):
    """Improvement of the prediction of y by a measure, in families that were left out."""

    gain: float  # mean absolute error of the controls alone minus that with the measure; as y
    percent: float  # gain as a share of the error of the controls alone, in percent
    p: float  # two-sided, by flipping the signs of families' sums
    without: Vector  # y of each row predicted by the controls, by the fit without its family
    predicted: Vector  # the same prediction by controls and measure


def basis_of(columns: Float[np.ndarray, "N C"], names: Sequence[str]) -> tuple[Basis, list[str]]:
    """Return an orthonormal basis of the columns, and the names of those that add nothing.

    A column is collinear when the columns before it explain it up to rounding.
    """
    basis: list[Vector] = []
    collinear = []
    for name, column in zip(names, columns.T, strict=True):
        rest = column / (np.abs(column).max() or 1)
        length = np.linalg.norm(rest)
        for _ in range(2):  # the second projection takes away the rounding of the first
            for other in basis:
                rest = rest - (other @ rest) * other
        if np.linalg.norm(rest) <= COLLINEAR * length or not length:
            collinear.append(name)
        else:
            basis.append(rest / np.linalg.norm(rest))
    return np.stack(basis, axis=1) if basis else np.zeros((len(columns), 0)), collinear


def residuals(values: Columns, basis: Basis) -> Columns:
    """Return what is left of each column after projection onto the basis."""
    for _ in range(2):
        values = values - basis @ (basis.T @ values)
    return values


def correlations(x: Columns, y: Vector) -> Float[np.ndarray, " M"]:
    """Return the correlation of y with each column, all of them residuals with mean 0 already.

    NaN where either is constant.
    """
    lengths = np.linalg.norm(x, axis=0) * np.linalg.norm(y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, np.clip(x.T @ y / lengths, -1, 1), np.nan)


def n_permutations(clusters: Codes) -> float:
    """Return the number of ways to exchange clusters of equal size; inf if too many to count."""
    sizes = [len(members) for members in _by_size(clusters)]
    few = sum(math.lgamma(size + 1) for size in sizes) < 40
    return float(math.prod(map(math.factorial, sizes))) if few else math.inf


def permute(
    x: Columns,
    y: Vector,
    basis: Basis,
    clusters: Codes,
    *,
    permutations: int,
    seed: int,
) -> Permuted:
    """Test the partial correlations of y with each column by permuting residuals of y.

    Args:
        x: Residuals of the measures after projection onto the basis.
        y: Residuals of y likewise.
        basis: Orthonormal; holds the intercept.
        clusters: Cluster of each row; whole clusters of equal size are exchanged.
        permutations: Number of random permutations, T.
        seed: Seed of the permutations.
    """
    r = correlations(x, y)
    lengths = np.linalg.norm(x, axis=0)
    unit = x / np.where(lengths > 0, lengths, 1)
    order = np.argsort(-np.abs(np.nan_to_num(r)), kind="stable")
    observed = np.abs(np.nan_to_num(r)) * (1 - TIES)
    hits, step_hits = np.zeros(len(r)), np.zeros(len(r))
    squared = y @ y
    for rows in _orders(clusters, permutations, seed):
        dealt = y[rows]  # (chunk, N)
        inside = dealt @ basis
        left = np.sqrt(np.maximum(squared - np.square(inside).sum(1), 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.abs(dealt @ unit) / left[:, None]  # (chunk, M)
        found = np.nan_to_num(found)
        hits += (found >= observed).sum(0)
        largest = np.maximum.accumulate(found[:, order[::-1]], axis=1)[:, ::-1]
        step_hits[order] += (largest >= observed[order]).sum(0)
    p_maxt = np.empty(len(r))
    p_maxt[order] = np.maximum.accumulate((step_hits[order] + 1) / (permutations + 1))
    undefined = np.isnan(r)
    numbers = ((hits + 1) / (permutations + 1), hits / permutations, p_maxt)
    return Permuted(r, *(np.where(undefined, np.nan, one) for one in numbers))


def bootstrap(
    x: Columns, y: Vector, basis: Basis, clusters: Codes, *, draws: int, seed: int
) -> Bootstrapped:
    """Return BCa intervals of the partial correlations, resampling clusters with all their rows.

    The residuals are taken anew in each draw, by weighted least squares on the basis. The
    acceleration is that of the correlations without each cluster (Efron 1987).

    Args:
        x: Residuals of the measures after projection onto the basis.
        y: Residuals of y likewise.
        basis: Orthonormal; holds the intercept.
        clusters: Cluster of each row, in [0, G).
        draws: Number of bootstrap draws, B.
        seed: Seed of the draws.
    """
    n = int(clusters.max()) + 1
    r = correlations(x, y)
    without = _weighted(x, y, basis, 1 - np.eye(n), clusters)
    nothing = np.full(len(r), np.nan)
    if n < FEWEST_CLUSTERS:
        return Bootstrapped(nothing, nothing, without)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    drawn = _weighted(x, y, basis, counts, clusters)
    ends = [_bca(r[j], drawn[:, j], without[:, j]) for j in range(len(r))]
    low, high = np.array(ends).reshape(-1, 2).T
    return Bootstrapped(low, high, without)


def cluster_robust(
    x: Columns, y: Vector, basis: Basis, clusters: Codes
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Return the t and p of each measure's coefficient with CR3 standard errors.

    The model is y on the basis and one measure. CR3 is the jackknife over clusters: the coefficient
    without cluster g differs by x_g'(I - H_g)^-1 u_g / |x|^2, and the variance is (G - 1) / G times
    the sum of their squares; t has G - 1 degrees of freedom (Cameron and Miller 2015).
    """
    n = int(clusters.max()) + 1
    groups = _by_size(clusters)
    bases = [basis[rows] for rows in groups]  # (K, S, P) each
    outside = [np.eye(one.shape[1]) - one @ one.transpose(0, 2, 1) for one in bases]
    t = np.full(x.shape[1], np.nan)
    for j, column in enumerate(x.T):
        square = column @ column
        if square == 0:
            continue
        slope = column @ y / square
        unit, left = column / math.sqrt(square), y - slope * column
        total = 0.0
        for rows, rest in zip(groups, outside, strict=True):
            inside = unit[rows]
            annihilator = rest - inside[:, :, None] * inside[:, None, :]
            inverse = np.linalg.pinv(annihilator, 1e-9, hermitian=True)
            moved = np.einsum("ks,kst,kt->k", column[rows], inverse, left[rows]) / square
            total += float(np.square(moved).sum())
        error = math.sqrt((n - 1) / n * total)
        t[j] = slope / error if error else np.nan
    return t, 2 * stats.t.sf(np.abs(t), n - 1)


def within_runs(x: Vector, y: Vector, runs: Codes) -> tuple[float, float, int]:
    """Return the repeated-measures correlation, its p and its degrees of freedom.

    It is the correlation of deviations from each run's own means (Bakdash and Marusich 2017). NaN
    where no run has two different rows.
    """
    n = int(runs.max()) + 1
    sizes = np.bincount(runs, minlength=n)
    deviations = [
        values - (np.bincount(runs, weights=values, minlength=n) / sizes)[runs]
        for values in (x / (np.abs(x).max() or 1), y / (np.abs(y).max() or 1))
    ]
    freedom = len(x) - n - 1
    if freedom < 1 or any(np.abs(one).max() < TIES for one in deviations):
        return math.nan, math.nan, max(freedom, 0)
    r = float(correlations(deviations[0][:, None], deviations[1])[0])
    t = r * math.sqrt(freedom / max(1 - r * r, 1e-300))
    return r, float(2 * stats.t.sf(abs(t), freedom)), freedom


def left_out_gain(
    x: Vector, y: Vector, controls: Basis, families: Codes, *, permutations: int, seed: int
) -> Gain:
    """Predict y in each family by a fit to the others, with and without the measure.

    Args:
        x: The measure itself, without any projection.
        y: What is predicted.
        controls: The controls themselves, with a column of ones.
        families: Family of each row, in [0, F).
        permutations: Number of sign flips, where all 2^F are more than that.
        seed: Seed of the sign flips.
    """
    n = int(families.max()) + 1
    both = np.column_stack([controls, x])
    without, with_it = np.empty(len(y)), np.empty(len(y))
    for family in range(n):
        inside = families == family
        for design, predicted in ((controls, without), (both, with_it)):
            scale = np.abs(design[~inside]).max(0)
            scale = np.where(scale > 0, scale, 1)
            fit = np.linalg.lstsq(design[~inside] / scale, y[~inside], rcond=None)[0]
            predicted[inside] = design[inside] / scale @ fit
    errors = np.abs(y - without) - np.abs(y - with_it)
    alone = float(np.abs(y - without).mean())
    sums = np.bincount(families, weights=errors, minlength=n)
    if 2**n <= permutations:
        flips = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        p = float((np.abs(flips @ sums) >= abs(sums.sum()) * (1 - TIES)).mean())
    else:
        flips = np.random.default_rng(seed).choice([-1, 1], size=(permutations, n))
        hits = (np.abs(flips @ sums) >= abs(sums.sum()) * (1 - TIES)).sum()
        p = float((hits + 1) / (permutations + 1))
    gain = float(errors.mean())
    return Gain(gain, 100 * gain / alone if alone else math.nan, p, without, with_it)


def detectable(n_clusters: int, *, alpha: float, power: float = 0.8) -> float:
    """Return the smallest absolute correlation that n independent clusters find with this power.

    By Fisher's z: atanh(r) sqrt(n - 3) = z(1 - alpha / 2) + z(power). NaN for three or fewer.
    """
    if n_clusters <= 3:
        return math.nan
    reach = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    return math.tanh(reach / math.sqrt(n_clusters - 3))


def _by_size(clusters: Codes) -> list[Int[np.ndarray, "_ _"]]:
    """Return for each size of a cluster the rows of its clusters, one line per cluster."""
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    blocks = np.split(order, np.cumsum(sizes)[:-1])
    return [
        np.stack([block for block in blocks if len(block) == size])
        for size in sorted({int(size) for size in sizes if size})
    ]


def _orders(clusters: Codes, permutations: int, seed: int) -> Iterator[Int[np.ndarray, "chunk N"]]:
    """Yield random orders of the rows that exchange whole clusters of equal size."""
    rng = np.random.default_rng(seed)
    groups = _by_size(clusters)
    n = len(clusters)
    step = max(1, CHUNK // n)
    for start in range(0, permutations, step):
        many = min(step, permutations - start)
        rows = np.tile(np.arange(n), (many, 1))
        for members in groups:
            places = np.tile(np.arange(len(members)), (many, 1))
            dealt = rng.permuted(places, axis=1)
            rows[:, members.reshape(-1)] = members[dealt].reshape(many, -1)
        yield rows


def _weighted(
    x: Columns, y: Vector, basis: Basis, counts: Float[np.ndarray, "B G"], clusters: Codes
) -> Float[np.ndarray, "B M"]:
    """Return the partial correlations of draws that hold each cluster so many times."""
    n, p, m = len(y), basis.shape[1], x.shape[1]
    products = (basis[:, :, None] * basis[:, None, :]).reshape(n, p * p)
    crossed = (basis[:, :, None] * x[:, None, :]).reshape(n, p * m)
    squares, mixed = np.square(x), x * y[:, None]
    out = np.empty((len(counts), m))
    step = max(1, CHUNK // max(1, p * max(p, m)))
    for start in range(0, len(counts), step):
        weights = counts[start : start + step][:, clusters]  # (b, N)
        inverse = np.linalg.pinv((weights @ products).reshape(-1, p, p), 1e-9, hermitian=True)
        to_x = (weights @ crossed).reshape(-1, p, m)
        to_y = weights @ (basis * y[:, None])  # (b, P)
        explained = inverse @ to_x  # (b, P, M)
        covariance = weights @ mixed - np.einsum("bp,bpm->bm", to_y, explained)
        of_x = weights @ squares - (to_x * explained).sum(1)
        of_y = weights @ np.square(y) - np.einsum("bp,bpq,bq->b", to_y, inverse, to_y)
        scale_x, scale_y = weights @ squares, weights @ np.square(y)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = covariance / np.sqrt(of_x * of_y[:, None])
        constant = (of_x <= TIES * scale_x) | (of_y <= TIES * scale_y)[:, None]
        out[start : start + step] = np.where(constant, np.nan, np.clip(r, -1, 1))
    return out


def _bca(
    estimate: float, drawn: Float[np.ndarray, " B"], without: Float[np.ndarray, " G"]
) -> tuple[float, float]:
    """Return the BCa interval; NaN where more than a tenth of the draws is undefined."""
    known = drawn[~np.isnan(drawn)]
    left = without[~np.isnan(without)]
    if math.isnan(estimate) or len(known) < 0.9 * len(drawn) or len(left) < 2:
        return math.nan, math.nan
    below = ((known < estimate).sum() + (known <= estimate).sum()) / 2 / len(known)
    if not 0 < below < 1:
        return math.nan, math.nan
    z0 = stats.norm.ppf(below)
    deviations = left.mean() - left
    spread = np.square(deviations).sum()
    acceleration = (deviations**3).sum() / (6 * spread**1.5) if spread else 0.0
    z = stats.norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shares = stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    low, high = np.quantile(known, shares)
    return float(low), float(high)
