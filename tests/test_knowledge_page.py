"""The page of a knowledge study: its numbers are the tables', and strangers' words stay words."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from example_knowledge_study import IMAGE, QUOTES, SCRIPT, geometry, questions, write_study
from test_page import browser, open_page  # noqa: F401
from tightframe import cli
from tightframe.errors import UserError
from tightframe.files import write_text
from tightframe.knowledge.intervals import PERCENT, estimates
from tightframe.knowledge.study import write_verdicts
from tightframe.report import knowledge, knowledge_page, knowledge_plots, rendering, report
from tightframe.report.inputs import is_study
from tightframe.report.knowledge_folder import read_study

TYPES = ("reliability", "paraphrase")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_study(tmp_path_factory.mktemp("studies") / "attention", types=TYPES)
    write_text(path / "report" / "index.html", page_of(path))
    return path


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("bare") / "bare", counts=(8,), bare=True)


@pytest.fixture
def bare(original, tmp_path):
    """A study of which there are only settings and scores."""
    return Path(shutil.copytree(original, tmp_path / "bare"))


def words_of(text):
    """The words of the page as a reader sees them, without scripts."""
    outside = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    apart = re.sub(r"</(td|th|tr|dt|dd|p|h\d|li|svg)>", " ", outside)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", apart))


def page_of(folder):
    """The page alone: figures take longer."""
    study = read_study(folder)
    types, bins = knowledge.by_type(study.questions), knowledge.recall_by_feature(study.recall)
    data = knowledge_page.page_data(study, types, bins, knowledge.arms_of(study))
    return knowledge_page.render_study(study, data, bins, ["tightframe report"])


def test_a_folder_with_its_settings_is_a_study(folder, tmp_path):
    assert is_study(folder)
    assert not is_study(tmp_path)


def test_the_verdicts_stand_with_their_differences_and_intervals(text):
    words = words_of(text)
    assert "reproduced at 40" in words
    assert "match_paper d = +25.0 [+12.5, +37.5]" in words
    assert "match_norm d = +5.0 [\N{MINUS SIGN}7.5, +17.5]: inconclusive at 40" in words
    assert "match_paper d = +20.0 [+7.5, +32.5]" in words
    assert "within ±5 points" in words
    assert "fewer than 90 %" in words


def test_what_a_study_could_have_found_stands_beside_its_verdict(text):
    # 12.5 points on either side over 40 facts: a standard error of 12.5 / t(0.975, 39) = 6.180;
    # 80 % of studies tell (2.0227 + 0.8507) times it from 0.
    words = words_of(text)
    assert "detects a difference of 17.8 points in 80 % of cases" in words
    assert "“not reproduced” is impossible with 40 facts" in words


def test_the_interval_is_drawn_to_scale(text):
    # The axis goes to 40: 100 units for 80 points, 50 is 0; the interval is 12.5 to 37.5.
    first = re.search(r'<svg class="interval".*?</svg>', text, re.DOTALL)[0]
    assert 'd="M65.625 5H96.875"' in first
    assert 'cx="81.25"' in first
    assert 'x="43.75" y="0" width="12.5"' in first  # 5 points on both sides


def test_the_scores_of_the_page_are_the_table_s(folder, data):
    table = pd.read_csv(folder / "results" / "scores.csv")
    for choice, rows in table.groupby(["form", "score", "n_facts", "exposures"]):
        drawn = data["figures"][knowledge_plots.key("positions", *choice)]["data"]
        arms = knowledge.arms_of(read_study(folder))
        there = [arm for arm in arms if arm in set(rows["arm"])]
        for arm, trace in zip(there, drawn, strict=True):
            own = rows[rows["arm"] == arm]
            assert trace["y"] == pytest.approx(own["value"].tolist(), rel=1e-12)
            above = (own["high"] - own["value"]).fillna(0)
            assert trace["error_y"]["array"] == pytest.approx(above.tolist(), rel=1e-9)
            assert all(f"n = {n:,}" in t for n, t in zip(own["n"], trace["hovertext"], strict=True))


def test_arms_have_one_colour_on_every_page(data):
    names = data["answers"]["arms"]
    looks = {arm: knowledge.look_of(arm, names) for arm in names}
    assert looks["clm_sp"] == (1, False)
    assert looks["bilm_sp"] == (2, False)
    assert looks["clm_sp_reordered"] == (1, True)
    assert [arm for arm, (_, reordered) in looks.items() if reordered] == ["clm_sp_reordered"]
    arms = ("zeta", "alpha_reordered", "bilm_sp")
    assert [knowledge.look_of(arm, arms) for arm in arms] == [(5, False), (6, True), (2, False)]


def test_scores_by_type_are_means_over_the_questions_of_a_type(folder):
    asked = pd.read_parquet(folder / "results" / "questions.parquet")
    own = asked[
        (asked["arm"] == "bilm_sp") & (asked["n_facts"] == 40) & (asked["type"] == "paraphrase")
    ]
    own = own[own["form"] == "cloze_question"]
    (expected,) = estimates(
        own[["match_norm"]].to_numpy(), pd.factorize(own["fact_id"])[0], [PERCENT]
    )
    table = knowledge.by_type(read_study(folder).questions)
    wanted = ("bilm_sp", 40, "cloze_question", "paraphrase", "match_norm")
    (found,) = [
        row
        for row in table.to_dict("records")
        if tuple(row[name] for name in ("arm", "n_facts", "form", "type", "score")) == wanted
    ]
    assert found["value"] == own["match_norm"].mean()
    assert (found["low"], found["high"], found["n"]) == (expected.low, expected.high, len(own))


def test_questions_of_one_type_have_no_section_on_types():
    assert knowledge.by_type(questions((8,))).empty


def test_what_each_arm_said_stands_beside_the_answer(folder, data):
    names = data["answers"]["arms"]
    asked = pd.read_parquet(folder / "results" / "questions.parquet")
    line = next(
        line for line in data["answers"]["lines"] if line[:3] == [40, 500, "cloze_question"]
    )
    own = asked[(asked["question_id"] == line[3]) & (asked["form"] == "cloze_question")]
    own = own[(own["arm"] == "bilm_sp") & (own["n_facts"] == 40)]
    right = int((own["match_paper"] == 100).sum())
    said = line[9][names.index("bilm_sp")]
    assert said == [own[own["seed"] == 0]["text"].item(), right, 3]
    assert line[4:8] == [*own.iloc[0][["fact_id", "type", "position", "gold"]]]


def test_a_ranked_question_shows_the_rank(data):
    said = [
        one
        for line in data["answers"]["lines"]
        if line[2] == "rank20"
        for one in line[9]
        if one is not None
    ]
    assert {one[0] == "rank 1" for one in said if one[2] == 1 and one[1] == 1} == {True}
    assert {one[0] == "rank 1" for one in said if one[2] == 1 and one[1] == 0} == {False}


def test_a_long_table_of_answers_is_cut_evenly_and_says_so(folder, monkeypatch):
    study = read_study(folder)
    monkeypatch.setattr(knowledge, "MOST_LINES", 18)
    found = knowledge.answers(study, knowledge.arms_of(study))
    # 9 forms and numbers of facts (the left context has only the smaller): two lines each.
    assert found["shown"] == len(found["lines"]) == 18
    assert found["n"] == 5 * 80 + 4 * 240


def test_recall_is_by_groups_of_equal_size(folder):
    recall = geometry(questions((40,)))
    bins = knowledge.recall_by_feature(recall)
    own = bins[(bins["arm"] == "clm_sp") & (bins["feature"] == "margin")]
    # 40 facts of three seeds in two groups of 60: an interval needs 15 facts.
    assert own["n"].tolist() == [60, 60]
    of_arm = recall[recall["arm"] == "clm_sp"].sort_values("margin")
    expected = [100 * part.mean() for part in np.split(of_arm["recalled"].to_numpy(), 2)]
    assert own["value"].tolist() == pytest.approx(expected, rel=1e-12)
    assert own["median"].is_monotonic_increasing


def test_infinite_values_are_in_no_group():
    recall = geometry(questions((40,)))
    bins = knowledge.recall_by_feature(recall)
    own = bins[(bins["arm"] == "clm_sp") & (bins["feature"] == "cdnv_mean")]
    assert own["n"].sum() == 120 - 3
    assert np.isfinite(own["median"]).all()


def test_equal_streams_are_counted_in_pairs_of_runs(folder):
    study = read_study(folder)
    assert knowledge.streams(study) == [("bilm_sp", "clm_sp", 6, 6)]
    study.runs.loc[study.runs["run"] == "clm_sp-n40-s1", "stream"] = "other"
    assert knowledge.streams(study) == [("bilm_sp", "clm_sp", 5, 6)]


def test_the_ensemble_stands_beside_single_models_and_its_matrix(text):
    words = words_of(text)
    assert "routed 62.5 40" not in words  # the ensemble was asked both types: 80 questions
    assert "routed 62.5 80" in words
    assert "oracle 75.0 80" in words
    assert "bilm_sp, one model of 40 facts" in words
    assert "cluster 0 17 3 2 cluster 1 3 13 2 none 0 0 0" in words
    assert "In scope: 40 questions, 90.0 % routed to a cluster, 75.0 % to their own." in words
    assert "Out of scope: 200, 3.5 % accepted" in words
    assert "Locality:" not in words


def test_runs_and_what_was_left_out_are_listed(text):
    words = words_of(text)
    assert "their streams are equal in all 6 pairs of runs" in words
    assert "bilm_sp-n120-s2 bilm_sp 120 500 2 609 k 1,234,567 0.0123 61.5 cpu 1202abc yes" in words
    assert "left_context 40 31 9 answer comes first: 9" in words


def test_strangers_words_are_escaped(text):
    outside = text.replace(rendering.get_plotlyjs(), "")
    assert "<img" not in outside
    assert "window.hacked=1</script>" not in outside
    assert "&lt;img src=x" in outside  # the model of a cluster, and a line of the statistics
    assert outside.count("</script>") == 3  # data, plotly, ours


def test_the_data_holds_strangers_words_as_they_are(data):
    gold = {line[7] for line in data["answers"]["lines"]}
    assert {IMAGE, SCRIPT, QUOTES} <= gold


def test_figures_and_tables_are_written_beside_the_page(tmp_path, capsys):
    forms = ("cloze_question", "rank20")
    folder = write_study(tmp_path / "small", counts=(40,), types=TYPES, forms=forms)
    cli.main(["report", str(folder)])
    assert capsys.readouterr().out.strip() == f"open {folder / 'report' / 'index.html'}"
    names = {file.name for file in (folder / "report" / "figures").iterdir()}
    stems = ("accuracy_by_facts", "accuracy_by_position", "geometry", "routing_ensemble")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")}
    names = {file.name for file in (folder / "report" / "tables").iterdir()}
    assert names == {f"{n}.csv" for n in ("scores", "differences", "runs", "types", "recall")}
    copied = pd.read_csv(folder / "report" / "tables" / "scores.csv")
    pd.testing.assert_frame_equal(copied, pd.read_csv(folder / "results" / "scores.csv"))


def test_what_is_missing_is_said_with_the_command_that_makes_it(bare):
    words = words_of(page_of(bare))
    assert "No verdict yet. Make it with tightframe knowledge study." in words
    assert "There is no table of runs. Make it with tightframe knowledge study." in words
    assert "There is no table of questions." in words
    assert "There is no ensemble in this folder. Make it with tightframe knowledge" in words
    assert "The geometry of these facts was not measured." in words


def test_a_verdict_without_an_interval_or_a_second_score_is_shown(bare):
    one = dict.fromkeys(("first", "second", "form", "score"), "x") | {"n_facts": 8}
    one |= {"exposures": 500, "d": 1.5, "low": None, "high": None, "verdict": "under-trained"}
    one["under_trained"] = [IMAGE]
    write_verdicts(bare / "results", [one])
    assert math.isnan(read_study(bare).verdicts[0]["low"])
    text = page_of(bare)
    assert "d = +1.5" in words_of(text)
    assert "Under-trained: &lt;img" in text


def test_a_study_without_results_says_what_to_run(tmp_path):
    (tmp_path / "study.toml").write_text("")
    with pytest.raises(UserError, match="no results yet; run `tightframe knowledge study` first"):
        report(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["study.toml"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("study.toml", "a = ", "study.toml: not TOML"),
        ("results/scores.csv", "arm,form\nx,y\n", "scores.csv: has no column subset, score"),
        ("results/scores.csv", "", "scores.csv: has no lines"),
        ("results/runs.csv", '"', "runs.csv: not a table, or damaged"),
        ("results/questions.parquet", "PAR1", "questions.parquet: not a table, or damaged"),
        ("results/verdicts.json", "{}", "verdicts.json: verdicts is missing"),
        ("results/verdicts.json", "[", "verdicts.json: not JSON"),
        (
            "ensemble/report.json",
            '{"sources": []}',
            "report.json: routing is missing",
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line(bare, file, content, message):
    (bare / file).parent.mkdir(exist_ok=True)
    (bare / file).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        report(bare)
    assert "\n" not in str(caught.value)
    assert not (bare / "report").exists()


def test_a_verdict_without_its_numbers_is_named(bare):
    write_verdicts(bare / "results", [{}])
    with pytest.raises(UserError, match=r"verdicts.json: a verdict has no d, exposures"):
        report(bare)


def test_a_table_of_scores_that_was_cut_short_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "study", ignore=shutil.ignore_patterns("report"))
    scores = tmp_path / "study" / "results" / "scores.csv"
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"scores.csv: damaged or changed since it was written"):
        report(tmp_path / "study")


def test_the_same_study_gives_the_same_page(bare):
    assert page_of(bare) == page_of(bare)


# In a browser.


@pytest.mark.browser
def test_panels_follow_the_choices(browser, folder):  # noqa: F811
    page = folder / "report" / "index.html"
    opened = open_page(browser, page, waiting_for="#facts .points path")
    shown = "kind => plot(kind).data.map(line => line.y.length)"
    find = "const plot = k => document.querySelector(`.plot[data-figure^=${k}]`);"
    opened.evaluate(f"() => {{ {find} window.plot = plot; }}")
    assert opened.evaluate(shown, "facts") == [1, 2, 1, 2, 1, 1]  # at 40 and 120 facts
    assert opened.evaluate(shown, "positions") == [4] * 6  # 40 facts: where all arms are
    names = "plot('facts').layout.annotations.map(one => one.text).sort()"
    assert opened.evaluate(names)[0] == "bilm_ed"
    opened.get_by_label("Facts, below").select_option("120")
    assert opened.evaluate(shown, "positions") == [4] * 2
    opened.locator("#form").select_option("rank20")
    assert opened.locator("#score").input_value() == "correct"
    assert "ranks first" in opened.locator("[data-words]").first.inner_text()
    assert opened.complaints == []
    assert opened.requests == [page.as_uri()]
    opened.close()


@pytest.mark.browser
def test_answers_are_filtered_and_do_nothing(browser, folder):  # noqa: F811
    page = folder / "report" / "index.html"
    opened = open_page(browser, page, waiting_for="#answer-table tbody tr")
    rows = opened.locator("#answer-table tbody tr")
    assert rows.count() == 50
    assert opened.locator("#answer-count").inner_text() == "80 questions, 50 shown"
    opened.get_by_role("button", name="Show more").click()
    assert rows.count() == 80
    opened.locator("#answer-arm").select_option(label="bilm_mlm")
    opened.locator("#answer-right").select_option("right")
    said = rows.locator("td:last-child")
    assert 0 < rows.count() < 40
    assert all(text.endswith("\N{CHECK MARK} right") for text in said.all_inner_texts())
    opened.locator("#answer-right").select_option("wrong")
    assert all(text.endswith("\N{BALLOT X} wrong") for text in said.all_inner_texts())
    assert any(SCRIPT[:20] in text for text in rows.all_inner_texts())
    assert opened.locator("main img").count() == 0
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    opened.close()


@pytest.mark.browser
def test_runs_sort_and_nothing_is_cut_off_on_narrow_screens(browser, folder):  # noqa: F811
    page = folder / "report" / "index.html"
    opened = open_page(browser, page, waiting_for="#geometry .points path")
    opened.locator("#runs").get_by_role("button", name="facts").click()
    column = opened.locator("#runs table").first.locator("tbody td:nth-child(3)")
    counts = column.all_inner_texts()
    assert counts == sorted(counts, key=int)
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.wait_for_function("() => document.querySelector('.plot .main-svg').clientWidth < 390")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.close()
