"""Scores of the arms of a study, and their differences.

All of it is made from one table of questions with `COLUMNS`, one row per run, form and question. A
form is how a fact is asked for (`asking`); scores are percent, NaN where a form has none. Several
seeds of an arm are averaged question by question; intervals are over facts. Nothing here knows what
an arm is: swapped arms get the opposite difference.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tightframe.knowledge.intervals import (
    LEVEL,
    PERCENT,
    RESAMPLES,
    Bounds,
    Difference,
    differences,
    estimates,
    paired_p,
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
    p: dict[str, float]  # of a t test over facts


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
    apart, of_fact = ours[list(names)] - theirs[list(names)], _facts(ours)
    p = {name: paired_p(apart[name].to_numpy(float), of_fact) for name in names}
    return ArmDifference(dict(zip(names, found, strict=True)), len(seeds), p)


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
