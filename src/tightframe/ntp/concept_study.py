"""The concepts of a context table, as files, and the order in which they are learned.

    ntp/NAME/concepts/<hash>/
        concepts.csv    the strongest tokens and contexts on each side of each concept
        clusters.csv    the most typical tokens and contexts of each orthant
        tokens.csv      every token's orthant and k-means cluster
        model.csv       the concepts in a model, checkpoint by checkpoint
        concepts.json   all settings and numbers

The folder's name is made of the settings and their inputs; the same ones are not computed again.

Concepts of larger singular values are learned first: provably in a surrogate (factors that fit the
centred support by squared loss), and in a model as far as its checkpoints show it.

Axes: V tokens, M contexts, K concepts, T times or checkpoints.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Real
from scipy.stats import spearmanr

from tightframe.errors import UserError
from tightframe.files import fingerprint, strict_json, whole_folder
from tightframe.lm.load import check_words, load_model
from tightframe.lm.runs import Run
from tightframe.ntp.concepts import (
    Cluster,
    Concepts,
    align,
    cluster_labels,
    concept_strengths,
    concepts,
    orthant_clusters,
    sides,
    spectral_clusters,
)
from tightframe.ntp.model import collect
from tightframe.ntp.options import ConceptOptions
from tightframe.ntp.prediction import proxy
from tightframe.ntp.table import ContextTable, load_table, table_fingerprint
from tightframe.progress import tell
from tightframe.results import write_csv


@dataclasses.dataclass(frozen=True, eq=False)
class LearningOrder:
    """Times at which concepts were learned.

    Attributes:
        times: Steps of the checkpoints, or times of a flow.
        singular_values: Singular values of the concepts.
        strengths: u' L_t v / s at each checkpoint.
        half_times: Times when each reached half of its final value, by linear interpolation between
            checkpoints; the first time if it was there already, NaN if it ends at 0 or below.
        spearman: Rank correlation of singular values with half times, in [-1, 1]; -1 if larger
            ones are learned first. NaN with fewer than two concepts, or without order in one.
        n: Number of concepts with a half time; the others are left out of `spearman`.
    """

    times: Float[np.ndarray, " T"]
    singular_values: Float[np.ndarray, " K"]
    strengths: Float[np.ndarray, "T K"]
    half_times: Float[np.ndarray, " K"]
    spearman: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as lists and numbers."""
        fields = dataclasses.fields(self)
        values = {field.name: getattr(self, field.name) for field in fields}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def learning_order(
    concepts: Concepts,
    times: Sequence[float | int] | Real[np.ndarray, " T"],
    checkpoints: Sequence[tuple[Float[np.ndarray, "V D"], Float[np.ndarray, "M D"]]],
) -> LearningOrder:
    """Return when each concept was learned, from the classifier and embeddings of checkpoints.

    Args:
        concepts: Predicted ones, the same for all checkpoints.
        times: Times of the checkpoints, ascending, for instance steps.
        checkpoints: Classifier (V, D) and embeddings (M, D) of each.
    """
    at = np.asarray(times, dtype=np.float64)
    if len(at) != len(checkpoints) or len(at) < 2 or (np.diff(at) <= 0).any():
        raise ValueError(
            f"times: expected two or more, ascending, one for each of {len(checkpoints)} "
            f"checkpoints, got {len(at)}"
        )
    strengths = np.stack([concept_strengths(concepts, *pair) for pair in checkpoints])
    return order_of(concepts.singular_values, at, strengths)


def order_of(
    singular_values: Float[np.ndarray, " K"],
    times: Float[np.ndarray, " T"],
    strengths: Float[np.ndarray, "T K"],
) -> LearningOrder:
    """Return when each concept was learned, from its strengths at ascending times."""
    rounding = 1e-12 * np.abs(strengths).max(initial=0)
    halves = np.array([_half_time(times, course, rounding) for course in strengths.T])
    known = np.isfinite(halves)
    s, t = singular_values[known], halves[known]
    ordered = len(s) > 1 and np.ptp(s) > 0 and np.ptp(t) > 0
    correlation = float(spearmanr(s, t).statistic) if ordered else float("nan")
    return LearningOrder(times, singular_values, strengths, halves, correlation, int(known.sum()))


def _half_time(
    times: Float[np.ndarray, " T"], course: Float[np.ndarray, " T"], rounding: float
) -> float:
    """Return when a course first reaches half of its last value, if that is more than rounding."""
    half = course[-1] / 2
    if not half > rounding:
        return float("nan")
    after = int(np.argmax(course >= half))
    if after == 0:
        return float(times[0])
    share = (half - course[after - 1]) / (course[after] - course[after - 1])
    return float(times[after - 1] + share * (times[after] - times[after - 1]))


def study_concepts(
    folder: Path, options: ConceptOptions, *, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Compute the concepts of the proxy of a table, and return the folder that holds them."""
    table = load_table(folder)
    steps = _steps(options.model)
    sources = [table_fingerprint(folder), steps, vars(options)]
    out = folder / "concepts" / fingerprint(sources)
    if out.is_dir():
        say(f"{out}: made before")
        return out
    fewer = min(options.n, table.vocab_size, table.n_contexts)
    try:
        found = concepts(proxy(table.soft_labels.support, fewer), fewer)
        chosen = range(min(found.n, int(np.log2(options.clusters))))
        orthants = {
            "token": orthant_clusters(found.tokens, chosen),
            "context": orthant_clusters(found.contexts, chosen),
        }
        labels = spectral_clusters(found.classifier, options.clusters, seed=options.seed)
    except ValueError as error:  # a table that has no concepts, or fewer tokens than clusters
        raise UserError(f"{folder}: {error}") from None
    text = _texts(table)
    tables = {
        "concepts": sides_table(found, text, options.words),
        "clusters": _clusters_table(orthants, text, options.words),
        "tokens": _tokens_table(table, orthants["token"], labels),
    }
    facts: dict[str, Any] = {
        "version": version("tightframe"),
        "table": str(folder),
        "table_fingerprint": sources[0],
        **vars(options),
        "kind": "proxy",
        "orthant_concepts": len(chosen),
        "singular_values": found.singular_values.tolist(),
    }
    if options.model is not None:
        tables["model"], order = _in_model(found, table, folder, options.model, steps, say)
        facts["learning_order"] = order and order.to_dict()
    with whole_folder(out) as temporary:
        for name, frame in tables.items():
            write_csv(temporary / f"{name}.csv", frame)
        facts |= {name: frame.to_dict("records") for name, frame in tables.items()}
        content = json.dumps(strict_json(facts))
        (temporary / "concepts.json").write_text(content + "\n", encoding="utf-8")
    return out


def sides_table(found: Concepts, text: dict[str, Callable[[int], str]], words: int) -> pd.DataFrame:
    """Return the strongest tokens and contexts on each side of each concept, one per row."""
    lines = []
    for number in range(found.n):
        for what, vectors in (("token", found.tokens), ("context", found.contexts)):
            vector = vectors[:, number]
            for sign, rows in zip("+-", sides(vector, words), strict=True):
                for rank, row in enumerate(rows.tolist(), start=1):
                    lines.append(
                        {
                            "concept": number + 1,
                            "singular_value": found.singular_values[number],
                            "what": what,
                            "side": sign,
                            "rank": rank,
                            "row": row,
                            "text": text[what](row),
                            "strength": abs(float(vector[row])),
                        }
                    )
    return pd.DataFrame(lines)


def readable(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the table of concepts for readers: one line per side, with blanks that can be seen."""
    for (concept, value), lines in frame.groupby(["concept", "singular_value"], sort=True):
        yield f"{concept}  singular value {value:.6g}"
        for (what, side), some in lines.groupby(["what", "side"], sort=False):
            yield f"   {side} {what}s: {' | '.join(map(_with_ends, some['text']))}"


def _with_ends(text: str) -> str:
    """Return a text whose blanks at its ends can be seen."""
    inner = text.strip(" ")
    box, start = "\N{OPEN BOX}", len(text) - len(text.lstrip(" "))
    return box * start + inner + box * (len(text) - start - len(inner))


def _clusters_table(
    orthants: dict[str, list[Cluster]], text: dict[str, Callable[[int], str]], words: int
) -> pd.DataFrame:
    lines = []
    for what, clusters in orthants.items():
        for number, cluster in enumerate(clusters):
            signs = "".join("+" if sign > 0 else "-" for sign in cluster.signs)
            members = zip(cluster.members.tolist(), cluster.typicality.tolist(), strict=True)
            for rank, (row, typicality) in enumerate(list(members)[:words], start=1):
                lines.append(
                    {
                        "what": what,
                        "cluster": number,
                        "signs": signs,
                        "size": len(cluster.members),
                        "rank": rank,
                        "row": row,
                        "text": text[what](row),
                        "typicality": typicality,
                    }
                )
    return pd.DataFrame(lines)


def _tokens_table(table: ContextTable, orthants: list[Cluster], labels: Any) -> pd.DataFrame:
    text = _texts(table)["token"]
    return pd.DataFrame(
        {
            "row": np.arange(table.vocab_size),
            "token": table.tokens,
            "text": [text(row) for row in range(table.vocab_size)],
            "orthant": cluster_labels(orthants, table.vocab_size),
            "kmeans": labels,
        }
    )


def _in_model(
    found: Concepts,
    table: ContextTable,
    folder: Path,
    model: str,
    steps: list[int] | None,
    say: Callable[[str], None],
) -> tuple[pd.DataFrame, LearningOrder | None]:
    """Return each concept in a model, at every checkpoint of a run, and the order of learning."""
    check_words(model, table.tokens.tolist(), table.words, what=str(folder))
    lines, strengths = [], []
    for step in [None] if steps is None else steps:
        if step is not None:
            say(f"{model}: step {step}")
        made = collect(
            load_model(model, step=step),
            table,
            progress=lambda done, total: tell("contexts", done / total, done),
        )
        try:
            inside = align(found, made.classifier, made.embeddings)
        except ValueError as error:
            raise UserError(f"{model}: {error}") from None
        strengths.append(inside.strengths)
        for number in range(found.n):
            lines.append(
                {
                    "step": -1 if step is None else step,
                    "concept": number + 1,
                    "strength": inside.strengths[number],
                    "token_cosine": inside.token_cosines[number],
                    "context_cosine": inside.context_cosines[number],
                }
            )
    order = None
    if steps is not None and len(steps) > 1:
        times = np.array(steps, dtype=np.float64)
        order = order_of(found.singular_values, times, np.stack(strengths))
    return pd.DataFrame(lines), order


def _steps(model: str | None) -> list[int] | None:
    """Return the steps of a run's checkpoints; None for a model that is no run."""
    if model is None or not (Path(model).expanduser() / "config.toml").is_file():
        return None
    run = Run.open(Path(model).expanduser())
    run.kept()  # refuses a run without any
    return run.steps


def _texts(table: ContextTable) -> dict[str, Callable[[int], str]]:
    names = table.words or tuple(map(str, table.tokens.tolist()))
    return {"token": lambda row: names[row], "context": table.text}
