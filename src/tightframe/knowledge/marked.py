"""A text with its links and its italics, and the marks that stand for them while a line is read.

While wikitext is read, what is not text is written as a control character, of which the page has
none left: a link is `OPEN title BAR label CLOSE`. So a template can pass on its argument, links
and all, as a string.
"""

import bisect
import dataclasses
import html
import re
from collections.abc import Iterable
from html.entities import html5
from urllib.parse import unquote

OPEN, BAR, CLOSE = "\x02", "\x03", "\x04"  # of a link
BOLD, LIGHT, ITALIC, UPRIGHT = "\x05", "\x06", "\x07", "\x0e"  # of tags; runs of apostrophes stay
NOTHING = "\x01"  # keeps apart what a tag kept apart: runs of apostrophes, letters behind a link
APOSTROPHE = "\x0f"  # one that belongs to no run
_MARK = re.compile(f"({OPEN}[^{BAR}]*{BAR}|[{NOTHING}{CLOSE}-{ITALIC}{UPRIGHT}])")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w+);")
_TRAIL = re.compile("[a-z]+")  # letters behind a link that belong to its label
# Control characters, and those that only say where a line may break or which way it runs.
_UNSEEN = dict.fromkeys(
    [*range(9), *range(14, 32), 127, 0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF]
)
_RAISED = str.maketrans("0123456789+-\N{MINUS SIGN}()=ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾⁼ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-\N{MINUS SIGN}()=", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎₌")


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


def link(title: str, label: str) -> str:
    """Write a link in marks; `title` as the page has it, an empty one gives ""."""
    decoded = unquote(shown_characters(title)).translate(_UNSEEN)
    name = " ".join(decoded.replace("_", " ").split()).removeprefix(":")
    page = name.partition("#")[0].strip() or name
    return f"{OPEN}{page.replace(chr(39), APOSTROPHE)}{BAR}{label}{CLOSE}" if page else ""


def raised(text: str) -> str | None:
    """Return digits and signs as superscripts, None where there is none of a character."""
    return _moved(text, _RAISED)


def lowered(text: str) -> str | None:
    """Return digits and signs as subscripts, None where there is none of a character."""
    return _moved(text, _LOWERED)


def _moved(text: str, characters: dict[int, int]) -> str | None:
    text = shown_characters(text).strip()
    return text.translate(characters) if all(ord(one) in characters for one in text) else None


def seen(text: str) -> str:
    """Return a text without its characters that nobody sees, marks among them."""
    return text.translate(_UNSEEN)


def shown_characters(text: str) -> str:
    """Decode the entities of a text; a name that is none stays, and none is found inside one."""
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(entity: re.Match[str]) -> str:
    written = entity[0]
    shown = html.unescape(written) if written[1] == "#" else html5.get(written[1:], written)
    return shown.translate(_UNSEEN)


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
