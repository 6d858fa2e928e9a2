"""Settings: a flat frozen pydantic dataclass a command, read from TOML, overridden by `key=value`.

Unknown keys and wrong types are refused in one line that names the nearest known setting.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tomli_w
from pydantic_core import ArgsKwargs

from tightframe.errors import UserError, nearest
from tightframe.files import fingerprint, read_text, write_text
from tightframe.formats import check

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; one that `write_toml` signed must not have changed since."""
    text = read_text(path).removeprefix("\ufeff")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not TOML ({_toml_reason(error)}); mend that place") from None
    signed = re.match(r"# tightframe ([0-9a-f]{12})\n", text)
    if signed and signed[1] != _signature(values):
        raise UserError(f"{path}: altered since it was written; make it again")
    return values


def write_toml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a signed TOML file whole or not at all; settings that are None are left out."""
    plain = _without_none(values)
    write_text(path, f"# tightframe {_signature(plain)}\n{tomli_w.dumps(plain)}")


def overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse `["width=128", "name=x"]`; values are TOML, bare words are strings."""
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment}: expected key=value")
        values[key.strip()] = _value(text.strip())
    return values


def resolve(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """Make the settings dataclass `cls` from `values`; `source` is named in errors."""
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            hint = nearest(key, known) or f"; known: {', '.join(known)}"
            raise UserError(f"{source}: unknown setting '{key}'{hint}")
    settings: T = check(cls, dict(values), source=source, remedy="", what="setting")
    return settings


def given_settings(values: Any) -> dict[str, Any]:
    """Return what a validator in front of pydantic's was given, with lists as tuples."""
    given = dict((values.kwargs or {}) if isinstance(values, ArgsKwargs) else values)
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def as_dict(settings: Any) -> dict[str, Any]:
    """Return the settings as plain values (tuples become lists, as in TOML and JSON)."""
    plain = pydantic.TypeAdapter(type(settings)).dump_python(settings, mode="json")
    assert isinstance(plain, dict)
    return plain


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _signature(values: Mapping[str, Any]) -> str:
    return fingerprint(json.dumps(values, sort_keys=True, default=str))


def _toml_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    return "a number of thousands of digits" if "int_max_str" in str(error) else str(error)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
