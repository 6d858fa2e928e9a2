"""Records of this study's files, a line each (one that is none is named), and reports."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tightframe.files import read_text, write_text
from tightframe.formats import check_digest, parse_json, write_signed


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a record a line, whole or not at all."""
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def read_records(path: Path, schema: Any, *, what: str, sha256: str | None = None) -> list[Any]:
    """Return the lines of a file as the pydantic type `schema`.

    Args:
        path: A line that holds something else is named.
        schema: What a line holds.
        what: The same in words, for the message.
        sha256: Of the file, where another one tells it: a file that was changed is refused.
    """
    remedy = f"expected {what}; mend or remove it"
    if sha256 is not None:
        check_digest(path, sha256)
    # Not splitlines, which also cuts at separators that JSON leaves as they are.
    lines = enumerate(read_text(path).removeprefix("\ufeff").split("\n"), start=1)
    return [
        parse_json(line, schema, source=f"{path}, line {number}", remedy=remedy)
        for number, line in lines
        if line.strip()
    ]


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a signed JSON object for people and programs, whole or not at all; NaN is null."""
    write_signed(path, _without_nan(report))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
