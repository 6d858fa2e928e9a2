"""Scores of the arms of a study, their differences, and the decision by a rule fixed before.

All of it is made from one table of questions with `COLUMNS`, one row per run, form and question. A
form is how a fact is asked for (`asking`); scores are percent, NaN where a form has none. Several
seeds of an arm are averaged question by question; intervals are over facts. Nothing here knows what
an arm is: swapped arms get the opposite difference.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pydantic
from pydantic import PositiveFloat, PositiveInt

from tightframe.knowledge.intervals import (
    LEVEL,
    PERCENT,
    RESAMPLES,
    Bounds,
    Difference,
    Estimate,
    differences,
    estimates,
    power,
    verdict,
)
from tightframe.knowledge.ranking import CORRECT, RANKED
from tightframe.knowledge.scores import BOUNDS, POSITIONS
from tightframe.knowledge.scores import SCORES as OF_ANSWERS

CELL = ("n_facts", "exposures")  # what arms must share to be compared
ABOUT = ("arm", "n_facts", "exposures", "seed", "run", "form", "rule")
COLUMNS = (
    *ABOUT,
    *("question_id", "fact_id", "type", "position", "text", "gold"),
    *OF_ANSWERS,
    *("rank", CORRECT),
)
SUBSETS = ("all", *POSITIONS)


class Resampling(NamedTuple):
    """Number of resamples, level and seed of all intervals."""

    resamples: int = RESAMPLES
    level: float = LEVEL
    seed: int = 0


class ArmDifference(NamedTuple):
    """Difference of two arms on the questions and seeds that both have."""

    scores: dict[str, Difference]  # first less second
    seeds: int


def scores_of(form: str) -> tuple[str, ...]:
    """Return the names of the scores that a form has."""
    return (CORRECT,) if form == RANKED else OF_ANSWERS


def score_table(questions: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Return one row per arm, form, subset and score, with its interval."""
    rows: list[dict[str, Any]] = []
    for about, cell in _of_forms(questions):
        names = scores_of(about["form"])
        for arm in sorted(set(cell["arm"])):
            of_arm = cell[cell["arm"] == arm]
            means = _averaged(of_arm, names)
            for subset, kept in _subsets(means):
                found = estimates(
                    kept[list(names)].to_numpy(float),
                    _facts(kept),
                    _bounds(names),
                    **resampling._asdict(),
                )
                for name, one in zip(names, found, strict=True):
                    numbers: dict[str, Any] = {"value": one.value, "low": one.low}
                    numbers |= {"high": one.high}
                    numbers |= {"n": one.n, "n_facts_scored": one.n_facts}
                    numbers |= {"seeds": of_arm["seed"].nunique(), "reason": one.reason}
                    rows.append({"arm": arm} | about | {"subset": subset, "score": name} | numbers)
    return pd.DataFrame(rows)


def arm_differences(questions: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Return one row per pair of arms, form, subset and score: the first less the second, by name.

    Left out are pairs whose forms were scored by different rules: those numbers mean two things.
    """
    rows: list[dict[str, Any]] = []
    for about, cell in _of_forms(questions):
        form = about["form"]
        for first, second in itertools.combinations(sorted(set(cell["arm"])), 2):
            for subset in SUBSETS:
                found = compare_arms(
                    cell, first, second, form=form, subset=subset, resampling=resampling
                )
                if found is None:
                    continue
                for name, (one, signs) in found.scores.items():
                    which = {"subset": subset, "score": name, "first": first, "second": second}
                    numbers = {"d": one.value, "low": one.low, "high": one.high}
                    counts = signs._asdict() | {"n": one.n, "n_facts_scored": one.n_facts}
                    counts |= {"seeds": found.seeds, "reason": one.reason}
                    rows.append(about | which | numbers | counts)
    return pd.DataFrame(rows)


def compare_arms(
    questions: pd.DataFrame,
    first: str,
    second: str,
    *,
    form: str,
    subset: str = "all",
    resampling: Resampling = Resampling(),  # noqa: B008 - a tuple
) -> ArmDifference | None:
    """Compare two arms on a form; None if they share no question, seed or scoring rule.

    Only seeds that both arms have take part: equal seeds saw equal examples in equal order.

    Args:
        questions: Of one number of facts and exposures.
        first: Name of an arm.
        second: Name of the arm whose scores are subtracted.
        form: How the facts were asked for.
        subset: "all", or the position of the answer in the fact.
        resampling: How the intervals are made.
    """
    names = scores_of(form)
    asked = questions[questions["form"] == form]
    one, other = (asked[asked["arm"] == arm] for arm in (first, second))
    seeds = sorted(set(one["seed"]) & set(other["seed"]))
    if not seeds or set(one["rule"]) != set(other["rule"]):
        return None
    ours, theirs = (_averaged(arm[arm["seed"].isin(seeds)], names) for arm in (one, other))
    if subset != "all":
        ours = ours[ours["position"] == subset]
    both = ours.index.intersection(theirs.index).sort_values()
    if both.empty:
        return None
    ours, theirs = ours.loc[both], theirs.loc[both]
    found = differences(
        ours[list(names)].to_numpy(float),
        theirs[list(names)].to_numpy(float),
        _facts(ours),
        _bounds(names),
        **resampling._asdict(),
    )
    return ArmDifference(dict(zip(names, found, strict=True)), len(seeds))


def cells(table: pd.DataFrame) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """Yield facts, exposures and rows of each such cell, within which arms may be compared."""
    pairs = zip(*(table[name].tolist() for name in CELL), strict=True) if len(table) else ()
    for n_facts, exposures in sorted(set(pairs)):
        yield n_facts, exposures, at_cell(table, n_facts, exposures)


def at_cell(table: pd.DataFrame, n_facts: int, exposures: int) -> pd.DataFrame:
    """Return the rows of one number of facts and exposures; all tables of a study have both."""
    if table.empty:
        return table
    return table[(table["n_facts"] == n_facts) & (table["exposures"] == exposures)]


def _of_forms(questions: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    for n_facts, exposures, cell in cells(questions):
        for form in sorted(set(cell["form"])):
            about = {"n_facts": n_facts, "exposures": exposures, "form": form}
            yield about, cell[cell["form"] == form]


def _averaged(of_arm: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Return one row per question in the order of their ids, the scores averaged over seeds."""
    how = {"fact_id": "first", "position": "first"} | dict.fromkeys(scores, "mean")
    return of_arm.groupby("question_id").agg(how)


def _subsets(means: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "all", means
    for position in POSITIONS:
        if len(kept := means[means["position"] == position]):
            yield position, kept


def _bounds(scores: Sequence[str]) -> list[Bounds]:
    return [BOUNDS.get(name, PERCENT) for name in scores]


def _facts(means: pd.DataFrame) -> np.ndarray:
    """Return the number of each row's fact in the order of ids: no interval depends on rows."""
    return np.unique(means["fact_id"].to_numpy(dtype=str), return_inverse=True)[1]


Form: TypeAlias = Literal["cloze_question", "cloze_seen", "raw_question", "left_context"]
Score: TypeAlias = Literal["match_paper", "f1_paper", "match_norm", "em_norm", "f1_max"]

UNDER_TRAINED = "under-trained"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class DecisionRule:
    """Rule of what is compared and when a difference counts, written down before anything runs."""

    first: str = "bilm_sp"  # the arm that the claim says is better
    second: str = "clm_sp"
    form: Form = "cloze_question"  # how the facts are asked for
    score: Score = "match_paper"
    beside: Score = "match_norm"  # another score whose verdict is told, where it differs
    margin: PositiveFloat = 5.0  # points; a difference surely smaller counts as none
    resamples: PositiveInt = 1000  # of facts, for the lengths of outputs
    level: float = pydantic.Field(default=0.95, gt=0, lt=1)  # of the interval
    seed: int = 0  # of the resamples
    trained_form: Form = "cloze_seen"  # what a trained arm has memorised
    trained_at: float = 90.0  # percent of `score`; below it an arm is under-trained

    @property
    def resampling(self) -> Resampling:
        """Resampling of all intervals of the study."""
        return Resampling(self.resamples, self.level, self.seed)


@dataclasses.dataclass(frozen=True)
class Decision:
    """Verdict of the rule at one number of facts."""

    n_facts: int
    exposures: int
    first: str
    second: str
    form: str
    score: str
    d: float  # first less second, points; the mean over facts of the means over seeds
    low: float
    high: float
    verdict: str  # "reproduced at 80", "reversed at 80", ..., or "under-trained"
    note: str  # what to beware of; empty if nothing
    under_trained: tuple[str, ...]  # arms below `trained_at`
    trained: dict[str, float]  # percent of `trained_form`, by arm
    n: int  # facts
    seeds: int  # that both arms have
    beside: dict[str, Any]  # score, d, low, high, verdict of the other score

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values of JSON, in their order."""
        return dataclasses.asdict(self) | {"under_trained": list(self.under_trained)}


def decide(questions: pd.DataFrame, rule: DecisionRule) -> list[Decision]:
    """Decide at every number of facts and exposures at which both arms have answered.

    Args:
        questions: One row per run, form and question, with `COLUMNS`.
        rule: As it was fixed before.
    """
    decisions = []
    for n_facts, exposures, cell in cells(questions):
        found = compare_arms(
            cell, rule.first, rule.second, form=rule.form, resampling=rule.resampling
        )
        if found is None:
            continue
        trained = {arm: _trained(cell, arm, rule) for arm in (rule.first, rule.second)}
        # An arm that was never asked for what it saw has not been shown to be trained.
        lacking = tuple(arm for arm, share in trained.items() if not share >= rule.trained_at)
        main, beside = (
            _judged(found.scores[score], rule, n_facts, lacking)
            for score in (rule.score, rule.beside)
        )
        decisions.append(
            Decision(
                n_facts=n_facts,
                exposures=exposures,
                first=rule.first,
                second=rule.second,
                form=rule.form,
                score=rule.score,
                **main,
                note=_note(
                    cell,
                    rule,
                    main["verdict"],
                    beside["verdict"],
                    lacking,
                    found.scores[rule.score].estimate,
                ),
                under_trained=lacking,
                trained=trained,
                n=found.scores[rule.score].estimate.n_facts,
                seeds=found.seeds,
                beside={"score": rule.beside} | beside,
            )
        )
    return decisions


def _judged(
    found: Difference, rule: DecisionRule, n_facts: int, lacking: tuple[str, ...]
) -> dict[str, Any]:
    d, low, high = found.estimate[:3]
    said = f"{verdict(d, low, high, margin=rule.margin)} at {n_facts}"
    return {"d": d, "low": low, "high": high, "verdict": UNDER_TRAINED if lacking else said}


def _trained(cell: pd.DataFrame, arm: str, rule: DecisionRule) -> float:
    """Return the percentage that the arm has memorised, over facts and seeds; NaN if not asked."""
    asked = cell[(cell["arm"] == arm) & (cell["form"] == rule.trained_form)]
    return float(asked[rule.score].mean())


def _note(
    cell: pd.DataFrame,
    rule: DecisionRule,
    main: str,
    beside: str,
    lacking: tuple[str, ...],
    estimate: Estimate,
) -> str:
    """Return what to beware of.

    Args:
        cell: Questions at one number of facts.
        rule: As it was fixed before.
        main: Its verdict.
        beside: Verdict by the other score.
        lacking: Arms that are under-trained.
        estimate: Difference that it rests on.
    """
    notes = [estimate.reason] if estimate.reason else []
    wide, n_facts = estimate.high - estimate.low, estimate.n_facts
    found = power(*estimate[1:3], n_facts, level=rule.level, margin=rule.margin)
    if main.startswith("inconclusive") and found.none == 0:
        notes.append(
            f"equal arms can't be shown with {n_facts:,} facts: the interval is {wide:.1f} points "
            f"wide, and would have to lie within {rule.margin:g} of 0"
        )
    if main != beside:
        notes.append(f"by {rule.beside} the verdict is another: {beside}")
    asked = cell[cell["form"] == rule.trained_form]
    for arm in (rule.first, rule.second):
        of_arm = asked[asked["arm"] == arm]
        by_seed = of_arm.groupby("seed")[rule.score].mean()
        if arm in lacking:
            told = f"{by_seed.mean():.1f} %" if len(by_seed) else "was not asked"
            notes.append(
                f"{arm} is under-trained: {rule.trained_form} {told}, below {rule.trained_at:g} %"
            )
        elif len(low := by_seed[by_seed < rule.trained_at]):
            seeds = ", ".join(str(seed) for seed in low.index)
            notes.append(
                f"{arm} is above {rule.trained_at:g} % of {rule.trained_form} only on average: "
                f"below it with seed {seeds}"
            )
    seeds_of = [
        set(cell[(cell["arm"] == arm) & (cell["form"] == rule.form)]["seed"])
        for arm in (rule.first, rule.second)
    ]
    if seeds_of[0] != seeds_of[1]:
        notes.append("the arms were run with different seeds: compared on those of both")
    return "; ".join(notes)
