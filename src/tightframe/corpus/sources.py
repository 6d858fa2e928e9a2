"""Read text: files, folders and Hugging Face data sets, one document at a time.

A *document* is what is tokenized as a whole. A *unit* is a piece of text that has nothing to do
with the next one: a .txt file, or a record of a .jsonl file, a .parquet file or a data set. The
paragraphs of one file are documents of one unit: neighbours, which `splits` keeps together.
"""

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tightframe.corpus import hub
from tightframe.errors import UserError, nearest

MAX_DOCUMENT_BYTES = 2**24  # a document is held whole, so it must have an end
DOCUMENTS = ("paragraphs", "files")  # of a .txt file
SUFFIXES = (".txt", ".jsonl", ".parquet")
HUB = "hf:"

_HUB_SOURCE = re.compile(r"hf:(?P<name>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<split>[^:@]+))?")
_PARQUET_ROWS = 1_000  # read at once


class Document(NamedTuple):
    """One text and where it stands in its source."""

    text: str
    n_bytes: int  # of the text in UTF-8
    unit: int  # which unit it belongs to, counted from 0
    unit_bytes: int  # length of that unit on disk
    place: float  # share of the unit before the document, in [0, 1)
    done: float | None  # share of the source read when it was yielded; None where unknown


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents that can be read any number of times, always in the same order."""

    name: str  # as the user gave it
    n_bytes: int | None  # length on disk (.parquet: uncompressed); None where unknown
    description: dict[str, Any]  # how it is read, for the manifest
    files: tuple[Path, ...]  # what is read, in order; none of a data set of the hub
    read: Callable[[], Iterator[Document]]


def open_source(
    source: str | Path,
    *,
    documents: str = "paragraphs",
    field: str = "text",
    pinned: bool = False,
) -> Source:
    """A file, a folder of files, or a Hugging Face data set, as a `Source`.

    Args:
        source: A .txt, .jsonl or .parquet file; a folder, searched for such files at any depth,
            hidden ones left out, and read in the order of their paths; or
            `hf:NAME[:CONFIG][@SPLIT]`, a data set of the hub (or a local folder in its layout),
            split "train" unless said otherwise.
        documents: Of a .txt file: "paragraphs", what stands between blank lines, or "files",
            each file one document.
        field: Name of the .jsonl field, .parquet column or data set column that holds the text.
        pinned: Ask the hub which revision a data set is at, read that one and say so in the
            description; files are what they are.
    """
    if str(source).startswith(HUB):
        return _hub_source(str(source), field, pinned)
    path = Path(source)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix in SUFFIXES and file.is_file() and not _hidden(file.relative_to(path))
        )
        if not files:
            raise UserError(f"{path}: holds no readable file; expected {', '.join(SUFFIXES)}")
    elif not path.exists():
        raise UserError(
            f"{path}: no such file or folder; expected 'stories', a {', '.join(SUFFIXES)} file, "
            "a folder of these, or hf:NAME"
        )
    elif path.suffix not in SUFFIXES:
        raise UserError(
            f"{path}: not a kind of file that can be read; expected {', '.join(SUFFIXES)}"
        )
    else:
        files = [path]
    return _file_source(str(source), files, documents, field)


def _file_source(name: str, files: list[Path], documents: str, field: str) -> Source:
    sizes = [_size(file) for file in files]
    total = sum(sizes)

    def read() -> Iterator[Document]:
        before, unit = 0, 0
        for file, size in zip(files, sizes, strict=True):
            n = 0
            for n, (text, start, where) in enumerate(_read_file(file, documents, field), 1):
                n_bytes = _n_bytes(text, where)
                done = (before + start) / total
                if file.suffix == ".txt":
                    yield Document(text, n_bytes, unit, size, start / size, done)
                else:
                    yield Document(text, n_bytes, unit + n - 1, n_bytes, 0.0, done)
            if not n:
                raise UserError(f"{file}: holds no text; remove it or fill it")
            before += size
            unit += 1 if file.suffix == ".txt" else n

    suffixes = {file.suffix for file in files}
    description: dict[str, Any] = {"text": name, "files": len(files), "file_bytes": total}
    if ".txt" in suffixes:
        description["documents"] = documents
    if suffixes != {".txt"}:
        description["field"] = field
    return Source(name, total, description, tuple(files), read)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _size(path: Path) -> int:
    """Bytes of a file on disk (.parquet: uncompressed); never 0."""
    with _readable(path):
        if path.suffix == ".parquet":
            with _parquet(path) as file:
                groups = range(file.metadata.num_row_groups)
                size = int(sum(file.metadata.row_group(index).total_byte_size for index in groups))
        else:
            size = path.stat().st_size
    if not size:
        raise UserError(f"{path}: is empty; expected text")
    return size


def _read_file(path: Path, documents: str, field: str) -> Iterator[tuple[str, float, str]]:
    """Each document's text, the bytes of the file before it, and its place for a message."""
    with _readable(path):
        if path.suffix == ".jsonl":
            yield from _records(path, field)
        elif path.suffix == ".parquet":
            yield from _column(path, field)
        elif documents == "files":
            yield from _whole_file(path)
        else:
            yield from _paragraphs(path)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _whole_file(path: Path) -> Iterator[tuple[str, float, str]]:
    with path.open("rb") as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"{path}: is longer than a document can be ({MAX_DOCUMENT_BYTES >> 20} MiB); "
            "use documents='paragraphs'"
        )
    if data.strip():
        yield _decode(data, str(path)), 0, str(path)


def _paragraphs(path: Path) -> Iterator[tuple[str, float, str]]:
    paragraph: list[bytes] = []
    start = position = 0
    with path.open("rb") as file:
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
                yield _decode(b"".join(paragraph), str(path), start).rstrip("\n"), start, str(path)
                paragraph = []
            position += len(line)


def _records(path: Path, field: str) -> Iterator[tuple[str, float, str]]:
    position = 0
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(4 * MAX_DOCUMENT_BYTES), b"")
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            if line.strip():
                try:
                    record = json.loads(_decode(line, where))
                except (ValueError, RecursionError) as error:  # too long a number, too deep a list
                    raise UserError(
                        f"{where}: not JSON ({error}); expected one object a line"
                    ) from None
                if not isinstance(record, dict):
                    raise UserError(f"{where}: not a JSON object; expected one object a line")
                yield _field(record, field, where), position, where
            position += len(line)


def _column(path: Path, field: str) -> Iterator[tuple[str, float, str]]:
    size = _size(path)
    with _parquet(path) as file:
        rows, row = file.metadata.num_rows, 0
        if field not in file.schema_arrow.names:
            raise UserError(_no_field(str(path), field, file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]):
            for value in batch.column(0):
                where = f"{path}: row {row + 1}"
                yield _text(value.as_py(), field, where), size * row / rows, where
                row += 1


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a .parquet file, or damaged ({first})") from None


def _hub_source(source: str, field: str, pinned: bool) -> Source:
    parts = _HUB_SOURCE.fullmatch(source)
    if parts is None:
        raise UserError(f"{source}: not a data set; expected hf:NAME[:CONFIG][@SPLIT]")
    name, config, split = parts["name"], parts["config"], parts["split"] or "train"
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{source}: needs the package datasets; pip install 'tightframe[hf]'"
        ) from None

    # The package datasets takes a folder in the hub's layout for a data set, too.
    files = tuple(sorted(file for file in Path(name).rglob("*") if file.is_file()))
    commit = hub.data_set_revision(name) if pinned and not files else None
    revision = {} if commit is None else {"revision": commit}

    def read() -> Iterator[Document]:
        unit = -1
        if not Path(name).exists() and hub.unreachable():
            raise UserError(
                f"{source}: the Hugging Face hub does not answer; set HF_HUB_OFFLINE=1 to read "
                "what was fetched before"
            )
        try:
            with hub.quiet():
                rows = datasets.load_dataset(name, config, split=split, streaming=True, **revision)
            for unit, record in enumerate(rows):
                where = f"{source}: record {unit + 1}"
                text = _field(record, field, where)
                n_bytes = _n_bytes(text, where)
                yield Document(text, n_bytes, unit, n_bytes, 0.0, None)
        except UserError:
            raise
        except Exception as error:  # whatever the network, the hub or its files may raise
            raise UserError(
                f"{source}: cannot be read after {unit + 1} records ({hub.reason(error)})"
            ) from None
        if unit < 0:
            raise UserError(f"{source}: holds no records")

    description = {"text": source, "config": config, "split": split, "field": field} | revision
    return Source(source, None, description, files, read)


def _decode(data: bytes, where: str, start: int = 0) -> str:
    """Text of bytes that begin at byte `start`; line ends become "\\n", a leading BOM goes."""
    if (nul := data.find(0)) >= 0:
        raise UserError(
            f"{where}: binary, or not UTF-8 (NUL at byte {start + nul}); expected UTF-8 text"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text (byte {start + error.start}); convert it first"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _field(record: Mapping[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise UserError(_no_field(where, field, record))
    return _text(record[field], field, where)


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: '{field}' is {type(value).__name__}, expected text")
    return value


def _no_field(where: str, field: str, known: Iterable[str]) -> str:
    names = [str(name) for name in known]
    return f"{where}: no field '{field}', but {', '.join(names)}{nearest(field, names)}"


def _n_bytes(text: str, where: str) -> int:
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair
        raise UserError(f"{where}: not text that UTF-8 can hold; mend or remove it") from None
    if n_bytes > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"{where}: {n_bytes:,} bytes, longer than a document can be "
            f"({MAX_DOCUMENT_BYTES >> 20} MiB); cut it"
        )
    return n_bytes
