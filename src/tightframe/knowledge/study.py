"""A study of injected facts on disk: its runs, and the tables and verdicts made from them.

    study.toml                 settings with the decision rule, written before anything runs
    runs/<run>/                a run: a model that facts were injected into, and what it answered
        config.toml, log.jsonl, facts.jsonl, checkpoints/   the injection
        answers/<form>.jsonl, .json                         its answers, one file per form
        ranks.jsonl, .json                                  ranks of the right answers
        asked.json                                          how much was asked; the run is finished
    results/questions.parquet  one row per run, form and question (`tables.COLUMNS`)
    results/runs.csv           one row per run
    results/timings.csv        seconds of each run: all that differs where a run is made again
    results/asked.csv          one row per run and form: questions asked, and left out by reason
    results/scores.csv         one row per arm, form, subset and score
    results/differences.csv    one row per pair of arms, form, subset and score
    results/checks.csv         what each run had memorized at each tenth, where that was asked
    results/budgets.csv        the same of pairs of arms, at equal facts shown and target tokens
    results/entries.csv        one row per run and fact asked in both directions: distances, recall
    results/verdicts.json      verdicts of the decision rule, and digests of the tables
    results/results.jsonl      scores and differences as rows of this package

Tables that are made again are the same. Verdicts tell whether the results are whole before anything
of them is loaded.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from tightframe.errors import UserError
from tightframe.files import fingerprint, sha256, whole_file
from tightframe.formats import Count, FileName, Record, Sha256, check_digest, read_signed
from tightframe.knowledge.answers import load_answers
from tightframe.knowledge.data_files import read_records, write_report
from tightframe.knowledge.decisions import Decision, DecisionRule, decide
from tightframe.knowledge.facts import Fact, facts_fingerprint
from tightframe.knowledge.injection_runs import InjectionRun
from tightframe.knowledge.memorized import equal_budgets
from tightframe.knowledge.options import DIRECTIONS
from tightframe.knowledge.qa_models import continues, find_arm
from tightframe.knowledge.ranking import CORRECT, RANKED, load_ranks
from tightframe.knowledge.scores import SCALE, SCORES, position, score_answer
from tightframe.knowledge.tables import COLUMNS, arm_differences, score_table
from tightframe.results import Header, ResultTable, Row, write_csv, write_rows
from tightframe.settings import read_toml, resolve

SETTINGS = "study.toml"
RUNS = "runs"
ANSWERS = "answers"
RANKS = "ranks.jsonl"
ASKED = "asked.json"
RESULTS = "results"
VERDICTS = "verdicts.json"
QUESTIONS = "questions.parquet"
TABLES = ("runs", "timings", "asked", "scores", "differences")  # of the results, as CSV
MORE_TABLES = ("checks", "budgets", "entries")  # only where there is something in them
ENTRIES = "entries.jsonl"  # of a run: distances of the forward and backward entry of each fact
REORDERED = "_reordered"  # ends the name of an arm that is trained on reordered facts
BACKWARDS = "left_context_reordered"  # clue first, answer last, whatever the fact's order

# Forms in which an arm is asked; one that has learned whole sentences only can't fill a mask.
OF_SPANS = ("cloze_seen", "cloze_question", "raw_question", RANKED, *DIRECTIONS)
OF_SENTENCES = ("left_context", BACKWARDS, RANKED, *DIRECTIONS)


class _FormCounts(Record):
    """Number of questions asked in a form, and left out."""

    asked: Count
    left_out: dict[str, Count]


class _AskedForms(Record):
    """Content of asked.json."""

    forms: dict[str, _FormCounts]
    fingerprint: str


class _Verdicts(Record):
    """Content of verdicts.json."""

    verdicts: tuple[dict[str, Any], ...]
    tables: dict[FileName, Sha256]  # of the tables beside it
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class FactEntries:
    """Distance of the embeddings that answer a fact forward and backward."""

    fact_id: str
    cosine: float  # of the two, each less its mean over facts
    others: float  # mean cosine with the backward entries of other facts
    rank: float  # of its own backward entry among all, 1 is nearest


def forms_of(arm: str) -> tuple[str, ...]:
    """Return the forms in which an arm is asked."""
    name = arm.removesuffix(REORDERED)
    return OF_SENTENCES if continues(find_arm(name).objective) else OF_SPANS


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """A run directory of a study, which must have been started but may be unfinished."""

    path: Path

    @cached_property
    def injection(self) -> InjectionRun:
        """Training of its model."""
        return InjectionRun.open(self.path)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Injected facts, with their questions."""
        return self.injection.injected

    @property
    def about(self) -> dict[str, Any]:
        """Settings that tell it from the other runs of a study."""
        settings = self.injection.settings
        return {
            "arm": settings.arm + (REORDERED if settings.reordered else ""),
            "n_facts": settings.n_facts,
            "exposures": settings.exposures,
            "seed": settings.seed,
            "run": self.path.name,
        }

    @property
    def finished(self) -> bool:
        """True once the model has been asked in every form of its arm."""
        return set(self.asked) >= set(forms_of(self.about["arm"]))

    @property
    def asked(self) -> dict[str, dict[str, Any]]:
        """Number of questions `asked` by form, and of those `left_out` by reason.

        Empty while the run is unfinished.
        """
        path = self.path / ASKED
        if not path.is_file():
            return {}
        about: _AskedForms = read_signed(path, _AskedForms)
        return {form: one.model_dump() for form, one in about.forms.items()}

    def file(self, form: str) -> Path:
        """Return the file of answers in a form; NAME.json beside it is written after it."""
        return self.path / RANKS if form == RANKED else self.path / ANSWERS / f"{form}.jsonl"

    def answered(self, form: str) -> bool:
        """Return whether the model has been asked in this form: both files exist."""
        return self.file(form).is_file() and self.file(form).with_suffix(".json").is_file()

    def numbers(self) -> dict[str, Any]:
        """Return the run as a row of `runs.csv`; NaN before the first record of its log."""
        start, last = self.injection.facts, self._last
        return self.about | {
            "parameters": start["n_parameters"],
            "tokens": last.get("tokens", 0),
            "shown": last.get("exposures", 0),
            "final_loss": last.get("loss", math.nan),
            "stream": start["stream"],
            "steps": start["steps"],
            "device": self.injection.settings.device,
            "finished": self.finished,
        }

    def checks(self) -> Iterator[dict[str, Any]]:
        """Yield what it had memorized at each check, and what that had taken."""
        for record in self.injection.log:
            if record["kind"] == "check":
                names = ("step", "tokens", "memorized")
                of_check = {"shown": record["exposures"]} | {name: record[name] for name in names}
                yield self.about | of_check

    def entries(self) -> list[dict[str, Any]]:
        """Return the distances of the two entries of each fact; none if they were not compared."""
        path = self.path / ENTRIES
        if not path.is_file():
            return []
        return [self.about | vars(one) for one in read_records(path, FactEntries, what="an entry")]

    def timings(self) -> dict[str, float]:
        """Return the seconds of the training, by the clock and of the processor."""
        return {name: self._last.get(name, math.nan) for name in ("seconds", "cpu_seconds")}

    def questions(self) -> Iterator[dict[str, Any]]:
        """Yield one scored row per form and question, with the columns of `tables.COLUMNS`."""
        known = {
            question.id: (fact, question) for fact in self.facts for question in fact.questions
        }
        for form in (form for form, told in self.asked.items() if told["asked"]):
            about = self.about | {"form": form}
            for question_id, row in self._ranked() if form == RANKED else self._scored(form):
                if question_id not in known:
                    raise UserError(
                        f"{self.file(form)}: {question_id} is no question on a fact of this run; "
                        f"remove {self.path}, and run the study again"
                    )
                fact, question = known[question_id]
                named = {
                    "question_id": question.id,
                    "fact_id": fact.id,
                    "type": question.type,
                    "position": position(question.answers, fact.fact),
                    "gold": question.answers[0],
                }
                if form != RANKED:
                    values = *score_answer(question.answers, row["text"]), len(row["text"].split())
                    row |= dict(zip(SCORES, (SCALE * values).tolist(), strict=True))
                yield about | named | row

    @property
    def _last(self) -> dict[str, Any]:
        """Last value of everything that the log has recorded."""
        return {name: value for record in self.injection.log for name, value in record.items()}

    def _scored(self, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
        answers = load_answers(self.file(form))
        if answers.trained_on != facts_fingerprint(self.facts):
            raise UserError(
                f"{self.file(form)}: answers of a model that was trained on other facts than this "
                f"run's; remove {self.path}, and run the study again"
            )
        for output in answers.outputs.values():
            row = {"rule": "", "text": output.text, "rank": math.nan, CORRECT: math.nan}
            yield output.question_id, row

    def _ranked(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for one in load_ranks(self.file(RANKED)):
            row = {"rule": one.rule, "text": ""} | dict.fromkeys(SCORES, math.nan)
            yield one.question_id, row | {"rank": one.rank, CORRECT: 100.0 * (one.rank == 1)}


@dataclasses.dataclass(frozen=True, repr=False)
class StudyResults(ResultTable):
    """Results of the finished runs of a study."""

    questions: pd.DataFrame
    runs: pd.DataFrame
    timings: pd.DataFrame
    asked: pd.DataFrame
    scores: pd.DataFrame
    differences: pd.DataFrame
    decisions: list[Decision]
    checks: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    budgets: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    entries: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)

    @property
    def one_line(self) -> str:
        """Number of runs, and the first verdict."""
        verdicts = [f"{one.first} less {one.second}: {one.verdict}" for one in self.decisions]
        return "; ".join([f"{len(self.runs):,} runs", *verdicts[:1]])

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores, one row per arm, form, subset and score."""
        return self.scores


def collect(study: Path) -> StudyResults:
    """Read the runs that have answered, write the tables of the study's results, return them.

    Args:
        study: Folder of a study; unfinished runs are left out of all tables but `runs.csv`.
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
    checks = pd.DataFrame([row for run in runs for row in run.checks()])
    entries = pd.DataFrame([row for run in runs if run.finished for row in run.entries()])
    for kind in DIRECTIONS if len(entries) else ():
        of_kind = questions[questions["form"] == kind].set_index(["run", "fact_id"])
        entries[kind] = (
            of_kind[rule.score].reindex(entries.set_index(["run", "fact_id"]).index).to_numpy()
        )
    results = StudyResults(
        checks=checks,
        budgets=equal_budgets(checks, rule.compared),
        entries=entries,
        questions=questions,
        runs=numbers,
        timings=pd.DataFrame([{"run": run.about["run"]} | run.timings() for run in runs]),
        asked=pd.DataFrame(row for run in runs for row in _asked(run)),
        scores=score_table(questions, rule.resampling),
        differences=arm_differences(questions, rule.resampling),
        decisions=decide(questions, rule),
    )
    _write(study, settings, results)
    return results


def write_verdicts(folder: Path, verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Write verdicts.json for a folder whose tables are written, with their digests.

    The timings have none: verdicts made again are the same bytes.
    """
    tables = (*TABLES, *MORE_TABLES)
    names = (QUESTIONS, *(f"{table}.csv" for table in tables if table != "timings"))
    digests = {name: sha256(folder / name) for name in names if (folder / name).is_file()}
    write_report(folder / VERDICTS, {"verdicts": verdicts, "tables": digests})


def read_verdicts(folder: Path) -> tuple[dict[str, Any], ...]:
    """Return the verdicts of a folder of results; refuse a table that has changed since."""
    remedy = "run `tightframe knowledge study` again"
    about: _Verdicts = read_signed(folder / VERDICTS, _Verdicts, remedy=remedy)
    for name, digest in about.tables.items():
        check_digest(folder / name, digest)
    return about.verdicts


def _write(study: Path, settings: dict[str, Any], found: StudyResults) -> None:
    results = study / RESULTS
    with whole_file(results / QUESTIONS) as temporary:
        found.questions.to_parquet(temporary, index=False)
    for name in TABLES:
        write_csv(results / f"{name}.csv", getattr(found, name))
    for name in MORE_TABLES:
        if len(getattr(found, name)):
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
        yield _row(run, one, f"{one['form']}_{one['score']}", one["value"])


def _difference_rows(differences: pd.DataFrame) -> Iterator[Row]:
    for one in differences.to_dict("records"):
        run = f"{one['first']}-less-{one['second']}-n{one['n_facts']}-e{one['exposures']}"
        name = f"{one['form']}_{one['score']}_difference"
        yield _row(run, one, name, one["d"])
        reason = f"sign test over facts, {one['better']:,} better, {one['worse']:,} worse"
        signs = dict(one) | {"n": one["better"] + one["worse"], "low": math.nan, "high": math.nan}
        row = _row(run, signs, f"{name}_p", one["p"])
        yield dataclasses.replace(row, resampled="", reason=reason)


def _row(run: str, one: Mapping[Any, Any], metric: str, value: float) -> Row:
    """Return a row on questions asked without a text: it has no layer or minimum count."""
    return Row(
        run=run,
        step=0,
        split="questions",
        layer=0,
        labels="fact",
        subset=one["subset"],
        metric=metric,
        value=value,
        n=one["n"],
        min_count=1,
        excluded=0,
        low=one["low"],
        high=one["high"],
        resampled="facts",
        reason=one["reason"],
    )
