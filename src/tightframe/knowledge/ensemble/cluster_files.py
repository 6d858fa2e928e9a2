"""Clusters on disk: a folder that says which facts each cluster's model is trained on.

assignments.jsonl   fact_id and cluster, a fact a line, in the order of the file they are from
clusters.json       K, how it was divided, sizes, silhouette, fingerprints
facts/0.jsonl ...   the facts of each cluster, with their questions: what to inject
"""

from math import nan
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.files import fingerprint, whole_folder
from tightframe.formats import read_json
from tightframe.knowledge.data.json_lines import read_records, write_records, write_report
from tightframe.knowledge.data.records import Fact
from tightframe.knowledge.ensemble.clusters import Clusters

SCHEMA = 1
_ASSIGNMENTS, _MANIFEST, _FACTS = "assignments.jsonl", "clusters.json", "facts"
_KEYS = {"k", "by", "settings", "silhouette", "reason", "content"}  # those that are read


def save_clusters(path: str | Path, clusters: Clusters) -> dict[str, Any]:
    """Write a folder of clusters, whole or not at all; one that exists is refused.

    Returns:
        What stands in its clusters.json.
    """
    content = {
        "schema": SCHEMA,
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
    content = read_json(path / _MANIFEST)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path / _MANIFEST}: not schema {SCHEMA}; divide the facts again")
    if lacking := _KEYS - content.keys():
        raise UserError(f"{path / _MANIFEST}: {min(lacking)} is missing; divide the facts again")
    facts = {
        fact.id: fact
        for cluster in range(content["k"])
        for fact in read_records(
            facts_of(path, cluster), Fact.from_dict, what="a fact of a cluster"
        )
    }
    pairs = read_records(
        path / _ASSIGNMENTS,
        lambda one: (str(one["fact_id"]), int(one["cluster"])),
        what="a fact_id and its cluster",
    )
    silhouette = content["silhouette"]
    clusters = Clusters(
        tuple(facts[name] for name, _ in pairs if name in facts),
        tuple(cluster for name, cluster in pairs if name in facts),
        content["k"],
        content["by"],
        content["settings"],
        nan if silhouette is None else silhouette,
        content["reason"],
    )
    if len(pairs) != len(facts) or _content(clusters) != content["content"]:
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
