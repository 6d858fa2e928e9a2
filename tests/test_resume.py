"""A run that is killed, anywhere and however often, ends as if it had not been."""

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tightframe.errors import PartlyDoneError
from tightframe.lm.options import TrainOptions
from tightframe.lm.runs import Run
from tightframe.lm.training import train
from tightframe.settings import as_dict
from tiny_runs import Killed, killed_at, killed_at_write
from tiny_tokens import write_tokens

COMMAND = """
import json, sys
from tightframe.lm.training import TrainOptions, train
train(TrainOptions(**json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny")


def tiny(tokens, out, **values):
    settings = {
        "width": 8,
        "depth": 2,
        "heads": 2,
        "batch": 4,
        "precision": "bf16",
        "device": "cpu",
        "threads": 1,
        "log_every": 5,
        "save_every": 3,
    }
    return TrainOptions(tokens=tokens, out=out, **{**settings, **values})


def outcome(out):
    """What must not depend on interruptions: every checkpoint's bytes, the log but its timings."""
    run = Run.open(out)
    assert run.finished
    timings = ("seconds", "cpu_seconds", "tokens_per_second")
    log = [{name: r[name] for name in r if name not in timings} for r in run.log]
    weights = [(run.checkpoint(step) / "model.safetensors").read_bytes() for step in run.steps]
    return run.steps, log, weights


def start(settings):
    import json

    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, json.dumps(as_dict(settings))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at_a_random_moment(settings):
    """SIGKILL some 10 to 40 steps after the training has begun or gone on; returns what it said."""
    log = settings.out / "log.jsonl"
    rewound = log.stat().st_ino if log.exists() else None
    process = start(settings)
    while process.poll() is None and (not log.exists() or log.stat().st_ino == rewound):
        time.sleep(0.002)
    enough = log.stat().st_size + random.randint(300, 2000)
    while process.poll() is None and log.stat().st_size < enough:
        time.sleep(0.002)
    time.sleep(0.01 * random.random())
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    return said


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_resume_after_sigkill_gives_the_same_bits(tokens, tmp_path, kills):
    epochs = 15 * kills  # of 6 steps
    values = {"epochs": epochs, "checkpoints": tuple(range(0, epochs, 5)), "save_every": 4}
    settings = tiny(tokens, tmp_path / "killed", **values)
    said = [kill_at_a_random_moment(settings) for _ in range(kills)]
    last = start(settings)
    said.append(last.communicate(timeout=120)[1])
    assert last.returncode == 0, said
    assert said[0] == ""
    for line in said[1:]:
        assert line.startswith(f"{settings.out}: resumes at step "), said
    whole = train(tiny(tokens, tmp_path / "whole", **values))
    assert outcome(settings.out) == outcome(whole.path)


def test_resume_from_any_write_gives_the_same_bits(tokens, tmp_path, monkeypatch):
    # One run is stopped at its first write to the disk, another at its second, and so on.
    values = {"epochs": 1, "checkpoints": (0.0, 0.5), "log_every": 2}
    whole = outcome(train(tiny(tokens, tmp_path / "whole", **values)).path)
    for stop_at in itertools.count(1):
        settings = tiny(tokens, tmp_path / f"stopped-{stop_at}", **values)
        with killed_at_write(monkeypatch, stop_at) as stopped:
            train(settings)
        train(settings)
        assert outcome(settings.out) == whole, f"stopped at write {stop_at}"
        if not stopped:
            break
    assert stop_at > 15


def test_resume_drops_what_a_kill_left_half(tokens, tmp_path):
    settings = tiny(tokens, tmp_path / "run", epochs=4)
    whole = outcome(train(dataclasses.replace(settings, out=tmp_path / "whole")).path)
    with pytest.raises(Killed):
        train(settings, hooks=[killed_at(15)])
    run = Run.open(settings.out)
    with run.log_path.open("a") as log:
        log.write('{"kind": "train", "st')  # a line cut short
    (run.resume_folder / ".step-18-0123.safetensors.99.part").write_bytes(b"half")
    folder = run.path / "checkpoints" / ".step-18.99.part"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    train(settings)
    assert outcome(settings.out) == whole
    assert not list(run.path.rglob("*.part"))


def test_resume_is_said_on_standard_error(tokens, tmp_path, capsys):
    settings = tiny(tokens, tmp_path / "run", epochs=2)
    with pytest.raises(Killed):
        train(settings, hooks=[killed_at(10)])
    train(settings)
    captured = capsys.readouterr()
    assert captured.err == f"{settings.out}: resumes at step 9 of 12\n"
    assert captured.out == ""


@pytest.mark.parametrize("step", [4, 11])
def test_a_warned_run_saves_exits_with_3_and_ends_with_the_same_bits(tokens, tmp_path, step):
    # 12 steps; the states that it saves anyway are those of steps 5 and 10.
    settings = tiny(tokens, tmp_path / "run", epochs=2, save_every=5)
    whole = outcome(train(dataclasses.replace(settings, out=tmp_path / "whole")).path)

    def warn(model, reached):  # after the step: the next one is the last
        if reached == step - 1:
            signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(PartlyDoneError, match=f"saved at step {step} of 12, as SIGUSR1 asked"):
        train(settings, step_hooks=[warn])
    assert [file.name for file in Run.open(settings.out).resume_folder.iterdir()] == [
        f"step-{step}.safetensors"
    ]
    train(settings)
    assert outcome(settings.out) == whole
