"""Mistakes in a measurement are found before torch, a model or its tokens are loaded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tightframe.collapse.checks import layer_names, measure_names
from tightframe.collapse.measures import MEASURES
from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.lm.training import train
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens

# Runs each command in one process, for which torch must not have been imported in the end.
PROGRAM = """
import contextlib, io, json, sys
from tightframe import cli

said = []
for arguments in json.loads(sys.argv[1]):
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        cli.main(arguments)
    said.append(printed.getvalue())
heavy = {"torch", "transformers", "tokenizers", "pandas", "scipy"} & set(sys.modules)
print(json.dumps({"said": said, "heavy": sorted(heavy)}))
"""

MISTAKES = {
    "no text": ("model --text none.txt", r"none\.txt: no such file"),
    "a kind that is not read": ("model --text letter.docx", r"letter\.docx: "),
    "records without the field": (
        "model --text chats.jsonl --field body",
        r"chats\.jsonl:1: no field 'body', but content; say with --field",
    ),
    "an empty file": ("model --text empty.txt", r"empty\.txt: is empty"),
    "a folder without text": ("model --text model", r"model: holds no readable file"),
    "no validation text": ("model --text good.txt --validation none.txt", r"none\.txt: no such"),
    "no tokens": ("model --tokens none", r"none: no such folder"),
    "other tokens": ("model --tokens tokens --ood model", r"model: holds no manifest\.json"),
    "neither text nor tokens": ("model", r"model: not a run directory; say on which tokens"),
    "text and tokens": ("model --text good.txt --tokens tokens", r"give one of them"),
    "no model": ("./none --text good.txt", r"none: no such folder; expected a run or a model"),
    "no model in the folder": ("tokens --tokens tokens", r"neither a run \(config\.toml\) nor"),
    "a model that is no object": ("broken --tokens tokens", r"config\.json: not JSON"),
    "no such step": ("run --step 4", r"has no checkpoint of step 4; it has"),
    "no such measure": ("run --measures nc1_cdvn", r"unknown measure 'nc1_cdvn'; did you mean"),
    "no such layer": ("run --layers first", r"unknown layer 'first'; expected all, last"),
    "a range that goes back": ("run --layers 3-1", r"unknown layer '3-1'"),
    "no such table": ("run --compat lc-2024-06", r"unknown table 'lc-2024-06'; did you mean"),
    "a table of other classes": ("run --compat lc-2024-05 --min-count 2", r"of every class"),
    "no such part": ("run --part 3/2", r"part is '3/2'; expected I/N"),
    "an option of a text": ("run --context 64", r"--context: is for --text"),
    "a block of one token": ("model --text good.txt --context 1", r"context is 1; expected 2"),
    "no tokenizer": ("model --text good.txt", r"model: holds no tokenizer \(config.json says it "),
    "no tokenizer in a folder": (
        "model --text good.txt --tokenizer bare",
        r"bare: holds no tokenizer; give that of the model .* with --tokenizer: a folder, a ",
    ),
    "no such tokenizer": (
        "model --text good.txt --tokenizer ./none",
        r"none: no such tokenizer; expected a folder with one, a tokenizer.json, or the name of",
    ),
    "a tokenizer for tokens": (
        "model --tokens tokens --tokenizer bare",
        r"--tokenizer: is for --text; tokens are as they were built",
    ),
    "a tokenizer for a run": (
        "run --text good.txt --tokenizer tokens",
        r"tokenizer: run is a run and knows its own; leave it out",
    ),
    "matched with nothing": ("run --matched", r"matched: say with shared_with"),
    "no classes": ("run --min-count 0", r"min_count is 0; expected at least 1"),
    "no groups": ("run --groups 0", r"groups is 0; expected at least 1"),
    "no batch": ("run --batch-tokens 0", r"batch_tokens is 0; expected at least 1"),
    "a file in the way": ("run --out good.txt/x", r"a file stands where a folder is needed"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each mistake is answered with, from one process that must not load anything heavy."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "good.txt").write_text("Some words.\n\nAnd some more of them.\n")
    (folder / "empty.txt").touch()
    (folder / "chats.jsonl").write_text('{"content": "Some words."}\n')
    (folder / "letter.docx").write_bytes(b"PK\x03\x04")
    for name, content in (
        ("model", '{"_name_or_path": "someone/base"}'),
        ("broken", "{"),
        ("bare", "{}"),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(content)
        (folder / name / "model.safetensors").touch()
    write_tokens(folder / "tokens")
    train(tiny_settings(folder / "tokens", folder / "run", epochs=1))
    commands = [["measure", *arguments.split()] for arguments, _ in MISTAKES.values()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    answer = json.loads(done.stdout)
    return answer["heavy"], dict(zip(MISTAKES, answer["said"], strict=True)), folder


def test_mistakes_import_nothing_heavy(said):
    heavy, _, folder = said
    assert heavy == []
    assert not (folder / "runs").exists()  # nor is anything written


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_that_names_them(said, name):
    line = said[1][name]
    assert re.search(MISTAKES[name][1], line), line
    assert line.count("\n") == 1


def test_the_names_read_from_the_source_are_those_of_the_catalogue():
    assert measure_names() == tuple(measure.name for measure in MEASURES)


def test_a_range_of_layers_stands_for_its_numbers():
    assert layer_names("0-3, 7,prenorm") == ["0", "1", "2", "3", "7", "prenorm"]
    assert layer_names("2-2") == ["2"]
    assert layer_names("all") == ["all"]
    with pytest.raises(UserError, match="unknown layer '-1'"):
        layer_names("-1")


def test_a_place_that_cannot_take_results_is_refused(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder")  # its nearest folder that exists counts
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="new: cannot be written; check its permissions"):
        check_writable(tmp_path / "new")
    monkeypatch.undo()
    monkeypatch.setattr("tightframe.files.free_disk", lambda folder: 0)
    with pytest.raises(UserError, match="new: no space left on the disk"):
        check_writable(tmp_path / "new")
    assert list(Path(tmp_path).iterdir()) == []
