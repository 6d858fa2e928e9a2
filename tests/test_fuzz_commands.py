"""Bad invocations of every command: one line and exit status 2, no traceback, nothing changed.

What to try comes from the command line itself: each option gets values that its type, its range or
its place on the disk cannot have. Seeded; the large form is slow.
"""

import hashlib
import json
import os
import random
import shutil
import typing
from pathlib import Path

import pytest

from example_facts import example_facts
from tightframe import cli
from tightframe.cli import app
from tightframe.errors import PartlyDoneError
from tightframe.knowledge.benchmark import write_facts

SMALL = ["width=8", "depth=1", "heads=2", "epochs=1", "threads=1", "device=cpu"]

# A valid invocation of each command, in the folder of `world`; what is bad takes its place.
VALID = {
    "corpus build": "text.txt --out new --vocab-size 280 --block 8",
    "sweep plan": "sweep.toml",
    "sweep run": "sweep.toml",
    "sweep status": "sweep.toml",
    "sweep submit": "sweep.toml --dry-run",
    "sweep commands": "sweep.toml",
    "atlas audit": "tiny/series --out new",
    "atlas run": "folder --text text.txt --out new",
    "relate": "run --measures nc4_rate --permutations 20 --draws 100 --out new",
    "ntp count": "tokens --out new",
    "ntp solve": "table",
    "ntp ridge-path": "table",
    "ntp predict": "table",
    "ntp compare": "run --table table --out new",
    "ntp concepts": "table",
    "knowledge parse": "hooks.wikitext --out new --date 2024-10-01",
    "knowledge questions": "facts.jsonl --out new.jsonl",
    "knowledge reword": "facts.jsonl --out new.jsonl",
    "knowledge validate": "facts.jsonl",
    "knowledge spans": "facts.jsonl --exposures 2",
    "knowledge plant": "--n 4 --out new.jsonl",
    "knowledge inject": "facts.jsonl --out new --n-facts 2 --exposures 1",
    "knowledge answer": "injected --data facts.jsonl --out new.jsonl",
    "knowledge rank": "injected --data facts.jsonl --out new.jsonl",
    "knowledge score": "outputs.jsonl --data facts.jsonl",
    "knowledge cluster": "facts.jsonl --k 2 --out new --by time",
    "knowledge router": "clusters --negatives facts.jsonl --out new",
    "knowledge ensemble": "router --clusters clusters --outputs outputs.jsonl --out new",
    "knowledge study": "--data facts.jsonl --out new",
    "knowledge panel": "router --runs injected --out new",
    "knowledge ask": "injected Why?",
    "demo": "--out new",
    "train": "",
    "measure": "run --tokens tokens --out new",
    "compare": "run run --groups 8 --min-count 2 --save new.csv",
    "merge": "state.safetensors state.safetensors --out new.safetensors",
    "classes": "run --tokens tokens --out new",
    "report": "run --out new",
}

NUMBERS = ["-1", "-7", "1.5", "4.0", "nan", "inf", "1e9", "x", "", "10" * 20, "\x1b[2J", "True"]
HUGE = ["0", str(10**11), str(2**63 - 1)]
FRACTIONS = ["nan", "inf", "-inf", "1e400", "x", "", "-1", "1.5e9", "\x1b[2J"]
WORDS = ["", "\x1b]0;x\x07", "no such", "-", "=1+1", "a\0b", "caf\udce9", "../..", "x" * 300, "💥"]
PLACES = [
    *("missing", "", "text.txt", "folder", "loop", "dangling", "text.txt/below", "n" * 255),
    *(
        "n" * 300,
        "caf\udce9",
        "\x1b[2Jx",
        "a\nb",
        "unreadable",
        "empty",
        "binary",
        "a\0b",
        "/dev/null",
    ),
    *("~nobody/x", "stray", "loop/below", "/proc/self/mem"),
]
SETTINGS = [
    *("width=true", "width=1.5", "width=nan", "width=-1", "width=300000", "seed=-1", "depth=0"),
    *("threads=1000000000", "batch_tokens=100000000000", "nothing", "=", "unknown=1", "width=[1]"),
    *("heads='8'", f"seed={10**30}", "out=", "tokens=missing", "tokens=loop", "lr=inf", "width="),
    *(
        "exposures=0",
        "vocab_size=100000000000",
        "\x1b[2J=1",
        "width={a=1}",
        "device=tpu",
        "out=loop",
    ),
]


def _commands(at, chain=()):
    """Every command, as it is typed, with its options and arguments."""
    for name in at:
        if not name.startswith("-"):
            yield from _commands(at[name], (*chain, name))
    if at.default_command is not None:
        yield " ".join(chain), list(at.assemble_argument_collection())


COMMANDS = dict(_commands(app))


def _kinds(hint):
    inner = [_kinds(one) for one in typing.get_args(hint)]
    return (
        set().union(*inner) if inner and typing.get_origin(hint) is not typing.Literal else {hint}
    )


def _bad(argument, rng):
    """A value that this option should not take, or one that is hard to take."""
    kinds = _kinds(argument.hint)
    if argument.names[0] == "--set":
        return rng.choice(SETTINGS)
    if bool in kinds:
        return rng.choice(["maybe", "2", ""])
    if int in kinds:
        return rng.choice(NUMBERS + HUGE)
    if float in kinds:
        return rng.choice(FRACTIONS)
    if Path in kinds:
        return rng.choice(PLACES)
    return rng.choice(WORDS + PLACES if str in kinds else WORDS)


def _invocation(rng):
    command = rng.choice(sorted(COMMANDS))
    typed = VALID[command].split()
    if command in ("train", "knowledge inject", "knowledge study"):
        typed += [f"--set={one}" for one in SMALL if command == "train" or "epochs" not in one]
    if command == "train":
        typed += ["--set=tokens=tokens", "--set=out=new"]
    for _ in range(rng.choice([1, 1, 2])):
        argument = rng.choice(COMMANDS[command])
        value = _bad(argument, rng)
        name = argument.names[0]
        if not name.startswith("-"):
            first = typed[:1] if typed and not typed[0].startswith("-") else []
            typed[: len(first)] = [value]
        elif rng.random() < 0.5 and name in typed[:-1]:
            typed[typed.index(name) + 1] = value
        else:
            typed.append(f"{name}={value}")
    return [*command.split(), *typed]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with something of every kind, small."""
    folder = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(folder)
    try:
        text = "\n\n".join(f"The cat number {i % 7} saw dog {i % 5} and ran ." for i in range(60))
        Path("text.txt").write_text(text)
        Path("hooks.wikitext").write_text("* ... that '''[[Ada]]''' painted a bridge?\n")
        write_facts("facts.jsonl", example_facts()[:4])
        Path("outputs.jsonl").write_text("")
        Path("sweep.toml").write_text("[base]\ntokens = 'tokens'\n[grid]\nwidth = [8]\n")
        Path("empty").touch()
        Path("binary").write_bytes(bytes(range(256)) * 4)
        Path("folder").mkdir()
        Path("loop").symlink_to("loop")
        Path("dangling").symlink_to("nowhere")
        Path("unreadable").touch(mode=0)
        Path("stray").mkdir()
        Path("stray", ".x.part").touch()
        cli.main(
            [
                "corpus",
                "build",
                "text.txt",
                "--out",
                "tokens",
                "--vocab-size",
                "280",
                "--block",
                "8",
            ]
        )
        train = [f"--set={one}" for one in [*SMALL, "tokens=tokens", "out=run"]]
        cli.main(["train", *train])
        cli.main(["ntp", "count", "tokens", "--out", "table"])
        cli.main(["ntp", "solve", "table"])
    finally:
        os.chdir(before)
    return folder


def _content(folder):
    """What is in a folder: name to digest, but for locks, which may stay."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and os.access(path, os.R_OK)
        else "not a file"
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".lease-") and not path.name.endswith(".lock")
    }


def _try(arguments, capsys):
    """What is wrong with how this invocation ends; nothing, if all is right."""
    try:
        cli.main(arguments)
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        capsys.readouterr()
        return f"{type(error).__name__}: {str(error)[:200]}"
    said = capsys.readouterr().err
    if status not in (0, 2, 3):
        return f"status {status}"
    lines = said.splitlines()  # progress, perhaps, and then the mistake
    if status and sum(line.startswith("tightframe: ") for line in lines) != 1:
        return f"not one line: {lines[-3:]}"
    return None if all(c.isprintable() or c in "\n\t" for c in said) else f"raw: {said!r}"


def _fuzz(world, tmp_path, capsys, monkeypatch, seed, n):
    rng = random.Random(seed)
    # What would take long, where an invocation happens to be right.
    monkeypatch.setattr("tightframe.jobs.sweep.run_and_say", _nothing)
    monkeypatch.setattr("tightframe.jobs.knowledge_study.run_and_say", _nothing)
    monkeypatch.setattr("tightframe.jobs.demo.demo", _nothing, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    work = tmp_path / "work"
    shutil.copytree(world, work, symlinks=True)
    monkeypatch.chdir(work)
    clean, wrong = _content(work), []
    for _ in range(n):
        arguments = _invocation(rng)
        problem = _try(arguments, capsys)
        after = _content(work)
        lost = {name for name, digest in clean.items() if after.get(name) != digest}
        halves = {name for name in set(after) - set(clean) if name.endswith(".part")}
        if problem or lost or halves:
            wrong.append((arguments, problem, sorted(lost)[:3], sorted(halves)[:3]))
        if after != clean:
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(work)
            shutil.copytree(world, work, symlinks=True)
            monkeypatch.chdir(work)
    assert not wrong, "\n".join(json.dumps(one) for one in wrong)


def _nothing(*_, **__):
    raise PartlyDoneError("this would take long")


def test_every_command_is_tried():
    assert set(COMMANDS) == set(VALID)


@pytest.mark.parametrize("seed", range(6))
def test_bad_invocations_end_in_one_line_and_change_nothing(
    world, tmp_path, capsys, monkeypatch, seed
):
    _fuzz(world, tmp_path, capsys, monkeypatch, seed, n=30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_many_bad_invocations_end_in_one_line_and_change_nothing(
    world, tmp_path, capsys, monkeypatch, seed
):
    _fuzz(world, tmp_path, capsys, monkeypatch, seed, n=100)
