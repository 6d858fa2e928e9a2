"""The two published tables of Wu & Papyan 2024 (Linguistic Collapse), read and checked.

Axes: R rows (230 checkpoints of 170 runs). The tables of May and of October 2024 hold partly
different quantities under the same names. Neither file is part of this package: it is read where
the user has it, and refused if it breaks an identity that the published numbers fulfil.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tightframe.analysis.options import TESTED
from tightframe.errors import UserError, nearest
from tightframe.geometry.options import FACTS, TABLES

N_CLASSES = 29_233  # classes of the study: tokens that occur in its training text
N_POSITIONS = 4_714_191  # validation positions whose label is one of them
VOCABULARY, WINDOW = 50_257, 2_048
DEPTHS, WIDTHS = (1, 2, 4, 8, 12), (64, 128, 256, 512, 768, 1024)
SEEDS = 20  # repeats of one shape, beside the one without a number
TOLERANCE = 1e-5  # relative; the published numbers were accumulated in float32
_NAME = re.compile(r"(\d\d)x(\d{4})_(\d\d)([dL])(\d\d)?@(\d+)")
_SUFFIXES = ("01L@0", "01d@0", "03d@2", "10L@5", "10L@9", "10d@5", "10d@9")

COLUMNS = {kind: (*FACTS, *columns) for kind, columns in TABLES.items()}

# Each measure as a formula of a table's columns, in the order of the published Table 1.
Formula = Callable[[pd.DataFrame], "pd.Series[Any]"]
TABLE1: dict[str, Formula] = dict(
    zip(
        TESTED,
        (
            lambda t: t["cdnv_mean"],
            lambda t: t["norms_log_std"] / t["norms_log_mean"],
            lambda t: t["interfere_std"] / t["interfere_mean"],
            lambda t: t["log_dist_std"] / t["log_dist_mean"],
            lambda t: t["sims_mean"],
            lambda t: t["sims_std"] / t["sims_mean"],
            lambda t: t["matches"],
        ),
        strict=True,
    )
)
OCTOBER: dict[str, Formula] = {
    "nc1_cdnv_p2": lambda t: t["cdnv"],
    "nc2_equinorm_cov_log": lambda t: t["norms_log_var"] ** 0.5 / t["norms_log_mean"],
    "nc2_etf_error": lambda t: t["etf_error"],
    "gnc2_log_kernel_mean": lambda t: t["log_kern_mean"],
    "gnc2_log_kernel_var": lambda t: t["log_kern_var"],
    "gnc2_log_kernel_cov": lambda t: t["log_kern_var"] ** 0.5 / t["log_kern_mean"],
    "nc3_cos_mean": lambda t: t["simcos_mean"],
    "unc3_cos_cov": lambda t: t["simcos_var"] ** 0.5 / t["simcos_mean"],
    "unc3_cos_var": lambda t: t["simcos_var"],
    "unc3_dot_var": lambda t: t["simdot_var"],
    "nc3_dual_error": lambda t: t["dual_error"],
    "nc4_hits": lambda t: t["hits"],
}
FORMULAS = {"lc-2024-05": TABLE1, "lc-2024-10": OCTOBER}


def read_published(kind: str, path: Path, other: Path | None = None) -> pd.DataFrame:
    """Read one of the published tables, check it, and add our names of its measures.

    Args:
        kind: "lc-2024-05" or "lc-2024-10".
        path: The published CSV.
        other: The other one of the two tables, to check the identities between both.

    Returns:
        One row per checkpoint: the published columns, our measures computed from them
        (`FORMULAS`), and what its name says: run, architecture, run_type, depth, width, epochs,
        epoch, decay, seed.

    Raises:
        UserError: Other columns, rows or names than published, or an identity that does not hold.
    """
    if kind not in COLUMNS:
        raise UserError(f"'{kind}': no published table{nearest(kind, list(COLUMNS))}")
    table = _read(kind, path)
    _check_inside(kind, table, path)
    if other is not None:
        rest = "lc-2024-10" if kind == "lc-2024-05" else "lc-2024-05"
        second = _read(rest, other)
        _check_inside(rest, second, other)
        may, october = (table, second) if kind == "lc-2024-05" else (second, table)
        _check_between(may, october, f"{path} and {other}")
    for name, formula in FORMULAS[kind].items():
        table[name] = formula(table)
    return table


def model_names() -> list[str]:
    """Return the names of the 230 checkpoints."""
    shapes = [f"{depth:02d}x{width:04d}" for depth in DEPTHS for width in WIDTHS]
    names = [f"{shape}_{suffix}" for shape in shapes for suffix in _SUFFIXES]
    return sorted([*names, *(f"02x0768_01d{seed:02d}@0" for seed in range(SEEDS))])


def n_parameters(depth: int, width: int) -> int:
    """Return the number of parameters of a shape of the study, with tied embeddings."""
    inside = depth * (12 * width**2 + 10 * width) + 2 * width
    return (VOCABULARY + WINDOW) * width + inside


def seed_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the 21 rows of the shape that was trained again with other seeds (Table 1)."""
    is_seed = table["model"].str.fullmatch(r"02x0768_01d(\d\d)?@0")
    rows: pd.DataFrame = table.loc[is_seed].reset_index(drop=True)
    return rows


def _read(kind: str, path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, encoding="utf-8", index_col=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the published table {kind}") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from None
    table = table.drop(columns=[name for name in table.columns[:1] if name == "Unnamed: 0"])
    expected = COLUMNS[kind]
    if missing := [name for name in expected if name not in table]:
        raise UserError(f"{path}: column {missing[0]} of {kind} is missing; is it that table?")
    if extra := [name for name in table if name not in expected]:
        raise UserError(f"{path}: column {extra[0]} is none of {kind}; is it that table?")
    _check_names(table, path)
    numbers = table.drop(columns="model").apply(pd.to_numeric, errors="coerce")
    if numbers.isna().to_numpy().any():
        place = numbers.columns[numbers.isna().any()][0]
        row = table.loc[numbers[place].isna(), "model"].iloc[0]
        raise UserError(f"{path}: {place} of {row} is no number; expected one in every row")
    parts = table["model"].str.extract(_NAME)
    made: pd.DataFrame = numbers.assign(
        model=table["model"],
        run=table["model"].str.split("@").str[0],
        architecture=table["model"].str.split("_").str[0],
        run_type=parts[2] + parts[3] + "@" + parts[5],
        depth=parts[0].astype(int),
        width=parts[1].astype(int),
        epochs=parts[2].astype(int),
        epoch=parts[5].astype(int) + 1,
        decay=parts[3].map({"d": 5e-4, "L": 0.1}),
        seed=parts[4].fillna("").astype(str),
    )
    return made


def _check_names(table: pd.DataFrame, path: Path) -> None:
    expected = model_names()
    found = table["model"].astype(str).tolist()
    if len(found) != len(expected):
        raise UserError(f"{path}: {len(found):,} rows, expected the {len(expected)} published ones")
    if unknown := sorted({*found} - {*expected}):
        raise UserError(f"{path}: model {unknown[0]} is none of the published 230")
    if len({*found}) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UserError(f"{path}: model {twice} stands twice")


def _check_inside(kind: str, t: pd.DataFrame, path: Path) -> None:
    """Check what holds between the columns of one table."""
    k = N_CLASSES
    hits = "matches" if kind == "lc-2024-05" else "hits"
    sizes = [n_parameters(int(d), int(w)) for d, w in zip(t["depth"], t["width"], strict=True)]
    _equal(t, t["n_params"], pd.Series(sizes, t.index), "n_params = P(depth, width)", path, 0.0)
    _equal(t, t["perplex"], np.exp(t["val_loss"]), "perplex = exp(val_loss)", path, 1e-12)
    total = pd.Series(N_POSITIONS, t.index)
    _equal(t, t[hits] + t["misses"], total, f"{hits} + misses = {N_POSITIONS:,}", path, 0.0)
    if kind == "lc-2024-05":
        _equal(t, t["matches_mean"] * k, t["matches"], f"matches_mean x {k:,} = matches", path)
        return
    chord = t["dists_mean"] ** 2 + t["dists_var"] * (k - 1) / k
    _equal(t, chord, 2 - 2 * t["simcos_mean"], "mean squared dists = 2 - 2 simcos_mean", path)


def _check_between(may: pd.DataFrame, october: pd.DataFrame, path: object) -> None:
    """Check what holds between the two tables, row by row of the same models."""
    m = may.sort_values("model").reset_index(drop=True)
    o = october.sort_values("model").reset_index(drop=True)
    k = N_CLASSES
    pairs = k * (k - 1) / 2
    trace = k * m["norms_mean"]
    squares = pairs * (o["interfere_var"] + o["interfere_mean"] ** 2)
    frobenius = 2 * squares + (k - 1) * m["norms_std"] ** 2 + k * m["norms_mean"] ** 2
    etf = np.sqrt(2 - 2 * trace / np.sqrt((k - 1) * frobenius))
    squared = o["norms_mean"] ** 2 + o["norms_var"] * (k - 1) / k
    claims = [
        ("matches = hits", m["matches"], o["hits"], 0.0),
        ("cdnv_mean = cdnv", m["cdnv_mean"], o["cdnv"], TOLERANCE),
        ("sims_mean = simcos_mean", m["sims_mean"], o["simcos_mean"], TOLERANCE),
        ("sims_std^2 = simcos_var", m["sims_std"] ** 2, o["simcos_var"], 2 * TOLERANCE),
        ("May's norms = mean squared norms of October", m["norms_mean"], squared, TOLERANCE),
        (
            "norms_log_mean = twice October's",
            m["norms_log_mean"],
            2 * o["norms_log_mean"],
            TOLERANCE,
        ),
        (
            "norms_log_std = twice the root of October's norms_log_var",
            m["norms_log_std"],
            2 * o["norms_log_var"] ** 0.5,
            TOLERANCE,
        ),
        (
            "interfere_mean = -norms_mean / (K - 1)",
            o["interfere_mean"],
            -m["norms_mean"] / (k - 1),
            TOLERANCE,
        ),
        ("etf_error from norms and interference", o["etf_error"], etf, TOLERANCE),
    ]
    for claim, left, right, tolerance in claims:
        _equal(m, left, right, claim, path, tolerance)


def _equal(
    table: pd.DataFrame,
    left: "pd.Series[Any]",
    right: "pd.Series[Any]",
    claim: str,
    path: object,
    tolerance: float = TOLERANCE,
) -> None:
    """Refuse a table in which two sides of an identity differ."""
    size = np.maximum(np.abs(left), np.abs(right))
    gap = np.abs(np.asarray(left - right, float)) / np.where(size > 0, size, 1)
    if (gap > tolerance).any():
        worst = int(np.argmax(gap))
        raise UserError(
            f"{path}: {claim} does not hold: {table['model'].iloc[worst]} is off by a share of "
            f"{gap[worst]:.2g}, expected at most {tolerance:.0e}; was the table changed?"
        )
