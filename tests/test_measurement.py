"""What `tf.measure` returns: values by name, parts of them, a table, words, a picture."""

import inspect
import math

import matplotlib
import pandas as pd
import pytest

import tightframe as tf
from tightframe import cli
from tightframe.geometry.options import MeasureOptions
from tightframe.lm.checkpoints import export_gpt_neo
from tightframe.lm.interface import PRENORM
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tiny_runs import PLAIN
from tiny_tokens import write_tokens

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("measurement") / "tokens", train=120, val=30)


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(vocab_size=23, width=8, depth=1, heads=2, positions=16)
    return Transformer(config, seed=1, name="small")


@pytest.fixture(scope="module")
def result(model, tokens):
    names = ["nc1_cdnv_med_db", "nc3_cos_mean", "ncc_accuracy"]
    labels = ["next", "current"]
    return tf.measure(
        model, tokens=tokens, layers="all", labels=labels, measures=names, groups=8, min_count=10
    )


def test_a_value_is_found_by_its_name(result):
    value = result["nc3_cos_mean"]
    (row,) = [
        row
        for row in result.rows
        if (row.metric, row.layer, row.labels) == ("nc3_cos_mean", 1, "next")
    ]
    assert (value.value, value.low, value.high, value.n) == (row.value, row.low, row.high, row.n)
    assert float(value) == row.value
    assert repr(value) == f"Value({row.centre:.3g} [{row.low:.3g}, {row.high:.3g}], n={row.n:,})"
    with pytest.raises(KeyError, match=r"nc3_cos_maen.* did you mean 'nc3_cos_mean'"):
        result["nc3_cos_maen"]
    assert "val_loss" in result


def test_a_part_is_one_layer_or_one_kind_of_labels(result):
    assert result.layers == [0, PRENORM, 1]
    of_one = result.at(layer=0, labels="current")
    assert {(row.layer, row.labels) for row in of_one.rows} == {(0, "current")}
    assert list(of_one.headers) == ["current"]
    assert of_one["ncc_accuracy"] != result["ncc_accuracy"]
    with pytest.raises(KeyError, match=r"no layer 7 was measured; there are \[0, -1, 1\]"):
        result.at(layer=7)


def test_a_result_is_one_line_a_table_and_words(result, tmp_path):
    assert repr(result).startswith("Measurement(small on tokens: ")
    assert len(result.to_pandas()) == len(result.rows)
    assert "nc3_cos_mean" in result._repr_html_()
    assert "Most collapsed" in result.summary()
    path = result.save(tmp_path / "values.parquet")
    assert pd.read_parquet(path)["metric"].tolist() == [row.metric for row in result.rows]


def test_a_plot_has_one_line_per_labels_over_layers_or_one_dot_per_measure(result):
    profile = result.plot("nc3_cos_mean")
    values = [
        row.shown for row in result.rows if row.metric == "nc3_cos_mean" and row.labels == "next"
    ]
    assert profile.lines[0].get_ydata().tolist() == values
    assert len(profile.lines) == 2
    assert [label.get_text() for label in profile.get_xticklabels()] == ["0", "prenorm", "1"]
    dots = result.at(layer=1, labels="next").plot()
    names = [label.get_text().partition(" ")[0] for label in dots.get_yticklabels()]
    assert names == ["nc1_cdnv_med_db", "nc3_cos_mean"]


def test_a_model_object_leaves_no_files_unless_a_folder_is_given(
    model, tokens, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = {"tokens": tokens, "measures": ["nc3_cos_mean"], **PLAIN}
    free = tf.measure(model, **asked)
    assert free.path is None
    assert not list(tmp_path.iterdir())
    kept = tf.measure(model, out=tmp_path / "out", **asked)
    assert kept.path.parent == tmp_path / "out" / "results"
    assert kept["nc3_cos_mean"] == free["nc3_cos_mean"]


def test_a_model_of_transformers_is_measured_with_its_tokenizer_in_hand(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tightframe.corpus.tokenizer import train_bpe

    text = "\n\n".join(f"Anne saw dog {i % 7}. And cat {i % 5} saw Anne." for i in range(200))
    (tmp_path / "novel.txt").write_text(text)
    shape = TransformerConfig(vocab_size=276, width=8, depth=1, heads=2, positions=32)
    export_gpt_neo(Transformer(shape, seed=0), tmp_path / "neo", train_bpe([text], 276))
    asked = {"text": tmp_path / "novel.txt", "measures": ["nc3_cos_mean"], **PLAIN}
    folder = tf.measure(tmp_path / "neo", out=tmp_path / "out", **asked)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "neo").train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "neo")
    found = tf.measure(loaded, tokenizer=tokenizer, **asked)
    assert found["nc3_cos_mean"].value == pytest.approx(folder["nc3_cos_mean"].value, rel=1e-6)
    assert loaded.training


def test_every_option_is_documented_and_is_an_argument_of_the_function_and_of_the_command(capsys):
    names = list(inspect.signature(MeasureOptions).parameters)
    assert list(inspect.signature(tf.measure).parameters)[1:] == names
    cli.main(["measure", "--help"])
    shown = capsys.readouterr().out
    for name in names:
        assert f"\n    {name}: " in tf.measure.__doc__
        assert f"--{name.replace('_', '-')} " in shown
    with pytest.raises(TypeError, match="no_such_option"):
        tf.measure("x", no_such_option=1)


def test_what_was_not_requested_is_no_part_of_the_result(model, tokens, tmp_path):
    def metrics(**asked):
        found = tf.measure(model, tokens=tokens, out=tmp_path, **PLAIN | asked)
        assert {row.layer for row in found.rows} == set(found.layers)
        return {row.metric for row in found.rows if not row.metric.startswith("val_")}

    more = {"by_frequency": True, "compat": ["lc-2024-10"], "layers": "all"}
    assert metrics(measures=["nc3_cos_mean", "nc1_cdnv"], **more) > {"nc3_cos_mean", "nc1_cdnv"}
    assert metrics(measures=["nc1_cdnv"]) == {"nc1_cdnv"}
    assert {
        name.partition(".")[0] for name in metrics(measures=["nc1_cdnv"], compat="lc-2024-05")
    } == {
        "nc1_cdnv",
        "compat05",
    }
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_the_control_stands_beside_the_model(model, tokens, tmp_path):
    asked = {"tokens": tokens, "measures": ["nc3_cos_mean"], "out": tmp_path}
    assert not tf.measure(model, **asked, **PLAIN).random
    control = tf.measure(model, random_weights=3, **asked, **PLAIN)
    found = tf.measure(model, **asked, **PLAIN)
    (value,) = [x for key, x in found.random.items() if key[3] == "nc3_cos_mean"]
    assert value == control["nc3_cos_mean"].value
    assert "random" in found.summary()
    assert not math.isnan(value)


def test_one_process_of_many_prints(model, tokens, result, monkeypatch, capsys):
    kept = result.at(labels="next")
    monkeypatch.setattr(type(kept), "path", tokens)
    monkeypatch.setattr("tightframe.geometry.checks.check_model", lambda *_, **__: None)
    monkeypatch.setattr("tightframe.geometry.study.measure_model", lambda *_: kept)
    for rank, printed in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        cli.main(["measure", "small", "--tokens", str(tokens)])
        out, err = capsys.readouterr()
        assert ("nc3_cos_mean" in out) == printed
        assert ("(K/D" in out) == ("draws what is there" in err) == printed
