"""Trackers: real event files of tensorboard, and stand-ins for wandb and trackio."""

import math
import sys
import types

import pytest

import tightframe as tf
from test_callback import ROWS, run_trainer
from tightframe import cli
from tightframe.errors import UserError
from tightframe.geometry.callback import CollapseCallback
from tightframe.geometry.options import MeasureOptions
from tightframe.lm.runs import Run
from tightframe.lm.training import train
from tightframe.results import read_rows
from tightframe.tracking import TRACKERS, track, tracker
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(folder):
    """Everything in the event files of a folder: name -> {step: value}."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny", train=ROWS)


@pytest.fixture
def stand_in(monkeypatch):
    """A package that records what it is told."""
    module = types.ModuleType("wandb")
    module.calls = []
    module.init = lambda **given: module.calls.append(("init", given))
    module.log = lambda values, step: module.calls.append(("log", values, step))
    module.finish = lambda: module.calls.append(("finish",))
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, module)
    module.__spec__ = types.SimpleNamespace()
    return module


def test_training_and_its_geometry_are_read_back_from_tensorboard(tokens, tmp_path, capsys):
    run = tmp_path / "run"
    settings = {"tokens": tokens, "out": run, "width": 8, "heads": 2, "log_every": 2, "batch": 4}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    measuring = ["--measure-every", "5", "--measures", "rank_pr", "--track", "tensorboard"]
    cli.main(["train", *words, *measuring])
    found = scalars(run / "tensorboard")
    rows = [read_rows(path)[1][0] for path in (run / "results").glob("probe-*.jsonl")]
    assert found["geometry/rank_pr"] == {row.step: pytest.approx(row.value) for row in rows}
    assert len(found["train/loss"]) > 2
    assert found["checkpoint/val_loss"]
    capsys.readouterr()
    places = ["--track", f"tensorboard:{tmp_path / 'board'}"]
    layers = ["--layers", "all", "--groups", "1", "--measures", "nc3_cos_mean"]
    cli.main(["measure", str(run), *layers, *places])
    found = scalars(tmp_path / "board" / "run")
    assert {"geometry/nc3_cos_mean", "geometry/layer-0/nc3_cos_mean"} <= set(found)
    assert list(found["geometry/val_loss"]) == [Run.open(run).steps[-1]]
    capsys.readouterr()


def test_the_models_of_a_series_are_steps_of_one_curve(stand_in, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = tiny_settings(tokens, tmp_path / "run", checkpoint_steps=(1, 2))
    steps = train(settings).steps
    tf.atlas(settings.out, tokens=tokens, measures=["rank_pr"], groups=1, track="wandb")
    init, *logs, finish = stand_in.calls
    assert (init[0], finish[0]) == ("init", "finish")
    assert [step for _, _, step in logs] == list(steps)
    assert all("geometry/rank_pr" in values for _, values, _ in logs)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_others_are_opened_told_and_closed(stand_in, tmp_path, name):
    # The outermost one is used.
    with tracker(f"{name}:mine", tmp_path / "run"), tracker(name, tmp_path / "inner"):
        track({"loss": 1.0, "undefined": math.nan}, 3)
    track({"loss": 2.0}, 4)
    assert stand_in.calls == [
        ("init", {"project": "mine", "name": "run"}),
        ("log", {"loss": 1.0}, 3),
        ("finish",),
    ]


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_one_that_raises_is_reported_once_and_stops_nothing(stand_in, tmp_path, capsys, broken):
    def fail(*_, **__):
        raise RuntimeError("no \x1b[31mnetwork")

    setattr(stand_in, broken, fail)
    with tracker("wandb", tmp_path / "run"):
        track({"loss": 1.0}, 1)
        track({"loss": 1.0}, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("RuntimeError") == 1
    assert "\x1b" not in said


def test_only_the_first_process_of_a_job_opens_one(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with tracker("wandb", tmp_path / "run"):
        track({"loss": 1.0}, 1)
    assert stand_in.calls == []


def test_one_that_is_unknown_or_missing_is_refused_before_anything_is_done(monkeypatch):
    with pytest.raises(UserError, match="--track mlflow: expected wandb, trackio or tensorboard"):
        MeasureOptions(track="mlflow")
    for name in TRACKERS:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(UserError, match=f"the package {name} is missing; pip install {name}"):
            MeasureOptions(track=f"{name}:x")


def test_trainer_reports_the_geometry_wherever_it_reports(tokens, tmp_path):
    callback = CollapseCallback(
        tokens, out=tmp_path / "run", every=2, measures=["rank_pr"], track="auto"
    )
    reports = {"report_to": "tensorboard", "logging_strategy": "steps", "logging_steps": 3}
    run_trainer(tokens, tmp_path, callback, **reports)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")}
    found = scalars(folder)["train/geometry/rank_pr"]
    rows = [read_rows(path)[1][0] for path in (tmp_path / "run" / "results").glob("*.jsonl")]
    assert found == {row.step: pytest.approx(row.value) for row in rows if row.step > 0}
    assert sorted(found) == [2, 4, 6]
