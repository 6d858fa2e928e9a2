"""A page of "Did you know" to its hook lines, each with its day and the time of its set.

The page, newest first: a heading a day, `D Month YYYY`; one or two sets a day, each opened by a
time stamp; a bullet a hook, `* ... that ...?`. Headings of other text end the day they stand
above or beside; image lines, navigation and prose are passed over.
"""

import dataclasses
import datetime
import re
from collections.abc import Iterator

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DAY = rf"(\d{{1,2}})\s+({'|'.join(_MONTHS)})\s+(\d{{4}})"
_DATE = re.compile(_DAY, re.IGNORECASE)
_STAMP = re.compile(rf"(\d{{1,2}}):(\d{{2}}),?\s+{_DAY}(?:\s*\(?UTC\)?)?", re.IGNORECASE)
_HEADING = re.compile(r"(={1,6})(.+?)\1")
_BULLET = re.compile(r"[*:#]*\*[*:#\s]*")
_HOOK = re.compile(r"[*:#]*\*[*:#\s]*'*\s*(?:\.{2}|…|&hellip;|that\b)")
_QUOTING = re.compile(r"[*'\"“”\[\]_]")  # what a stamp or a heading may be dressed in
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_BETWEEN = re.compile(r"<!--\s*Hooks\s*-->(.*?)<!--\s*HooksEnd\s*-->", re.DOTALL | re.IGNORECASE)
_LOST_BREAK = "\0"  # a line break inside a comment: it joins lines, and still counts


@dataclasses.dataclass(frozen=True)
class HookLine:
    """A hook as its page has it, comments removed."""

    line: int  # of the page, from 1
    text: str
    date: str | None  # ISO; of the day's heading, else of the set's stamp
    set_time: str | None  # ISO, UTC


def bullet_text(line: str) -> str:
    """A line without its bullet."""
    return line[match.end() :] if (match := _BULLET.match(line)) else line


def hook_lines(wikitext: str) -> Iterator[HookLine]:
    """The hooks of a page in their order.

    Where the page has the marks `<!--Hooks-->` and `<!--HooksEnd-->`, only what stands between.
    """
    day: datetime.date | None = None
    depth = 0  # of the heading that gave the day
    stamp: datetime.datetime | None = None
    number = 1
    for line in _lines(wikitext):
        here, number = number, number + 1 + line.count(_LOST_BREAK)
        line = line.replace(_LOST_BREAK, "").strip()
        plain = _QUOTING.sub("", line).strip(" \t:;#")
        if heading := _HEADING.fullmatch(line):
            level = len(heading[1])
            said = _QUOTING.sub("", heading[2]).strip()
            if found := _DATE.fullmatch(said):
                day, depth, stamp = _date(found), level, None
            elif level <= depth:
                day, depth, stamp = None, 0, None
            if found := _STAMP.fullmatch(said):
                stamp = _time(found)
        elif found := _STAMP.fullmatch(plain):
            stamp = _time(found)
        elif _HOOK.match(line):
            date = day or (stamp.date() if stamp else None)
            yield HookLine(
                here,
                line,
                date.isoformat() if date else None,
                stamp.isoformat(timespec="minutes") + "Z" if stamp else None,
            )


def _lines(wikitext: str) -> list[str]:
    text = wikitext.removeprefix("\ufeff").replace(_LOST_BREAK, "")
    if marks := list(_BETWEEN.finditer(text)):
        kept, end = "", 0
        for mark in marks:  # what stands outside keeps its line breaks only
            kept += "\n" * text.count("\n", end, mark.start(1)) + mark[1]
            end = mark.end(1)
        text = kept
    text = _COMMENT.sub(lambda comment: _LOST_BREAK * comment[0].count("\n"), text)
    return text.split("\n")


def _date(found: re.Match[str]) -> datetime.date | None:
    day, month, year = found.groups()[-3:]
    try:
        return datetime.date(int(year), _MONTHS.index(month.lower()) + 1, int(day))
    except ValueError:  # 31 February
        return None


def _time(found: re.Match[str]) -> datetime.datetime | None:
    date = _date(found)
    try:
        time = datetime.time(int(found[1]), int(found[2]))
    except ValueError:
        return None
    return datetime.datetime.combine(date, time) if date else None
