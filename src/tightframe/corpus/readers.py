"""The documents of one file: paragraphs of text, records of JSON Lines, rows of a table.

Text and JSON Lines may be compressed (.gz, .zst). A record holds a text, or a chat: a list of
messages, each with a role and a content. Suffixes count in any case.
"""

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tightframe.corpus import hub
from tightframe.errors import UserError, nearest

MAX_DOCUMENT_BYTES = 2**24  # a document is held whole, so it must have an end
STRETCH_BYTES = 2**22  # of a file that is one document: tokens of 4 MiB take half a gigabyte
KINDS = {".txt": "text", ".md": "text", ".jsonl": "records", ".parquet": "parquet"}
EXPECTED = ".txt, .md, .jsonl (each also .gz or .zst), .parquet"

ChatTemplate = Callable[[list[dict[str, Any]]], tuple[str, bool]]
"""Write a chat, a list of messages with role and content, as one text; tell, too, whether a message
spells a special token, which in that text is one."""

NO_TEXT = "holds no text; remove it or fill it"

_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "parquet": b"PAR1"}
_HEAD = 2**16  # bytes that `check_file` looks at
_PARQUET_ROWS = 1_000  # read at once
# Text shrinks to a fifth; what unpacks to far more than that is made to fill a memory or a disk.
_MAX_RATIO, _MAX_RATIO_FROM = 200, 2**26


class Piece(NamedTuple):
    """One document of a file."""

    text: str
    start: float  # bytes of the file before it, unpacked
    where: str  # its place, for a message
    chat: bool = False  # made from messages
    spelled: bool = False  # a message spells a special token
    n_read: int = 0  # of a text file: bytes of the file that it was made from


def kind(path: Path) -> str | None:
    """Return "text", "records", "parquet" or "arrow"; None for a file that cannot be read."""
    packed = path.suffix.lower() in _COMPRESSION
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    found = "arrow" if suffix == ".arrow" else KINDS.get(suffix)
    return None if packed and found in ("parquet", "arrow") else found


def check_file(path: Path, field: str | None = None) -> None:
    """Refuse a file whose kind, first bytes or first record say that no text can be read.

    Args:
        path: The file.
        field: In records, the field that holds the text, if the first record must have it.
    """
    found = kind(path)
    if found is None:
        raise UserError(
            f"{path}: not a kind of file that can be read; expected {EXPECTED}; convert it to one"
        )
    with _readable(path):
        with path.open("rb") as file:
            magic = file.read(4)
        compression = _compression(path)
        expected = _MAGIC.get(compression or found, b"")
        if magic and not magic.startswith(expected):
            raise UserError(f"{path}: not a {path.suffix} file, or damaged (its first bytes)")
        with _open(path) as stream:
            head = stream.read(_HEAD)
    if not head:
        raise UserError(f"{path}: is empty; expected text")
    cut = len(head) == _HEAD
    blank = False
    if found == "text":
        blank = not _decode(head, str(path), cut=cut).strip()
    elif found == "records":
        lines = head.split(b"\n")
        for number, line in enumerate(lines, 1):
            _decode(line, f"{path}:{number}", cut=cut)
        first = next((index for index, line in enumerate(lines) if line.strip()), None)
        blank = first is None
        if first is not None and not (cut and first == len(lines) - 1):
            record = _record(lines[first], f"{path}:{first + 1}")
            if record is not None and field is not None:
                _value(record, field, f"{path}:{first + 1}")
    if blank and not cut:
        raise UserError(f"{path}: {NO_TEXT}")


def size(path: Path) -> int:
    """Return the bytes of a file, unpacked; of .parquet, those of its columns."""
    with _readable(path):
        if kind(path) == "parquet":
            with _parquet(path) as file:
                groups = range(file.metadata.num_row_groups)
                return int(sum(file.metadata.row_group(index).total_byte_size for index in groups))
        packed = path.stat().st_size
        if _compression(path) is None:
            return packed
        total = 0
        with _open(path) as stream:
            while data := stream.read(2**20):
                total += len(data)
                if total > max(_MAX_RATIO_FROM, _MAX_RATIO * packed):
                    raise UserError(
                        f"{path}: unpacks to more than {_MAX_RATIO} times its size; "
                        "expected compressed text"
                    )
        return total


def read_file(
    path: Path, *, documents: str, field: str, chat_template: ChatTemplate | None
) -> Iterator[Piece]:
    """Yield the documents of a file in order; a record of white space only is an empty text.

    Args:
        path: A file of a kind that `kind` knows.
        documents: For text: "paragraphs", cut at blank lines, or "files": the file as
            it is, in one piece, or in several that follow each other where it is long.
        field: In records and tables, the text's field, `outer.inner` for a nested one.
        chat_template: Writes a chat as text; None joins its messages, a blank line between them.
    """
    with _readable(path):
        match kind(path):
            case "records":
                rows = _records(path)
            case "parquet":
                rows = _parquet_rows(path, field)
            case "arrow":
                rows = _arrow_rows(path, field)
            case _:
                yield from _stretches(path) if documents == "files" else _paragraphs(path)
                return
        for record, start, where in rows:
            yield record_piece(record, field, where, chat_template, float(start))


def record_piece(
    record: Mapping[str, Any],
    field: str,
    where: str,
    chat_template: ChatTemplate | None,
    start: float = 0.0,
) -> Piece:
    """Return a record's text, which may be made from the messages of a chat."""
    value = _value(record, field, where)
    if isinstance(value, str):
        return Piece(value, start, where)
    if not (isinstance(value, list) and value and all(isinstance(m, dict) for m in value)):
        raise UserError(f"{where}: '{field}' is {type(value).__name__}, expected text")
    for message in value:
        if not isinstance(message.get("content"), str):
            raise UserError(f"{where}: a message of a chat has no text as its 'content'")
    if chat_template is not None:
        try:
            text, spelled = chat_template(value)
        except Exception as error:  # whatever a template of strangers may raise
            raise UserError(
                f"{where}: the tokenizer's chat template refuses this chat ({hub.reason(error)})"
            ) from None
        return Piece(text, start, where, True, spelled)
    return Piece("\n\n".join(message["content"] for message in value), start, where, True)


def n_bytes(text: str, where: str) -> int:
    """Return the bytes of a text in UTF-8; refuse one that has none, or too many."""
    try:
        n = len(text.encode())
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair
        raise UserError(f"{where}: not text that UTF-8 can hold; mend or remove it") from None
    if n > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"{where}: {n:,} bytes, longer than a document can be "
            f"({MAX_DOCUMENT_BYTES >> 20} MiB); cut it"
        )
    return n


def _compression(path: Path) -> str | None:
    return _COMPRESSION.get(path.suffix.lower())


def _open(path: Path) -> io.BufferedReader:
    """Open a file to be read, unpacked."""
    if (compression := _compression(path)) is None:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        damaged = error.errno is None and _compression(path) is not None
        hint = "; it is damaged or cut short" if damaged else ""
        raise UserError(f"{path}: cannot be read ({reason}){hint}") from None


def _stretches(path: Path) -> Iterator[Piece]:
    """Yield all of a file, cut after a blank line where it is long, or else where it can be."""
    start, data = 0, b""
    with _open(path) as file:
        while data := data + file.read(STRETCH_BYTES - len(data)):
            end = len(data) if not file.peek(1) else _last_cut(data)
            text = _decode(data[:end], str(path), start)
            yield Piece(text, start, str(path), n_read=end)
            start, data = start + end, data[end:]


def _last_cut(data: bytes) -> int:
    """Return where bytes of text are best cut in two, as far back as possible."""
    for mark in (b"\n\n", b"\n\r\n", b"\n", b" "):
        if (place := data.rfind(mark)) >= 0:
            return place + len(mark)
    starts = (i for i in range(len(data) - 1, 0, -1) if data[i] & 0xC0 != 0x80)  # of a character
    return next(starts, len(data))


def _paragraphs(path: Path) -> Iterator[Piece]:
    paragraph: list[bytes] = []
    start = position = 0
    with _open(path) as file:
        # The limit bounds memory in a file without line ends; the end of the file ends a paragraph.
        lines = iter(lambda: file.readline(MAX_DOCUMENT_BYTES + 1), b"")
        for line in itertools.chain(lines, [b""]):
            if line.strip():
                start = start if paragraph else position
                paragraph.append(line)
                if position + len(line) - start > MAX_DOCUMENT_BYTES:
                    raise UserError(
                        f"{path}: no blank line in {MAX_DOCUMENT_BYTES >> 20} MiB; put one between "
                        "documents, or write them as .jsonl"
                    )
            elif paragraph:
                text = _decode(b"".join(paragraph), str(path), start).rstrip("\n")
                yield Piece(text, start, str(path), n_read=position - start)
                paragraph = []
            position += len(line)


_Rows = Iterator[tuple[Mapping[str, Any], float, str]]
"""Records, the bytes of the file before each, and their places for a message."""


def _records(path: Path) -> _Rows:
    position = 0
    with _open(path) as file:
        lines = iter(lambda: file.readline(4 * MAX_DOCUMENT_BYTES), b"")
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            if (record := _record(line, where)) is not None:
                yield record, position, where
            position += len(line)


def _record(line: bytes, where: str) -> dict[str, Any] | None:
    """Return what a line of JSON Lines holds; None of white space."""
    if not line.strip():
        return None
    try:
        record = json.loads(_decode(line, where))
    except (ValueError, RecursionError) as error:  # too long a number, too deep a list
        raise UserError(f"{where}: not JSON ({error}); expected one object a line") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object; expected one object a line")
    return record


def _parquet_rows(path: Path, field: str) -> _Rows:
    n = size(path)
    with _parquet(path) as file:
        rows, row = file.metadata.num_rows, 0
        column = _column(file.schema_arrow.names, field, str(path))
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
            for value in batch.column(0):
                row += 1
                yield {column: value.as_py()}, n * (row - 1) / rows, f"{path}: row {row}"


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with _damaged(path), pq.ParquetFile(path) as file:
        yield file


def _arrow_rows(path: Path, field: str) -> _Rows:
    """Read a stream of record batches, as the package datasets writes them."""
    row = start = 0
    with path.open("rb") as file, _damaged(path), pa.ipc.open_stream(file) as stream:
        column = _column(stream.schema.names, field, str(path))
        for batch in stream:
            for value in batch.column(column):
                row += 1
                yield {column: value.as_py()}, start, f"{path}: row {row}"
            start = file.tell()


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a {path.suffix} file, or damaged ({first})") from None


def _decode(data: bytes, where: str, start: int = 0, *, cut: bool = False) -> str:
    """Decode bytes that begin at byte `start`; line ends become "\\n", a leading BOM goes.

    Args:
        data: The bytes.
        where: Their place, for a message.
        start: Bytes of a longer text before these.
        cut: The text goes on behind these bytes, which may end within a character.
    """
    if (nul := data.find(0)) >= 0:
        raise UserError(
            f"{where}: binary, or not UTF-8 (NUL at byte {start + nul}); expected UTF-8 text"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if cut and error.end == len(data):
            return data[: error.start].decode()
        raise UserError(
            f"{where}: not UTF-8 text (byte {start + error.start}); convert it first"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _value(record: Mapping[str, Any], field: str, where: str) -> Any:
    """Find a field: by its name, by its path `outer.inner`, or the messages of a chat."""
    column = _column(record, field, where)
    value = record[column]
    if column in (field, "messages"):
        return value
    for part in field.removeprefix(f"{column}.").split("."):
        if not isinstance(value, Mapping) or part not in value:
            within = value if isinstance(value, Mapping) else ()
            raise UserError(_no_field(where, field, [f"{column}.{name}" for name in within]))
        value = value[part]
    return value


def _column(names: Iterable[str], field: str, where: str) -> str:
    """Return the name of the outermost field that holds `field`."""
    known = [str(name) for name in names]
    outer = field.partition(".")[0]
    chat = ["messages"] if field == "text" else []
    for name in (field, outer, *chat):
        if name in known:
            return name
    raise UserError(_no_field(where, field, known))


def _no_field(where: str, field: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = nearest(field, names) or "; say with --field which one holds the text"
    rest = f", but {', '.join(names)}{hint}" if names else ""
    return f"{where}: no field '{field}'{rest}"
