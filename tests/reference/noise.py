"""Measures debiased by groups of documents, by their definition: loops over groups and classes.

What the groups' variances are is solved for in a system of equations for each class; nothing is
shared with the package.
"""

import math
import statistics

import numpy as np

from reference.geometry import (
    _beyond_rounding,
    _cdnv,
    _Classes,
    _uniformity,
    _weighted_mean,
)


def factors(shares):
    """What each group's squared deviation counts in the sum over groups of their variances.

    A group's sum deviates by its own error less its share of everybody's: the expected square is
    V_g (1 - 2 p_g) + p_g^2 sum_h V_h. Solved for the V_g, which are then added up.
    """
    system = np.diag(1 - 2 * shares) + np.outer(shares**2, np.ones(len(shares)))
    return np.ones(len(shares)) @ np.linalg.pinv(system)


def covariances(samples):
    """Covariances of the errors of class means; of each class a dict of its samples by group."""
    groups = sorted({g for own in samples for g in own})
    k = len(samples)
    drawn, shares = [], []
    for own in samples:
        n = sum(len(h) for h in own.values())
        mean = sum(h.sum(0) for h in own.values()) / n
        p = {g: len(h) / n for g, h in own.items()}
        b = dict(zip(own, factors(np.array(list(p.values()))), strict=True))
        shares.append(p)
        drawn.append(
            {g: math.sqrt(max(0.0, b[g])) * p[g] * (h.mean(0) - mean) for g, h in own.items()}
        )
    out = np.zeros((k, k))
    for g in groups:
        have = [c for c in range(k) if g in samples[c]]
        pairs = [(i, j) for i in have for j in have if i != j]
        if pairs:
            joint = sum(float(drawn[i][g] @ drawn[j][g]) for i, j in pairs)
            shift = joint / sum(shares[i][g] * shares[j][g] for i, j in pairs)
            for i, j in pairs:
                out[i, j] += shift * shares[i][g] * shares[j][g]
        for c in have:
            out[c, c] += float(drawn[c][g] @ drawn[c][g])
    return out


def naive_by_groups(embeddings, labels, groups, classifier, *, min_count=1):
    """All measures in `_dbg`; labels below 0 are ignored."""
    samples = {}
    for embedding, label, group in zip(embeddings, labels, groups, strict=True):
        if label >= 0:
            samples.setdefault(label, {}).setdefault(group, []).append(embedding)
    ids = []
    for c in sorted(samples):
        sizes = [len(own) for own in samples[c].values()]
        if sum(sizes) >= min_count and 2 * max(sizes) <= sum(sizes):
            ids.append(c)
    by_group = [{g: np.array(h) for g, h in samples[c].items()} for c in ids]
    c = _Classes([[h for own in samples[i].values() for h in own] for i in ids], classifier[ids])
    cov = covariances(by_group)
    k, dim = c.k, embeddings.shape[1]
    s2 = [s + cov[i, i] for i, s in enumerate(c.s2)]
    squared, norms, raw = {}, [], []
    for i, j in c.pairs:
        plain = c.squared_distance(i, j)
        squared[i, j] = _beyond_rounding(plain - cov[i, i] - cov[j, j] + 2 * cov[i, j], plain)
    for i in range(k):
        noise = cov[i, i] - 2 * cov[i].sum() / k + cov.sum() / k**2
        norms.append(float(c.m[i] @ c.m[i]) - noise)
        raw.append(float(c.mu[i] @ c.mu[i]) - cov[i, i])
    out = {f"{name}_dbg": value for name, value in _cdnv(c, s2, squared, infinite=True).items()}
    out["nc1_cdnv_p2_sf_dbg"] = out["nc1_cdnv_p2_dbg"] * statistics.mean(norms)
    out["nc1_quotient_dbg"] = statistics.mean(s2) / statistics.mean(norms)
    half = [(s2[i] + s2[j]) / 2 for i, j in c.pairs]
    plain = {p: c.squared_distance(*p) for p in c.pairs}
    debiased = [plain[i, j] - cov[i, i] - cov[j, j] + 2 * cov[i, j] for i, j in c.pairs]
    out["nc1_cdnv_rom_dbg"] = statistics.mean(half) / statistics.mean(debiased)
    weights = [c.n[i] * c.n[j] for i, j in c.pairs]
    out["nc1_cdnv_rom_dbg_fw"] = _weighted_mean(half, weights) / _weighted_mean(debiased, weights)
    out["nc3_cos_mean_dbg"] = statistics.mean(
        float(w @ m) / math.sqrt((w @ w) * norm)
        for w, m, norm in zip(c.w, c.m, norms, strict=True)
        if norm > 0 and w.any()
    )
    for centring, lengths in (("", norms), ("_unc", raw)):
        distances = []
        for i, j in c.pairs:
            if lengths[i] > 0 and lengths[j] > 0:
                size = math.sqrt(lengths[i] * lengths[j])
                gap = plain[i, j] - cov[i, i] - cov[j, j] + 2 * cov[i, j]
                cosine = (lengths[i] + lengths[j] - gap) / (2 * size)
                apart = _beyond_rounding(2 - 2 * cosine, squared[i, j] / size)
                distances.append(math.sqrt(max(0.0, apart)))
        found = _uniformity([x for x in distances if x > 0], dim, None)
        for name in ("mean", "var", "std", "cov", "excess", "var_ratio"):
            out[f"gnc2_log_kernel_{name}{centring}_dbg"] = found[f"log_kernel_{name}"]
        kernel = [-math.log(x) if x > 0 else math.inf for x in distances]
        out[f"gnc2_log_kernel_med{centring}_dbg"] = statistics.median(kernel)
    return out
