"""A sweep on a real Slurm of one node, with a kill, a requeue and a warning: `make test-slurm`."""

import os
import signal
import time

import pytest

from slurm_node import called, one_node_cluster, why_impossible
from tightframe import cli
from tightframe.jobs import sweep
from tightframe.lm.runs import Run
from tightframe.results import gather
from tiny_tokens import write_tokens

pytestmark = pytest.mark.slurm

TIMINGS = ("seconds", "cpu_seconds", "tokens_per_second")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    if reason := why_impossible():
        pytest.skip(reason)
    with one_node_cluster(tmp_path_factory.mktemp("slurm"), cpus=2):
        yield


def _file(folder, tokens):
    """Six runs of 800 steps, with a state every 100 steps."""
    folder.mkdir()
    file = folder / "six.toml"
    file.write_text(
        f'out = "{folder}/sweeps"\nmeasures = ["nc1_cdnv", "nc4_rate"]\n'
        f'[base]\ntokens = "{tokens}"\nheads = 2\nbatch = 4\nepochs = 80\nsave_every = 100\n'
        'log_every = 10\nprecision = "fp32"\ndevice = "cpu"\nthreads = 1\n'
        "[grid]\nwidth = [8, 12]\nseed = [0, 1, 2]\n"
    )
    return file


def _wait(ready, seconds=300):
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, called("squeue")
        time.sleep(0.1)


def _saved(run):
    """Whether a run has a state to resume from."""
    return any((run.run / "resume").glob("step-*.safetensors"))


def _outcome(runs):
    """What must be the same wherever a run was trained: weights, log but its timings, results."""
    logs, weights = [], []
    for run in runs:
        opened = Run.open(run.run)
        logs.append([{k: r[k] for k in r if k not in TIMINGS} for r in opened.log])
        weights.append((opened.checkpoint(opened.kept()) / "model.safetensors").read_bytes())
    rows = gather(file for run in runs for file in (run.run / "results").glob("*.jsonl"))
    rows = rows.drop(columns="set_out").sort_values(["run", "metric"], ignore_index=True)
    return logs, weights, rows


def test_a_sweep_with_a_kill_a_requeue_and_a_warning_gives_the_bits_of_a_local_one(
    node, tmp_path, capsys
):
    tokens = write_tokens(tmp_path / "tokens", vocab_size=50, block=16, train=40)
    file = _file(tmp_path / "cluster", tokens)
    runs = sweep.plan(file)
    cli.main(["sweep", "submit", str(file), "--max-parallel", "2", "--slurm", "--time 5"])
    said = capsys.readouterr().out
    job = said.split()[-1]
    assert "6 runs in 6 elements" in said
    events = (
        lambda: os.kill(int(runs[0].holder.split()[1]), signal.SIGKILL),
        lambda: called("scontrol", "requeue", f"{job}_1"),
        lambda: called("scancel", "--signal=USR1", "--batch", f"{job}_2"),
    )
    for run, event in zip(runs, events, strict=False):
        _wait(lambda run=run: run.state == "running" and _saved(run))
        event()
    _wait(lambda: not called("squeue", "--noheader"))
    # All ended but the one that was killed; whatever is missing is submitted again.
    assert [run.state for run in runs] == ["started", *["finished"] * 5]
    logs = {path.name: path.read_text() for path in (runs[0].log.parent).glob("six-*.txt")}
    assert len(logs) == 6
    assert "resumes at step" in logs[f"six-{job}_1.txt"]
    assert "as SIGUSR1 asked" in logs[f"six-{job}_2.txt"]
    assert "resumes at step" in logs[f"six-{job}_2.txt"]
    cli.main(["sweep", "submit", str(file)])
    assert "1 runs in 1 elements" in capsys.readouterr().out
    _wait(lambda: not called("squeue", "--noheader"))
    assert {run.state for run in runs} == {"finished"}

    local = _file(tmp_path / "local", tokens)
    sweep.run(local, workers=2)
    ours, theirs = _outcome(runs), _outcome(sweep.plan(local))
    assert ours[:2] == theirs[:2]
    assert ours[2].equals(theirs[2])
