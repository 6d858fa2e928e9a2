"""The folder of a knowledge study -> its tables, checked.

::

    STUDY/   study.toml  runs/<arm>-n<facts>-s<seed>/
             results/{scores,runs,asked,differences}.csv, verdicts.json, questions.parquet
             results/{geometry.parquet, geometry.csv, locality.csv, locality-shift.csv}
             ensemble/{report.json, answers.jsonl}, or ensemble/NAME/ with the same

Only scores.csv has to be there. What else is missing is an empty table here, and `missing` says
which command makes it.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic

from tightframe.errors import UserError
from tightframe.formats import Count, Record, Sha256, check_digest, read_json, read_signed
from tightframe.knowledge.score_tables import read_outputs
from tightframe.knowledge.study import read_verdicts
from tightframe.report.inputs import STUDY, is_study
from tightframe.results import read_csv
from tightframe.settings import read_toml

_STUDY = "tightframe knowledge study"
_ARM = ("n_facts", "exposures")
_INTERVAL = ("value", "low", "high")
_OF_GEOMETRY = ("geometry.csv", "locality.csv", "locality-shift.csv")  # shown as they are
_COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # words, then numbers
    "scores.csv": (("arm", "form", "subset", "score"), (*_ARM, *_INTERVAL, "n")),
    "runs.csv": (("arm", "run"), (*_ARM, "seed", "parameters", "tokens", "final_loss")),
    "timings.csv": (("run",), ("seconds", "cpu_seconds")),
    "differences.csv": (
        ("form", "subset", "score", "first", "second"),
        (*_ARM, "d", "low", "high", "better", "worse", "p", "n"),
    ),
    "questions.parquet": (
        ("arm", "run", "form", "question_id", "fact_id", "type", "position", "text", "gold"),
        (*_ARM, "seed", "match_paper", "match_norm"),
    ),
    "geometry.parquet": (("run", "fact_id"), ("recalled",)),
    "asked.csv": (("form", "reasons"), ("n_facts", "asked", "left_out")),
    **dict.fromkeys(_OF_GEOMETRY, ((), ())),
}
_MADE_BY = {
    "scores.csv": _STUDY,
    "runs.csv": _STUDY,
    "timings.csv": _STUDY,
    "asked.csv": _STUDY,
    "differences.csv": _STUDY,
    "questions.parquet": _STUDY,
    "verdicts.json": _STUDY,
    "geometry.parquet": "python -m studies.recall_geometry.run STUDY",
    "geometry.csv": "python -m studies.recall_geometry.run STUDY",
    "ensemble": "tightframe knowledge ensemble",
}
_JUDGED = {"score", "d", "low", "high", "verdict"}
_VERDICT = {"first", "second", "form", *_JUDGED, *_ARM}


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several models with a router, as `tightframe knowledge ensemble` judged them."""

    name: str
    report: dict[str, Any]  # see `knowledge.ensembles.assemble`
    asked: frozenset[str]  # ids of the questions that it answered


@dataclasses.dataclass(frozen=True)
class Study:
    """All that a study's folder holds; see `docs/guide/knowledge.md` for the columns."""

    name: str
    settings: dict[str, Any]
    scores: pd.DataFrame
    runs: pd.DataFrame
    asked: pd.DataFrame  # how many questions of each form there were, and how many were left out
    differences: pd.DataFrame
    questions: pd.DataFrame
    verdicts: tuple[dict[str, Any], ...]
    recall: pd.DataFrame  # a line a run and fact: geometry, and whether it was recalled
    geometry: dict[str, pd.DataFrame]  # the statistics of it, by file
    ensembles: tuple[Ensemble, ...]
    missing: dict[str, str]  # a file or folder that isn't there, and the command that makes it


class _Part(Record):
    """Part of an object that has more fields."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)


class _Source(_Part):
    source: str
    model: str | None
    n: Count
    share: float | None
    score: float | None


class _Asked(_Part):
    n: Count


class _Routing(_Part):
    confusion: tuple[tuple[Count, ...], ...]
    in_scope: _Asked
    locality: _Asked
    outside: _Asked


class _Report(_Part):
    """The report of an ensemble."""

    sources: tuple[_Source, ...]
    routing: _Routing
    score: float | None
    oracle_score: float | None
    n_scored: Count
    answers: Sha256
    fingerprint: str


def read_study(path: Path) -> Study:
    """Return what a study has found; a damaged file is named in one line."""
    if not is_study(path):
        raise UserError(f"{path}: no {STUDY}; expected the folder of `{_STUDY}`")
    results = path / "results"
    if not (results / "scores.csv").is_file():
        raise UserError(f"{path}: this study has no results yet; run `{_STUDY}` first")
    settings, verdicts = read_toml(path / STUDY), _verdicts(results / "verdicts.json")
    if not settings:
        raise UserError(f"{path / STUDY}: holds no settings; run `{_STUDY}` again")
    scores = _table(results / "scores.csv")
    if scores.empty:
        raise UserError(f"{results / 'scores.csv'}: has no lines; run `{_STUDY}` again")
    ensembles = _ensembles(path / "ensemble")
    there = {name: (results / name).is_file() for name in _MADE_BY if name != "ensemble"}
    there["ensemble"] = bool(ensembles)
    recall = _with_arm(_table(results / "geometry.parquet"), results / "geometry.parquet")
    return Study(
        path.resolve().name,
        settings,
        scores,
        _with_timings(_table(results / "runs.csv"), _table(results / "timings.csv")),
        _table(results / "asked.csv"),
        _table(results / "differences.csv"),
        _table(results / "questions.parquet"),
        verdicts,
        recall,
        {name: _table(results / name) for name in _OF_GEOMETRY},
        ensembles,
        {name: _MADE_BY[name] for name, found in there.items() if not found},
    )


def _table(path: Path) -> pd.DataFrame:
    """Return a table with its columns checked; an empty one where there is no file."""
    texts, numbers = _COLUMNS[path.name]
    if not path.is_file():
        return pd.DataFrame()
    again = f"make it again with `{_MADE_BY.get(path.name, _MADE_BY['geometry.csv'])}`"
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = read_csv(path, dtype=dict.fromkeys(texts, str))
        if absent := [name for name in (*texts, *numbers) if name not in table]:
            raise UserError(f"{path}: has no column {', '.join(absent)}; {again}")
        words = {name: table[name].astype(object).fillna("").astype(str) for name in texts}
        counted = {name: pd.to_numeric(table[name]) for name in numbers}
    except pd.errors.EmptyDataError:  # a table that had no lines was written without columns
        return pd.DataFrame()
    except (OSError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(f"{path}: not a table, or damaged ({first}); {again}") from None
    table = table.assign(**words, **counted)
    for name in set(_ARM) & set(numbers):
        if not np.isfinite(table[name]).all():
            raise UserError(f"{path}: a line has no {name}; {again}")
        table[name] = table[name].astype(int)
    return table


def _with_timings(runs: pd.DataFrame, timings: pd.DataFrame) -> pd.DataFrame:
    return runs if runs.empty or timings.empty else runs.merge(timings, on="run", how="left")


def _with_arm(recall: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the geometry of facts, with arms, numbers of facts and recall checked."""
    if recall.empty:
        return recall
    if "arm" not in recall or "n_facts" not in recall:
        raise UserError(f"{path}: has no column arm or n_facts; make it again")
    if not recall["recalled"].isin((0.0, 1.0)).all():
        raise UserError(f"{path}: recalled must be 0 or 1; make it again")
    words, whole, yes = recall["arm"].astype(str), recall["n_facts"], recall["recalled"]
    return recall.assign(arm=words, n_facts=whole.astype(int), recalled=yes.astype(float))


def _verdicts(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.exists():
        return ()
    return tuple(_judged(path, one, _VERDICT) for one in read_verdicts(path.parent))


def _judged(path: Path, one: Any, names: set[str]) -> dict[str, Any]:
    """Return a verdict, or that of another score; numbers that are unknown become NaN."""
    again = f"make it again with `{_STUDY}`"
    if not isinstance(one, dict) or (absent := sorted(names - one.keys())):
        lacking = f"a verdict has no {', '.join(absent)}" if isinstance(one, dict) else "no verdict"
        raise UserError(f"{path}: {lacking}; {again}")
    numbers = {name: math.nan if one[name] is None else one[name] for name in ("d", "low", "high")}
    if not all(isinstance(number, int | float) for number in numbers.values()):
        raise UserError(f"{path}: d, low and high must be numbers; {again}")
    beside = one.get("beside")
    if beside is not None:
        beside = _judged(path, beside, _JUDGED)
    usual: dict[str, Any] = {"under_trained": [], "note": "", "seeds": None}
    return usual | one | {"beside": beside} | numbers


def _ensembles(folder: Path) -> tuple[Ensemble, ...]:
    """Return the ensembles of the folder itself, or of the folders in it."""
    files = [folder / "report.json", *sorted(folder.glob("*/report.json"))]
    return tuple(_ensemble(file) for file in files if file.exists())


def _ensemble(file: Path) -> Ensemble:
    again = f"make the folder again with `{_MADE_BY['ensemble']}`"
    about: _Report = read_signed(file, _Report, remedy=again)
    k = len(about.sources)
    if [len(row) for row in about.routing.confusion] != [k] * k:
        raise UserError(f"{file}: routing.confusion is not {k} by {k}; {again}")
    report = read_json(file)
    answers = file.with_name("answers.jsonl")
    if answers.exists():
        check_digest(answers, about.answers)
    outputs = read_outputs(answers) if answers.exists() else []
    return Ensemble(file.parent.name, report, frozenset(one.question_id for one in outputs))
