"""What all commands share: kinds of options, and how they print.

Results go to standard output; progress and what is going on to standard error.
"""

import contextlib
import dataclasses
import functools
import json
import math
import operator
import os
import re
import shutil
import warnings
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from cyclopts import Parameter, Token, convert
from cyclopts.validators import Number
from rich.console import Console

from tightframe.errors import printable
from tightframe.files import check_place, strict_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

console = Console(stderr=True, highlight=False, soft_wrap=True)


def _plain(kind: Any, tokens: "Sequence[Token]") -> Any:
    """Convert what was typed for an option, with no number or path that only looks like one.

    cyclopts alone rounds 4.9 to a whole number and lets nan, "" and undecodable bytes pass.
    """
    kinds = _members(kind)
    return convert(kind, [token.evolve(value=_checked(token.value, kinds)) for token in tokens])


def _members(kind: Any) -> set[Any]:
    """Return the plain types of which an annotation such as `list[int] | None` consists."""
    inner = [_members(one) for one in get_args(kind)]
    return set().union(*inner) if inner and get_origin(kind) is not Literal else {kind}


def _checked(word: str, kinds: set[Any]) -> str:
    if not word:
        raise ValueError("is empty; leave the option out, or give it a value")
    if "\0" in word or (not word.isascii() and any("\ud800" <= c <= "\udfff" for c in word)):
        raise ValueError("holds bytes that are no UTF-8 text; rename what it names")
    if int in kinds:
        number = int(word) if re.fullmatch(r"[+-]?[\d_]+", word) and len(word) < 30 else -1
        if not 0 <= number < 2**63:
            raise ValueError(f"'{word}' is no whole number from 0 on")
    if float in kinds and not math.isfinite(float(word)):
        raise ValueError(f"'{word}' is not a finite number")
    if Path in kinds:
        word = os.path.expanduser(word)
        check_place(Path(word))
    return word


def _apart(kind: Any, tokens: "Sequence[Token]") -> Any:
    """Return the words of an option, each checked by cyclopts as if given by itself."""
    words = [
        token.evolve(value=word) for token in tokens for word in token.value.split(",") if word
    ]
    if not words:
        raise ValueError("names nothing; expected words, set apart by commas or spaces")
    return _plain(kind, words)


PLAIN = Parameter(converter=_plain)  # of every option of every command

# Of an option that takes several words: `--types a,b`, `--types a b` and `--types a --types b`.
SEVERAL = Parameter(negative="", consume_multiple=True, converter=_apart)

# Of an option that takes options of another program: `--slurm "--time 10"`.
OPTIONS = Parameter(allow_leading_hyphen=True)

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Device = Literal["auto", "cpu", "cuda"]  # `lm.hardware.device_named` says which it is here
SEED = Parameter(validator=Number(lte=2**32 - 1))  # of scikit-learn: 32 bits
Names = Annotated[list[str] | None, SEVERAL]
# A value may hold commas and spaces, so each has its own --set.
Assignments = Annotated[
    list[str] | None, Parameter(name="--set", negative="", consume_multiple=False)
]


def as_parameters(options: type, *, optional: bool = False, **special: Parameter) -> Any:
    """Return a dataclass of options as the parameters of a command, one `--option` per field.

    Of a field `Annotated[X, Y]`, which Python may set to an X, the command line takes a Y. Several
    words may be given as for `SEVERAL`, flags are set by their name alone; the help is the
    docstring of the class.

    Args:
        options: The dataclass.
        optional: Use None for whatever is not given, instead of the defaults: for settings that a
            preset may supply, too.
        **special: Parameters of the fields that differ from the others.
    """
    kinds = get_type_hints(options, include_extras=True)

    def annotated(field: "dataclasses.Field[Any]") -> Any:
        kind = _typed(kinds[field.name])
        if field.name in special:
            return Annotated[kind, special[field.name]]
        if optional:
            return Annotated[kind | None, Parameter(show_default=False)]
        if kind is bool and field.default is False:
            return Flag
        is_several = tuple in {get_origin(one) for one in (kind, *get_args(kind))}
        return Annotated[kind, SEVERAL, Parameter(show_default=False)] if is_several else kind

    def copied(field: "dataclasses.Field[Any]") -> Any:
        default = None if optional else field.default
        return dataclasses.field(default=default, metadata=field.metadata)

    fields = dataclasses.fields(options)
    made = dataclasses.make_dataclass(
        options.__name__,
        [(one.name, annotated(one), copied(one)) for one in fields],
        bases=(options,),
        frozen=True,
        kw_only=True,
        namespace={"__module__": options.__module__},
    )
    return Annotated[made, Parameter(name="*")]


def _typed(kind: Any) -> Any:
    """Return a type with every `Annotated[X, Y]` in it replaced by Y, or by X if Y is a bound."""
    if get_origin(kind) is Annotated:
        inner, outer = get_args(kind)[:2]
        return outer if isinstance(outer, type) or get_origin(outer) else inner
    if get_origin(kind) in (Union, UnionType):
        return functools.reduce(operator.or_, map(_typed, get_args(kind)))
    return kind


def columns() -> int:
    """Return the width of the terminal in characters; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def first_process() -> bool:
    """Return whether this is the process that prints: under torchrun, one of many does."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print a progress line on standard error; control characters in it are escaped."""
    console.print(printable(line), markup=False)


def show(line: str) -> None:
    """Print lines of a result on standard output; control characters in them are escaped."""
    print("\n".join(map(printable, line.split("\n"))))


@contextlib.contextmanager
def warnings_said(of: object = "") -> "Iterator[None]":
    """Print each warning of the package as one line, after its subject; never twice."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in noted):
        say(f"{of}: {message}" if of else message)


def done(line: str, as_json: bool, **fields: Any) -> None:
    """Print what a command has made: a line for readers, or one JSON object."""
    show(dumps(fields) if as_json else line)


def dumps(value: Any) -> str:
    """Return a value as JSON; NaN and infinities are null."""
    return json.dumps(strict_json(value), default=str)
