"""The eight checks that every question passes, whoever wrote it.

A question that fails one is dropped, with the check's name as the reason, or keeps the name as a
warning where the check only warns.
"""

import re
from typing import Literal, TypeAlias

from tightframe.knowledge.data.records import MASK, Fact, Question
from tightframe.knowledge.making.words import contains, content_words, without_stop

Check: TypeAlias = Literal[
    "answer_length",
    "answer_in_prompt",
    "answer_in_hook",
    "too_similar",
    "locality_in_hook",
    "form",
    "punctuation",
    "duplicate",
]
MAX_ANSWER_WORDS = 8
_TWO_STOPS = re.compile(r"(?<!\.)\.\.(?!\.)")
SAME_WORDS = 0.80  # of a paraphrase's content words, in order, from which on it is none


def failures(question: Question, fact: Fact, *, reliability: str | None) -> list[Check]:
    """The checks that a question fails by itself, without regard to other questions but one.

    Args:
        question: What is judged.
        fact: What it is about.
        reliability: The prompt of the fact's reliability question; None if there is none, and then
            nothing is too similar to it.
    """
    found: list[Check] = []
    if not question.answers or not all(
        0 < len(answer.split()) <= MAX_ANSWER_WORDS for answer in question.answers
    ):
        found.append("answer_length")
    answers = [answer for answer in question.answers if answer.strip()]
    texts = [question.prompt, question.cloze or ""]
    if question.format != "boolean" and any(contains(t, a) for t in texts for a in answers):
        found.append("answer_in_prompt")
    if question.type in ("reliability", "paraphrase") and not any(
        contains(fact.hook, answer) for answer in answers
    ):
        found.append("answer_in_hook")
    if (
        question.type == "paraphrase"
        and reliability is not None
        and similarity(question.prompt, reliability) >= SAME_WORDS
    ):
        found.append("too_similar")
    if question.type == "locality" and any(contains(fact.hook, answer) for answer in answers):
        found.append("locality_in_hook")
    clozed = question.cloze is None or question.cloze.count(MASK) == 1
    if not clozed or not (
        question.prompt.rstrip().endswith("?") or question.prompt.count(MASK) == 1
    ):
        found.append("form")
    asked = question.prompt.rstrip().removesuffix("?")
    if _TWO_STOPS.search(question.prompt) or (
        asked != question.prompt.rstrip() and without_stop(asked) != asked.rstrip()
    ):
        found.append("punctuation")
    return found


def is_warning(check: Check, *, strict: bool) -> bool:
    """Whether a question that fails a check is kept with its name."""
    return check == "duplicate" or (check == "answer_in_hook" and not strict)


def similarity(paraphrase: str, reliability: str) -> float:
    """The share of a paraphrase's content words that stand in the same order in the other prompt.

    Longest common subsequence over the paraphrase's content words, in [0, 1]; 1 where it has none,
    since then it says nothing of its own.
    """
    first, second = content_words(paraphrase), content_words(reliability)
    if not first:
        return 1.0
    longest = [0] * (len(second) + 1)  # of the words of `first` so far and each start of `second`
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = longest[j]
            longest[j] = diagonal + 1 if word == other else max(above, longest[j - 1])
            diagonal = above
    return longest[-1] / len(first)
