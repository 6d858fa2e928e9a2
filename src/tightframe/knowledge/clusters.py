"""Facts divided among K models, by what they are about or by when they appeared; their files.

Axes: F facts, D embedding, K clusters.
"""

import dataclasses
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from tightframe.errors import UserError
from tightframe.files import fingerprint, whole_folder
from tightframe.formats import Count, Positive, Record, read_signed
from tightframe.knowledge.data_files import read_records, write_records, write_report
from tightframe.knowledge.embedders import LEXICAL, dimensions, lexical_embeddings, model_embeddings
from tightframe.knowledge.facts import Fact, facts_fingerprint
from tightframe.knowledge.options import ClusterOptions


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Facts, each in one of K clusters; a model is trained on the facts of each."""

    facts: tuple[Fact, ...]
    assignments: tuple[int, ...]  # cluster of each fact
    k: int
    by: Literal["semantic", "time"]
    settings: dict[str, Any]  # what else decided: embedder and seed, or whole_days
    silhouette: float = nan  # in [-1, 1], of the facts' embeddings; higher is better separated
    reason: str = ""  # why there is no silhouette

    def members(self, cluster: int) -> tuple[Fact, ...]:
        """Return the facts of a cluster, in the order of the file."""
        pairs = zip(self.facts, self.assignments, strict=True)
        return tuple(fact for fact, own in pairs if own == cluster)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of facts in each cluster."""
        return tuple(np.bincount(self.assignments, minlength=self.k).tolist())

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprint of the facts of each cluster, which its model must have been trained on."""
        return tuple(facts_fingerprint(self.members(cluster)) for cluster in range(self.k))


def cluster_facts(facts: Sequence[Fact], k: int, options: ClusterOptions) -> Clusters:
    """Cluster facts by content or by time, as the options say."""
    settings: dict[str, Any] = {"embedder": options.embedder, "seed": options.seed}
    if options.by == "time":
        return temporal_clusters(facts, k, whole_days=options.whole_days, **settings)
    return semantic_clusters(facts, k, **settings)


def semantic_clusters(
    facts: Sequence[Fact], k: int, *, embedder: str = LEXICAL, seed: int = 0
) -> Clusters:
    """Cluster facts by content: a Gaussian mixture with full covariances.

    Args:
        facts: Facts to divide.
        k: Number of clusters; 1 divides nothing.
        embedder: `tf-idf` (no model needed), or an encoder by folder or hub name (see
            `embedders.model_embeddings`).
        seed: Seed of the singular directions and of the mixture's start.

    Raises:
        UserError: K is no number of clusters for these facts, or a cluster stayed empty.
    """
    _check(facts, k)
    embeddings = _embeddings(facts, k, embedder, seed)
    assignments = np.zeros(len(facts), dtype=np.int64) if k == 1 else _mixture(embeddings, k, seed)
    sizes = np.bincount(assignments, minlength=k)
    if not sizes.all():
        raise UserError(
            f"K = {k}: cluster {int(sizes.argmin())} has no fact, so no model can be trained for "
            "it; choose a smaller K or another seed"
        )
    return Clusters(
        tuple(facts),
        tuple(assignments.tolist()),
        k,
        "semantic",
        {"embedder": embedder, "seed": seed},
        *_silhouette(embeddings, assignments),
    )


def temporal_clusters(
    facts: Sequence[Fact],
    k: int,
    *,
    whole_days: bool = False,
    embedder: str = LEXICAL,
    seed: int = 0,
) -> Clusters:
    """Cluster facts by the time when they appeared, in the order of (date, id).

    Each has F // K facts, and of the remainder the last clusters take one more each; the paper
    gives all of it to the very last. With `whole_days` each boundary moves to the nearest change
    of day (the earlier of two), so that sizes differ and no day is divided.

    The embeddings serve the silhouette alone: how well content separates the periods.
    """
    _check(facts, k)
    undated = [fact.id for fact in facts if fact.date is None]
    if undated:
        raise UserError(
            f"{len(undated):,} of {len(facts):,} facts have no date (the first is {undated[0]}); "
            "temporal clusters need them, semantic ones do not"
        )
    order = sorted(range(len(facts)), key=lambda row: (facts[row].date or "", facts[row].id))
    size, remainder = divmod(len(facts), k)
    starts = [size * c + max(0, c - (k - remainder)) for c in range(1, k)]
    if whole_days:
        starts = _changes_of_day([facts[row].date or "" for row in order], starts)
    assignments = np.zeros(len(facts), dtype=np.int64)
    assignments[order] = np.searchsorted(starts, np.arange(len(facts)), side="right")
    return Clusters(
        tuple(facts),
        tuple(assignments.tolist()),
        k,
        "time",
        {"whole_days": whole_days, "embedder": embedder, "seed": seed},
        *_silhouette(_embeddings(facts, k, embedder, seed), assignments),
    )


def _check(facts: Sequence[Fact], k: int) -> None:
    if k < 1:
        raise UserError(f"K = {k}: expected at least 1 cluster")
    if k > len(facts):
        raise UserError(f"K = {k}: more clusters than facts ({len(facts):,}); choose a smaller K")
    if len({fact.id for fact in facts}) < len(facts):
        raise UserError("two facts have one id; `tightframe knowledge validate` lists them")


def _embeddings(facts: Sequence[Fact], k: int, embedder: str, seed: int) -> Any:
    texts = [fact.fact for fact in facts]
    if embedder == LEXICAL:
        return lexical_embeddings(texts, dim=dimensions(len(texts), k), seed=seed)
    return model_embeddings(texts, embedder)


def _mixture(embeddings: Float[np.ndarray, "F D"], k: int, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(k, covariance_type="full", max_iter=1000, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct texts than clusters: reported by the caller, who counts the facts of each.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit_predict(embeddings)


def _silhouette(embeddings: Float[np.ndarray, "F D"], assignments: Any) -> tuple[float, str]:
    from sklearn.metrics import silhouette_score

    k = len(np.unique(assignments))
    if k == 1:
        return nan, "one cluster"
    if k == len(assignments):
        return nan, "each fact is a cluster of its own"
    return float(silhouette_score(embeddings, assignments)), ""


def _changes_of_day(days: list[str], starts: list[int]) -> list[int]:
    """Move each start to the nearest change of day, in order, leaving one for each that follows."""
    changes = [row for row in range(1, len(days)) if days[row] != days[row - 1]]
    if len(changes) < len(starts):
        raise UserError(
            f"{len(starts) + 1} clusters of whole days, but the facts are of {len(changes) + 1} "
            "days; choose a smaller K, or divide days"
        )
    moved: list[int] = []
    first = 0  # the changes before it are taken
    for nth, start in enumerate(starts):
        last = len(changes) - (len(starts) - nth)  # the others are for those that follow
        after = min(max(bisect_left(changes, start), first), last)
        before = max(after - 1, first)
        nearest = min((before, after), key=lambda at: abs(changes[at] - start))
        moved.append(changes[nearest])
        first = nearest + 1
    return moved


_ASSIGNMENTS, _MANIFEST, _FACTS = "assignments.jsonl", "clusters.json", "facts"


class _Manifest(Record):
    """Content of clusters.json."""

    k: Positive
    by: Literal["semantic", "time"]
    settings: dict[str, Any]
    sizes: tuple[Count, ...]
    silhouette: float | None
    reason: str
    fingerprints: tuple[str, ...]
    content: str  # of facts and assignments
    fingerprint: str


class _Assignment(Record):
    """The cluster of a fact."""

    fact_id: str
    cluster: Count


def save_clusters(path: str | Path, clusters: Clusters) -> dict[str, Any]:
    """Write a new folder of clusters, whole or not at all.

    Returns:
        What stands in its clusters.json.
    """
    content = {
        "k": clusters.k,
        "by": clusters.by,
        "settings": clusters.settings,
        "sizes": list(clusters.sizes),
        "silhouette": clusters.silhouette,
        "reason": clusters.reason,
        "fingerprints": list(clusters.fingerprints),
        "content": _content(clusters),
    }
    with whole_folder(Path(path)) as folder:
        pairs = zip(clusters.facts, clusters.assignments, strict=True)
        write_records(
            folder / _ASSIGNMENTS, ({"fact_id": fact.id, "cluster": own} for fact, own in pairs)
        )
        for cluster in range(clusters.k):
            members = (fact.to_dict() for fact in clusters.members(cluster))
            write_records(facts_of(folder, cluster), members)
        write_report(folder / _MANIFEST, content)
    return content


def load_clusters(path: str | Path) -> Clusters:
    """Load what `save_clusters` wrote; refuse a folder that was changed since."""
    path = Path(path)
    if not (path / _MANIFEST).is_file():
        raise UserError(
            f"{path}: holds no {_MANIFEST}; divide facts with `tightframe knowledge cluster`"
        )
    about: _Manifest = read_signed(path / _MANIFEST, _Manifest, remedy="divide the facts again")
    if not path.joinpath(_FACTS).is_dir() or about.k != len(about.sizes):
        raise UserError(f"{path}: {about.k} clusters of {len(about.sizes)} sizes, or no {_FACTS}/")
    facts = {
        fact.id: fact
        for cluster in range(about.k)
        for fact in read_records(facts_of(path, cluster), Fact, what="a fact of a cluster")
    }
    pairs = read_records(path / _ASSIGNMENTS, _Assignment, what="a fact_id and its cluster")
    known = [one for one in pairs if one.fact_id in facts and one.cluster < about.k]
    clusters = Clusters(
        tuple(facts[one.fact_id] for one in known),
        tuple(one.cluster for one in known),
        about.k,
        about.by,
        about.settings,
        nan if about.silhouette is None else about.silhouette,
        about.reason,
    )
    if len(pairs) != len(facts) or _content(clusters) != about.content:
        raise UserError(
            f"{path}: its facts or assignments were changed; divide the facts again, and train the "
            "models of the clusters that changed"
        )
    return clusters


def facts_of(path: str | Path, cluster: int) -> Path:
    """Return the file of a cluster's facts, which its model is to be trained on."""
    return Path(path) / _FACTS / f"{cluster}.jsonl"


def _content(clusters: Clusters) -> str:
    """Return a fingerprint that changes with any fact, question or assignment."""
    facts = [fact.to_dict() for fact in clusters.facts]
    return fingerprint([facts, list(clusters.assignments), list(clusters.fingerprints)])
