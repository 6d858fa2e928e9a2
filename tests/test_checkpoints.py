"""One line a checkpoint, whatever else was measured of it."""

import dataclasses
import math

import pandas as pd
import pytest

from tightframe.analysis.checkpoints import at_centres, checkpoints
from tightframe.errors import UserError
from tightframe.lm.interface import PRENORM
from tightframe.results import Header, Row, gather, write_rows

HEADER = Header(
    "r", 10, {"n_parameters": 5, "n_classes": 40}, {"name": "t", "fingerprint": "1f"}, {}, {}
)
ROW = Row("r", 10, "train", 2, "next", "all", "rank_pr", 0.5, 10, 1, 0)
LOSS = dataclasses.replace(ROW, split="val", metric="val_loss", value=3.0)


def table(folder, **files):
    """The table over files of these names; a header and several rows each."""
    return checkpoints_of(folder, **files).table


def checkpoints_of(folder, **files):
    """The same with the settings of its columns."""
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


def at_step(step, **changes):
    return [dataclasses.replace(row, step=step, **changes) for row in (ROW, LOSS)]


def test_all_checkpoints_have_the_plainest_way_that_is_common_to_them(tmp_path):
    # The first has the plainest way of all, in which the second was not measured.
    bf16 = measured(skip_positions=1, precision="bf16")
    found = table(
        tmp_path,
        a=(measured(), ROW, LOSS),
        b=(measured(skip_positions=4), *at_step(10, value=0.7)),
        c=(bf16, *at_step(10, value=0.6)),
        d=(bf16, *at_step(20, value=7.0)),
        e=(measured(skip_positions=4), *at_step(20, value=8.0)),
    )
    assert found["rank_pr"].tolist() == [0.6, 7.0]
    assert found["measured_precision"].tolist() == ["bf16", "bf16"]


def test_without_a_common_way_there_is_no_table(tmp_path):
    with pytest.raises(UserError, match=r"measured in 2 ways, none of them common to all \(r at "):
        table(
            tmp_path,
            a=(measured(), ROW, LOSS),
            b=(measured(precision="bf16"), *at_step(20)),
        )


@pytest.mark.parametrize("names", ["abc", "cba", "bca"])
def test_a_column_has_the_largest_minimum_count_that_all_checkpoints_have(tmp_path, names):
    # Steps 10 and 20 have 1 and 20, step 30 has 1, 20 and 50: 20 is the largest that all have.
    counts = {10: (1, 20), 20: (1, 20), 30: (1, 20, 50)}
    files = {
        name: (
            with_classes(step),
            dataclasses.replace(LOSS, step=step),
            *(
                dataclasses.replace(ROW, step=step, min_count=n, value=float(step + n))
                for n in least
            ),
        )
        for name, (step, least) in zip(names, counts.items(), strict=True)
    }
    found = checkpoints_of(tmp_path, **files)
    assert found.table["rank_pr"].tolist() == [30, 40, 50]
    assert found.min_counts == {"rank_pr": 20}  # losses have none
    assert found.refused == {}


def test_a_measure_without_a_common_minimum_count_has_no_column_and_a_reason(tmp_path):
    stable = dataclasses.replace(ROW, metric="rank_stable", value=2.0)
    found = checkpoints_of(
        tmp_path,
        a=(HEADER, ROW, stable, LOSS),
        b=(HEADER, *at_step(20, min_count=20), dataclasses.replace(stable, step=20, value=3.0)),
        c=(HEADER, dataclasses.replace(LOSS, step=20)),
    )
    assert "rank_pr" not in found.table
    assert found.table["rank_stable"].tolist() == [2, 3]
    assert list(found.refused) == ["rank_pr"]
    assert found.refused["rank_pr"].endswith("measured with 1 and 20")


def test_a_measure_that_some_checkpoints_lack_is_missing_there_alone(tmp_path):
    twenty = dataclasses.replace(ROW, step=20, min_count=20)
    found = table(
        tmp_path, a=(HEADER, LOSS), b=(HEADER, twenty, dataclasses.replace(LOSS, step=20))
    )
    assert found["rank_pr"].isna().tolist() == [True, False]


def bounded(row, reach):
    ends = {"low": row.value - reach, "high": row.value + reach, "centre": row.value + reach / 4}
    return dataclasses.replace(row, **ends, resampled="documents")


def test_intervals_stand_beside_their_values_and_only_where_there_are_any(tmp_path):
    header = measured(groups=8)
    first, second = bounded(ROW, 0.125), bounded(dataclasses.replace(ROW, step=20), 0.25)
    found = checkpoints_of(
        tmp_path, a=(header, first, LOSS), b=(header, second, dataclasses.replace(LOSS, step=20))
    )
    assert found.table["low_rank_pr"].tolist() == [0.375, 0.25]
    assert found.table["high_rank_pr"].tolist() == [0.625, 0.75]
    assert "low_val_loss" not in found.table
    groups = dict(zip(found.settings["metric"], found.settings["groups"], strict=True))
    assert groups == {"rank_pr": 8, "val_loss": 0}


def test_intervals_from_different_numbers_of_groups_are_left_out_for_a_reason(tmp_path):
    later = [bounded(row, 0.25) for row in at_step(20)]
    found = checkpoints_of(
        tmp_path, a=(measured(groups=8), bounded(ROW, 0.1), LOSS), b=(measured(groups=20), *later)
    )
    assert found.table["rank_pr"].tolist() == [0.5, 0.5]
    assert "low_rank_pr" not in found.table
    assert found.table["low_val_loss"].isna().tolist() == [True, False]
    assert found.without_intervals == {
        "rank_pr": "intervals are left out: they are from 8 and 20 groups of documents"
    }


def test_centres_stand_in_for_values_where_every_checkpoint_has_one(tmp_path):
    header = measured(groups=8)
    later = dataclasses.replace(bounded(ROW, 0.25), step=20)
    other = dataclasses.replace(LOSS, step=20)
    ends = ["centre_rank_pr", "low_rank_pr", "high_rank_pr"]
    both = checkpoints_of(
        tmp_path / "both", a=(header, bounded(ROW, 0.125), LOSS), b=(header, later, other)
    )
    shown = at_centres(both)
    assert shown.table["rank_pr"].tolist() == [0.5 + 0.125 / 4, 0.5 + 0.25 / 4]
    assert shown.table[ends].equals(both.table[ends])
    assert both.table["rank_pr"].tolist() == [0.5, 0.5]  # as it was
    one = checkpoints_of(tmp_path / "one", a=(header, ROW, LOSS), b=(header, later, other))
    shown = at_centres(one)
    assert shown.table["rank_pr"].tolist() == [0.5, 0.5]
    assert shown.table[["low_rank_pr", "high_rank_pr"]].isna().all(axis=None)
    assert "some checkpoints have none" in shown.without_intervals["rank_pr"]


def test_a_loss_is_its_own_centre_and_keeps_the_intervals_that_there_are(tmp_path):
    header = measured(groups=8)
    loss = dataclasses.replace(bounded(LOSS, 0.25), centre=LOSS.value, step=20)
    later = dataclasses.replace(ROW, step=20)
    shown = at_centres(checkpoints_of(tmp_path, a=(header, ROW, LOSS), b=(header, later, loss)))
    assert shown.table["val_loss"].tolist() == [LOSS.value] * 2
    assert shown.table["low_val_loss"].isna().tolist() == [True, False]


def test_intervals_of_files_without_centres_are_left_out(tmp_path):
    old = dataclasses.replace(bounded(ROW, 0.25), centre=math.nan)
    shown = at_centres(checkpoints_of(tmp_path, a=(measured(groups=8), old, LOSS)))
    assert shown.table["rank_pr"].tolist() == [0.5]
    assert shown.table[["low_rank_pr", "high_rank_pr"]].isna().all(axis=None)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_facts_are_those_of_the_largest_minimum_count(tmp_path, names):
    # Losses have no minimum count: their row says 1 in the file of 30 as well.
    of_thirty = dataclasses.replace(ROW, min_count=30, value=0.7)
    both = {names[0]: (with_classes(7), LOSS, of_thirty), names[1]: (HEADER, ROW)}
    found = table(tmp_path, **both)
    assert found[["rank_pr", "model_n_classes"]].to_numpy().tolist() == [[0.7, 7]]


def test_losses_alone_have_facts_too(tmp_path):
    assert table(tmp_path, a=(HEADER, LOSS))["model_n_parameters"].tolist() == [5]
