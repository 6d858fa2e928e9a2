"""Every mistake of a user is one line and exit status 2, and nothing is half-written."""

import errno
import json
import os
import re
import shutil

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tightframe import cli
from tightframe.corpus.shards import TokenShards
from tightframe.geometry.moments import ClassMoments
from tightframe.lm.checkpoints import export_gpt_neo
from tightframe.lm.load import load_model

SMALL = [f"--set={pair}" for pair in ("width=8", "depth=1", "heads=2", "epochs=1", "threads=1")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small corpus, a trained run and its results: what every case starts from a copy of."""
    folder = tmp_path_factory.mktemp("made")
    text = "\n\n".join(f"The cat number {i} saw the dog and ran home ." for i in range(400))
    (folder / "text.txt").write_text(text)
    (folder / "records.jsonl").write_text("".join(f'{{"body": "cat {i}"}}\n' for i in range(50)))
    build = f"corpus build {folder}/text.txt --out {folder}/tokens --vocab-size 300 --block 16"
    cli.main(build.split())
    train = ["train", "--set", f"tokens={folder}/tokens", "--set", f"out={folder}/run", *SMALL]
    cli.main([*train, "--measure", "--measures", "nc1_cdnv"])
    tokenizer = TokenShards.open(folder / "tokens").tokenizer
    export_gpt_neo(load_model(folder / "run"), folder / "neo", tokenizer)
    return folder


def _shard(folder):
    return next((folder / "tokens").glob("train-*.safetensors"))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def _alter(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _weights(folder):
    return next((folder / "run" / "checkpoints").glob("*/model.safetensors"))


def _results(folder):
    return next((folder / "run" / "results").glob("*.jsonl"))


def _break_weights(folder, value):
    """A number in the first block that is none, as after a training that diverged."""
    path = folder / "neo" / "model.safetensors"
    tensors = load_file(path)
    next(x for name, x in tensors.items() if "h.0.mlp" in name)[0] = value
    save_file(tensors, path, {"format": "pt"})


def _state(folder):
    return next(
        path
        for path in (folder / "run" / "states").glob("*.safetensors")
        if "-val-" not in path.name
    )


def _age(path):
    """The file as another version of tightframe would have written it."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["tightframe"])
    save_file(load_file(path), path, {"tightframe": json.dumps(content | {"revision": 0})})


def _renamed(folder, name):
    """A state of the run as it would be of a model called `name`."""
    state = ClassMoments.load(_state(folder))
    state.provenance = state.provenance | {"model": name}
    state.save(folder / "run" / "states" / f"{name}.safetensors")


def _other_tokenizer(folder):
    """A model's tokenizer with two tokens in each other's place."""
    path = folder / "neo" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content))


def _smaller_vocabulary(folder):
    """A manifest that was edited: labels would lie beyond the vocabulary."""
    path = folder / "tokens" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["vocab_size"] = 250
    path.write_text(json.dumps(manifest))


def _sweep(folder, text):
    (folder / "s.toml").write_text(f'out = "{folder}/sweeps"\n{text}')


def _build(options, source="text.txt"):
    return f"corpus build {{0}}/{source} --out {{0}}/new {options}"


def _train(options, run="new"):
    small = " ".join(SMALL)
    return f"train --set tokens={{0}}/tokens --set out={{0}}/{run} {small} {options}"


# What is typed ({0} is the folder), what happens to the folder before, and what must be said.
CASES = {
    # Text
    "no such file": (_build("--vocab-size 300", "none.txt"), None, r"none.txt: no such file"),
    "empty file": (
        _build("--vocab-size 300", "empty.txt"),
        lambda f: (f / "empty.txt").touch(),
        r"empty.txt: .*empty",
    ),
    "binary file": (
        _build("--vocab-size 300", "binary.txt"),
        lambda f: (f / "binary.txt").write_bytes(b"abc\0def" * 100),
        r"binary.txt: .*(binary|NUL)",
    ),
    "not UTF-8": (
        _build("--vocab-size 300", "latin.txt"),
        lambda f: (f / "latin.txt").write_bytes(b"caf\xe9 " * 100),
        r"latin.txt: .*UTF-8",
    ),
    "unknown kind of file": (
        _build("--vocab-size 300", "a.docx"),
        lambda f: (f / "a.docx").write_text("text"),
        r"a.docx: .*\.txt.*\.jsonl.*\.parquet",
    ),
    "folder without text": (
        _build("--vocab-size 300", "bare"),
        lambda f: (f / "bare").mkdir(),
        r"bare: .*\.txt",
    ),
    "field that isn't there": (
        _build("--vocab-size 300", "records.jsonl"),
        None,
        r"records.jsonl.*'text'.*body",
    ),
    "broken line": (
        _build("--vocab-size 300", "broken.jsonl"),
        lambda f: (f / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n'),
        r"broken.jsonl.*2",
    ),
    "no parquet inside": (
        _build("--vocab-size 300", "a.parquet"),
        lambda f: (f / "a.parquet").write_text("text"),
        r"a.parquet: .*[Pp]arquet",
    ),
    "vocabulary larger than the data supports": (
        _build("--vocab-size 60000"),
        None,
        r"60,?000.*(at most|largest|supports)",
    ),
    "block longer than the data": (
        _build("--vocab-size 300 --blocks published --block 100000"),
        None,
        r"block.*100,?000",
    ),
    "no tokenizer": (_build(""), None, r"vocab_size or a tokenizer"),
    "damaged tokenizer": (
        _build("--tokenizer {0}/t.json"),
        lambda f: (f / "t.json").write_text("{}"),
        r"t.json",
    ),
    "impossible share": (
        _build("--vocab-size 300 --validation-share 1.5"),
        None,
        r"validation_share is 1.5; expected a number in \(0, 1\)",
    ),
    "folder that exists": (
        "corpus build {0}/text.txt --vocab-size 300 --out {0}/tokens",
        None,
        r"tokens: already exists",
    ),
    "story longer than a block": (
        "corpus build stories --out {0}/new --tokens 3000 --block 8",
        None,
        r"block",
    ),
    # Settings
    "misspelt option": ("corpus build stories --otu x", None, r"mean --out"),
    "misspelt setting": (_train("--set widht=8"), None, r"'widht'; did you mean 'width'\?"),
    "misspelt setting in a file": (
        "train {0}/c.toml",
        lambda f: (f / "c.toml").write_text("dept = 2"),
        r"c.toml: unknown setting 'dept'; did you mean 'depth'\?",
    ),
    "wrong type": (_train("--set depth=deep"), None, r"'depth' is 'deep'"),
    "no value": (_train("--set depth"), None, r"depth: expected key=value"),
    "not TOML": (
        "train {0}/c.toml",
        lambda f: (f / "c.toml").write_text("width = = 3"),
        r"c.toml: not TOML",
    ),
    "no such settings file": ("train {0}/none.toml", None, r"none.toml: no such file"),
    "missing setting": ("train --set width=8", None, r"'tokens' is missing"),
    "width and heads": (_train("--set width=10 --set heads=4"), None, r"width 10 .*4 heads"),
    "negative rate": (_train("--set learning_rate=-1"), None, r"'learning_rate' is -1"),
    "checkpoint after the end": (_train("--set checkpoints=[3]"), None, r"checkpoint at epoch 3"),
    # Training
    "no such tokens": (
        "train --set tokens={0}/none --set out={0}/new",
        None,
        r"none: .*no such",
    ),
    "truncated shard": (_train(""), lambda f: _cut(_shard(f)), r"train-00000.safetensors"),
    "altered shard": (_train(""), lambda f: _alter(_shard(f)), r"train-00000.safetensors"),
    "missing shard": (_train(""), lambda f: _shard(f).unlink(), r"train-00000.safetensors"),
    "damaged manifest": (
        _train(""),
        lambda f: _cut(f / "tokens" / "manifest.json"),
        r"manifest.json",
    ),
    "run of other settings": (
        _train("--set width=16", run="run"),
        None,
        r"run: belongs to a run with width = 8, not 16",
    ),
    "run folder that is a file": (
        _train("", run="text.txt"),
        None,
        r"text.txt",
    ),
    # Measuring
    "no such model": ("measure {0}/none --tokens {0}/tokens", None, r"none"),
    "no such step": ("measure {0}/run --step 3", None, r"no checkpoint of step 3; it has \d+"),
    "unknown measure": (
        "measure {0}/run --measures nc1_cdvn",
        None,
        r"'nc1_cdvn'; did you mean 'nc1_cdnv'\?",
    ),
    "a family of measures": (
        "measure {0}/run --measures nc1",
        None,
        r"'nc1'; did you mean nc1_cdnv, nc1_cdnv_std, nc1_cdnv_cov\?",
    ),
    "folder of models instead of one": (
        "measure {0} --tokens {0}/tokens",
        None,
        r"neither a run .* nor a model .*has neo, run",
    ),
    "model that is not in its folder": (
        "measure {0}/run/neos --tokens {0}/tokens",
        None,
        r"neos: no such folder; expected a run or a model",
    ),
    "no context": ("measure {0}/neo --text {0}/text.txt --context 0", None, r"context is 0; .*2"),
    "unknown option": ("measure {0}/run --txt x", None, r"see `tightframe measure --help`"),
    "page of a folder of runs": (
        "report runs",
        lambda f: shutil.copytree(f / "run", f / "runs" / "run"),
        r"runs: is a folder of runs; `tightframe report \.` shows them together$",
    ),
    "no class is common enough": (
        "measure {0}/run --measures nc1_cdnv --min-count 100000",
        None,
        r"100,?000",
    ),
    "truncated checkpoint": (
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
        lambda f: _cut(_weights(f)),
        r"model.safetensors: damaged or changed",
    ),
    "altered checkpoint": (
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
        lambda f: _alter(_weights(f)),
        r"model.safetensors: damaged or changed",
    ),
    "checkpoint without weights": (
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
        lambda f: _weights(f).unlink(),
        r"model.safetensors",
    ),
    "NaN in an inner layer": (
        "measure {0}/neo --tokens {0}/tokens --layers all",
        lambda f: _break_weights(f, float("nan")),
        r"neo: the embedding at layer prenorm of block 0, position 1 of split 'train' is not fin",
    ),
    "infinite embeddings": (
        "measure {0}/neo --tokens {0}/tokens",
        lambda f: _break_weights(f, float("inf")),
        r"neo: the embedding of block 0, position 1 of split 'train' is not finite",
    ),
    "a vocabulary smaller than its labels": (
        "measure {0}/neo --tokens {0}/tokens",
        _smaller_vocabulary,
        r"manifest.json: damaged or changed.*build the tokens again",
    ),
    "tokens of another tokenizer": (
        "measure {0}/neo --tokens {0}/tokens",
        _other_tokenizer,
        r"not tokenized as .*neo expects: token .* has id \d+ in these tokens and id \d+ in",
    ),
    "context longer than the positions": (
        "measure {0}/neo --text {0}/text.txt --context 64",
        None,
        r"context is 64, but model neo has 16 positions; give 17 or fewer",
    ),
    "context of tokens": (
        "measure {0}/neo --tokens {0}/tokens --context 8",
        None,
        r"--context: is for --text; tokens are as they were built",
    ),
    "a model without a text": (
        "measure {0}/neo",
        None,
        r"neo: not a run directory; .*--tokens.*--text",
    ),
    "classes of a model without a text": ("classes {0}/neo", None, r"--tokens.*--text"),
    "words that are no token": (
        "classes {0}/run --words Zebra",
        None,
        r"'Zebra' is no single token of this tokenizer: it splits into",
    ),
    "unknown layer": (
        "measure {0}/run --layers 7",
        None,
        r"'7'; expected .* from 0 .* to 1",
    ),
    "batch of nothing": ("measure {0}/run --batch-tokens 0", None, r"batch_tokens is 0; expected"),
    "piece that isn't there": ("merge {0}/none.safetensors", None, r"none.safetensors: no such"),
    "part of nothing": ("measure {0}/run --part 3/2", None, r"part is '3/2'; expected I/N"),
    "unknown table": ("measure {0}/run --compat lc-2024-5", None, r"lc-2024-05"),
    "damaged state": (
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
        lambda f: _cut(_state(f)),
        r"states/step-\d+-layer-1-\w+.safetensors: not a whole",
    ),
    "altered state": (
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
        lambda f: _alter(_state(f)),
        r"states/step-\d+-layer-1-\w+.safetensors: damaged or changed.*measure again",
    ),
    "state of another version": (
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
        lambda f: _age(_state(f)),
        r"layer-1-\w+.safetensors: damaged or changed",
    ),
    "merging states of two models": (
        "merge {0}/run/states/a.safetensors {0}/run/states/b.safetensors --out {0}/all.safetensors",
        lambda f: [_renamed(f, name) for name in "ab"],
        r"b.safetensors: .*model",
    ),
    "merging nothing": ("merge", None, r"no state files given"),
    # Sweeps and the page
    "misspelt sweep setting": (
        "sweep plan {0}/s.toml",
        lambda f: _sweep(f, "gird = {}"),
        r"unknown setting 'gird'; did you mean 'grid'\?",
    ),
    "misspelt setting in a grid": (
        "sweep plan {0}/s.toml",
        lambda f: _sweep(f, f'base = {{tokens = "{f}/tokens"}}\ngrid = {{widht = [8]}}'),
        r"'widht'; did you mean 'width'\?",
    ),
    "grid value that is no list": (
        "sweep run {0}/s.toml",
        lambda f: _sweep(f, "grid = {width = 8}"),
        r"s.toml: .*grid",
    ),
    "page without results": (
        "report {0}/run",
        lambda f: shutil.rmtree(f / "run" / "results"),
        r"tightframe measure",
    ),
    "page of nothing": ("report {0}/none", None, r"none"),
    "damaged results": (
        "report {0}/run",
        lambda f: _cut(_results(f)),
        r"damaged .*; measure again",
    ),
    "results twice": (
        "report {0}/run",
        lambda f: shutil.copy(_results(f), _results(f).with_name("step-1-copy.jsonl")),
        r"is also in",
    ),
}


def _listing(folder):
    files = (
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lease-")
    )
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_leaves_everything_as_it_was(
    made, tmp_path, capsys, monkeypatch, case
):
    typed, prepare, message = CASES[case]
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    if prepare:
        prepare(folder)
    before = _listing(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main(typed.format(folder).split())
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("tightframe: ")
    assert len(printed.err.splitlines()) == 1
    assert "Traceback" not in printed.err
    assert re.search(message, printed.err), printed.err
    assert _listing(folder) == before


def test_too_few_documents_for_the_groups_are_said_before_a_pass(made, capsys, monkeypatch):
    # Of about 5,000 tokens, a tenth for validation: 360 training documents, 40 others.
    monkeypatch.setattr("tightframe.geometry.states.moments", None)  # the pass
    with pytest.raises(SystemExit) as stop:
        cli.main(f"measure {made}/run --groups 300 --measures nc2_etf_error".split())
    assert stop.value.code == 2
    assert re.search(r"split 'val' .* too few for 300 groups", capsys.readouterr().err)


@pytest.mark.parametrize(
    "typed",
    [
        _build("--vocab-size 300"),
        _train(""),
        "measure {0}/run --groups 1 --min-count 1 --measures nc2_etf_error",
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    made, tmp_path, capsys, monkeypatch, typed
):
    folder = tmp_path / "work"
    shutil.copytree(made, folder)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)  # where every whole file learns that it isn't on disk
    with pytest.raises(SystemExit) as stop:
        cli.main(typed.format(folder).split())
    assert stop.value.code == 2
    assert "no space left on the disk" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert not list(folder.rglob("*.part"))
    if "measure" not in typed and "new" in typed:
        assert not (folder / "new" / "manifest.json").exists()


def test_a_broken_header_is_named_before_anything_is_drawn(made, tmp_path, capsys):
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    path = _results(folder)
    lines = path.read_text().splitlines()
    header = json.loads(lines[0])
    header["header"]["step"] = "9"
    path.write_text("\n".join([json.dumps(header), *lines[1:]]))
    with pytest.raises(SystemExit):
        cli.main(["report", str(folder / "run")])
    assert "header.step is '9': expected a valid integer" in capsys.readouterr().err
    assert not (folder / "run" / "report").exists()
