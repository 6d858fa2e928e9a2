"""The study of a pretrained model: its four ways on a tiny model, and the committed answers."""

from pathlib import Path

import pandas as pd
import pytest

import tightframe as tf
from studies.smollm2 import run
from tightframe.geometry.labels import LabelSpec
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tiny_tokens import write_tokens

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "smollm2"


def test_the_four_ways_differ_in_positions_and_dimensions(tmp_path):
    shards = tf.TokenShards.open(write_tokens(tmp_path / "tokens", train=400))
    config = TransformerConfig(vocab_size=23, width=8, depth=1, heads=2, positions=16)
    model = Transformer(config, seed=1)
    split = shards.split("train")
    ways = pd.DataFrame(run.way_rows(model, split))
    assert list(ways["layer"].unique()) == ["0", "prenorm", "1"]
    last = ways[ways["layer"] == "1"].set_index(["positions", "dimensions"])
    for positions, reading in (("all", LabelSpec()), ("usual", LabelSpec(skip=1))):
        moments = tf.class_moments(model, split, reading=reading)
        found = tf.metrics(moments, model.classifier, measures=run.MEASURES, min_count=20)
        for name in run.MEASURES:
            assert last.loc[(positions, "all"), name] == pytest.approx(found[name].value)
    assert last.loc[("all", "all"), "rank_pr"] != last.loc[("usual", "all"), "rank_pr"]


def test_the_page_has_the_answers_of_the_tables():
    tables = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("layers", "ways"))
    answers = list(run.answers(*tables))
    assert [line.split()[-1] for line in answers[:2]] == ["yes", "no"]
    assert "from layer 29;" in answers[2]
    assert [line.endswith("not repaired") for line in answers[3:]] == [True, False, False, False]
