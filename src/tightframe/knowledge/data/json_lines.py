"""Records of this study's files, a line each (one that is none is named), and reports."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tightframe.errors import UserError
from tightframe.files import read_text, write_text

T = TypeVar("T")


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a record a line, whole or not at all."""
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def read_records(path: Path, make: Callable[[dict[str, Any]], T], *, what: str) -> list[T]:
    """The records of a file; `what` is what each line should be, for the message."""
    found = []
    # Not splitlines, which also cuts at separators that JSON leaves as they are.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(make(json.loads(line)))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error.msg}), expected {what}; mend or remove it"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {number}: expected {what}, but {_found(error)}; is it another file?"
            ) from None
    return found


def write_report(path: Path, report: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write JSON for people and programs, an object or a list, whole or not at all; NaN is null."""
    text = json.dumps(_without_nan(report), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _found(error: Exception) -> str:
    first = str(error).split("\n", 1)[0]
    return f"{first} is missing" if isinstance(error, KeyError) else first
