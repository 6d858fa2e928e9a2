"""Files of the knowledge room, damaged or changed at random, as in `test_fuzz_files`."""

import pytest

from example_facts import example_facts, example_outputs
from example_study import example_run
from test_ensembles import themed_ensemble
from test_fuzz_files import tried
from themed_examples import outside_facts
from tightframe.errors import UserError
from tightframe.knowledge.answers import Answers, by_question, load_answers, save_answers
from tightframe.knowledge.benchmark import load_benchmark, write_facts
from tightframe.knowledge.clusters import load_clusters, save_clusters, semantic_clusters
from tightframe.knowledge.ensembles import assemble, save_ensemble
from tightframe.knowledge.injection import inject, load_qa_model
from tightframe.knowledge.injection_runs import InjectionRun, InjectOptions
from tightframe.knowledge.model_handles import open_model
from tightframe.knowledge.ranking import load_ranks
from tightframe.knowledge.routing import load_router, load_routings, save_router, train_router
from tightframe.knowledge.score_tables import read_outputs
from tightframe.knowledge.study import collect, read_verdicts
from tightframe.report.knowledge_folder import read_study
from tightframe.settings import write_toml

SMALL = {
    "vocab_size": 300, "width": 8, "depth": 1, "heads": 1, "positions": 160, "exposures": 2,
    "device": "cpu", "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One tiny artefact of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    facts = example_facts(6)
    write_facts(folder / "facts.jsonl", facts)
    outputs = example_outputs(facts, lambda i, question: f"no {i}")
    (folder / "said").mkdir()
    answers = Answers("", "m", None, by_question("", outputs))
    save_answers(folder / "said" / "answers.jsonl", answers)
    for arm in ("clm_sp", "bilm_sp"):
        example_run(folder / "study", arm)
    write_toml(folder / "study" / "study.toml", {"data": "facts.jsonl", "rule": {}})
    collect(folder / "study")
    clusters, routings, models, fallback = themed_ensemble(2)
    ensemble = assemble(routings, clusters, models, fallback)
    save_ensemble(folder / "study" / "ensemble" / "two", ensemble)
    inject(InjectOptions(data=folder / "facts.jsonl", out=folder / "run", arm="bilm_sp", **SMALL))
    clusters = semantic_clusters(clusters.facts[:6], 2)
    save_clusters(folder / "panel" / "clusters", clusters)
    save_router(folder / "panel" / "router", train_router(clusters, outside_facts(8)))
    for cluster in range(2):
        data = folder / "panel" / "clusters" / "facts" / f"{cluster}.jsonl"
        inject(InjectOptions(data=data, out=folder / "panel" / str(cluster), arm="clm_sp", **SMALL))
    (folder / "panel" / "ensemble.toml").write_text('router = "router"\nruns = ["0", "1"]\n')
    return folder


def of_answers(folder):
    return vars(load_answers(folder / "answers.jsonl")) | {"name": ""}


def of_network(folder):
    run = InjectionRun.open(folder)
    if not run.finished:
        raise UserError("asked only when it has come to its end")
    learner = load_qa_model(folder, device="cpu")
    about = [learner.name, learner.layout, learner.objective, learner.n_slots]
    said = [learner.tokenizer.tokenizer.to_str(), learner.module.state_dict()]
    return [run.settings, run.facts, run.injected, about, said]


def of_router(folder):
    clusters = load_clusters(folder / "clusters")
    router = load_router(folder / "router")
    return [
        vars(clusters),
        router.probabilities([fact.fact for fact in clusters.facts]),
        load_routings(folder / "router", clusters),
    ]


def of_study(folder):
    found = read_study(folder)
    tables = (found.scores, found.runs, found.asked, found.differences, found.questions)
    written = [table.to_csv() for table in tables]
    return [
        *written,
        found.settings,
        found.verdicts,
        found.ensembles,
        read_verdicts(folder / "results"),
    ]


def checked(read):
    """A reader of what people write: another value may be taken, but nothing else goes wrong."""

    def read_only(path):
        read(path)

    return read_only


# Reader, the artefact, the files of it that are harmed.
KINDS = {
    "outputs": (of_answers, "said", "*"),
    "ranks": (load_ranks, "study/runs/bilm_sp*/ranks.jsonl", ""),
    "clusters": (lambda path: vars(load_clusters(path)), "panel/clusters", "**/*"),
    "router": (of_router, "panel", "router/*"),
    "network": (of_network, "run", "**/*"),
    "study": (of_study, "study", "results/[!t]*"),
    "study's settings": (of_study, "study", "*.toml"),
    "ensemble": (of_study, "study", "ensemble/two/[ar]*"),
    "facts": (checked(load_benchmark), "facts.jsonl", ""),
    "outputs of others": (checked(read_outputs), "said/answers.jsonl", ""),
    "panel": (checked(lambda path: open_model(path, device="cpu")), "panel", "*/*.*"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_harmed_file_is_refused_or_changes_nothing(whole, tmp_path, kind, seeds):
    outcomes = [tried(whole, tmp_path / "copy", kind, seed, KINDS) for seed in range(seeds)]
    assert set(outcomes) <= {"refused", "the same", "nothing done"}
    assert outcomes.count("refused") >= seeds / 6
