"""What a measurement was asked for is found, wherever its rows lie."""

import pytest

from tightframe import cli
from tightframe.geometry.answers import answers
from tightframe.geometry.asked import Asked
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tiny_runs import PLAINLY, measure_run
from tiny_tokens import write_tokens


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measures something on the same tokens into the same folder, and finds the answers."""
    folder = tmp_path_factory.mktemp("answers")
    tokens = write_tokens(folder / "tokens")
    config = TransformerConfig(vocab_size=23, width=8, depth=1, heads=2, positions=16)
    model = Transformer(config, seed=1, name="small")

    def measure(*measures, **settings):
        path = measure_run(model, tokens, measures=measures, out=folder / "out", **settings)
        return answers(path, Asked.of(measures, **settings))[1]

    measure.tokens = tokens
    measure.path = measure_run(model, tokens, measures=["nc3_cos_mean"], out=folder / "out")
    return measure


def _keys(rows):
    return [(row.layer, row.subset, row.metric) for row in rows if not row.metric.startswith("val")]


def test_rows_of_earlier_files_are_answers_too(measured):
    assert _keys(measured("nc3_cos_mean")) == [(1, "all", "nc3_cos_mean")]
    # The last layer's is in the first file, the others are new.
    rows = measured("nc3_cos_mean", layers="all")
    assert [row.layer for row in rows if row.metric == "nc3_cos_mean"] == [0, -1, 1]
    assert {row.metric for row in rows} > {"val_loss", "val_bits_per_byte"}


def test_what_was_not_asked_for_is_no_answer(measured):
    measured("nc3_cos_mean", "nc1_cdnv", by_frequency=True, compat=("lc-2024-10",))
    assert _keys(measured("nc1_cdnv")) == [(1, "all", "nc1_cdnv")]
    other = measured("nc1_cdnv", min_count=2)
    assert [row.min_count for row in other if row.metric == "nc1_cdnv"] == [2]


def test_values_measured_in_another_way_are_no_answers(measured):
    next_ = measured("nc1_cdnv")
    current = measured("nc1_cdnv", labels="current")
    assert _keys(next_) == _keys(current)
    assert next_[0].value != current[0].value


def test_strata_and_published_columns_are_answers_where_they_are_asked_for(measured):
    rows = measured("nc1_cdnv", by_frequency=True, compat=("lc-2024-05",))
    assert {row.subset for row in rows} > {"all"}
    assert {row.metric.partition(".")[0] for row in rows if "." in row.metric} == {"compat05"}


def test_one_process_of_many_prints(measured, monkeypatch, capsys):
    monkeypatch.setattr("tightframe.geometry.checks.check_model", lambda _: None)
    for rank, printed in (("1", False), ("0", True)):
        monkeypatch.setattr("tightframe.geometry.measure_run", lambda *_, **__: measured.path)
        monkeypatch.setenv("RANK", rank)
        tokens = str(measured.tokens)
        asked = ["--measures", "nc3_cos_mean", *PLAINLY]
        cli.main(["measure", "small", "--tokens", tokens, *asked])
        out, err = capsys.readouterr()
        assert ("nc3_cos_mean" in out) == printed
        assert ("(K/D" in out) == ("draws what is there" in err) == printed
