import os
from typing import Any

import numpy as np
import pytest
import torch

from tightframe import formats
from tightframe.errors import UserError
from tightframe.formats import Count, FileName, Record, TensorFormat


class Box(Record):
    name: str
    sides: list[Count]
    height: float


BOX = {"name": "a", "sides": [1, 2], "height": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sides": [1, "2"]}, "sides.1 is '2': expected a valid integer"),
        ({"sides": [1, True]}, "sides.1 is True: expected a valid integer"),
        ({"sides": [1, 2.0]}, "sides.1 is 2.0: expected a valid integer"),
        ({"sides": [-1]}, "sides.0 is -1: expected greater than or equal to 0"),
        ({"sides": [2**63]}, "sides.0 is an integer of more than 64 bits"),
        ({"height": float("inf")}, "height is inf: expected a finite number"),
        ({"name": None}, "name is None: expected a valid string"),
        ({"colour": "red"}, "colour is unknown"),
    ],
)
def test_a_mistake_names_file_field_and_both_values(change, message):
    with pytest.raises(UserError, match=rf"^box\.json: {message}.*; build it again$"):
        formats.check(Box, BOX | change, source="box.json", remedy="build it again")


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match="height is missing"):
        formats.check(Box, {"name": "a", "sides": []}, source="box.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ("[" * 500 + "]" * 500, "nested too deep|recursion|expected a valid dictionary|is "),
        ('{"height": ' + "1" * 5_000 + "}", "a number of thousands of digits"),
        ('{"name": "a", "name": "b"}', "the field 'name' occurs twice"),
        ('{"height": NaN}', "NaN is no number"),
        ('{"height": 1', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        formats.read_json(tmp_path / "a.json", Box)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/a", "a/b", "a\x00b", "a\\b"])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(UserError, match="the content is"):
        formats.check(FileName, name, source="x")
    assert formats.check(FileName, "..a", source="x") == "..a"


def test_places_that_are_no_files_are_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path, message in [
        (tmp_path / "loop", "a loop of links"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("n" * 300), "name is too long"),
        (tmp_path / "nul\x00", "a null character"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "file" / "a", "a part of the path is no folder"),
    ]:
        for read in (formats.read_json, FORMAT.read, FORMAT.read_facts):
            with pytest.raises(UserError, match=message):
                read(path)


class Facts(Record):
    n: Count


FORMAT: TensorFormat[Any] = TensorFormat(
    "a test", Facts, {"a": "float* *G C", "b": "int64 C", "step-*": "float32 2 | None"}
)
TENSORS = {"a": np.arange(6.0).reshape(1, 2, 3), "b": torch.arange(3)}


def test_tensors_come_back_with_their_facts(tmp_path):
    FORMAT.write(tmp_path / "a", TENSORS | {"step-1": torch.ones(2)}, {"n": 1})
    tensors, facts = FORMAT.read(tmp_path / "a")
    assert facts == FORMAT.read_facts(tmp_path / "a") == Facts(n=1)
    assert formats.kind_of(tmp_path / "a") == "a test"
    assert torch.equal(tensors["a"], torch.arange(6.0).double().view(1, 2, 3))
    assert tensors["b"].tolist() == [0, 1, 2]
    assert tensors["step-1"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"b": torch.arange(4)}, r"tensor 'b' is int64 \[4\], expected int64 C with .*C = 3"),
        ({"b": torch.zeros(3)}, r"tensor 'b' is float32 \[3\], expected int64 C"),
        ({"c": torch.zeros(3)}, "unknown tensor 'c'"),
        ({"step-1": torch.zeros(3)}, r"'step-1' is float32 \[3\], expected float32 2"),
    ],
)
def test_tensors_of_another_layout_are_named(tmp_path, tensors, message):
    FORMAT.write(tmp_path / "a", TENSORS | tensors, {"n": 1})
    with pytest.raises(UserError, match=message):
        FORMAT.read(tmp_path / "a")


def test_a_missing_tensor_is_named(tmp_path):
    FORMAT.write(tmp_path / "a", {"a": torch.zeros(3)}, {"n": 1})
    with pytest.raises(UserError, match="has no tensor 'b'"):
        FORMAT.read(tmp_path / "a")


def test_every_byte_of_a_file_of_tensors_is_watched(tmp_path):
    path = tmp_path / "a"
    FORMAT.write(path, TENSORS, {"n": 1})
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            tensors, facts = FORMAT.read(path)
        except UserError:
            continue
        # Only what says nothing may differ, such as blanks of the header.
        assert facts == Facts(n=1), place
        assert all(torch.equal(tensors[k], torch.as_tensor(v)) for k, v in TENSORS.items()), place


def test_another_kind_is_said(tmp_path):
    FORMAT.write(tmp_path / "a", TENSORS, {"n": 1})
    other = TensorFormat("a solution", Facts, {}, "solve again")
    with pytest.raises(UserError, match="holds 'a test', expected a solution; solve again"):
        other.read(tmp_path / "a")


def test_a_signed_file_tells_when_it_was_changed(tmp_path):
    path = tmp_path / "a.json"
    formats.write_signed(path, {"name": "a", "n": 1}, besides=["name"])
    schema = dict[str, Any]
    assert formats.read_signed(path, schema, besides=["name"])["n"] == 1
    path.write_text(path.read_text().replace('"a"', '"b"'))
    assert formats.read_signed(path, schema, besides=["name"])["name"] == "b"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(UserError, match="damaged or changed since it was written"):
        formats.read_signed(path, schema, besides=["name"])
