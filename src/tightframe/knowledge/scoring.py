"""Outputs and a benchmark to scores: joined by ids, then averaged by type, date and position.

A table of questions has a row a question of the benchmark: what it is (`about`), then its scores
(`SCORES`), the mean over the runs that answered it; NaN where none did.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from tightframe.errors import UserError
from tightframe.knowledge.fact_intervals import Bounds
from tightframe.knowledge.paired import Difference, Estimate, differences, estimates
from tightframe.knowledge.records import TYPES, Fact, Output
from tightframe.knowledge.scores import AnswerScores, score_answer

By: TypeAlias = Literal["type", "year", "month", "day", "position"]

PERCENT = AnswerScores._fields
WORDS = "output_words"  # of the raw text: what a long output gains in match_paper
SCORES = (*PERCENT, WORDS)
BOUNDS: dict[str, Bounds] = {**dict.fromkeys(PERCENT, (0.0, 100.0)), WORDS: None}
POSITIONS = ("front", "back", "not in fact")
UNDATED = "no date"

# Of the scores of one answer: percent, but for the words of the output.
SCALE = np.array([100.0 if name.startswith(("match", "em")) else 1.0 for name in SCORES])


class Group(NamedTuple):
    """The scores of some questions: one type, or one type of one day."""

    name: str  # "all", a type, or "<type>/<value>" with a year, month, day or position
    scores: dict[str, Estimate]  # keyed by SCORES; matches in percent
    missing: int  # questions that a run left without output, counted for each run


class Comparison(NamedTuple):
    """Two arms on the questions that both answered."""

    name: str
    scores: dict[str, Difference]  # in points, and words
    left_out: int  # questions that one of them did not answer


def position(answers: Sequence[str], fact: str) -> str:
    """Where the first alias that stands in the fact begins: before half of its characters, or not.

    Letter by letter: an answer in another spelling or case is "not in fact".
    """
    starts = (fact.find(alias) for alias in answers)
    start = next((start for start in starts if start >= 0), None)
    if start is None:
        return "not in fact"
    return "front" if start < len(fact) / 2 else "back"


def score_outputs(
    facts: Sequence[Fact],
    runs: Mapping[str, Sequence[Output]],
    *,
    allow_missing: bool = False,
    types: Sequence[str] = TYPES,
) -> pd.DataFrame:
    """Score what the runs of one arm (its seeds) said; a row a question of the benchmark.

    Args:
        facts: The benchmark.
        runs: Outputs of each run, by the name that a message should call it. Their order and the
            order of outputs does not matter.
        allow_missing: Leave questions without output out, instead of refusing.
        types: Questions to score; outputs for others are read over.
    """
    table = about(facts)
    wanted = table["type"].isin(types).to_numpy()
    rows = {question: row for row, question in enumerate(table["question"])}
    answers = [question.answers for fact in facts for question in fact.questions]
    totals = np.zeros((len(table), len(SCORES)))  # (Q, S)
    answered = np.zeros(len(table), dtype=np.int64)
    for name in sorted(runs):
        outputs = _of_benchmark(name, runs[name], table, rows)
        lacking = [q for q in table["question"][wanted] if q not in outputs]
        if lacking and not allow_missing:
            raise UserError(
                f"{name}: {len(lacking):,} of the benchmark's {wanted.sum():,} questions have no "
                f"output, the first is {lacking[0]}; answer them, or leave them out with "
                "--allow-missing"
            )
        for question, output in outputs.items():
            row = rows[question]
            if wanted[row]:
                scores = score_answer(answers[row], output.text)
                totals[row] += (*scores, len(output.text.split()))
                answered[row] += 1
    with np.errstate(invalid="ignore"):  # 0 / 0 of what no run answered
        means = totals * SCALE / answered[:, None]
    table[list(SCORES)] = means
    table["missing"] = len(runs) - answered
    return table[wanted].reset_index(drop=True)


def about(facts: Sequence[Fact]) -> pd.DataFrame:
    """What each question is: ids, type, dates as far as known, and where its answer stands."""
    records: list[dict[str, Any]] = []
    for fact in facts:
        month = f"{fact.year}-{fact.month:02}" if fact.year and fact.month else None
        dates = {
            "year": str(fact.year) if fact.year else UNDATED,
            "month": (fact.date[:7] if fact.date else month) or UNDATED,
            "day": fact.date or UNDATED,
        }
        for question in fact.questions:
            where = position(question.answers, fact.fact)
            known = {"question": question.id, "fact": fact.id, "type": question.type}
            records.append(known | dates | {"position": where})
    if not records:
        raise UserError("the benchmark has no questions; `tightframe knowledge questions` asks")
    table = pd.DataFrame(records)
    if (twice := table["question"][table["question"].duplicated()]).size:
        raise UserError(
            f"the benchmark has {len(twice):,} questions whose id is another's, the first is "
            f"{twice.iloc[0]}; outputs are joined by ids: give each question its own"
        )
    return table


def average(table: pd.DataFrame, by: Sequence[By] = ("type",), *, seed: int = 0) -> list[Group]:
    """Means and intervals of the questions of each group; see `groups`."""
    found = []
    codes = _fact_numbers(table)
    for name, chosen in groups(table, by):
        part = table.iloc[chosen]
        values = part[list(SCORES)].to_numpy()
        known = ~np.isnan(values[:, 0])
        means = estimates(
            values[known], codes[chosen][known], [BOUNDS[name] for name in SCORES], seed=seed
        )
        found.append(Group(name, dict(zip(SCORES, means, strict=True)), int(part["missing"].sum())))
    return found


def compare(
    ours: pd.DataFrame, theirs: pd.DataFrame, by: Sequence[By] = ("type",), *, seed: int = 0
) -> list[Comparison]:
    """Ours less theirs in each group, on the questions that both answered.

    Args:
        ours: Scores of one arm on a benchmark.
        theirs: Those of another on the same one.
        by: See `groups`.
        seed: Of the resamples.
    """
    if not ours["question"].equals(theirs["question"]):
        raise ValueError("the arms were scored on different questions")
    found = []
    codes = _fact_numbers(ours)
    one, other = (table[list(SCORES)].to_numpy() for table in (ours, theirs))
    both = ~np.isnan(one[:, 0]) & ~np.isnan(other[:, 0])
    for name, chosen in groups(ours, by):
        kept = chosen[both[chosen]]
        apart = differences(
            one[kept], other[kept], codes[kept], [BOUNDS[name] for name in SCORES], seed=seed
        )
        scores = dict(zip(SCORES, apart, strict=True))
        found.append(Comparison(name, scores, len(chosen) - len(kept)))
    return found


def groups(table: pd.DataFrame, by: Sequence[By]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and row numbers: all questions, those of each type, and each of these by date etc.

    Args:
        table: Of questions.
        by: What to divide all questions and each type by, beside the type.
    """
    everything = np.arange(len(table))
    types = table["type"].to_numpy()
    present = [kind for kind in TYPES if (types == kind).any()]
    kinds: list[tuple[str, np.ndarray]] = [("all", everything)] if len(present) > 1 else []
    kinds += [(kind, everything[types == kind]) for kind in present]
    yield from kinds
    for column in dict.fromkeys(by):
        for kind, rows in kinds if column != "type" else ():
            values = table[column].to_numpy()[rows]
            for value in POSITIONS if column == "position" else sorted(set(values)):
                if (chosen := rows[values == value]).size:
                    yield f"{kind}/{value}", chosen


def _of_benchmark(
    name: str, outputs: Sequence[Output], table: pd.DataFrame, rows: Mapping[str, int]
) -> dict[str, Output]:
    """The outputs by question; other questions than the benchmark's are refused."""
    found = {output.question_id: output for output in outputs}
    if len(found) < len(outputs):
        raise UserError(
            f"{name}: {len(outputs):,} outputs for {len(found):,} questions, expected one each; "
            "score seeds as files of their own"
        )
    foreign = [question for question in found if question not in rows]
    if foreign:
        raise UserError(
            f"{name}: outputs for {len(found):,} questions, the benchmark has {len(rows):,}, and "
            f"{len(found) - len(foreign):,} are the same; {foreign[0]} is not in it; score them on "
            "the benchmark that they answer"
        )
    of_facts, types = table["fact"].to_numpy(), table["type"].to_numpy()
    for question, output in found.items():
        expected = of_facts[rows[question]], types[rows[question]]
        if (output.fact_id, output.type) != expected:
            raise UserError(
                f"{name}: the output for {question} is of fact {output.fact_id}, {output.type}; "
                f"the benchmark has {expected[0]}, {expected[1]}; answer the benchmark again"
            )
    return found


def _fact_numbers(table: pd.DataFrame) -> np.ndarray:
    """Numbers in the order of the ids, so that the order of the lines changes no interval."""
    return np.unique(table["fact"].to_numpy(dtype=str), return_inverse=True)[1]
