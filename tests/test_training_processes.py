"""Several processes that train one model, as `torchrun` starts them, against one process."""

import os
import subprocess
import sys

import pytest

from tightframe import cli
from tightframe.lm.runs import Run
from tightframe.results import gather
from tightframe.settings import as_dict, write_toml
from tiny_runs import Killed, killed_at, tiny_settings
from tiny_tokens import write_tokens

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--nproc-per-node", "2", "-m", "tightframe"),
)
# Losses agree to 1e-6; the norm is of weights that have drifted by rounding for up to 27 steps.
RELATIVE = {"loss": 1e-6, "val_loss": 1e-6, "val_accuracy": 0, "gradient_norm": 1e-5}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """27 steps of 8 rows but the last of an epoch, which has 1: nothing for the second process."""
    folder = tmp_path_factory.mktemp("runs")
    tokens = write_tokens(folder / "tokens", vocab_size=50, train=65, block=12)
    usual = {"checkpoints": (0.0, 1.0), "log_every": 1, "save_every": 4}
    # At a rate so high that AdamW's first steps tell rounding from zero, courses part sooner.
    return lambda name: tiny_settings(tokens, folder / name, learning_rate=3e-3, **usual)


def _plan(settings):
    path = settings.out.with_suffix(".toml")
    write_toml(path, as_dict(settings))
    return [str(path), "--measure", "--measures", "nc1_cdnv"]


def _together(settings):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, "train", *_plan(settings)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def alone(settings):
    one = settings("alone")
    cli.main(["train", *_plan(one)])
    return Run.open(one.out)


def _same(run, other):
    """Whether two runs have the same course: the same numbers at the same places."""
    assert [(r["kind"], r["step"], r["tokens"]) for r in run.log] == [
        (r["kind"], r["step"], r["tokens"]) for r in other.log
    ]
    for record, expected in zip(run.log, other.log, strict=True):
        for name in RELATIVE.keys() & expected.keys():
            assert record[name] == pytest.approx(expected[name], rel=RELATIVE[name]), record
    rows, theirs = (
        gather((one.path / "results").glob("*.jsonl")).sort_values(["step", "metric"])
        for one in (run, other)
    )
    assert rows["metric"].tolist() == theirs["metric"].tolist()
    assert rows["value"].tolist() == pytest.approx(theirs["value"].tolist(), rel=1e-4)


def test_two_processes_have_the_loss_curve_of_one(settings, alone):
    done = _together(settings("together"))
    _same(Run.open(settings("together").out), alone)
    assert done.stdout.count("validation loss") == 1  # one of them speaks
    assert "resumes" not in done.stderr


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes_and_the_same_batches(settings, alone):
    from tightframe.lm.training import train

    mixed = settings("mixed")
    with pytest.raises(Killed):
        train(mixed, hooks=[killed_at(14)])
    done = _together(mixed)
    assert done.stderr.count("resumes at step 12 of 27") == 1
    _same(Run.open(mixed.out), alone)
    assert "is finished already" in _together(mixed).stderr
