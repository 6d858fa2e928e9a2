"""Made-up tables in the form of the two published ones, which fulfil the same identities."""

import numpy as np
import pandas as pd

from tightframe.analysis.published import (
    COLUMNS,
    N_CLASSES,
    N_POSITIONS,
    model_names,
    n_parameters,
)


def published_tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of May and of October 2024 of the same 230 made-up models."""
    rng = np.random.default_rng(seed)
    names = model_names()
    n, k = len(names), N_CLASSES
    depth = np.array([int(name[:2]) for name in names])
    width = np.array([int(name[3:7]) for name in names])
    size = [n_parameters(int(d), int(w)) for d, w in zip(depth, width, strict=True)]
    loss = 1.1 + 0.4 * rng.random(n)
    facts = {
        "model": names,
        "n_params": size,
        "val_acc": 0.5 + 0.1 * rng.random(n),
        "val_loss": loss,
        "perplex": np.exp(loss),
    }
    hits = rng.integers(N_POSITIONS // 20, N_POSITIONS // 5, n)
    norm, norm_var = 2 + 3 * rng.random(n), 0.1 + rng.random(n)
    squared = norm**2 + norm_var * (k - 1) / k
    squared_std = squared * (0.2 + rng.random(n))
    log_mean, log_var = np.log(norm) + 0.2, 0.05 + 0.1 * rng.random(n)
    cos, cos_var = 0.1 + 0.3 * rng.random(n), 0.01 * (0.5 + rng.random(n))
    cdnv = 1e-5 * (1 + 0.5 * rng.random(n) + loss)
    dot_mean, dot_var = -squared / (k - 1), 0.01 + 0.1 * rng.random(n)
    pairs = k * (k - 1) / 2
    frobenius = 2 * pairs * (dot_var + dot_mean**2) + (k - 1) * squared_std**2 + k * squared**2
    chord = 2 - 2 * cos
    distance_var = 0.1 * chord
    kernel = -0.34 + 0.02 * rng.random(n)
    may = facts | {
        **{"dists_mean": rng.normal(size=n), "dists_std": rng.random(n)},
        **{"sims_mean": cos, "sims_std": cos_var**0.5},
        **{"norms_mean": squared, "norms_std": squared_std},
        **{"norms_scl_mean": squared / width**0.5, "norms_scl_std": squared_std / width**0.5},
        **{"norms_log_mean": 2 * log_mean, "norms_log_std": 2 * log_var**0.5},
        "norms_logscl_mean": 2 * log_mean - np.log(width) / 2,
        "norms_logscl_std": 2 * log_var**0.5,
        **{"misses": N_POSITIONS - hits, "matches": hits},
        **{"matches_mean": hits / k, "matches_std": hits / k * 3},
        **{"cdnv_mean": cdnv, "cdnv_std": 10 * cdnv},
        **{"interfere_mean": 1e-3 * rng.normal(size=n), "interfere_std": 0.2 + rng.random(n)},
        **{"log_dist_mean": kernel - 0.1, "log_dist_std": 0.05 + 0.02 * rng.random(n)},
    }
    october = facts | {
        "cdnv": cdnv,
        **{"norms_mean": norm, "norms_var": norm_var},
        "etf_error": np.sqrt(2 - 2 * k * squared / np.sqrt((k - 1) * frobenius)),
        **{"interfere_mean": dot_mean, "interfere_var": dot_var},
        **{"log_kern_mean": kernel, "log_kern_var": 0.001 + 0.001 * rng.random(n)},
        "dual_error": 1.2 + 0.1 * rng.random(n),
        **{"simdot_mean": 0.3 + rng.random(n), "simdot_var": 0.1 + rng.random(n)},
        **{"simcos_mean": cos, "simcos_var": cos_var},
        "dists_mean": np.sqrt(chord - distance_var * (k - 1) / k),
        "dists_var": distance_var,
        **{"hits": hits, "misses": N_POSITIONS - hits},
        **{"norms_log_mean": log_mean, "norms_log_var": log_var},
    }
    later = pd.DataFrame(october)[list(COLUMNS["lc-2024-10"])].sort_values(
        "model", key=lambda names: names.str[3:7] + names
    )
    return pd.DataFrame(may)[list(COLUMNS["lc-2024-05"])], later.reset_index(drop=True)
