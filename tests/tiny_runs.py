"""A training of a moment, and the ways to cut one short."""

import contextlib
import functools
import itertools
from pathlib import Path

from tightframe import files, progress
from tightframe.geometry.options import MeasureOptions
from tightframe.geometry.study import measure_model
from tightframe.lm.options import TrainOptions


def measured(model, tokens=None, *, say=lambda line: None, shown=None, **options):
    """Measure into files; `shown` takes the progress."""
    with showing(shown):
        return measure_model(model, MeasureOptions(tokens=tokens, **options), say)


def measure_path(model, tokens=None, **options):
    """Measure and return the results file of the first labels."""
    return measured(model, tokens, **options).path


# Every class and position and no intervals, whatever the default would be.
PLAIN = {"groups": 1, "min_count": 1, "skip_positions": 0, "skip_special": False}
measure_run = functools.partial(measure_path, **PLAIN)


@contextlib.contextmanager
def showing(shown):
    """Give the progress of what is done inside to a function."""
    before = progress._SHOWN.set(shown)
    try:
        yield
    finally:
        progress._SHOWN.reset(before)


PLAINLY = ["--groups", "1", "--min-count", "1", "--skip-positions", "0", "--no-skip-special"]


def tiny_settings(tokens: Path, out: Path, **changes):
    """Settings of a run of 9 steps: 3 epochs of 22 rows of `write_tokens` in batches of 8."""
    usual = {
        "width": 8,
        "depth": 2,
        "heads": 2,
        "window": 4,
        "batch": 8,
        "epochs": 3,
        "precision": "fp32",
        "threads": 1,
        "log_every": 2,
        "device": "cpu",
    }
    return TrainOptions(tokens=tokens, out=out, **usual | changes)


class Killed(BaseException):
    """As a signal, it is no error that anybody could catch by mistake."""


def killed_at(step: int):
    """A hook that kills a training with the record of `step`, before its state is saved."""

    def hook(reached, model, record):
        if reached == step:
            raise Killed

    return hook


@contextlib.contextmanager
def killed_at_write(monkeypatch, number: int):
    """What is inside dies at its write to the disk of this number, if it comes so far.

    Yields a list, which holds something once that has happened.
    """
    flush, writes, died = files._flush, itertools.count(1), []

    def failing(path):
        if next(writes) == number:
            died.append(path)
            raise Killed
        flush(path)

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(files, "_flush", failing)
        yield died
