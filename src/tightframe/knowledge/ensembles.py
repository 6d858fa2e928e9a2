"""Ensembles: one answer per question, from the model that the question was routed to.

Everything is joined by question id, and a model belongs to the cluster whose facts it was trained
on: there is no list of paths that could be in the wrong order.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.knowledge.answers import Answers
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.data_files import write_records, write_report
from tightframe.knowledge.facts import Output
from tightframe.knowledge.routing import Routing, reroute, routing_report
from tightframe.knowledge.scores import score_answer


class Answered(NamedTuple):
    """An answer, and where it came from."""

    output: Output
    source: int | None  # cluster; None is the fallback model
    probability: float  # of that cluster; NaN for the fallback model


class JoinedAnswers(NamedTuple):
    """Answers of several models, one per question, and their scores."""

    answers: list[Answered]
    report: dict[str, Any]


def models_of(clusters: Clusters, answers: Sequence[Answers]) -> dict[int, Answers]:
    """Return the answers of each cluster's model, by the facts that the model was trained on.

    Raises:
        UserError: A model was trained on other facts than any cluster's, or two on the same.
    """
    cluster_of = {fingerprint: cluster for cluster, fingerprint in enumerate(clusters.fingerprints)}
    models: dict[int, Answers] = {}
    for one in answers:
        cluster = cluster_of.get(one.trained_on or "")
        if cluster is None:
            raise UserError(
                f"{one.name}: {one.model} was trained on facts {one.trained_on or '(none)'}, which "
                f"are no cluster's ({', '.join(clusters.fingerprints)}); train it on the facts of "
                "a cluster, or give it as the fallback"
            )
        if cluster in models:
            raise UserError(
                f"{one.name} and {models[cluster].name} are both of cluster {cluster}; give one"
            )
        models[cluster] = one
    return models


def merge(
    routings: Sequence[Routing], models: Mapping[int, Answers], fallback: Answers | None
) -> list[Answered]:
    """Return for each routed question the answer of the chosen model, in the same order.

    Raises:
        UserError: A question was routed to a model without an output for it.
    """
    merged = []
    for one in routings:
        answers = fallback if one.cluster is None else models.get(one.cluster)
        output = answers.outputs.get(one.question_id) if answers else None
        if output is None:
            who = "the fallback model" if one.cluster is None else f"cluster {one.cluster}"
            give = "--fallback" if one.cluster is None else "--outputs"
            lacks = (
                f" ({answers.name}), which has no output for it; ask every model every question"
                if answers
                else f", of which no outputs were given; give them with {give}"
            )
            raise UserError(f"question {one.question_id} is routed to {who}{lacks}")
        probability = nan if one.cluster is None else one.probabilities[one.cluster]
        merged.append(Answered(output, one.cluster, probability))
    return merged


def assemble(
    routings: Sequence[Routing],
    clusters: Clusters,
    answers: Sequence[Answers],
    fallback: Answers | None,
) -> JoinedAnswers:
    """Join the answers and score them, also as if every question had been routed perfectly.

    Questions of facts outside the clusters have no gold answer here: they are routed and counted,
    not scored. Scores are `match_norm` in percent, NaN where nothing was scored.

    Args:
        routings: Routings of every question, see `routing`.
        clusters: The injected facts, with their questions.
        answers: Answers of the clusters' models, in any order.
        fallback: Answers of the model for what is routed to no cluster.

    Returns:
        answers: See `merge`.
        report: `score` and `oracle_score` (and, if NaN, `oracle_reason`) over the `n_scored`
            questions of the clusters' facts; `sources`, for each cluster and the fallback its
            model, `n` and `share` of all answers, and the score of the `n_scored` with gold; and
            `routing`, see `routing_report`.
    """
    models = models_of(clusters, answers)
    gold = {question.id: question.answers for fact in clusters.facts for question in fact.questions}
    merged = merge(routings, models, fallback)
    sources = []
    for cluster in (*range(clusters.k), None):
        own = [one for one in merged if one.source == cluster]
        model = fallback if cluster is None else models.get(cluster)
        sources.append(
            {
                "source": "fallback" if cluster is None else f"cluster {cluster}",
                "model": model.model if model else None,
                "n": len(own),
                "share": len(own) / len(merged),
                "n_scored": sum(one.output.question_id in gold for one in own),
                "score": _score(own, gold),
            }
        )
    report: dict[str, Any] = {"score": _score(merged, gold)}
    inside = [one for one in routings if one.question_id in gold]
    try:
        perfect = merge(reroute(inside, threshold=nan, rule="oracle"), models, fallback)
        report["oracle_score"] = _score(perfect, gold)
    except UserError as error:  # an answer that the upper bound alone needs
        report |= {"oracle_score": nan, "oracle_reason": str(error)}
    report |= {
        "n_scored": sum(one.output.question_id in gold for one in merged),
        "sources": sources,
        "routing": routing_report(routings, clusters),
    }
    return JoinedAnswers(merged, report)


def provenance(merged: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return where each answer came from, one record per question."""
    return [
        {
            "question_id": one.output.question_id,
            "source": one.source,
            "model": one.output.model,
            "probability": one.probability if one.source is not None else None,
        }
        for one in merged
    ]


def save_ensemble(path: str | Path, joined: JoinedAnswers) -> None:
    """Write a new folder, whole or not at all.

    It holds answers.jsonl (one `Output` per line), provenance.jsonl (see `provenance`) and
    report.json.
    """
    with whole_folder(Path(path)) as folder:
        outputs = (dataclasses.asdict(one.output) for one in joined.answers)
        write_records(folder / "answers.jsonl", outputs)
        write_records(folder / "provenance.jsonl", provenance(joined.answers))
        answers = {"answers": sha256(folder / "answers.jsonl")}
        write_report(folder / "report.json", dict(joined.report) | answers)


def _score(answered: Sequence[Answered], gold: Mapping[str, Sequence[str]]) -> float:
    right = [
        score_answer(gold[one.output.question_id], one.output.text).match_norm
        for one in answered
        if one.output.question_id in gold
    ]
    return 100 * sum(right) / len(right) if right else nan
