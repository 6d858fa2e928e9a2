"""Progress of long work on standard error: a bar on a terminal, a line a minute in a log."""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from tightframe.errors import printable

EVERY = 60.0  # seconds between two lines of a log


class Show(Protocol):
    """A function that shows the progress of a stage."""

    def __call__(self, name: str, share: float | None, done: int, detail: str = "") -> None:
        """Show it.

        Args:
            name: What is being done.
            share: How much of the stage is done, in [0, 1]; None where that is unknown.
            done: How many units are done.
            detail: What else there is to say, such as a loss.
        """


_SHOWN: ContextVar[Show | None] = ContextVar("shown", default=None)


def tell(name: str, share: float | None, done: int = 0, detail: str = "") -> None:
    """Show progress in the bar that is open, from wherever the work is done; else do nothing.

    Arguments are those of `Show`.
    """
    if (show := _SHOWN.get()) is not None:
        show(name, share, done, detail)


@contextlib.contextmanager
def bar(unit: str = "tokens") -> Iterator[Show]:
    """Yield what shows progress: share done, units a second and time left.

    While it is open, `tell` reaches it, too.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        task = p.add_task("", total=None)
        stage: _Stage | None = None
        due = time.monotonic() + EVERY

        def show(name: str, share: float | None, done: int, detail: str = "") -> None:
            nonlocal stage, due
            if stage is None or stage.name != name:
                stage = _Stage(name, share or 0.0, done, unit)
            line = stage.line(share, done, detail)
            if console.is_terminal:
                p.update(
                    task, description=line, completed=share, total=None if share is None else 1
                )
            elif (now := time.monotonic()) >= due:
                due = now + EVERY
                console.print(printable(line), markup=False)

        before = _SHOWN.set(show)
        try:
            yield show
        finally:
            _SHOWN.reset(before)


class _Stage:
    """A stage of the work, with its first progress and its time."""

    def __init__(self, name: str, share: float, done: int, unit: str) -> None:
        self.name, self._unit = name, unit
        self._share, self._done, self._start = share, done, time.monotonic()

    def line(self, share: float | None, done: int, detail: str) -> str:
        """Return how far it has come, how fast it goes and how long it will take."""
        elapsed = time.monotonic() - self._start
        parts = [f"{done:,} {self._unit}"] if done else []
        if share is not None:
            parts.insert(0, f"{share:.0%}")
        if done > self._done and elapsed > 0:
            speed = (done - self._done) / elapsed
            parts.append(f"{speed:{',.0f' if speed >= 9.5 else '.2g'}} a second")
        if detail:
            parts.append(detail)
        if share is not None and share > self._share:
            parts.append(_left(elapsed * (1 - share) / (share - self._share)))
        return f"{self.name}: {', '.join(parts)}" if parts else self.name


def _left(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.0f} s left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min left" if hours else f"{minutes} min left"
