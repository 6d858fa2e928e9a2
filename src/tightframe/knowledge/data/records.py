"""Facts, questions and outputs: what the lines of this study's files hold.

All files are JSON lines, UTF-8, a record a line, keys in the order of the fields below.
"""

import dataclasses
import hashlib
from typing import Any, Literal, TypeAlias, get_args

import pydantic

Type: TypeAlias = Literal[
    "reliability",
    "generality",
    "paraphrase",
    "portability",
    "factual",
    "counterfactual",
    "locality",
]
TYPES: tuple[Type, ...] = get_args(Type)
MASK = "[MASK]"  # stands once in a cloze, where the answer belongs
LICENSE = "CC BY-SA"
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
    """Something that is asked of a model about a fact."""

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
    """A sentence to inject, and what is asked about it."""

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
        """JSON-able, keys in the order of the fields; `PERHAPS` only where there is something."""
        record = dataclasses.asdict(self)
        return {key: value for key, value in record.items() if value or key not in PERHAPS}


@dataclasses.dataclass(frozen=True)
class Output:
    """What a model said."""

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
    """ "dyk-" and twelve hexadecimal digits of the SHA-256 of `date|fact`."""
    return "dyk-" + hashlib.sha256(f"{date or ''}|{fact}".encode()).hexdigest()[:12]
