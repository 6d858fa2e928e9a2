"""Does the first arm remember better than the second? A rule that is fixed before any run.

Nothing here knows what an arm is: swapped arms get the opposite difference.
"""

import dataclasses
from typing import Any, Literal, TypeAlias

import pandas as pd
import pydantic
from pydantic import PositiveFloat, PositiveInt

from tightframe.knowledge.arm_tables import Resampling, cells, compare_arms
from tightframe.knowledge.intervals import Difference, Estimate, power, verdict

Form: TypeAlias = Literal["cloze_question", "cloze_seen", "raw_question", "left_context"]
Score: TypeAlias = Literal["match_paper", "f1_paper", "match_norm", "em_norm", "f1_max"]

UNDER_TRAINED = "under-trained"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class DecisionRule:
    """What is compared, and from when on a difference counts; written down before anything runs."""

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
        """Of all intervals of the study."""
        return Resampling(self.resamples, self.level, self.seed)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the rule says at one number of facts."""

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
        """JSON-able, keys in the order of the fields."""
        return dataclasses.asdict(self) | {"under_trained": list(self.under_trained)}


def decide(questions: pd.DataFrame, rule: DecisionRule) -> list[Decision]:
    """The verdict at every number of facts and exposures at which both arms have answered.

    Args:
        questions: A row a run, form and question, see `arm_tables`.
        rule: As it was fixed.
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
    """Percent that the arm has memorised, over its facts and seeds; NaN if it was not asked."""
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
    """What to beware of.

    Args:
        cell: Questions at one number of facts.
        rule: As it was fixed.
        main: Its verdict.
        beside: The verdict by the other score.
        lacking: Arms that are under-trained.
        estimate: The difference that it rests on.
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
