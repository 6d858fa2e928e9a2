"""How every program of the package ends: one line on standard error, and an exit status.

Exit status: 0 done, 1 our mistake (traceback), 2 the user's, 3 partly done, 128 + N a signal N
(130 Ctrl-C, 143 SIGTERM), 141 the reader of our output has gone. SIGUSR1, by which a scheduler
tells that the time is nearly over, ends in 3.
"""

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from tightframe.errors import PartlyDoneError, UserError, printable
from tightframe.files import reason


class Stopped(KeyboardInterrupt):
    """A signal that asks the program to end; what it was at is left as after any failure."""

    def __init__(self, number: int):
        super().__init__()
        self.status = 3 if number == signal.SIGUSR1 else 128 + number


def say(line: str) -> None:
    """Print a line on what is going on, on standard error; at once, also where that is a file."""
    print(printable(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def endings_in_one_line() -> Iterator[None]:
    """Exit with a one-line message after a user error, a disk error or a signal."""
    status = 2
    try:
        with _signals_raised():
            yield
        return
    except UserError as error:
        line = str(error)
    except PartlyDoneError as error:
        line, status = str(error), 3
    except KeyboardInterrupt as error:
        line = "interrupted; run the same command again: it uses what it had finished, if anything"
        status = error.status if isinstance(error, Stopped) else 130
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno is None:
            raise
        line = f"{error.filename or 'disk'}: {reason(error, reading=True)}"
    except RuntimeError as error:
        loop = error.__context__
        if not isinstance(loop, OSError) or loop.errno != errno.ELOOP:  # of Path.resolve
            raise
        line = f"{loop.filename}: {reason(loop, reading=True)}"
    except MemoryError as error:
        line = f"not enough memory ({error}); make it smaller, or free some"
    say(f"tightframe: {line}")
    sys.exit(status)


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise `Stopped` for signals that end us, so that temporary files are removed on the way."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as `nohup` and `&` of a script want it
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not cut the removal short
    raise Stopped(number)
