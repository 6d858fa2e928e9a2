"""The concepts of a context table, as files: what is on each side, clusters, and a model's share.

    ntp/NAME/concepts/<hash>/
        concepts.csv    the strongest tokens and contexts on each side of each concept
        clusters.csv    the most typical tokens and contexts of each orthant
        tokens.csv      every token's orthant and k-means cluster
        model.csv       the concepts in a model, checkpoint by checkpoint
        concepts.json   all settings and numbers

The folder's name is made of the settings and what they were read from; the same ones are not
worked out again.
"""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tightframe.errors import UserError
from tightframe.files import fingerprint, whole_folder
from tightframe.lm.hub import load_model
from tightframe.lm.runs import Run
from tightframe.lm.vocabulary import check_words
from tightframe.ntp.checks import Asked
from tightframe.ntp.concept_axes import (
    Cluster,
    Concepts,
    cluster_labels,
    concepts,
    orthant_clusters,
    sides,
    spectral_clusters,
)
from tightframe.ntp.concept_strength import align
from tightframe.ntp.embeddings import collect
from tightframe.ntp.learning import LearningOrder, order_of
from tightframe.ntp.proxies import proxy
from tightframe.ntp.storage import load_table, table_fingerprint
from tightframe.ntp.table import ContextTable
from tightframe.progress import tell
from tightframe.results import write_csv


def study_concepts(
    folder: Path, asked: Asked, *, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Work out the concepts of the proxy of a table; returns the folder that holds them."""
    table = load_table(folder)
    steps = _steps(asked.model)
    sources = [table_fingerprint(folder), steps, vars(asked)]
    out = folder / "concepts" / fingerprint(sources)
    if out.is_dir():
        say(f"{out}: made before")
        return out
    fewer = min(asked.n, table.vocab_size, table.n_contexts)
    try:
        found = concepts(proxy(table.soft_labels.support, fewer), fewer)
        chosen = range(min(found.n, int(np.log2(asked.clusters))))
        orthants = {
            "token": orthant_clusters(found.tokens, chosen),
            "context": orthant_clusters(found.contexts, chosen),
        }
        labels = spectral_clusters(found.classifier, asked.clusters, seed=asked.seed)
    except ValueError as error:  # a table that has no concepts, or fewer tokens than clusters
        raise UserError(f"{folder}: {error}") from None
    text = _texts(table)
    tables = {
        "concepts": sides_table(found, text, asked.words),
        "clusters": _clusters_table(orthants, text, asked.words),
        "tokens": _tokens_table(table, orthants["token"], labels),
    }
    facts: dict[str, Any] = {
        "version": version("tightframe"),
        "table": str(folder),
        "table_fingerprint": sources[0],
        **vars(asked),
        "kind": "proxy",
        "orthant_concepts": len(chosen),
        "singular_values": found.singular_values.tolist(),
    }
    if asked.model is not None:
        tables["model"], order = _in_model(found, table, folder, asked.model, steps, say)
        facts["learning_order"] = order and order.to_dict()
    with whole_folder(out) as temporary:
        for name, frame in tables.items():
            write_csv(temporary / f"{name}.csv", frame)
        facts |= {name: frame.to_dict("records") for name, frame in tables.items()}
        plain = json.loads(json.dumps(facts), parse_constant=lambda name: None)  # NaN is null
        (temporary / "concepts.json").write_text(json.dumps(plain) + "\n", encoding="utf-8")
    return out


def sides_table(found: Concepts, text: dict[str, Callable[[int], str]], words: int) -> pd.DataFrame:
    """The strongest tokens and contexts on each side of each concept, a line each."""
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
    """Yield the table of concepts for readers: a line a side, with blanks that can be seen."""
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
    """Each concept in a model, or in every checkpoint of a run; and the order of learning."""
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
    """Of the checkpoints of a run; None for a model that is no run."""
    if model is None or not (Path(model).expanduser() / "config.toml").is_file():
        return None
    run = Run.open(Path(model).expanduser())
    run.kept()  # refuses a run without any
    return run.steps


def _texts(table: ContextTable) -> dict[str, Callable[[int], str]]:
    names = table.words or tuple(map(str, table.tokens.tolist()))
    return {"token": lambda row: names[row], "context": table.text}
