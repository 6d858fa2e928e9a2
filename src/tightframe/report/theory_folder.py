"""A table's folder -> what the page shows of it: prediction, models beside it, concepts.

::

    ntp/<name>/   table.safetensors  manifest.json  solutions/*.safetensors
                  results/*.jsonl  results/<model>/*.jsonl  runs/*.safetensors
                  concepts/*/concepts.csv
"""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from tightframe.analysis.same_loss import EXCESS, at_same_loss
from tightframe.analysis.support_order import support_order
from tightframe.errors import UserError
from tightframe.ntp.model_checkpoints import load_model_checkpoints
from tightframe.ntp.predict import Prediction, predict_geometry
from tightframe.ntp.proxies import proxy
from tightframe.ntp.solutions import best_solution, load_solution
from tightframe.ntp.table import ContextTable, load_table, table_fingerprint
from tightframe.report.by_token import readable, visible
from tightframe.report.inputs import check_theory
from tightframe.report.theory import (
    AT_SAME_LOSS,
    MOST_CONTEXTS,
    MOST_MODELS,
    MOST_TOKENS,
    PANELS,
    Concept,
    Geometry,
    Maps,
    Spectrum,
    Theory,
    courses,
)
from tightframe.results import gather, read_csv

OPEN_BOX = "\N{OPEN BOX}"
PATH = "-path"  # how the name of a run ends that is the ridge path of its table
MOST_CONCEPTS = 12
MOST_TRIPLETS = 64  # of the proxy of a table that is too large for heat maps


def read_theory(path: Path) -> tuple[Theory, dict[str, Any]]:
    """What is known of a table, and what that was made from."""
    check_theory(path)
    table = load_table(path)
    small = table.vocab_size <= MOST_TOKENS and table.n_contexts <= MOST_CONTEXTS
    rank = None if small else min(MOST_TRIPLETS, table.vocab_size, table.n_contexts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said when the table was made
        try:
            stand_in = proxy(table.soft_labels.support, rank)
        except ValueError as error:  # nothing is to be separated
            raise UserError(f"{path}: {error}") from None
    solution = best_solution(path, table_fingerprint(path))
    limit = stand_in
    if solution is not None:
        limit = predict_geometry(load_solution(solution, table.matrix))
    rows = _rows(path)
    theory = Theory(
        path.resolve().name,
        _facts(table, limit),
        limit.label,
        _spectra(limit, stand_in),
        courses(rows) if len(rows) else (),
        _maps(path, table, limit, stand_in) if small else None,
        _concepts(path / "concepts"),
    )
    sources = {
        "solution": solution.name if solution else "none; `tightframe ntp solve` makes one",
        **{name: value for name, value in table.source.items() if not isinstance(value, dict)},
    }
    return theory, sources


def _facts(table: ContextTable, limit: Prediction) -> tuple[tuple[str, str, str], ...]:
    labels = table.soft_labels
    sizes = labels.support_sizes
    return (
        ("Contexts", f"{labels.n_contexts:,}", f"distinct, of {table.n_pairs:,} pairs"),
        ("Words", f"{labels.vocab_size:,}", "that may follow"),
        (
            "Entropy floor",
            f"{labels.entropy:.3f}",
            "nats per pair, of the counted text; no model of it can lose less",
        ),
        (
            "Support",
            f"{sizes.mean():.1f}",
            f"words follow a context on average, {sizes.min()} to {sizes.max():,}",
        ),
        ("Rank", f"{limit.rank:,}", "dimensions of the predicted geometry"),
    )


def _spectra(limit: Prediction, stand_in: Prediction) -> tuple[Spectrum, ...]:
    own = Spectrum("prediction", tuple(limit.singular_values.tolist()))
    if limit is stand_in:
        return (own,)
    return own, Spectrum("proxy", tuple(stand_in.singular_values.tolist()))


def _rows(path: Path) -> pd.DataFrame:
    """Of all models; what the ridge path predicts at their losses are rows of another subset."""
    files = [*(path / "results").glob("*.jsonl"), *(path / "results").glob("*/*.jsonl")]
    if not files:
        return pd.DataFrame()
    rows = gather(sorted(files))
    of_path = rows["run"].str.endswith(PATH)
    models = rows[~of_path]
    if not of_path.any() or models.empty:
        return pd.DataFrame(models)
    points, checkpoints = (
        own.pivot(index=["run", "step"], columns="metric", values="value")
        for own in (rows[of_path], models)
    )
    shown = {curve.metric for panel in PANELS for curve in panel.curves if curve.look != "baseline"}
    told = sorted((shown & set(points) & set(checkpoints)) - {EXCESS})
    predicted = (
        at_same_loss(points, checkpoints, told)
        .reset_index()
        .melt(["run", "step"], var_name="metric")
        .assign(subset=AT_SAME_LOSS)
    )
    return pd.concat([models, predicted], ignore_index=True)


def _maps(path: Path, table: ContextTable, limit: Prediction, stand_in: Prediction) -> Maps:
    order = support_order(table.matrix)
    columns = [*_models(path / "runs"), Geometry("prediction", limit.classifier, limit.embeddings)]
    if limit is not stand_in:
        columns.append(Geometry("proxy", stand_in.classifier, stand_in.embeddings))
    words = table.words or [str(token) for token in table.tokens]
    return Maps(
        tuple(readable(words[token]) for token in order.words),
        # Spaces between its words are no part of a token.
        tuple(readable(table.text(int(j))).replace(OPEN_BOX, " ") for j in order.contexts),
        tuple(
            Geometry(one.title, one.classifier[order.words], one.embeddings[order.contexts])
            for one in columns
        ),
    )


def _models(folder: Path) -> list[Geometry]:
    """Last checkpoints of the models whose embeddings were kept."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    found = []
    for file in files[-MOST_MODELS:]:
        last = load_model_checkpoints(file)[0][-1]
        embeddings = last.embeddings.astype(float)
        found.append(Geometry(file.stem, last.classifier.astype(float), embeddings))
    return found


def _concepts(folder: Path) -> tuple[Concept, ...]:
    """Of the newest look at concepts."""
    files = folder.glob("*/concepts.csv")
    newest = max(files, key=lambda file: file.stat().st_mtime_ns, default=None)
    if newest is None:
        return ()
    try:
        sides = read_csv(newest, keep_default_na=False)
        found = [
            Concept(int(str(number)), float(lines["singular_value"].iloc[0]), _sides(lines))
            for number, lines in sides.groupby("concept", sort=True)
        ]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{newest}: not a table of concepts, or damaged; remove it") from None
    return tuple(found[:MOST_CONCEPTS])


def _sides(lines: pd.DataFrame) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    def listed(what: str, side: str) -> tuple[str, ...]:
        of_side = lines[(lines["what"] == what) & (lines["side"] == side)].sort_values("rank")
        return tuple(visible(str(text)) for text in of_side["text"])

    return tuple((listed("token", side), listed("context", side)) for side in "+-")
