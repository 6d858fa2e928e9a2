"""Trackers of experiments: measured values, by name and step, to wandb, trackio or tensorboard.

Whoever makes values calls `track`. A command opens a tracker around its work; without one, `track`
does nothing.
"""

import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightframe.errors import UserError, printable

if TYPE_CHECKING:
    from tightframe.results import Row

TRACKERS = ("wandb", "trackio", "tensorboard")
Send = Callable[[Mapping[str, float], int], None]

_OPEN: ContextVar[Send | None] = ContextVar("tracker", default=None)


def track(values: Mapping[str, float], step: int) -> None:
    """Send finite values, by name, to the tracker that is open; else do nothing."""
    if (send := _OPEN.get()) is not None:
        send({name: x for name, x in values.items() if math.isfinite(x)}, step)


def tracked_rows(rows: "Iterable[Row]", depth: int) -> dict[str, float]:
    """Name the values of rows for a tracker: `geometry/METRIC`, with what differs before it.

    Args:
        rows: Rows of one checkpoint.
        depth: Number of the last layer, which is not named.
    """
    named = {}
    for row in rows:
        layer = "" if row.layer == depth else f"layer-{row.layer}"
        subset = "" if row.subset in ("all", "probe") else row.subset
        labels = "" if row.labels == "next" else row.labels
        named["/".join(filter(None, ("geometry", labels, layer, subset, row.metric)))] = row.shown
    return named


def check_tracker(place: str | None) -> None:
    """Refuse a tracker that is not known or not installed."""
    if place is None:
        return
    name = place.partition(":")[0]
    if name not in TRACKERS:
        raise UserError(
            f"--track {place}: expected wandb, trackio or tensorboard, with :PROJECT if you like"
        )
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--track {place}: the package {name} is missing; pip install {name}")


@contextlib.contextmanager
def tracker(place: str | None, folder: Path) -> Iterator[None]:
    """Open a tracker for what is done inside; in the first process of a job, and outermost only.

    A tracker that raises is reported once and never stops the work.

    Args:
        place: "wandb", "trackio" or "tensorboard", with ":PROJECT" (default: tightframe; for
            tensorboard a folder, by default `folder`/tensorboard). None opens none.
        folder: Folder of the run, by whose name it is known.
    """
    check_tracker(place)
    if place is None or _OPEN.get() is not None or os.environ.get("RANK", "0") != "0":
        yield
        return
    name, _, project = place.partition(":")
    said: list[str] = []

    def carefully(action: Callable[[], Any]) -> None:
        if said:
            return
        try:
            action()
        except Exception as error:
            said.append(f"{name}: {type(error).__name__}: {error}")
            print(printable(f"{said[0]}; the work goes on untracked"), file=sys.stderr)

    opened: list[tuple[Send, Callable[[], Any]]] = []

    def send(values: Mapping[str, float], step: int) -> None:
        if not opened:  # a folder of a run is begun by others, so not before there are values
            opened.append(_open(name, project, folder))
        opened[0][0](values, step)

    reset = _OPEN.set(lambda values, step: carefully(lambda: send(values, step)))
    try:
        yield
    finally:
        _OPEN.reset(reset)
        if opened:
            carefully(opened[0][1])


def _open(name: str, project: str, folder: Path) -> tuple[Send, Callable[[], Any]]:
    run = folder.resolve().name
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(Path(project) / run if project else folder / "tensorboard"))

        def send(values: Mapping[str, float], step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        return send, writer.close
    module = importlib.import_module(name)
    module.init(project=project or "tightframe", name=run)
    return lambda values, step: module.log(dict(values), step=step), module.finish
