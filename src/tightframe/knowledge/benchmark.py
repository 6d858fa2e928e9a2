"""Facts and their questions, read from a file of any known format and checked once, here."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.knowledge.data_files import FileEntry, read_entries, write_records
from tightframe.knowledge.fact_formats import EXAMPLE, KEYS, RecordError, format_of, to_fact
from tightframe.knowledge.facts import Fact, FactSet

LISTED = 20  # faults that are named; the others are counted


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of one record in a file."""

    place: str  # "line 12"
    kind: str  # "schema", "json", "empty_answer", "no_answer"; "date", "answer_length", ...
    found: str  # and what was expected
    fatal: bool  # otherwise it is refused only if strict


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Facts of a file, and its faults."""

    path: Path
    format: str  # a name of `formats.KEYS`
    facts: tuple[Fact, ...]  # of the records that can be used
    faults: tuple[Fault, ...]  # in the order of the file

    def counts(self) -> dict[str, int]:
        """Return the number of faults of each kind."""
        return dict(Counter(fault.kind for fault in self.faults))

    def listed(self) -> Iterator[str]:
        """Yield one line for each of the first faults, fatal ones first, then a count of all."""
        for fault in sorted(self.faults, key=lambda fault: not fault.fatal)[:LISTED]:
            yield f"{self.path}: {fault.place}: {fault.found}"
        if len(self.faults) > LISTED:
            kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(self.counts().items()))
            yield f"{self.path}: {len(self.faults):,} faults in all ({kinds})"

    def refuse(self, *, strict: bool, listed: bool = False) -> None:
        """Raise UserError if a fault is fatal; with `strict` every fault is.

        Args:
            strict: Refuse every fault.
            listed: The faults have been listed; otherwise the message says how to list them.
        """
        fatal = [fault for fault in self.faults if fault.fatal or strict]
        if fatal:
            others = f", and {len(fatal) - 1:,} more" if len(fatal) > 1 else ""
            remedy = "mend the file" if any(f.fatal for f in fatal) else "mend it or be less strict"
            hint = "" if listed else " (`tightframe knowledge validate` lists what is wrong)"
            raise UserError(
                f"{self.path}: {fatal[0].place}: {fatal[0].found}{others}; {remedy}{hint}"
            )


def read_benchmark(path: str | Path) -> Benchmark:
    """Read the facts of a file and its faults; refuse a file only if no format fits."""
    path = Path(path)
    entries = read_entries(path)
    names = [name for entry in entries if (name := format_of(entry.value)) is not None]
    # A record that lacks the keys of its file's format may still have those of a bare fact.
    name = next((name for name in names if name != "facts"), names[0] if names else None)
    if name is None:
        broken = next((entry for entry in entries if entry.problem), None)
        if broken is not None:
            raise UserError(
                f"{path}: {broken.place}: {broken.problem}; expected records like {EXAMPLE}, a "
                ".csv file with these columns, or a .txt file with one sentence per line"
            )
        if not entries:
            raise UserError(
                f"{path}: holds no facts; expected one record per line, a list, or Parquet"
            )
        raise UserError(
            f"{path}: {entries[0].place}: {_keys(entries[0].value)}, expected those of a format: "
            + "; ".join(f"{name} {' and '.join(keys)}" for name, keys in KEYS.items())
            + f"; for example {EXAMPLE}"
        )
    reading = _Reading(name)
    for entry in entries:
        reading.add(entry)
    return Benchmark(path, name, tuple(reading.facts), tuple(reading.faults))


def load(path: str | Path, *, strict: bool = False) -> FactSet:
    """Load the facts of a file in any known format, see `load_benchmark`."""
    return FactSet(load_benchmark(path, strict=strict), Path(path))


def load_benchmark(path: str | Path, *, strict: bool = False) -> list[Fact]:
    """Load the facts of a file in any known format; refuse a file with a fatal fault.

    Fatal are what is no record of the format, empty answers and questions without answers; with
    `strict` also answers over 8 words, years and dates that cannot be read, and ids that occur
    twice. Otherwise such facts are kept: without the date, and under an id of their own.
    """
    benchmark = read_benchmark(path)
    benchmark.refuse(strict=strict)
    return list(benchmark.facts)


def read_facts(path: str | Path) -> list[Fact]:
    """Read the facts of a file that `write_facts` wrote; refuse other formats."""
    benchmark = read_benchmark(path)
    if benchmark.format != "tightframe":
        raise UserError(
            f"{path}: is in the format {benchmark.format}, expected facts of ours, "
            "as `tightframe knowledge questions` writes them"
        )
    benchmark.refuse(strict=False)
    return list(benchmark.facts)


def write_facts(path: str | Path, facts: Iterable[Fact]) -> None:
    """Write facts as JSON lines, the file whole or not at all."""
    write_records(Path(path), (fact.to_dict() for fact in facts))


class _Reading:
    """Facts and faults of a file while its entries are read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts: list[Fact] = []
        self.faults: list[Fault] = []
        self._place = ""  # of the entry at hand
        self._places: dict[str, str] = {}  # where an id was seen first
        self._theirs: dict[tuple[str, str], str] = {}  # the same for the file's own ids
        self._asked: dict[str, str] = {}  # the same for questions

    def add(self, entry: FileEntry) -> None:
        """Add an entry to the facts, or to the faults."""
        self._place = entry.place
        try:
            if entry.problem:
                raise RecordError("json", entry.problem)
            name = format_of(entry.value)
            bare = (name, self.name) == ("facts", "qa-clean")  # a fact without a question
            if name is None or not (bare or name == self.name):
                wanted = " and ".join(KEYS[self.name])
                found = f"{_keys(entry.value)}, expected {wanted} as in the records before"
                raise RecordError("schema", found)
            fact = self._distinct(entry, to_fact(entry.value, name, self._note))
        except RecordError as error:
            self.faults.append(Fault(entry.place, error.kind, str(error), fatal=True))
            return
        self.facts.append(fact)

    def _distinct(self, entry: FileEntry, fact: Fact) -> Fact:
        """Return the fact under an id that no earlier one has: outputs are joined by ids."""
        same_id = self._seen_before(entry)
        same_fact = self._places.get(fact.id, "")
        id, number = fact.id, 1
        while id in self._places:
            number += 1
            id = f"{fact.id}-{number}"
        kept = f"; kept as {id}" if id != fact.id else ""
        if same_id:
            self._note(
                "duplicate_id", f"the same id as on {same_id}, expected ids that differ{kept}"
            )
        elif same_fact:
            self._note(
                "duplicate_id",
                f"the same date and fact as on {same_fact}, expected each fact once{kept}",
            )
        fact = _renamed(fact, id)
        for question in fact.questions:
            if question.id in self._asked:
                place = self._asked[question.id]
                raise RecordError(
                    "schema", f"question id {question.id!r} is one of {place}; ids are unique"
                )
        self._places[fact.id] = entry.place
        self._asked |= {question.id: entry.place for question in fact.questions}
        return fact

    def _note(self, kind: str, found: str) -> None:
        self.faults.append(Fault(self._place, kind, found, fatal=False))

    def _seen_before(self, entry: FileEntry) -> str:
        """Return the place of an earlier record with the same id in the file, if any."""
        theirs = entry.value.get("case_id", entry.value.get("id"))
        if theirs is None:
            return ""
        key = (entry.part, str(theirs))
        place = self._theirs.get(key, "")
        self._theirs.setdefault(key, entry.place)
        return place


def _renamed(fact: Fact, id: str) -> Fact:
    """Return the fact and its questions under another id."""
    if id == fact.id:
        return fact
    questions = tuple(
        dataclasses.replace(one, id=id + one.id.removeprefix(fact.id))
        if one.id.startswith(fact.id)
        else one
        for one in fact.questions
    )
    return dataclasses.replace(fact, id=id, questions=questions)


def _keys(value: Any) -> str:
    if not isinstance(value, dict):
        return f"found {type(value).__name__}, no record"
    names = ", ".join(ascii(key)[1:-1] for key in list(value)[:8])
    return f"found the keys {names or '(none)'}"
