"""The fields of a record that strangers wrote: what each must be, said where it is not."""

import re
from typing import Any, TypeAlias

from tightframe.errors import nearest

Record: TypeAlias = dict[str, Any]


class RecordError(ValueError):
    """A record that cannot be used: what was found, and what was expected."""

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(found)
        self.kind = kind


def known_keys(value: Record, kind: type, what: str) -> None:
    """RecordError at the first key that is no field of `kind`."""
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in value:
        if key not in known:
            raise RecordError(
                "schema", f"unknown key {shown(key)} of {what}{nearest(str(key), known)}"
            )


def object_of(value: Any, kind: type, what: str) -> Record:
    """The value, if it is an object with fields of `kind` only."""
    if not isinstance(value, dict):
        raise RecordError("schema", f"{shown(value)} where {what} is expected, an object")
    known_keys(value, kind, what)
    return value


def objects(record: Record, key: str, kind: type, what: str) -> list[Record]:
    """The objects in the list at `key`."""
    return [object_of(one, kind, what) for one in items(record, key)]


def items(record: Record, key: str) -> list[Any]:
    """The list at `key`; empty where there is none."""
    value = record.get(key)
    if value is not None and not isinstance(value, list | tuple):
        raise RecordError("schema", f"{key!r} is {shown(value)}, expected a list")
    return list(value or ())


def texts(record: Record, key: str) -> tuple[str, ...]:
    """The texts in the list at `key`, none of them blank; none where there is no list."""
    listed = {f"{key}[{n}]": one for n, one in enumerate(items(record, key))}
    return tuple(text(listed, place) for place in listed)


def text(record: Record, key: str, *, empty: bool = False) -> str:
    """The text at `key`; it must hold more than blanks unless `empty`."""
    value = record.get(key)
    if not isinstance(value, str) or not (empty or value.strip()):
        found = f"is {shown(value)}" if key in record else "is missing"
        raise RecordError("schema", f"{key!r} {found}, expected text")
    if not encodes(value):
        raise RecordError("schema", f"{key!r} is {shown(value)}, half of a character; mend it")
    return value


def encodes(text: str) -> bool:
    """Whether it is text: JSON can also write lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(value: Any) -> int | None:
    """A whole number, also as text or as 2022.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else None
    return value if isinstance(value, int) else None


def whole(value: Any, key: str) -> int:
    """A whole number from 0 on."""
    read = number(value)
    if read is None or read < 0:
        raise RecordError("schema", f"{key!r} is {shown(value)}, expected a whole number from 0")
    return read


def shown(value: Any) -> str:
    """A stranger's value in a message: on one line, without control characters, not long."""
    quoted = repr(value) if isinstance(value, str) and encodes(value) else ascii(value)
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."
