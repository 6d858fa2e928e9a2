"""The section of the page on tokens: whose classes, which points, and that tokens stay text."""

import json
import math
import re

import pandas as pd
import pytest

from example_results import write_sweep
from test_page import browser, open_page  # noqa: F401
from tightframe.errors import UserError
from tightframe.report import by_token, report
from tightframe.report.plots import Shared

HOSTILE = "<img src=x onerror=alert(1)>"
LINK = '<a href="javascript:window.hacked=1">%{x}</a>'


def classes(run="w64", **facts):
    """Twenty classes, the commonest of them with strangers' words; the last two have no numbers."""
    table = pd.DataFrame(
        {
            "id": range(20),
            "token": [HOSTILE, LINK, " caf\u00e9\n", *(f" w{i}" for i in range(17))],
            "count": [1000 - 10 * i for i in range(20)],
            "norm": [5 + i / 10 for i in range(20)],
            "cdnv": [0.5 + i for i in range(20)],
            "cdnv_db": [0.6 + i for i in range(18)] + [math.nan] * 2,
            "nearest_token": [LINK, HOSTILE, *["x"] * 16, None, None],
            "nearest_angle": [12.5] * 18 + [math.nan] * 2,
            "interference": [0.01] * 20,
            "duality": [i / 20 for i in range(20)],
            "agreement": [0.5] * 18 + [math.nan] * 2,
        }
    )
    table.attrs = {"run": run, "step": 2048, "min_count": 1} | facts
    return table


def write(folder, table):
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / by_token.FILE, index=False)


def figures(table):
    """What the script draws, and the arrays that its figures share."""
    shared = Shared()
    return by_token.figures(table, shared), shared


def test_a_point_has_its_numbers_and_what_is_missing_is_null():
    drawn, shared = figures(classes())
    assert shared["counts of tokens"][:2] == [1000, 990]
    assert drawn["token agreement"]["data"][0]["y"][17:] == [0.5, None, None]
    assert "CDNV 17.5, debiased 17.6<" in shared["tokens"][17]
    assert "nearest x, 12.5" in shared["tokens"][17]
    assert "debiased \N{EM DASH}<" in shared["tokens"][18]
    assert "nearest" not in shared["tokens"][18]
    assert drawn["token cdnv"]["layout"]["yaxis"]["tickvals"] == [1, 3, 10]
    assert "type" not in drawn["token norm"]["layout"]["yaxis"]
    zero = classes()
    zero.loc[3, "cdnv"] = 0  # two classes of one embedding each
    assert "type" not in figures(zero)[0]["token cdnv"]["layout"]["yaxis"]
    json.dumps([drawn, shared], allow_nan=False)


def test_only_the_commonest_are_drawn(monkeypatch):
    monkeypatch.setattr(by_token, "MOST", 3)
    table = classes().sample(frac=1, random_state=0)
    table.attrs = classes().attrs
    assert figures(table)[1]["counts of tokens"] == [1000, 990, 980]
    said = by_token.summary(table)
    assert (said["classes"], said["shown"]) == (20, 3)


def test_tokens_are_escaped_and_what_cannot_be_seen_is_spelled():
    assert by_token.readable(" the") == "\N{OPEN BOX}the"
    assert by_token.readable("a&b\n") == r"a&amp;b\n"
    assert by_token.readable(HOSTILE) == "&lt;img\N{OPEN BOX}src=x\N{OPEN BOX}onerror=alert(1)&gt;"
    long = by_token.readable("<" * 50)
    assert long == "&lt;" * 39 + "\N{HORIZONTAL ELLIPSIS}"  # cut before it is escaped


def test_of_a_sweep_the_best_run_that_has_classes_is_shown(tmp_path):
    table = pd.DataFrame({"run": ["a", "a", "b", "c"], "val_loss": [3.0, 2.0, 2.5, 1.0]})
    assert by_token.find(tmp_path, table) is None
    for run in ("a", "b"):
        write(tmp_path / "runs" / run / "results", classes(run))
    assert by_token.find(tmp_path, table).attrs["run"] == "a"
    write(tmp_path / "one" / "results", classes("one"))
    assert by_token.find(tmp_path / "one", table).attrs["run"] == "one"


@pytest.mark.parametrize("spoil", ["bytes", "columns", "facts"])
def test_a_file_that_is_something_else_is_named(tmp_path, spoil):
    table = classes()
    if spoil == "columns":
        table = table.drop(columns="duality")
    if spoil == "facts":
        table.attrs = {}
    write(tmp_path / "results", table)
    if spoil == "bytes":
        (tmp_path / "results" / by_token.FILE).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"classes\.parquet: not a table of classes, or damaged; "):
        by_token.find(tmp_path, pd.DataFrame({"run": ["a"], "val_loss": [1.0]}))


def report_without_figures(folder):
    """The page of a sweep; its figures for print take seconds, and know nothing of tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tightframe.report.figures.draw_all", lambda *arguments: None)
        return report(folder)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "demo", widths=(64,))
    run = sorted((folder / "runs").iterdir())[0]
    write(run / "results", classes(run.name))
    return report_without_figures(folder)


def test_the_page_has_the_section_and_no_markup_of_strangers(page):
    text = page.read_text(encoding="utf-8")
    assert text.count('id="by-token"') == 1
    assert "Shown are all 20 tokens; the numbers" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["shared"]["tokens"][0].startswith(f"<b>{by_token.readable(HOSTILE)}</b>")
    assert "<img" not in text.replace(page_scripts(text), "")


def page_scripts(text):
    """plotly.js, which names tags of its own."""
    return max(re.findall(r"<script>.*?</script>", text, re.DOTALL), key=len)


def test_a_page_without_classes_has_no_such_section(tmp_path):
    made = report_without_figures(write_sweep(tmp_path / "demo", widths=(64,)))
    text = made.read_text(encoding="utf-8")
    assert 'id="by-token"' not in text
    assert 'href="#by-token"' not in text


@pytest.mark.browser
def test_hostile_tokens_are_shown_in_the_hover_and_do_nothing(browser, page):  # noqa: F811
    opened = open_page(browser, page, waiting_for="#by-token .points path")
    shown = (
        "p => [p.querySelectorAll('.points path').length, p._fullLayout.xaxis.type,"
        " p._fullLayout.yaxis.type]"
    )
    plot = opened.locator("#by-token .plot")
    assert plot.evaluate(shown) == [20, "log", "linear"]
    opened.get_by_label("Variability", exact=True).check()
    assert plot.evaluate(shown) == [20, "log", "log"]
    assert opened.locator("[data-when]:visible").count() == 1
    opened.get_by_label("Agreement", exact=True).check()
    assert plot.evaluate(shown) == [18, "log", "linear"]  # two have no validation positions
    for nth, count, words in ((0, "1,000 times", HOSTILE), (1, "990 times", LINK[:20])):
        plot.locator(".points path").nth(nth).hover(force=True)
        opened.wait_for_function(
            "w => document.querySelector('#by-token .hoverlayer').textContent.includes(w)",
            arg=count,
        )
        said = plot.locator(".hoverlayer").text_content()
        assert said.startswith(words.replace(" ", "\N{OPEN BOX}"))
    for width in (1280, 390):
        opened.set_viewport_size({"width": width, "height": 844})
        opened.wait_for_function(
            "w => document.querySelector('#by-token .main-svg').clientWidth < w", arg=width
        )
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.locator("img, a[href^=javascript]").count() == 0
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    assert opened.requests == [page.as_uri()]
    opened.close()
