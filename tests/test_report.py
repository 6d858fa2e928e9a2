"""The files of a report: what is written, from which results, and the figures' bytes."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from example_results import FLOOR, rewrite, write_courses, write_sweep
from tightframe import cli
from tightframe.analysis.association import associations
from tightframe.analysis.checkpoints import at_centres, checkpoints
from tightframe.analysis.relate import relate
from tightframe.errors import UserError
from tightframe.files import write_text
from tightframe.geometry import measures
from tightframe.geometry.views import (
    PUBLISHED,
    ROBUST,
    VIEWS,
    arrow,
    best_form,
    is_near_unigram,
    views_of,
)
from tightframe.report import figures, page, panels, rendering, report, tables
from tightframe.report.panels import SizeScale
from tightframe.results import gather, read_rows, write_rows


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep with its report; figures are slow and have their own test, so one stands for all."""
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *a: write_text(a[2] / "robust.png", "drawn"))
        assert report(folder) == folder / "report" / "index.html"
    return folder


@pytest.fixture(scope="module")
def shown(sweep):
    """Its checkpoints with their floors, and the settings of their columns."""
    found = checkpoints(gather(sorted(sweep.glob("runs/*/results/*.jsonl"))))
    return found._replace(table=tables.with_floors(found.table))


@pytest.fixture(scope="module")
def table(shown):
    return shown.table


@pytest.fixture(scope="module")
def found(table):
    return associations(table, tables.measured(table))


def test_a_report_is_a_page_tables_and_rows_and_nothing_else(sweep):
    written = {
        str(path.relative_to(sweep / "report"))
        for path in (sweep / "report").rglob("*")
        if path.is_file()
    }
    assert written == {
        "index.html",
        "figures/robust.png",
        "tables/runs.csv",
        "tables/associations.csv",
        "tables/associations.md",
        "tables/settings.csv",
    }
    assert sorted(path.name for path in sweep.iterdir()) == ["report", "results.parquet", "runs"]


def test_the_parquet_file_holds_every_row(sweep):
    rows = pd.read_parquet(sweep / "results.parquet")
    lines = [len(file.read_text().splitlines()) - 1 for file in sweep.glob("runs/*/results/*")]
    assert len(lines) == 30
    assert len(rows) == sum(lines)
    assert rows["set_width"].isin([32, 64, 128, 256, 512]).all()


def test_the_table_of_runs_has_a_line_a_checkpoint_and_the_losses_above_both_floors(sweep):
    runs = pd.read_csv(sweep / "report" / "tables" / "runs.csv")
    assert len(runs) == 30
    assert runs["run"].nunique() == 15
    assert runs["loss_above_floor"].tolist() == pytest.approx((runs["val_loss"] - FLOOR).tolist())
    above = runs["val_loss"] - runs["realised_floor"]
    assert runs["loss_above_realised"].tolist() == pytest.approx(above.tolist())
    assert {"set_depth", "model_n_parameters", "val_accuracy", "rank_pr"} <= set(runs)


def test_the_table_of_associations_is_the_squared_correlation_of_the_table_of_runs(sweep):
    runs = pd.read_csv(sweep / "report" / "tables" / "runs.csv")
    lines = pd.read_csv(sweep / "report" / "tables" / "associations.csv")
    key = (lines["metric"] == "nc1_cdnv_p2") & (lines["checkpoints"] == "all")
    key &= lines["group"] == "all"
    plain, log = lines[key & ~lines["log"]].iloc[0], lines[key & lines["log"]].iloc[0]
    assert (plain["n"], plain["n_runs"]) == (30, 15)
    r = np.corrcoef(runs["nc1_cdnv_p2"], runs["val_loss"])[0, 1]
    assert plain["r2"] == pytest.approx(r**2, rel=1e-10)
    assert log["r"] == pytest.approx(
        np.corrcoef(np.log(runs["nc1_cdnv_p2"]), runs["val_loss"])[0, 1]
    )
    signed = lines[(lines["metric"] == "gnc2_log_kernel_cov_unc") & lines["log"]]
    assert signed["r"].isna().all()
    assert set(signed["reason"]) == {"not positive"}


def test_the_table_for_a_page_has_the_numbers_of_the_table_and_its_marks(sweep):
    folder = sweep / "report" / "tables"
    lines = pd.read_csv(folder / "associations.csv")
    lines = lines[~lines["log"] & (lines["checkpoints"] == "all")].set_index(["metric", "group"])
    head, _, *rows = (folder / "associations.md").read_text().splitlines()
    kinds = [kind for kind in lines.index.unique("group") if kind != "all"]
    assert head.split(" | ")[4:-1] == [f"r, {kind}" for kind in kinds]
    for row in rows:
        metric, r, r2, _, *within = [cell.strip(" `") for cell in row.strip("|").split("|")]
        for cell, group in zip([r, *within], ["all", *kinds], strict=False):
            one = lines.loc[(metric, group)]
            if cell == "\N{EM DASH}":
                assert math.isnan(one["r"])
                continue
            number = cell.replace("\N{MINUS SIGN}", "-").removesuffix(" n.s.")
            assert float(number) == pytest.approx(one["r"], abs=0.00501)
            assert cell.endswith(" n.s.") == (one["p"] > 0.05)
        assert (r2 == "") == math.isnan(lines.loc[(metric, "all"), "r2"])


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A sweep of four runs, and reports without figures."""
    monkeypatch.setattr(figures, "draw_all", lambda *_: None)
    return write_sweep(tmp_path / "demo", widths=(64,))


def test_another_folder_takes_everything_and_the_sweep_stays_as_it_was(small, tmp_path):
    assert report(small, out=tmp_path / "page") == tmp_path / "page" / "index.html"
    assert (tmp_path / "page" / "results.parquet").exists()
    assert [path.name for path in small.iterdir()] == ["runs"]


def test_one_run_makes_a_report_too(small):
    text = report(small / "runs" / "w64-d4-e4-s0").read_text(encoding="utf-8")
    assert "The geometry of 1 language model, measured at\n    2 checkpoints." in text
    # Two points say nothing of how measures go with the loss: no empty panels, but the numbers.
    assert 'id="figures"' not in text
    assert 'id="associations"' not in text
    assert 'id="runs"' in text
    assert text.count('name="view"') == 2


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """Four runs of three checkpoints with intervals, and their report without figures."""
    shares = (0.125, 0.5, 1)
    folder = tmp_path_factory.mktemp("sweeps") / "demo"
    write_sweep(folder, widths=(64,), shares=shares, reach=0.25)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_all", "draw_trajectories"):
            patch.setattr(figures, name, lambda *_, **__: None)
        report(folder)
    return folder


def data_of(folder):
    """What the script of its page draws."""
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_ends_of_intervals_stand_behind_their_values(bounded):
    runs = pd.read_csv(bounded / "report" / "tables" / "runs.csv")
    place = list(runs).index("nc4_rate")
    names = ["nc4_rate", "centre_nc4_rate", "low_nc4_rate", "high_nc4_rate"]
    assert list(runs)[place : place + 4] == names
    assert (runs["nc4_rate"] - runs["low_nc4_rate"]).tolist() == pytest.approx(12 * [0.25])
    assert (runs["high_val_loss"] - runs["val_loss"]).tolist() == pytest.approx(12 * [0.25])
    settings = pd.read_csv(bounded / "report" / "tables" / "settings.csv").set_index("metric")
    assert settings.loc["nc1_cdnv_med_db", "min_count"] == 2
    assert settings.loc["nc1_cdnv_med_db", "groups"] == 20
    metrics = pd.read_csv(bounded / "report" / "tables" / "associations.csv")["metric"]
    assert not metrics.str.startswith(("centre_", "low_", "high_")).any()


def test_points_with_intervals_lie_at_their_centres(bounded):
    drawn = data_of(bounded)
    points = drawn["figures"]["scatter nc4_rate linear"]["data"][2]
    for reach in (points["error_x"], points["error_y"]):
        assert (reach["arrayminus"], reach["array"]) == (12 * [0.25], 12 * [0.25])
    plain = checkpoints(gather(sorted(bounded.glob("runs/*/results/*.jsonl"))))
    shown = at_centres(plain)
    # The intervals of rank_pr begin above its values, by 0.125, and end 0.25 above them.
    moved = shown.table["rank_pr"] - plain.table["rank_pr"]
    assert moved.tolist() == pytest.approx(12 * [3 / 4 * 0.25])
    low, high = panels.error_bars(shown.table, "rank_pr")
    assert ((low < shown.table["rank_pr"]) & (shown.table["rank_pr"] < high)).all()
    runs = pd.read_csv(bounded / "report" / "tables" / "runs.csv").set_index(["run", "step"])
    table = plain.table.set_index(["run", "step"]).loc[runs.index]
    assert runs["rank_pr"].tolist() == pytest.approx(table["rank_pr"].tolist())
    assert runs["centre_rank_pr"].tolist() == pytest.approx(table["centre_rank_pr"].tolist())


@pytest.mark.parametrize(
    ("loss", "entropy", "near"),
    [(2.91, 3.0, True), (2.90, 3.0, False), (8.0, 3.0, True), (2.0, math.nan, False)],
)
def test_a_loss_within_three_percent_of_the_entropy_of_frequencies_is_near(loss, entropy, near):
    assert is_near_unigram(loss, entropy) == near


def test_a_few_runs_are_described_and_not_summed_up(bounded, table, found):
    drawn = data_of(bounded)["figures"]["scatter nc4_rate linear"]["layout"]["annotations"]
    assert drawn[0]["text"] == ""
    assert drawn[1]["text"].startswith("too few for a line<br>")
    assert data_of(bounded)["figures"]["scatter nc4_rate linear"]["data"][1]["x"] == []
    assert panels.fit(table, found, "nc4_rate", log=False).headline.startswith("R")  # of 15 runs


def test_the_page_of_enough_runs_begins_with_what_relate_finds(sweep, bounded, tmp_path):
    def said(folder):
        text = (folder / "report" / "index.html").read_text(encoding="utf-8")
        return re.findall(r'<p class="finding">(.*?)</p>', text)

    # Fifteen runs of several sizes and steps: the published measures, with both held.
    controls = ["log_n_params", "step"]
    assert said(sweep) == [relate(sweep, controls=controls).conclusion]
    assert said(bounded) == []  # four runs
    # The rule in the sweep's file is used by the command and by the page.
    ruled = write_sweep(tmp_path / "ruled", reach=None)
    (ruled / "sweep.toml").write_text('[relate]\nmeasures = ["nc4_rate"]\nalpha = 0.01\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *_: None)
        report(ruled)
    found = relate(ruled, measures="nc4_rate", alpha=0.01)
    assert said(ruled) == [found.conclusion]
    cli.main(["relate", str(ruled), "--out", str(tmp_path / "relation")])
    assert found.digest in (tmp_path / "relation" / "index.html").read_text(encoding="utf-8")


def test_checkpoints_of_a_few_runs_are_drawn_against_their_step(bounded):
    drawn = data_of(bounded)["figures"]
    views = views_of(checkpoints(gather(sorted(bounded.glob("runs/*/results/*.jsonl")))).table)
    shown = {name.split()[1] for name in drawn if name.startswith("steps ")}
    assert shown == {panel.metric for view in views for panel in view.panels} | {"val_loss"}
    lines = {line["meta"]: line for line in drawn["steps val_loss log"]["data"]}
    assert lines["w64-d4-e4-s0"]["x"] == [1024, 4096, 8192]
    reach = lines["w64-d4-e4-s0"]["error_y"]
    assert reach["array"] == pytest.approx(3 * [0.25], rel=1e-5)
    assert reach["arrayminus"] == pytest.approx(3 * [0.25], rel=1e-5)
    assert drawn["steps val_loss log"]["layout"]["xaxis"]["type"] == "log"  # 256 to 8,192


def test_checkpoints_of_one_run_have_no_scatter_and_no_r2(bounded):
    report(bounded / "runs" / "w64-d4-e4-s0")
    folder = bounded / "runs" / "w64-d4-e4-s0"
    drawn = data_of(folder)
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert 'id="steps"' in text
    assert 'id="figures"' not in text
    steps = drawn["figures"]["steps val_loss log"]["layout"]["xaxis"]
    assert "type" not in steps  # 1,024 to 8,192
    found = pd.read_csv(folder / "report" / "tables" / "associations.csv")
    assert found["r2"].isna().all()
    names = {path.name for path in (folder / "report" / "figures").iterdir()}
    assert names == {f"steps_{view.name}.{kind}" for view in VIEWS for kind in ("pdf", "png")}


def test_models_that_know_little_more_than_frequencies_are_named(small):
    # The losses of these runs are from 2.7 to 3.9: of those above 97 % of 3, the page says so.
    def header(before):
        return replace(before, tokens={**before.tokens, "unigram_entropy": 3.0})

    for file in small.glob("runs/*/results/*.jsonl"):
        rewrite(file, header=header)
    text = report(small).read_text(encoding="utf-8")
    runs = pd.read_csv(small / "report" / "tables" / "runs.csv")
    assert set(runs["tokens_unigram_entropy"]) == {3.0}
    shown = checkpoints(gather(sorted(small.glob("runs/*/results/*.jsonl")))).table
    near = [(line["run"], line["step"]) for line in page._near_unigram(shown)]
    above = runs[runs["val_loss"] >= 2.91]
    assert near == list(zip(above["run"], above["step"], strict=True))
    assert 0 < len(near) < len(runs)
    assert 'id="near-unigram"' in text


def test_a_refused_column_is_named_on_the_page_and_in_no_table(small):
    first = min(small.glob("runs/*/results/*.jsonl"))
    rewrite(
        first,
        lambda row: replace(row, min_count=20) if row.metric == "nc4_rate" else row,
    )
    text = report(small).read_text(encoding="utf-8")
    assert re.findall(r'data-refused="(\w+)"', text) == ["nc4_rate"]
    drawn = data_of(small)
    notes = drawn["figures"]["scatter nc4_rate linear"]["layout"]["annotations"]
    assert notes[0]["text"] == "<b>not shown</b>"
    assert notes[1]["text"].endswith("measured with 1 and 20")
    runs = pd.read_csv(small / "report" / "tables" / "runs.csv")
    assert "nc4_rate" not in runs
    assert "nc4_rate_fullv" in runs


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["w64-d1-s0", "w128-d1-s0"], ["w64", "w128"]),
        (["w64-d1-s0", "w64-d2-s0", "w64-d1-s1"], ["d1-s0", "d2-s0", "d1-s1"]),
        (["w64-d1-s0"], ["w64-d1-s0"]),
        (["llama", "gpt-neo"], ["llama", "gpt-neo"]),
        (["a", "a"], ["a"]),
    ],
)
def test_names_are_shortened_to_what_differs(names, short):
    assert list(tables.short_names(names).values()) == short


def test_a_folder_of_results_names_no_command_that_it_cannot_be_made_by(small, tmp_path):
    # A model from elsewhere: its results lie alone, there is no config.toml to train from.
    shutil.move(small / "runs" / "w64-d4-e4-s0" / "results", tmp_path / "theirs" / "results")
    text = report(tmp_path / "theirs").read_text(encoding="utf-8")
    assert "tightframe train" not in text
    assert "tightframe measure MODEL --tokens TOKENS --out" in text
    (small / "runs" / "w64-d1-e1-s0" / "config.toml").touch()
    assert "tightframe train" in report(small / "runs" / "w64-d1-e1-s0").read_text("utf-8")


def test_models_that_no_sweep_made_are_said_to_be_measured(small):
    assert "tightframe measure MODEL --text TEXT" in report(small).read_text(encoding="utf-8")
    (small / "sweep.toml").touch()
    assert "tightframe sweep run demo.toml" in report(small).read_text(encoding="utf-8")


def test_a_setting_of_two_types_is_kept_as_words(small):
    write_sweep(small, widths=(128,), order_seed="none")
    write_sweep(small, widths=(256,), order_seed=7)
    report(small)
    rows = pd.read_parquet(small / "results.parquet")
    assert set(rows["set_order_seed"].dropna()) == {"none", "7"}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], r"demo: no such folder; expected a sweep or a run"),
        (["demo/"], r"demo: no results yet; run `tightframe measure .*demo` first"),
        (["demo/runs/"], r"demo: this sweep has no results yet; run `tightframe sweep run"),
    ],
)
def test_nothing_to_report_says_what_to_run(tmp_path, made, message):
    for folder in made:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        report(tmp_path / "demo")
    assert not (tmp_path / "demo" / "report").exists()


def test_a_checkpoint_that_was_measured_on_two_token_sets_is_not_mixed(small):
    # The same checkpoint on other tokens, with one measure: its line would hold both.
    first = min(small.glob("runs/*/results/*.jsonl"))
    other = first.parent / "step-other.jsonl"
    shutil.copy(first, other)
    tokens = {"name": "novels", "fingerprint": "999999999999"}
    rewrite(
        other,
        lambda row: row if row.metric == "rank_pr" else None,
        lambda header: replace(header, tokens=tokens),
    )
    with pytest.raises(
        UserError,
        match=r"w64-d1-e1-s0 at step 1024 was measured on 2 token sets, stories \(0f1e2d3c4b5a\) "
        r"and novels \(999999999999\); keep the results files of one of them",
    ):
        report(small)


def test_the_tokens_of_a_checkpoint_are_facts_and_no_measure(sweep, found):
    runs = pd.read_csv(sweep / "report" / "tables" / "runs.csv")
    assert set(runs["tokens_name"]) == {"stories"}
    assert set(runs["tokens_fingerprint"]) == {"0f1e2d3c4b5a"}
    assert not [metric for metric in found["metric"] if metric.startswith("tokens")]


def test_runs_on_different_texts_are_reported_with_a_warning(small):
    assert 'id="texts"' not in report(small).read_text(encoding="utf-8")
    tokens = {"name": "<b>x", "fingerprint": "99ab"}
    for file in small.glob("runs/w64-d4-e4-s0/results/*.jsonl"):
        rewrite(file, header=lambda header: replace(header, tokens=tokens))
    text = report(small).read_text(encoding="utf-8")
    assert "<b>These models were measured on 2 different texts</b>: " in text
    assert "&lt;b&gt;x (99ab), stories (0f1e2d3c4b5a). Losses on different texts" in text


def test_results_without_a_loss_are_refused(small):
    for file in small.glob("runs/*/results/*.jsonl"):
        rewrite(file, lambda row: None if row.metric == "val_loss" else row)
    with pytest.raises(UserError, match="its results have no validation loss"):
        report(small)


def sheet(shown, drawn, panels, scale):
    """Panels of the page as a figure for print."""
    panels = figures._panels(panels, "scatter {} " + scale, drawn)
    columns = 2 if len(panels) == 4 else 3
    sizes = SizeScale.of(shown.table)
    return figures.draw_panels(panels, drawn["shared"], columns=columns, sizes=sizes)


def test_the_same_rows_give_the_same_figures_to_the_byte(shown, found, tmp_path, monkeypatch):
    robust = views_of(shown.table)[1]
    monkeypatch.setattr(figures, "views_of", lambda table: (robust,))
    drawn = page.figures(shown, found, pd.DataFrame())
    figures.draw_all(shown.table, drawn, tmp_path)
    names = {
        f"robust{part}{log}.{kind}"
        for part in ("", "_nc2_nc3")
        for log in ("", "_log")
        for kind in ("pdf", "png")
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    again = sheet(shown, drawn, robust.more, "log")
    for kind in ("pdf", "png"):
        figures.save(again, tmp_path / f"again.{kind}")
        first = (tmp_path / f"robust_nc2_nc3_log.{kind}").read_bytes()
        assert len(first) > 10_000
        assert (tmp_path / f"again.{kind}").read_bytes() == first


def test_a_figure_names_its_measures_and_draws_line_floor_and_points(shown, found):
    figure = sheet(shown, page.figures(shown, found, pd.DataFrame()), PUBLISHED.main, "linear")
    axes = figure.axes[0]
    assert axes.get_xlabel().startswith("nc1_cdnv_p2")
    assert "more collapsed" in axes.get_xlabel()
    written = [text.get_text() for text in axes.texts]
    assert any(text.startswith("R\N{SUPERSCRIPT TWO} = 0.") for text in written)
    assert "entropy floor 1.962 (realised 1.957)" in written
    assert len(axes.collections[0].get_offsets()) == 30


def test_the_views_show_the_measures_that_the_study_declares_and_computes_unasked():
    assert {panel.metric for panel in PUBLISHED.panels} == set(measures.PUBLISHED)
    forms = {name for view in VIEWS for panel in view.panels for name in panel.forms}
    assert {name for panel in ROBUST.panels for name in panel.forms} >= set(measures.ROBUST)
    assert forms <= set(measures.DEFAULT)


@pytest.mark.parametrize(
    ("counts", "shown", "words"),
    [
        # Debiased by groups where all checkpoints have it, else what most of them have.
        ({"dbg": 9, "db": 9, "": 9}, "dbg", "what the choice of documents adds"),
        ({"dbg": 4, "db": 9, "": 9}, "db", "as if the positions of a document did not depend"),
        ({"db": 9, "": 9}, "db", "as if the positions of a document did not depend"),
        ({"": 9}, "", "in these results not corrected"),
        ({}, "dbg", "what the choice of documents adds"),
    ],
)
def test_the_robust_view_shows_the_best_form_that_results_have(counts, shown, words):
    name = "gnc2_log_kernel_excess"
    columns = {f"{name}_{ending}".rstrip("_"): n for ending, n in counts.items()}
    table = pd.DataFrame({x: [1.0] * n + [math.nan] * (9 - n) for x, n in columns.items()})
    panel = views_of(table)[1].main[1]
    assert panel.metric == f"{name}_{shown}".rstrip("_")
    assert words in panel.meaning.lower()
    for metric in columns:
        assert best_form(metric, columns) == panel.metric
    assert best_form("nc2_etf_error", columns) == "nc2_etf_error"


def test_what_has_no_debiased_form_says_so_in_the_view():
    plain = [p for p in ROBUST.panels if "There is no form of it without the noise" in p.meaning]
    assert [p.metric for p in plain] == ["unc3_cos_var", "nc2_equinorm_std_log", "nc2_equiang_std"]
    debiased = {p.metric for p in ROBUST.panels if p.others}
    assert debiased == {
        f"{x}_dbg" for x in ("nc1_cdnv_med", "gnc2_log_kernel_excess", "nc3_cos_mean")
    }


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("nc1_cdnv_p2", "\N{LEFTWARDS ARROW} more collapsed"),
        ("nc4_rate", "more collapsed \N{RIGHTWARDS ARROW}"),
        ("gnc2_log_kernel_excess", "0 when collapsed"),
    ],
)
def test_an_axis_says_which_way_is_more_collapsed(metric, words):
    assert arrow(metric) == words


def test_the_line_of_a_fit_ends_at_the_smallest_and_largest_value(table, found):
    drawn = panels.fit(table, found, "nc4_rate", log=False)
    slope, intercept = np.polyfit(table["nc4_rate"], table["val_loss"], 1)
    assert drawn.x == (table["nc4_rate"].min(), table["nc4_rate"].max())
    assert drawn.y == pytest.approx([slope * x + intercept for x in drawn.x])
    assert drawn.free_corner == "right"  # it falls


def test_a_measure_that_is_not_positive_keeps_its_linear_axis_and_says_so(table, found):
    drawn = panels.fit(table, found, "gnc2_log_kernel_cov_unc", log=True)
    assert not drawn.log
    assert drawn.detail.endswith("linear: not all positive")
    assert panels.fit(table, found, "nc1_cdnv_p2", log=True).log


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.02, 30.0, (0.1, 1, 10)),
        (0.31234, 0.31234, (0.31234,)),
        (0.4, 4.6, (0.5, 1, 2)),
        (0.2, 0.7, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
        (0.034, 0.15, (0.04, 0.06, 0.08, 0.1, 0.15)),
    ],
)
def test_the_ticks_of_a_logarithmic_axis_are_round_and_few(low, high, ticks):
    assert panels.log_ticks(low, high) == ticks


def test_a_floor_far_below_the_losses_does_not_squeeze_them(table):
    # Losses within 0.3: a floor 1.0 below would leave them a quarter of the axis.
    near = table.assign(val_loss=np.linspace(3.0, 3.3, len(table)))
    assert panels.loss_range(near.assign(entropy_floor=2.0))[0] > 2.9
    assert panels.loss_range(near.assign(entropy_floor=2.8))[0] < 2.8


def test_models_without_a_measure_do_not_stretch_the_loss_axis(table):
    shown = [panel.metric for view in views_of(table) for panel in view.panels]
    far = table.iloc[:1].drop(columns=shown)
    far = pd.concat([table, far.assign(val_loss=50.0)], ignore_index=True)
    assert panels.loss_range(far) == panels.loss_range(table)
    assert panels.loss_range(far[far["val_loss"] == 50])[1] > 50  # it alone


def test_a_panel_without_a_line_says_why(table):
    texts = [f"{i % 2}" for i in range(len(table))]
    mixed = table.assign(tokens_fingerprint=texts)
    drawn = panels.fit(mixed, associations(mixed, ["nc4_rate"]), "nc4_rate", log=False)
    assert drawn.headline == "no R\N{SUPERSCRIPT TWO}"
    assert drawn.detail == "losses on 2 texts can't be compared\n30 points, 15 runs"
    assert drawn.x is None


@pytest.mark.parametrize(
    ("n", "words"),
    [(12, "12"), (812_345, "812 k"), (999_999, "1 M"), (1_239_999, "1.24 M"), (2e9, "2 B")],
)
def test_parameters_are_written_to_three_digits(n, words):
    assert rendering.parameters(n) == words


def test_models_of_one_size_still_have_a_colour_scale(table):
    scale = panels.SizeScale.of(table.assign(model_n_parameters=1000))
    assert scale.low < 1000 < scale.high
    assert scale.ticks == (1000,)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one, other):
    """Of WCAG 2: from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_points_stand_out_from_their_ground(dark):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    look = {name: pair[int(dark)] for name, pair in rendering.COLOURS.items()}
    for ground in ("page", "card", "mark"):
        for words in ("ink", "soft", "accent"):
            assert contrast(look[words], look[ground]) >= 4.5, (words, ground)
    assert contrast(look["floor"], look["card"]) >= 4.5
    assert min(contrast(look[line], look["card"]) for line in ("next", "current", "shuffled")) >= 3
    assert contrast(look["on-accent"], look["accent"]) >= 4.5
    assert min(contrast(pair[int(dark)], look["card"]) for pair in panels.SIZES) >= 3


def test_looks_while_training_are_no_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda *a: None)
    folder = write_courses(write_sweep(tmp_path / "demo", widths=(64,)))
    text = report(folder).read_text(encoding="utf-8")
    assert "8 checkpoints" in text
    assert "While training" in text
    written = pd.read_csv(folder / "report" / "tables" / "runs.csv")
    assert len(written) == 8
    courses = pd.read_csv(folder / "report" / "tables" / "training.csv")
    assert list(courses["step"]) == 2 * [0, 10, 100, 1000]
    assert courses["nc1_cdnv_p2"][4] == 16
    drawn = {path.name for path in (folder / "report" / "figures").iterdir()}
    assert drawn == {"training_published.pdf", "training_published.png"}  # none of the robust view


def test_looks_alone_make_a_report_too(tmp_path):
    folder = write_courses(tmp_path / "demo")
    text = report(folder).read_text(encoding="utf-8")
    assert "The geometry of 2 language models, measured while\n    they were trained" in text
    for absent in ('id="figures"', 'id="associations"', 'id="runs"', "checkpoint</dt>"):
        assert absent not in text
    assert sorted(path.name for path in (folder / "report" / "tables").iterdir()) == [
        "training.csv"
    ]


def test_published_tables_are_written_where_their_columns_were_measured(small):
    report(small)
    assert not list((small / "report" / "tables").glob("lc-*"))
    file = min(small.glob("runs/w64-d1-e1-s0/results/*.jsonl"))
    header, rows = read_rows(file)
    row = next(row for row in rows if row.metric == "rank_pr")
    write_rows(file, header, [*rows, replace(row, metric="compat10.cdnv")])
    report(small)
    assert [p.name for p in (small / "report" / "tables").glob("lc-*")] == ["lc-2024-10.csv"]
    written = pd.read_csv(small / "report" / "tables" / "lc-2024-10.csv")
    assert written["model"].tolist() == ["w64-d1-e1-s0@1024"]
    associated = pd.read_csv(small / "report" / "tables" / "associations.csv")["metric"]
    assert not associated.str.startswith("compat").any()


def test_a_trajectory_is_a_line_a_run_in_the_order_of_steps(tmp_path):
    folder = write_courses(tmp_path / "demo")
    rows = gather(sorted(folder.glob("runs/*/results/*.jsonl"), reverse=True))
    table = checkpoints(rows, subset="probe").table
    drawn = panels.trajectory(table, "nc1_cdnv_p2")
    assert drawn.positive
    first, second = drawn.lines
    assert (first.run, second.run) == ("w64-d1-e1-s0", "w64-d4-e4-s0")
    assert (first.size, second.size) == (1e5, 1e6)
    assert first.steps == second.steps == (0, 10, 100, 1000)
    assert first.values == (8, 8 / 11**0.5, 8 / 101**0.5, 8 / 1001**0.5)
    assert drawn.step_ticks == (10, 100, 1000)  # step 0 is not on a logarithmic axis
    signed = panels.trajectory(table, "gnc2_log_kernel_cov_unc")
    assert not signed.positive
    assert signed.value_ticks == ()
    assert panels.trajectory(table, "nc4_rate") is None


def test_a_measure_at_one_of_several_steps_has_no_trajectory(tmp_path):
    rows = gather(sorted(write_courses(tmp_path / "demo").glob("runs/*/results/*.jsonl")))
    table = checkpoints(rows, subset="probe").table
    lone = table.assign(nc1_cdnv_p2=table["nc1_cdnv_p2"].where(table["step"] == 10))
    assert panels.trajectory(lone, "nc1_cdnv_p2") is None
    assert panels.trajectory(table.iloc[:0], "nc1_cdnv_p2") is None
    unknown = table.assign(nc1_cdnv_p2=math.nan)
    assert panels.trajectory(unknown, "nc1_cdnv_p2") is None
    first = table[table["step"] == 0]  # a training that has just begun
    lines = panels.trajectory(first, "nc1_cdnv_p2").lines
    assert [line.values for line in lines] == [(8.0,), (16.0,)]


def test_the_figure_of_trajectories_has_a_panel_a_measure(tmp_path):
    rows = gather(sorted(write_courses(tmp_path / "demo").glob("runs/*/results/*.jsonl")))
    nothing, looks = checkpoints(rows), checkpoints(rows, subset="probe").table
    drawn = page.figures(nothing, pd.DataFrame(), looks)
    panels = figures._panels(PUBLISHED.panels, "training {} log", drawn)
    first, second = figures.draw_panels(panels, drawn["shared"]).axes
    assert [first.get_xscale(), first.get_yscale()] == ["log", "log"]
    assert [second.get_xscale(), second.get_yscale()] == ["log", "linear"]
    assert [list(line.get_xdata()) for line in first.lines] == [[10, 100, 1000]] * 2
    assert first.get_ylabel().startswith("nc1_cdnv_p2\n(\N{DOWNWARDS ARROW} more collapsed")
