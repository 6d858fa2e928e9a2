import csv
import dataclasses
import json
import math

import pandas as pd
import pytest

from tightframe.errors import UserError
from tightframe.results import (
    Header,
    ResultTable,
    Row,
    gather,
    read_csv,
    read_rows,
    write_csv,
    write_rows,
)

HEADER = Header("r", 10, {"width": 8}, {}, {"depth": 2, "betas": [0.9, 0.99]}, {})
ROW = Row("r", 10, "train", 1, "next", "all", "nc1_cdnv", 0.5, 10, 1, 0)


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [
        ROW,
        dataclasses.replace(ROW, metric="x", value=math.inf),
        dataclasses.replace(ROW, metric="y", value=math.nan),
    ]
    write_rows(tmp_path / "a.jsonl", HEADER, rows)
    header, again = read_rows(tmp_path / "a.jsonl")
    assert header.settings == HEADER.settings
    assert header.version
    assert again[:1] == rows[:1]
    assert again[1].value == math.inf
    assert math.isnan(again[2].value)


def test_gathered_rows_carry_settings_and_model_facts(tmp_path):
    write_rows(tmp_path / "a.jsonl", HEADER, [ROW])
    frame = gather([tmp_path / "a.jsonl"])
    assert frame.loc[0, ["set_depth", "model_width", "value"]].tolist() == [2, 8, 0.5]


def test_two_rows_with_one_key_are_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", HEADER, [ROW])
    write_rows(tmp_path / "b.jsonl", HEADER, [ROW])
    with pytest.raises(UserError, match=r"b.jsonl: nc1_cdnv of r at step 10 is also in .*a.jsonl"):
        gather([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_one_checkpoint_on_two_token_sets_is_two_rows_that_say_which(tmp_path):
    for name, tokens in {"a": "1f", "b": "2e"}.items():
        header = dataclasses.replace(HEADER, tokens={"name": name, "fingerprint": tokens})
        write_rows(tmp_path / f"{name}.jsonl", header, [ROW])
    frame = gather([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert frame["tokens_name"].tolist() == ["a", "b"]
    assert frame["tokens_fingerprint"].tolist() == ["1f", "2e"]
    # A name is not an identity: the same tokens under another one are measured twice.
    renamed = dataclasses.replace(HEADER, tokens={"name": "c", "fingerprint": "1f"})
    write_rows(tmp_path / "c.jsonl", renamed, [ROW])
    with pytest.raises(UserError, match=r"c.jsonl: nc1_cdnv of r at step 10 is also in .*a.jsonl"):
        gather([tmp_path / "a.jsonl", tmp_path / "c.jsonl"])


def test_one_checkpoint_measured_in_two_ways_is_two_rows_that_say_which(tmp_path):
    # A header that tells no way, as other studies' and older ones, is of the usual one.
    ways = {"a": {}, "b": {"precision": "bf16"}, "c": {"skip_positions": 4, "groups": 20}}
    for name, way in ways.items():
        header = dataclasses.replace(HEADER, measurement=way)
        write_rows(tmp_path / f"{name}.jsonl", header, [ROW])
    frame = gather(sorted(tmp_path.glob("*.jsonl")))
    assert frame["measured_precision"].tolist() == ["fp32", "bf16", "fp32"]
    assert frame["measured_skip_positions"].tolist() == [0, 0, 4]
    told = dataclasses.replace(HEADER, measurement={"precision": "fp32", "skip_positions": 0})
    write_rows(tmp_path / "d.jsonl", told, [ROW])
    with pytest.raises(UserError, match=r"d.jsonl: nc1_cdnv of r at step 10 is also in .*a.jsonl"):
        gather(sorted(tmp_path.glob("*.jsonl")))


@pytest.mark.parametrize("text", ["", "{}\n", '{"header": {}}\n', "no json\n"])
def test_a_damaged_results_file_is_named(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"a.jsonl:1: .*; measure again"):
        read_rows(tmp_path / "a.jsonl")


def test_no_results_says_what_to_run():
    with pytest.raises(UserError, match="tightframe measure"):
        gather([])


def test_a_value_measured_again_with_an_interval_takes_the_place_of_the_bare_one(tmp_path):
    bare = dataclasses.replace(ROW, value=0.25)
    ours, other = (dataclasses.replace(HEADER, measurement={"key": key}) for key in "ab")
    write_rows(tmp_path / "a.jsonl", ours, [bare])
    known = dataclasses.replace(bare, value=0.25 * (1 + 1e-12), low=0.2, high=0.3)
    write_rows(tmp_path / "b.jsonl", other, [known])
    for order in ("ab", "ba"):
        table = gather([tmp_path / f"{name}.jsonl" for name in order])
        assert table[["low", "high"]].to_numpy().tolist() == [[0.2, 0.3]]
    write_rows(tmp_path / "b.jsonl", other, [dataclasses.replace(known, value=0.26)])
    with pytest.raises(UserError, match="keep one of the two files"):
        gather([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    # Two files of one measurement are refused whatever they hold.
    write_rows(tmp_path / "b.jsonl", ours, [known])
    with pytest.raises(UserError, match="keep one of the two files"):
        gather([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_a_value_without_an_interval_may_be_measured_again_with_groups(tmp_path):
    # Of many measures there is no interval, so neither file has one; what is NaN is so in both.
    rows = [ROW, dataclasses.replace(ROW, metric="nc2_equiang_std", value=math.nan)]
    grouped = dataclasses.replace(HEADER, measurement={"groups": 20, "key": "b"})
    write_rows(tmp_path / "a.jsonl", HEADER, rows)
    write_rows(tmp_path / "b.jsonl", grouped, rows)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert len(gather(files)) == 2
    write_rows(files[1], grouped, [dataclasses.replace(ROW, value=ROW.value + 0.01)])
    with pytest.raises(UserError, match="keep one of the two files"):
        gather(files)


def test_texts_that_a_spreadsheet_would_run_are_text_in_a_csv_and_come_back(tmp_path):
    texts = ["=1+1", "+a", "-b", "@SUM(A1)", "\t=x", "\r=x", "'=y", "''-z", "'a", "-", "a=b", ""]
    numbers = ["-5", "+1.5e-3"]
    table = pd.DataFrame({"token": texts + numbers, "value": [-1.5] * len(texts + numbers)})
    path = tmp_path / "table.csv"
    write_csv(path, table)
    with path.open(newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells[: len(texts)])
    assert cells[len(texts) :] == numbers
    assert ",-1.5\n" in path.read_text()
    again = read_csv(path, dtype={"token": str}, keep_default_na=False)
    assert again["token"].to_list() == texts + numbers
    assert again["value"].to_list() == table["value"].to_list()


class Words(ResultTable):
    """A small result with text that a page, a terminal or a spreadsheet would act on."""

    one_line = "3 words\x1b[2J of <b>"

    def to_pandas(self):
        return pd.DataFrame(
            {"word": ["<i>", "=1+1", "c"], "n": [1, 2, 3], "x<y": [0.5, math.nan, math.inf]}
        )


def test_a_result_has_a_one_line_repr_and_an_escaped_table():
    assert repr(Words()) == r"Words(3 words\x1b[2J of <b>)"
    html = Words()._repr_html_()
    assert "&lt;i&gt;" in html
    assert "x&lt;y" in html
    assert not {"<i>", "<b>"} & set(html.split())


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_a_result_is_saved_in_the_format_of_the_suffix(tmp_path, suffix):
    path = Words().save(tmp_path / f"words{suffix}")
    read = {
        ".csv": read_csv,
        ".parquet": pd.read_parquet,
        ".json": lambda path: pd.DataFrame(json.loads(path.read_text())),
        ".jsonl": lambda path: pd.DataFrame(map(json.loads, path.read_text().splitlines())),
    }[suffix]
    table = read(path)
    pd.testing.assert_frame_equal(
        table.assign(**{"x<y": table["x<y"].astype(float)}), Words().to_pandas(), check_dtype=False
    )


def test_a_result_is_not_saved_in_an_unknown_format(tmp_path):
    with pytest.raises(UserError, match=r"words.xls: cannot be saved as '.xls'; expected a name"):
        Words().save(tmp_path / "words.xls")
    assert not list(tmp_path.iterdir())
