"""One line a checkpoint, whatever else was measured of it."""

import dataclasses

import pandas as pd
import pytest

from tightframe.analysis.checkpoints import checkpoints
from tightframe.lm.interface import PRENORM
from tightframe.results import Header, Row, gather, write_rows

HEADER = Header(
    "r", 10, {"n_parameters": 5, "n_classes": 40}, {"name": "t", "fingerprint": "1f"}, {}, {}
)
ROW = Row("r", 10, "train", 2, "next", "all", "rank_pr", 0.5, 10, 1, 0)
LOSS = dataclasses.replace(ROW, split="val", metric="val_loss", value=3.0)


def table(folder, **files):
    """The table over files of these names; a header or several rows each."""
    for name, (header, *rows) in files.items():
        write_rows(folder / f"{name}.jsonl", header, rows)
    return checkpoints(gather(sorted(folder.glob("*.jsonl"))))


def with_classes(n):
    return dataclasses.replace(HEADER, model={**HEADER.model, "n_classes": n})


@pytest.mark.parametrize(
    "other",
    [
        {"layer": 0},
        {"layer": PRENORM},
        {"labels": "current"},
        {"labels": "shuffled"},
        {"subset": "count 100-299"},
        {"subset": "probe"},
        {"metric": "compat05.cdnv_mean"},
        {"metric": "compat10.hits"},
        {"min_count": 30},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["a", "z"])  # before and after the file of the others
def test_other_layers_labels_subsets_and_published_columns_change_nothing(tmp_path, other, name):
    alone = table(tmp_path, main=(HEADER, ROW, LOSS))
    assert alone["rank_pr"].tolist() == [0.5]
    row = dataclasses.replace(ROW, value=99.0, **other)
    found = table(tmp_path, **{name: (with_classes(7), row)})
    pd.testing.assert_frame_equal(found, alone)


def measured(**way):
    return dataclasses.replace(HEADER, measurement=way)


@pytest.mark.parametrize("name", ["a", "z"])
@pytest.mark.parametrize("way", [{"precision": "bf16"}, {"skip_positions": 4}], ids=str)
def test_a_line_is_of_one_way_of_measuring(tmp_path, way, name):
    # What was measured in the other way alone is not mixed in.
    alone = table(tmp_path, main=(HEADER, ROW, LOSS))
    more = dataclasses.replace(ROW, metric="rank_stable", value=3.0)
    other = [dataclasses.replace(row, value=99.0) for row in (ROW, LOSS)]
    found = table(tmp_path, **{name: (measured(**way), *other, more)})
    pd.testing.assert_frame_equal(found, alone)
    assert found[["measured_precision", "measured_skip_positions"]].to_numpy().tolist() == [
        ["fp32", 0]
    ]


def test_each_checkpoint_has_the_plainest_way_it_was_measured_in(tmp_path):
    # Fewer skipped positions come before the precision; another checkpoint has its own way.
    later = [dataclasses.replace(row, step=20, value=7.0) for row in (ROW, LOSS)]
    found = table(
        tmp_path,
        a=(measured(skip_positions=4), ROW),
        b=(measured(skip_positions=1, precision="bf16"), dataclasses.replace(ROW, value=0.6)),
        c=(measured(skip_positions=1, precision="bf16"), *later),
        d=(measured(skip_positions=2), *(dataclasses.replace(row, value=8.0) for row in later)),
    )
    assert found["rank_pr"].tolist() == [0.6, 7.0]
    assert found["measured_precision"].tolist() == ["bf16", "bf16"]


def test_rows_gathered_before_ways_were_told_apart_are_read(tmp_path):
    table(tmp_path, main=(HEADER, ROW, LOSS))
    rows = gather([tmp_path / "main.jsonl"])
    old = checkpoints(rows.drop(columns=["measured_precision", "measured_skip_positions"]))
    assert old["rank_pr"].tolist() == [0.5]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_facts_are_those_of_the_smallest_minimum_count(tmp_path, names):
    # Losses have no minimum count: their row says 1 in the file of 30 as well.
    of_thirty = dataclasses.replace(ROW, min_count=30, value=0.7)
    both = {names[0]: (with_classes(7), LOSS, of_thirty), names[1]: (HEADER, ROW)}
    found = table(tmp_path, **both)
    assert found[["rank_pr", "model_n_classes"]].to_numpy().tolist() == [[0.5, 40]]


def test_losses_alone_have_facts_too(tmp_path):
    assert table(tmp_path, a=(HEADER, LOSS))["model_n_parameters"].tolist() == [5]
