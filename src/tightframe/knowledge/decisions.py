"""The decision of a study, by a rule that was fixed before anything ran.

Arms are compared on the rule's form of question and on those beside it, by Holm's correction over
all of them. An arm that has not memorized what it saw is compared on what it took only.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pydantic
from pydantic import PositiveFloat, PositiveInt

from tightframe.knowledge.intervals import Difference, Estimate, power, verdict
from tightframe.knowledge.ranking import CORRECT, RANKED
from tightframe.knowledge.tables import ArmDifference, Resampling, cells, compare_arms
from tightframe.multiple_testing import adjusted

Form: TypeAlias = Literal[
    "cloze_question",
    "cloze_seen",
    "raw_question",
    "left_context",
    "forward",
    "backward",
    "rank20",
]
Score: TypeAlias = Literal["match_paper", "f1_paper", "match_norm", "em_norm", "f1_max"]

UNDER_TRAINED = "under-trained"
CONTINUED: Form = "left_context"  # the form that asks an arm that fills no masks for what it saw


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class DecisionRule:
    """Rule of what is compared and when a difference counts, written down before anything runs."""

    first: str = "bilm_sp"  # the arm that the claim says is better
    second: str = "clm_sp"
    pairs: tuple[tuple[str, str], ...] = ()  # other arms that are compared, first and second
    form: Form = "cloze_question"  # how the facts are asked for
    forms: tuple[Form, ...] = ()  # other forms that are judged; Holm's correction is over all
    score: Score = "match_paper"
    beside: Score = "match_norm"  # another score whose verdict is told, where it differs
    margin: PositiveFloat = 5.0  # points; a difference surely smaller counts as none
    resamples: PositiveInt = 1000  # of facts, for the lengths of outputs
    level: float = pydantic.Field(default=0.95, gt=0, lt=1)  # of the interval
    seed: int = 0  # of the resamples
    trained_form: Form = "cloze_seen"  # what a trained arm has memorised
    trained_at: float = 90.0  # percent of `score`; below it an arm is under-trained

    @property
    def judged(self) -> tuple[Form, ...]:
        """All forms that get a verdict, the main one first."""
        return (self.form, *self.forms)

    @property
    def compared(self) -> tuple[tuple[str, str], ...]:
        """All pairs of arms that get a verdict."""
        return ((self.first, self.second), *self.pairs)

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
    p: float  # of a t test over facts
    holm: float  # the same, corrected for all forms that are judged
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
    for n_facts, _, cell in cells(questions):
        for first, second in rule.compared:
            of_pair = dataclasses.replace(rule, first=first, second=second)
            found = {
                form: compare_arms(cell, first, second, form=form, resampling=rule.resampling)
                for form in rule.judged
            }
            compared = {form: one for form, one in found.items() if one is not None}
            p = [one.p[_scores(form, rule)[0]] for form, one in compared.items()]
            corrected = dict(zip(compared, holm(p), strict=True))
            decisions += [
                _decision(
                    cell, dataclasses.replace(of_pair, form=form), one, n_facts, corrected[form]
                )
                for form, one in compared.items()
            ]
    return decisions


def holm(p: Sequence[float]) -> list[float]:
    """Return p values by Holm's correction; one that is unknown is a test that found nothing."""
    known = np.nan_to_num(np.array(p, float), nan=1.0)
    return [float(one) for one in adjusted(known, "holm")]


def _scores(form: str, rule: DecisionRule) -> tuple[str, str]:
    """Return the score of a form and the one beside it."""
    return (CORRECT, CORRECT) if form == RANKED else (rule.score, rule.beside)


def _decision(
    cell: pd.DataFrame, rule: DecisionRule, found: ArmDifference, n_facts: int, corrected: float
) -> Decision:
    """Decide on one form of one pair of arms, those of the rule."""
    trained = {arm: _trained(cell, arm, rule) for arm in (rule.first, rule.second)}
    # An arm that was never asked for what it saw has not been shown to be trained.
    lacking = tuple(arm for arm, share in trained.items() if not share >= rule.trained_at)
    names = _scores(rule.form, rule)
    main, beside = (_judged(found.scores[name], rule, n_facts, lacking) for name in names)
    estimate = found.scores[names[0]].estimate
    note = _note(cell, rule, main["verdict"], beside["verdict"], lacking, estimate)
    if rule.forms and not lacking and corrected > 1 - rule.level:
        for one in (main, beside):
            if one["verdict"].startswith(("reproduced", "reversed")):
                one["verdict"] = f"inconclusive at {n_facts}"
                told = f"p = {corrected:.2g} after Holm's correction over {len(rule.judged)} forms"
                note = "; ".join([*([note] if note else []), told]) if one is main else note
    return Decision(
        n_facts=n_facts,
        exposures=int(cell["exposures"].iloc[0]),
        first=rule.first,
        second=rule.second,
        form=rule.form,
        score=names[0],
        **main,
        note=note,
        under_trained=lacking,
        trained=trained,
        n=estimate.n_facts,
        seeds=found.seeds,
        p=found.p[names[0]],
        holm=corrected,
        beside={"score": names[1]} | beside,
    )


def _judged(
    found: Difference, rule: DecisionRule, n_facts: int, lacking: tuple[str, ...]
) -> dict[str, Any]:
    d, low, high = found.estimate[:3]
    said = f"{verdict(d, low, high, margin=rule.margin)} at {n_facts}"
    return {"d": d, "low": low, "high": high, "verdict": UNDER_TRAINED if lacking else said}


def _trained(cell: pd.DataFrame, arm: str, rule: DecisionRule) -> float:
    """Return the percentage that the arm has memorised, over facts and seeds; NaN if not asked."""
    return float(_as_seen(cell, arm, rule)[rule.score].mean())


def _as_seen(cell: pd.DataFrame, arm: str, rule: DecisionRule) -> pd.DataFrame:
    """Return what an arm was asked as it saw it; one that fills no masks continues its facts."""
    of_arm = cell[cell["arm"] == arm]
    asked = of_arm[of_arm["form"] == rule.trained_form]
    return asked if len(asked) else of_arm[of_arm["form"] == CONTINUED]


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
    for arm in (rule.first, rule.second):
        of_arm = _as_seen(cell, arm, rule)
        by_seed = of_arm.groupby("seed")[rule.score].mean()
        if arm in lacking:
            told = f"{by_seed.mean():.1f} %" if len(by_seed) else "was not asked"
            notes.append(
                f"{arm} is under-trained: {rule.trained_form} {told}, below {rule.trained_at:g} %"
                + ("; compared on what it took only" if rule.forms else "")
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
