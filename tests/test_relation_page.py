"""The page of a relation: its data, that strangers' words stay words, and a browser's behaviour."""
# ruff: noqa: F811

import csv
import math
import re

import numpy as np
import pandas as pd
import pytest

from test_page import browser, data_of  # noqa: F401
from tightframe.analysis.relate import relate
from tightframe.report.relation_page import MOST_PANELS, page_data, render_relation
from tightframe.report.rendering import get_plotlyjs

FAST = {"permutations": 199, "draws": 100}
HOSTILE = "=1+<img src=x onerror=window.hacked=1></script><script>window.hacked=1</script>"
VIEWS = [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")]


def models(n=24, *, seed=1, measures=0):
    """A table in which width rules y and m1, m2 goes with y beside it, and ratio crosses 0."""
    rng = np.random.default_rng(seed)
    width = np.repeat([64, 128, 256, 512], n // 4)
    m2 = rng.normal(size=n)
    y = 3 - 0.3 * np.log(width) + 0.1 * m2 + 0.02 * rng.normal(size=n)
    return pd.DataFrame(
        {
            "run": [f"r{i:03d}" for i in range(n)],
            "step": 100,
            "width": width,
            "kind": np.where(np.arange(n) % 2, "odd", "even"),
            "family": np.array(list("abcdef"))[np.arange(n) % 6],
            "n_params": width**2 * 12,
            "nc4_rate": np.exp(-y) + 0.01 * rng.normal(size=n),
            "m2": m2,
            "ratio_cov": rng.normal(size=n) + 0.1,
            "val_loss": y,
            "val_accuracy": 0.5 - 0.1 * y,
            **{f"x{i:03d}": rng.lognormal(size=n) for i in range(measures)},
        }
    )


def relation(table=None, **options):
    table = models() if table is None else table
    usual = {
        "measures": ["nc4_rate", "m2", "ratio_cov"],
        "controls": "log_width",
        "family": "family",
    }
    return relate(table, **usual | FAST | options)


@pytest.fixture(scope="module")
def found():
    return relation()


@pytest.fixture(scope="module")
def file(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("relation") / "index.html"
    path.write_text(render_relation(found, name="demo"), encoding="utf-8")
    return path


def test_the_first_words_are_the_conclusion_in_two_sentences(found, file):
    text = file.read_text(encoding="utf-8")
    said = re.search(r'<p class="finding">(.*?)</p>', text)[1]
    assert said == found.conclusion
    assert len(re.findall(r"\.(?= [A-Z]|$)", said)) == 2
    assert text.index(said) < text.index('class="forest"') < text.index('id="models"')
    assert all(name in said for name in found.table["measure"])
    assert f"{found.detectable:.2f}" in said
    assert found.digest in text


def test_all_points_and_numbers_are_in_the_page(found, file):
    data = data_of(file.read_text(encoding="utf-8"))["models"]
    assert data["names"][3] == "r003 @ 100"
    for one in data["measures"]:
        assert one["values"] == pytest.approx(found.points[one["name"]].tolist(), rel=1e-5)
    assert [one["name"] for one in data["outcomes"]] == ["val_loss", "val_accuracy"]
    assert [bool(one["unlined"]) for one in data["measures"]] == [False, False, True]
    settings = dict(data["settings"])
    assert settings["width"][::6] == ["64", "128", "256", "512"]
    assert not {"nc4_rate", "val_loss", "val_accuracy"} & settings.keys()
    colours = {one["name"]: one for one in data["colours"]}
    assert colours["n_params"]["ends"] == ["49.2 k", "3.15 M"]
    assert colours["kind"]["kinds"] == ["even", "odd"]
    assert [one["name"] for one in data["subsets"]][:2] == ["all models", "n_params = 49,152"]


def test_the_matrix_and_the_predictions_are_those_of_the_relation(found):
    data = page_data(found)
    expected = found.points[["nc4_rate", "m2", "ratio_cov"]].corr().to_numpy()
    rows = [data["shared"][f"r {i}"] for i in range(3)]
    assert np.array(rows) == pytest.approx(expected, abs=1e-4)
    # The gain is the difference of the mean absolute errors of what is drawn.
    y, alone = (np.array(data["shared"][name]) for name in ("observed", "alone"))
    for i, gain in enumerate(found.table["gain"]):
        with_it = np.array(data["shared"][f"predicted {i}"])
        assert np.abs(y - alone).mean() - np.abs(y - with_it).mean() == pytest.approx(
            gain, rel=1e-3, abs=1e-5
        )


def test_controls_with_and_without_their_interactions_stand_beside_each_other():
    table = models()
    table["val_loss"] += np.where(table["kind"] == "odd", 0.5, 0.0) * np.log(table["width"])
    both = relation(table, controls=["log_width", "kind:log_width"], fixed="kind")
    alone = relation(table, fixed="kind").table
    assert both.table["additive_r"].tolist() == pytest.approx(alone["partial_r"].tolist())
    assert both.table["partial_r"][1] > both.table["additive_r"][1]
    assert "without interactions" in render_relation(both, name="demo")


def test_a_page_without_families_or_controls_leaves_their_parts_out():
    text = render_relation(relation(family="", controls=(), measures="m2"), name="demo")
    data = data_of(text)
    assert "held-out" not in text
    assert 'id="matrix"' not in text
    assert math.isnan(relation(controls=(), measures="m2").table["partial_r"][0])
    assert "predicted" in data["figures"]


def test_strangers_words_are_escaped():
    table = models().rename(columns={"m2": HOSTILE, "kind": f"{HOSTILE}2"})
    table["run"] = [f"{HOSTILE}{i}" for i in range(24)]
    text = render_relation(relation(table, measures=[HOSTILE, "nc4_rate"]), name=HOSTILE)
    outside = text.replace(get_plotlyjs(), "")
    assert "<img" not in outside
    assert "window.hacked=1</script>" not in outside
    assert not any(re.search(r"<(?!/?b>)", one) for one in data_of(text)["models"]["hover"])


# In a browser.


def open_page(browser, file, *, width=1400, scheme="light"):
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.complaints, opened.requests = [], []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda request: opened.requests.append(request.url))
    opened.goto(file.as_uri())
    return opened


def main_plot(opened):
    """The large scatter plot, drawn."""
    plot = opened.locator('.plot[data-scatter="{measure}"]')
    plot.scroll_into_view_if_needed()
    plot.locator(".points path").first.wait_for()
    return plot


def drawn(plot):
    """What a scatter plot shows: its points, the texts in it and its axes."""
    return plot.evaluate(
        "p => ({x: p.data[2].x, y: p.data[2].y, line: p.data[1].x.length, "
        "r2: p.layout.annotations[0].text, type: p._fullLayout.xaxis.type, "
        "titles: [p.layout.xaxis.title.text, p.layout.yaxis.title.text]})"
    )


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_finding_is_on_the_first_screen_and_nothing_is_cut_off(
    browser,
    file,
    width,
    scheme,
):
    opened = open_page(browser, file, width=width, scheme=scheme)
    finding = opened.locator(".finding").bounding_box()
    assert finding["y"] + finding["height"] < 900
    strips = opened.locator(".forest tbody .strip")
    assert strips.count() == 3
    assert strips.first.bounding_box()["y"] < (900 if width > 400 else 1200)
    plot = main_plot(opened)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    panels = opened.locator("figure.panel").all()
    assert min(one.bounding_box()["width"] for one in panels) > 280
    ground = plot.evaluate("p => p._fullLayout.paper_bgcolor")
    assert ground == {"light": "#ffffff", "dark": "#1a1c22"}[scheme]
    assert opened.complaints == []
    assert opened.requests == [file.as_uri()]
    opened.close()


@pytest.mark.browser
def test_marks_and_intervals_stand_at_their_correlations(browser, file, found):
    opened = open_page(browser, file)
    for place, row in enumerate(found.table.to_dict("records")):
        strip = opened.locator(".forest tbody .strip").nth(place)
        whole = strip.bounding_box()
        for mark, r in (("plain", row["r"]), ("held", row["partial_r"])):
            box = strip.locator(f".dot.{mark}").bounding_box()
            centre = (box["x"] + box["width"] / 2 - whole["x"]) / whole["width"]
            assert centre == pytest.approx((r + 1) / 2, abs=0.01)
        box = strip.locator(".range.held").bounding_box()
        ends = np.array([box["x"], box["x"] + box["width"]]) - whole["x"]
        expected = [(row["partial_low"] + 1) / 2, (row["partial_high"] + 1) / 2]
        assert (ends / whole["width"]).tolist() == pytest.approx(expected, abs=0.01)
    opened.close()


@pytest.mark.browser
def test_measure_outcome_colour_scale_and_subset_can_be_chosen(browser, file, found):
    table = models()
    opened = open_page(browser, file)
    plot = main_plot(opened)
    first = drawn(plot)
    assert first["y"] == pytest.approx(table["val_loss"].tolist(), rel=1e-6)
    r2 = found.table["r2"][0]
    assert first["r2"] == f"<b>R\N{SUPERSCRIPT TWO} = {r2:.2f}</b>"
    opened.get_by_label("Log", exact=True).check()
    logged = drawn(plot)
    assert logged["type"] == "log"
    assert logged["r2"] == f"<b>R\N{SUPERSCRIPT TWO} = {found.table['r_log'][0] ** 2:.2f}</b>"
    opened.locator("#outcome").select_option(label="val_accuracy")
    opened.locator("#measure").select_option(label="m2")
    opened.locator("#colour").select_option(label="kind")
    opened.locator("#subset").select_option(label="kind = odd")
    second = drawn(plot)
    odd = np.arange(24) % 2 == 1
    assert [one is not None for one in second["x"]] == odd.tolist()
    r = np.corrcoef(table["m2"][odd], table["val_accuracy"][odd])[0, 1]
    assert second["r2"] == f"<b>R\N{SUPERSCRIPT TWO} = {r * r:.2f}</b>"
    assert second["type"] == "linear"  # m2 is not positive everywhere
    assert second["titles"] == ["m2", "val_accuracy"]
    assert opened.locator("#legend li").all_inner_texts() == [
        "\N{BLACK CIRCLE}\neven",
        "\N{BLACK SQUARE}\nodd",
    ]
    # Six models are too few for a line, and a ratio that crosses 0 has none.
    opened.locator("#subset").select_option(label="width = 64")
    assert (drawn(plot)["line"], drawn(plot)["r2"]) == (0, "")
    opened.locator("#subset").select_option(label="all models")
    opened.locator("#measure").select_option(label="ratio_cov")
    assert (drawn(plot)["line"], drawn(plot)["r2"]) == (0, "")
    assert opened.complaints == []
    opened.close()


@pytest.mark.browser
def test_a_point_names_its_run_and_shows_its_settings(browser, file):
    opened = open_page(browser, file)
    plot = main_plot(opened)
    point = plot.locator(".scatterlayer .points path").nth(4)
    point.hover(force=True)
    opened.locator(".hoverlayer .hovertext").wait_for()
    assert "r004" in opened.locator(".hoverlayer").first.text_content()
    point.click(force=True)
    lines = opened.locator("#settings div").all_inner_texts()
    assert "run\nr004" in lines
    assert "width\n64" in lines
    # The keyboard reaches the same by the list of names.
    opened.locator("#model").select_option(label="r020 @ 100")
    assert "width\n512" in opened.locator("#settings div").all_inner_texts()
    ring = plot.evaluate("p => [p.data[3].x[0], p.data[2].x[20]]")
    assert ring[0] == ring[1]
    opened.close()


def downloaded(opened, button):
    with opened.expect_download() as one:
        button.click()
    with open(one.value.path(), encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.browser
def test_the_data_behind_each_figure_can_be_downloaded(browser, tmp_path):
    table = models().rename(columns={"m2": HOSTILE})
    found = relation(table, measures=["nc4_rate", HOSTILE])
    file = tmp_path / "index.html"
    file.write_text(render_relation(found, name="demo"), encoding="utf-8")
    opened = open_page(browser, file)
    buttons = opened.locator(".download")
    assert buttons.count() == 4
    correlations, points, matrix, predictions = (
        downloaded(opened, buttons.nth(i)) for i in range(4)
    )
    assert [row[0] for row in correlations[1:]] == ["nc4_rate", f"'{HOSTILE}"]
    column = correlations[0].index("r, controls held")
    assert [float(row[column]) for row in correlations[1:]] == pytest.approx(
        found.table["partial_r"].tolist(), rel=1e-9
    )
    assert [row[0] for row in points[1:]] == [f"{run} @ 100" for run in table["run"]]
    assert [float(row[points[0].index("val_loss")]) for row in points[1:]] == pytest.approx(
        table["val_loss"].tolist(), rel=1e-6
    )
    assert float(matrix[1][2]) == pytest.approx(found.points.corr().iloc[1, 2], abs=1e-4)
    assert [float(row[3]) for row in predictions[1:]] == pytest.approx(
        found.predictions["nc4_rate"].tolist(), rel=1e-5
    )
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    opened.close()


@pytest.mark.browser
def test_many_models_and_measures_cost_little_more_than_few(browser, file, tmp_path):
    # 230 x 155, against 24 x 3: processor time of the page, most of which reads plotly.
    names = [f"x{i:03d}" for i in range(155)]
    found = relate(models(232, measures=155), measures=names, permutations=9, draws=100)
    large = tmp_path / "index.html"
    large.write_text(render_relation(found, name="large"), encoding="utf-8")

    def seconds(path):
        opened = open_page(browser, path)
        session = opened.context.new_cdp_session(opened)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        opened.reload()
        main_plot(opened)
        metrics = session.send("Performance.getMetrics")["metrics"]
        assert opened.complaints == []
        panels = opened.locator(
            "h3:has-text('All') + .panels .panel, h3:has-text('first') + .panels .panel"
        ).count()
        opened.close()
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration"), panels

    small, panels = seconds(file)
    assert panels == 3
    most, panels = seconds(large)
    assert panels == MOST_PANELS
    assert most < 3 * small + 1


@pytest.mark.browser
def test_all_figures_are_drawn_on_paper(browser, file):
    opened = open_page(browser, file)
    opened.emulate_media(media="print")
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.eval_on_selector_all(".plot", "plots => plots.every(p => p.data)")
    assert not opened.locator(".download").first.is_visible()
    assert opened.locator(".forest .strip").nth(2).is_visible()
    opened.close()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_axe_has_no_serious_finding(browser, file, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    opened = open_page(browser, file, width=width, scheme=scheme)
    main_plot(opened)
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    found = axe.Axe().run(opened).response["violations"]
    bad = [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert bad == []
    opened.close()
