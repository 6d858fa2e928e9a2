"""Every measure of collapse by its definition: plain loops over samples, classes and pairs.

Nothing here is fast or careful about memory, and nothing is shared with the package.
"""

import itertools
import math
import statistics

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

Array = NDArray[np.float64]


def naive_measures(
    embeddings: Array, labels: list[int], classifier: Array, *, min_count: int = 1
) -> dict[str, float]:
    """All measures that need no decisions; labels below 0 are ignored."""
    samples: dict[int, list[Array]] = {}
    for embedding, label in zip(embeddings, labels, strict=True):
        if label >= 0:
            samples.setdefault(label, []).append(embedding)
    ids = sorted(c for c in samples if len(samples[c]) >= min_count)
    plain = _Classes([samples[c] for c in ids], classifier[ids])
    ids = [c for c in ids if len(samples[c]) >= 2]
    repeated = _Classes([samples[c] for c in ids], classifier[ids])
    out = _variability(plain) | {f"{k}_db": v for k, v in _variability_debiased(repeated).items()}
    out["nc3_cos_mean_db"] = _debiased_duality(repeated)
    out |= _weighted(plain) | _equality(plain) | _duality(plain) | _ranks(plain)
    dim = embeddings.shape[1]
    centred, raw = list(plain.m), list(plain.mu)
    pr = out["rank_pr"]
    out |= {f"gnc2_{k}": v for k, v in _uniformity(_unit_distances(centred), dim, pr).items()}
    out |= {f"gnc2_{k}_unc": v for k, v in _uniformity(_unit_distances(raw), dim, None).items()}
    for centring, distances in (
        ("", _debiased_unit_distances(repeated)),
        ("_unc", _debiased_raw_unit_distances(repeated)),
    ):
        debiased = _uniformity([x for x in distances if x > 0], dim, None)
        for name in ("mean", "var", "std", "cov", "excess", "var_ratio"):
            out[f"gnc2_log_kernel_{name}{centring}_db"] = debiased[f"log_kernel_{name}"]
        kernel = [-math.log(x) if x > 0 else math.inf for x in distances]
        out[f"gnc2_log_kernel_med{centring}_db"] = statistics.median(kernel)
    out |= _pair_weighted(plain, repeated) | _views(plain) | _dimensions(plain)
    return out


def naive_classes(
    embeddings: Array, labels: list[int], classifier: Array, *, min_count: int = 1
) -> dict[int, dict[str, float]]:
    """What `class_table` says of each class without decisions; what has no value is NaN."""
    samples: dict[int, list[Array]] = {}
    for embedding, label in zip(embeddings, labels, strict=True):
        if label >= 0:
            samples.setdefault(label, []).append(embedding)
    ids = sorted(c for c in samples if len(samples[c]) >= min_count)
    plain = _Classes([samples[c] for c in ids], classifier[ids])
    out = {c: _of_class(plain, i, ids) for i, c in enumerate(ids)}
    again = [c for c in ids if len(samples[c]) >= 2]
    repeated = _Classes([samples[c] for c in again], classifier[again])
    s2 = [q / (n - 1) for q, n in zip(repeated.q, repeated.n, strict=True)]
    v = [s / n for s, n in zip(s2, repeated.n, strict=True)]
    for c in ids:
        for power in ("", "_p2"):
            row = []
            for j in range(repeated.k):
                if c in again and again[j] != c:
                    i = again.index(c)
                    d = _debiased_distance(repeated, v, i, j)
                    row += [(s2[i] + s2[j]) / 2 / d ** (2 if power else 1)] if d > 0 else []
            out[c][f"cdnv{power}_db"] = statistics.mean(row) if row else math.nan
            out[c]["cdnv_db_pairs"] = len(row)
    return out


def _of_class(c: "_Classes", i: int, ids: list[int]) -> dict[str, float]:
    others = [j for j in range(c.k) if j != i]
    apart = [j for j in others if c.squared_distance(i, j) > 0]
    norms = [math.sqrt(m @ m) for m in c.m]
    directed = [j for j in others if min(norms[i], norms[j]) > 1e-12]
    cosines = {j: _cosine(c.m[i], c.m[j]) for j in directed}
    # Cosines that differ in their last bits are the same: the first with two samples, by id.
    key = {j: (round(cosines[j], 9), c.n[j] > 1, -j) for j in directed}
    near = max(directed, key=key.__getitem__, default=None)
    rows = math.sqrt(c.w[i] @ c.w[i])

    def mean(values: list[float]) -> float:
        return statistics.mean(values) if values else math.nan

    return {
        "count": c.n[i],
        "norm": norms[i],
        "variance": c.s2[i],
        "variance_unbiased": c.q[i] / (c.n[i] - 1) if c.n[i] > 1 else math.nan,
        "cdnv": mean([(c.s2[i] + c.s2[j]) / 2 / c.squared_distance(i, j) for j in apart]),
        "cdnv_p2": mean([(c.s2[i] + c.s2[j]) / 2 / c.squared_distance(i, j) ** 2 for j in apart]),
        "cdnv_pairs": len(apart),
        "nearest": math.nan if near is None else ids[near],
        "nearest_angle": (
            math.nan
            if near is None
            else math.degrees(
                2 * math.asin(min(1, math.dist(c.m[i] / norms[i], c.m[near] / norms[near]) / 2))
            )
        ),
        "nearest_distance": math.nan if near is None else math.dist(c.mu[i], c.mu[near]),
        "interference": mean(list(cosines.values())),
        "interference_dot": mean([float(c.m[i] @ c.m[j]) for j in others]),
        "duality": _cosine(c.w[i], c.m[i]) if norms[i] > 1e-12 and rows > 0 else math.nan,
    }


class _Classes:
    def __init__(self, samples: list[list[Array]], rows: Array) -> None:
        self.n = [len(group) for group in samples]
        self.k = len(samples)
        self.samples = samples
        self.mu = [np.mean(group, axis=0) for group in samples]
        self.centre = np.mean(self.mu, axis=0)
        self.m = [mu - self.centre for mu in self.mu]
        self.q = [
            sum(float((h - mu) @ (h - mu)) for h in group)
            for group, mu in zip(samples, self.mu, strict=True)
        ]
        self.s2 = [q / n for q, n in zip(self.q, self.n, strict=True)]
        self.w = rows
        self.pairs = list(itertools.combinations(range(self.k), 2))

    def squared_distance(self, i: int, j: int) -> float:
        gap = self.mu[i] - self.mu[j]
        return float(gap @ gap)


def _variability(c: _Classes) -> dict[str, float]:
    squared = {p: c.squared_distance(*p) for p in c.pairs}
    out = _cdnv(c, c.s2, squared, infinite=False)
    between = statistics.mean(float(m @ m) for m in c.m)
    out["nc1_cdnv_p2_sf"] = out["nc1_cdnv_p2"] * between
    out["nc1_quotient"] = statistics.mean(c.s2) / between
    half = [(c.s2[i] + c.s2[j]) / 2 for i, j in c.pairs]
    out["nc1_cdnv_rom"] = statistics.mean(half) / statistics.mean(squared.values())
    return out


def _variability_debiased(c: _Classes) -> dict[str, float]:
    s2 = [q / (n - 1) for q, n in zip(c.q, c.n, strict=True)]
    v = [s / n for s, n in zip(s2, c.n, strict=True)]
    squared = {(i, j): _debiased_distance(c, v, i, j) for i, j in c.pairs}
    out = _cdnv(c, s2, squared, infinite=True)
    norms = _debiased_norms(c, v)
    out["nc1_cdnv_p2_sf"] = out["nc1_cdnv_p2"] * statistics.mean(norms)
    out["nc1_quotient"] = statistics.mean(s2) / statistics.mean(norms)
    half = [(s2[i] + s2[j]) / 2 for i, j in c.pairs]
    out["nc1_cdnv_rom"] = statistics.mean(half) / statistics.mean(squared.values())
    return out


def _debiased_distance(c: _Classes, v: list[float], i: int, j: int) -> float:
    plain = c.squared_distance(i, j)
    return _beyond_rounding(plain - v[i] - v[j], plain)


def _beyond_rounding(difference: float, minuend: float) -> float:
    return difference if abs(difference) > 1e-10 * minuend else 0.0


def _debiased_norms(c: _Classes, v: list[float]) -> list[float]:
    return [
        float(m @ m) - (1 - 2 / c.k) * noise - sum(v) / c.k**2
        for m, noise in zip(c.m, v, strict=True)
    ]


def _cdnv(
    c: _Classes, s2: list[float], squared: dict[tuple[int, int], float], *, infinite: bool
) -> dict[str, float]:
    out = {}
    for power, name in ((1, "nc1_cdnv"), (2, "nc1_cdnv_p2")):
        kept = [((s2[i] + s2[j]) / 2 / d**power) for (i, j), d in squared.items() if d > 0]
        out[name] = statistics.mean(kept)
        out[f"{name}_std"] = statistics.stdev(kept)
        out[f"{name}_mlog"] = statistics.mean(math.log(x) for x in kept if x > 0)
        beyond = [math.inf] * (len(squared) - len(kept)) if infinite else []
        out[f"{name}_med"] = statistics.median(kept + beyond)
        out[f"{name}_tail001"] = sum(sorted(kept)[-math.ceil(len(kept) / 1000) :]) / sum(kept)
        if power == 1:
            out[f"{name}_cov"] = out[f"{name}_std"] / out[name]
            largest = sorted(kept)[-math.ceil(len(kept) / 100) :]
            out[f"{name}_tail01"] = sum(largest) / sum(kept)
    return out


def _weighted(c: _Classes) -> dict[str, float]:
    total = sum(c.n)
    mean = sum(n * mu for n, mu in zip(c.n, c.mu, strict=True)) / total
    between = sum(n * float((mu - mean) @ (mu - mean)) for n, mu in zip(c.n, c.mu, strict=True))
    dim = len(mean)
    pooled, balanced = np.zeros((dim, dim)), np.zeros((dim, dim))
    for group, mu in zip(c.samples, c.mu, strict=True):
        for h in group:
            pooled += np.outer(h - mu, h - mu) / total
            balanced += np.outer(h - mu, h - mu) / len(group) / c.k
    a = sum(np.outer(m, m) for m in c.m)
    inverse = np.linalg.pinv(a / c.k, rcond=1e-12)
    eigenvalues = np.clip(np.linalg.eigvalsh(pooled)[::-1], 0, None)
    return {
        "nc1_quotient_tok": sum(c.q) / between,
        "nc1_pinv": float(np.trace(balanced @ inverse)) / c.k,
        "nc1_pinv_tok": float(np.trace(pooled @ inverse)) / c.k,
        "nc1_pinv_lib": float(np.trace(pooled @ np.linalg.pinv(a / dim, rcond=1e-12))) / c.k,
        "rank_pr_within": sum(eigenvalues) ** 2 / sum(eigenvalues**2),
        "rank_stable_within": sum(eigenvalues) / max(eigenvalues),
        "rank_entropy_within": _entropy_rank(eigenvalues),
    }


def _equality(c: _Classes) -> dict[str, float]:
    norms = [math.sqrt(m @ m) for m in c.m]
    logs = [math.log(norm) for norm in norms if norm > 1e-12]
    dim = len(c.m[0])
    scaled = [math.log(norm**2 / math.sqrt(dim)) for norm in norms if norm > 1e-12]
    u = [m / norm for m, norm in zip(c.m, norms, strict=True) if norm > 1e-12]
    cosines = [float(u[i] @ u[j]) for i, j in itertools.combinations(range(len(u)), 2)]
    dots = [float(c.m[i] @ c.m[j]) for i, j in c.pairs]
    target = -1 / (c.k - 1)
    nearest = [max(float(x @ y) for y in u if y is not x) for x in u]
    return {
        "nc2_equinorm_cov": _cov(norms),
        "nc2_equinorm_cov_sq": _cov([norm**2 for norm in norms]),
        "nc2_equinorm_cov_log": _cov(logs),
        "nc2_equinorm_cov_logscl": _cov(scaled),
        "nc2_equinorm_std_log": statistics.stdev(logs),
        "nc2_equiang_mean": statistics.mean(cosines),
        "nc2_equiang_std": statistics.stdev(cosines),
        "nc2_equiang_cov": _cov(cosines),
        "nc2_equiang_rmsdev": math.sqrt(statistics.mean((x - target) ** 2 for x in cosines)),
        "nc2_equiang_nn": statistics.mean(nearest),
        "nc2_dot_mean": statistics.mean(dots),
        "nc2_dot_var": statistics.pvariance(dots),
        "nc2_etf_error": _simplex_error(np.array([[x @ y for y in c.m] for x in c.m])),
        "nc2_cos_sq_mean": statistics.mean(x**2 for x in cosines),
        "nc2_cos_sq_excess": dim * statistics.mean(x**2 for x in cosines) - 1,
    }


def _simplex_error(gram: Array) -> float:
    k = len(gram)
    simplex = np.eye(k) - np.ones((k, k)) / k
    gap = gram / np.linalg.norm(gram) - simplex / np.linalg.norm(simplex)
    return float(np.linalg.norm(gap))


def _unit_distances(vectors: list[Array]) -> list[float]:
    """Distances of the unit vectors of all pairs that don't point in one direction."""
    u = [x / math.sqrt(x @ x) for x in vectors if math.sqrt(x @ x) > 1e-12]
    distances = [math.dist(u[i], u[j]) for i, j in itertools.combinations(range(len(u)), 2)]
    return [distance for distance in distances if distance > 1e-12]


def _debiased_unit_distances(c: _Classes) -> list[float]:
    """Of all pairs of classes whose debiased norm is positive; 0 where nothing is left."""
    v = [q / (n - 1) / n for q, n in zip(c.q, c.n, strict=True)]
    norms = _debiased_norms(c, v)
    out = []
    for i, j in c.pairs:
        if norms[i] > 0 and norms[j] > 0:
            dot = float(c.m[i] @ c.m[j]) + (v[i] + v[j]) / c.k - sum(v) / c.k**2
            squared = 2 - 2 * dot / math.sqrt(norms[i] * norms[j])
            plain = _debiased_distance(c, v, i, j) / math.sqrt(norms[i] * norms[j])
            squared = _beyond_rounding(squared, plain)
            out.append(math.sqrt(max(0.0, squared)))
    return out


def _debiased_raw_unit_distances(c: _Classes) -> list[float]:
    """The same of means that are not centred: they are independent, so their products are right."""
    v = [q / (n - 1) / n for q, n in zip(c.q, c.n, strict=True)]
    norms = [float(mu @ mu) - noise for mu, noise in zip(c.mu, v, strict=True)]
    out = []
    for i, j in c.pairs:
        if norms[i] > 0 and norms[j] > 0:
            size = math.sqrt(norms[i] * norms[j])
            squared = 2 - 2 * float(c.mu[i] @ c.mu[j]) / size
            squared = _beyond_rounding(squared, _debiased_distance(c, v, i, j) / size)
            out.append(math.sqrt(max(0.0, squared)))
    return out


def _weighted_mean(values: list[float], weights: list[float]) -> float:
    return sum(x * w for x, w in zip(values, weights, strict=True)) / sum(weights)


def _pair_weighted(c: _Classes, repeated: _Classes) -> dict[str, float]:
    """Each pair weighted by the product of its classes' samples."""
    out = {}
    weights = [c.n[i] * c.n[j] for i, j in c.pairs]
    half = [(c.s2[i] + c.s2[j]) / 2 for i, j in c.pairs]
    squared = [c.squared_distance(*pair) for pair in c.pairs]
    out["nc1_cdnv_rom_fw"] = _weighted_mean(half, weights) / _weighted_mean(squared, weights)
    r = repeated
    s2 = [q / (n - 1) for q, n in zip(r.q, r.n, strict=True)]
    weights = [r.n[i] * r.n[j] for i, j in r.pairs]
    half = [(s2[i] + s2[j]) / 2 for i, j in r.pairs]
    squared = [r.squared_distance(i, j) - s2[i] / r.n[i] - s2[j] / r.n[j] for i, j in r.pairs]
    out["nc1_cdnv_rom_db_fw"] = _weighted_mean(half, weights) / _weighted_mean(squared, weights)

    kept = [i for i in range(c.k) if math.sqrt(c.m[i] @ c.m[i]) > 1e-12]
    pairs = list(itertools.combinations(kept, 2))
    cosines = [_cosine(c.m[i], c.m[j]) for i, j in pairs]
    weights = [c.n[i] * c.n[j] for i, j in pairs]
    mean, square = (
        _weighted_mean(cosines, weights),
        _weighted_mean([x**2 for x in cosines], weights),
    )
    out["nc2_equiang_mean_fw"] = mean
    out["nc2_equiang_std_fw"] = math.sqrt(
        _weighted_mean([(x - mean) ** 2 for x in cosines], weights)
    )
    out["nc2_cos_sq_mean_fw"] = square
    out["nc2_cos_sq_excess_fw"] = len(c.m[0]) * square - 1

    pairs = list(itertools.combinations(_single_rows(c), 2))
    overlaps = [_cosine(c.w[i], c.w[j]) ** 2 for i, j in pairs]
    out["head_overlap_sq_fw"] = _weighted_mean(overlaps, [c.n[i] * c.n[j] for i, j in pairs])
    return out


def _views(c: _Classes) -> dict[str, float]:
    """Means over their dimensions' standard deviations, or without their principal directions."""
    out = {}
    dim = len(c.m[0])
    samples = np.array([h for group in c.samples for h in group])
    means = np.array(c.m)
    views = {"stdz": (means / samples.std(axis=0), dim)}
    directions = np.linalg.svd(means)[2]
    for n in (1, 3, 10):
        left = means - means @ directions[:n].T @ directions[:n]
        keep = np.linalg.norm(left, axis=1) > 1e-12 * np.linalg.norm(means, axis=1)
        views[f"pc{n}"] = (left * keep[:, None], dim - n)
    for name, (left, n_dims) in views.items():
        u = [x / math.sqrt(x @ x) for x in left if math.sqrt(x @ x) > 1e-12]
        cosines = [float(x @ y) for x, y in itertools.combinations(u, 2)]
        distances = _unit_distances(list(left))
        line = name != "stdz" and min(dim, c.k - 1) - (dim - n_dims) < 2
        if len(cosines) > 1:
            out[f"nc2_equiang_mean_{name}"] = statistics.mean(cosines)
            out[f"nc2_equiang_std_{name}"] = statistics.stdev(cosines)
        if distances and not line:
            mean = statistics.mean(-math.log(distance) for distance in distances)
            out[f"gnc2_log_kernel_mean_{name}"] = mean
            out[f"gnc2_log_kernel_excess_{name}"] = mean - _sphere_mean(n_dims)
    return out


def _dimensions(c: _Classes) -> dict[str, float]:
    """Of all embeddings of the classes, whatever their class."""
    h = np.array([x for group in c.samples for x in group])
    eigenvalues = np.clip(np.linalg.eigvalsh(np.cov(h.T, ddof=0))[::-1], 0, None)
    gaps = abs(h.mean(0) - np.median(h.mean(0)))
    kurtoses = [float(np.mean((x - x.mean()) ** 4) / np.var(x) ** 2) for x in h.T]
    squares = sorted((h**2).mean(0), reverse=True)
    dim = h.shape[1]
    u = [x / math.sqrt(x @ x) for x in h if x.any()]
    out = {
        "rank_pr_total": sum(eigenvalues) ** 2 / sum(eigenvalues**2),
        "rank_stable_total": sum(eigenvalues) / max(eigenvalues),
        "rank_entropy_total": _entropy_rank(eigenvalues),
        "rank_entropy_sv_total": _entropy_rank(np.sqrt(eigenvalues)),
        "dim_outliers": float((gaps > 6 * 1.4826 * np.median(gaps)).sum()),
        "dim_kurtosis_med": statistics.median(kurtoses),
        "dim_kurtosis_max": max(kurtoses),
        "dim_top01_share": sum(squares[: math.ceil(dim / 100)]) / sum(squares),
        "dim_anisotropy": statistics.mean(float(x @ y) for x, y in itertools.combinations(u, 2)),
    }
    if dim // 2 > 10 and len(h) > dim:
        i = np.arange(10, dim // 2 + 1)
        slope = np.polyfit(np.log(i), np.log(eigenvalues[i - 1]), 1)[0]
        out["spectrum_slope_total"] = float(slope)
    return out


def _uniformity(distances: list[float], dim: int, pr: float | None) -> dict[str, float]:
    kernel = [-math.log(distance) for distance in distances]
    mean, variance = statistics.mean(kernel), statistics.pvariance(kernel)
    b_mean, b_var = _sphere_mean(dim), _sphere_variance(dim)
    riesz = statistics.mean(distance ** -(dim - 2) for distance in distances)
    out = {
        "log_kernel_mean": mean,
        "log_kernel_var": variance,
        "log_kernel_std": statistics.stdev(kernel),
        "log_kernel_cov": statistics.stdev(kernel) / mean,
        "log_kernel_excess": mean - b_mean,
        "log_kernel_var_ratio": variance / b_var,
        "log_kernel_z": (mean - b_mean) / math.sqrt(b_var / len(kernel)),
        "log_kernel_med": statistics.median(kernel),
        "riesz_log": math.log(riesz),
        "min_dist": min(distances),
        "dist_mean": statistics.mean(distances),
        "dist_var": statistics.pvariance(distances),
    }
    return out if pr is None else out | {"log_kernel_excess_pr": mean - _sphere_mean(pr)}


def _sphere_mean(dim: float) -> float:
    a = (dim - 1) / 2
    return -0.5 * (math.log(4) + float(digamma(a)) - float(digamma(2 * a)))


def _sphere_variance(dim: float) -> float:
    a = (dim - 1) / 2
    return 0.25 * (float(polygamma(1, a)) - float(polygamma(1, 2 * a)))


def _duality(c: _Classes) -> dict[str, float]:
    cosines, centred, distances = [], [], []
    row_mean = np.mean(c.w, axis=0)
    for w, m in zip(c.w, c.m, strict=True):
        if math.sqrt(m @ m) > 1e-12 and math.sqrt(w @ w) > 0:
            cosines.append(_cosine(w, m))
            unit_row, unit_mean = w / math.sqrt(w @ w), m / math.sqrt(m @ m)
            distances.append(math.dist(unit_row, unit_mean))
        if math.sqrt(m @ m) > 1e-12:
            centred.append(_cosine(w - row_mean, m))
    dots = [float(w @ m) for w, m in zip(c.w, c.m, strict=True)]
    m = np.array(c.m)
    return {
        "nc3_cos_mean": statistics.mean(cosines),
        "nc3_cos_wc_mean": statistics.mean(centred),
        "nc3_dot_mean": statistics.mean(dots),
        "nc3_dist_mean": statistics.mean(distances),
        "nc3_dist_var": statistics.variance(distances),
        "nc3_dual_error": _simplex_error(np.array([[x @ y for y in c.m] for x in c.w])),
        "nc3_frob": float(np.linalg.norm(c.w / np.linalg.norm(c.w) - m / np.linalg.norm(m))),
        "unc3_cos_cov": _cov(cosines),
        "unc3_cos_var": statistics.variance(cosines),
        "unc3_dot_var": statistics.variance(dots),
    }


def _debiased_duality(c: _Classes) -> float:
    v = [q / (n - 1) / n for q, n in zip(c.q, c.n, strict=True)]
    cosines = [
        float(w @ m) / math.sqrt((w @ w) * norm)
        for w, m, norm in zip(c.w, c.m, _debiased_norms(c, v), strict=True)
        if norm > 0 and w.any()
    ]
    return statistics.mean(cosines)


def _ranks(c: _Classes) -> dict[str, float]:
    dim = len(c.m[0])
    a = sum(np.outer(m, m) for m in c.m)
    eigenvalues = _spectrum(a)
    head = _spectrum(sum(np.outer(w, w) for w in c.w))
    pairs = list(itertools.combinations([c.w[i] for i in _single_rows(c)], 2))
    middle = np.mean(c.w, axis=0)
    out = {
        "rank_pr": sum(eigenvalues) ** 2 / sum(eigenvalues**2),
        "rank_stable": sum(eigenvalues) / max(eigenvalues),
        "rank_entropy": _entropy_rank(eigenvalues),
        "rank_entropy_sv": _entropy_rank(np.sqrt(eigenvalues)),
        "rank_pr_head": sum(head) ** 2 / sum(head**2),
        "rank_stable_head": sum(head) / max(head),
        "rank_entropy_head": _entropy_rank(head),
        "head_overlap_sq": statistics.mean(_cosine(x, y) ** 2 for x, y in pairs),
        "head_overlap_sq_ctr": statistics.mean(
            _cosine(x - middle, y - middle) ** 2 for x, y in pairs
        ),
    }
    if dim // 2 > 10 and eigenvalues[dim // 2 - 1] > 0:
        i = np.arange(10, dim // 2 + 1)
        out["spectrum_slope"] = float(np.polyfit(np.log(i), np.log(eigenvalues[i - 1]), 1)[0])
    return out


def _single_rows(c: _Classes) -> list[int]:
    """Which rows are neither 0 nor equal to another."""
    return [
        i
        for i, w in enumerate(c.w)
        if w.any() and not any((w == x).all() for j, x in enumerate(c.w) if j != i)
    ]


def _spectrum(matrix: Array) -> Array:
    eigenvalues = np.linalg.eigvalsh(matrix)[::-1]
    return np.where(eigenvalues > len(matrix) * 2.3e-16 * eigenvalues[0], eigenvalues, 0)


def _entropy_rank(weights: Array) -> float:
    shares = [w / sum(weights) for w in weights if w > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


def _cosine(x: Array, y: Array) -> float:
    return float(x @ y) / math.sqrt((x @ x) * (y @ y))


def _cov(values: list[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values)
