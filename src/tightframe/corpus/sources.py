"""Read text: files, folders and Hugging Face data sets, one document at a time.

A *document* is what is tokenized as a whole. A *unit* is a piece of text that has nothing to do
with the next one: a text file, or a record of a .jsonl file, a table or a data set. The
paragraphs of one file are documents of one unit: neighbours, which `splits` keeps together.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tightframe.corpus import hub, readers
from tightframe.corpus.options import STORIES
from tightframe.corpus.readers import EXPECTED, ChatTemplate
from tightframe.errors import UserError, nearest
from tightframe.files import check_place
from tightframe.formats import read_json

DOCUMENTS = ("paragraphs", "files")  # of a text file
HUB = "hf:"

_HUB_SOURCE = re.compile(r"hf:(?P<name>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<split>[^:@]+))?")
_SHOWN = 5  # kinds of files that a note names

# What a reading counts, and how a note says it.
_BLANK_FILES, _BLANK_RECORDS = "blank files", "blank records"
_CHATS, _SPELLED = "chats", "chats that spell special tokens"


class Document(NamedTuple):
    """One text and where it stands in its source."""

    text: str
    n_bytes: int  # of the text in UTF-8
    unit: int  # which unit it belongs to, counted from 0
    unit_bytes: int  # length of that unit, unpacked
    place: float  # share of the unit before the document, in [0, 1)
    done: float | None  # share of the source read when it was yielded; None where unknown
    templated: bool = False  # a chat written by a template: special tokens in it are tokens
    share: float = 1.0  # of the unit that the document is
    stretch: bool = False  # of a file that is read whole: may be cut, or go on from the one before


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents that can be read any number of times, always in the same order.

    Attributes:
        name: Name that the user gave.
        n_bytes: Length, unpacked (.parquet: uncompressed); None where unknown.
        description: Description of the reading, for the manifest.
        files: Files in the order of reading; none for a data set of the hub.
        read: Yields the documents.
        not_read: Files of a folder that are of other kinds, by suffix.
        counts: Blank files, blank records and chats of the latest reading.
    """

    name: str
    n_bytes: int | None
    description: dict[str, Any]
    files: tuple[Path, ...]
    read: Callable[[], Iterator[Document]]
    not_read: Counter[str] = dataclasses.field(default_factory=Counter)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    templated: bool = False  # chats are written by the tokenizer's template

    def notes(self) -> list[str]:
        """Say in one line each what was passed over and how chats were read, once read."""
        lines = []
        if n := self.not_read.total():
            kinds = [f"{suffix} {count:,}" for suffix, count in self.not_read.most_common(_SHOWN)]
            more = ", ..." if len(self.not_read) > _SHOWN else ""
            lines.append(f"other files, not read: {n:,} ({', '.join(kinds)}{more})")
        if n := self.counts[_BLANK_FILES]:
            lines.append(f"files without text, passed over: {n:,}")
        if n := self.counts[_BLANK_RECORDS]:
            lines.append(f"records of white space only, passed over: {n:,}")
        if n := self.counts[_CHATS]:
            how = (
                "written by the tokenizer's chat template"
                if self.templated
                else "their messages joined with blank lines (no chat template)"
            )
            lines.append(f"chats: {n:,}, {how}")
        if n := self.counts[_SPELLED]:
            lines.append(f"chats whose messages spell special tokens, read as such: {n:,}")
        return [f"{self.name}: {line}" for line in lines]


def check_source(source: str | Path, *, field: str | None = None, generated: bool = False) -> None:
    """Refuse at once a source that cannot be read: nothing heavy is imported, no file read whole.

    A path has to exist, to be of a kind that can be read, not to be empty, and to begin as such a
    file does; a folder has to hold such files. Of `hf:NAME` only the form is checked. What comes
    later in a file is checked when it is read.

    Args:
        source: A source of `open_source`.
        field: The field of records that holds the text; by default it is not looked for.
        generated: Accept "stories", the generated corpus, too.
    """
    if str(source) == STORIES and generated:
        return
    if str(source) == STORIES:
        raise UserError(
            f"{STORIES}: is generated, not read; make its tokens with "
            f"`tightframe corpus build {STORIES} --tokenizer MODEL --out DIR` and use them"
        )
    if str(source).startswith(HUB):
        _hub_parts(str(source))
        return
    path = Path(source)
    check_place(path)
    files, _ = _saved_files(path, None) or _files(path)
    if not path.is_dir() or len(files) == 1:
        readers.check_file(files[0], field)


def open_source(
    source: str | Path,
    *,
    documents: str = "paragraphs",
    field: str = "text",
    pinned: bool = False,
    chat_template: ChatTemplate | None = None,
) -> Source:
    """Open a file, a folder of files, or a Hugging Face data set.

    Args:
        source: A .txt, .md or .jsonl file, as it is or compressed (.gz, .zst), or a .parquet file;
            a folder, searched for such files at any depth, hidden ones and README.md left out, and
            read in the order of their paths; a folder that `datasets` saved (`save_to_disk`), split
            "train" unless said otherwise; or `hf:NAME[:CONFIG][@SPLIT]`, a data set of the hub
            (or a local folder in its layout, or a saved one), split "train" unless said otherwise.
        documents: For text files: "paragraphs", cut at blank lines, or "files",
            each file one document, read in stretches that follow each other where it is long.
        field: Name of the .jsonl field, .parquet column or data set column that holds the text;
            `outer.inner` for a nested one. A record without it but with `messages` is a chat.
        pinned: Ask the hub which revision a data set is at, read that one and say so in the
            description; files are what they are.
        chat_template: Writes a chat as text; None joins its messages.
    """
    if documents not in DOCUMENTS:
        hint = nearest(documents, DOCUMENTS) or f"; expected one of {', '.join(DOCUMENTS)}"
        raise UserError(f"documents: unknown '{documents}'{hint}")
    if str(source).startswith(HUB):
        return _hub_source(str(source), field, pinned, chat_template)
    path = Path(source)
    if (saved := _saved_files(path, None)) is not None:
        return _file_source(str(source), *saved, documents, field, chat_template)
    return _file_source(str(source), *_files(path), documents, field, chat_template)


def _files(path: Path) -> tuple[list[Path], Counter[str]]:
    """List the files of a source that can be read, and count the others by their suffixes."""
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; expected a file ({EXPECTED}), a folder of these, "
            f"hf:NAME, or '{STORIES}'"
        )
    if not path.is_dir():
        readers.check_file(path)
        return [path], Counter()
    files: list[Path] = []
    others: Counter[str] = Counter()
    for file in sorted(path.rglob("*")):
        if _hidden(file.relative_to(path)) or not file.is_file():
            continue
        if file.name.lower() == "readme.md":  # tells of the folder, as a data set's card does
            others[file.name] += 1
        elif readers.kind(file) in readers.KINDS.values():
            files.append(file)
        else:
            others[file.suffix.lower() or "no suffix"] += 1
    if not files:
        held = ", ".join(f"{suffix} {n:,}" for suffix, n in others.most_common(_SHOWN))
        raise UserError(
            f"{path}: holds no readable file; expected {EXPECTED}"
            + (f"; it holds {held}" if held else "")
        )
    return files, others


def _saved_files(path: Path, split: str | None) -> tuple[list[Path], Counter[str]] | None:
    """List the files of a data set that the package datasets saved; None where there is none."""
    if (path / "dataset_dict.json").is_file():
        content = read_json(path / "dataset_dict.json")
        splits = content.get("splits") if isinstance(content, dict) else None
        names = [name for name in splits or [] if isinstance(name, str)]
        wanted = split or (names[0] if len(names) == 1 else "train")
        if wanted not in names or Path(wanted).name != wanted:
            raise UserError(
                f"{path}: a saved data set without a split '{wanted}', but {', '.join(names)}; "
                f"use hf:{path}@SPLIT"
            )
        path = path / wanted
    if not (path / "state.json").is_file() or not (path / "dataset_info.json").is_file():
        return None
    state = read_json(path / "state.json")
    listed = state.get("_data_files") if isinstance(state, dict) else None
    try:
        files = [path / Path(file["filename"]).name for file in listed or []]
    except (KeyError, TypeError):
        files = []
    if not files:
        raise UserError(f"{path}/state.json: names no data files; save the data set again")
    return files, Counter()


def _file_source(
    name: str,
    files: list[Path],
    not_read: Counter[str],
    documents: str,
    field: str,
    chat_template: ChatTemplate | None,
) -> Source:
    sizes = [readers.size(file) for file in files]
    total = sum(sizes)
    counts: Counter[str] = Counter()
    templated = chat_template is not None

    def read() -> Iterator[Document]:
        counts.clear()
        before, unit = 0, 0
        for file, size in zip(files, sizes, strict=True):
            is_text = readers.kind(file) == "text"
            n = blank = 0
            pieces = readers.read_file(
                file, documents=documents, field=field, chat_template=chat_template
            )
            for n, (text, start, where, chat, spelled, n_read) in enumerate(pieces, 1):
                if not text.strip():
                    blank += 1
                    continue
                n_bytes = readers.n_bytes(text, where)
                done = (before + start) / total
                counts[_CHATS] += chat
                counts[_SPELLED] += spelled
                if is_text:
                    yield Document(
                        *(text, n_bytes, unit, size, start / size, done),
                        share=n_read / size,
                        stretch=documents == "files",
                    )
                else:
                    written = chat and templated
                    yield Document(text, n_bytes, unit + n - 1, n_bytes, 0.0, done, written)
            counts[_BLANK_RECORDS] += blank
            if n == blank and len(files) == 1:
                raise UserError(f"{file}: {readers.NO_TEXT}")
            counts[_BLANK_FILES] += n == blank
            before += size
            unit += 1 if is_text else n
        if counts[_BLANK_FILES] == len(files):
            raise UserError(f"{name}: none of its {len(files):,} files holds text")

    kinds = {readers.kind(file) for file in files}
    description: dict[str, Any] = {"text": name, "files": len(files), "file_bytes": total}
    if "text" in kinds:
        description["documents"] = documents
    if kinds != {"text"}:
        description["field"] = field
    return Source(name, total, description, tuple(files), read, not_read, counts, templated)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hub_parts(source: str) -> tuple[str, str | None, str]:
    parts = _HUB_SOURCE.fullmatch(source)
    if parts is None:
        raise UserError(f"{source}: not a data set; expected hf:NAME[:CONFIG][@SPLIT]")
    return parts["name"], parts["config"], parts["split"] or "train"


def _hub_source(
    source: str, field: str, pinned: bool, chat_template: ChatTemplate | None
) -> Source:
    name, config, split = _hub_parts(source)
    if (saved := _saved_files(Path(name), split)) is not None:
        return _file_source(source, *saved, DOCUMENTS[0], field, chat_template)
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
    counts: Counter[str] = Counter()
    templated = chat_template is not None

    def read() -> Iterator[Document]:
        counts.clear()
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
                piece = readers.record_piece(record, field, where, chat_template)
                if not piece.text.strip():
                    counts[_BLANK_RECORDS] += 1
                    continue
                counts[_CHATS] += piece.chat
                counts[_SPELLED] += piece.spelled
                n_bytes = readers.n_bytes(piece.text, where)
                written = piece.chat and templated
                yield Document(piece.text, n_bytes, unit, n_bytes, 0.0, None, written)
        except UserError:
            raise
        except Exception as error:  # whatever the network, the hub or its files may raise
            raise UserError(
                f"{source}: cannot be read after {unit + 1} records ({hub.reason(error)})"
            ) from None
        if unit < 0:
            raise UserError(f"{source}: holds no records")

    description = {"text": source, "config": config, "split": split, "field": field} | revision
    return Source(source, None, description, files, read, Counter(), counts, templated)
