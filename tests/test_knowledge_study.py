import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from example_facts import example_facts
from studies.injection.publish import publish
from studies.recall_geometry.run import run_recall_geometry
from tightframe import cli
from tightframe.errors import PartlyDoneError, UserError
from tightframe.jobs import knowledge_study
from tightframe.jobs.knowledge_study import Grid, plan, run_study, study_settings
from tightframe.knowledge import study
from tightframe.knowledge.benchmark import write_facts
from tightframe.knowledge.decisions import DecisionRule
from tightframe.knowledge.study import read_verdicts
from tightframe.settings import read_toml

CONFIGS = Path(__file__).parent.parent / "configs"
# Two blocks: in a single one the answer sees the same of its prompt in both arms.
TINY = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 280, "device": "cpu"}
MINI = {
    "grid": [
        {"arms": ["clm_sp", "bilm_sp"], "n_facts": [6], "seeds": [0]},
        {"arms": ["clm_ntp_reordered"], "n_facts": [4], "seeds": [0]},
    ],
    "exposures": 4,
    "rule": {"resamples": 100},
    **TINY,
}


def here(jobs, *, workers, say, environment):
    """Runs jobs in this process; a new one would take seconds to import torch."""
    for job in jobs:
        assert job.command[1:3] == ["-m", "tightframe.jobs.knowledge_study"]
        study = job.log.parent.parent
        assert (study / "study.toml").is_file()  # settled before the first run
        knowledge_study.main(list(job.command[3:]))
    assert environment == {"OMP_NUM_THREADS": "1"}
    return []


def texts(answers):
    """What a model said; outputs of an untrained one may hold any separator."""
    return [json.loads(line)["text"] for line in answers.split("\n") if line]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Nine facts; the last three do not hold their answer, so that six are eligible."""
    path = tmp_path_factory.mktemp("data") / "facts.jsonl"
    asked = [
        dataclasses.replace(
            fact,
            questions=tuple(
                dataclasses.replace(one, prompt=f"Who painted the bridge of village {i} twice?")
                for one in fact.questions
            ),
        )
        for i, fact in enumerate(example_facts(9, kinds=("reliability",)))
    ]
    write_facts(path, asked)
    return path


@pytest.fixture(scope="module")
def finished(facts, tmp_path_factory):
    """A study of three tiny networks, from facts to verdict."""
    out = tmp_path_factory.mktemp("study") / "mini"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(knowledge_study, "run_and_say", here)
        run_study(study_settings(None, MINI), facts, out)
    return out


def test_a_study_goes_from_facts_to_a_verdict(finished):
    (decision,) = read_verdicts(finished / "results")
    assert (decision["n_facts"], decision["exposures"], decision["seeds"]) == (6, 4, 1)
    assert decision["verdict"] == "under-trained"  # four exposures teach nothing
    table = pd.read_parquet(finished / "results" / "questions.parquet")
    forms = table.groupby("arm")["form"].unique().map(set).to_dict()
    spans = {"cloze_seen", "cloze_question", "raw_question", "rank20"}
    # The reordered ones are asked clue first, the others only where the answer does not come first.
    sentences = {"left_context", "left_context_reordered", "rank20"}
    assert forms == {"clm_sp": spans, "bilm_sp": spans, "clm_ntp_reordered": sentences}
    assert set(table.loc[table["form"] == "rank20", "rank"].dropna().between(1, 20)) == {True}
    asked = pd.read_csv(finished / "results" / "asked.csv").set_index(["arm", "form"])
    assert asked.loc[("clm_ntp_reordered", "left_context"), "reasons"] == "answer comes first: 3"
    assert asked.loc[("clm_ntp_reordered", "left_context_reordered"), "asked"] == 4


def test_arms_differ_in_nothing_but_the_mask(finished):
    runs = pd.read_csv(finished / "results" / "runs.csv").set_index("arm")
    ours, theirs = runs.loc["bilm_sp"], runs.loc["clm_sp"]
    same = ["n_facts", "exposures", "seed", "parameters", "tokens", "stream", "steps", "finished"]
    assert ours[same].equals(theirs[same])
    assert ours["final_loss"] != theirs["final_loss"]


def test_what_is_finished_is_kept_and_what_is_missing_is_made_again(finished, facts, monkeypatch):
    monkeypatch.setattr(knowledge_study, "run_and_say", here)
    settings, said = study_settings(None, MINI), []
    before = {path: path.read_text() for path in finished.rglob("answers/*.jsonl")}
    assert len(before) == 8
    run = finished / "runs" / "clm_sp-n6-s0"
    (run / "asked.json").unlink()
    (run / "answers" / "cloze_question.json").unlink()  # killed between the two files
    (run / "ranks.jsonl").unlink()
    assert [one.state for one in plan(settings, facts, finished).runs] == [
        *("started", "finished", "finished")
    ]
    ran = []
    monkeypatch.setattr(
        knowledge_study,
        "run_and_say",
        lambda jobs, **rest: ran.extend(job.name for job in jobs) or here(jobs, **rest),
    )
    run_study(settings, facts, finished, say=said.append)
    assert ran == ["clm_sp-n6-s0"]
    can, finished_already = said
    assert can.startswith("bilm_sp less clm_sp, 6 facts x 1 seeds: finds a difference of")
    assert can.endswith("in 80 %; it cannot detect its margin of 5")
    assert finished_already == "2 of 3 runs are finished already"
    assert {path: texts(path.read_text()) for path in before} == {
        path: texts(content) for path, content in before.items()
    }


def test_the_longest_runs_go_first(facts, tmp_path):
    settings = study_settings(None, {"arms": ["clm_sp"], "n_facts": [2, 6, 4], "seeds": [1, 0]})
    names = [run.name for run in plan(settings, facts, tmp_path / "x").runs]
    assert names == [f"clm_sp-n{n}-s{seed}" for n in (6, 4, 2) for seed in (1, 0)]


def test_a_failed_run_is_named_and_the_others_are_collected(facts, tmp_path, monkeypatch):
    def fails(jobs, *, workers, say, environment):
        here(jobs[:1], workers=workers, say=say, environment=environment)
        jobs[1].log.parent.mkdir(exist_ok=True)
        jobs[1].log.write_text("loss is nan\n")
        return jobs[1:]

    monkeypatch.setattr(knowledge_study, "run_and_say", fails)
    values = TINY | {"exposures": 1, "n_facts": [2], "seeds": [0]}
    with pytest.raises(PartlyDoneError) as failed:
        run_study(study_settings(None, values), facts, tmp_path / "x")
    assert str(failed.value) == (
        "1 of 2 runs are done, failed: bilm_sp-n2-s0 (loss is nan); the same command tries them "
        "again"
    )
    assert (tmp_path / "x" / "results" / "scores.csv").is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arms": ["clm_ps"]}, "unknown arm 'clm_ps'; did you mean 'clm_sp'"),
        ({"n_facts": [7], "seeds": [0]}, "6 study-eligible facts .* expected 7"),
        ({"n_facts": [2, 2]}, "names 12 runs, but only 6 different ones"),
        ({"arms": []}, "grid: names no run"),
        ({"widht": 3}, "unknown setting 'widht'; did you mean 'width'"),
        ({"base": {"seed": 3}}, "base sets seed, which grid or study decide"),
        ({"rule": {"margin": 0.0}}, "'rule.margin' is 0.0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(facts, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        run_study(study_settings(None, {"n_facts": [2]} | values), facts, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_other_settings_or_facts_do_not_pass_as_the_study_s(finished, facts, tmp_path):
    changed = study_settings(None, MINI | {"rule": {"margin": 9.0}})
    with pytest.raises(UserError, match="belongs to a study with rule"):
        plan(changed, facts, finished)
    other = tmp_path / "facts.jsonl"
    write_facts(other, example_facts(12, kinds=("reliability",)))
    with pytest.raises(UserError, match="belongs to a study with facts"):
        plan(study_settings(None, MINI), other, finished)


def test_what_is_typed_takes_the_place_of_the_file_s_grid():
    config = CONFIGS / "knowledge-study-long.toml"
    values = {"arms": ["bilm_ed"], "seeds": [3], "width": 64, "exposures": 9}
    settings = study_settings(config, values)
    assert settings.grid == (Grid(arms=("bilm_ed",), seeds=(3,)),)
    assert (settings.exposures, settings.base) == (9, {"until": 95.0, "width": 64})


def test_the_committed_studies_are_those_of_the_specification():
    study, long, gpu, reversal = (
        study_settings(CONFIGS / f"knowledge-study{end}.toml", {})
        for end in ("", "-long", "-gpu", "-reversal")
    )
    assert study.rule == gpu.rule == DecisionRule()
    five = ("clm_ntp", "clm_sp", "clm_masked", "bilm_sp", "bilm_diffusion")
    assert long.grid == (Grid(five, (1000,), (0, 1, 2)),)
    asked = ("cloze_question", "forward", "backward", "cloze_seen", "rank20")
    assert long.rule.judged == asked
    assert reversal.rule.judged == ("backward", "forward")
    for one in (long, reversal):
        arms = {arm for grid in one.grid for arm in grid.arms}
        assert {arm for pair in one.rule.compared for arm in pair} <= arms
        assert one.base["until"] == 95
    first, others = study.grid
    assert first == Grid(("clm_sp", "bilm_sp"), (80, 200), (0, 1, 2))
    assert (others.n_facts, others.seeds) == ((80,), (0,))
    assert study.exposures == 500
    assert long.exposures == 1000
    assert gpu.grid[0].n_facts == (100, 300, 1000, 3000)


def test_the_page_is_made_of_the_tables_of_all_studies(finished, tmp_path):
    report = tmp_path / "results" / "knowledge"
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.toml").write_bytes((finished / "study.toml").read_bytes())
    (other / "results").symlink_to(finished / "results")
    publish(other, report)
    page = publish(finished, report)
    text = page.read_text()
    assert page == tmp_path / "results" / "knowledge.md"
    assert "| mini | 6 | 4 | 1 | bilm_sp 0.0, clm_sp 0.0 | +0.0 | **under-trained** |" in text
    assert "## 6 facts, 4 exposures (other)" in text
    assert "1 of 1 groups of runs of equal facts, seed and objective saw the same" in text
    assert "[scores.csv](knowledge/mini/scores.csv)" in text
    assert "At 6 facts (mini), 6 facts (other) both arms have one seed" in text
    kept = {path.name for path in (report / "mini").iterdir()}
    assert kept == {
        *("study.toml", "verdicts.json"),
        *("runs.csv", "timings.csv", "asked.csv", "scores.csv", "differences.csv"),
    }
    # The text of the facts has a licence of its own: it stays out of what is published.
    everything = text + "".join(path.read_text() for path in (report / "mini").iterdir())
    assert "painted" not in everything
    assert "Ada Quill" not in everything


def test_figures_and_geometry_of_a_study_are_shown_where_there_are_some(finished, tmp_path):
    study, report = tmp_path / "mini", tmp_path / "knowledge"
    shutil.copytree(finished, study)
    assert "geometry" not in publish(study, report).read_text()
    figures = study / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "accuracy_by_facts.png").write_bytes(b"a figure")
    run_recall_geometry(study, permutations=3, train=False, say=lambda line: None)
    text = publish(study, report).read_text()
    assert "![mini, accuracy_by_facts](knowledge/mini/accuracy_by_facts.png)" in text
    assert "## Does the geometry of a fact tell whether it is recalled? (mini)" in text
    assert "(knowledge/mini/geometry.png)" in text
    kept = {path.name for path in (report / "mini").iterdir()}
    assert kept > {"geometry.csv", "geometry.md", "geometry.png", "accuracy_by_facts.png"}
    assert "geometry.parquet" not in kept  # a line a fact


def test_ensembles_of_a_study_stand_beside_the_model_of_all_facts(finished, tmp_path):
    study = tmp_path / "mini"
    shutil.copytree(finished, study)
    asked = pd.read_parquet(study / "results" / "questions.parquet")
    cloze = asked[asked["form"] == "cloze_question"]
    run = cloze["run"].iloc[0]
    single = cloze.loc[cloze["run"] == run, "match_norm"].mean()
    report = {
        "score": 41.25,
        "oracle_score": 43.75,
        "n_scored": 80,
        "sources": [{"source": "cluster 0", "model": "a"}, {"source": "fallback", "model": run}],
        "routing": {"in_scope": {"right": 0.9}, "outside": {"n": 300, "accepted": 0.02}},
    }
    folder = study / "ensemble" / "semantic-3"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    text = publish(study, tmp_path / "knowledge").read_text()
    row = f"| semantic-3 | 80 | 41.2 | 43.8 | {single:.1f} | 90.0 | 2.0 of 300 |"
    assert row in text


def test_the_command_runs_a_study_and_says_its_verdict(facts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(knowledge_study, "run_and_say", here)
    words = ["knowledge", "study", "--data", str(facts), "--out", str(tmp_path / "x"), "--json"]
    words += ["--arms", "clm_sp,bilm_sp", "--n-facts", "2", "--seeds", "0", "--exposures", "1"]
    for name, value in TINY.items():
        words += ["--set", f"{name}={value}"]
    cli.main(words)
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdicts"][0]["verdict"] == "under-trained"
    assert read_toml(tmp_path / "x" / "study.toml")["rule"]["margin"] == 5.0


def test_a_study_becomes_an_array_of_its_missing_runs(facts, tmp_path, capsys):
    words = f"--data {facts} --out {tmp_path}/x --arms clm_sp --n-facts 2,3 --seeds 0".split()
    cli.main(["knowledge", "study", *words, "--dry-run", "--slurm", "--time 10"])
    assert "2 runs in 2 elements, submit it with `sbatch" in capsys.readouterr().out
    script = (tmp_path / "x" / "array.sbatch").read_text()
    assert "#SBATCH --time 10\n" in script
    assert "export OMP_NUM_THREADS=1\n" in script
    for name in ("clm_sp-n2-s0", "clm_sp-n3-s0"):
        assert f"-m tightframe.jobs.knowledge_study {tmp_path}/x/plan/{name}.toml" in script
        assert (tmp_path / "x" / "plan" / f"{name}.toml").is_file()
    assert not (tmp_path / "x" / "runs").exists()


def test_absent_facts_are_told_with_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TIGHTFRAME_DATA", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["knowledge", "study", "--out", str(tmp_path / "x")])
    assert stopped.value.code == 2
    assert "wikidyk/dev.jsonl: no such file; name facts with --data" in capsys.readouterr().err


def test_numbers_that_are_none_are_told(facts, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(
            ["knowledge", "study", "--data", str(facts), "--out", str(tmp_path), "--seeds", "x"]
        )
    assert "--seeds: 'x' is no whole number" in capsys.readouterr().err


def test_workers_below_one_are_refused(facts, tmp_path):
    with pytest.raises(UserError, match="workers is 0"):
        run_study(study_settings(None, MINI), facts, tmp_path / "x", workers=0)


def test_a_study_that_is_run_again_differs_in_its_timings_alone(
    finished, facts, tmp_path, monkeypatch
):
    monkeypatch.setattr(knowledge_study, "run_and_say", here)
    run_study(study_settings(None, MINI), facts, tmp_path / finished.name, workers=1)
    tables = ["questions.parquet", "verdicts.json"]
    tables += [f"{name}.csv" for name in study.TABLES if name != "timings"]
    folders = finished / "results", tmp_path / finished.name / "results"
    for name in tables:
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second, name
