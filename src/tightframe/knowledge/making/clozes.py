"""Clozes by rules: a question or a fact with a mask in the place of its answer."""

import re
from collections.abc import Iterable

from tightframe.knowledge.data.records import MASK
from tightframe.knowledge.data.spans import Span
from tightframe.knowledge.data.summary import answer_place

_WH = r"(?:who|whom|whose|what|which|where|when)\b"
_OPENING = re.compile(rf"\s*(?:(?:in|by|of|from|at|on|to|for|with)\s+)?{_WH}", re.IGNORECASE)
_INSIDE = re.compile(rf"\b{_WH}", re.IGNORECASE)


def cloze_of_question(question: str) -> str | None:
    """A question with its wh-phrase as the mask, and without its final "?".

    The phrase is an opening wh-word with the preposition before it ("In which city" begins with
    it); where the question opens otherwise, its first wh-word. A prompt that holds a mask already
    is its own cloze.

    Returns:
        A text with exactly one mask; None for a question without such a word ("How many ...?").
    """
    if MASK in question:
        return question if question.count(MASK) == 1 else None
    asked = question.strip().removesuffix("?").rstrip()
    phrase = _OPENING.match(asked) or _INSIDE.search(asked)
    return None if phrase is None else asked[: phrase.start()] + MASK + asked[phrase.end() :]


def cloze_of_fact(fact: str, answers: Iterable[str]) -> tuple[str, str] | None:
    """A fact with its answer masked, and what the mask stands for; None if no alias is in it."""
    masked = answer_span(fact, answers)
    return None if masked is None else (masked.cloze, masked.span)


def answer_span(fact: str, answers: Iterable[str]) -> Span | None:
    """The words of a fact that hold its answer; None if no alias stands in it.

    The first alias that stands there letter for letter, where it is no part of a longer word if
    there is such a place, widened to what blanks separate: of "Oort's" nothing is left beside the
    mask, and the span is one that span prediction shows.
    """
    place = answer_place(fact, [alias.strip() for alias in answers])
    if place is None:
        return None
    start, alias = place
    whole = re.search(rf"(?<!\w){re.escape(alias)}(?!\w)", fact)
    start = whole.start() if whole else start
    words = [word.span() for word in re.finditer(r"\S+", fact)]
    first = max(begin for begin, _ in words if begin <= start)
    last = min(end for _, end in words if end >= start + len(alias))
    return Span(fact[:first], fact[first:last], fact[last:])
