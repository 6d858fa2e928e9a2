"""A line of wikitext to the text that a reader sees, its links, and which of them are bold.

The line is read once, from left to right, with a stack of what is open: templates, links, and the
tags that change what they hold. What is not known (a tag, a template, brackets that don't close)
is a fault of the line with a name, never left out in silence.

Apostrophes: a run of two toggles italic, three bold, five both. Four are an apostrophe and bold,
more than five are apostrophes and both. Where a line leaves both italic and bold open, one run of
three was an apostrophe and italic (`''Title'''s`); which one is decided as MediaWiki does.
"""

import bisect
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from tightframe.knowledge.templates import (
    APOSTROPHE,
    BAR,
    BOLD,
    CLOSE,
    ITALIC,
    LIGHT,
    NOTHING,
    OPEN,
    UPRIGHT,
    UnknownTemplateError,
    link,
    lowered,
    raised,
    seen,
    shown,
    shown_characters,
)

MAX_DEPTH = 40  # of what is open at once; MediaWiki gives up at 40 templates, too

Effect = Literal[
    "kept", "bold", "italic", "blank", "quoted", "raised", "lowered", "struck", "literal", "unread"
]
# What a tag does to what it holds. Any other, <math> among them, is a fault of the line.
_TAGS: dict[Effect, str] = {
    "kept": "abbr bdi bdo big center code data dfn div font ins kbd li mark noinclude onlyinclude "
    "p rp rt ruby samp section small span time tt u ul wbr",
    "bold": "b strong",
    "italic": "cite em i var",
    "blank": "br",
    "quoted": "q",
    "raised": "sup",
    "lowered": "sub",
    "struck": "del s strike",
    "literal": "nowiki",  # nothing in it is markup
    "unread": "ref templatestyles",  # a mark or nothing on the page
}
TAGS = {name: effect for effect, names in _TAGS.items() for name in names.split()}
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|line-through", re.IGNORECASE)
_SCRIPTS: dict[str, Callable[[str], str | None]] = {"raised": raised, "lowered": lowered}
_TURNS = {"bold": (BOLD, LIGHT), "italic": (ITALIC, UPRIGHT)}
_ORDINALS = {"st", "nd", "rd", "d", "th"}  # raised behind a digit they are read as they stand
_UNSEEN_PAGES = re.compile(r"\s*(?:category|file|image)\s*:", re.IGNORECASE)
_BESIDE = {"thumb", "thumbnail", "frame", "framed", "left", "right", "center", "none"}

_TOKEN = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\||</?([a-zA-Z][\w-]*+)([^<>]*+)>|<!--|\[(?:https?:|ftp:)?//"
)
_MARK = re.compile(f"({OPEN}[^{BAR}]*{BAR}|[{NOTHING}{CLOSE}-{ITALIC}{UPRIGHT}])")
_TRAIL = re.compile("[a-z]+")  # letters behind a link that belong to its label
_RUN = re.compile("('{2,})")
_EQUALS = "\x10"  # one that stands inside a link or a template, and so names no argument


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A link and where its label stands in a text, [start, end)."""

    title: str
    start: int
    end: int
    bold: bool  # opened inside bold, or its label holds a bold run


@dataclasses.dataclass(frozen=True)
class Marked:
    """A text, the links and the italics in it; cutting it keeps their offsets right."""

    text: str
    anchors: tuple[Anchor, ...] = ()
    italics: tuple[tuple[int, int], ...] = ()

    def without(self, ranges: Iterable[tuple[int, int]]) -> "Marked":
        """Return what is left outside `ranges`; a label that loses all its text becomes empty."""
        kept: list[str] = []
        starts, lost, end = [0], [0], 0  # how many characters are lost before each start
        for first, last in sorted(ranges):
            first = max(first, end)
            if first >= last:
                continue
            kept.append(self.text[end:first])
            starts += [first, last]
            lost += [lost[-1], lost[-1] + last - first]
            end = last
        if not kept:
            return self

        def moved(place: int) -> int:
            cut = bisect.bisect_right(starts, place) - 1
            inside = place - starts[cut] if cut % 2 else 0  # of what is cut
            return place - lost[cut] - inside

        return Marked(
            "".join(kept) + self.text[end:],
            tuple(
                Anchor(one.title, moved(one.start), moved(one.end), one.bold)
                for one in self.anchors
            ),
            tuple((moved(start), moved(stop)) for start, stop in self.italics),
        )

    def collapsed(self) -> "Marked":
        """Return the text with runs of blanks as one blank, and none at either end."""
        if self.text == " ".join(self.text.split()):
            return self
        spaced = Marked(re.sub(r"\s", " ", self.text), self.anchors, self.italics)
        inner = spaced.text.strip(" ")
        start = spaced.text.find(inner)
        end = start + len(inner)
        extra = [(run.start() + 1, run.end()) for run in re.finditer(" {2,}", spaced.text)]
        return spaced.without([(0, start), (end, len(spaced.text)), *extra])


@dataclasses.dataclass(frozen=True)
class WikitextLine:
    """The text that a line of wikitext shows, and its faults."""

    shown: Marked
    fault: str | None  # the first thing in it that is not known
    struck: bool  # some of it was struck out, and is gone


@dataclasses.dataclass
class _Frame:
    """An open bracket or tag, and its content so far."""

    opened: str
    parts: list[list[str]] = dataclasses.field(default_factory=lambda: [[]])  # between bars


def read(wikitext: str) -> WikitextLine:
    """Read one line of wikitext, comments removed.

    Returns:
        fault: None, or the first of `unknown_template:<name>`, `unknown_tag:<name>` (also a known
            one whose effect on these words is not known), `unclosed_tag:<name>`, `image`,
            `external_link`, `unclosed_comment`, `unbalanced` (brackets), `nested_too_deep`.
    """
    line = _Line(seen(wikitext))
    text = line.read().replace(_EQUALS, "=")
    return WikitextLine(walk(styled(text)), line.fault, line.struck)


class _Line:
    """A line while it is read."""

    def __init__(self, wikitext: str) -> None:
        self.wikitext = wikitext
        self.place = 0
        self.stack = [_Frame("")]
        self.fault: str | None = None
        self.struck = False
        self.endless: set[str] = set()  # tags of which no end is to come

    def read(self) -> str:
        """Return the text of the line in marks."""
        while match := _TOKEN.search(self.wikitext, self.place):
            self._add(self.wikitext[self.place : match.start()])
            self.place = match.end()
            token, opened = match[0], self.stack[-1].opened
            if token in ("{{", "[["):
                self._open(token)
            elif token == "}}" and opened == "{{":
                self._add(self._template(self.stack.pop()))
            elif token == "]]" and opened == "[[":
                self._add(self._link(self.stack.pop()))
            elif token == "|" and opened in ("{{", "[["):
                self.stack[-1].parts.append([])
            elif match[1]:
                self._tag(match)
            else:
                if token[0] in "<[" and token != "[[":
                    self._fails("unclosed_comment" if token[0] == "<" else "external_link")
                self._add(token)
        self._add(self.wikitext[self.place :])
        while len(self.stack) > 1:
            frame = self.stack.pop()
            bracket = frame.opened in ("{{", "[[")
            self._fails("unbalanced" if bracket else f"unclosed_tag:{frame.opened}")
            self._add((frame.opened if bracket else "") + _joined(frame.parts))
        return "".join(self.stack[0].parts[0])

    def _add(self, text: str) -> None:
        if text:
            self.stack[-1].parts[-1].append(text)

    def _fails(self, fault: str) -> None:
        self.fault = self.fault or fault

    def _open(self, opened: str) -> None:
        if len(self.stack) > MAX_DEPTH:
            self._fails("nested_too_deep")
            self._add(self.wikitext[self.place :])  # the line is refused: the rest stays as it is
            self.place = len(self.wikitext)
        else:
            self.stack.append(_Frame(opened))

    def _template(self, frame: _Frame) -> str:
        name, *arguments = map("".join, frame.parts)
        try:
            text = shown(name, arguments)
        except UnknownTemplateError as unknown:
            self._fails(f"unknown_template:{unknown}")
            text = "{{" + _joined(frame.parts) + "}}"
        return text.replace("=", _EQUALS)

    def _link(self, frame: _Frame) -> str:
        title = "".join(frame.parts[0])
        label = _joined(frame.parts[1:])
        if unseen := _UNSEEN_PAGES.match(title):
            if "category" not in unseen[0].lower() and not _BESIDE.intersection(
                "".join(part).strip() for part in frame.parts[1:]
            ):
                self._fails("image")  # in the sentence, perhaps for a word
            return NOTHING
        if OPEN not in title + label and not set("[]{}<>").intersection(title):
            written = link(title, label or title.strip().removeprefix(":"))
            if written:
                return written.replace("=", _EQUALS)
        self._fails("unbalanced")  # a link inside a link, or one that leads nowhere
        return f"[[{_joined(frame.parts)}]]"

    def _tag(self, match: re.Match[str]) -> None:
        name = match[1].lower()[:80]  # of a fault; no known one is as long
        ends, empty = match[0][1] == "/", match[2].rstrip().endswith("/")
        effect = TAGS.get(name)
        if effect is None or _HIDDEN.search(match[2]):
            self._fails(f"unknown_tag:{name}")
        elif effect in ("literal", "unread"):
            self._add(NOTHING + ("" if empty else self._raw(name, effect, ends)) + NOTHING)
        elif effect in ("raised", "lowered", "struck") and not empty:
            if not ends:
                self._open(name)
            elif self.stack[-1].opened == name:
                self._add(self._changed(name, effect, _joined(self.stack.pop().parts)))
            else:
                self._fails(f"unclosed_tag:{name}")
        elif effect in _TURNS and not empty:
            self._add(_TURNS[effect][ends])
        else:
            self._add({"blank": " ", "quoted": '"'}.get(effect, NOTHING))

    def _raw(self, name: str, effect: Effect, ends: bool) -> str:
        """Pass over a tag in which nothing is markup, and return what it shows."""
        end = None
        if not ends and name not in self.endless:
            end = re.compile(rf"</{name}\s*+>", re.IGNORECASE).search(self.wikitext, self.place)
        if end is None:
            if not ends:
                self.endless.add(name)
            self._fails(f"unclosed_tag:{name}")
            return ""
        inside = self.wikitext[self.place : end.start()]
        self.place = end.end()
        return inside.replace("'", APOSTROPHE) if effect == "literal" else ""

    def _changed(self, name: str, effect: Effect, inside: str) -> str:
        """Return what a tag makes of the text in it, the runs of apostrophes in it kept."""
        runs = _RUN.findall(inside)
        if effect == "struck":
            self.struck = True
            return NOTHING + NOTHING.join(runs) + NOTHING
        plain = _RUN.sub("", inside).replace(NOTHING, "")
        before = self.stack[-1].parts[-1][-1:] or [""]
        ordinal = plain in _ORDINALS and before[0][-1:].isdigit()
        text = plain if ordinal else _SCRIPTS[effect](plain)
        if text is None or len(runs) % 2:
            self._fails(f"unknown_tag:{name}")
            return inside
        return text


def _joined(parts: list[list[str]]) -> str:
    return "|".join(map("".join, parts))


def styled(line: str) -> Iterator[tuple[str, bool, bool]]:
    """Yield the pieces of a line between its runs of apostrophes, each with its bold and italic."""
    texts, runs = _runs(line)
    if sum(run != 2 for run in runs) % 2 and sum(run != 3 for run in runs) % 2:
        broken = _apostrophe(texts, runs)
        if broken is not None:
            texts[broken] += "'"
            runs[broken] = 2
    bold = italic = False
    for text, run in zip(texts, [*runs, 0], strict=True):
        yield text, bold, italic
        bold ^= run in (3, 5)
        italic ^= run in (2, 5)


def _runs(line: str) -> tuple[list[str], list[int]]:
    """Return the texts between the runs, and the runs: 2, 3 or 5 apostrophes."""
    texts, *rest = _RUN.split(line)
    between, runs = [texts], []
    for found, text in zip(rest[::2], rest[1::2], strict=True):
        size = len(found) if len(found) in (2, 3) else 3 if len(found) == 4 else 5
        between[-1] += "'" * (len(found) - size)
        runs.append(size)
        between.append(text)
    return between, runs


def _apostrophe(texts: list[str], runs: list[int]) -> int | None:
    """Return which run of three is an apostrophe and italic: the first after one letter, if any."""
    places: dict[str, int] = {}
    for place, (text, run) in enumerate(zip(texts, runs, strict=False)):
        if run == 3:
            kind = "blank" if text[-1:] == " " else "letter" if text[-2:-1] == " " else "word"
            places.setdefault(kind, place)
    return next((places[kind] for kind in ("letter", "word", "blank") if kind in places), None)


def walk(pieces: Iterable[tuple[str, bool, bool]]) -> Marked:
    """Read pieces of a line in marks, each with whether it stands in bold and in italics."""
    text: list[str] = []
    size = 0
    anchors: list[Anchor] = []
    italics: list[tuple[int, int]] = []
    title, start, strong = "", 0, False
    inside = False  # a link
    tags = {BOLD: 0, ITALIC: 0}  # that are open
    for piece, bold, italic in pieces:
        strong |= inside and (bold or tags[BOLD] > 0)
        before = ""
        for part in _MARK.split(piece):
            if not part:
                continue
            match part[0]:
                case "\x02":
                    title, start, inside = part[1:-1].replace(APOSTROPHE, "'"), size, True
                    strong = bold or tags[BOLD] > 0
                case "\x04":
                    anchors.append(Anchor(title, start, size, strong))
                    inside = False
                case "\x05" | "\x07":
                    tags[part] += 1
                    strong |= inside and part == BOLD
                case "\x06" | "\x0e":
                    turned = BOLD if part == LIGHT else ITALIC
                    tags[turned] = max(0, tags[turned] - 1)
                case "\x01":
                    pass
                case _:
                    if before == CLOSE and (trail := _TRAIL.match(part)):
                        anchors[-1] = dataclasses.replace(anchors[-1], end=size + trail.end())
                    shown = shown_characters(part).replace(APOSTROPHE, "'")
                    text.append(shown)
                    if italic or tags[ITALIC]:
                        joined = italics and italics[-1][1] == size
                        italics.append((italics.pop()[0] if joined else size, size + len(shown)))
                    size += len(shown)
            before = part[0]
    return Marked("".join(text), tuple(anchors), tuple(italics))
