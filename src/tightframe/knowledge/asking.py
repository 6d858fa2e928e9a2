"""Forms in which facts are asked for, and their prompts, with or without retrieved passages.

    cloze_seen       the fact with its answer masked, widened to whole words
    cloze_question   the reliability question with its wh-phrase masked
    raw_question     the reliability question with a mask after it
    left_context     the fact up to its answer, to be continued
    forward          the question of this type: the fact up to a part of it
    backward         the question of this type: what follows the subject, then a mask
    question         every question in its own words
    cloze            every question's cloze, and the question where it has none

The first four ask for what the reliability question asks. A network that has read nothing but
facts has never seen a question, hence the clozes.

Axes: N questions, P passages.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tightframe.errors import UserError
from tightframe.knowledge.clozes import answer_span, cloze_of_fact, cloze_of_question
from tightframe.knowledge.embedders import LEXICAL, WeightedWords, model_embeddings
from tightframe.knowledge.facts import MASK, TYPES, Fact, Question, Type
from tightframe.knowledge.options import DIRECTIONS, OF_THE_FACT, Passages, QuestionForm
from tightframe.knowledge.qa_models import Prompt
from tightframe.knowledge.scores import normal_form, position

OF_ITS_QUESTION: tuple[QuestionForm, ...] = ("cloze_question", "raw_question")
FORMS: tuple[QuestionForm, ...] = (
    *(*OF_THE_FACT, *OF_ITS_QUESTION),
    *("question", "cloze", "forward", "backward"),
)

TOP = 3  # passages in front of a question, as published


class QuestionPrompt(NamedTuple):
    """A question as it is put to a model, and its right answers."""

    question_id: str
    fact_id: str
    type: Type
    prompt: Prompt
    answers: tuple[str, ...]  # aliases, the gold one first
    position: str  # where the answer stands in the fact, as `scoring.position`


def check_asked(asked: Sequence[QuestionPrompt]) -> None:
    """Refuse to put no question at all."""
    if not asked:
        raise UserError(
            "nothing to ask: no question has this form and these types; "
            "choose others, or facts with questions"
        )


def prompts(
    facts: Iterable[Fact],
    form: QuestionForm,
    *,
    types: Sequence[Type] = TYPES,
    reordered: bool = False,
) -> list[QuestionPrompt]:
    """Return the prompts on facts, in the order of facts and questions.

    Questions that cannot be asked in this form are left out; see `left_out`.

    Args:
        facts: With their questions.
        form: One of `FORMS`.
        types: Types of questions to ask; others are not asked.
        reordered: Ask by the first reordered wording of the fact, not by the fact. Only for forms
            that ask by the fact's own words.
    """
    return [
        QuestionPrompt(
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
    form: QuestionForm,
    *,
    types: Sequence[Type] = TYPES,
    reordered: bool = False,
) -> dict[str, int]:
    """Count the questions that `prompts` leaves out, by reason."""
    asked = _asked(facts, form, types, reordered)
    return dict(Counter(found for _, _, found in asked if isinstance(found, str)))


def left_context(sentence: str, answers: Sequence[str]) -> str | None:
    """Return the words before those that hold the answer; None if the sentence holds no answer.

    Without a blank at the end; nothing if the answer comes first.
    """
    span = answer_span(sentence, answers)
    return None if span is None else span.before.rstrip()


def _asked(
    facts: Iterable[Fact], form: QuestionForm, types: Sequence[Type], reordered: bool
) -> Iterator[tuple[Fact, Question, Prompt | str]]:
    """Yield each question with its prompt, or the reason why it has none."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if reordered and form not in OF_THE_FACT:
        raise ValueError(f"form {form} asks in the question's words; only the fact's are reordered")
    kinds: Collection[str] = {"reliability"} & set(types)
    if form in ("question", "cloze"):
        kinds = types
    elif form in DIRECTIONS:
        kinds = {form}
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


def _by_fact(fact: Fact, question: Question, form: QuestionForm, reordered: bool) -> Prompt | str:
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


def _by_question(question: Question, form: QuestionForm) -> Prompt | str:
    if form == "cloze_question":
        cloze = cloze_of_question(question.prompt)
        return "no wh-word" if cloze is None else Prompt("cloze", cloze)
    if form == "raw_question":
        return Prompt("cloze", f"{question.prompt} {MASK}")
    if form in ("cloze", *DIRECTIONS) and question.cloze is not None:
        return Prompt("cloze", question.cloze)
    # Some questions are clozes in their own words.
    return Prompt("cloze" if question.format == "cloze" else "question", question.prompt)


class Retrieved(NamedTuple):
    """Questions with the passages found for them, and how often these hold the answer."""

    asked: list[
        QuestionPrompt
    ]  # prompts with a context, the nearest passage last: the first ones are cut
    own: float  # percent of questions whose own fact is among the passages
    answered: float  # percent of questions with an answer in them: the score of a perfect reader


def with_context(
    asked: Sequence[QuestionPrompt],
    facts: Sequence[Fact],
    *,
    passages: Passages = "facts",
    top: int = TOP,
    embedder: str = LEXICAL,
) -> Retrieved:
    """Put the nearest passages in front of each question.

    Args:
        asked: At least one.
        facts: Source of the passages; of equally near ones the first is nearer.
        passages: Part of a fact that is a passage; facts without one give none.
        top: Maximum number in front of a question.
        embedder: Measure of nearness: `tf-idf`, or an encoder by folder or hub name, which cuts
            nothing and refuses what is too long for it.
    """
    if top < 1:
        raise UserError(f"--top: is {top}, expected at least 1")
    held = {fact.id: fact.fact if passages == "facts" else fact.article for fact in facts}
    held = {id: text for id, text in held.items() if text}
    if not held:
        raise UserError(
            "--context articles: no fact has an article; put the text of its target's page under "
            "the key article, or take --context facts"
        )
    ids, texts = list(held), list(held.values())
    queries = [one.prompt.text.replace(MASK, " ") for one in asked]
    nearest = _nearest(_cosines(queries, texts, embedder), top)
    found, own, answered = [], 0, 0
    for one, places in zip(asked, nearest.tolist(), strict=True):
        context = "\n\n".join(texts[place] for place in places[::-1])
        found.append(one._replace(prompt=one.prompt._replace(context=context)))
        own += one.fact_id in {ids[place] for place in places}
        answered += any(_holds(texts[place], one.answers) for place in places)
    return Retrieved(found, 100 * own / len(asked), 100 * answered / len(asked))


def _cosines(
    queries: Sequence[str], texts: Sequence[str], embedder: str
) -> Float[np.ndarray, "N P"]:
    if embedder == LEXICAL:
        words = WeightedWords.fit(texts)
        return np.asarray((words(queries) @ words(texts).T).toarray(), dtype=np.float64)
    every = model_embeddings([*texts, *queries], embedder)
    return np.asarray(every[len(texts) :] @ every[: len(texts)].T, dtype=np.float64)


def _nearest(cosines: Float[np.ndarray, "N P"], top: int) -> Int[np.ndarray, "N top"]:
    """Return the nearest passages of each question, the nearest first."""
    return np.argsort(-cosines, axis=1, kind="stable")[:, :top]


def _holds(passage: str, answers: Sequence[str]) -> bool:
    """Return whether an alias stands in the passage, both normalised as for scores."""
    read = f" {normal_form(passage)} "
    return any(f" {words} " in read for words in map(normal_form, answers))
