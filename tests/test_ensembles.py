"""One answer a question out of several models', and where it came from."""

import dataclasses
import json

import numpy as np
import pytest

from themed_examples import outside_facts, themed_facts, with_locality
from tightframe import cli
from tightframe.errors import UserError
from tightframe.knowledge import Output
from tightframe.knowledge.answers import (
    Answers,
    by_question,
    load_answers,
    read_outputs,
    save_answers,
)
from tightframe.knowledge.benchmark import write_facts
from tightframe.knowledge.clusters import semantic_clusters
from tightframe.knowledge.ensembles import assemble, merge, models_of, provenance
from tightframe.knowledge.facts import facts_fingerprint
from tightframe.knowledge.options import RouterOptions
from tightframe.knowledge.routing import Routing, reroute, train_router


def answers_of(name, facts, trained_on, right):
    """A model that knows `right` facts, and says its own name about the others."""
    outputs = [
        Output(
            question.id, fact.id, question.type, name,
            question.answers[0] if fact.id in right else f"{name} does not know", 0.0, "end",
        )
        for fact in facts
        for question in fact.questions
    ]  # fmt: skip
    return Answers(f"{name}.jsonl", name, trained_on, by_question(name, outputs))


def themed_ensemble(k=3):
    """Clusters, routings, a model a cluster (in another order) and a fallback; all can answer."""
    facts, _ = themed_facts()
    facts[0] = with_locality(facts[0])
    clusters = semantic_clusters(facts, k)
    outside = outside_facts(5, first=900)
    everything = [*facts, *outside]
    models = [
        answers_of(
            f"model-{cluster}",
            everything,
            clusters.fingerprints[cluster],
            {fact.id for fact in clusters.members(cluster)},
        )
        for cluster in range(k)
    ]
    fallback = answers_of("fallback", everything, None, {facts[0].id})
    routings = train_router(clusters, outside_facts(20), outside).routings
    return clusters, routings, models[::-1], fallback


def test_each_answer_is_of_the_model_that_learned_the_fact():
    clusters, routings, models, fallback = themed_ensemble()
    ensemble = assemble(routings, clusters, models, fallback)
    own = {fact.id: c for fact, c in zip(clusters.facts, clusters.assignments, strict=True)}
    for answered, routing in zip(ensemble.answers, routings, strict=True):
        output = answered.output
        assert output.question_id == routing.question_id
        cluster = None if output.type == "locality" else own.get(output.fact_id)
        assert output.model == ("fallback" if cluster is None else f"model-{cluster}")
    assert ensemble.report["score"] == ensemble.report["oracle_score"] == 100
    assert ensemble.report["n_scored"] == 37
    table = ensemble.report["sources"]
    assert [one["source"] for one in table] == ["cluster 0", "cluster 1", "cluster 2", "fallback"]
    assert [one["n"] for one in table] == [12, 12, 12, 6]
    assert sum(one["share"] for one in table) == pytest.approx(1)
    assert [one["score"] for one in table] == [100, 100, 100, 100]
    # The fallback answers 6, of which 5 are of facts outside and have no gold here.
    assert [one["n_scored"] for one in table] == [12, 12, 12, 1]
    assert table[3]["model"] == "fallback"


def test_perfect_routing_is_at_least_as_good_as_a_router():
    clusters, routings, models, fallback = themed_ensemble()
    # Two of 37 scored questions go astray, to models that do not know.
    wrong = [dataclasses.replace(one, cluster=(one.cluster + 1) % 3) for one in routings[2:4]]
    routings[2:4] = wrong
    report = assemble(routings, clusters, models, fallback).report
    assert report["oracle_score"] == 100
    assert report["score"] == pytest.approx(100 * 35 / 37)


def test_one_cluster_at_threshold_zero_is_the_single_model():
    clusters, routings, models, fallback = themed_ensemble(k=1)
    routings = reroute(routings, threshold=0.0, rule="most-probable")
    merged = merge(routings, models_of(clusters, models), fallback)
    assert [one.output for one in merged] == list(models[0].outputs.values())


def test_a_threshold_above_one_is_the_fallback():
    clusters, routings, models, fallback = themed_ensemble()
    routings = reroute(routings, threshold=1.01, rule="most-probable")
    merged = merge(routings, models_of(clusters, models), fallback)
    assert [one.output for one in merged] == list(fallback.outputs.values())
    assert all(np.isnan(one.probability) for one in merged)


def test_questions_of_one_text_keep_their_own_answers():
    facts, _ = themed_facts()
    same = "What is it?"
    facts = [
        dataclasses.replace(fact, questions=(dataclasses.replace(fact.questions[0], prompt=same),))
        for fact in facts
    ]
    clusters = semantic_clusters(facts, 1)
    models = [answers_of("one", facts, clusters.fingerprints[0], {fact.id for fact in facts})]
    routings = train_router(clusters, outside_facts(20), (), RouterOptions(threshold=0.0)).routings
    ensemble = assemble(routings, clusters, models, None)
    said = {one.output.fact_id: one.output.text for one in ensemble.answers}
    assert said == {fact.id: fact.questions[0].answers[0] for fact in facts}
    assert ensemble.report["score"] == 100


def test_a_model_trained_on_other_facts_is_refused():
    clusters, _, models, _ = themed_ensemble()
    strange = dataclasses.replace(models[0], trained_on=facts_fingerprint(clusters.facts))
    with pytest.raises(
        UserError, match=r"model-2.jsonl: model-2 was trained on facts .*no cluster"
    ):
        models_of(clusters, [strange])
    with pytest.raises(UserError, match=r"trained on facts \(none\)"):
        models_of(clusters, [dataclasses.replace(models[0], trained_on=None)])


def test_two_models_of_one_cluster_are_refused():
    clusters, _, models, _ = themed_ensemble()
    again = dataclasses.replace(models[0], name="again.jsonl")
    with pytest.raises(UserError, match=r"again.jsonl and model-2.jsonl are both of cluster 2"):
        models_of(clusters, [*models, again])


def test_a_routed_question_without_output_names_its_cluster():
    clusters, routings, models, fallback = themed_ensemble()
    first = next(one for one in routings if one.cluster == 1)
    left = {id: one for id, one in models[1].outputs.items() if id != first.question_id}
    models[1] = dataclasses.replace(models[1], outputs=left)
    with pytest.raises(
        UserError, match=rf"question {first.question_id} is routed to cluster 1 \(model-1.jsonl\)"
    ):
        assemble(routings, clusters, models, fallback)


def test_a_cluster_of_which_nothing_was_given_is_named():
    clusters, routings, models, fallback = themed_ensemble()
    with pytest.raises(UserError, match="routed to cluster 0, of which no outputs were given"):
        assemble(routings, clusters, models[:2], fallback)
    with pytest.raises(
        UserError, match="of which no outputs were given; give them with --fallback"
    ):
        assemble(routings, clusters, models, None)


def test_an_upper_bound_that_lacks_outputs_says_why():
    clusters, routings, models, _ = themed_ensemble()
    routings = reroute(routings, threshold=0.0, rule="most-probable")  # none to the fallback
    report = assemble(routings, clusters, models, None).report
    assert np.isnan(report["oracle_score"])
    assert "fallback model" in report["oracle_reason"]
    assert report["score"] > 0


def test_provenance_names_model_and_probability():
    output = Output("q", "f", "reliability", "m", "x", 0.0, "end")
    answers = Answers("m.jsonl", "m", "0", {"q": output})
    routing = Routing("q", (0.2, 0.7), 1, 0, "most-probable")
    found = provenance(merge([routing], {1: answers}, None))
    assert found == [{"question_id": "q", "source": 1, "model": "m", "probability": 0.7}]
    routing = dataclasses.replace(routing, cluster=None)
    found = provenance(merge([routing], {}, answers))
    assert found == [{"question_id": "q", "source": None, "model": "m", "probability": None}]


def test_answers_come_back_from_disk(tmp_path):
    _, _, models, fallback = themed_ensemble()
    for one in (models[0], fallback):
        path = tmp_path / one.name
        save_answers(path, one)
        assert load_answers(path) == dataclasses.replace(one, name=str(path))


def test_outputs_of_an_unknown_model_are_refused(tmp_path):
    _, _, models, _ = themed_ensemble()
    path = tmp_path / "a.jsonl"
    save_answers(path, models[0])
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"a.json: missing, so nobody can tell which facts"):
        load_answers(path)
    path.with_suffix(".json").write_text('{"model": "x"}')
    with pytest.raises(UserError, match=r"a.json: trained_on is missing; mend it, or answer again"):
        load_answers(path)
    path.with_suffix(".json").write_text('{"model": "x", "trained_on": null}')  # another program's
    assert load_answers(path).trained_on is None


def test_outputs_that_were_changed_since_are_refused(tmp_path):
    _, _, models, _ = themed_ensemble()
    path = tmp_path / "a.jsonl"
    save_answers(path, models[0])
    path.write_text(path.read_text().replace('"end"', '"length"', 1))
    with pytest.raises(UserError, match=r"a.jsonl: damaged or changed since it was written"):
        load_answers(path)


def test_a_question_answered_twice_is_refused():
    output = Output("q", "f", "reliability", "m", "x", 0.0, "end")
    with pytest.raises(UserError, match="a: two outputs for question q, expected one"):
        by_question("a", [output, output])


def run(capsys, *arguments):
    cli.app([str(one) for one in arguments])
    return capsys.readouterr().out


def test_commands_from_facts_to_an_ensemble(tmp_path, capsys):
    facts, _ = themed_facts()
    write_facts(tmp_path / "facts.jsonl", facts)
    write_facts(tmp_path / "negatives.jsonl", [*outside_facts(20), facts[0]])
    write_facts(tmp_path / "outside.jsonl", outside_facts(5, first=900))
    divided = json.loads(
        run(
            capsys, "knowledge", "cluster", tmp_path / "facts.jsonl", "--k", 3,
            "--out", tmp_path / "clusters", "--json",
        )
    )  # fmt: skip
    assert divided["sizes"] == [12, 12, 12]
    trained = run(
        capsys, "knowledge", "router", tmp_path / "clusters",
        "--negatives", tmp_path / "negatives.jsonl", "--outside", tmp_path / "outside.jsonl",
        "--out", tmp_path / "router",
    )  # fmt: skip
    assert "36 in scope: 100.0% routed, 100.0% right; 5 outside: 0.0% accepted" in trained
    everything = [*facts, *outside_facts(5, first=900)]
    for name, trained_on in enumerate([*divided["fingerprints"], None]):
        known = {fact.id for fact in facts} if trained_on else set()
        save_answers(
            tmp_path / f"{name}.jsonl", answers_of(f"m{name}", everything, trained_on, known)
        )
    found = json.loads(
        run(
            capsys, "knowledge", "ensemble", tmp_path / "router",
            "--clusters", tmp_path / "clusters",
            "--outputs", tmp_path / "2.jsonl", tmp_path / "0.jsonl", tmp_path / "1.jsonl",
            "--fallback", tmp_path / "3.jsonl", "--out", tmp_path / "ensemble", "--json",
        )
    )  # fmt: skip
    assert found["score"] == found["oracle_score"] == 100
    outputs = read_outputs(tmp_path / "ensemble" / "answers.jsonl")
    assert len(outputs) == 41
    lines = (tmp_path / "ensemble" / "provenance.jsonl").read_text().splitlines()
    assert [json.loads(line)["model"] for line in lines] == [one.model for one in outputs]
    shown = run(
        capsys, "knowledge", "ensemble", tmp_path / "router", "--clusters", tmp_path / "clusters",
        "--outputs", tmp_path / "0.jsonl", "--fallback", tmp_path / "3.jsonl",
        "--threshold", 1.5, "--out", tmp_path / "nothing",
    )  # fmt: skip
    assert "match_norm 0.00 over 36 questions" in shown


def test_the_same_commands_write_the_same_bytes(tmp_path, capsys):
    facts, _ = themed_facts()
    write_facts(tmp_path / "facts.jsonl", facts)
    write_facts(tmp_path / "negatives.jsonl", outside_facts(20))
    for name in ("one", "other"):
        run(
            capsys, "knowledge", "cluster", tmp_path / "facts.jsonl", "--k", 2, "--by", "time",
            "--whole-days", "--out", tmp_path / name / "clusters",
        )  # fmt: skip
        run(
            capsys, "knowledge", "router", tmp_path / name / "clusters",
            "--negatives", tmp_path / "negatives.jsonl", "--calibrate", 0.2,
            "--out", tmp_path / name / "router",
        )  # fmt: skip
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", 0], "K = 0: expected at least 1 cluster"),
        (["--k", 37], "K = 37: more clusters than facts (36)"),
        (["--k", 2, "--whole-days"], "--whole-days: needs --by time"),
        (["--k", 2, "--embedder", "./x"], "embedder ./x: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, capsys, options, message):
    write_facts(tmp_path / "facts.jsonl", themed_facts()[0])
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "knowledge", "cluster", str(tmp_path / "facts.jsonl"),
                "--out", str(tmp_path / "clusters"), *map(str, options),
            ]
        )  # fmt: skip
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["facts.jsonl"]
