"""What the programs of this room that people call by `python -m` share: lines, and mistakes."""

import contextlib
import sys
from collections.abc import Iterator

from tightframe.errors import UserError


def say(line: str) -> None:
    """A line on what is going on, on standard error; at once, also where that is a file."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """A user's mistake inside ends the program as it ends a command: one line, exit status 2."""
    try:
        yield
    except UserError as error:
        say(f"tightframe: {error}")
        raise SystemExit(2) from None
