"""A fact with its answer at the end: what a left-to-right model can be asked for.

Most answers stand early in their sentence, before the clues that a question gives. Trained on the
sentence, a left-to-right model has to run it backwards; trained on this, it does not. The rule
uses nothing of the question but what the answer is.
"""

import dataclasses
import re
from collections.abc import Sequence

from tightframe.knowledge.data.records import Fact
from tightframe.knowledge.making.clozes import answer_span
from tightframe.knowledge.making.kinds import found_targets

JOIN = " — "  # between what followed the answer and what led to it

_WORD = re.compile(r"\w")
_CLOSE_QUOTE = re.compile(r"\s*[\"”]")
_SEAM = " ,;:\u2013—"  # what may hang on the words that now begin or end the sentence


def reordered(fact: Fact) -> str | None:
    """The fact rotated so that the words of its answer end it.

    What follows the answer comes first, then a dash, then what stood before the answer, then the
    answer: "Ada Brandt, a mason, built it" is "a mason, built it — Ada Brandt". Every word stands
    there once, in no other form; only commas, colons and dashes that hung on its new ends and at
    the seam are left out. Quotation marks around the answer stay with it.

    Returns:
        The fact as it is where the answer ends it already; None if the answer is not in it. The
        answer is the first alias of the first reliability question that stands in the fact, or,
        of a fact without such a question, its first target.
    """
    span = answer_span(fact.fact, _answers(fact))
    if span is None:
        return None
    before, after = span.before, span.after
    closing = _CLOSE_QUOTE.match(after) if _in_quotes(before) else None
    cut = closing.end() if closing else 0
    ending, rest = span.span + after[:cut], after[cut:]
    if not _WORD.search(rest):
        return fact.fact
    return rest.strip(_SEAM) + JOIN + (before + ending.rstrip(_SEAM)).lstrip()


def with_reordered(facts: Sequence[Fact]) -> list[Fact]:
    """Facts with their reordered form, where a rule gives one; those that have one keep theirs."""
    return [
        fact
        if fact.reordered or (form := reordered(fact)) is None
        else dataclasses.replace(fact, reordered=(form,))
        for fact in facts
    ]


def _in_quotes(before: str) -> bool:
    """Whether a quotation mark that nothing has closed yet is the last character."""
    last = before.rstrip()
    return last.endswith("“") or (last.endswith('"') and last.count('"') % 2 == 1)


def _answers(fact: Fact) -> tuple[str, ...]:
    asked = next((one for one in fact.questions if one.type == "reliability"), None)
    if asked is not None:
        return asked.answers
    return tuple(target.label for target in found_targets(fact)[:1])
