"""What goes wrong, by whose mistake it is: `UserError` is one line, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error in a path, setting or file that the user can mend; one line, exit status 2.

    The message says what was found, what was expected, and what to do.
    """


class PartlyDoneError(Exception):
    """Work that is left, with which the same command resumes; one line, exit status 3."""


def printable(text: str) -> str:
    """Return a stranger's text for one line of a terminal: what would act there is spelled out.

    An escape sequence becomes `\\x1b[...`, a line end `\\n`, a lone byte of a file name `\\udcff`.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' for the closest known word, or nothing if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
