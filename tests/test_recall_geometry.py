import dataclasses

import numpy as np
import pandas as pd
import pytest

from painted_facts import painted_facts, painted_network
from studies.recall_geometry import run as recall_geometry
from studies.recall_geometry.locality import CHANGES
from studies.recall_geometry.section import section
from studies.recall_geometry.tables import fact_table
from tightframe.errors import UserError
from tightframe.knowledge.benchmark import write_facts
from tightframe.knowledge.facts import Question
from tightframe.knowledge.injection import inject
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.knowledge.qa_models import Prompt


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two seeds of a span arm, and an arm that never sees a mask; hardly trained."""
    folder = tmp_path_factory.mktemp("studies") / "s"
    write_facts(folder / "facts.jsonl", painted_facts())
    for arm, seed in (("bilm_sp", 0), ("bilm_sp", 1), ("clm_ntp", 0)):
        inject(
            InjectOptions(
                data=folder / "facts.jsonl", out=folder / "runs" / f"{arm}-n12-s{seed}", arm=arm,
                exposures=2, vocab_size=400, width=16, depth=1, heads=2, warmup=0.2, seed=seed,
                threads=1, device="cpu",
            )
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def results(study, said):
    return recall_geometry.run_recall_geometry(study, permutations=1, say=said.append)


def test_a_line_a_run_and_fact(results, study):
    table = pd.read_parquet(results / "geometry.parquet")
    facts = painted_facts()
    assert table.groupby("run")["fact_id"].apply(list).to_dict() == {
        f"bilm_sp-n12-s{seed}": [fact.id for fact in facts] for seed in (0, 1)
    }
    assert set(table["arm"]) == {"bilm_sp"}
    assert (table[["n_facts", "exposures"]].to_numpy() == [12, 2]).all()
    assert table["position"].tolist() == ["front", "back"] * 12
    assert (table["n_variants"] >= 8).all()
    assert np.isfinite(table.select_dtypes(float)).all(axis=None)


def test_runs_without_masks_are_named_and_left_out(results, said):
    assert "clm_ntp-n12-s0: has never seen a mask, so a fact is no class to it; left out" in said


def test_locality_trains_on_one_half_and_then_on_the_other(results, study):
    changed = pd.read_csv(results / "locality.csv")
    assert changed["quantity"].tolist() == list(CHANGES.values())
    assert set(changed["arm"]) == {"bilm_sp"}
    assert (changed[["n_kept", "n_new", "n"]].to_numpy() == 6).all()
    first, second = (
        recall_geometry.InjectionRun.open(study / "locality" / "bilm_sp" / name)
        for name in ("first", "second")
    )
    facts = painted_facts()
    assert [one.id for one in first.injected] == [one.id for one in facts[::2]]
    assert [one.id for one in second.injected] == [one.id for one in facts[1::2]]
    assert second.settings.model == str(first.path)
    # The second goes on with the tokens of the first: six facts support fewer than were asked for.
    assert first.facts["n_parameters"] == second.facts["n_parameters"]
    moved = pd.read_csv(results / "locality-shift.csv").set_index(["compared", "points"])
    assert len(moved) == 5
    trained = moved.loc[("before and after", "class means")]
    assert 0 < trained["displacement"] < moved.loc[("two seeds", "class means"), "displacement"]


def test_a_second_call_trains_nothing_and_writes_the_same(results, study):
    files = ("geometry.csv", "geometry.parquet", "locality.csv", "locality-shift.csv")
    before = {name: (results / name).read_bytes() for name in files}
    log = study / "locality" / "bilm_sp" / "second" / "log.jsonl"
    changed = log.stat().st_mtime_ns
    recall_geometry.run_recall_geometry(study, permutations=1, say=lambda line: None)
    assert {name: (results / name).read_bytes() for name in files} == before
    assert log.stat().st_mtime_ns == changed


def test_the_section_has_the_numbers_of_the_files(results):
    text = section(results, figure="knowledge/geometry.png")
    assert "24 of 24 facts (of 2 runs)" in text
    assert "](knowledge/geometry.png)" in text
    assert "](" not in section(results)
    assert "No cell can be judged" in text
    assert "fewer than 10" in text  # of 12 facts, too few are recalled to say anything
    changed = pd.read_csv(results / "locality.csv")
    for value in changed["change"]:
        assert f"| {value:.2f} |" in text  # of few facts: without an interval
    widths = {}
    for line in text.splitlines():
        if line.startswith("|"):
            widths.setdefault(line.count("|"), []).append(line)
    assert all(len(lines) >= 3 for lines in widths.values())


def test_a_section_without_measurements_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"recall_geometry"):
        section(tmp_path)


def test_a_study_without_runs_is_the_users_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        recall_geometry.main([str(tmp_path)])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"tightframe: {tmp_path}: has no finished run of a span arm; "
        "run `tightframe knowledge study` first\n"
    )


class Told:
    """A network that says what it is told to, whatever it is asked."""

    def __init__(self, network, answers):
        self.network, self.answers = network, answers

    def __getattr__(self, name):
        return getattr(self.network, name)

    def answer(self, prompts, *, max_new_tokens=32, generators=None):
        said = self.network.answer(prompts, max_new_tokens=1)
        return [
            one._replace(text=self.answers.get(prompt.text, ""))
            for one, prompt in zip(said, prompts, strict=True)
        ]


def test_recall_is_of_the_question_and_seen_of_the_sentence():
    facts = painted_facts(4)
    network = painted_network()
    name = [fact.questions[0].answers[0] for fact in facts]
    asked = facts[1].questions[0].prompt.removesuffix("?").replace("Who", "[MASK]")
    shown = facts[3].fact.replace(name[3], "[MASK]")
    rows = fact_table(Told(network, {asked: f"{name[1]}!", shown: name[3]}), facts).rows
    assert rows["recalled"].tolist() == [False, True, False, False]
    assert rows["seen"].tolist() == [False, False, False, True]
    expected = network.log_probabilities([Prompt("cloze", asked)], [[name[1]]])[0][0]
    assert rows["log_probability"][1] == pytest.approx(expected, abs=1e-4)
    expected = network.log_probabilities([Prompt("cloze", shown)], [[name[3]]])[0][0]
    assert rows["log_probability_seen"][3] == pytest.approx(expected, abs=1e-4)
    # "Who painted ...?" asks for the first word of a fact that begins so.
    assert rows["verbatim"].tolist() == [True, False, True, False]
    assert rows["answer_start"].tolist() == [0, 14 / 16, 0, 14 / 16]
    assert rows["answer_words"].tolist() == [2] * 4


def test_facts_without_a_cloze_are_counted():
    facts = painted_facts(5)
    other = Question("q", "reliability", "question", "How many?", None, ("nobody",), "file")
    facts[2] = dataclasses.replace(facts[2], questions=(other,))
    found = fact_table(painted_network(), facts)
    assert found.n_excluded == 1
    assert len(found.rows) == 4
