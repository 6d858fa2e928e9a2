"""Which model answers a question, and how often that is the one that learned the fact."""

import dataclasses
from collections.abc import Iterable, Sequence
from math import nan
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import pydantic

from tightframe.errors import UserError
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.records import MASK, Fact
from tightframe.knowledge.scope import Scope

Rule: TypeAlias = Literal["most-probable", "lowest-index", "oracle"]
RULES: tuple[Rule, ...] = get_args(Rule)


class Asked(NamedTuple):
    """A question and the cluster that holds its fact; None for locality and outside facts."""

    question_id: str
    text: str
    cluster: int | None


@dataclasses.dataclass(frozen=True)
class Routing:
    """Where a question goes."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    question_id: str
    probabilities: tuple[Annotated[float, pydantic.Field(ge=0, le=1)], ...]  # of each cluster
    cluster: int | None  # None: the fallback model
    true_cluster: int | None  # None: the fact is in no cluster
    rule: Rule

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, keys in the order of the fields."""
        return dataclasses.asdict(self) | {"probabilities": list(self.probabilities)}


def asked_of(clusters: Clusters, outside: Iterable[Fact] = ()) -> list[Asked]:
    """All questions of the clusters' facts, then those of facts outside.

    Locality asks for older knowledge, which no cluster's model was trained on.
    """
    asked = [
        Asked(question.id, text_of(question.prompt), None if question.type == "locality" else own)
        for fact, own in zip(clusters.facts, clusters.assignments, strict=True)
        for question in fact.questions
    ]
    asked += [
        Asked(question.id, text_of(question.prompt), None)
        for fact in outside
        for question in fact.questions
    ]
    seen: set[str] = set()
    for one in asked:
        if one.question_id in seen:
            raise UserError(
                f"question {one.question_id} occurs twice; questions need ids of their own"
            )
        seen.add(one.question_id)
    return asked


def text_of(prompt: str) -> str:
    """What is classified of a prompt: the mask of a cloze is no word."""
    return prompt.replace(MASK, " ")


def choose(
    probabilities: Sequence[float], true_cluster: int | None, *, threshold: float, rule: Rule
) -> int | None:
    """The cluster whose model answers, None for the fallback model.

    A cluster is positive if its probability is above the threshold. `most-probable` takes the
    positive cluster of highest probability, `lowest-index` the first positive one (the published
    rule), `oracle` the true one: the upper bound, which no router can know.
    """
    if rule == "oracle":
        return true_cluster
    positive = [cluster for cluster, value in enumerate(probabilities) if value > threshold]
    if not positive:
        return None
    return positive[0] if rule == "lowest-index" else max(positive, key=lambda c: probabilities[c])


def route(scope: Scope, asked: Sequence[Asked], *, rule: Rule = "most-probable") -> list[Routing]:
    """Where each question goes, in their order, by the threshold of `scope`."""
    if not asked:
        raise UserError("no questions to route; `tightframe knowledge questions` makes them")
    rows = scope.probabilities([one.text for one in asked]).tolist()
    return [
        Routing(
            one.question_id,
            tuple(row),
            choose(row, one.cluster, threshold=scope.threshold, rule=rule),
            one.cluster,
            rule,
        )
        for one, row in zip(asked, rows, strict=True)
    ]


def reroute(routings: Iterable[Routing], *, threshold: float, rule: Rule) -> list[Routing]:
    """The same probabilities under another threshold or rule."""
    return [
        dataclasses.replace(
            one,
            cluster=choose(one.probabilities, one.true_cluster, threshold=threshold, rule=rule),
            rule=rule,
        )
        for one in routings
    ]


def confusion(routings: Sequence[Routing], k: int) -> list[list[int]]:
    """Questions by true cluster (rows) and chosen one (columns); the last of each is none."""
    counts = np.zeros((k + 1, k + 1), dtype=np.int64)
    for one in routings:
        row = k if one.true_cluster is None else one.true_cluster
        counts[row, k if one.cluster is None else one.cluster] += 1
    return [[int(n) for n in row] for row in counts]


def routing_report(routings: Sequence[Routing], clusters: Clusters) -> dict[str, Any]:
    """How well questions were routed; shares in [0, 1], NaN where there is nothing to share.

    Returns:
        confusion: See `confusion`.
        in_scope: `n`; `routed` to any cluster, `right` to their own.
        locality, outside: `n`; `accepted` by any cluster although none has learned them.
    """
    local = {
        question.id
        for fact in clusters.facts
        for question in fact.questions
        if question.type == "locality"
    }
    inside = [one for one in routings if one.true_cluster is not None]
    older = [one for one in routings if one.question_id in local]
    beyond = [one for one in routings if one.true_cluster is None and one.question_id not in local]
    return {
        "confusion": confusion(routings, clusters.k),
        "in_scope": {
            "n": len(inside),
            "routed": _share([one.cluster is not None for one in inside]),
            "right": _share([one.cluster == one.true_cluster for one in inside]),
        },
        "locality": {
            "n": len(older),
            "accepted": _share([one.cluster is not None for one in older]),
        },
        "outside": {
            "n": len(beyond),
            "accepted": _share([one.cluster is not None for one in beyond]),
        },
    }


def _share(values: list[bool]) -> float:
    return sum(values) / len(values) if values else nan
