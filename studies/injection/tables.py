"""Tables of a study on injected facts in Markdown, from its published tables; no arithmetic."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from tightframe.knowledge.decisions import DecisionRule
from tightframe.knowledge.intervals import FEWEST, power
from tightframe.knowledge.qa_models import ARMS
from tightframe.knowledge.ranking import CORRECT, RANKED
from tightframe.knowledge.scores import POSITIONS
from tightframe.knowledge.study import REORDERED
from tightframe.knowledge.tables import CELL

# Columns of the table of arms: form, score, heading; intervals where the verdict needs them.
SHOWN = (
    ("cloze_seen", "match_paper", "`cloze_seen`"),
    ("cloze_question", "match_paper", "`cloze_question`"),
    ("cloze_question", "match_norm", "its `match_norm`"),
    ("cloze_question", "em_norm", "its `em_norm`"),
    (RANKED, CORRECT, "`rank20`"),
    ("raw_question", "match_paper", "`raw_question`"),
    ("left_context", "match_paper", "`left_context`"),
    ("left_context_reordered", "match_paper", "clue first"),
)
PAIRED = ("cloze_question", "left_context", "left_context_reordered")  # forms whose arms are paired


def markdown(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def number(value: float, low: float = math.nan, high: float = math.nan, *, sign: str = "-") -> str:
    """A value with its interval, where there is one."""
    if math.isnan(value):
        return ""
    interval = f" [{low:.1f}, {high:.1f}]" if low < high else ""
    return f"{value:{sign}.1f}{interval}"


def could_find(one: dict[str, Any], rule: DecisionRule) -> tuple[str, str]:
    """What a study of this size finds: the difference told in 80 %, and how often "equal" is."""
    found = power(
        _nan(one["low"]), _nan(one["high"]), one["n"], level=rule.level, margin=rule.margin
    )
    if math.isnan(found.detectable):
        return "", ""
    equal = "never" if found.none == 0 else f"{100 * found.none:.0f} %"
    return f"{found.detectable:.1f}", equal


def verdict_rows(
    study: str, decisions: Sequence[dict[str, Any]], rule: DecisionRule
) -> list[list[str]]:
    """A row a verdict: study, facts, exposures, seeds, memorised, d, verdict, power, beside."""
    rows = []
    for one in decisions:
        beside = one["beside"]
        memorised = ", ".join(f"{arm} {number(_nan(v))}" for arm, v in one["trained"].items())
        rows.append(
            [
                *(study, f"{one['n_facts']:,}", f"{one['exposures']:,}", f"{one['seeds']}"),
                memorised,
                number(_nan(one["d"]), _nan(one["low"]), _nan(one["high"]), sign="+"),
                f"**{one['verdict']}**",
                *could_find(one, rule),
                number(_nan(beside["d"]), _nan(beside["low"]), _nan(beside["high"]), sign="+")
                + f": {beside['verdict']}",
            ]
        )
    return rows


def arm_table(scores: pd.DataFrame, runs: pd.DataFrame) -> str:
    """A row an arm of one number of facts: what it answers, how large it is, how long it took."""
    everything = scores[scores["subset"] == "all"]
    present = set(zip(everything["form"], everything["score"], strict=True))
    shown = [one for one in SHOWN if one[:2] in present]
    heads = ["arm", "seeds", *(head for *_, head in shown), "parameters", "seconds a run"]
    rows = []
    for arm in in_order(scores["arm"]):
        cells = []
        for form, score, _ in shown:
            known = everything[
                (everything["arm"] == arm)
                & (everything["form"] == form)
                & (everything["score"] == score)
            ]
            cells.append(_interval(known, "value"))
        of_arm = runs[(runs["arm"] == arm) & runs["finished"]]
        size, time = f"{of_arm['parameters'].max():,.0f}", f"{of_arm['seconds'].mean():.0f}"
        rows.append([f"`{arm}`", f"{len(of_arm)}", *cells, size, time])
    return markdown(heads, rows)


def position_table(scores: pd.DataFrame, rule: DecisionRule) -> str:
    """A row an arm and form: the rule's score where the answer stands in front, and in the back."""
    kept = scores[(scores["score"] == rule.score) & scores["form"].isin((rule.form, *PAIRED))]
    present = [one for one in POSITIONS if (kept["subset"] == one).any()]
    rows = []
    for form in dict.fromkeys((rule.form, *PAIRED)):
        for arm in in_order(kept.loc[kept["form"] == form, "arm"]):
            values = []
            for subset in present:
                found = kept[
                    (kept["arm"] == arm) & (kept["form"] == form) & (kept["subset"] == subset)
                ]
                n = f" (n = {found['n'].iloc[0]:,})" if len(found) else ""
                values.append(_interval(found, "value") + n)
            rows.append([f"`{arm}`", f"`{form}`", *values])
    return markdown(["arm", "asked by", *(f"answer {one}" for one in present)], rows)


def difference_table(differences: pd.DataFrame, rule: DecisionRule) -> str:
    """A row a pair of arms and form: the difference of the rule's score, in all and by place."""
    forms = (rule.form, *PAIRED)
    kept = differences[(differences["score"] == rule.score) & differences["form"].isin(forms)]
    rows = []
    for (form, first, second), pair in kept.groupby(["form", "first", "second"], sort=True):
        told = [
            _interval(pair[pair["subset"] == subset], "d", sign="+")
            for subset in ("all", "front", "back")
        ]
        whole = pair[pair["subset"] == "all"].iloc[0]
        signs = f"{whole['better']:.0f} to {whole['worse']:.0f}"
        rows.append([f"`{first}` less `{second}`", f"`{form}`", *told, signs, f"{whole['p']:.2g}"])
    heads = ["arms", "asked by", "all", "answer front", "answer back", "better to worse", "p"]
    return markdown(heads, rows)


def run_table(runs: pd.DataFrame, rule: DecisionRule) -> str:
    """A row a run: what always stands beside its scores."""
    forms = list(dict.fromkeys((rule.trained_form, rule.form)))
    heads = ["run", "lessons", "steps", "labelled tokens", "final loss"]
    heads += [*(f"`{form}`" for form in forms), "seconds", "processor seconds", "device"]
    rows = [
        [
            *(f"`{one['run']}`", f"`{one['stream']}`", f"{one['steps']:,}", f"{one['tokens']:,}"),
            f"{one['final_loss']:.3f}",
            *(number(float(one[form])) for form in forms),
            *(f"{one['seconds']:.0f}", f"{one['cpu_seconds']:.0f}", one["device"]),
        ]
        for one in runs[runs["finished"]].to_dict("records")
    ]
    return markdown(heads, rows)


def in_order(arms: Iterable[str]) -> list[str]:
    """Each arm once: those of one network first, then whatever else there is."""
    place = {arm.name: i for i, arm in enumerate(ARMS)}
    return sorted(set(arms), key=lambda arm: (place.get(arm, len(place)), arm))


def same_lessons(runs: pd.DataFrame) -> tuple[int, int]:
    """Of the cells of facts, seed and objective with several arms: how many, and how many alike."""
    reordered = runs["arm"].str.endswith(REORDERED)
    objective = (
        runs["arm"].str.removesuffix(REORDERED).map({arm.name: arm.objective for arm in ARMS})
    )
    grouped = runs.groupby([*CELL, "seed", objective, reordered])["stream"]
    several = grouped.nunique()[grouped.size() > 1]
    return len(several), int((several == 1).sum())


def _interval(rows: pd.DataFrame, value: str, *, sign: str = "-") -> str:
    """The number of the only row, if there is one; without an interval over too few facts."""
    for one in rows.to_dict("records"):
        if one.get("n_facts_scored", one["n"]) < FEWEST:  # older tables have such intervals
            return number(float(one[value]), sign=sign)
        return number(*(float(one[name]) for name in (value, "low", "high")), sign=sign)
    return ""


def _nan(value: float | int | None) -> float:
    """JSON's null is no number."""
    return math.nan if value is None else float(value)
