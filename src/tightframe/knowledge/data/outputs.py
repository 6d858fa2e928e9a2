"""Files of outputs: what a model said, a line a question."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tightframe.errors import UserError
from tightframe.files import read_text
from tightframe.knowledge.data.records import TYPES, Decoding, Output

NAME = "answers.jsonl"  # of the outputs in a run directory
FORMS = "answers"  # its folder of outputs by form of asking

_FIELDS = tuple(field.name for field in dataclasses.fields(Output))
_FINISHES = get_args(get_type_hints(Output)["finish"])
_WRITTEN = {"decoding": "greedy"}  # by files that do not say it


def read_outputs(path: str | Path) -> list[Output]:
    """The outputs in a file, or in a run directory's answers.jsonl; a broken line is named."""
    path = _file_of(Path(path))
    # A text may hold characters that end a line for str.splitlines, but not in JSON lines.
    lines = read_text(path).removeprefix("\ufeff").removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path}: empty, expected an output a line; answer the questions first")
    return [_output(f"{path}: line {number}", line) for number, line in enumerate(lines, 1)]


def _file_of(path: Path) -> Path:
    """The file of outputs that a path means; a run that was asked in other forms names them."""
    if not path.is_dir() or (path / NAME).is_file():
        return path / NAME if path.is_dir() else path
    asked = sorted(path.glob(f"{FORMS}/*.jsonl"))
    if not asked:
        raise UserError(
            f"{path}: holds no {NAME}; ask the model first, with `tightframe knowledge answer`"
        )
    raise UserError(
        f"{path}: holds answers in several forms of asking; name the file of one: "
        + ", ".join(map(str, asked))
    )


def _output(where: str, line: str) -> Output:
    again = "answer the questions again"
    try:
        record: Any = json.loads(line)
    except ValueError:
        raise UserError(f"{where}: not JSON, expected an output; {again}") from None
    if not isinstance(record, dict) or set(_WRITTEN | record) != set(_FIELDS):
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise UserError(f"{where}: found {found}, expected {', '.join(_FIELDS)}; {again}")
    for name in ("question_id", "fact_id", "model", "text"):
        if not isinstance(record[name], str):
            raise UserError(f"{where}: {name} is {record[name]!r}, expected text; {again}")
    record = _WRITTEN | record
    for name, known in (("type", TYPES), ("finish", _FINISHES), ("decoding", get_args(Decoding))):
        if record[name] not in known:
            expected = ", ".join(known)
            raise UserError(f"{where}: {name} is {record[name]!r}, expected {expected}; {again}")
    if not isinstance(record["seconds"], int | float):
        raise UserError(f"{where}: seconds is {record['seconds']!r}, expected a number; {again}")
    return Output(**record)
