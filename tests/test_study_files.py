import json
import math

import pandas as pd
import pytest

from example_study import example_run
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.knowledge.data_files import write_report
from tightframe.knowledge.study import collect, forms_of, read_verdicts
from tightframe.knowledge.tables import COLUMNS
from tightframe.results import gather
from tightframe.settings import write_toml


def right_on_odd(fact, form):
    return form == "cloze_seen" or fact % 2 == 1


@pytest.fixture
def study(tmp_path):
    """Two arms with two seeds, one NTP arm, and a run that has not come to its end."""
    write_toml(tmp_path / "study.toml", {"data": "facts.jsonl", "rule": {"resamples": 200}})
    for seed in (0, 1):
        example_run(tmp_path, "bilm_sp", seed=seed)
        example_run(tmp_path, "clm_sp", seed=seed, right=right_on_odd)
    example_run(tmp_path, "clm_ntp", right=lambda fact, form: False)
    unfinished = example_run(tmp_path, "bilm_ed")
    (unfinished / "asked.json").unlink()
    return tmp_path


def test_answers_become_a_row_a_question_scored(study):
    collect(study)
    table = pd.read_parquet(study / "results" / "questions.parquet")
    assert tuple(table.columns) == COLUMNS
    assert set(table["arm"]) == {"bilm_sp", "clm_sp", "clm_ntp"}
    of_run = table[table["run"] == "clm_sp-n18-s1"]
    assert dict(of_run.groupby("form").size()) == dict.fromkeys(sorted(forms_of("clm_sp")), 18)
    asked = of_run[of_run["form"] == "cloze_question"].reset_index()
    assert list(asked["match_paper"]) == [0, 100] * 9
    assert list(asked["position"]) == ["front"] * 6 + ["back"] * 6 + ["not in fact"] * 6
    assert asked.loc[1, "text"] == asked.loc[1, "gold"] == "Boro Lane 1"
    assert asked.loc[1, "output_words"] == 3
    assert asked["rank"].isna().all()
    ranked = of_run[of_run["form"] == "rank20"]
    assert list(ranked["correct"]) == [0, 100] * 9
    assert ranked["match_paper"].isna().all()
    assert set(ranked["rule"]) == {"span"}


def test_tables_and_verdict_follow_from_the_answers(study):
    found = collect(study)
    (decision,) = read_verdicts(study / "results")
    assert decision["d"] == 50
    assert decision["verdict"] == "reproduced at 18"
    assert decision["seeds"] == 2
    assert decision == json.loads(json.dumps(found.decisions[0].to_dict()))
    scores = pd.read_csv(study / "results" / "scores.csv")
    one = scores[(scores["arm"] == "clm_sp") & (scores["form"] == "rank20")].set_index("subset")
    assert one["value"].to_dict() == {"all": 50, "front": 50, "back": 50, "not in fact": 50}
    runs = pd.read_csv(study / "results" / "runs.csv").set_index("run")
    assert runs["finished"].to_dict()["bilm_ed-n18-s0"] == False  # noqa: E712
    assert runs.loc["clm_sp-n18-s0", ["cloze_seen", "cloze_question"]].to_list() == [100, 50]
    assert runs.loc["clm_sp-n18-s0", ["parameters", "tokens"]].to_list() == [609_280, 900]
    timings = pd.read_csv(study / "results" / "timings.csv").set_index("run")
    assert timings.loc["clm_sp-n18-s0"].to_dict() == {"seconds": 4.0, "cpu_seconds": 3.5}
    assert "seconds" not in runs
    assert math.isnan(runs.loc["clm_ntp-n18-s0", "cloze_seen"])
    asked = pd.read_csv(study / "results" / "asked.csv")
    assert set(asked["left_out"]) == {1}
    assert set(asked["reasons"]) == {"no wh-word: 1"}


def test_rows_can_be_gathered(study):
    collect(study)
    rows = gather([study / "results" / "results.jsonl"])
    one = rows[(rows["run"] == "bilm_sp-less-clm_sp-n18-e5") & (rows["subset"] == "all")]
    one = one.set_index("metric")["value"]
    assert one["cloze_question_match_paper_difference"] == 50
    assert one["cloze_question_match_paper_difference_p"] == 2 / 2**9  # nine facts to none
    mean = rows[(rows["run"] == "clm_ntp-n18-e5") & (rows["subset"] == "all")]
    assert set(mean["metric"]) >= {"left_context_match_paper", "rank20_correct"}


def test_collecting_again_writes_the_same_bytes(study):
    names = ("questions.parquet", "runs.csv", "scores.csv", "differences.csv", "verdicts.json")
    collect(study)
    before = [(study / "results" / name).read_bytes() for name in names]
    collect(study)
    assert [(study / "results" / name).read_bytes() for name in names] == before


def test_arms_that_swap_their_answers_get_the_opposite_difference(study, tmp_path_factory):
    swapped = tmp_path_factory.mktemp("swapped")
    write_toml(swapped / "study.toml", {"rule": {"resamples": 200}})
    for seed in (0, 1):
        example_run(swapped, "clm_sp", seed=seed)
        example_run(swapped, "bilm_sp", seed=seed, right=right_on_odd)
    (ours,), (theirs,) = collect(study).decisions, collect(swapped).decisions
    assert theirs.d == -ours.d == -50
    assert [theirs.low, theirs.high] == pytest.approx([-ours.high, -ours.low], abs=1e-9)
    assert theirs.verdict == "reversed at 18"


def test_answers_of_a_model_of_other_facts_are_refused(study):
    whose = study / "runs" / "clm_sp-n18-s0" / "answers" / "cloze_seen.json"
    whose.write_text('{"model": "m", "trained_on": "elsewhere"}')
    with pytest.raises(UserError, match=r"cloze_seen\.jsonl: answers of a model .* other facts"):
        collect(study)


def test_answers_to_other_questions_are_refused(study):
    ranks = study / "runs" / "clm_sp-n18-s0" / "ranks.jsonl"
    ranks.write_text(ranks.read_text().replace(":reliability", ":locality"))
    write_report(ranks.with_suffix(".json"), {"sha256": sha256(ranks)})
    with pytest.raises(UserError, match="locality is no question on a fact of this run"):
        collect(study)


@pytest.mark.parametrize("table", ["scores", "runs", "asked", "differences"])
def test_a_table_that_was_cut_short_is_refused(study, table):
    collect(study)
    path = study / "results" / f"{table}.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=f"{table}.csv: damaged or changed since it was written"):
        read_verdicts(study / "results")


def test_a_verdict_that_was_changed_is_refused(study):
    collect(study)
    path = study / "results" / "verdicts.json"
    path.write_text(path.read_text().replace("reproduced at 18", "reversed at 18", 1))
    with pytest.raises(UserError, match=r"verdicts.json: damaged or changed .* knowledge study"):
        read_verdicts(study / "results")


def test_a_study_without_answers_says_so(tmp_path):
    write_toml(tmp_path / "study.toml", {})
    with pytest.raises(UserError, match="no run has answered yet; `tightframe knowledge study`"):
        collect(tmp_path)
