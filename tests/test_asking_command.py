"""`knowledge ask`: runs and ensembles from disk, asked one question."""

import json
import shutil

import numpy as np
import pytest
import transformers

from themed_examples import outside_facts, themed_facts
from tightframe import cli
from tightframe.errors import UserError, printable
from tightframe.knowledge.benchmark import read_facts, write_facts
from tightframe.knowledge.clusters import save_clusters, semantic_clusters
from tightframe.knowledge.facts import facts_fingerprint
from tightframe.knowledge.injection import inject, load_qa_model
from tightframe.knowledge.injection_runs import InjectOptions, facts_digest
from tightframe.knowledge.model_handles import open_model
from tightframe.knowledge.qa_models import Prompt
from tightframe.knowledge.routing import save_router, train_router
from tightframe.lm.runs import log_text
from tightframe.settings import read_toml
from tiny_encoders import save_encoder

SMALL = {
    "vocab_size": 300, "width": 32, "depth": 1, "heads": 2, "positions": 160, "exposures": 20,
    "warmup": 0.2, "batch": 8, "learning_rate": 4e-3, "device": "cpu", "threads": 1,
}  # fmt: skip


def learned(data, out, arm="bilm_sp", **settings):
    inject(InjectOptions(data=data, out=out, arm=arm, **SMALL | settings))
    return out


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Clusters of a few facts, a run of each, one of all, and a router."""
    folder = tmp_path_factory.mktemp("study")
    facts, _ = themed_facts(2)
    clusters = semantic_clusters(facts, 2)
    save_clusters(folder / "clusters", clusters)
    save_router(folder / "router", train_router(clusters, outside_facts(20)))
    for cluster in range(2):
        data = folder / "clusters" / "facts" / f"{cluster}.jsonl"
        learned(data, folder / f"run {cluster}")
    write_facts(folder / "facts.jsonl", facts)
    learned(folder / "facts.jsonl", folder / "all", "clm_ntp", exposures=5)
    manifest = 'router = "router"\nruns = ["run 1", "run 0"]\nfallback = "all"\n'
    (folder / "ensemble.toml").write_text(manifest)
    return folder, clusters


def ask(capsys, *words):
    cli.main(["knowledge", "ask", *map(str, words)])
    return capsys.readouterr().out


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["knowledge", "ask", *map(str, words)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_run_answers_with_its_own_probability(study, capsys):
    folder, clusters = study
    run = folder / "run 0"
    fact = clusters.members(0)[0]
    name = fact.questions[0].answers[0]
    cloze = fact.fact.replace(name, "[MASK]")
    found = json.loads(ask(capsys, run, cloze, "--json", "--device", "cpu"))
    learner = load_qa_model(run, device="cpu")
    prompt = Prompt("cloze", cloze)
    assert found["answer"] == learner.answer([prompt])[0].text
    ((expected,),) = learner.log_probabilities([prompt], [[found["answer"]]])
    assert found["probability"] == pytest.approx(np.exp(expected), rel=1e-12)
    assert found["nearest_fact"]["fact_id"] == fact.id
    assert (found["model"], found["routing"], found["others"]) == (str(run), None, [])


def test_an_ensemble_asks_the_run_that_learned_the_fact(study, capsys):
    folder, clusters = study
    for cluster in range(2):
        fact = clusters.members(cluster)[0]
        found = json.loads(ask(capsys, folder, fact.fact, "--json"))
        assert found["routing"]["cluster"] == found["cluster"] == cluster
        assert found["model"] == str(folder / f"run {cluster}")
        assert found["nearest_fact"]["fact_id"] == fact.id
        assert found["asked"]["form"] == "cloze"
    everything = json.loads(ask(capsys, folder / "ensemble.toml", fact.fact, "--all", "--json"))
    names = [one["model"] for one in everything["others"]]
    assert names == [str(folder / "run 0"), str(folder / "all")]
    assert everything["others"][1]["asked"]["form"] == "continuation"
    assert everything["others"][1]["probability"] is None
    assert everything["others"][1]["reason"] == "it was trained on next tokens alone"


def test_a_panel_is_written_from_a_scope_and_runs_and_can_be_moved_with_them(
    study, capsys, tmp_path, monkeypatch
):
    folder, clusters = study
    whole = tmp_path / "a" / "whole"
    shutil.copytree(folder, whole)
    monkeypatch.chdir(whole)
    command = ["knowledge", "panel", "router", "--out", "panel", "--fallback", "all", "--json"]
    command += ["--rule", "lowest-index", "--threshold", "0.4", "--runs", "run 1", "run 0"]
    cli.main(command)
    path = whole / "panel" / "ensemble.toml"
    assert json.loads(capsys.readouterr().out)["ensemble"] == "panel/ensemble.toml"
    assert read_toml(path) == {
        "router": "../router",
        "runs": ["../run 1", "../run 0"],
        "fallback": "../all",
        "rule": "lowest-index",
        "threshold": 0.4,
    }
    monkeypatch.chdir(tmp_path)
    whole.rename(tmp_path / "moved")
    panel = open_model(tmp_path / "moved" / "panel")
    assert panel.fallback.name.endswith("all")
    for cluster in range(2):
        assert facts_fingerprint(panel.models[cluster].facts) == clusters.fingerprints[cluster]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["run 0"], "no model of cluster 1; each of the 2 clusters needs one"),
        (["run 0", "run 0"], "are both of cluster 0; name one"),
        (["run 0", "all"], "which are no cluster's"),
        (["run 0", "nowhere"], "nowhere"),
    ],
)
def test_a_panel_of_what_does_not_belong_together_is_not_written(
    study, capsys, tmp_path, runs, message
):
    folder, _ = study
    paths = [str(folder / run) for run in runs]
    command = ["knowledge", "panel", str(folder / "router"), "--out", str(tmp_path / "p")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--runs", *paths])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "p").exists()


def test_a_panel_that_exists_is_kept(study, capsys):
    folder, _ = study
    before = (folder / "ensemble.toml").read_bytes()
    command = ["knowledge", "panel", str(folder / "router"), "--out", str(folder), "--runs"]
    with pytest.raises(SystemExit):
        cli.main([*command, str(folder / "run 0"), str(folder / "run 1")])
    assert "ensemble.toml: already exists; remove it or choose" in capsys.readouterr().err
    assert (folder / "ensemble.toml").read_bytes() == before


def test_a_model_of_transformers_is_asked_the_question_itself(study, capsys, tmp_path):
    folder, clusters = study
    texts = [fact.fact for fact in clusters.facts]
    words = save_encoder(tmp_path / "bert", texts, "bert", positions=60)
    config = transformers.BertConfig.from_pretrained(words)
    transformers.BertForMaskedLM(config).save_pretrained(words)
    learned(folder / "facts.jsonl", tmp_path / "run", arm="", model=str(words), exposures=2)
    question = "Which painter sold a watercolour?"
    found = json.loads(ask(capsys, tmp_path / "run", question, "--json", "--device", "cpu"))
    assert found["asked"] == {"form": "question", "text": question, "template": "plain"}
    assert 0 < found["probability"] <= 1 or found["reason"]
    # The same model before any injection, as a fallback.
    (folder / "hub.toml").write_text(
        f'router = "router"\nruns = ["run 1", "run 0"]\nfallback = "{words}"\nthreshold = 1.0\n'
    )
    found = json.loads(ask(capsys, folder / "hub.toml", question, "--json", "--device", "cpu"))
    assert (found["model"], found["cluster"]) == (str(words), None)
    assert found["asked"] == {"form": "question", "text": question, "template": "plain"}
    assert found["nearest_fact"] is None
    mask = "the painter [MASK] sold a watercolour"
    found = json.loads(ask(capsys, tmp_path / "run", mask, "--json", "--device", "cpu"))
    assert found["asked"] == {"form": "cloze", "text": mask, "template": "plain"}


def test_the_lines_for_readers(study, capsys):
    folder, clusters = study
    fact = clusters.members(1)[0]
    shown = ask(capsys, folder, fact.questions[0].prompt, "--all").splitlines()
    assert [line[:14].strip() for line in shown[:7]] == [
        "answer", "model", "how sure", "asked as", "nearest fact", "note", "clusters",
    ]  # fmt: skip
    assert shown[1].endswith("run 1, cluster 1")
    assert "that it says exactly this" in shown[2] or "no probability" in shown[2]
    assert shown[2].endswith("that its cluster knows")
    assert "[MASK]" in shown[3]
    assert shown[4].endswith(f"{fact.id}: {fact.fact}")
    assert f"has read {len(clusters.members(1))} sentences" in shown[5]
    assert shown[6].endswith("above 0.5 counts, most-probable")
    assert shown[7] == ""
    assert shown[-5].endswith("all, the fallback")


def test_no_stranger_s_text_reaches_a_terminal_raw(study, capsys, tmp_path):
    assert printable("a\x1b[31mb\u202ec\né") == "a\\x1b[31mb\\u202ec\\né"
    folder, _ = study
    shutil.copytree(folder / "run 0", tmp_path / "run")
    facts = tmp_path / "run" / "facts.jsonl"
    first, rest = facts.read_text().split("\n", 1)
    record = json.loads(first)
    record["fact"] = "\x1b[2J\x1b]0;owned\x07 the zebra"
    facts.write_text(json.dumps(record) + "\n" + rest)
    log = tmp_path / "run" / "log.jsonl"
    with pytest.raises(SystemExit):  # changed by hand: other facts than the run's
        ask(capsys, tmp_path / "run", "Where is the zebra?")
    assert "facts.jsonl: not the facts and questions that this run" in capsys.readouterr().err
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[0]["facts"] = facts_digest(read_facts(facts))
    for line in lines:
        del line["fingerprint"]
    log.write_text(log_text(lines))
    shown = ask(capsys, tmp_path / "run", "Where is the \x1b[31m zebra?")
    assert "zebra" in shown
    assert "\\x1b[2J" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\x1b" not in ask(capsys, tmp_path / "run", "Where is the zebra?", "--json")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('router = "router"\nruns = ["run 0"]\n', "no model of cluster 1; each of the 2 clusters"),
        ('router = "router"\nruns = ["run 0", "run 0"]\n', "are both of cluster 0; name one"),
        ('router = "router"\nruns = ["run 0", "all"]\n', "which are no cluster's"),
        ('router = "router"\nruns = ["run 0", "none"]\n', "none: no such run directory"),
        (
            'router = "router"\nruns = ["run 0", "run 1"]\nfallback = "./x"\n',
            "expected a run or a model as fallback",
        ),
        ('router = "clusters"\nruns = []\n', "holds neither router.safetensors nor encoder/"),
        ('router = "router"\nrun = []\n', "unknown setting 'run'; did you mean 'runs'?"),
        ('router = "router"\nruns = []\nrule = "oracle"\n', "setting 'rule' is 'oracle'"),
        ("router = ", "not TOML"),
    ],
)
def test_an_ensemble_that_does_not_fit_is_one_line(study, capsys, manifest, message):
    folder, _ = study
    (folder / "other.toml").write_text(manifest)
    error = refused(capsys, folder / "other.toml", "Who?")
    assert message in error
    assert "other.toml" in error or "clusters" in error


def test_a_gpu_that_is_not_there_is_one_line(study, capsys, monkeypatch):
    folder, _ = study
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch finds no GPU here; set device=cpu" in refused(
        capsys, folder / "run 0", "Who?", "--device", "cuda"
    )


def test_what_is_no_model_is_one_line(study, capsys, tmp_path):
    assert "no such file or folder; expected a run" in refused(capsys, tmp_path / "x", "Who?")
    assert "is neither; expected a run" in refused(capsys, tmp_path, "Who?")
    folder, _ = study
    assert "the question is empty" in refused(capsys, folder / "run 0", " ")
    assert "has 2 [MASK]" in refused(capsys, folder / "run 0", "[MASK] and [MASK]")
    shutil.copytree(folder / "run 0", tmp_path / "half")
    log = (tmp_path / "half" / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half" / "log.jsonl").write_text("".join(log[:-1]))
    assert "has not come to its end" in refused(capsys, tmp_path / "half", "Who?")
    (tmp_path / "config.toml").write_text('tokens = "t"\nout = "o"\n')
    with pytest.raises(UserError, match="unknown setting 'tokens'"):
        open_model(tmp_path)
