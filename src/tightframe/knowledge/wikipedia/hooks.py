"""A page of "Did you know" to its bullets, each with its day and the time of its set.

The page, newest first: a heading a day, `D Month YYYY` or `Month D, YYYY`; one or two sets a day,
each opened by a time stamp; a bullet a hook, `* ... that ...?`. Headings of other text end the day
they stand above or beside; image lines, navigation and prose are passed over.
"""

import dataclasses
import datetime
import re
from collections.abc import Iterator

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = "|".join([*(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS), "sept"])
_DAY = (
    r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"
    rf"(?:(?P<day>\d{{1,2}})\s+(?P<month>{_MONTH})|(?P<us_month>{_MONTH})\s+(?P<us_day>\d{{1,2}}))"
    r",?\s+(?P<year>\d{4})"
)
_DATE = re.compile(_DAY, re.IGNORECASE)
_STAMP = re.compile(
    rf"(?P<hour>\d{{1,2}}):(?P<minute>\d{{2}}),?\s+{_DAY}(?:\s*\(?UTC\)?)?", re.IGNORECASE
)
_MONTH_WORD = re.compile(rf"\b(?:{_MONTH})\b", re.IGNORECASE)
_MONTH_ONLY = re.compile(rf"(?:{_MONTH}),?\s+\d{{4}}", re.IGNORECASE)
_NUMBERS = re.compile(r"\d[./-]\d{1,2}[./-]\d")
_HEADING = re.compile(r"(={1,6})(.+?)\1")
_BULLET = re.compile(r"(?=[:#\s]*\*)[*:#\s]+|[:#\s]*\{\{\s*\*mp\s*\}\}|<li\b[^<>]*>", re.IGNORECASE)
_QUOTING = re.compile(r"[*'\"“”\[\]_]|<[^<>]*>|&nbsp;")  # what a stamp or heading is dressed in
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_BOUND = re.compile(r"<!--\s*Hooks(End)?\s*-->", re.IGNORECASE)
_LOST_BREAK = "\0"  # a line break inside a comment: it joins lines, and still counts
_REDIRECT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^\[\]|\n]{1,255})", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Bullet:
    """A bullet as its page has it, comments removed."""

    line: int  # of the page, from 1
    text: str
    date: str | None  # ISO; of the day's heading, else of the set's stamp
    set_time: str | None  # ISO, UTC
    unread_date: bool = False  # stands under a day in a form that is not read, and no stamp


def bullet_text(line: str) -> str:
    """Return a line without its bullet."""
    return line[match.end() :] if (match := _BULLET.match(line)) else line


def redirect(wikitext: str) -> str | None:
    """Return the title that a page only leads on to, None for a page of its own text."""
    match = _REDIRECT.match(wikitext.removeprefix("\ufeff"))
    return " ".join(match[1].replace("_", " ").split()) if match else None


def bullets(wikitext: str) -> Iterator[Bullet]:
    """Yield the bullets of a page in their order, time stamps left out.

    Where the page has the marks `<!--Hooks-->` and `<!--HooksEnd-->`, only what stands between.
    """
    day: datetime.date | None = None
    unread = False  # the heading or stamp in force names a day that is not read
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
            found, time = _DATE.fullmatch(said), _STAMP.fullmatch(said)
            dated = not time and _names_a_day(said)
            if level <= depth or (dated and (found or day is None)):
                day, stamp = _date(found) if found else None, None
                unread = dated and day is None
                depth = level if dated else 0
            if time:
                stamp = _time(time)
                unread = stamp is None
        elif found := _STAMP.fullmatch(plain):
            stamp = _time(found)
            unread = stamp is None
        elif _BULLET.match(line):
            date = day or (stamp.date() if stamp else None)
            yield Bullet(
                here,
                line,
                date.isoformat() if date else None,
                stamp.isoformat(timespec="minutes") + "Z" if stamp else None,
                unread and date is None,
            )


def _lines(wikitext: str) -> list[str]:
    text = wikitext.removeprefix("\ufeff").replace(_LOST_BREAK, "")
    if spans := _between(text):
        kept, last = "", 0
        for start, stop in spans:  # what stands outside keeps its line breaks only
            kept += "\n" * text.count("\n", last, start) + text[start:stop]
            last = stop
        text = kept
    commented, end, rest = text.rpartition("-->")  # no comment is searched for where none ends
    shown = _COMMENT.sub(lambda one: _LOST_BREAK * one[0].count("\n"), commented + end)
    return (shown + rest).split("\n")


def _between(text: str) -> list[tuple[int, int]]:
    """Return where the hooks of a page in preparation stand: between its marks."""
    spans, start = [], None
    for bound in _BOUND.finditer(text):
        if bound[1] and start is not None:
            spans.append((start, bound.start()))
            start = None
        elif not bound[1] and start is None:
            start = bound.end()
    return spans


def _names_a_day(heading: str) -> bool:
    """Return whether a heading names a day or days, in whatever form: not a month, nor a year."""
    if _MONTH_ONLY.fullmatch(heading):
        return False
    month = _MONTH_WORD.search(heading) and any(map(str.isdigit, heading))
    return bool(month or _NUMBERS.search(heading))


def _date(found: re.Match[str]) -> datetime.date | None:
    month = (found["month"] or found["us_month"]).lower()
    number = next(place for place, name in enumerate(_MONTHS, 1) if name.startswith(month))
    try:
        return datetime.date(int(found["year"]), number, int(found["day"] or found["us_day"]))
    except ValueError:  # 31 February
        return None


def _time(found: re.Match[str]) -> datetime.datetime | None:
    date = _date(found)
    try:
        time = datetime.time(int(found["hour"]), int(found["minute"]))
    except ValueError:
        return None
    return datetime.datetime.combine(date, time) if date else None
