"""Pages to facts on disk: `hooks.jsonl`, and `rejects.jsonl` with the reason of each.

Both grow: a page that is parsed again adds what is new and leaves every line that is there as it
is, so that a new month, or the rest of a running one, never touches the old.
"""

import collections
import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.files import exclusive, read_text, whole_file
from tightframe.formats import check
from tightframe.knowledge.facts import PERHAPS, Fact, fact_id
from tightframe.knowledge.hooks import bullets, clean, redirect

API = "https://en.wikipedia.org/w/api.php"
TIMEOUT = 60.0  # seconds
# The archive has had both names: what is missing under one is asked for under the other.
_FAMILIES = ("Wikipedia:Recent additions", "Wikipedia:Did you know archive")


@dataclasses.dataclass(frozen=True)
class Page:
    """A page as it stood at a revision."""

    title: str  # after redirects
    wikitext: str
    revision: int | None


class _MissingError(Exception):
    """The wiki has no page of this title."""


def fetch(title: str, *, api: str = API) -> Page:
    """Fetch the wikitext of a page, under its other name if it is filed under that.

    Raises:
        UserError: The wiki can't be reached, refuses, has no such page, or answers something else.
    """
    titles = [title]
    for name, other in (_FAMILIES, _FAMILIES[::-1]):
        if title.startswith(name + "/"):
            titles.append(other + title.removeprefix(name))
    for one in titles:
        try:
            return _page(_get(one, api), api)
        except _MissingError:
            pass
    asked = "' nor '".join(titles)
    raise UserError(f"{api}: has no page '{asked}'; check the title")


def _get(title: str, api: str) -> Any:
    import httpx

    query = {
        "action": "parse",
        "prop": "wikitext|revid",
        "page": title,
        "redirects": "1",
        "format": "json",
        "formatversion": "2",
    }
    agent = f"tightframe/{version('tightframe')} python-httpx/{httpx.__version__}"
    try:
        answer = httpx.get(
            api,
            params=query,
            headers={"User-Agent": agent},
            timeout=TIMEOUT,
            follow_redirects=True,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"{api}: no answer for '{title}' ({_printable(str(error))}); check the address and "
            "the network, or save the page and parse the file"
        ) from None
    if answer.status_code != httpx.codes.OK:
        raise UserError(
            f"{api}: HTTP status {answer.status_code} for '{title}', expected 200; try again later"
        )
    try:
        return answer.json()
    except ValueError:
        raise UserError(
            f"{api}: the answer for '{title}' is not JSON; is this the address of an api.php?"
        ) from None


def _page(answer: Any, api: str) -> Page:
    """Return the page of an answer; mistakes come with status 200 and an `error` object."""
    match answer:
        case {"error": {"code": "missingtitle"}}:
            raise _MissingError
        case {"error": error}:
            told = error.get("info") or error.get("code") if isinstance(error, dict) else error
            raise UserError(f"{api}: {_printable(str(told))}")
        case {"parse": {"title": str(title), "wikitext": str(wikitext), **rest}}:
            revision = rest.get("revid")
            text = wikitext.encode(errors="replace").decode()  # JSON may hold half a character
            return Page(title, text, revision if isinstance(revision, int) else None)
    raise UserError(f"{api}: the answer holds no wikitext; expected `parse.title` and `.wikitext`")


def _printable(text: str) -> str:
    """Return a foreign message on one line of a terminal."""
    line = " ".join(text.split())[:200]
    return "".join(character for character in line if character.isprintable())


HOOKS, REJECTS = "hooks.jsonl", "rejects.jsonl"
SUFFIXES = (".mediawiki", ".txt", ".wiki", ".wikitext")  # of pages in a folder
_FIELDS = [field.name for field in dataclasses.fields(Fact) if field.name not in PERHAPS]


@dataclasses.dataclass(frozen=True)
class Reject:
    """A hook that is no fact, as far as it could be read."""

    record: Fact
    reason: str
    file: str
    line: int

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of a fact, then `reason`, `file` and `line`."""
        return self.record.to_dict() | {
            "reason": self.reason,
            "file": self.file,
            "line": self.line,
        }


@dataclasses.dataclass(frozen=True)
class PageSource:
    """A page to parse."""

    page: str  # its title; of a file, its path in the folder without the suffix
    file: str  # as the user gave it
    wikitext: str
    revision: int | None = None


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Counts of the hooks on the pages of a run, new ones and known ones."""

    out: Path
    n_pages: int
    n_hooks: int  # bullets with a bold link or the beginning of a hook: facts and rejects
    n_facts: int
    reasons: dict[str, int]  # rejects by reason, the most frequent first
    n_new_facts: int  # of these, written now
    n_new_rejects: int
    without_hooks: dict[str, str]  # files with no hook, and why


def parse(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    date: str | None = None,
    titles: Sequence[str] = (),
    api: str = API,
    keep_pictured: bool = False,
) -> Parsed:
    """Parse pages into the folder `out`; nothing is written before all of them have been read.

    Args:
        files: Wikitext files, and folders searched for them at any depth, hidden ones left out.
        out: The folder of `hooks.jsonl` and `rejects.jsonl`, made or added to.
        date: ISO date of hooks that stand under no day and no time stamp.
        titles: Pages to fetch from `api`.
        api: Address of a MediaWiki Action API.
        keep_pictured: Leave "(pictured)" and its like in the facts.
    """
    if date is not None:
        date = _iso(date)
    if not files and not titles:
        raise UserError("nothing to parse; give wikitext files or folders, or --fetch TITLE")
    sources = [source for file in files for source in _read(Path(file))]
    for title in titles:
        page = fetch(title, api=api)
        sources.append(PageSource(page.title, page.title, page.wikitext, page.revision))
    found = [(one, list(_records(one, date, keep_pictured))) for one in sources]
    bare = {source.file: _why_bare(source) for source, records in found if not records}
    if not any(records for _, records in found):
        file, why = next(iter(bare.items()))
        raise UserError(f"{file}: {why}")
    folder = Path(out)
    with exclusive(folder, what="folder of facts"):
        return _add(folder, [one for _, records in found for one in records], len(found), bare)


def _records(source: PageSource, date: str | None, keep_pictured: bool) -> Iterator[Reject]:
    """Yield the hooks of a page with their reasons, "" where they have none so far."""
    for bullet in bullets(source.wikitext):
        sentence = clean(bullet.text, keep_pictured=keep_pictured)
        if sentence is None:  # prose
            continue
        iso = bullet.date or (None if bullet.unread_date else date)
        day = datetime.date.fromisoformat(iso) if iso else None
        fact = Fact(
            id=fact_id(iso, sentence.fact),
            date=iso,
            set_time=bullet.set_time,
            year=day.year if day else None,
            month=day.month if day else None,
            fact=sentence.fact,
            hook=sentence.hook,
            hook_raw=bullet.text,
            targets=sentence.targets,
            links=sentence.links,
            source_page=source.page,
            revision=source.revision,
        )
        undated = "" if iso else "unread_date" if bullet.unread_date else "no_date"
        yield Reject(fact, sentence.fault or undated, source.file, bullet.line)


def _why_bare(source: PageSource) -> str:
    """Return why a page without hooks has none."""
    if title := redirect(source.wikitext):
        return f"redirects to '{title}'; parse that page, or fetch it with --fetch '{title}'"
    return "no hook found; expected lines like '* ... that ...?'"


def _add(
    folder: Path, found: Sequence[Reject], n_pages: int, without_hooks: dict[str, str]
) -> Parsed:
    """Append facts and rejects that are new to the files, the first of equal texts as a fact."""
    old = {(one["id"], one["source_page"]): _letters(one["fact"]) for one in _lines(folder / HOOKS)}
    known = collections.Counter(_key(one) for one in _lines(folder / REJECTS, "reason"))
    texts = set(old.values())
    facts: list[Fact] = []
    rejects: list[Reject] = []
    n_facts = 0
    reasons: collections.Counter[str] = collections.Counter()
    for one in found:
        text = _letters(one.record.fact)
        if not one.reason and old.pop((one.record.id, one.record.source_page), None) is not None:
            n_facts += 1
            continue
        if not one.reason and text not in texts:
            n_facts += 1
            texts.add(text)
            facts.append(one.record)
            continue
        one = dataclasses.replace(one, reason=one.reason or "duplicate")
        reasons[one.reason] += 1
        key = _key(one.to_dict())
        if known[key]:
            known[key] -= 1
        else:
            rejects.append(one)
    _append(folder / REJECTS, (one.to_dict() for one in rejects))
    _append(folder / HOOKS, (one.to_dict() for one in facts))
    return Parsed(
        out=folder,
        n_pages=n_pages,
        n_hooks=len(found),
        n_facts=n_facts,
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        n_new_facts=len(facts),
        n_new_rejects=len(rejects),
        without_hooks=without_hooks,
    )


def _letters(text: str) -> str:
    """Return letters and digits in lower case, which equal texts share."""
    return "".join(filter(str.isalnum, text.lower()))


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return the fields that tell rejects apart; not their line, which moves as a page grows."""
    return tuple(record[name] for name in ("reason", "source_page", "date", "hook_raw"))


def _read(path: Path) -> Iterator[PageSource]:
    if not path.is_dir():
        yield PageSource(path.stem, str(path), read_text(path))
        return
    inside = sorted(path.rglob("*"))
    pages = [
        file
        for file in inside
        if file.suffix in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not pages:
        raise UserError(f"{path}: holds no page; expected {', '.join(SUFFIXES)} files")
    for file in pages:
        name = file.relative_to(path).with_suffix("").as_posix()
        yield PageSource(name, str(file), read_text(file))


def _iso(date: str) -> str:
    with contextlib.suppress(ValueError):
        if datetime.date.fromisoformat(date).isoformat() == date:
            return date
    raise UserError(f"--date {date}: not a date; expected YYYY-MM-DD, e.g. 2023-01-31")


def _lines(path: Path, *more: str) -> list[dict[str, Any]]:
    """Read facts with `more` keys that an earlier run wrote; none without a file."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            check(Fact, {name: record[name] for name in _FIELDS}, source=f"{path}:{number}")
            [record[name] for name in more]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"{path}:{number}: not a record of `tightframe knowledge parse`; "
                "parse into another folder"
            ) from None
        records.append(record)
    return records


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append lines to a file, whole or not at all; create the file even without lines."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if path.exists() and not lines:
        return
    with whole_file(path) as temporary:
        before = path.read_bytes() if path.exists() else b""
        temporary.write_bytes(before + lines.encode())
