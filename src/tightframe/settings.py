"""Settings: a flat frozen pydantic dataclass a command, read from TOML, overridden by `key=value`.

Unknown keys and wrong types are refused in one line that names the nearest known setting.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tomli_w

from tightframe.errors import UserError, nearest
from tightframe.files import read_text, write_text

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML ({error})") from None


def write_toml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a TOML file whole or not at all; settings that are None are left out."""
    write_text(path, tomli_w.dumps(_without_none(values)))


def overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """`["width=128", "name=x"]` as a dictionary; values are TOML, bare words are strings."""
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment}: expected key=value")
        values[key.strip()] = _value(text.strip())
    return values


def resolve(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """An instance of the settings dataclass `cls` from `values`; `source` is named in errors."""
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            hint = nearest(key, known) or f"; known: {', '.join(known)}"
            raise UserError(f"{source}: unknown setting '{key}'{hint}")
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise UserError(f"{source}: {_first(error)}") from None


def as_dict(settings: Any) -> dict[str, Any]:
    """The settings as plain values (tuples become lists, as TOML and JSON give them back)."""
    plain = pydantic.TypeAdapter(type(settings)).dump_python(settings, mode="json")
    assert isinstance(plain, dict)
    return plain


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _first(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        return message
    if first["type"] == "missing":
        return f"setting '{name}' is missing; it has no default"
    return f"setting '{name}' is {first['input']!r}: {message}"


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
