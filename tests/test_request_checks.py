"""Mistakes in a measurement are found before torch, a model or its tokens are loaded."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.geometry.options import layer_names
from tightframe.lm.training import train
from tightframe.ntp.contexts import count
from tightframe.ntp.table import save_table
from tightframe.results import Header, Row, write_rows
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
    heavy = {"torch", "transformers", "sklearn", "matplotlib", "pandas"} & set(sys.modules)
    said.append([printed.getvalue(), sorted(heavy)])
print(json.dumps(said))
"""

NO_TENSORS = (2).to_bytes(8, "little") + b"{}"  # a whole safetensors file

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
    "a folder of the system": (
        "run --out /proc/x",
        r"/proc/x: no files can be written there; name another place",
    ),
    "a run in the way": ("small --tokens tokens --out run", r"run: belongs to a run; say with"),
    "a layer beyond the last": (
        "small --tokens tokens --layers 0,3",
        r"unknown layer '3'; expected .* to 2 and ranges",
    ),
    "a layer beyond a run's last": ("run --layers 0-3", r"unknown layer '3'; expected .* to 2 and"),
    "a block beyond the positions": (
        "small --text good.txt --tokenizer tokens --context 18",
        r"context is 18, but model small has 16 positions; give 17 or fewer",
    ),
    "a depth in words": ("worded --tokens tokens", r"worded: n_layer is 'two' in config\.json"),
    "code of its own": (
        "coded --tokens tokens",
        r"coded: brings Python code of its own, which is not run; .*--trust-remote-code",
    ),
    "an unknown kind of model": (
        "alien --tokens tokens",
        r"alien: its model_type is 'no-such-kind', which the installed transformers does not know",
    ),
    "a damaged tokenizer": (
        "small --text good.txt --tokenizer unreadable",
        r"unreadable.tokenizer\.json: not a tokenizer\.json, or damaged",
    ),
    "damaged settings of a tokenizer": (
        "small --text good.txt --tokenizer unset",
        r"unset.tokenizer_config\.json: not JSON",
    ),
    "weights cut short": ("cut --tokens tokens", r"cut: its weights are damaged or cut short"),
    "a part of the weights": (
        "parted --tokens tokens",
        r"parted.b\.safetensors: no such file, which model\.safetensors\.index\.json names",
    ),
    "a loop of links as text": (
        "small --text loop --tokenizer tokens",
        r"loop: a loop of symbolic links; name the place itself",
    ),
    "a loop of links as model": ("loop --text good.txt", r"loop: a loop of symbolic links; name"),
    "a loop of links as tokens": ("run --tokens loop", r"loop: a loop of symbolic links; name"),
    "a name too long": (
        "x" * 300 + " --text good.txt",
        r"tightframe: x{300}: the name is too long; choose a shorter one",
    ),
}

# The same of other commands: what is typed, and what is said.
OTHERS = {
    "report none": r"none: no such folder; expected a sweep or a run",
    "report tokens": r"tokens: holds tokens, no results; run",
    "report model": r"model: holds a model, no results; run",
    "report run": r"run: no results yet; run `tightframe measure run` first",
    "report run --theory model": r"model: no folder of a context table",
    "report run --out good.txt": r"good\.txt: a file stands where a folder is needed",
    "report damaged": r"damaged.results.step-1\.jsonl:1: not JSON",
    "report measured": r"x at step 1 was measured on 2 token sets, a \(a\) and b \(b\); keep",
    "report lossless": r"lossless: its results have no validation loss; measure with tokens",
    "report study": r"study: this study has no results yet; run",
    "report table": r"table.manifest\.json: not JSON",
    "train": r"tightframe: --set: setting 'tokens' is missing",
    "train model": r"model: is a folder, expected a file",
    "train none.toml": r"none\.toml: no such file",
    "train width=8": r"width=8: no such file; a setting is given as --set width=8",
    "train a.toml width=8 seed=1": (
        r"width=8 seed=1: more arguments than expected; a setting is given as --set width=8 "
        r"--set seed=1; see `tightframe train --help`"
    ),
    "train --set tokens=none --set out=new": r"none: no such folder; make it with",
    "train --set tokens=tokens --set out=new --set width=7": r"width 7 is not divisible by 4 heads",
    "train --set tokens=tokens --set out=new --set width=300000": (
        r"a model of width 300,000 and depth 2 takes about [\d,.]+ GB of memory, but [\d,.]+ GB"
    ),
    "train --set tokens=tokens --set out=new --set threads=1025": r"expected at most 1,024",
    "train --set tokens=tokens --set out=model": r"model: holds other files, but no run",
    "train --set tokens=tokens --set out=good.txt": r"a file stands where a folder is needed",
    "train --set tokens=tokens --set out=run --set width=16": (
        r"run: belongs to a run with width = 8, not 16"
    ),
    "train --set tokens=tokens --set out=new --measures nc1_cdvn": r"did you mean 'nc1_cdnv",
    "corpus build good.txt --out new --vocab-size 10": r"a vocabulary of 10 is too small",
    "corpus build good.txt --out new": r"give a vocab_size or a tokenizer",
    "corpus build good.txt --out new --vocab-size 300 --block 1": r"block is 1; expected 2",
    "corpus build good.txt --out new --tokenizer unreadable": r"not a tokenizer\.json, or damaged",
    "corpus build good.txt --out new --tokenizer measured": r"measured: holds no tokenizer\.json",
    "corpus build good.txt --out new --tokenizer ./none": r"\./none: no such tokenizer",
    "corpus build stories --out /proc/x": r"/proc: no files can be written there",
    "demo --out good.txt": r"good\.txt: a file stands where a folder is needed",
    "ntp count none --out new": r"none: no such folder; make it with `tightframe corpus build`",
    "ntp count tokens --out model": r"model: already exists",
    "ntp count tokens --out new --max-contexts 0": r"max_contexts: 0, expected at least 1",
    "ntp count tokens --out new --sample-seed 3": r"sample_seed needs max_contexts",
    "ntp solve none": r"none: no such folder; make a table with `tightframe ntp count`",
    "ntp solve table": r"table.manifest\.json: not JSON",
    "ntp solve counted --gap 0": r"gap: 0\.0, expected 1e-10 or more in float64",
    "ntp ridge-path counted --dim 0": r"dim: 0, expected at least 1",
    "ntp ridge-path counted --down-to 0": r"down_to: 0\.0, expected a ridge > 0",
    "ntp predict counted": r"counted: holds no solution; run `tightframe ntp solve counted` first",
    "ntp predict counted --from none": r"none: no such file",
    "ntp predict counted --from proxy --rank 0": r"rank: 0, expected at least 1",
    "ntp compare ./none --table counted": r"none: no such folder; expected a run or a model",
    "ntp compare run --table counted --step 4": r"run: has no checkpoint of step 4",
    "ntp compare coded --table counted": r"coded: brings Python code of its own",
    "ntp compare run --table counted --batch-tokens 0": r"batch_tokens: 0, expected at least 1",
    "ntp concepts counted --clusters 1": r"clusters: 1, expected at least 2",
    "ntp concepts counted --model ./none": r"none: no such folder; expected a run or a model",
    "knowledge inject none --out new --arm clm_sp": r"none: no such file",
    "knowledge inject facts.txt --out new": r"neither arm nor model is given",
    "knowledge inject facts.txt --out new --arm clm_ps": r"no arm is called 'clm_ps'; did you",
    "knowledge inject facts.txt --out new --arm clm_ntp --set width=7": (
        r"width 7 is not divisible by 4 heads"
    ),
    "knowledge inject facts.txt --out new --arm clm_ntp --set width=300000": (
        r"a network of width 300,000 and depth 2 takes about"
    ),
    "knowledge inject facts.txt --out new --arm clm_ntp --n-facts 9": r"2 facts are left to inject",
    "knowledge inject facts.txt --out model --arm clm_ntp": r"model: holds other files, but no run",
    "knowledge inject facts.txt --out new --model ./none": r"\./none: no such folder; expected a",
    "knowledge study --data facts.txt --out new --set widht=8": r"did you mean 'width'",
    "knowledge study --data facts.txt --out new --arms clm_ps": r"unknown arm 'clm_ps'; did you",
    "knowledge study --data none --out new": r"none: no such file",
    "knowledge study good.txt --data facts.txt --out new": r"good\.txt: not TOML",
    "knowledge study --data facts.txt --out new --workers 0": r"workers is 0; expected 1 or more",
    "knowledge answer model/none --data asked.jsonl --out new.jsonl": r"model/none: no such folder",
    "knowledge answer run --data asked.jsonl --out new.jsonl": r"config\.toml: unknown setting",
    "knowledge answer run --data none --out new.jsonl": r"none: no such file",
    "knowledge answer run --data facts.txt --out new.jsonl": r"nothing to ask: no question has",
    "knowledge answer run --data asked.jsonl --top 0": r"--top: is 0, expected at least 1",
    "knowledge rank model/none --data asked.jsonl --out new.jsonl": r"model/none: no such folder",
    "knowledge cluster facts.txt --k 2 --out new --embedder ./none": r"embedder \./none: no such",
    "knowledge router none --negatives facts.txt --out new --encoder ./none": (
        r"\./none: no such folder; expected a model's folder or a hub name"
    ),
    "knowledge router none --negatives facts.txt --out new --encoder small --set bach=3": (
        r"unknown setting 'bach'; did you mean 'batch'"
    ),
    "knowledge ask none Why?": r"none: no such file or folder; expected a run of",
    "knowledge ask model Why?": r"model: is neither; expected a run of",
    "knowledge panel none --runs none --out new": r"none: no such file or folder; expected a run",
    "merge": r"no state files given; make some with `tightframe measure --part 1/4`",
    "merge none": r"none: no such file; make it with",
    "merge good.txt": r"the files are not parts of one state by their names; give --out FILE",
    "merge good.txt --out new": r"good\.txt: not a whole safetensors file",
    "merge small/model.safetensors --out new": r"model\.safetensors: holds something else",
    "sweep plan good.txt": r"good\.txt: not TOML",
    "sweep run good.txt": r"good\.txt: not TOML",
    "sweep status good.txt": r"good\.txt: not TOML",
    "sweep run sweep.toml --workers 0": r"workers is 0; expected 1 or more",
    "sweep plan wide.toml": r"a model of width 300,000,000,000,000 and depth 2 takes about",
    "sweep plan elsewhere.toml": r"none: no such folder; make it with `tightframe corpus build`",
    "sweep plan unknown.toml": r"unknown\.toml: unknown setting 'widht'; did you mean 'width'\?",
    "sweep plan unmeasured.toml": r"unknown measure 'nc1_cdvn'; did you mean",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each mistake is answered with, from one process that must not load anything heavy."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "good.txt").write_text("Some words.\n\nAnd some more of them.\n")
    (folder / "empty.txt").touch()
    (folder / "chats.jsonl").write_text('{"content": "Some words."}\n')
    (folder / "letter.docx").write_bytes(b"PK\x03\x04")
    (folder / "loop").symlink_to("loop")
    small = {"model_type": "gpt2", "n_layer": 2, "n_positions": 16}
    code = {"model_type": "no-such-kind", "auto_map": {"AutoConfig": "config.Config"}}
    for name, content in (
        ("model", '{"_name_or_path": "someone/base"}'),
        ("broken", "{"),
        ("bare", "{}"),
        ("small", json.dumps(small)),
        ("cut", json.dumps(small)),
        ("parted", json.dumps(small)),
        ("worded", json.dumps(small | {"n_layer": "two"})),
        ("coded", json.dumps(code)),
        ("alien", '{"model_type": "no-such-kind"}'),
        ("unreadable", "{}"),
        ("unset", "{}"),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(content)
        (folder / name / "model.safetensors").write_bytes(NO_TENSORS)
    (folder / "cut" / "model.safetensors").write_bytes(NO_TENSORS[:-1])
    (folder / "parted" / "model.safetensors").rename(folder / "parted" / "a.safetensors")
    parts = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "parted" / "model.safetensors.index.json").write_text(json.dumps(parts))
    (folder / "unreadable" / "tokenizer.json").write_text("{}")
    (folder / "unset" / "tokenizer.json").write_text("{}")
    (folder / "unset" / "tokenizer_config.json").write_text("{")
    write_tokens(folder / "tokens")
    train(tiny_settings(folder / "tokens", folder / "run", epochs=1))
    for name, text in {
        "a": "",
        "sweep": "[base]\ntokens = 'tokens'\n",
        "wide": "[base]\ntokens = 'tokens'\nwidth = 300000000000000\n",
        "elsewhere": "[base]\ntokens = 'none'\n",
        "unknown": "[base]\ntokens = 'tokens'\n[grid]\nwidht = [8]\n",
        "unmeasured": "measures = ['nc1_cdvn']\n[base]\ntokens = 'tokens'\n",
    }.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "facts.txt").write_text("Ann Lee built the mill.\nBo Day sold the mill.\n")
    asked = {"fact": "Ann Lee built it.", "question": "Who built it?", "answer": "Ann Lee"}
    (folder / "asked.jsonl").write_text(json.dumps(asked) + "\n")
    tokens = np.random.default_rng(0).integers(12, size=60)
    save_table(folder / "counted", count(tokens, 1, vocab_size=12))
    (folder / "damaged" / "results").mkdir(parents=True)
    (folder / "damaged" / "results" / "step-1.jsonl").write_text("no rows")
    row = Row("x", 1, "val", 1, "next", "all", "val_loss", 2.0, 9, 1, 0)
    for name, tokens in (("measured", "a"), ("measured", "b"), ("lossless", "a")):
        header = Header("x", 1, {}, {"name": tokens, "fingerprint": tokens}, {}, {})
        one = row if name == "measured" else dataclasses.replace(row, metric="nc1_cdnv")
        write_rows(folder / name / "results" / f"{tokens}.jsonl", header, [one])
    for name, file in (("study", "study.toml"), ("table", "table.safetensors")):
        (folder / name).mkdir()
        (folder / name / file).touch()
    (folder / "table" / "manifest.json").write_text("{")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "loop"}
    commands = [["measure", *arguments.split()] for arguments, _ in MISTAKES.values()]
    commands += [command.split() for command in OTHERS]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "loop"}
    assert after == before  # nothing is written
    return dict(zip([*MISTAKES, *OTHERS], json.loads(done.stdout), strict=True))


def test_mistakes_import_nothing_heavy(said):
    assert [heavy for _, heavy in said.values() if set(heavy) - {"pandas"}] == []
    assert [said[name][1] for name in MISTAKES if said[name][1]] == []


@pytest.mark.parametrize("name", [*MISTAKES, *OTHERS])
def test_mistakes_are_one_line_that_names_them(said, name):
    line = said[name][0]
    assert re.search(OTHERS[name] if name in OTHERS else MISTAKES[name][1], line), line
    assert line.count("\n") == 1


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
