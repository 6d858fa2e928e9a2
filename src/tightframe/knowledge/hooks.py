"""A page of "Did you know" hooks: its bullets, each with day and set, and their sentences.

The page, newest first: one heading for each day, `D Month YYYY` or `Month D, YYYY`; one or two sets
on each day, each opened by a time stamp; one bullet for each hook, `* ... that ...?`. Headings of
other text end the day they stand above or beside; image lines, navigation and prose are passed
over.
"""

import bisect
import dataclasses
import datetime
import re
from collections.abc import Iterator

from tightframe.knowledge.facts import MONTHS, Link, Target
from tightframe.knowledge.wikitext import Anchor, Marked, read

_MONTH = "|".join([*(f"{name[:3]}(?:{name[3:]})?" for name in MONTHS), "sept"])
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
    number = next(place for place, name in enumerate(MONTHS, 1) if name.startswith(month))
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


MIN_WORDS = 4

# What a hook begins with: an ellipsis, or the whole question; both are cut off.
_LEAD = re.compile(
    r"(?:[\s•·]*did you know\b[\s:,]*+(?:[.…][\s.…]*)?|[\s.…•·]*+)"
    r"(?:that\s+[.…][\s.…]*+(?=that\s))?",
    re.IGNORECASE,
)
_ELLIPSIS = re.compile(r"…|\.\s?\.|did you know", re.IGNORECASE)
_THAT = re.compile(r"that\b")
_PICTURED = re.compile(r"[()]|\bpictured\b", re.IGNORECASE)
_INNERMOST = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_LONGEST_NOTE = 80  # characters
# What a note in italics says of a picture or a recording beside the hook.
_SEEN = r"(?:depicted|featured|illustrated|pictured|shown)"
_PLACE = r"(?:above|at|below|bottom|center|centre|here|in|left|middle|on|right|the|top)"
_KIND = (
    r"(?:animation|audio|clip|diagram|example|film|image|listen|logo|map|painting|photo|photograph"
    r"|picture|recording|sample|song|sound|video)"
)
_NOTE = re.compile(
    rf"(?:[^.;:?!]*\b)?{_SEEN}\b[^.;:?!]*|{_KIND}(?:,? (?:{_KIND}|{_PLACE}|to|and|of))*"
)
_BESIDE = re.compile(rf"{_SEEN}(?:,? {_PLACE})*")
_PAIRS = {")": "(", "]": "[", "}": "{"}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """The sentence of a hook."""

    fact: str  # the training text
    hook: str  # with its leading "that " and its final "?"
    targets: tuple[Target, ...]
    links: tuple[Link, ...]
    fault: str | None  # why it is no fact: see `clean`


def clean(line: str, *, keep_pictured: bool = False) -> Sentence | None:
    """Return the sentence of a bullet as a page has it; None for prose, that is no hook.

    A bullet is a hook if it begins with an ellipsis, "that" or "Did you know", or holds a bold
    link.

    Args:
        line: Wikitext, bullet and leading ellipsis included.
        keep_pictured: Leave "(pictured)" and its like.

    Returns:
        fault: None, or the first that applies: one of `markup.read`, `struck` (nothing else is
            left), `empty`, `unbalanced` (round, square or curly brackets), `no_bold_link`,
            `no_ellipsis` (it begins like prose), `too_short` (under four words).
    """
    reading = read(bullet_text(line))
    hook = reading.shown.collapsed()
    if not keep_pictured:
        hook = hook.without(_picture_notes(hook)).collapsed()
    first = min((one.start for one in hook.anchors if one.end > one.start), default=len(hook.text))
    lead = min(_LEAD.match(hook.text).end(), first)  # type: ignore[union-attr]  # it may be empty
    begins = bool(_ELLIPSIS.search(hook.text, 0, lead)) or bool(_THAT.match(hook.text, lead))
    hook = hook.without([(0, lead)]).collapsed()
    fact = _training_text(hook)
    targets, links = _split(fact)
    fault = reading.fault or _fault(fact.text, targets, begins=begins, struck=reading.struck)
    lost = (reading.fault or fault == "struck") and "'''" in line  # perhaps a bold link
    if not (begins or targets or lost):
        return None
    return Sentence(fact.text, hook.text, targets, links, fault)


def _training_text(hook: Marked) -> Marked:
    """Return the text without a leading whole word "that" and the final question mark."""
    size = len(hook.text)
    cuts = [(0, len("that "))] if hook.text.startswith("that ") else []
    if hook.text.endswith("?"):
        cuts.append((size - 1, size))
    return hook.without(cuts).collapsed()


def _picture_notes(hook: Marked) -> list[tuple[int, int]]:
    """Return where the notes on pictures stand, with the blanks and commas that they leave.

    They are the innermost parentheses around the word "pictured", and italics that say nothing
    but what is to be seen or heard beside the hook, in parentheses or between commas.
    """
    text = hook.text
    notes = _pictured(text)
    starts = [start for start, _ in hook.italics]
    for match in _INNERMOST.finditer(text):
        inside = match[0][1:-1].strip()
        start = text.find(inside, match.start() + 1)
        place = bisect.bisect_right(starts, start) - 1
        if (
            place >= 0
            and hook.italics[place][1] >= start + len(inside)
            and len(inside) <= _LONGEST_NOTE
            and _NOTE.fullmatch(inside)
        ):
            notes.append(match.span())
    for start, end in hook.italics:
        if (between := _between_commas(text, start, end)) is not None:
            notes.append(between)
    return [(_with_blank(text, start, end), end) for start, end in notes]


def _between_commas(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return where ", pictured," stands, None if these italics say something else."""
    while start < end and text[start] in " ,":
        start += 1
    while start < end and text[end - 1] in " ,":
        end -= 1
    if end - start > _LONGEST_NOTE or not _BESIDE.fullmatch(text, start, end):
        return None
    before = start - (text[start - 1 : start] == " ") - 1
    after = text[end : end + 1]
    if text[max(before, 0) : before + 1] != "," or after not in (",", "?", ""):
        return None
    return before, end + (after == ",")


def _pictured(text: str) -> list[tuple[int, int]]:
    """Return where the innermost parentheses around the word "pictured" stand."""
    opened: list[tuple[int, bool]] = []  # and whether the word stands right in it
    notes: list[tuple[int, int]] = []
    for match in _PICTURED.finditer(text):
        if match[0] == "(":
            opened.append((match.start(), False))
        elif match[0] != ")":
            opened[-1:] = [(start, True) for start, _ in opened[-1:]]
        elif opened:
            start, noted = opened.pop()
            if noted:
                notes.append((start, match.end()))
    return notes


def _with_blank(text: str, start: int, end: int) -> int:
    """Return where to cut, so that no blank is left before punctuation and no words are joined."""
    joined = text[end : end + 1].isalnum()
    return start if joined else start - (text[start - 1 : start] == " ")


def _split(fact: Marked) -> tuple[tuple[Target, ...], tuple[Link, ...]]:
    """Return bold links as targets, and all others, also those without a label, as context."""
    targets, links = [], []
    for anchor in fact.anchors:
        start, end = _trimmed(fact.text, anchor)
        label = fact.text[start:end]
        if anchor.bold and label:
            targets.append(Target(anchor.title, label, start, end))
        else:
            links.append(Link(anchor.title, label))
    return tuple(targets), tuple(links)


def _trimmed(text: str, anchor: Anchor) -> tuple[int, int]:
    """Return the offsets of a label without the blanks at its ends."""
    label = text[anchor.start : anchor.end]
    start = anchor.start + len(label) - len(label.lstrip())
    return start, max(start, anchor.start + len(label.rstrip()))


def _fault(fact: str, targets: tuple[Target, ...], *, begins: bool, struck: bool) -> str | None:
    if not any(character.isalnum() for character in fact):
        return "struck" if struck else "empty"
    if not _balanced(fact) or "[[" in fact:  # a link that holds another
        return "unbalanced"
    if not targets:
        return "no_bold_link"
    if not begins:
        return "no_ellipsis"
    if len(fact.split()) < MIN_WORDS:
        return "too_short"
    return None


def _balanced(text: str) -> bool:
    opened: list[str] = []
    for character in text:
        if character in "([{":
            opened.append(character)
        elif character in _PAIRS and (not opened or opened.pop() != _PAIRS[character]):
            return False
    return not opened
