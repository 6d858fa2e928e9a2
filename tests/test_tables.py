"""The published tables that a report writes, column for column."""

import csv
import dataclasses

import pytest

from tightframe.geometry.options import PREFIXES
from tightframe.geometry.published import columns
from tightframe.report import tables
from tightframe.results import Header, Row, gather, write_csv, write_rows


@pytest.fixture
def rows(tmp_path):
    """Two runs with all columns of both tables; column i of checkpoint j is i + j / 4 + 1.

    The larger run has two checkpoints. Other labels, and our own measures, are not of the tables.
    """
    places = [("w64-d2", 20), ("w64-d2", 9), ("w128-d1", 20)]
    for j, (run, step) in enumerate(places):
        header = Header(run, step, {"n_parameters": 3}, {"name": "t", "fingerprint": "1f"}, {}, {})
        row = Row(run, step, "train", 2, "next", "all", "rank_pr", 99.0, 10, 1, 0)
        written = [row, dataclasses.replace(row, labels="current", metric="compat05.sims_mean")]
        for table, prefix in PREFIXES.items():
            for i, name in enumerate(columns(table)[1:]):
                value = i + 1.0 if name in tables.COUNTS else i + j / 4 + 1
                written.append(dataclasses.replace(row, metric=f"{prefix}.{name}", value=value))
        write_rows(tmp_path / f"{j}.jsonl", header, written)
    return gather(sorted(tmp_path.glob("*.jsonl")))


@pytest.mark.parametrize("table", PREFIXES)
def test_a_published_table_has_its_columns_in_their_order(rows, table, tmp_path):
    write_csv(tmp_path / "table.csv", tables.published(rows, table))
    head, *lines = csv.reader((tmp_path / "table.csv").read_text().splitlines())
    may = table == "lc-2024-05"
    assert head == [*([""] if may else []), *columns(table)]
    if may:  # an index without a name, as pandas writes it
        assert [line.pop(0) for line in lines] == ["0", "1", "2"]
    # By name, then by step; of which value each column is follows from its place.
    assert [line[0] for line in lines] == ["w128-d1@20", "w64-d2@9", "w64-d2@20"]
    for line, j in zip(lines, (2, 1, 0), strict=True):
        for i, (name, word) in enumerate(zip(columns(table)[1:], line[1:], strict=True)):
            if name in tables.COUNTS:
                assert word == str(i + 1)  # whole numbers have no point
            else:
                assert float(word) == i + j / 4 + 1


def test_a_column_without_a_value_is_empty(rows):
    lacking = rows[rows["metric"] != "compat10.hits"]
    table = tables.published(lacking, "lc-2024-10")
    assert list(table) == list(columns("lc-2024-10"))
    assert table["hits"].isna().all()
