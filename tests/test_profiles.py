"""One checkpoint layer by layer and by frequency: which rows, which lines, what the page has."""

import dataclasses
import itertools
import json
import math
import re

import pandas as pd
import pytest

from example_results import rewrite, write_layers, write_sweep
from test_page import browser, open_page  # noqa: F401
from tightframe.analysis.profiles import by_frequency, by_layer
from tightframe.geometry.views import views_of
from tightframe.lm.interface import PRENORM
from tightframe.report import figures, profiles, report
from tightframe.results import gather

HOSTILE = "<img src=x onerror=alert(1)>"
LOSSES = pd.Series({"a": 3.0, "b": 2.0})
LAST = pd.DataFrame({"nc1_cdnv_med_db": [0.5], "nc3_cos_mean": [0.5]})  # of the last layers


def rows_of(*folders):
    return gather(sorted(file for folder in folders for file in folder.glob("results/*.jsonl")))


@pytest.fixture
def rows(tmp_path):
    return rows_of(write_layers(tmp_path / "a", "a"))


def drawn(rows, twin=None):
    """The profiles by kind."""
    twins = {} if twin is None else {"a": (7, twin)}
    return {one.kind: one for one in profiles.profiles(rows, LOSSES, twins)}


def small(profile, metric):
    return next(one for one in profile.smalls if one.panel.metric == metric)


def test_the_best_run_that_has_several_layers_is_shown_at_its_last_step(tmp_path, rows):
    a = by_layer(rows, LOSSES)
    assert set(a["layer"]) == {0, 1, 2, PRENORM, 3}
    assert set(a["metric"]) == {"nc1_cdnv_med_db", "rank_pr", "nc3_cos_mean"}  # losses are of none
    b = rows_of(write_layers(tmp_path / "b", "b"))
    assert set(by_layer(pd.concat([rows, b]), LOSSES)["run"]) == {"b"}
    last_only = b[b["layer"] == 3]
    assert set(by_layer(pd.concat([rows, last_only]), LOSSES)["run"]) == {"a"}
    assert by_layer(last_only, LOSSES).empty
    later = rows.assign(step=9)
    assert set(by_layer(pd.concat([later, rows]), LOSSES)["step"]) == {9}


def test_a_line_is_of_one_minimum_count_which_most_layers_have(rows):
    # At the last layer also with one sample a class: no line may mix the two.
    thirty = rows.assign(min_count=30)
    last = rows[rows["layer"] == 3].assign(value=99.0)
    found = by_layer(pd.concat([last, thirty]), LOSSES)
    assert set(found["min_count"]) == {30}
    assert set(by_layer(pd.concat([thirty, rows]), LOSSES)["min_count"]) == {30}  # the largest
    # All kinds of labels share it: next tokens alone have the larger one.
    next_alone = thirty[thirty["labels"] == "next"]
    found = by_layer(pd.concat([next_alone, rows]), LOSSES)
    assert set(found.loc[found["metric"] == "rank_pr", "min_count"]) == {1}
    assert set(found["labels"]) == {"next", "current", "shuffled"}


def test_a_line_is_of_one_way_of_measuring_that_has_several_layers(rows):
    # All layers in bfloat16, or without first positions, are another profile: the plain one is
    # shown, unless it has the last layer alone.
    for way in ({"measured_precision": "bf16"}, {"measured_skip_positions": 1}):
        odd = rows.assign(value=99.0, **way)
        for both in (pd.concat([rows, odd]), pd.concat([odd, rows])):
            assert not (by_layer(both, LOSSES)["value"] == 99).any()
        last = pd.concat([rows[rows["layer"] == 3], odd])
        assert (by_layer(last, LOSSES)["value"] == 99).all()
        assert drawn(rows, rows.assign(run="a-random"))["layers"].seed == 7
        assert drawn(rows, odd.assign(run="a-random"))["layers"].seed is None


def test_strata_are_taken_at_the_last_layer_beside_all_classes(rows):
    inner = rows.assign(layer=0)
    found = by_frequency(pd.concat([inner, rows]), LOSSES)
    assert set(found["layer"]) == {3}
    assert set(found["labels"]) == {"next"}  # the others have no strata
    assert set(found["subset"]) == {"all", "count 1", "count 100-299", "count 1000-9999"}
    assert by_frequency(rows[rows["subset"] == "all"], LOSSES).empty


def test_lines_go_from_the_embedding_through_the_blocks_to_the_final_norm(rows):
    profile = drawn(rows)["layers"]
    assert profile.ticks == ((0, "0"), (1, "1"), (2, "2"), (3, "3"), (3.75, "final"))
    ranks = small(profile, "rank_pr")
    assert ranks.panel.title == "Dimensions filled, of 32"
    assert [line.labels for line in ranks.lines] == ["next", "current", "shuffled"]
    # What the classifier multiplies stands apart, and is not joined to the last block.
    assert ranks.lines[0].x == (0, 1, 2, 3, 3.25, 3.75)
    assert ranks.lines[0].y == pytest.approx((5, 6, 7, 8, math.nan, 9), nan_ok=True)
    duality = small(profile, "nc3_cos_mean").lines
    sixty_fourths = [[64 * end for end in ends] for ends in (duality[0].low, duality[0].high)]
    assert sixty_fourths[0] == pytest.approx((-1, 0, 1, 2, math.nan, 3), nan_ok=True)
    assert sixty_fourths[1] == pytest.approx((1, 2, 3, 4, math.nan, 5), nan_ok=True)
    assert all(math.isnan(low) for low in duality[1].low)


def test_of_a_deep_model_some_layers_are_named_and_no_two_names_meet(tmp_path):
    deep = drawn(rows_of(write_layers(tmp_path / "a", "a", depth=32)))["layers"]
    names = [name for _, name in deep.ticks]
    assert names == ["0", "4", "8", "12", "16", "20", "24", "28", "32", "final"]
    names = [
        n for _, n in drawn(rows_of(write_layers(tmp_path / "b", "b", depth=30)))["layers"].ticks
    ]
    assert names == ["0", "4", "8", "12", "16", "20", "24", "30", "final"]  # 28 is too near


@pytest.mark.parametrize("depth", [*range(1, 13), 19, 20, 24, 30, 36, 48, 80, 99, 126])
def test_no_two_names_of_layers_meet(depth):
    # A panel is about 270 pixels wide, a digit 8, and "final" 30.
    ticks = profiles._layer_ticks([PRENORM, *range(depth + 1)], depth)
    places = [270 * place / (ticks[-1][0] * 1.12) for place, _ in ticks]
    widths = [30 if name == "final" else 8 * len(name) for _, name in ticks]
    for (a, b), (one, other) in zip(
        itertools.pairwise(places), itertools.pairwise(widths), strict=True
    ):
        assert b - a > (one + other) / 2 + 2
    assert ticks[-2] == (depth, str(depth))  # numbers end at the last block


def test_what_an_axis_cannot_hold_is_said(rows):
    nc1 = small(drawn(rows)["layers"], "nc1_cdnv_med_db")
    assert nc1.log
    assert [line.labels for line in nc1.lines] == ["next", "current"]
    assert nc1.left_out == "Not drawn: shuffled labels, infinite at 5 places."
    zero = (rows["layer"] == 0) & (rows["labels"] == "current")
    spoilt = rows.assign(value=rows["value"].mask(zero, 0.0))
    first = small(drawn(spoilt)["layers"], "nc1_cdnv_med_db")
    assert "current token, not positive at the input embedding;" in first.left_out
    assert first.lines[1].x == (1, 2, 3, 3.25, 3.75)


def test_strata_stand_in_the_order_of_their_counts_and_all_classes_apart(rows):
    profile = drawn(rows)["frequency"]
    assert [name for _, name in profile.ticks] == ["1", "100", "1k", "all"]
    duality = small(profile, "nc3_cos_mean")
    assert duality.left_out == "Not drawn: next token, too few at count 1."  # three classes
    (line,) = duality.lines
    assert line.x[0] == 1
    assert line.y[:2] == (0.4, 0.5)
    assert math.isnan(line.y[2])  # the line is broken there
    assert line.y[3] == 4 / 64
    assert "all classes" in line.hover[3]
    assert profile.keys == (("next", False),)


def test_the_twin_is_dashed_beside_its_run_and_never_shuffled(tmp_path, rows):
    twin = rows_of(write_layers(tmp_path / "a", "a", twin=7) / "random-7")
    profile = drawn(rows, twin)["layers"]
    assert profile.seed == 7
    assert profile.keys[3:] == (("next", True), ("current", True))
    nc1 = small(profile, "nc1_cdnv_med_db").lines
    assert nc1[2].y == pytest.approx([2 * value for value in nc1[0].y], nan_ok=True)
    assert "next token, random weights" in nc1[2].hover[0]
    elsewhere = twin.assign(tokens_fingerprint="another text")
    assert drawn(rows, elsewhere)["layers"].seed is None


def test_sinks_are_told_of_the_run_that_is_shown(tmp_path, monkeypatch):
    for name in ("draw_all", "draw_profile"):
        monkeypatch.setattr(figures, name, lambda *arguments: None)
    folder = write_layers(tmp_path / "a", "a")
    assert "data-sinks" not in report(folder).read_text(encoding="utf-8")
    for file in folder.glob("results/*.jsonl"):
        found = {"sinks": "attention sinks: <b>at layer 2"}
        rewrite(file, header=lambda h, found=found: dataclasses.replace(h, measurement=found))
    text = report(folder).read_text(encoding="utf-8")
    assert text.count("data-sinks>Attention sinks: &lt;b&gt;at layer 2.") == 1


def test_a_twin_with_another_minimum_count_is_no_comparison(tmp_path, rows):
    twin = rows_of(write_layers(tmp_path / "a", "a", twin=7) / "random-7")
    rank = twin["metric"] == "rank_pr"
    other = twin.assign(min_count=twin["min_count"].mask(rank, 20))
    profile = drawn(rows, other)["layers"]
    assert {line.twin for line in small(profile, "rank_pr").lines} == {False}
    assert {line.twin for line in small(profile, "nc3_cos_mean").lines} == {False, True}


def test_a_panel_shows_the_measure_with_the_most_lines(rows):
    # As the guide measures it: the ratio of means of both labels, the median of one.
    ratio = rows[rows["metric"] == "rank_pr"].assign(metric="nc1_cdnv_rom_db", min_count=2)
    median = (rows["metric"] == "nc1_cdnv_med_db") & (rows["labels"] == "current")
    profile = drawn(pd.concat([rows[~median], ratio]))["layers"]
    assert [one.panel.metric for one in profile.smalls] == [
        *("nc1_cdnv_rom_db", "rank_pr", "nc3_cos_mean")
    ]
    both = drawn(pd.concat([rows, ratio]))["layers"]
    assert both.smalls[0].panel.metric == "nc1_cdnv_med_db"


def test_measures_without_a_place_of_their_own_fill_what_is_free(rows):
    error = rows[rows["metric"] == "rank_pr"].assign(metric="nc2_etf_error")
    profile = drawn(pd.concat([rows, error]))["layers"]
    assert profile.smalls[-1].panel.metric == "nc2_etf_error"
    assert profile.smalls[-1].panel.family == "NC2"
    explained = [panel.metric for panel in profiles.explained([profile], views_of(LAST))]
    assert explained == ["nc2_etf_error", "rank_pr"]  # the others stand in a view


def test_shuffled_labels_alone_and_lone_places_have_no_panel(rows):
    shuffled = rows[(rows["metric"] == "rank_pr") & (rows["labels"] == "shuffled")]
    alone = shuffled.assign(metric="nc2_etf_error")
    at_last = rows[(rows["metric"] == "rank_pr") & (rows["layer"] == 3)]
    single = at_last.assign(metric="nc3_dual_error")
    shown = drawn(pd.concat([rows, alone, single]))["layers"].smalls
    assert {one.panel.metric for one in shown} == {"nc1_cdnv_med_db", "rank_pr", "nc3_cos_mean"}


def test_by_frequency_without_strata_that_hold_enough_is_left_out(rows):
    few = rows.assign(n=rows["n"].mask(rows["subset"] != "all", 3))
    assert set(drawn(few)) == {"layers"}


def test_lines_go_through_the_centres_of_their_bands(rows):
    at = (rows["metric"] == "nc3_cos_mean") & (rows["labels"] == "next") & (rows["layer"] == 1)
    at &= rows["subset"] == "all"
    raised = rows.assign(
        low=rows["low"].mask(at, 1.5 / 64), centre=rows["centre"].mask(at, 1.75 / 64)
    )
    line = small(drawn(raised)["layers"], "nc3_cos_mean").lines[0]
    low, y = ([64 * number for number in numbers] for numbers in (line.low, line.y))
    assert low == pytest.approx((-1, 1.5, 1, 2, math.nan, 3), nan_ok=True)
    assert y == pytest.approx((0, 1.75, 2, 3, math.nan, 4), nan_ok=True)
    assert "with small counts' bias 0.01562" in line.hover[1]
    table = profiles.table(drawn(raised)["layers"])
    assert table.loc[table["low"] == 1.5 / 64, "value"].tolist() == [1 / 64]


def test_the_table_has_every_value_once(tmp_path, rows):
    profile = drawn(rows, rows_of(write_layers(tmp_path / "a", "a", twin=7) / "random-7"))["layers"]
    table = profiles.table(profile)
    assert len(table) == 5 * 3 * (3 + 2)
    assert table["layer"].tolist()[:5] == [0, 1, 2, PRENORM, 3]
    assert not table.duplicated(["twin", "labels", "layer", "metric"]).any()


def test_a_figure_has_a_panel_a_measure_and_a_line_a_kind(tmp_path, rows):
    profile = drawn(rows)["layers"]
    drawn_figures = {"figures": profiles.figures(profile), "shared": {}}
    figures.draw_profile(profile, drawn_figures, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("layers.*")) == ["layers.pdf", "layers.png"]
    first = (tmp_path / "layers.pdf").read_bytes()
    figures.draw_profile(profile, drawn_figures, tmp_path)
    assert (tmp_path / "layers.pdf").read_bytes() == first


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run with strangers' words as its name; its figures for print are left out."""
    folder = write_layers(tmp_path_factory.mktemp("runs") / "theirs", HOSTILE)
    write_layers(folder, HOSTILE, twin=12)
    write_layers(folder, HOSTILE, twin=9)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_all", "draw_profile"):
            patch.setattr(figures, name, lambda *arguments: None)
        return report(folder)


def figures_of(text):
    """What the script of a page draws, by name; NaN is no JSON."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    json.dumps(data, allow_nan=False)
    return data["figures"]


def test_the_page_of_a_run_has_both_sections_and_its_twin_in_them_only(page):
    text = page.read_text(encoding="utf-8")
    assert "random weights (seed 9)" in text  # the smallest of its seeds
    assert "measured at\n    1 checkpoint" in text
    assert len(pd.read_csv(page.parent / "tables" / "runs.csv")) == 1
    assert set(pd.read_csv(page.parent / "tables" / "layers.csv")["twin"]) == {True, False}
    assert set(pd.read_csv(page.parent / "tables" / "frequency.csv")["twin"]) == {True, False}
    assert {name.split()[0] for name in figures_of(text)} == {"layers", "frequency"}
    rows = pd.read_parquet(page.parent.parent / "results.parquet")
    assert set(rows["run"]) == {HOSTILE}


def test_a_sweep_shows_its_best_run_and_pages_without_layers_have_no_such_section(
    tmp_path, monkeypatch
):
    for name in ("draw_all", "draw_profile"):
        monkeypatch.setattr(figures, name, lambda *arguments: None)
    folder = write_sweep(tmp_path / "demo", widths=(64,))
    before = report(folder).read_text(encoding="utf-8")
    assert 'id="layers"' not in before
    assert not any(name.startswith(("layers", "frequency")) for name in figures_of(before))
    names = ("runs", "associations")
    tables = [pd.read_csv(folder / "report" / "tables" / f"{name}.csv") for name in names]
    # Layers, labels and strata of a checkpoint that is there already, and its twin.
    run = folder / "runs" / "w64-d1-e1-s0"
    write_layers(run, run.name, depth=1, step=1024, beside=True)
    write_layers(run, run.name, depth=1, step=1024, twin=1)
    after = report(folder).read_text(encoding="utf-8")
    assert f"<p>{run.name} at step 1,024, from the input embedding" in after
    assert "random weights (seed 1)" in after
    for name, table in zip(names, tables, strict=True):
        again = pd.read_csv(folder / "report" / "tables" / f"{name}.csv")
        pd.testing.assert_frame_equal(again, table, check_dtype=False)


@pytest.mark.browser
def test_the_lines_are_drawn_in_both_schemes_and_widths(browser, page):  # noqa: F811
    opened = open_page(browser, page, waiting_for="[data-figure^=layers] .points path")
    plot = opened.locator('[data-figure="layers nc3_cos_mean"]')
    shown = "p => p.data.filter(t => t.hoverinfo === 'text').map(t => [t.line.color, t.line.dash])"
    assert plot.evaluate(shown) == [
        ["#41329b", "solid"],
        ["#b3500f", "solid"],
        ["#6b6f78", "solid"],
        ["#41329b", "5px,4px"],
        ["#b3500f", "5px,4px"],
    ]
    assert plot.evaluate("p => p.data.filter(t => t.fill === 'toself').length") == 2
    names = "p => p.layout.xaxis.ticktext"
    assert plot.evaluate(names) == ["0", "1", "2", "3", "final"]
    plot.locator(".points path").nth(4).hover(force=True)
    opened.wait_for_selector(".hoverlayer .hovertext")
    assert "after the final norm" in plot.locator(".hoverlayer").text_content()
    for width in (1280, 390):
        opened.set_viewport_size({"width": width, "height": 844})
        opened.wait_for_function(
            "w => document.querySelector('[data-figure^=layers] .main-svg').clientWidth < w",
            arg=width / 2 + 200,
        )
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.emulate_media(color_scheme="dark")
    assert plot.evaluate(shown)[0] == ["#b7adff", "solid"]
    assert opened.locator("img").count() == 0
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    assert opened.requests == [page.as_uri()]
    opened.close()
