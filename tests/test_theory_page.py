"""The section on what a text predicts: what it is made of, and that it is drawn in a browser."""

import base64
import dataclasses
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from example_results import write_sweep
from test_page import browser, open_page  # noqa: F401
from tightframe import cli
from tightframe.errors import UserError
from tightframe.ntp.model import ModelCheckpoint, save_model_checkpoints
from tightframe.ntp.summary import _bytes, summarize
from tightframe.ntp.table import ContextTable, save_table
from tightframe.report import report, theory
from tightframe.report.by_token import visible
from tightframe.report.theory import read_theory
from tightframe.report.theory_page import render_theory
from tightframe.results import Header, Row, write_rows

HOSTILE = "<img src=x onerror=window.hacked=1>"
WORDS = ("a", "b", HOSTILE, "d", "e")
# The third context has the support of the second; the fourth token follows none.
COUNTS = np.array([[2, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 3, 1, 0, 0], [1, 0, 0, 0, 4]])


def rows_of(folder, run, excess, cosines, *, name):
    """Rows of a model: its loss above the floor and its cosine, checkpoint by checkpoint."""
    header = Header(run, 3, {"name": run}, {"name": "t", "fingerprint": "f"}, {}, {})
    values = {"ntp_excess": excess, "ntp_rest_cos": cosines, "ntp_rest_cos_shuffled": cosines}
    rows = [
        Row(run, step, "train", 0, "support", "all", metric, value, 1, 1, 0)
        for metric, each in values.items()
        for step, value in zip((0, 1, 10), each, strict=True)
    ]
    write_rows(folder / "results" / name, header, rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ntp") / "t"
    contexts = np.array([[0, 1], [2, 1], [3, 3], [4, 0]], dtype=np.int32)
    source = {"name": HOSTILE, "length": 2}
    table = ContextTable(contexts, sp.csr_array(COUNTS), np.arange(5), WORDS, source, WORDS)
    save_table(path, table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        cli.main(["ntp", "solve", str(path), "--gap", "1e-6"])
        cli.main(["ntp", "concepts", str(path), "--n", "2", "--clusters", "2", "--words", "3"])
    rows_of(path, "m", [1.0, 0.1, 0.01], [0.1, 0.5, 0.8], name="m.jsonl")
    rows_of(path, "t-path", [10.0, 0.1, 0.001], [0.2, 0.6, 1.0], name="path.jsonl")
    rng = np.random.default_rng(0)
    own = ModelCheckpoint(
        10, rng.normal(size=(5, 3)).astype("f4"), rng.normal(size=(4, 3)).astype("f4")
    )
    save_model_checkpoints(path / "runs" / "m.safetensors", [own], {})
    summarize(path)
    return path


@pytest.fixture(scope="module")
def page(folder):
    return report(folder)


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_a_table_is_read_with_all_that_was_made_of_it(folder):
    found, sources = read_theory(folder)
    assert found.kind.startswith(("certified", "exact"))
    assert found.models == ("m",)
    assert [one.title for one in found.maps.columns] == ["m", "prediction", "proxy"]
    assert set(found.spectra) == {"prediction", "proxy"}
    assert len(found.concepts) == 2
    assert sources["solution"].startswith("svm-")


def test_the_words_and_contexts_of_a_concept_are_chips_with_their_spaces_seen(folder, page):
    concepts = read_theory(folder)[0].concepts
    words = [word for concept in concepts for words, _ in concept.sides for word in words]
    contexts = [text for concept in concepts for _, texts in concept.sides for text in texts]
    assert set(words) <= {visible(word) for word in WORDS}
    assert not any(" " in text for text in (*words, *contexts))
    chips = page.read_text(encoding="utf-8").count('<code class="token">')
    assert chips == len(words) + len(contexts)


def test_models_at_one_step_stand_in_a_table_and_in_no_panel(folder, tmp_path):
    found, sources = read_theory(folder)
    first = [
        dataclasses.replace(line, steps=line.steps[:1], values=line.values[:1])
        for panel in found.panels
        for line in panel.lines
    ]
    panel = dataclasses.replace(found.panels[0], lines=tuple(first))
    single = dataclasses.replace(found, panels=(panel,))
    text = render_theory(single, sources, [])
    assert 'class="panel theory-curves"' not in text
    assert text.count('<th scope="row" title=') == len(first)
    assert 'class="panel theory-curves"' in render_theory(found, sources, [])


def test_the_prediction_at_the_model_s_loss_is_a_line_of_its_own(folder):
    (panel,) = [
        one for one in read_theory(folder)[0].panels if one.kind.title == "Direction of the logits"
    ]
    lines = {line.look: line for line in panel.lines}
    assert lines["measured"].values == (0.1, 0.5, 0.8)
    # The path has 0.2, 0.6, 1 at a loss of 10, 0.1, 0.001: cosines are powers between them.
    expected = [
        0.2 ** (1 / 2) * 0.6 ** (1 / 2),  # 1 is the middle of 10 and 0.1
        0.6,
        0.6 ** (1 / 2),  # 0.01 is the middle of 0.1 and 0.001
    ]
    assert lines["predicted"].values == pytest.approx(expected, rel=1e-12)
    assert lines["baseline"].label == "with random supports"


def test_words_of_a_matrix_stand_in_the_order_of_its_rows(folder):
    maps = read_theory(folder)[0].maps
    # Of the limit: a word's logits are its row; the word that follows nothing is lowest anywhere.
    logits = np.frombuffer(base64.b64decode(maps.columns[1].logits), dtype=np.int8).reshape(5, 4)
    assert (logits[maps.words.index("d")] <= logits.min(axis=0)).all()


def test_matrices_are_bytes_whose_127_is_one():
    matrix = np.array([[1.0, -1.0], [0.5, 0.0]])
    read = np.frombuffer(base64.b64decode(_bytes(matrix)), dtype=np.int8)
    assert read.tolist() == [127, -127, 64, 0]


def test_the_page_holds_everything_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    data = data_of(page)
    assert "&lt;img\N{OPEN BOX}src=x" in "".join(data["shared"]["theory-0 words"])
    assert "a b" in data["shared"]["theory-0 contexts"]
    matrix = data["figures"]["theory-0 map logits 0"]["data"][0]["z"]
    assert len(base64.b64decode(matrix["bytes"])) == 5 * 4
    assert matrix["columns"] == 4


def test_without_a_solution_the_proxy_is_called_one(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("table.safetensors", "manifest.json", "contexts.parquet"):
        (bare / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(
        UserError, match=r"bare: has no summary\.json yet; `tightframe report .*` writes it"
    ):
        report(bare)
    summarize(bare)
    found, sources = read_theory(bare)
    assert found.panels == ()
    assert found.concepts == ()
    assert len(found.spectra) == 1
    assert sources["solution"].startswith("none")
    assert report(bare).exists()


def test_a_sweep_s_page_has_a_section_for_the_table(folder, tmp_path):
    sweep = write_sweep(tmp_path / "demo", widths=(32, 64))
    text = report(sweep, theories=[folder]).read_text(encoding="utf-8")
    assert "What the text predicts: t" in text
    assert 'id="theory-0"' in text


def test_what_is_no_table_is_refused_before_anything_is_written(tmp_path):
    sweep = write_sweep(tmp_path / "demo", widths=(32,))
    with pytest.raises(UserError, match="no folder of a context table"):
        report(sweep, theories=[tmp_path])
    assert not (sweep / "report").exists()
    assert not (sweep / "results.parquet").exists()


def test_a_table_that_predicts_nothing_is_refused_in_one_line(tmp_path):
    counts = sp.csr_array(np.array([[1, 2, 4]]))  # all three tokens follow the one context
    contexts = np.zeros((1, 1), dtype=np.int32)
    save_table(tmp_path / "full", ContextTable(contexts, counts, np.arange(3)))
    with pytest.raises(UserError, match="full: support: all tokens follow every context; nothing"):
        summarize(tmp_path / "full")
    assert not (tmp_path / "full" / "report").exists()


def test_damaged_concepts_are_named(folder, tmp_path):
    (concepts,) = folder.glob("concepts/*/concepts.csv")
    whole = concepts.read_bytes()
    try:
        pd.DataFrame({"concept": ["x"]}).to_csv(concepts)
        with pytest.raises(UserError, match=r"concepts\.csv: not a table of concepts"):
            read_theory(folder)
    finally:
        concepts.write_bytes(whole)


@pytest.mark.browser
def test_curves_maps_and_spectra_are_drawn_without_a_complaint(browser, page):  # noqa: F811
    opened = open_page(browser, page, waiting_for=".theory-spectrum .points path")
    # The loss of the model at its three checkpoints, the one before training among them.
    assert opened.locator(".theory-curves").first.locator(".points path").count() == 3
    assert opened.locator(".map .heatmaplayer image").count() == 9
    assert opened.evaluate("window.hacked") is None
    assert opened.complaints == []
    assert opened.requests == [page.as_uri()]


def test_a_single_point_is_told_by_its_shape():
    panel = next(panel for panel in theory.PANELS if panel.title == "Words")
    one = theory.ModelLine("m", panel.curves[0].label, "measured", (5,), (0.5,))
    assert theory.Curves(panel, (one,)).lone
    several = theory.ModelLine("m", panel.curves[0].label, "measured", (5, 6), (0.5, 0.6))
    assert not theory.Curves(panel, (several,)).lone
