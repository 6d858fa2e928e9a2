"""One answer a question out of many models': each from the model that the question was routed to.

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
from tightframe.knowledge.facts import Output, write_records, write_report
from tightframe.knowledge.routing import Routing, reroute, routing_report
from tightframe.knowledge.scores import score_answer


class Answered(NamedTuple):
    """An answer, and where it came from."""

    output: Output
    source: int | None  # cluster; None is the fallback model
    probability: float  # of that cluster; NaN for the fallback model


class Ensemble(NamedTuple):
    """The answers of several models, one a question, and what they are worth."""

    answers: list[Answered]
    report: dict[str, Any]


def models_of(clusters: Clusters, answers: Sequence[Answers]) -> dict[int, Answers]:
    """The answers of each cluster's model, told by the facts that the model was trained on.

    Raises:
        UserError: A model was trained on other facts than any cluster's, or two on the same.
    """
    of_facts = {name: cluster for cluster, name in enumerate(clusters.fingerprints)}
    found: dict[int, Answers] = {}
    for one in answers:
        cluster = of_facts.get(one.trained_on or "")
        if cluster is None:
            raise UserError(
                f"{one.name}: {one.model} was trained on facts {one.trained_on or '(none)'}, which "
                f"are no cluster's ({', '.join(clusters.fingerprints)}); train it on the facts of "
                "a cluster, or give it as the fallback"
            )
        if cluster in found:
            raise UserError(
                f"{one.name} and {found[cluster].name} are both of cluster {cluster}; give one"
            )
        found[cluster] = one
    return found


def merge(
    routings: Sequence[Routing], models: Mapping[int, Answers], fallback: Answers | None
) -> list[Answered]:
    """For each routed question the answer of the chosen model, in the order of the routings.

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
) -> Ensemble:
    """Join the answers, and say how right they are, and how right perfect routing would be.

    Questions of facts outside the clusters have no gold answer here: they are routed and counted,
    not scored. Scores are `match_norm` in percent, NaN where nothing was scored.

    Args:
        routings: Of every question, see `routing`.
        clusters: The injected facts, with their questions.
        answers: Of the clusters' models, in any order.
        fallback: Of the model for what is routed to no cluster.

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
        scored = sum(one.output.question_id in gold for one in own)
        model = fallback if cluster is None else models.get(cluster)
        sources.append(
            {
                "source": "fallback" if cluster is None else f"cluster {cluster}",
                "model": model.model if model else None,
                "n": len(own),
                "share": len(own) / len(merged),
                "n_scored": scored,
                "score": _score(own, gold),
            }
        )
    report = {
        "score": _score(merged, gold),
        **_oracle([one for one in routings if one.question_id in gold], models, fallback, gold),
        "n_scored": sum(one.output.question_id in gold for one in merged),
        "sources": sources,
        "routing": routing_report(routings, clusters),
    }
    return Ensemble(merged, report)


def provenance(merged: Sequence[Answered]) -> list[dict[str, Any]]:
    """Where each answer came from, a record a question."""
    return [
        {
            "question_id": one.output.question_id,
            "source": one.source,
            "model": one.output.model,
            "probability": one.probability if one.source is not None else None,
        }
        for one in merged
    ]


def save_ensemble(path: str | Path, ensemble: Ensemble) -> None:
    """Write the folder, whole or not at all; one that exists is refused.

    answers.jsonl (an `Output` a line), provenance.jsonl (see `provenance`), report.json.
    """
    with whole_folder(Path(path)) as folder:
        outputs = (dataclasses.asdict(one.output) for one in ensemble.answers)
        write_records(folder / "answers.jsonl", outputs)
        write_records(folder / "provenance.jsonl", provenance(ensemble.answers))
        answers = {"answers": sha256(folder / "answers.jsonl")}
        write_report(folder / "report.json", dict(ensemble.report) | answers)


def _oracle(
    routings: Sequence[Routing],
    models: Mapping[int, Answers],
    fallback: Answers | None,
    gold: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    try:
        merged = merge(reroute(routings, threshold=nan, rule="oracle"), models, fallback)
    except UserError as error:  # an answer that the upper bound alone needs
        return {"oracle_score": nan, "oracle_reason": str(error)}
    return {"oracle_score": _score(merged, gold)}


def _score(answered: Sequence[Answered], gold: Mapping[str, Sequence[str]]) -> float:
    right = [
        score_answer(gold[one.output.question_id], one.output.text).match_norm
        for one in answered
        if one.output.question_id in gold
    ]
    return 100 * sum(right) / len(right) if right else nan
