"""Clusters on disk: a folder that says which facts each cluster's model is trained on.

assignments.jsonl   fact_id and cluster, a fact a line, in the order of the file they are from
clusters.json       K, how it was divided, sizes, silhouette, fingerprints
facts/0.jsonl ...   the facts of each cluster, with their questions: what to inject
"""

from math import nan
from pathlib import Path
from typing import Any, Literal

from tightframe.errors import UserError
from tightframe.files import fingerprint, whole_folder
from tightframe.formats import Count, Positive, Record, read_signed
from tightframe.knowledge.data.json_lines import read_records, write_records, write_report
from tightframe.knowledge.data.records import Fact
from tightframe.knowledge.ensemble.clusters import Clusters

_ASSIGNMENTS, _MANIFEST, _FACTS = "assignments.jsonl", "clusters.json", "facts"


class _Manifest(Record):
    """What clusters.json holds."""

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
    """Write a folder of clusters, whole or not at all; one that exists is refused.

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
    """The inverse of `save_clusters`; a folder that was changed since is refused."""
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
    """The file of a cluster's facts: what its model is to be trained on."""
    return Path(path) / _FACTS / f"{cluster}.jsonl"


def _content(clusters: Clusters) -> str:
    """Changes with any fact, question or assignment."""
    facts = [fact.to_dict() for fact in clusters.facts]
    return fingerprint([facts, list(clusters.assignments), list(clusters.fingerprints)])
