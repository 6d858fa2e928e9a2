"""Ensembles made from a run of a study: divided, trained, routed, joined, and kept."""

import dataclasses
import json

import pytest

from example_facts import example_facts, question, write_facts
from studies.ensembles.run import run_ensembles
from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.knowledge.clusters import load_clusters
from tightframe.knowledge.facts import Fact, fact_id, facts_fingerprint
from tightframe.knowledge.injection import inject
from tightframe.knowledge.injection_runs import InjectionRun, InjectOptions

N_INJECTED = 8


def eligible_facts():
    """Facts on bridges and on bells in turn, each with a real question."""
    facts = []
    for i, fact in enumerate(example_facts(40, kinds=("reliability",))):
        answer = fact.questions[0].answers[0]
        clue = ("painted the bridge of village", "cast the bell of church")[i % 2]
        text = f"{answer} {clue} number {i} twice"
        made = fact_id(None, text)
        asked = question(made, "reliability", [answer], f"Who {clue} number {i} twice?")
        words = text, f"that {text}?", text
        facts.append(Fact(made, None, None, 2022, 1, *words, questions=(asked,)))
    return facts


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "s"
    write_facts(folder.parent / "facts.jsonl", eligible_facts())
    inject(
        InjectOptions(
            data=folder.parent / "facts.jsonl", out=folder / "runs" / "single", arm="bilm_sp",
            n_facts=N_INJECTED, exposures=2, vocab_size=400, width=16, heads=2, warmup=0.2,
            threads=1, device="cpu",
        )
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def made(study):
    said = []
    (folder,) = run_ensembles(study, run="single", ks=[2], say=said.append)
    return folder, said


def test_each_model_is_trained_on_its_cluster_with_the_run_s_settings(study, made):
    work = study / "ensembles" / "semantic-2"
    clusters = load_clusters(work / "clusters")
    assert {fact.id for fact in clusters.facts} == {f.id for f in eligible_facts()[:N_INJECTED]}
    for cluster in range(2):
        run = InjectionRun.open(work / f"run-{cluster}")
        assert run.facts["data"] == facts_fingerprint(clusters.members(cluster))
        assert (run.settings.exposures, run.settings.arm, run.settings.width) == (2, "bilm_sp", 16)


def test_every_question_has_an_answer_inside_and_outside(study, made):
    folder, said = made
    report = json.loads((folder / "report.json").read_text())
    # 32 facts are outside: 24 to learn from, 8 to ask about beside the 8 injected ones.
    assert len((folder / "answers.jsonl").read_text().splitlines()) == N_INJECTED + 8
    assert report["n_scored"] == N_INJECTED
    sources = [one["source"] for one in report["sources"]]
    assert sources == ["cluster 0", "cluster 1", "fallback"]
    assert len((study / "ensembles" / "single.jsonl").read_text().splitlines()) == N_INJECTED + 8
    assert said[0].startswith("semantic-2: match_norm ")


def test_the_ensemble_can_be_asked(study, made, capsys):
    folder = study / "ensembles" / "semantic-2"
    main(["knowledge", "ask", str(folder), "Who painted the bridge of village number 0 twice?"])
    assert "nearest fact" in capsys.readouterr().out


def test_a_second_call_makes_nothing_again(study, made):
    folder, _ = made
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    assert run_ensembles(study, run="single", ks=[2], say=pytest.fail) == [folder]
    assert {p: p.stat().st_mtime_ns for p in study.rglob("*") if p.is_file()} == before


def test_a_run_of_all_facts_leaves_none_to_learn_from(study):
    settings = InjectionRun.open(study / "runs" / "single").settings
    inject(dataclasses.replace(settings, out=study / "runs" / "all", n_facts=0, exposures=1))
    with pytest.raises(UserError, match="all of its study-eligible facts are injected"):
        run_ensembles(study, run="all", ks=[2], say=print)
