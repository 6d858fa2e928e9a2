"""A line of wikitext to the text that a reader sees, its links, and which of them are bold.

Apostrophes: a run of two toggles italic, three bold, five both. Four are an apostrophe and bold,
more than five are apostrophes and both. Where a line leaves both italic and bold open, one run of
three was an apostrophe and italic (`''Title'''s`); which one is decided as MediaWiki does.
"""

import dataclasses
import html
import re
from collections.abc import Iterable, Iterator
from html.entities import html5

_REFERENCE = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MEDIA = re.compile(r"\[\[\s*(?:File|Image|Category)\s*:(?:(?!\[\[|\]\]).)*\]\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[((?:(?!\[\[|\]\])[^|])+)(?:\|((?:(?!\[\[|\]\]).)*))?\]\]")
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);")
_CONTROL = dict.fromkeys([*range(9), *range(14, 32), 127])  # with the marks below

# Marks that stand for markup while a line is read; no such character is left of the page's own.
_SEPARATOR, _OPEN, _CLOSE = "\x01", "\x02", "\x03"


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A link and where its label stands in a text, [start, end)."""

    title: str
    start: int
    end: int
    bold: bool  # opened inside bold, or its label holds a bold run


@dataclasses.dataclass(frozen=True)
class Marked:
    """A text and the links in it; cutting it keeps their offsets right."""

    text: str
    anchors: tuple[Anchor, ...] = ()

    def without(self, ranges: Iterable[tuple[int, int]]) -> "Marked":
        """What is left outside `ranges`; a label that loses all its characters becomes empty."""
        gone = bytearray(len(self.text))
        for start, end in ranges:
            gone[start:end] = b"\1" * (end - start)
        if not any(gone):
            return self
        before = [0]
        for lost in gone:
            before.append(before[-1] + 1 - lost)
        text = "".join(c for c, lost in zip(self.text, gone, strict=True) if not lost)
        return Marked(
            text,
            tuple(
                dataclasses.replace(one, start=before[one.start], end=before[one.end])
                for one in self.anchors
            ),
        )

    def collapsed(self) -> "Marked":
        """Runs of blanks as one blank, none at either end."""
        spaced = Marked(re.sub(r"\s", " ", self.text), self.anchors)
        inner = spaced.text.strip(" ")
        start = spaced.text.find(inner)
        end = start + len(inner)
        extra = [(run.start() + 1, run.end()) for run in re.finditer(" {2,}", spaced.text)]
        return spaced.without([(0, start), (end, len(spaced.text)), *extra])


def without_references(wikitext: str) -> str:
    """Wikitext without its <ref>s; an empty tag keeps the apostrophes beside them apart."""
    return _REFERENCE.sub("<nowiki/>", wikitext)


def read(wikitext: str) -> Marked:
    """The text of one line without templates and references: tags, runs, brackets removed."""
    line = _BREAK.sub(" ", wikitext.translate(_CONTROL))
    line = _MEDIA.sub("", _TAG.sub(_SEPARATOR, line))
    titles: list[str] = []

    def label(link: re.Match[str]) -> str:
        titles.append(_title(link[1]))
        return _OPEN + (link[2] or link[1].strip().removeprefix(":")) + _CLOSE

    return _walk(styled(_LINK.sub(label, line)), titles)


def styled(line: str) -> Iterator[tuple[str, bool]]:
    """Pieces of a line and whether each stands in bold; a piece ends where bold or italic turns."""
    texts, runs = _runs(line)
    if sum(run != 2 for run in runs) % 2 and sum(run != 3 for run in runs) % 2:
        broken = _apostrophe(texts, runs)
        if broken is not None:
            texts[broken] += "'"
            runs[broken] = 2
    bold = False
    for text, run in zip(texts, [*runs, 0], strict=True):
        yield text, bold
        bold ^= run in (3, 5)


def _runs(line: str) -> tuple[list[str], list[int]]:
    """The texts between the runs, and the runs: 2, 3 or 5 apostrophes."""
    texts, *rest = re.split("('{2,})", line)
    between, runs = [texts], []
    for found, text in zip(rest[::2], rest[1::2], strict=True):
        size = len(found) if len(found) in (2, 3) else 3 if len(found) == 4 else 5
        between[-1] += "'" * (len(found) - size)
        runs.append(size)
        between.append(text)
    return between, runs


def _apostrophe(texts: list[str], runs: list[int]) -> int | None:
    """Which run of three is an apostrophe and italic: after a word of one letter, else of more."""
    places: dict[str, int] = {}
    for place, (text, run) in enumerate(zip(texts, runs, strict=False)):
        if run == 3:
            kind = "blank" if text[-1:] == " " else "letter" if text[-2:-1] == " " else "word"
            places.setdefault(kind, place)
    return next((places[kind] for kind in ("letter", "word", "blank") if kind in places), None)


def _walk(pieces: Iterable[tuple[str, bool]], titles: list[str]) -> Marked:
    text = ""
    anchors: list[Anchor] = []
    start, inside, strong = 0, False, False
    for piece, bold in pieces:
        strong |= inside and bold
        for part in re.split(f"([{_OPEN}{_CLOSE}])", piece):
            if part == _OPEN:
                start, inside, strong = len(text), True, bold
            elif part == _CLOSE:
                anchors.append(Anchor(titles[len(anchors)], start, len(text), strong))
                inside = False
            else:
                plain = part.replace(_SEPARATOR, "")
                text += _ENTITY.sub(_character, plain)
    return Marked(text, tuple(anchors))


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; a name that is none stays, and none is found inside another."""
    written = entity[0]
    return html.unescape(written) if written[1] == "#" else html5.get(written[1:], written)


def _title(written: str) -> str:
    """The page that a link names: no section of it, blanks for underscores."""
    title = " ".join(written.replace("_", " ").split()).removeprefix(":")
    page, _, _ = title.partition("#")
    return _ENTITY.sub(_character, page.strip() or title)
