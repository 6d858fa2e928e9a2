"""The page: what it says, that strangers' words stay words, and how it behaves in a browser."""

import base64
import dataclasses
import functools
import hashlib
import html
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from example_results import rewrite, write_courses, write_sweep
from tightframe.analysis.association import associations
from tightframe.analysis.checkpoints import checkpoints
from tightframe.geometry.views import PUBLISHED, views_of
from tightframe.report import page, rendering, tables
from tightframe.report.panels import correlation
from tightframe.results import gather, read_rows

CHROMIUM = Path("/usr/bin/chromium")
LINES = '.plot[data-figure^="training"]'
IMAGE = "<img src=x onerror=window.hacked=1>"
SCRIPT = "</script><script>window.hacked=1</script>"
LINK = '<a href="javascript:window.hacked=1">%{x} &amp; "quoted"</a>'


def read(folder):
    """The checkpoints, their associations and the headers of a sweep."""
    files = sorted(folder.glob("runs/*/results/*.jsonl"))
    shown = checkpoints(gather(files))
    shown = shown._replace(table=tables.with_floors(shown.table))
    found = associations(shown.table, tables.measured(shown.table))
    return shown, found, [read_rows(file)[0] for file in files]


def write_page(folder, name="demo"):
    """The page of a sweep, as text and as a file."""
    shown, found, headers = read(folder)
    text = page.render(shown, found, headers, name=name, commands=[f"tightframe report {name}"])
    (folder / "index.html").write_text(text, encoding="utf-8")
    return text


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "demo")
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def text(sweep):
    return (sweep / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A sweep whose names, runs and settings are somebody's attempt to run a script."""
    folder = tmp_path_factory.mktemp("sweeps") / "hostile"
    # A folder's name cannot hold a slash, the name of a run in the rows can hold anything.
    write_sweep(folder, widths=(64, 128), recipe=SCRIPT, tokens=IMAGE, link=LINK)
    for i, file in enumerate(sorted(folder.glob("runs/*/results/*.jsonl"))):
        named = functools.partial(dataclasses.replace, run=f"{(IMAGE, SCRIPT, LINK)[i % 3]}{i}")
        rewrite(file, named, named)
    write_page(folder, name=f"{IMAGE}{SCRIPT}")
    return folder


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_is_one_file_that_names_no_other(text):
    outside = text.replace(rendering.get_plotlyjs(), "")
    assert not re.search(r"(src|href)=(?!\"#)", outside)
    assert "@import" not in outside
    assert "url(" not in outside
    assert 4e6 < len(text) < 6e6  # plotly.js is 4.8 MB of it


def test_only_the_two_scripts_of_the_page_may_run(text):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in re.search(r"script-src ([^;]*)", policy)[1]


def test_the_page_has_a_language_a_title_headings_and_landmarks(text):
    assert '<html lang="en">' in text
    assert "<title>demo: collapse and validation loss</title>" in text
    assert len(re.findall(r"<h1", text)) == 1
    assert all(f"<{mark}" in text for mark in ("header", "nav", "main", "footer"))


def test_every_point_has_its_value_in_every_panel(sweep, text):
    table = read(sweep)[0].table
    data = data_of(text)
    assert data["shared"]["loss"] == pytest.approx(table["val_loss"].tolist(), rel=1e-6)
    for metric in (panel.metric for view in views_of(table) for panel in view.panels):
        assert data["shared"][metric] == pytest.approx(table[metric].tolist(), rel=1e-6)
        for scale in ("linear", "log"):
            points = data["figures"][f"scatter {metric} {scale}"]["data"][2]
            assert points["x"] == {"shared": metric}
            assert points["y"] == {"shared": "loss"}


def test_the_lines_of_a_run_join_its_checkpoints_in_order(sweep, text):
    table = read(sweep)[0].table
    joined = data_of(text)["shared"]["loss of runs"]
    threads = [[]]
    for loss in joined[:-1]:
        threads.append([]) if loss is None else threads[-1].append(loss)
    expected = [run["val_loss"].tolist() for _, run in table.sort_values("step").groupby("run")]
    assert sorted(threads) == [pytest.approx(losses, rel=1e-6) for losses in sorted(expected)]


def test_hover_names_the_run_its_loss_and_its_settings(text):
    hover = next(
        h for h in data_of(text)["shared"]["hover"] if "w64-d4-e4" in h and "step 8,192" in h
    )
    assert hover.startswith("<b>w64-d4-e4-s0</b><br>step 8,192; ")
    assert re.search(r"loss \d\.\d{3}, \d\.\d{3} above the floor", hover)
    plain = hover.replace("<br>", " ").replace("\N{NO-BREAK SPACE}", " ")
    assert all(w in plain for w in ("width 64", "depth 4", "epochs 4", "recipe small-data"))


def test_a_page_without_floors_has_no_line_for_them(tmp_path):
    text = write_page(write_sweep(tmp_path / "demo", widths=(64,), known_floor=False))
    assert all(one["layout"].get("shapes", []) == [] for one in data_of(text)["figures"].values())
    assert "Entropy floor" not in text
    assert "above floor" not in text


def test_the_best_run_may_be_on_a_text_whose_floor_is_not_known(sweep):
    shown, found, headers = read(sweep)
    table = shown.table
    best = table["val_loss"].idxmin()
    unknown = ["entropy_floor", "realised_floor", "loss_above_floor", "loss_above_realised"]
    table.loc[best, unknown] = float("nan")
    text = page.render(shown, found, headers, name="demo", commands=[])
    outside = text.replace(rendering.get_plotlyjs(), "")
    assert "nan" not in re.findall(r"[a-z]+", outside.partition('<script type="application')[0])


def test_missing_measures_leave_the_rest_of_the_page(sweep):
    shown, found, headers = read(sweep)
    robust = views_of(shown.table)[1]
    kept = shown.table.drop(columns=[panel.metric for panel in robust.main])
    found = found[found["metric"].isin(kept.columns)]
    text = page.render(shown._replace(table=kept), found, headers, name="demo", commands=[])
    shown = {
        name.split()[1]
        for name, one in data_of(text)["figures"].items()
        if one["layout"]["annotations"][0]["text"] != "<b>not shown</b>"
    }
    assert shown == {panel.metric for panel in (*PUBLISHED.panels, *robust.more)}


def test_a_measure_that_is_nan_somewhere_is_null_there(sweep):
    shown, found, _ = read(sweep)
    shown.table.loc[3, "nc4_rate"] = float("nan")
    assert page.figures(shown, found, pd.DataFrame())["shared"]["nc4_rate"][3] is None


def test_the_same_rows_give_the_same_page(sweep, text):
    shown, found, headers = read(sweep)
    assert (
        page.render(shown, found, headers, name="demo", commands=["tightframe report demo"]) == text
    )


def test_facts_are_the_different_values_in_order():
    lines = rendering.facts(
        [
            {"width": 64, "counts": {"a": 1.5}},
            {"width": 32, "counts": {"a": 1.5}, "x": None, "y": []},
        ]
    )
    assert lines == [
        ("width", ["32", "64"]),
        ("counts.a", ["1.5"]),
        ("x", ["not set"]),
        ("y", ["none"]),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.4, "0.400"),
        (-0.01234, "\N{MINUS SIGN}0.0123"),
        (1234.0, "1,234"),
        (1234.56, "1,235"),
        (123.4, "123"),
        (7, "7"),
    ],
)
def test_numbers_are_written_for_readers(value, words):
    assert rendering.number(value, 3) == words


def test_strangers_words_are_escaped_in_the_text_of_the_page(hostile):
    text = (hostile / "index.html").read_text(encoding="utf-8")
    outside = text.replace(rendering.get_plotlyjs(), "")
    assert "<img" not in outside
    assert "window.hacked=1</script>" not in outside
    assert "<a href=" not in re.sub(r'<a (class="skip" )?href="#', "", outside)
    assert "&lt;img src=x" in outside
    for hover in data_of(text)["shared"]["hover"]:  # plotly reads these tags and no others are left
        assert not re.search(r"<(?!/?b>|br>)", hover)


# In a browser.


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"THE PAGE WAS NOT OPENED: no {CHROMIUM}; apt-get install chromium")
    api = pytest.importorskip(
        "playwright.sync_api", reason="THE PAGE WAS NOT OPENED: no playwright"
    )
    arguments = [
        "--no-sandbox",  # CI runs as root
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()


def open_page(browser, file, waiting_for="#figures .panel:last-child .scatterlayer .points path"):
    """An open page, with lists of what it complained of and what it asked the network for."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.complaints, opened.requests = [], []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda request: opened.requests.append(request.url))
    opened.goto(file.as_uri())
    opened.wait_for_selector(waiting_for)
    return opened


def headlines(opened):
    """The R squared that is written in every panel, and the title of its horizontal axis."""
    return opened.eval_on_selector_all(
        ".plot",
        "plots => plots.filter(p => p.offsetParent).map(p => [p.layout.annotations[0].text,"
        " p.layout.xaxis.title.text, p._fullLayout.xaxis.type, p.data[2].x.length])",
    )


def headline_of(text, metric, scale):
    """What is written largest in a panel."""
    return data_of(text)["figures"][f"scatter {metric} {scale}"]["layout"]["annotations"][0]["text"]


def test_correlations_within_each_length_of_training_stand_beside_the_pooled_one(sweep, text):
    table = checkpoints(gather(sorted(sweep.glob("runs/*/results/*.jsonl")))).table
    lines = associations(table, ["nc1_cdnv_p2"])
    own = lines[
        (lines["metric"] == "nc1_cdnv_p2") & ~lines["log"] & (lines["checkpoints"] == "all")
    ]
    by_group = own.set_index("group")
    assert by_group.index.tolist() == ["all", "epochs 1", "epochs 4"]
    row = re.search(
        r'<tr[^>]*>\s*<th scope="row" data-sort="nc1_cdnv_p2">.*?</tr>', text, re.DOTALL
    )
    cells = [float(cell) for cell in re.findall(r'<td data-sort="(.*?)"', row[0])[:3]]
    assert cells == pytest.approx(by_group["r"].tolist(), rel=1e-9)
    notes = data_of(text)["figures"]["scatter nc1_cdnv_p2 linear"]["layout"]["annotations"]
    assert notes[1]["text"].split("<br>")[1] == "within " + "; ".join(
        f"{group} {correlation(one['r'], one['p'])}" for group, one in by_group.iloc[1:].iterrows()
    )


def test_a_correlation_that_is_not_different_from_0_is_marked():
    assert correlation(0.6, 0.051) == "+0.60 n.s."
    assert correlation(0.9, 0.05) == "+0.90"
    assert correlation(-0.75, 0.001) == "\N{MINUS SIGN}0.75"
    assert correlation(math.nan, math.nan) == "\N{EM DASH}"


@pytest.mark.browser
def test_the_panels_are_drawn_and_the_switches_change_them(browser, sweep, text):
    opened = open_page(browser, sweep / "index.html")
    first = headlines(opened)
    assert len(first) == 7
    assert sum(drawn[0].startswith("<b>R\N{SUPERSCRIPT TWO} = 0.") for drawn in first) == 5
    for drawn, panel in zip(first, PUBLISHED.panels, strict=True):
        assert drawn[0] == headline_of(text, panel.metric, "linear")
        assert drawn[1].startswith(panel.metric)
        assert drawn[2:] == ["linear", 30]
    assert opened.locator(".plot .scatterlayer .points path").count() == 7 * 30
    assert opened.locator("th:visible", has_text="nc1_cdnv_p2").count() == 2

    opened.get_by_label("Robust", exact=True).check()
    opened.get_by_label("Log", exact=True).check()
    second = headlines(opened)
    assert [drawn[2] for drawn in second] == ["log"] * 7
    assert second[0][0] == headline_of(text, "nc1_cdnv_med_db", "log")
    assert second[0][1].startswith("nc1_cdnv_med_db")
    assert opened.locator("th:visible", has_text="nc1_cdnv_p2").count() == 0
    assert "nc1_cdnv_med_db" in opened.locator(".plot:visible").first.get_attribute("aria-label")

    assert opened.complaints == []
    assert opened.requests == [(sweep / "index.html").as_uri()]
    opened.close()


@pytest.mark.browser
def test_the_table_sorts_with_the_keyboard_and_says_how(browser, sweep):
    opened = open_page(browser, sweep / "index.html")
    runs = opened.locator("#runs table")
    heading = runs.get_by_role("columnheader", name="accuracy")

    def column():
        cells = runs.locator("tbody td:nth-child(6)").all_inner_texts()
        return [float(cell.removesuffix(" %")) for cell in cells]

    losses = runs.locator("tbody td:nth-child(3)").all_inner_texts()
    assert losses == sorted(losses)  # as it is opened: the best model first
    heading.get_by_role("button").focus()
    opened.keyboard.press("Enter")
    assert column() == sorted(column())
    assert heading.get_attribute("aria-sort") == "ascending"
    opened.keyboard.press("Enter")
    assert column() == sorted(column(), reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    assert runs.locator("[aria-sort]").count() == 1

    runs.get_by_role("button", name="run", exact=True).click()
    names = runs.locator("tbody th").all_inner_texts()
    assert names[0].startswith("w32")  # by number, not by letter: w32, w64, w128
    assert names[-1].startswith("w512")
    opened.close()


@pytest.mark.browser
def test_nothing_is_cut_off_on_wide_and_narrow_screens_light_and_dark(browser, sweep):
    opened = open_page(browser, sweep / "index.html")
    for width in (1280, 390):
        for scheme, ground in (("light", "#ffffff"), ("dark", "#1a1c22")):
            opened.emulate_media(color_scheme=scheme)
            opened.set_viewport_size({"width": width, "height": 844})
            # plotly follows a new width after a moment.
            opened.wait_for_function(
                "w => document.querySelector('.plot .main-svg').clientWidth < w",
                arg=width / 2 + 200,
            )
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            drawn = opened.evaluate("document.querySelector('.plot')._fullLayout.paper_bgcolor")
            assert drawn == ground  # the panels follow the scheme while the page is open
    opened.close()


@pytest.mark.browser
def test_hostile_names_are_shown_and_do_nothing(browser, hostile):
    opened = open_page(browser, hostile / "index.html")
    opened.locator(".plot").first.locator(".points path").nth(4).hover(force=True)
    opened.wait_for_selector(".hoverlayer .hovertext")
    shown = opened.locator(".hoverlayer").first.text_content()
    assert "</script>" in shown  # the recipe
    # The point under the pointer is ringed in every panel.
    rings = opened.eval_on_selector_all(
        ".plot", "plots => plots.filter(p => p.data).map(p => p.data[3].x.length)"
    )
    assert rings == [1] * 7
    opened.get_by_label("Robust", exact=True).check()
    assert opened.locator("h1").inner_text() == f"{IMAGE}{SCRIPT}"
    assert opened.locator("#runs tbody th").first.inner_text()[0] == "<"
    assert opened.locator("img, a[href^=javascript]").count() == 0
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    assert opened.requests == [(hostile / "index.html").as_uri()]
    opened.close()


@pytest.mark.browser
def test_lines_against_the_step_are_drawn_and_the_switches_change_them(browser, tmp_path):
    folder = write_courses(tmp_path / "demo", runs=("plain", IMAGE.replace("/", "")))
    files = sorted(folder.glob("runs/*/results/*.jsonl"))
    looks = checkpoints(gather(files), subset="probe")
    headers = [read_rows(file)[0] for file in files]
    nothing = checkpoints(gather(files))
    text = page.render(nothing, pd.DataFrame(), headers, name="demo", commands=[], training=looks)
    (folder / "index.html").write_text(text, encoding="utf-8")
    opened = open_page(browser, folder / "index.html", waiting_for=f"{LINES} .points path")

    def axes():
        return opened.eval_on_selector_all(
            LINES, "plots => plots.map(p => ['xaxis', 'yaxis'].map(a => p._fullLayout[a].type))"
        )

    lengths = "plots => plots.map(p => p.data.map(line => line.x.length))"
    assert axes() == [["log", "log"], ["log", "linear"]]  # the second one changes its sign
    assert opened.eval_on_selector_all(LINES, lengths) == [[3, 3], [3, 3]]
    colours = opened.evaluate("document.querySelector('.plot').data.map(line => line.line.color)")
    # The ends of the scale: runs are in the order of their names, and the image's is the larger.
    assert colours == ["#0d0887", "#e56b5d"]
    opened.get_by_label("Linear", exact=True).check()
    assert axes() == [["linear", "linear"]] * 2
    assert opened.eval_on_selector_all(LINES, lengths) == [[4, 4], [4, 4]]
    opened.get_by_label("Robust", exact=True).check()
    assert opened.get_by_text("No measure of this view").is_visible()
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    opened.close()
