"""The summary of a table: what its page shows of the prediction and of the models beside it.

::

    ntp/<name>/summary.json   made of table, solutions/, results/ and runs/ of the same folder

Axes: V tokens, M distinct contexts, N rows, D embedding.
"""

import base64
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage

from tightframe.errors import UserError
from tightframe.formats import write_signed
from tightframe.ntp.model import load_model_checkpoints
from tightframe.ntp.prediction import Prediction, predict, proxy
from tightframe.ntp.similarity import cosines_of_rows
from tightframe.ntp.solution import best_solution, load_solution
from tightframe.ntp.table import ContextTable, load_table, table_fingerprint
from tightframe.results import gather

SUMMARY = "summary.json"
EXCESS = "ntp_excess"  # the measure CE - H, nats per pair
PATH = "-path"  # how the name of a run ends that is the ridge path of its table
MOST_TOKENS = 300  # rows of a heat map
MOST_CONTEXTS = 600  # columns of a heat map; larger tables have no heat maps
MOST_MODELS = 2  # models whose heat maps stand beside the prediction: the last that were made
MOST_VALUES = 400  # singular values of a spectrum
MOST_TRIPLETS = 64  # triplets of the proxy of a table that is too large for heat maps


def summarize(folder: Path) -> Path:
    """Write the summary of a table's folder and return its path.

    A table without a solution is summarized by its proxy. Heat maps are made of small tables only.
    """
    fingerprint = table_fingerprint(folder)
    table = load_table(folder)
    small = table.vocab_size <= MOST_TOKENS and table.n_contexts <= MOST_CONTEXTS
    rank = None if small else min(MOST_TRIPLETS, table.vocab_size, table.n_contexts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the command that made the table said so
        try:
            centred = proxy(table.soft_labels.support, rank)
        except ValueError as error:  # nothing is to be separated
            raise UserError(f"{folder}: {error}") from None
    solution = best_solution(folder, fingerprint)
    limit = centred
    if solution is not None:
        limit = predict(load_solution(solution, table.support))
    predictions = {"prediction": limit} | ({} if limit is centred else {"proxy": centred})
    sizes = table.soft_labels.support_sizes
    content = {
        "table": fingerprint,
        "source": table.source,
        "solution": solution.name if solution else None,
        "kind": limit.label,
        "rank": limit.rank,
        "contexts": table.n_contexts,
        "pairs": table.n_pairs,
        "words": table.vocab_size,
        "entropy": table.soft_labels.entropy,
        "support": {
            "mean": float(sizes.mean()),
            "min": int(sizes.min()),
            "max": int(sizes.max()),
        },
        "spectra": {
            name: one.singular_values[:MOST_VALUES].tolist() for name, one in predictions.items()
        },
        "predicted": _predicted(folder),
        "maps": _maps(folder, table, predictions) if small else None,
    }
    write_signed(folder / SUMMARY, content)
    return folder / SUMMARY


def at_same_loss(path: pd.DataFrame, models: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the measures of the ridge path where its excess loss is that of each model.

    Directions approach their limit only with the logarithm of the regularisation, so a trained
    model is compared with the ridge solution of its own loss, beside the limit.

    Between two points of the path the logarithm of a measure is taken as linear in that of the
    excess loss (many are powers of the ridge, as the loss is); the measure itself, where it is not
    positive all along. Where a model's excess lies outside of the path's there is no prediction,
    NaN.

    Args:
        path: One line per point, with `ntp_excess` > 0 and the metrics; in any order.
        models: One line per checkpoint, with `ntp_excess`.
        metrics: Columns of the path to predict.

    Returns:
        The metrics, one line for each of `models`, with its index.
    """
    points = path.sort_values(EXCESS)
    known = np.log(points[EXCESS].to_numpy(dtype=float))
    wanted = np.log(models[EXCESS].to_numpy(dtype=float))
    predicted = {}
    for metric in metrics:
        values = points[metric].to_numpy(dtype=float)
        geometric = bool((values > 0).all())
        found = np.interp(
            wanted, known, np.log(values) if geometric else values, left=np.nan, right=np.nan
        )
        predicted[metric] = np.exp(found) if geometric else found
    return pd.DataFrame(predicted, index=models.index)


class SupportOrder(NamedTuple):
    """Permutations that cluster the rows and columns of a support matrix."""

    words: Int[np.ndarray, " V"]
    contexts: Int[np.ndarray, " M"]


def support_order(support: Bool[np.ndarray, "V M"]) -> SupportOrder:
    """Return the leaves of a hierarchical clustering, average linkage, of the centred supports.

    The distance of two contexts is one minus the cosine of their centred columns, so that equal
    supports stand together; words by their rows. A word that nothing or all precede, whose row has
    no direction, comes last.
    """
    centred = support - support.mean(axis=0)
    return SupportOrder(_leaves(centred), _leaves(centred.T))


def _leaves(vectors: Float[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
    norms = np.linalg.norm(vectors, axis=1)
    nonzero = np.flatnonzero(norms > 1e-12)
    others = np.flatnonzero(norms <= 1e-12)
    if len(nonzero) < 3:
        return np.concatenate([nonzero, others])
    unit = vectors[nonzero] / norms[nonzero, None]
    distances = np.maximum(1 - unit @ unit.T, 0)  # (N, N)
    pairs = distances[np.triu_indices(len(unit), k=1)]
    leaves = leaves_list(linkage(pairs, method="average", optimal_ordering=True))
    return np.concatenate([nonzero[leaves], others])


def _predicted(folder: Path) -> list[dict[str, Any]]:
    """Return what the ridge path predicts of each model at its own loss: run, step, metric, value.

    Nothing is predicted outside of the losses of the path, nor without a path.
    """
    results = folder / "results"
    files = sorted([*results.glob("*.jsonl"), *results.glob("*/*.jsonl")])
    if not files:
        return []
    rows = gather(files)
    of_path = rows["run"].str.endswith(PATH)
    if of_path.all() or not of_path.any():
        return []
    points, checkpoints = (
        own.pivot(index=["run", "step"], columns="metric", values="value")
        for own in (rows[of_path], rows[~of_path])
    )
    metrics = [str(name) for name in points if name in checkpoints and name != EXCESS]
    values = at_same_loss(points, checkpoints, metrics).reset_index()
    lines = values.melt(["run", "step"], var_name="metric")
    predicted: list[dict[str, Any]] = lines[np.isfinite(lines["value"])].to_dict("records")
    return predicted


def _maps(folder: Path, table: ContextTable, predictions: dict[str, Prediction]) -> dict[str, Any]:
    """Return cosines of contexts, cosines of words and logits, like supports beside each other."""
    order = support_order(table.support)
    factors = _models(folder / "runs") | {
        name: (one.classifier, one.embeddings) for name, one in predictions.items()
    }
    words = table.words or [str(token) for token in table.tokens]
    columns = []
    for title, (classifier, embeddings) in factors.items():
        rows = classifier[order.words]
        rows = rows - rows.mean(axis=0)  # changes no probability
        places = embeddings[order.contexts]
        logits = rows @ places.T
        columns.append(
            {
                "title": title,
                "contexts": _bytes(cosines_of_rows(places)),
                "words": _bytes(cosines_of_rows(rows)),
                "logits": _bytes(logits / max(float(np.abs(logits).max()), 1e-300)),
            }
        )
    return {
        "words": [words[token] for token in order.words],
        "contexts": [table.text(int(context)) for context in order.contexts],
        "columns": columns,
    }


def _models(folder: Path) -> dict[str, tuple[Float[np.ndarray, "V D"], Float[np.ndarray, "M D"]]]:
    """Return classifier and embeddings of the last checkpoints of the models that kept them."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    found = {}
    for file in files[-MOST_MODELS:]:
        last = load_model_checkpoints(file)[0][-1]
        found[file.stem] = last.classifier.astype(float), last.embeddings.astype(float)
    return found


def _bytes(matrix: Float[np.ndarray, "A B"]) -> str:
    """Return numbers in [-1, 1] as signed bytes in base 64, 127 being 1, row by row."""
    whole = np.rint(127 * matrix.clip(-1, 1)).astype(np.int8)
    return base64.b64encode(whole.tobytes()).decode()
