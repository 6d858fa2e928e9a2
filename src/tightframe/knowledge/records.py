"""Facts, questions and outputs: what one line of this study's files holds, and its fields.

All files are JSON lines, UTF-8, one record on each line, keys in the order of the fields below.
"""

import dataclasses
import hashlib
import re
from typing import Any, Literal, TypeAlias, get_args

import pydantic

from tightframe.errors import nearest

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


Record: TypeAlias = dict[str, Any]


class RecordError(ValueError):
    """A record that cannot be used: what was found, and what was expected."""

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(found)
        self.kind = kind


def known_keys(value: Record, kind: type, what: str) -> None:
    """RecordError at the first key that is no field of `kind`."""
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in value:
        if key not in known:
            raise RecordError(
                "schema", f"unknown key {shown(key)} of {what}{nearest(str(key), known)}"
            )


def object_of(value: Any, kind: type, what: str) -> Record:
    """The value, if it is an object with fields of `kind` only."""
    if not isinstance(value, dict):
        raise RecordError("schema", f"{shown(value)} where {what} is expected, an object")
    known_keys(value, kind, what)
    return value


def objects(record: Record, key: str, kind: type, what: str) -> list[Record]:
    """The objects in the list at `key`."""
    return [object_of(one, kind, what) for one in items(record, key)]


def items(record: Record, key: str) -> list[Any]:
    """The list at `key`; empty where there is none."""
    value = record.get(key)
    if value is not None and not isinstance(value, list | tuple):
        raise RecordError("schema", f"{key!r} is {shown(value)}, expected a list")
    return list(value or ())


def texts(record: Record, key: str) -> tuple[str, ...]:
    """The texts in the list at `key`, none of them blank; none where there is no list."""
    listed = {f"{key}[{n}]": one for n, one in enumerate(items(record, key))}
    return tuple(text(listed, place) for place in listed)


def text(record: Record, key: str, *, empty: bool = False) -> str:
    """The text at `key`; it must hold more than blanks unless `empty`."""
    value = record.get(key)
    if not isinstance(value, str) or not (empty or value.strip()):
        found = f"is {shown(value)}" if key in record else "is missing"
        raise RecordError("schema", f"{key!r} {found}, expected text")
    if not encodes(value):
        raise RecordError("schema", f"{key!r} is {shown(value)}, half of a character; mend it")
    return value


def encodes(text: str) -> bool:
    """Whether it is text: JSON can also write lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(value: Any) -> int | None:
    """A whole number, also as text or as 2022.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else None
    return value if isinstance(value, int) else None


def whole(value: Any, key: str) -> int:
    """A whole number from 0 on."""
    read = number(value)
    if read is None or read < 0:
        raise RecordError("schema", f"{key!r} is {shown(value)}, expected a whole number from 0")
    return read


def shown(value: Any) -> str:
    """A stranger's value in a message: on one line, without control characters, not long."""
    quoted = repr(value) if isinstance(value, str) and encodes(value) else ascii(value)
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."
