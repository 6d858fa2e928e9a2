"""What a benchmark holds, in numbers: by type of question and by year."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tightframe.knowledge.formats import MAX_ANSWER_WORDS
from tightframe.knowledge.records import TYPES, WORDINGS, Fact, Question

ELIGIBLE_ANSWER_WORDS = 4
ELIGIBLE_FACT_WORDS = 24
DECILES = 10


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of some facts and some of their questions. Means are NaN over nothing.

    Answers are the first alias of each question.
    """

    facts: int
    questions: int
    fact_words: float  # mean over facts
    longest_fact: int  # words
    answer_words: float  # mean over questions
    long_answers: int  # questions with an alias over 8 words
    verbatim: int  # questions with an alias that stands in the fact, letter for letter
    deciles: tuple[int, ...]  # of those, by the tenth of the fact's characters where it starts
    in_prompt: int  # questions that contain their answer, ignoring case
    eligible: int  # facts, see `study_eligible`


@dataclasses.dataclass(frozen=True)
class Wordings:
    """How much there is to train on besides the facts, of one kind."""

    texts: int
    facts: int  # with at least one of them


@dataclasses.dataclass(frozen=True)
class Summary:
    """A benchmark in numbers."""

    all: Counts
    by_year: dict[str, Counts]  # "none" for facts without a year
    by_type: dict[str, Counts]  # facts are those with a question of the type
    duplicates: int  # facts equal to an earlier one but for case, blanks and punctuation
    wordings: dict[str, Wordings]  # by name, see `records.WORDINGS`; those that there are

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, keys in the order of the fields."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """For readers: a table, then where answers start."""
        groups = {"all": self.all} | self.by_type | self.by_year
        width = max(map(len, groups))
        heads = ("facts", "questions", "words", "longest", "answer", "> 8", "verbatim", "eligible")
        yield " " * width + "".join(f"{head:>10}" for head in heads)
        for name, counts in groups.items():
            cells = (
                *(f"{counts.facts:,}", f"{counts.questions:,}", f"{counts.fact_words:.2f}"),
                *(f"{counts.longest_fact}", f"{counts.answer_words:.2f}"),
                *(f"{counts.long_answers:,}", f"{counts.verbatim:,}", f"{counts.eligible:,}"),
            )
            yield f"{name:{width}}" + "".join(f"{cell:>10}" for cell in cells)
        yield "answers start in tenth 1 to 10 of the fact: " + ", ".join(
            f"{n:,}" for n in self.all.deciles
        )
        yield (
            f"facts that repeat an earlier one: {self.duplicates:,}; "
            f"questions that contain their answer: {self.all.in_prompt:,}"
        )
        for name, one in self.wordings.items():
            yield f"{name}: {one.texts:,} of {one.facts:,} facts"


def summarize(facts: Sequence[Fact]) -> Summary:
    """Count what a benchmark holds."""
    years = sorted({fact.year for fact in facts}, key=lambda year: (year is None, year or 0))
    present = {one.type for fact in facts for one in fact.questions}
    normalised = {normalise(fact.fact) for fact in facts}
    reworded = {name: [len(getattr(fact, name)) for fact in facts] for name in WORDINGS}
    return Summary(
        all=_counts((fact, fact.questions) for fact in facts),
        by_year={
            "none" if year is None else str(year): _counts(
                (fact, fact.questions) for fact in facts if fact.year == year
            )
            for year in years
        },
        by_type={
            type: _counts(
                (fact, asked)
                for fact in facts
                if (asked := [one for one in fact.questions if one.type == type])
            )
            for type in TYPES
            if type in present
        },
        duplicates=len(facts) - len(normalised),
        wordings={
            name: Wordings(sum(counts), sum(map(bool, counts)))
            for name, counts in reworded.items()
            if any(counts)
        },
    )


def answer_place(fact: str, answers: Iterable[str]) -> tuple[int, str] | None:
    """Where the first alias that stands in the fact starts, and that alias; None if none does.

    Letter for letter, as a substring: this is what is masked or asked for.
    """
    return next(((fact.find(one), one) for one in answers if one in fact), None)


def study_eligible(fact: Fact) -> bool:
    """Whether the study can use it: a short answer that stands in a fact that is not long.

    That is, a reliability question with a verbatim alias of at most 4 words, and at most 24 words
    in the fact.
    """
    if len(fact.fact.split()) > ELIGIBLE_FACT_WORDS:
        return False
    return any(
        alias in fact.fact and len(alias.split()) <= ELIGIBLE_ANSWER_WORDS
        for question in fact.questions
        if question.type == "reliability"
        for alias in question.answers
    )


def normalise(text: str) -> str:
    """Lower-cased letters and digits alone: equal for facts that differ only in form."""
    return "".join(character for character in text.lower() if character.isalnum())


def _counts(chosen: Iterable[tuple[Fact, Sequence[Question]]]) -> Counts:
    pairs = list(chosen)
    asked = [(fact, question) for fact, questions in pairs for question in questions]
    places = [(fact, answer_place(fact.fact, question.answers)) for fact, question in asked]
    starts = Counter(
        DECILES * place[0] // len(fact.fact) for fact, place in places if place is not None
    )
    words = [len(fact.fact.split()) for fact, _ in pairs]
    return Counts(
        facts=len(pairs),
        questions=len(asked),
        fact_words=_mean(words),
        longest_fact=max(words, default=0),
        answer_words=_mean([len(question.answers[0].split()) for _, question in asked]),
        long_answers=sum(
            any(len(alias.split()) > MAX_ANSWER_WORDS for alias in question.answers)
            for _, question in asked
        ),
        verbatim=starts.total(),
        deciles=tuple(starts[tenth] for tenth in range(DECILES)),
        in_prompt=sum(
            any(alias.lower() in question.prompt.lower() for alias in question.answers)
            for _, question in asked
            if question.format != "boolean"
        ),
        eligible=sum(study_eligible(fact) for fact, _ in pairs),
    )


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else float("nan")
