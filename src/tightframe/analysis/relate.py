"""Relate geometry to generalization: correlations, controls and verdicts for a table of models.

Axes: N rows (one per checkpoint), M measures. What is tested is declared before: the measures, the
expected direction, the correction, the margin of equivalence. It is written into the result with a
digest, so that a reader sees what was decided.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from tightframe.analysis import inference
from tightframe.analysis.design import (
    OUTCOMES,
    Design,
    Excluded,
    column,
    expected_sign,
    has_column,
    is_constant,
    make_design,
    numbers,
)
from tightframe.analysis.inference import Codes, Columns, Vector
from tightframe.analysis.options import LOSS, TESTED, RelateOptions, resolve_options
from tightframe.analysis.published import read_published, seed_rows
from tightframe.analysis.relation import CONTROLS, DENOMINATOR, Relation, with_verdicts
from tightframe.analysis.sources import add_scores, read_models, read_scores
from tightframe.errors import UserError

MOVED = 0.2  # one cluster that moves r by more is named
NEAR_ZERO = 10  # a coefficient of variation beyond it: its mean lies within a tenth of its std


def relate(
    sources: "pd.DataFrame | str | Path | Sequence[str | Path]",
    *,
    published: str = "",
    table1: bool = False,
    scores: "str | Path | None" = None,
    options: RelateOptions | None = None,
    **settings: Any,
) -> Relation:
    """Relate measures of geometry to generalization, across models.

    Args:
        sources: A table with one row per model, or paths: runs, sweeps or series with results,
            tables as .csv or .parquet. With `published`, the CSV of that table, or both published
            ones.
        published: "lc-2024-05" or "lc-2024-10" of Wu & Papyan 2024; "" for anything else.
        table1: Keep the 21 rows of the shape that was trained with several seeds (Table 1).
        scores: A table or results of lm-evaluation-harness; its columns can be y or controls.
        options: What is related; by default the seven measures of the published Table 1 to the
            validation loss.
        **settings: Fields of `RelateOptions`, in place of those of `options`.

    Raises:
        UserError: A source or column that does not exist, a constant y, fewer than 4 rows, a single
            cluster, a published table that was changed, scores that match nothing.
    """
    options = resolve_options(options or RelateOptions(), settings)
    if isinstance(sources, pd.DataFrame):
        table, paths = sources, []
    else:
        given = [sources] if isinstance(sources, str | Path) else sources
        paths = [Path(path) for path in given]
        table = pd.DataFrame()
    if published:
        if not 1 <= len(paths) <= 2:
            raise UserError(f"{published}: {len(paths)} files, expected its CSV, or both tables")
        table = read_published(published, *paths)
        table = seed_rows(table) if table1 else table
    elif table1:
        raise UserError("table1 is a part of a published table; say which with --published")
    elif not isinstance(sources, pd.DataFrame):
        table = read_models(paths)
    unmatched, score_names = list[Excluded](), list[str]()
    if scores is not None:
        before = set(table)
        joined = add_scores(table, read_scores(Path(scores)))
        table = joined.table
        score_names = [str(name) for name in table if name not in before]
        unmatched = [Excluded(name, "has no scores") for name in joined.without_scores]
        unmatched += [Excluded(name, "matches no model") for name in joined.without_models]
    relation = relate_table(table, options)
    outcomes = [*relation.outcomes, *score_names]
    return dataclasses.replace(
        relation, excluded=unmatched + relation.excluded, outcomes=[*dict.fromkeys(outcomes)]
    )


def relate_table(table: pd.DataFrame, options: RelateOptions) -> Relation:
    """Relate measures to y over the rows of a table, one row per model or checkpoint."""
    if not options.clusters and has_column(table, "run"):
        options = dataclasses.replace(options, clusters=("run",))
    options = dataclasses.replace(options, measures=_declared(table, options.measures))
    _refuse_repeated(options)
    design = make_design(
        table,
        y=options.y,
        measures=options.measures,
        controls=options.controls,
        fixed=options.fixed,
        clusters=options.clusters,
    )
    first = next(iter(design.clusters.values()))
    possible = inference.n_permutations(first)
    if possible == 1:
        sizes = sorted({*np.bincount(first).tolist()})
        raise UserError(
            f"no two clusters of {next(iter(design.clusters))} have equally many rows "
            f"({len(sizes)} sizes), so nothing can be permuted; choose other --clusters"
        )
    excluded, blocks = list(design.excluded), _blocks(design)
    lines: dict[str, dict[str, Any]] = {}
    predictions: dict[str, Vector] = {}
    for usable, names in blocks:
        lines |= _related(design, usable, names, options)
        if options.family:
            for name in names:
                _add_gain(lines[name], design, usable, name, options, predictions)
        gone = int((~usable).sum())
        excluded += [
            Excluded(name, f"missing in {gone} rows, which are left out") for name in names if gone
        ]
    for name in options.measures:
        if reason := _why_undefined(design.measures[name]):
            lines[name] = {"reason": reason}
            excluded.append(Excluded(name, reason))
    rows = pd.DataFrame([{"measure": name} | lines[name] for name in options.measures])
    rows = with_verdicts(rows.reindex(columns=_COLUMNS), options)
    if any(":" in name for name in options.controls):
        rows = rows.assign(**_additive(table, options))
    n_clusters = int(first.max()) + 1
    return Relation(
        rows,
        options,
        len(design.y),
        n_clusters,
        possible,
        inference.detectable(n_clusters, alpha=options.alpha),
        design.collinear,
        excluded,
        _strata(design, options),
        _points(design, options),
        design.table,
        [options.y, *(name for name in OUTCOMES if name in table and name != options.y)],
        pd.DataFrame(predictions),
    )


def _additive(table: pd.DataFrame, options: RelateOptions) -> dict[str, Any]:
    """Return what is left of the correlations when the controls have no interactions."""
    plain = tuple(name for name in options.controls if ":" not in name)
    found = relate_table(table, dataclasses.replace(options, controls=plain, family="")).table
    return {f"additive_{end}": found[f"partial_{end}"] for end in ("r", "low", "high")}


def _points(design: Design, options: RelateOptions) -> pd.DataFrame:
    """Return what figures draw: y, the measures, and the number of parameters where it is known."""
    known = has_column(design.table, "n_params")
    size = numbers(design.table, "n_params") if known else np.full(len(design.y), math.nan)
    return pd.DataFrame({options.y: design.y, **design.measures, "size": size})


_COLUMNS = [
    *("measure", "n", "clusters", "r", "r2", "r_log", "spearman", "low", "high", "p", "p_plain"),
    *("partial_r", "partial_low", "partial_high", "partial_p", "rank", "t_cr3", "p_cr3"),
    *("within_r", "within_p", "gain", "gain_percent", "gain_p", "beyond_loss", "beyond_loss_p"),
    *("p_holm", "p_bh", "p_maxt", "mde", "equivalent", "direction", "verdict", "flags", "reason"),
]


def _related(
    design: Design, usable: Bool[np.ndarray, " N"], names: Sequence[str], options: RelateOptions
) -> dict[str, dict[str, Any]]:
    """Return the numbers of measures that have values in the same rows."""
    y = design.y[usable]
    values = np.column_stack([design.measures[name][usable] for name in names])
    levels = {
        level: np.unique(codes[usable], return_inverse=True)[1]
        for level, codes in design.clusters.items()
    }
    first = next(iter(levels.values()))
    chance: dict[str, Any] = {"permutations": options.permutations, "seed": options.seed}
    plain = _projected(values, y, np.ones((len(y), 1)))
    tested = inference.permute(*plain, first, **chance)
    boots = [
        inference.bootstrap(*plain, codes, draws=options.draws, seed=options.seed)
        for codes in levels.values()
    ]
    out: dict[str, dict[str, Any]] = {}
    low, high = _widest(boots)
    for j, name in enumerate(names):
        x = values[:, j]
        log = _projected(np.log(x)[:, None], y, np.ones((len(y), 1))) if x.min() > 0 else None
        ranks = _projected(rankdata(x)[:, None], rankdata(y), np.ones((len(y), 1)))
        out[name] = {
            "n": len(y),
            "clusters": int(first.max()) + 1,
            "r": tested.r[j],
            "r2": tested.r[j] ** 2,
            "r_log": inference.correlations(*log[:2])[0] if log else math.nan,
            "spearman": inference.correlations(*ranks[:2])[0],
            **{"low": low[j], "high": high[j], "p": tested.p[j], "p_plain": tested.p_plain[j]},
            "p_maxt": tested.p_maxt[j],
            "mde": inference.detectable(int(first.max()) + 1, alpha=options.alpha),
            "direction": (options.direction or {}).get(name, expected_sign(name, x, options.y)),
            "flags": _flags(name, x, tested.r[j], boots[0].without[:, j], design, usable, options),
        }
        if has_column(design.table, "run"):
            runs = pd.factorize(column(design.table, "run")[usable].astype(str))[0]
            out[name]["within_r"], out[name]["within_p"], _ = inference.within_runs(x, y, runs)
    if design.has_controls:
        _add_controlled(out, names, values, y, design.basis[usable], levels, options)
    if options.y != LOSS and has_column(design.table, LOSS) and LOSS not in options.controls:
        loss = numbers(design.table, LOSS)[usable]
        if np.isfinite(loss).all() and not is_constant(loss):
            held = _projected(values, y, np.column_stack([design.basis[usable], loss]))
            beyond = inference.permute(*held, first, **chance)
            for j, name in enumerate(names):
                out[name] |= {"beyond_loss": beyond.r[j], "beyond_loss_p": beyond.p[j]}
    return out


def _add_controlled(
    out: dict[str, dict[str, Any]],
    names: Sequence[str],
    values: Columns,
    y: Vector,
    controls: Float[np.ndarray, "N P"],
    levels: Mapping[str, Codes],
    options: RelateOptions,
) -> None:
    """Add what is left of the correlations once controls and fixed effects are held."""
    first = next(iter(levels.values()))
    held = _projected(values, y, controls)
    tested = inference.permute(*held, first, permutations=options.permutations, seed=options.seed)
    boots = [
        inference.bootstrap(*held, codes, draws=options.draws, seed=options.seed)
        for codes in levels.values()
    ]
    low, high = _widest(boots)
    t, p = inference.cluster_robust(*held, first)
    for j, name in enumerate(names):
        out[name] |= {
            **{"partial_r": tested.r[j], "partial_p": tested.p[j], "p_maxt": tested.p_maxt[j]},
            **{"partial_low": low[j], "partial_high": high[j]},
            **{"rank": held[2].shape[1], "t_cr3": t[j], "p_cr3": p[j]},
        }


def _add_gain(
    line: dict[str, Any],
    design: Design,
    usable: Bool[np.ndarray, " N"],
    name: str,
    options: RelateOptions,
    predictions: dict[str, Vector],
) -> None:
    """Add how much better a measure predicts y in families that were left out, and what it does."""
    families = pd.factorize(column(design.table, options.family)[usable].astype(str))[0]
    n = int(families.max()) + 1
    if n < inference.FEWEST_FAMILIES:
        line["flags"].append(f"gain not defined: {n} families, expected at least 4")
        return
    gain = inference.left_out_gain(
        design.measures[name][usable],
        design.y[usable],
        design.controls[usable],
        families,
        permutations=options.permutations,
        seed=options.seed,
    )
    line |= {"gain": gain.gain, "gain_percent": gain.percent, "gain_p": gain.p}
    for key, values in ((CONTROLS, gain.without), (name, gain.predicted)):
        predictions.setdefault(key, np.full(len(usable), math.nan))[usable] = values


def _projected(values: Any, y: Any, controls: Any) -> tuple[Any, Any, Any]:
    """Return residuals of the measures and of y, and an orthonormal basis of the controls."""
    basis, _ = inference.basis_of(controls, [""] * controls.shape[1])
    scaled = values / np.maximum(np.abs(values).max(0), 1e-300)
    unit = y / (np.abs(y).max() or 1)
    return (
        inference.residuals(scaled, basis),
        inference.residuals(unit[:, None], basis)[:, 0],
        basis,
    )


def _widest(boots: "Sequence[inference.Bootstrapped]") -> tuple[Any, Any]:
    """Return for each measure the widest interval of all levels of clusters."""
    widths = np.array([one.high - one.low for one in boots])  # (levels, M)
    choice = np.argmax(np.where(np.isnan(widths), np.inf, widths), axis=0)
    lows, highs = np.array([one.low for one in boots]), np.array([one.high for one in boots])
    places = np.arange(widths.shape[1])
    return lows[choice, places], highs[choice, places]


def _blocks(design: Design) -> list[tuple[Any, list[str]]]:
    """Return the measures by the rows in which they have values."""
    blocks: dict[bytes, tuple[Any, list[str]]] = {}
    for name, values in design.measures.items():
        if not _why_undefined(values):
            usable = np.isfinite(values)
            blocks.setdefault(usable.tobytes(), (usable, []))[1].append(name)
    return list(blocks.values())


def _why_undefined(values: Vector) -> str:
    """Return why a measure has no correlation; "" if it may have one."""
    known = values[np.isfinite(values)]
    if len(known) < 4:
        return f"{len(known)} values, expected at least 4"
    return "constant" if is_constant(known) else ""


def _flags(
    name: str, x: Any, r: float, without: Any, design: Design, usable: Any, options: RelateOptions
) -> list[str]:
    """Return what a reader of the correlation should beware of."""
    found = []
    moved = np.abs(without - r)
    if np.nanmax(moved, initial=0) > MOVED:
        worst = int(np.nanargmax(moved))
        level, codes = next(iter(design.clusters.items()))
        row = int(np.flatnonzero(np.unique(codes[usable], return_inverse=True)[1] == worst)[0])
        where = np.flatnonzero(usable)[row]
        who = f"row {where + 1}"
        if has_column(design.table, level):
            value = column(design.table, level).iloc[where]
            who = f"{value}" if level in design.table else f"{level} {value}"
        found.append(f"without {who} it is {without[worst]:+.2f}")
    if "_cov" in name:
        if x.min() < 0 < x.max():
            found.append(f"{DENOMINATOR} changes sign")
        elif (np.abs(x) > NEAR_ZERO).any():
            found.append(f"{DENOMINATOR} is within a tenth of the deviation")
    if options.within:
        inside = [value for value in _inside(design, usable, x, options.within).values() if value]
        if inside and min(inside) < 0 < max(inside):
            found.append(f"its sign differs between values of {options.within}")
    return found


def _inside(design: Design, usable: Any, x: Any, within: str) -> dict[str, float]:
    """Return the correlation inside each stratum of three rows and more."""
    words = column(design.table, within)[usable].astype(str).to_numpy()
    y = design.y[usable]
    out = {}
    for value in sorted({*words}):
        chosen = words == value
        if chosen.sum() >= 3 and not is_constant(x[chosen]) and not is_constant(y[chosen]):
            part = _projected(x[chosen][:, None], y[chosen], np.ones((int(chosen.sum()), 1)))
            out[f"{within}={value}"] = float(inference.correlations(*part[:2])[0])
    return out


def _strata(design: Design, options: RelateOptions) -> pd.DataFrame:
    """Return the correlations inside the strata, one row per measure."""
    if not options.within:
        return pd.DataFrame()
    lines = []
    for name, values in design.measures.items():
        usable = np.isfinite(values)
        if not _why_undefined(values):
            inside = _inside(design, usable, values[usable], options.within)
            lines.append({"measure": name, **inside})
    return pd.DataFrame(lines)


def _declared(table: pd.DataFrame, measures: Sequence[str]) -> tuple[str, ...]:
    """Return the measures to test, with the share of hits where their number is not given."""
    if tuple(measures) != TESTED:
        return tuple(measures)
    names = ["nc4_rate" if name == "nc4_hits" and name not in table else name for name in TESTED]
    if found := [name for name in names if name in table]:
        return tuple(found)
    raise UserError(
        "none of the seven published measures is in the table; name yours with --measures"
    )


def _refuse_repeated(options: RelateOptions) -> None:
    names = [options.y, *options.controls, *options.fixed]
    for name in options.measures:
        if name in names:
            raise UserError(
                f"{name} is both a measure and y, a control or a fixed effect; give it once"
            )
    if not options.measures:
        raise UserError("no measures to relate; name some with --measures")
