"""Facts, questions and outputs: what one line of a file holds, and a set of facts in numbers.

All files are JSON lines, UTF-8, one record on each line, keys in the order of the fields below.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import pydantic

from tightframe.files import fingerprint
from tightframe.knowledge.data_files import write_records
from tightframe.knowledge.options import EVERY_TYPE as EVERY_TYPE
from tightframe.knowledge.options import TYPES as TYPES
from tightframe.knowledge.options import Type as Type
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd

MASK = "[MASK]"  # stands once in a cloze, where the answer belongs
LICENSE = "CC BY-SA"
MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july"),
    *("august", "september", "october", "november", "december"),
)
MAX_ANSWER_WORDS = 8
WORDINGS = ("paraphrases", "reordered", "generated_qas")  # what a fact may be trained on besides
PERHAPS = (*WORDINGS, "article")  # fields of a fact that are written only where there is something

# greedy: the likeliest token, up to the end. paper: as published, causal models sampled, long.
Decoding: TypeAlias = Literal["greedy", "paper"]

# What a question is put in: chat: the model's own chat template. plain: no template.
Template: TypeAlias = Literal["plain", "chat"]

_STRICT = pydantic.ConfigDict(extra="forbid")  # for whoever reads a record by its type


@dataclasses.dataclass(frozen=True)
class Link:
    """A link to another article."""

    __pydantic_config__ = _STRICT

    title: str
    label: str


@dataclasses.dataclass(frozen=True)
class Target:
    """An article that a hook is about: its bold link."""

    __pydantic_config__ = _STRICT

    title: str
    label: str
    start: int  # offsets of the label in the fact, [start, end)
    end: int


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a fact."""

    __pydantic_config__ = _STRICT

    id: str  # "<fact id>:<type>", ":2" for a second one
    type: Type
    format: Literal["question", "cloze", "boolean"]
    prompt: str
    cloze: str | None  # the prompt with one MASK
    answers: tuple[str, ...]  # aliases, at least one
    generator: str  # "rules", "llm:<model>", "file"
    checks: tuple[str, ...] = ()  # names of warnings


@dataclasses.dataclass(frozen=True)
class QuestionAnswer:
    """A question and its answer to train on; nobody is asked it."""

    __pydantic_config__ = _STRICT

    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """A sentence to inject, and its questions."""

    __pydantic_config__ = _STRICT

    id: str  # see `fact_id`
    date: str | None  # ISO; None where the file has none
    set_time: str | None  # ISO date and time of the set, UTC
    year: int | None
    month: int | None
    fact: str  # the training text: without a leading "that " and the final "?"
    hook: str  # with both
    hook_raw: str  # as the page has it
    targets: tuple[Target, ...] = ()
    links: tuple[Link, ...] = ()
    source_page: str = ""
    revision: int | None = None
    license: str = LICENSE
    questions: tuple[Question, ...] = ()
    paraphrases: tuple[str, ...] = ()  # the fact in other words
    reordered: tuple[str, ...] = ()  # the fact with its answer at the end
    generated_qas: tuple[QuestionAnswer, ...] = ()  # to train on, not to ask
    article: str = ""  # the text of its target's page, to retrieve or train on

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in their order, as JSON takes them, without empty ones of `PERHAPS`."""
        record = dataclasses.asdict(self)
        return {key: value for key, value in record.items() if value or key not in PERHAPS}


@dataclasses.dataclass(frozen=True)
class Output:
    """A model's answer to a question."""

    __pydantic_config__ = _STRICT

    question_id: str
    fact_id: str
    type: Type
    model: str
    text: str  # raw, uncut
    seconds: float
    finish: Literal["end", "length"]
    decoding: Decoding = "greedy"
    template: Template = "plain"


def fact_id(date: str | None, fact: str) -> str:
    """Return "dyk-" and twelve hexadecimal digits of the SHA-256 of `date|fact`."""
    return "dyk-" + hashlib.sha256(f"{date or ''}|{fact}".encode()).hexdigest()[:12]


def question_format(type: str, prompt: str) -> Literal["question", "cloze", "boolean"]:
    """Return how a prompt of some type asks: true or false, by a mask, or as a question."""
    if type in ("factual", "counterfactual"):
        return "boolean"
    return "cloze" if MASK in prompt else "question"


def facts_fingerprint(facts: Sequence[Fact]) -> str:
    """Return twelve hexadecimal digits of which facts these are, in whatever order."""
    return fingerprint(sorted((fact.id, fact.fact) for fact in facts))


class FactSet(ResultTable, Sequence[Fact]):
    """Facts of a file, as a sequence and as a table."""

    def __init__(self, facts: Iterable[Fact], path: Path | None = None) -> None:
        self.facts = tuple(facts)
        self.path = path  # the file that they were loaded from

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> Fact: ...

    @overload
    def __getitem__(self, index: slice) -> "FactSet": ...

    def __getitem__(self, index: int | slice) -> "Fact | FactSet":
        if isinstance(index, slice):
            return FactSet(self.facts[index], self.path)
        return self.facts[index]

    @property
    def one_line(self) -> str:
        """Number of facts and of their questions."""
        questions = sum(len(fact.questions) for fact in self)
        source = f" of {self.path}" if self.path else ""
        return f"{len(self):,} facts{source}, {questions:,} questions"

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per fact: its id, date, text, and number of questions."""
        import pandas as pd

        columns = ("id", "date", "fact", "questions")
        rows = [(fact.id, fact.date, fact.fact, len(fact.questions)) for fact in self]
        return pd.DataFrame(rows, columns=columns)

    def save(self, path: str | Path) -> Path:
        """Write the facts with all their fields to a .jsonl file, or the table to any other."""
        if Path(path).suffix != ".jsonl":
            return super().save(path)
        write_records(Path(path), (fact.to_dict() for fact in self))
        return Path(path)


ELIGIBLE_ANSWER_WORDS = 4
ELIGIBLE_FACT_WORDS = 24
DECILES = 10


@dataclasses.dataclass(frozen=True)
class FactCounts:
    """Counts of some facts and some of their questions; means are NaN over nothing.

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
class WordingCounts:
    """Number of texts of one kind to train on besides the facts."""

    texts: int
    facts: int  # with at least one of them


@dataclasses.dataclass(frozen=True)
class BenchmarkSummary:
    """A benchmark in numbers."""

    all: FactCounts
    by_year: dict[str, FactCounts]  # "none" for facts without a year
    by_type: dict[str, FactCounts]  # facts are those with a question of the type
    duplicates: int  # facts equal to an earlier one but for case, blanks and punctuation
    wordings: dict[str, WordingCounts]  # by name, see `records.WORDINGS`; those that there are

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in their order, as JSON takes them."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield lines for readers: a table, then the positions of answers."""
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


def summarize(facts: Sequence[Fact]) -> BenchmarkSummary:
    """Count what a benchmark holds."""
    years = sorted({fact.year for fact in facts}, key=lambda year: (year is None, year or 0))
    present = {one.type for fact in facts for one in fact.questions}
    normalised = {normalise(fact.fact) for fact in facts}
    reworded = {name: [len(getattr(fact, name)) for fact in facts] for name in WORDINGS}
    return BenchmarkSummary(
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
            for type in EVERY_TYPE
            if type in present
        },
        duplicates=len(facts) - len(normalised),
        wordings={
            name: WordingCounts(sum(counts), sum(map(bool, counts)))
            for name, counts in reworded.items()
            if any(counts)
        },
    )


def answer_place(fact: str, answers: Iterable[str]) -> tuple[int, str] | None:
    """Return the start of the first alias that stands in the fact, and the alias; None without one.

    Letter for letter, as a substring: this is what is masked or asked for.
    """
    return next(((fact.find(one), one) for one in answers if one in fact), None)


def study_eligible(fact: Fact) -> bool:
    """Return whether a study can use a fact: short, with a short answer that stands in it.

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
    """Return the letters and digits in lower case: equal for facts that differ only in form."""
    return "".join(character for character in text.lower() if character.isalnum())


def _counts(chosen: Iterable[tuple[Fact, Sequence[Question]]]) -> FactCounts:
    pairs = list(chosen)
    asked = [(fact, question) for fact, questions in pairs for question in questions]
    places = [(fact, answer_place(fact.fact, question.answers)) for fact, question in asked]
    starts = Counter(
        DECILES * place[0] // len(fact.fact) for fact, place in places if place is not None
    )
    words = [len(fact.fact.split()) for fact, _ in pairs]
    return FactCounts(
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
