"""The tables of a study, made from what its runs answered; made again, they are the same.

study.toml              settings with the decision rule, written before anything runs
runs/<run>/             see `study_runs`
results/questions.parquet  a row a run, form and question (`arm_tables.COLUMNS`)
results/runs.csv           a row a run
results/timings.csv        the seconds of each run: all that differs where a run is made again
results/asked.csv          a row a run and form: questions asked, and left out by reason
results/scores.csv         a row an arm, form, subset and score
results/differences.csv    a row a pair of arms, form, subset and score
results/verdicts.json      verdicts of the decision rule, and digests of the tables
results/results.jsonl      scores and differences as rows of this package
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tightframe.errors import UserError
from tightframe.files import fingerprint, whole_file
from tightframe.knowledge.arm_tables import COLUMNS, arm_differences, score_table
from tightframe.knowledge.study_runs import StudyRun
from tightframe.knowledge.verdict_files import QUESTIONS, RESULTS, TABLES, write_verdicts
from tightframe.knowledge.verdicts import Decision, DecisionRule, decide
from tightframe.results import Header, Row, write_csv, write_rows
from tightframe.settings import read_toml, resolve

SETTINGS = "study.toml"
RUNS = "runs"


@dataclasses.dataclass(frozen=True)
class Collected:
    """What the finished runs of a study say."""

    questions: pd.DataFrame
    runs: pd.DataFrame
    timings: pd.DataFrame
    asked: pd.DataFrame
    scores: pd.DataFrame
    differences: pd.DataFrame
    decisions: list[Decision]


def collect(study: Path) -> Collected:
    """Read the runs that have answered, write the tables of the study's results, return them.

    Args:
        study: The folder of a study; runs that are not finished are left out of all but
            `runs.csv`.
    """
    settings = read_toml(study / SETTINGS)
    rule = resolve(DecisionRule, settings.get("rule", {}), source=str(study / SETTINGS))
    runs = [StudyRun(path.parent) for path in sorted((study / RUNS).glob("*/log.jsonl"))]
    rows = [row for run in runs if run.finished for row in run.questions()]
    if not rows:
        raise UserError(f"{study}: no run has answered yet; `tightframe knowledge study` runs them")
    questions = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = pd.DataFrame([run.numbers() for run in runs])
    for form in (rule.trained_form, rule.form):
        asked = questions[questions["form"] == form]
        numbers[form] = numbers["run"].map(asked.groupby("run")[rule.score].mean())
    found = Collected(
        questions=questions,
        runs=numbers,
        timings=pd.DataFrame([{"run": run.about["run"]} | run.timings() for run in runs]),
        asked=pd.DataFrame(row for run in runs for row in _asked(run)),
        scores=score_table(questions, rule.resampling),
        differences=arm_differences(questions, rule.resampling),
        decisions=decide(questions, rule),
    )
    _write(study, settings, found)
    return found


def _write(study: Path, settings: dict[str, Any], found: Collected) -> None:
    results = study / RESULTS
    with whole_file(results / QUESTIONS) as temporary:
        found.questions.to_parquet(temporary, index=False)
    for name in TABLES:
        write_csv(results / f"{name}.csv", getattr(found, name))
    write_verdicts(results, [one.to_dict() for one in found.decisions])
    asked = found.questions[["question_id", "gold"]].drop_duplicates()
    header = Header(
        run=study.resolve().name,
        step=0,
        model={"arms": sorted(set(found.runs["arm"]))},
        tokens={
            "name": settings.get("data", ""),
            "fingerprint": fingerprint(sorted(asked.itertuples(index=False, name=None))),
            "questions": len(asked),
        },
        settings=settings,
        measurement={"devices": sorted(set(found.runs["device"]))},
    )
    rows = [*_score_rows(found.scores), *_difference_rows(found.differences)]
    write_rows(results / "results.jsonl", header, rows)


def _asked(run: StudyRun) -> Iterator[dict[str, Any]]:
    for form, told in run.asked.items():
        reasons = ", ".join(f"{reason}: {n}" for reason, n in told["left_out"].items())
        counts = {"asked": told["asked"], "left_out": sum(told["left_out"].values())}
        yield run.about | {"form": form} | counts | {"reasons": reasons}


def _score_rows(scores: pd.DataFrame) -> Iterator[Row]:
    for one in scores.to_dict("records"):
        run = f"{one['arm']}-n{one['n_facts']}-e{one['exposures']}"
        name = f"{one['form']}_{one['score']}"
        yield _row(run, one, name, one["value"], one["n"], one["low"], one["high"], one["reason"])


def _difference_rows(differences: pd.DataFrame) -> Iterator[Row]:
    for one in differences.to_dict("records"):
        run = f"{one['first']}-less-{one['second']}-n{one['n_facts']}-e{one['exposures']}"
        name = f"{one['form']}_{one['score']}_difference"
        yield _row(run, one, name, one["d"], one["n"], one["low"], one["high"], one["reason"])
        told = one["better"] + one["worse"]
        signs = _row(run, one, f"{name}_p", one["p"], told, math.nan, math.nan)
        reason = f"sign test over facts, {one['better']:,} better, {one['worse']:,} worse"
        yield dataclasses.replace(signs, resampled="", reason=reason)


def _row(
    run: str,
    one: Mapping[Any, Any],
    metric: str,
    value: float,
    n: int,
    low: float,
    high: float,
    reason: str = "",
) -> Row:
    """Of questions asked without a text: no layer or least number of samples applies."""
    return Row(
        run=run,
        step=0,
        split="questions",
        layer=0,
        labels="fact",
        subset=one["subset"],
        metric=metric,
        value=value,
        n=n,
        min_count=1,
        excluded=0,
        low=low,
        high=high,
        resampled="facts",
        reason=reason,
    )
