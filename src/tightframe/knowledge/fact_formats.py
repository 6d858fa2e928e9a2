"""The four kinds of records that are read as facts, recognised by their keys.

tightframe   `questions`          our own, `Fact.to_dict`
wikidyk      `eval`               the paper's file
qa           `input`, `output`    reliability questions only
qa-clean     `question`, `answer` the same, with facts that are cleaned already
facts        `fact`               facts of one's own, in the keys of ours, without questions
"""

import dataclasses
import datetime
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tightframe.errors import nearest
from tightframe.knowledge.facts import (
    EVERY_TYPE,
    LICENSE,
    MASK,
    MAX_ANSWER_WORDS,
    MONTHS,
    Fact,
    Link,
    Question,
    QuestionAnswer,
    Target,
    fact_id,
    question_format,
)

KEYS: dict[str, tuple[str, ...]] = {  # in the order in which they are looked for
    "tightframe": ("questions",),
    "wikidyk": ("eval",),
    "qa": ("input", "output"),
    "qa-clean": ("question", "answer"),
    "facts": ("fact",),
}
EXAMPLE = '{"fact": "Ann Lee built it in 1987.", "question": "Who built it?", "answer": "Ann Lee"}'
Record: TypeAlias = dict[str, Any]
Note: TypeAlias = Callable[[str, str], None]  # what kind of fault, and what was found


class RecordError(ValueError):
    """A record that cannot be used: what was found, and what was expected."""

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(found)
        self.kind = kind


def format_of(record: Any) -> str | None:
    """Return the name of a record's format, None if no format has its keys."""
    if not isinstance(record, dict):
        return None
    return next((name for name, keys in KEYS.items() if all(k in record for k in keys)), None)


def to_fact(record: Record, name: str, note: Note) -> Fact:
    """Return a record of the format `name` as a fact with its questions.

    Raises RecordError if it cannot be one; lesser faults are reported to `note`.
    """
    readers = {"tightframe": _ours, "wikidyk": _wikidyk, "qa": _qa, "qa-clean": _clean}
    return readers.get(name, _ours)(record, note)


def training_text(hook: str) -> str:
    """Return a hook without its leading whole word "that" and its final "?"."""
    return re.sub(r"^\s*(?:(?:\.\.\.|…)\s*)?that\s+|\s*\?\s*$", "", hook)


def parse_date(written: str) -> datetime.date | None:
    """Return a day written as 2022-01-31 or 31 January 2022, None if written otherwise."""
    written = written.strip()
    day = re.fullmatch(r"([0-9]{1,2}) ([A-Za-z]+) ([0-9]{4})", written)
    try:
        if day is not None:
            return datetime.date(int(day[3]), MONTHS.index(day[2].lower()) + 1, int(day[1]))
        # `fromisoformat` also takes weeks, which no file of facts means.
        iso = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", written)
        return datetime.date.fromisoformat(written) if iso else None
    except ValueError:
        return None


def _ours(record: Record, note: Note) -> Fact:
    object_of(record, Fact, "a fact")
    sentence = text(record, "fact")
    date, year, month = _when(record, note)
    id = text(record, "id") if "id" in record else fact_id(date, sentence)
    targets = tuple(_target(one, sentence, note) for one in items(record, "targets"))
    links = tuple(
        Link(text(one, "title"), text(one, "label", empty=True))
        for one in objects(record, "links", Link, "a link")
    )
    make = _Questions(id, note)
    for one in objects(record, "questions", Question, "a question"):
        cloze = text(one, "cloze") if one.get("cloze") is not None else None
        make.add(
            text(one, "type"),
            text(one, "prompt"),
            one.get("answers"),
            cloze,
            generator=text(one, "generator") if "generator" in one else "file",
            checks=tuple(str(check) for check in items(one, "checks")),
            id=text(one, "id") if "id" in one else None,
        )
    revision = record.get("revision")
    return Fact(
        id,
        date,
        record["set_time"] if isinstance(record.get("set_time"), str) else None,
        year,
        month,
        sentence,
        text(record, "hook") if "hook" in record else sentence,
        text(record, "hook_raw") if "hook_raw" in record else sentence,
        targets,
        links,
        text(record, "source_page", empty=True) if "source_page" in record else "",
        None if revision is None else whole(revision, "revision"),
        text(record, "license", empty=True) if "license" in record else LICENSE,
        tuple(make.made),
        texts(record, "paraphrases"),
        texts(record, "reordered"),
        tuple(
            QuestionAnswer(text(one, "question"), text(one, "answer"))
            for one in objects(record, "generated_qas", QuestionAnswer, "a generated question")
        ),
        text(record, "article") if "article" in record else "",
    )


def _wikidyk(record: Record, note: Note) -> Fact:
    asked = _unpacked(record, "eval")
    if not isinstance(asked, dict):
        raise RecordError("schema", f"'eval' is {shown(asked)}, expected an object of types")
    rows = []
    for type, one in asked.items():
        if one is None:  # a column that other rows fill
            continue
        if not isinstance(one, dict):
            raise RecordError("schema", f"eval.{type} is {shown(one)}, expected an object")
        rows.append((type, text(one, "prompt"), one.get("answer"), one.get("masked_prompt")))
    return dataclasses.replace(
        _plain(record, training_text(text(record, "fact")), rows, note),
        paraphrases=_variants(record, "paraphrases", "paraphrased_fact"),
        reordered=_variants(record, "reordered_facts", "reordered_fact"),
        generated_qas=tuple(
            QuestionAnswer(text(one, "question"), text(one, "answer"))
            for one in _parts(record, "generated_qas")
        ),
        article=_article(record),
    )


def _unpacked(record: Record, key: str) -> Any:
    """Return the value at `key`; on the hub, nested values may be text that holds JSON."""
    value = record.get(key)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError("schema", f"{key!r} is text that is not JSON ({error})") from None


def _parts(record: Record, key: str) -> list[Record]:
    """Return the objects in the list at `key`, with any fields; none without a list."""
    parts = items({key: _unpacked(record, key)}, key)
    for part in parts:
        if not isinstance(part, dict):
            raise RecordError("schema", f"{key!r} holds {shown(part)}, expected objects")
    return parts


def _article(record: Record) -> str:
    """Return the page of the fact's target, an empty text if the record has none."""
    page = _unpacked(record, "bold_entity_page")
    if not isinstance(page, dict) or page.get("content") is None:
        return ""
    return text(page, "content", empty=True).strip()


def _variants(record: Record, key: str, field: str) -> tuple[str, ...]:
    """Return wordings of the fact, each a sentence to train on, as the fact itself is."""
    found = []
    for part in _parts(record, key):
        sentence = training_text(text(part, field))
        if not sentence.strip():
            raise RecordError("schema", f"{field!r} holds no words, expected a sentence")
        found.append(sentence)
    return tuple(found)


def _qa(record: Record, note: Note) -> Fact:
    rows = [("reliability", text(record, "input"), record["output"], None)]
    return _plain(record, training_text(text(record, "fact")), rows, note)


def _clean(record: Record, note: Note) -> Fact:
    if "fact" not in record:
        raise RecordError("schema", f"'fact' is missing, expected a record like {EXAMPLE}")
    rows = [("reliability", text(record, "question"), record["answer"], None)]
    return _plain(record, text(record, "fact"), rows, note)


def _plain(
    record: Record, sentence: str, rows: Sequence[tuple[str, str, Any, Any]], note: Note
) -> Fact:
    """Return a fact of a file that knows no targets; its hook is the text in the file."""
    if not sentence.strip():
        raise RecordError("schema", "'fact' holds no words, expected a sentence")
    date, year, month = _when(record, note)
    make = _Questions(fact_id(date, sentence), note)
    for type, prompt, answers, cloze in rows:
        make.add(type, prompt, answers, cloze)
    hook = record["fact"]
    return Fact(
        make.fact, date, None, year, month, sentence, hook, hook, questions=tuple(make.made)
    )


class _Questions:
    """The questions of one fact while they are read, each with its own id."""

    def __init__(self, fact: str, note: Note) -> None:
        self.fact = fact
        self.made: list[Question] = []
        self._note = note
        self._seen: Counter[str] = Counter()

    def add(
        self,
        type: str,
        prompt: str,
        answers: Any,
        cloze: Any,
        *,
        generator: str = "file",
        checks: tuple[str, ...] = (),
        id: str | None = None,
    ) -> None:
        known = next((one for one in EVERY_TYPE if one == type), None)
        if known is None:
            raise RecordError(
                "schema",
                f"unknown question type {shown(type)}{nearest(type, EVERY_TYPE)}, "
                f"expected one of {', '.join(EVERY_TYPE)}",
            )
        self._seen[type] += 1
        nth = self._seen[type]
        id = id or f"{self.fact}:{type}" + (f":{nth}" if nth > 1 else "")
        if any(one.id == id for one in self.made):
            raise RecordError("schema", f"two questions have the id {shown(id)}; ids are unique")
        golds = _answers(answers, type)
        longest = max(golds, key=lambda gold: len(gold.split()))
        if len(longest.split()) > MAX_ANSWER_WORDS:
            self._note(
                "answer_length",
                f"{type} answer of {len(longest.split())} words, {shown(longest)}, "
                f"expected at most {MAX_ANSWER_WORDS}",
            )
        if cloze is None and prompt.count(MASK) == 1:
            cloze = prompt
        if cloze is not None and (not isinstance(cloze, str) or cloze.count(MASK) != 1):
            self._note("cloze", f"{type} cloze {shown(cloze)}, expected one {MASK}; not used")
            cloze = None
        form = question_format(type, prompt)
        self.made.append(Question(id, known, form, prompt, cloze, golds, generator, checks))


def _answers(value: Any, type: str) -> tuple[str, ...]:
    golds = [value] if isinstance(value, str | bool | int | float) else value
    if not isinstance(golds, list | tuple) or not golds:
        raise RecordError(
            "no_answer", f"{type} question without answers (found {shown(value)}), expected a list"
        )
    made = []
    for gold in golds:
        alias = str(gold) if isinstance(gold, bool | int | float) else gold
        if not isinstance(alias, str) or not encodes(alias):
            raise RecordError("schema", f"{type} answer {shown(gold)}, expected text")
        if not alias.strip():
            raise RecordError("empty_answer", f"empty {type} answer; it would match every output")
        made.append(alias)
    return tuple(made)


def _when(record: Record, note: Note) -> tuple[str | None, int | None, int | None]:
    """Return date, year and month; note what cannot be read, and return None for it."""
    written = record.get("date")
    if isinstance(written, datetime.date):  # of Parquet, also with a time
        written = written.isoformat()[:10]
    date = parse_date(written) if isinstance(written, str) else None
    if written not in (None, "") and date is None:
        note("date", f"date {shown(written)}, expected 2022-01-31 or 31 January 2022")
    year = number(record.get("year"))
    if record.get("year") is not None and year is None:
        note("year", f"year {shown(record['year'])}, expected a number")
    month = record.get("month")
    if isinstance(month, str) and month.strip().lower() in MONTHS:
        month = MONTHS.index(month.strip().lower()) + 1
    nth = number(month)
    if month is not None and nth not in range(1, 13):
        note("date", f"month {shown(record['month'])}, expected 1 to 12 or its English name")
        nth = None
    if date is None:
        return None, year, nth
    return date.isoformat(), year or date.year, nth or date.month


def _target(value: Any, sentence: str, note: Note) -> Target:
    one = object_of(value, Target, "a target")
    start, end = whole(one.get("start"), "start"), whole(one.get("end"), "end")
    target = Target(text(one, "title"), text(one, "label", empty=True), start, end)
    if sentence[start:end] != target.label:
        note("target", f"target {shown(target.label)} is not at {start}..{end} of its fact")
    return target


def object_of(value: Any, kind: type, what: str) -> Record:
    """Return the value if it is an object with fields of `kind` only."""
    if not isinstance(value, dict):
        raise RecordError("schema", f"{shown(value)} where {what} is expected, an object")
    known = [field.name for field in dataclasses.fields(kind)]
    for key in value:
        if key not in known:
            near = nearest(str(key), known)
            raise RecordError("schema", f"unknown key {shown(key)} of {what}{near}")
    return value


def objects(record: Record, key: str, kind: type, what: str) -> list[Record]:
    """Return the objects in the list at `key`, with fields of `kind` only."""
    return [object_of(one, kind, what) for one in items(record, key)]


def items(record: Record, key: str) -> list[Any]:
    """Return the list at `key`, an empty one if there is none."""
    value = record.get(key)
    if value is not None and not isinstance(value, list | tuple):
        raise RecordError("schema", f"{key!r} is {shown(value)}, expected a list")
    return list(value or ())


def texts(record: Record, key: str) -> tuple[str, ...]:
    """Return the texts in the list at `key`, none of them blank; none without a list."""
    listed = {f"{key}[{n}]": one for n, one in enumerate(items(record, key))}
    return tuple(text(listed, place) for place in listed)


def text(record: Record, key: str, *, empty: bool = False) -> str:
    """Return the text at `key`, which must hold more than blanks unless `empty`."""
    value = record.get(key)
    if not isinstance(value, str) or not (empty or value.strip()):
        found = f"is {shown(value)}" if key in record else "is missing"
        raise RecordError("schema", f"{key!r} {found}, expected text")
    if not encodes(value):
        raise RecordError("schema", f"{key!r} is {shown(value)}, half of a character; mend it")
    return value


def encodes(text: str) -> bool:
    """Return whether a text can be encoded: JSON can also write lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(value: Any) -> int | None:
    """Return a whole number, also one written as text or as 2022.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else None
    return value if isinstance(value, int) else None


def whole(value: Any, key: str) -> int:
    """Return the value as a nonnegative integer; `key` names it in the error message."""
    read = number(value)
    if read is None or read < 0:
        raise RecordError("schema", f"{key!r} is {shown(value)}, expected a whole number from 0")
    return read


def shown(value: Any) -> str:
    """Return a value for a message: on one line, without control characters, not long."""
    quoted = repr(value) if isinstance(value, str) and encodes(value) else ascii(value)
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."
