"""How facts are asked for: the prompts of each form, from facts and their questions.

    cloze_seen       the fact with its answer masked, widened to whole words
    cloze_question   the reliability question with its wh-phrase masked
    raw_question     the reliability question with a mask after it
    left_context     the fact up to its answer, to be continued
    question         every question in its own words
    cloze            every question's cloze, and the question where it has none

The first four ask for what the reliability question asks. A network that has read nothing but
facts has never seen a question, hence the clozes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from tightframe.errors import UserError
from tightframe.knowledge.clozes import answer_span, cloze_of_fact, cloze_of_question
from tightframe.knowledge.exchanges import Prompt
from tightframe.knowledge.facts import MASK, TYPES, Fact, Question, Type
from tightframe.knowledge.scores import position

Asking: TypeAlias = Literal[
    "cloze_seen", "cloze_question", "raw_question", "left_context", "question", "cloze"
]
OF_THE_FACT: tuple[Asking, ...] = ("cloze_seen", "left_context")
OF_ITS_QUESTION: tuple[Asking, ...] = ("cloze_question", "raw_question")
FORMS: tuple[Asking, ...] = (*OF_THE_FACT, *OF_ITS_QUESTION, "question", "cloze")


class Asked(NamedTuple):
    """One thing that is put to a model, and what would be right."""

    question_id: str
    fact_id: str
    type: Type
    prompt: Prompt
    answers: tuple[str, ...]  # aliases, the gold one first
    position: str  # where the answer stands in the fact, as `scoring.position`


def check_asked(asked: Sequence[Asked]) -> None:
    """Refuse to put no question at all."""
    if not asked:
        raise UserError(
            "nothing to ask: no question has this form and these types; "
            "choose others, or facts with questions"
        )


def prompts(
    facts: Iterable[Fact],
    form: Asking,
    *,
    types: Sequence[Type] = TYPES,
    reordered: bool = False,
) -> list[Asked]:
    """What is asked of a model about facts, in the order of facts and questions.

    What cannot be asked in this form is left out; see `left_out`.

    Args:
        facts: With their questions.
        form: See the module.
        types: Of the questions; others are not asked.
        reordered: Ask for the fact as its first reordered wording has it, not as it stands. Only
            for forms that ask by the fact's own words.
    """
    return [
        Asked(
            question.id,
            fact.id,
            question.type,
            found,
            question.answers,
            position(question.answers, fact.fact),
        )
        for fact, question, found in _asked(facts, form, types, reordered)
        if isinstance(found, Prompt)
    ]


def left_out(
    facts: Iterable[Fact],
    form: Asking,
    *,
    types: Sequence[Type] = TYPES,
    reordered: bool = False,
) -> dict[str, int]:
    """How many questions `prompts` leaves out, by reason."""
    asked = _asked(facts, form, types, reordered)
    return dict(Counter(found for _, _, found in asked if isinstance(found, str)))


def left_context(sentence: str, answers: Sequence[str]) -> str | None:
    """The words before those that hold the answer; None if the sentence holds no answer.

    Without a blank at the end; nothing if the answer comes first.
    """
    span = answer_span(sentence, answers)
    return None if span is None else span.before.rstrip()


def _asked(
    facts: Iterable[Fact], form: Asking, types: Sequence[Type], reordered: bool
) -> Iterator[tuple[Fact, Question, Prompt | str]]:
    """Each question with its prompt, or why it has none."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if reordered and form not in OF_THE_FACT:
        raise ValueError(f"form {form} asks in the question's words; only the fact's are reordered")
    kinds = types if form in ("question", "cloze") else {"reliability"} & set(types)
    for fact in facts:
        for question in fact.questions:
            if question.type in kinds:
                found = (
                    _by_fact(fact, question, form, reordered)
                    if form in OF_THE_FACT
                    else _by_question(question, form)
                )
                if isinstance(found, Prompt) and found.form == "cloze":
                    # Text of strangers: it may hold what looks like a mask.
                    found = found if found.text.count(MASK) == 1 else f"holds a {MASK} already"
                yield fact, question, found


def _by_fact(fact: Fact, question: Question, form: Asking, reordered: bool) -> Prompt | str:
    sentence = fact.fact
    if reordered:
        if not fact.reordered:
            return "no reordered wording"
        sentence = fact.reordered[0]
    if form == "cloze_seen":
        masked = cloze_of_fact(sentence, question.answers)
        return "answer not in the fact" if masked is None else Prompt("cloze", masked[0])
    context = left_context(sentence, question.answers)
    if context is None:
        return "answer not in the fact"
    return Prompt("continuation", context) if context else "answer comes first"


def _by_question(question: Question, form: Asking) -> Prompt | str:
    if form == "cloze_question":
        cloze = cloze_of_question(question.prompt)
        return "no wh-word" if cloze is None else Prompt("cloze", cloze)
    if form == "raw_question":
        return Prompt("cloze", f"{question.prompt} {MASK}")
    if form == "cloze" and question.cloze is not None:
        return Prompt("cloze", question.cloze)
    # Some questions are clozes in their own words.
    return Prompt("cloze" if question.format == "cloze" else "question", question.prompt)
