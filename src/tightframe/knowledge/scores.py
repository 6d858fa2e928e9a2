r"""Scores of answers: of one answer, of the outputs of one arm, and the difference of two arms.

With c the words that two texts have in common, as often as both have them, and m, n the numbers of
their words,

.. math:: F_1 = 100 \cdot \frac{2 c}{m + n}

in percent, 0 where c = 0. Words are those of `published_form` for the published scores, of
`normal_form` for the corrected ones.

A table of questions has one row per question of the benchmark: first what `about` returns, then its
scores (`SCORES`), the mean over the runs that answered it; NaN if none did.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tightframe.errors import UserError
from tightframe.knowledge.facts import EVERY_TYPE, Fact, Output
from tightframe.knowledge.intervals import Bounds, Difference, Estimate, differences, estimates
from tightframe.knowledge.options import By

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 32  # words of an answer that are read

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_INVERTED = re.compile(r"(?<=\w),\s*(?:a|an|the)\s*$", re.IGNORECASE)
_WORDS_THAT_GO = frozenset({"a", "an", "the"})
# A blank keeps 3\u00bd from 31/2 and 10\u00b2 from 102 once NFKC has made plain digits of them.
_RAISED = re.compile("(?<=\\d)(?=[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215f])")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf", "'"))
_MARKS = re.compile(  # after `_Canonical`: what is not kept (group 1) is dropped or a blank
    r"((?<=\d)\.(?=\d)"  # the point of 3.5
    r"|(?<![\w.])\.(?=\d)"  # of .5
    r"|(?<!\w)-(?='?\.?\d)"  # the sign of -5 and -$5, but not the hyphen of covid-19
    r"|(?<!\d)\+(?=\.?\d))"  # of +5
    r"|(?<=\d),(?=\d{3}(?!\d))"  # the comma of 1,000
    r"|((?<=\d)[-+.,']+(?=\d))"  # 1914-1918 and 9/11 are two numbers each
    r"|[-+.,']"
)


class AnswerScores(NamedTuple):
    """The scores of one answer."""

    match_paper: int  # 1 if an alias is a part of the raw text, same case: long texts gain
    f1_paper: float  # percent, the first alias against the raw text: other aliases count nothing
    match_norm: int  # 1 if an alias's words stand in a row in the answer's
    em_norm: int  # 1 if an alias has the answer's words and no others
    f1_max: float  # percent, the best over the aliases


def score_answer(answers: Sequence[str], prediction: str) -> AnswerScores:
    """Score a model's answer against the gold aliases.

    `match_paper` and `f1_paper` are as published, of the raw text; the others read the first line
    of the answer up to its 32nd word (`cut`), and every alias. For `match_norm` an alias may also
    stand in the answer with all its articles: "Serie A" in "Serie A is a league".

    Args:
        answers: Aliases, any of which is right; the published F1 knows the first one only.
        prediction: The raw text, uncut.

    Source: arXiv:2505.12306 for the published two; words are normalised as for SQuAD
    (Rajpurkar et al. 2016).
    """
    if isinstance(answers, str):
        raise TypeError(f"answers must be a list of aliases, got the text {answers!r}")
    if not answers or not all(alias.strip() for alias in answers):
        raise ValueError(f"an empty alias would match everything, got answers = {list(answers)}")
    line = cut(prediction)
    said, every = normal_form(line), _canonical_words(line)
    gold = [normal_form(alias) for alias in answers]
    whole = [_canonical_words(alias) for alias in answers]
    return AnswerScores(
        match_paper=int(any(alias in prediction for alias in answers)),
        f1_paper=word_f1(published_form(answers[0]), published_form(prediction)),
        match_norm=int(
            any(f" {words} " in f" {said} " for words in gold)
            or any(f" {words} " in f" {every} " for words in whole if not _only_articles(words))
        ),
        em_norm=int(said in gold),
        f1_max=max(word_f1(alias, said) for alias in gold),
    )


def published_form(text: str) -> str:
    """Lower-case `text` and drop ASCII punctuation and the words a, an, the; it may be empty."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normal_form(text: str) -> str:
    """Return the words by which answers are compared, with single blanks between them.

    Two texts have one normal form if they differ only in

    - case (full case folding), Unicode's compatibility forms (NFKC) and its invisible characters,
      the script of decimal digits;
    - the articles a, an, the, wherever another word follows or after a last comma: "Serie A" keeps
      its A, "Salt Cellar, The" has no article;
    - punctuation, that of Unicode and of ASCII. Numbers keep their sign and their point, and lose
      the commas between thousands; other marks between two digits part two numbers.

    Accents, other symbols and number words stay. A text without any word is compared as it is, but
    for case, blanks and a final full stop.
    """
    words = _canonical_words(_INVERTED.sub("", text)).split()
    end = max((i + 1 for i, word in enumerate(words) if word not in _WORDS_THAT_GO), default=0)
    kept = [word for word in words[:end] if word not in _WORDS_THAT_GO] + words[end:]
    if kept:
        return " ".join(kept)
    raw = " ".join(text.casefold().split())
    return raw.rstrip(".") or raw


def cut(text: str) -> str:
    """Return the first line of an answer, up to its 32nd word."""
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()[:LONGEST]) if lines else ""


def word_f1(one: str, other: str) -> float:
    """Compute F1 in percent of two normalised texts."""
    ours, theirs = one.split(), other.split()
    common = (Counter(ours) & Counter(theirs)).total()
    return 200 * common / (len(ours) + len(theirs)) if common else 0.0


class _Canonical(dict[int, str]):
    """Map from a character to "-", "+", ".", ",", "'" for other marks, "" or to itself."""

    def __missing__(self, code: int) -> str:
        self[code] = value = self._value(chr(code))
        return value

    @staticmethod
    def _value(character: str) -> str:
        category = unicodedata.category(character)
        if category == "Nd":
            return str(unicodedata.decimal(character))
        if category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:  # invisible; picks a glyph
            return ""
        if category == "Pd" or character == "\u2212":
            return "-"
        if character in "\u066b\u066c":  # Arabic decimal and thousands separators
            return ".,"[ord(character) - 0x066B]
        if character in "+.,":
            return character
        mark = category[0] == "P" or character in string.punctuation or character == "\u2044"
        return "'" if mark else character


_CANONICAL = _Canonical()


def _canonical_words(text: str) -> str:
    """Return the words of `text` in one spelling, articles kept."""
    text = unicodedata.normalize("NFKC", _RAISED.sub(" ", text).translate(_APOSTROPHES))
    text = unicodedata.normalize("NFKC", text.casefold()).translate(_CANONICAL)
    return " ".join(_MARKS.sub(lambda mark: mark[1] or (" " if mark[2] else ""), text).split())


def _only_articles(words: str) -> bool:
    return _WORDS_THAT_GO.issuperset(words.split())


PERCENT = AnswerScores._fields
WORDS = "output_words"  # of the raw text: what a long output gains in match_paper
SCORES = (*PERCENT, WORDS)
BOUNDS: dict[str, Bounds] = {**dict.fromkeys(PERCENT, (0.0, 100.0)), WORDS: None}
POSITIONS = ("front", "back", "not in fact")
UNDATED = "no date"

# Of the scores of one answer: percent, but for the words of the output.
SCALE = np.array([100.0 if name.startswith(("match", "em")) else 1.0 for name in SCORES])


class ScoreGroup(NamedTuple):
    """The scores of some questions: one type, or one type of one day."""

    name: str  # "all", a type, or "<type>/<value>" with a year, month, day or position
    scores: dict[str, Estimate]  # keyed by SCORES; matches in percent
    missing: int  # questions that a run left without output, counted for each run


class ArmComparison(NamedTuple):
    """Two arms on the questions that both answered."""

    name: str
    scores: dict[str, Difference]  # in points, and words
    left_out: int  # questions that one of them did not answer


def position(answers: Sequence[str], fact: str) -> str:
    """Return the half of the fact, front or back, where its first alias begins.

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
    types: Sequence[str] = EVERY_TYPE,
) -> "pd.DataFrame":
    """Score the outputs of the runs of one arm (its seeds); one row per question of the benchmark.

    Args:
        facts: The benchmark.
        runs: Outputs of each run, by the name that messages use. The order of runs and outputs
            does not matter.
        allow_missing: Leave questions without output out, instead of refusing.
        types: Question types to score; outputs for other types are ignored.
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


def about(facts: Sequence[Fact]) -> "pd.DataFrame":
    """Return ids, type, known dates and position of the answer of each question."""
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
    import pandas as pd

    table = pd.DataFrame(records)
    if (twice := table["question"][table["question"].duplicated()]).size:
        raise UserError(
            f"the benchmark has {len(twice):,} questions whose id is another's, the first is "
            f"{twice.iloc[0]}; outputs are joined by ids: give each question its own"
        )
    return table


def average(
    table: "pd.DataFrame", by: Sequence[By] = ("type",), *, seed: int = 0
) -> list[ScoreGroup]:
    """Return means and intervals over the questions of each group; see `groups`."""
    found = []
    codes = _fact_numbers(table)
    for name, chosen in groups(table, by):
        part = table.iloc[chosen]
        values = part[list(SCORES)].to_numpy()
        known = ~np.isnan(values[:, 0])
        means = estimates(
            values[known], codes[chosen][known], [BOUNDS[name] for name in SCORES], seed=seed
        )
        found.append(
            ScoreGroup(name, dict(zip(SCORES, means, strict=True)), int(part["missing"].sum()))
        )
    return found


def compare(
    ours: "pd.DataFrame", theirs: "pd.DataFrame", by: Sequence[By] = ("type",), *, seed: int = 0
) -> list[ArmComparison]:
    """Return the difference of two arms in each group, on the questions that both answered.

    Args:
        ours: Scores of one arm on a benchmark.
        theirs: Scores of another arm on the same benchmark.
        by: See `groups`.
        seed: Seed of the resamples.
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
        found.append(ArmComparison(name, scores, len(chosen) - len(kept)))
    return found


def groups(table: "pd.DataFrame", by: Sequence[By]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and row numbers: all questions, each type, and each of these by date etc.

    Args:
        table: Table of questions.
        by: Further divisions of all questions and of each type.
    """
    everything = np.arange(len(table))
    types = table["type"].to_numpy()
    present = [kind for kind in EVERY_TYPE if (types == kind).any()]
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
    name: str, outputs: Sequence[Output], table: "pd.DataFrame", rows: Mapping[str, int]
) -> dict[str, Output]:
    """Return the outputs by question; refuse other questions than the benchmark's."""
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


def _fact_numbers(table: "pd.DataFrame") -> np.ndarray:
    """Return numbers of facts in the order of ids: the order of lines changes no interval."""
    return np.unique(table["fact"].to_numpy(dtype=str), return_inverse=True)[1]
