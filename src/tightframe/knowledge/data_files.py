"""Files of records: read one record at a time, each with its place, and written as JSON lines."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.files import read_text, strict_json, whole_file
from tightframe.formats import check_digest, parse_json, write_signed

_BLANK = re.compile(r"[ \t\r\n]*")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One record as it stands in a file, or the problem with it."""

    place: str  # "line 12" where its text begins, "row 12" of a Parquet file; both from 1
    value: Any = None
    problem: str = ""  # what makes the file unreadable here
    part: str = ""  # the list that holds it, in a file of several: "dev"


def read_entries(path: Path) -> list[FileEntry]:
    """Return the records of a file.

    A .csv file is a table with a header; a .txt file that is not JSON holds one sentence per line.
    The kind of any other file is told by its content, not by its name: JSON may be a list of
    records, one record, or an object of lists ({"dev": [...]}); any other text is JSON lines.
    """
    if _is_parquet(path):
        return _rows(path)
    text = read_text(path).removeprefix("\ufeff")
    if path.suffix.lower() == ".csv":
        return list(_table(text))
    scan = _Scan(text)
    scan.skip_blanks()
    if path.suffix.lower() == ".txt" and not (scan.at("[") or scan.at("{")):
        lines = enumerate(text.split("\n"), start=1)
        return [FileEntry(f"line {n}", {"fact": line.strip()}) for n, line in lines if line.strip()]
    if scan.at("["):
        return list(scan.items())
    try:
        whole = _Scan(text).value()
    except ValueError:  # not one value: lines, of which one may be broken
        whole = None
    if not isinstance(whole, dict):
        return list(_lines(text))
    if whole and all(isinstance(value, list) for value in whole.values()):
        return list(scan.parts())
    return [FileEntry(f"line {scan.line}", whole)]


def _table(text: str) -> Iterator[FileEntry]:
    """Yield the rows of a table by the names in its first row; an empty cell is left out."""
    head = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True
    )
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield FileEntry(f"line {line}", problem=f"not CSV ({error})")
            return
        if not any(cells):
            continue
        if names is None:
            names = [name.lower() for name in cells]
            if len(set(names)) < len(names) or "" in names:
                yield FileEntry(f"line {line}", problem="a column without a name of its own")
                return
        elif len(cells) != len(names):
            found = f"{len(cells)} cells, expected {len(names)} as in the header"
            yield FileEntry(f"line {line}", problem=found)
        else:
            row = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
            yield FileEntry(f"line {line}", row)


def _lines(text: str) -> Iterator[FileEntry]:
    # Not splitlines: it also breaks at characters that may stand inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield FileEntry(f"line {number}", _Scan(line).value())
            except ValueError as error:
                yield FileEntry(f"line {number}", problem=f"not JSON ({error})")


class _Scan:
    """A reader of JSON that knows the line it is at, which `json.loads` forgets."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line = 1
        self._decoder = json.JSONDecoder()

    def at(self, character: str) -> bool:
        return self.text.startswith(character, self.position)

    def skip_blanks(self) -> None:
        end = _BLANK.match(self.text, self.position).end()  # type: ignore[union-attr]
        self._move(end)

    def value(self) -> Any:
        """Return the only value of the text; raise ValueError if it is broken or not alone."""
        value = self._next()
        if self.position < len(self.text):
            raise ValueError(f"{self.text[self.position]!r} after its end")
        return value

    def items(self, part: str = "") -> Iterator[FileEntry]:
        """Yield the members of the list that begins here."""
        self._move(self.position + 1)
        self.skip_blanks()
        while not self.at("]"):
            line = self.line
            try:
                yield FileEntry(f"line {line}", self._next(), part=part)
                self._separator("]")
            except ValueError as error:
                yield FileEntry(f"line {self.line}", problem=f"not JSON ({error})", part=part)
                self._move(len(self.text))
                return
        self._move(self.position + 1)
        self.skip_blanks()
        if not part and self.position < len(self.text):
            yield FileEntry(f"line {self.line}", problem="not JSON (something follows the list)")

    def parts(self) -> Iterator[FileEntry]:
        """Yield the members of every list of the object that begins here, known to be sound."""
        self._move(self.position + 1)
        self.skip_blanks()
        while not self.at("}"):
            part = self._next()
            self._move(self.position + 1)  # the colon
            self.skip_blanks()
            yield from self.items(part)
            self._separator("}")

    def _next(self) -> Any:
        self.skip_blanks()
        try:
            value, end = self._decoder.raw_decode(self.text, self.position)
        except json.JSONDecodeError as error:
            self._move(error.pos)
            raise ValueError(error.msg) from None
        except RecursionError:
            raise ValueError("nested too deeply") from None
        self._move(end)
        self.skip_blanks()
        return value

    def _separator(self, end: str) -> None:
        if self.at(","):
            self._move(self.position + 1)
            self.skip_blanks()
        elif not self.at(end):
            raise ValueError(f"expected , or {end}")

    def _move(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # `read_text` says what is wrong


def _rows(path: Path) -> list[FileEntry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a sound Parquet file ({reason}); make it again") from None
    return [FileEntry(f"row {number}", record) for number, record in enumerate(records, start=1)]


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one record per line, the file whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in records)


def read_records(path: Path, schema: Any, *, what: str, sha256: str | None = None) -> list[Any]:
    """Return the lines of a file as the pydantic type `schema`.

    Args:
        path: A file of JSON lines; a line of another schema is named.
        schema: Type of a line.
        what: Type of a line in words, for the message.
        sha256: Digest of the file, if another file lists it: a changed file is refused.
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
    write_signed(path, strict_json(report))
