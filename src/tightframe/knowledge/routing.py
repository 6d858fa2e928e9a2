"""Routing: which model answers a question, and how often that is the one that learned the fact.

Files of a folder with a scope classifier:

router.safetensors  a linear classifier; or
encoder/            a fine-tuned encoder, see `router.EncoderClassifier`
routing.jsonl       one `Routing` per question
router.json         what the classifier was made of, and how well it routes
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import Record, Sha256, read_signed
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.data_files import read_records, write_records, write_report
from tightframe.knowledge.facts import MASK, Fact
from tightframe.knowledge.options import RouterOptions, Rule
from tightframe.knowledge.router import (
    EncoderClassifier,
    EncoderSettings,
    LinearClassifier,
    Router,
    brier,
    calibrate_router,
    fit_encoder_router,
    fit_router,
    load_encoder_router,
    load_linear_router,
    outside_of,
    save_encoder_router,
    save_linear_router,
    threshold_for,
)
from tightframe.settings import as_dict

CLASSIFIER, ENCODER, ROUTING, REPORT = (
    *("router.safetensors", "encoder"),
    *("routing.jsonl", "router.json"),
)


class RoutedQuestion(NamedTuple):
    """A question and the cluster that holds its fact; None for locality and outside facts."""

    question_id: str
    text: str
    cluster: int | None


@dataclasses.dataclass(frozen=True)
class Routing:
    """Probabilities of the clusters for a question, and the cluster that was chosen."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    question_id: str
    probabilities: tuple[Annotated[float, pydantic.Field(ge=0, le=1)], ...]  # of each cluster
    cluster: int | None  # None: the fallback model
    true_cluster: int | None  # None: the fact is in no cluster
    rule: Rule

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in their order, as JSON takes them."""
        return dataclasses.asdict(self) | {"probabilities": list(self.probabilities)}


class TrainedRouter(NamedTuple):
    """A scope classifier, the routing of every question by it, and a report on both."""

    router: Router
    routings: list[Routing]
    report: dict[str, Any]


def routed_questions(clusters: Clusters, outside: Iterable[Fact] = ()) -> list[RoutedQuestion]:
    """Return all questions of the clusters' facts, then those of facts outside.

    Locality asks for older knowledge, which no cluster's model was trained on.
    """
    pairs: list[tuple[Fact, int | None]] = [
        *zip(clusters.facts, clusters.assignments, strict=True),
        *((fact, None) for fact in outside),
    ]
    questions = [
        RoutedQuestion(one.id, classified_text(one.prompt), None if one.type == "locality" else own)
        for fact, own in pairs
        for one in fact.questions
    ]
    for id, n in Counter(one.question_id for one in questions).items():
        if n > 1:
            raise UserError(f"question {id} occurs twice; questions need ids of their own")
    return questions


def classified_text(prompt: str) -> str:
    """Return what is classified of a prompt: the mask of a cloze is no word."""
    return prompt.replace(MASK, " ")


def choose(
    probabilities: Sequence[float], true_cluster: int | None, *, threshold: float, rule: Rule
) -> int | None:
    """Return the cluster whose model answers, None for the fallback model.

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
    router: Router, questions: Sequence[RoutedQuestion], *, rule: Rule = "most-probable"
) -> list[Routing]:
    """Route each question, in their order, by the threshold of `router`."""
    if not questions:
        raise UserError("no questions to route; `tightframe knowledge questions` makes them")
    rows = router.probabilities([one.text for one in questions]).tolist()
    routings = [
        Routing(one.question_id, tuple(row), None, one.cluster, rule)
        for one, row in zip(questions, rows, strict=True)
    ]
    return reroute(routings, threshold=router.threshold, rule=rule)


def reroute(routings: Iterable[Routing], *, threshold: float, rule: Rule) -> list[Routing]:
    """Choose clusters again, by the same probabilities under another threshold or rule."""
    return [
        dataclasses.replace(
            one,
            cluster=choose(one.probabilities, one.true_cluster, threshold=threshold, rule=rule),
            rule=rule,
        )
        for one in routings
    ]


def confusion(routings: Sequence[Routing], k: int) -> list[list[int]]:
    """Count questions by true cluster (rows) and chosen one (columns); the last of each is none."""
    counts = np.zeros((k + 1, k + 1), dtype=np.int64)
    for one in routings:
        row = k if one.true_cluster is None else one.true_cluster
        counts[row, k if one.cluster is None else one.cluster] += 1
    return [[int(n) for n in row] for row in counts]


def routing_report(routings: Sequence[Routing], clusters: Clusters) -> dict[str, Any]:
    """Return shares of rightly routed questions, in [0, 1], NaN over nothing.

    Returns:
        confusion: See `confusion`.
        in_scope: `n`; `routed` to any cluster, `right` to their own.
        locality, outside: `n`; `accepted` by any cluster although none has learned them.
    """
    questions = (question for fact in clusters.facts for question in fact.questions)
    local = {question.id for question in questions if question.type == "locality"}
    inside = [one for one in routings if one.true_cluster is not None]
    older = [one for one in routings if one.question_id in local]
    beyond = [one for one in routings if one.true_cluster is None and one.question_id not in local]

    def taken(chosen: list[Routing]) -> float:
        return _share([one.cluster is not None for one in chosen])

    right = _share([one.cluster == one.true_cluster for one in inside])
    return {
        "confusion": confusion(routings, clusters.k),
        "in_scope": {"n": len(inside), "routed": taken(inside), "right": right},
        "locality": {"n": len(older), "accepted": taken(older)},
        "outside": {"n": len(beyond), "accepted": taken(beyond)},
    }


def _share(values: list[bool]) -> float:
    return sum(values) / len(values) if values else nan


def train_router(
    clusters: Clusters,
    negatives: Sequence[Fact],
    outside: Sequence[Fact] = (),
    options: RouterOptions = RouterOptions(),  # noqa: B008
    *,
    encoder: EncoderSettings | None = None,
) -> TrainedRouter:
    """Train a scope classifier on statements, and route the questions of facts and of `outside`.

    Args:
        clusters: The injected facts.
        negatives: Facts outside; those that are injected after all are left out and counted.
        outside: More facts outside, to ask about: none should be routed to a cluster.
        options: Rule, threshold and calibration. Probabilities are calibrated on the questions of
            a share of the facts, and on a share of the negatives, which are then not trained on
            (their questions, or the statements themselves where they have none).
        encoder: Fine-tune this encoder, instead of training a linear classifier.

    Returns:
        report: `questions` and `statements`, each a `routing_report`; questions that served the
            calibration are not in it (but are routed). Statements were trained on, except those
            outside. `brier` before and after calibration, on the questions of the report.
    """
    asked = routed_questions(clusters, outside)
    used = outside_of(negatives, clusters)
    generator = np.random.default_rng(options.seed)
    facts_apart = _drawn(generator, clusters.facts, options.calibrate)
    negatives_apart = _drawn(generator, used, options.calibrate)
    trained = [fact for fact in used if fact.id not in negatives_apart]
    router, about_classifier = _fit(clusters, trained, encoder)
    every = (*clusters.facts, *outside)
    fact_of = {question.id: fact.id for fact in every for question in fact.questions}
    judged = [one for one in asked if fact_of[one.question_id] not in facts_apart]
    texts, truth = [one.text for one in judged], [one.cluster for one in judged]
    briers = {"brier_uncalibrated": brier(router, texts, truth)}
    threshold = options.threshold
    if options.calibrate:
        inside = [one for one in asked if fact_of[one.question_id] in facts_apart]
        beyond = [
            text
            for fact in used
            if fact.id in negatives_apart
            for text in [one.prompt for one in fact.questions] or [fact.fact]
        ]
        router = calibrate_router(
            router,
            [one.text for one in inside] + beyond,
            [one.cluster for one in inside] + [None] * len(beyond),
        )
        briers["brier"] = brier(router, texts, truth)
        if options.false_accepts is not None:
            threshold = threshold_for(router, beyond, false_accepts=options.false_accepts)
    router = dataclasses.replace(router, threshold=0.5 if threshold is None else threshold)
    routings = route(router, asked, rule=options.rule)
    kept = {one.question_id for one in judged}
    pairs = [*zip(clusters.facts, clusters.assignments, strict=True)]
    statements = [RoutedQuestion(fact.id, fact.fact, own) for fact, own in pairs]
    statements += [RoutedQuestion(fact.id, fact.fact, None) for fact in outside]
    report = {
        "k": clusters.k,
        "clusters": list(clusters.fingerprints),
        "classifier": about_classifier,
        "rule": options.rule,
        "threshold": router.threshold,
        "scale": router.scale,
        "shift": router.shift,
        "calibrated_on": len(facts_apart) + len(negatives_apart),
        "negatives": {"n": len(trained), "injected_left_out": len(negatives) - len(used)},
        **briers,
        "questions": routing_report([one for one in routings if one.question_id in kept], clusters),
        "statements": routing_report(route(router, statements, rule=options.rule), clusters),
    }
    return TrainedRouter(router, routings, report)


def _fit(
    clusters: Clusters, negatives: Sequence[Fact], encoder: EncoderSettings | None
) -> tuple[Router, dict[str, Any]]:
    """Return a trained classifier and the report on it."""
    if encoder is None:
        return fit_router(clusters, negatives), {"kind": "linear"}
    router = fit_encoder_router(clusters, negatives, encoder)
    assert isinstance(router.classifier, EncoderClassifier)
    losses = list(router.classifier.losses)
    return router, {"kind": "encoder", **as_dict(encoder), "losses": losses}


def _drawn(generator: np.random.Generator, facts: Sequence[Fact], share: float) -> set[str]:
    """Return the ids of a share of the facts, drawn at random; at least one, if any."""
    n = max(round(share * len(facts)), 1) if share else 0
    return {facts[row].id for row in generator.permutation(len(facts))[:n]}


def save_router(path: str | Path, trained: TrainedRouter) -> None:
    """Write a new folder with classifier, routings and report, whole or not at all."""
    with whole_folder(Path(path)) as folder:
        if isinstance(trained.router.classifier, LinearClassifier):
            save_linear_router(folder / CLASSIFIER, trained.router)
        else:
            save_encoder_router(folder / ENCODER, trained.router)
        write_records(folder / ROUTING, (one.to_dict() for one in trained.routings))
        write_report(folder / REPORT, trained.report | {"routing": sha256(folder / ROUTING)})


def load_router(path: str | Path) -> Router:
    """Load the classifier of a folder, whichever kind it is."""
    path = Path(path)
    if (path / ENCODER).is_dir():
        return load_encoder_router(path / ENCODER)
    if not (path / CLASSIFIER).is_file():
        raise UserError(
            f"{path}: holds neither {CLASSIFIER} nor {ENCODER}/; make a scope classifier with "
            "`tightframe knowledge router`"
        )
    return load_linear_router(path / CLASSIFIER)


class _ScopeReport(Record):
    """Fields of router.json that are read."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)
    clusters: tuple[str, ...]
    threshold: float
    routing: Sha256  # of routing.jsonl
    fingerprint: str


def load_routings(path: str | Path, clusters: Clusters) -> tuple[list[Routing], float]:
    """Load the routings of a folder and their threshold; refuse those of other clusters."""
    path = Path(path)
    file, again = path / ROUTING, "make the scope classifier again"
    if not (path / REPORT).is_file():
        raise UserError(
            f"{path}: holds no {REPORT}; make a scope classifier with `tightframe knowledge router`"
        )
    report: _ScopeReport = read_signed(path / REPORT, _ScopeReport, remedy=again)
    if report.clusters != clusters.fingerprints:
        raise UserError(
            f"{path}: its classifier was trained on clusters of other facts; run `tightframe "
            "knowledge router` on these"
        )
    routings: list[Routing] = read_records(
        file, Routing, what="the routing of a question", sha256=report.routing
    )
    for one in routings:
        own = {one.cluster, one.true_cluster} - {None}
        if len(one.probabilities) != clusters.k or not own <= set(range(clusters.k)):
            raise UserError(
                f"{file}: the routing of {one.question_id} is not one to {clusters.k} clusters; "
                f"{again}"
            )
    if len({one.question_id for one in routings}) < len(routings) or not routings:
        raise UserError(f"{file}: empty, or a question occurs twice; {again}")
    return routings, report.threshold
