"""Routing: which model answers a question, and how often that is the one that learned the fact.

scope.safetensors   the classifier, see `scope`; or
encoder/            a fine-tuned one, see `scope.EncoderClassifier`
routing.jsonl       a `Routing` a question
scope.json          what it was made of, and how well it routes
"""

import dataclasses
from collections.abc import Iterable, Sequence
from math import nan
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import pydantic

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import Record, Sha256, read_signed
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.facts import MASK, Fact, read_records, write_records, write_report
from tightframe.knowledge.scope import (
    EncoderClassifier,
    EncoderSettings,
    LinearClassifier,
    Scope,
    brier,
    calibrate_scope,
    fit_scope,
    fit_scope_encoder,
    load_scope,
    load_scope_encoder,
    outside_of,
    save_scope,
    save_scope_encoder,
    threshold_for,
)
from tightframe.settings import as_dict

Rule: TypeAlias = Literal["most-probable", "lowest-index", "oracle"]
RULES: tuple[Rule, ...] = get_args(Rule)


class RoutedQuestion(NamedTuple):
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


def routed_questions(clusters: Clusters, outside: Iterable[Fact] = ()) -> list[RoutedQuestion]:
    """All questions of the clusters' facts, then those of facts outside.

    Locality asks for older knowledge, which no cluster's model was trained on.
    """
    asked = [
        RoutedQuestion(
            question.id,
            classified_text(question.prompt),
            None if question.type == "locality" else own,
        )
        for fact, own in zip(clusters.facts, clusters.assignments, strict=True)
        for question in fact.questions
    ]
    asked += [
        RoutedQuestion(question.id, classified_text(question.prompt), None)
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


def classified_text(prompt: str) -> str:
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


def route(
    scope: Scope, asked: Sequence[RoutedQuestion], *, rule: Rule = "most-probable"
) -> list[Routing]:
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


_CLASSIFIER, _ROUTING, _REPORT = "scope.safetensors", "routing.jsonl", "scope.json"
_ENCODER = "encoder"


class Scoped(NamedTuple):
    """A scope classifier, where it sends every question, and how well."""

    scope: Scope
    routings: list[Routing]
    report: dict[str, Any]


def scope_clusters(
    clusters: Clusters,
    negatives: Sequence[Fact],
    outside: Sequence[Fact] = (),
    *,
    rule: Rule = "most-probable",
    threshold: float | None = None,
    calibrate: float = 0.0,
    false_accepts: float | None = None,
    seed: int = 0,
    encoder: EncoderSettings | None = None,
) -> Scoped:
    """Train a scope classifier on statements, and route the questions of facts and of `outside`.

    Args:
        clusters: The injected facts.
        negatives: Facts outside; those that are injected after all are left out and counted.
        outside: More facts outside, to ask about: none should be routed to a cluster.
        rule: See `routing.choose`.
        threshold: A cluster is positive above it; 0.5 if nothing is said.
        calibrate: Share of the facts, and of the negatives, that probabilities are calibrated on:
            these facts' questions, and these negatives, which are then not trained on (their
            questions, or the statements themselves where they have none).
        false_accepts: Calibrate the threshold too: the lowest that accepts at most this share of
            the negatives set apart.
        seed: Of the choice of what is set apart.
        encoder: Fine-tune this encoder, instead of training a linear classifier.

    Returns:
        report: `questions` and `statements`, each a `routing_report`; questions that served the
            calibration are not in it (but are routed). Statements were trained on, except those
            outside. `brier` before and after calibration, on the questions of the report.
    """
    _check(threshold, calibrate, false_accepts)
    asked = routed_questions(clusters, outside)
    used = outside_of(negatives, clusters)
    n_left_out = len(negatives) - len(used)
    generator = np.random.default_rng(seed)
    facts_apart = _apart(generator, clusters.facts, calibrate)
    negatives_apart = _apart(generator, used, calibrate)
    trained = [fact for fact in used if fact.id not in negatives_apart]
    scope, how = _fit(clusters, trained, encoder)
    own = {
        question.id: fact.id for fact in (*clusters.facts, *outside) for question in fact.questions
    }
    judged = [one for one in asked if own[one.question_id] not in facts_apart]
    texts, truth = [one.text for one in judged], [one.cluster for one in judged]
    briers = {"brier_uncalibrated": brier(scope, texts, truth)}
    if calibrate:
        inside = [one for one in asked if own[one.question_id] in facts_apart]
        beyond = _texts([fact for fact in used if fact.id in negatives_apart])
        scope = calibrate_scope(
            scope,
            [one.text for one in inside] + beyond,
            [one.cluster for one in inside] + [None] * len(beyond),
        )
        briers["brier"] = brier(scope, texts, truth)
        if false_accepts is not None:
            threshold = threshold_for(scope, beyond, false_accepts=false_accepts)
    scope = dataclasses.replace(scope, threshold=0.5 if threshold is None else threshold)
    routings = route(scope, asked, rule=rule)
    kept = {one.question_id for one in judged}
    report = {
        "k": clusters.k,
        "clusters": list(clusters.fingerprints),
        "classifier": how,
        "rule": rule,
        "threshold": scope.threshold,
        "scale": scope.scale,
        "shift": scope.shift,
        "calibrated_on": len(facts_apart) + len(negatives_apart),
        "negatives": {"n": len(trained), "injected_left_out": n_left_out},
        **briers,
        "questions": routing_report([one for one in routings if one.question_id in kept], clusters),
        "statements": routing_report(
            route(scope, _statements(clusters, outside), rule=rule), clusters
        ),
    }
    return Scoped(scope, routings, report)


def save_scoped(path: str | Path, scoped: Scoped) -> None:
    """Write the folder, whole or not at all; one that exists is refused."""
    with whole_folder(Path(path)) as folder:
        if isinstance(scoped.scope.classifier, LinearClassifier):
            save_scope(folder / _CLASSIFIER, scoped.scope)
        else:
            save_scope_encoder(folder / _ENCODER, scoped.scope)
        write_records(folder / _ROUTING, (one.to_dict() for one in scoped.routings))
        routing = {"routing": sha256(folder / _ROUTING)}
        write_report(folder / _REPORT, scoped.report | routing)


def load_scoped(path: str | Path) -> Scope:
    """The classifier of a folder, whichever it is."""
    path = Path(path)
    if (path / _ENCODER).is_dir():
        return load_scope_encoder(path / _ENCODER)
    if not (path / _CLASSIFIER).is_file():
        raise UserError(
            f"{path}: holds neither {_CLASSIFIER} nor {_ENCODER}/; make a scope classifier with "
            "`tightframe knowledge scope`"
        )
    return load_scope(path / _CLASSIFIER)


def load_routings(path: str | Path, clusters: Clusters) -> tuple[list[Routing], float]:
    """The routings of a folder and their threshold; those of other clusters are refused."""
    path = Path(path)
    if not (path / _REPORT).is_file():
        raise UserError(
            f"{path}: holds no {_REPORT}; make a scope classifier with `tightframe knowledge scope`"
        )
    report: _Report = read_signed(path / _REPORT, _Report, remedy="make the classifier again")
    if report.clusters != clusters.fingerprints:
        raise UserError(
            f"{path}: its classifier was trained on clusters of other facts; run `tightframe "
            "knowledge scope` on these"
        )

    routings: list[Routing] = read_records(
        path / _ROUTING, Routing, what="the routing of a question", sha256=report.routing
    )
    for one in routings:
        own = {one.cluster, one.true_cluster} - {None}
        if len(one.probabilities) != clusters.k or not own <= set(range(clusters.k)):
            raise UserError(
                f"{path / _ROUTING}: the routing of {one.question_id} is not one to "
                f"{clusters.k} clusters; make the scope classifier again"
            )
    if len({one.question_id for one in routings}) < len(routings) or not routings:
        raise UserError(
            f"{path / _ROUTING}: empty, or a question occurs twice; make the scope classifier again"
        )
    return routings, report.threshold


class _Report(Record):
    """What is read of scope.json."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)
    clusters: tuple[str, ...]
    threshold: float
    routing: Sha256  # of routing.jsonl
    fingerprint: str


def _fit(
    clusters: Clusters, negatives: Sequence[Fact], encoder: EncoderSettings | None
) -> tuple[Scope, dict[str, Any]]:
    """A classifier, and what it is."""
    if encoder is None:
        return fit_scope(clusters, negatives), {"kind": "linear"}
    scope = fit_scope_encoder(clusters, negatives, encoder)
    assert isinstance(scope.classifier, EncoderClassifier)
    return scope, {
        "kind": "encoder",
        **as_dict(encoder),
        "losses": list(scope.classifier.losses),
    }


def _check(threshold: float | None, calibrate: float, false_accepts: float | None) -> None:
    if not 0 <= calibrate < 1:
        raise UserError(f"calibrate = {calibrate:g}: expected a share in [0, 1)")
    if false_accepts is None:
        return
    if not 0 <= false_accepts <= 1:
        raise UserError(f"false accepts = {false_accepts:g}: expected a share in [0, 1]")
    if not calibrate:
        raise UserError("a share of false accepts needs facts to calibrate on; set calibrate too")
    if threshold is not None:
        raise UserError("a threshold and a share of false accepts: give one, the other follows")


def _apart(generator: np.random.Generator, facts: Sequence[Fact], share: float) -> set[str]:
    """Ids of a share of the facts, drawn at random; at least one, if any."""
    n = max(round(share * len(facts)), 1) if share else 0
    return {facts[row].id for row in generator.permutation(len(facts))[:n]}


def _texts(facts: Sequence[Fact]) -> list[str]:
    questions = {fact.id: [one.prompt for one in fact.questions] for fact in facts}
    return [text for fact in facts for text in questions[fact.id] or [fact.fact]]


def _statements(clusters: Clusters, outside: Sequence[Fact]) -> list[RoutedQuestion]:
    pairs = zip(clusters.facts, clusters.assignments, strict=True)
    inside = [RoutedQuestion(fact.id, fact.fact, cluster) for fact, cluster in pairs]
    return inside + [RoutedQuestion(fact.id, fact.fact, None) for fact in outside]
