"""Judge the models of the laboratory by the rule of design.toml, from one row per model.

Axes: S seeds, R = 4 strengths by rank, of which the first is none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.regularizers import mean_log_kernel
from tightframe.lm.runs import Run
from tightframe.multiple_testing import adjusted
from tightframe.results import gather

LOSS = "val_loss"
KERNEL = "classifier_log_kernel"


class Paired(NamedTuple):
    """Mean of paired differences or slopes, with its 95 % interval and two-sided t test."""

    mean: float
    low: float
    high: float
    p: float


def models(sweep: Path, measures: list[str]) -> pd.DataFrame:
    """Return one row per finished model of a sweep: settings, loss and measures."""
    rows = []
    for folder in sorted((sweep / "runs").iterdir()):
        files = sorted((folder / "results").glob("*.jsonl"))
        run = Run.open(folder)
        if not files or not run.finished:
            continue
        settings = run.settings
        measured = gather(files)
        values = measured.set_index("metric")["value"]
        classifier = load_checkpoint(run.checkpoint(run.steps[-1])).classifier
        rows.append(
            {
                "run": folder.name,
                "seed": settings.seed,
                "tied": settings.tied,
                "regularizer": settings.regularizer or "none",
                "strength": settings.strength or 0.0,
                "updates": run.facts["steps"],
                LOSS: run.log[-1][LOSS],
                "entropy_floor": run.log[-1].get("entropy_floor", np.nan),
                "frequency_entropy": measured["tokens_unigram_entropy"].iloc[0],
                KERNEL: float(mean_log_kernel(classifier.detach().double())),
                **{name: float(values[name]) for name in measures},
            }
        )
    return pd.DataFrame(rows)


def by_rank(table: pd.DataFrame, regularizer: str, column: str) -> pd.DataFrame:
    """Return a column of a regularizer's models, seeds x strengths (S, R); missing ones are NaN."""
    used = table[table["tied"] & table["regularizer"].isin(["none", regularizer])]
    wide = used.pivot(index="seed", columns="strength", values=column)
    return wide.loc[wide.index.isin(used.loc[used["regularizer"] == regularizer, "seed"])]


def slopes(values: Float[np.ndarray, "S R"]) -> Float[np.ndarray, " S"]:
    """Return the least-squares slope of each row over the ranks 0, 1, ..."""
    ranks = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    return np.asarray(values @ ranks / (ranks @ ranks))


def paired(differences: Float[np.ndarray, " S"]) -> Paired:
    """Test whether the mean of paired numbers is 0, by Student's t."""
    n = len(differences)
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    p = 2 * stats.t.sf(abs(mean) / error, n - 1)
    return Paired(float(mean), float(mean - half), float(mean + half), float(p))


def verdicts(table: pd.DataFrame, design: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per regularizer: manipulation check first, then what the loss does.

    A regularizer of which a model is missing is not judged, and Holm counts it with p = 1.
    """
    rows = []
    for name, measure in design["measure"].items():
        own = by_rank(table, name, measure)
        loss = by_rank(table, name, LOSS)
        row: dict[str, Any] = {"regularizer": name, "measure": measure, "models": len(own)}
        whole = own.shape == (len(design["seeds"]), design["strengths"] + 1)
        if not whole or own.isna().any(axis=None):
            rows.append(row | {"verdict": "models are missing", "loss_p": 1.0, "moved": False})
            continue
        check, outcome = (paired(slopes(one.to_numpy(float))) for one in (own, loss))
        moved = check.p < design["alpha"] and check.mean * design["direction"][name] > 0
        rows.append(
            row
            | {f"measure_{field}": value for field, value in check._asdict().items()}
            | {"moved": moved}
            | {f"loss_{field}": value for field, value in outcome._asdict().items()}
        )
    found = pd.DataFrame(rows)
    found["loss_p_holm"] = adjusted(found["loss_p"].to_numpy(float), "holm")
    found["verdict"] = [_verdict(row, design["alpha"]) for row in found.to_dict("records")]
    return found


def _verdict(row: Mapping[Any, Any], alpha: float) -> str:
    if isinstance(row.get("verdict"), str):
        return str(row["verdict"])
    if not row["moved"]:
        return "not judged: its measure did not move as intended"
    if row["loss_p_holm"] >= alpha:
        return "undecided"
    return "raises the loss" if row["loss_mean"] > 0 else "lowers the loss"


def differences(table: pd.DataFrame, design: Mapping[str, Any]) -> pd.DataFrame:
    """Return what each strength changes against no regularizer, paired by seed; described only."""
    rows = []
    for name, measure in design["measure"].items():
        for column in (measure, LOSS):
            wide = by_rank(table, name, column)
            for strength in wide.columns[1:]:
                change = (wide[strength] - wide[0.0]).dropna().to_numpy(float)
                if len(change) < 2:
                    continue
                mean, low, high, _ = paired(change)
                what = "loss" if column == LOSS else measure
                rows.append(
                    {"regularizer": name, "strength": strength, "of": what, "seeds": len(change)}
                    | {"without": wide[0.0].mean(), "mean": mean, "low": low, "high": high}
                )
    return pd.DataFrame(rows)


def tied_against_untied(
    tables: Mapping[str, pd.DataFrame], design: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the differences untied - tied of each corpus, paired by seed, with Holm over both."""
    rows = []
    for corpus, table in tables.items():
        plain = table[table["regularizer"] == "none"]
        for column in (LOSS, *sorted({*design["measure"].values()}), "nc4_rate"):
            wide = plain.pivot(index="seed", columns="tied", values=column).dropna()
            if len(wide) < len(design["tied_seeds"]):
                continue
            change = (wide[False] - wide[True]).to_numpy(float)
            rows.append(
                {"corpus": corpus, "of": column, "seeds": len(change), "tied": wide[True].mean()}
                | paired(change)._asdict()
            )
    found = pd.DataFrame(rows)
    if len(found):
        loss = found["of"] == LOSS
        found.loc[loss, "p_holm"] = adjusted(found.loc[loss, "p"].to_numpy(float), "holm")
        found.loc[~loss, "p"] = np.nan  # described, not tested
    return found
