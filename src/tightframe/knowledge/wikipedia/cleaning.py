"""A hook line becomes one sentence, or a reason why it can't."""

import dataclasses
import re

from tightframe.knowledge.data.records import Link, Target
from tightframe.knowledge.wikipedia.hooks import bullet_text
from tightframe.knowledge.wikipedia.markup import Anchor, Marked, read, without_references
from tightframe.knowledge.wikipedia.templates import UnknownTemplateError, expand

MIN_WORDS = 4

# The bullet's ellipsis, and a second one in front of "that".
_LEAD = re.compile(r"(?:(?:\.{2,}|…)\s*)+(?:that\s+(?:\.{2,}|…)\s*(?=that\s))?")
_PICTURED = re.compile(r"\bpictured\b", re.IGNORECASE)
_PAIRS = {")": "(", "]": "[", "}": "{"}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """What a hook line says."""

    fact: str  # the training text
    hook: str  # with its leading "that " and its final "?"
    targets: tuple[Target, ...]
    links: tuple[Link, ...]
    fault: str | None  # why it is no fact: see `clean`


def clean(line: str, *, keep_pictured: bool = False) -> Sentence:
    """The sentence of a hook line as a page has it.

    Args:
        line: Wikitext, bullet and leading ellipsis included.
        keep_pictured: Leave "(pictured)" and its like.

    Returns:
        fault: None, or the first that applies: `unknown_template:<name>`, `empty`, `unbalanced`
            (round, square or curly brackets), `no_bold_link`, `too_short` (under four words).
    """
    wikitext, fault = without_references(bullet_text(line)), None
    try:
        wikitext = expand(wikitext)
    except UnknownTemplateError as unknown:
        fault = f"unknown_template:{unknown.args[0]}"
    hook = read(wikitext).collapsed()
    if not keep_pictured:
        hook = hook.without(_picture_notes(hook.text)).collapsed()
    if lead := _LEAD.match(hook.text):
        hook = hook.without([lead.span()]).collapsed()
    fact = _training_text(hook)
    targets, links = _split(fact)
    if fault is None:
        fault = _fault(fact.text, targets)
    return Sentence(fact.text, hook.text, targets, links, fault)


def _training_text(hook: Marked) -> Marked:
    """Without a leading whole word "that" and the final question mark."""
    size = len(hook.text)
    cuts = [(0, len("that "))] if hook.text.startswith("that ") else []
    if hook.text.endswith("?"):
        cuts.append((size - 1, size))
    return hook.without(cuts).collapsed()


def _picture_notes(text: str) -> list[tuple[int, int]]:
    """The innermost parentheses around the word "pictured", with the blanks that they leave."""
    words = [match.start() for match in _PICTURED.finditer(text)]
    if not words:
        return []
    opened: list[int] = []
    notes: list[tuple[int, int]] = []
    for place, character in enumerate(text):
        if character == "(":
            opened.append(place)
        elif character == ")" and opened:
            start = opened.pop()
            inside = [word for word in words if start < word < place]
            if inside:
                words = [word for word in words if word not in inside]
                notes.append((start, place + 1))
    return [(_with_blank(text, start, end), end) for start, end in notes]


def _with_blank(text: str, start: int, end: int) -> int:
    """Where to cut, so that no blank is left before punctuation and no two words are joined."""
    if text[end : end + 1].isalnum():
        return start
    return len(text[:start].rstrip(" "))


def _split(fact: Marked) -> tuple[tuple[Target, ...], tuple[Link, ...]]:
    """Bold links are targets, others context; so is a bold one whose label has been cut away."""
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
    """The offsets of a label without the blanks at its ends."""
    label = text[anchor.start : anchor.end]
    start = anchor.start + len(label) - len(label.lstrip())
    return start, max(start, anchor.start + len(label.rstrip()))


def _fault(fact: str, targets: tuple[Target, ...]) -> str | None:
    if not any(character.isalnum() for character in fact):
        return "empty"
    if not _balanced(fact) or "[[" in fact:  # a link that holds another
        return "unbalanced"
    if not targets:
        return "no_bold_link"
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
