"""Tables of models from runs, sweeps and files, and scores from elsewhere that belong to them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tightframe.analysis.checkpoints import at_centres, checkpoints
from tightframe.errors import UserError, nearest
from tightframe.results import gather, read_csv

KEYS = ("model", "revision", "step")  # columns of a file of scores that say whose they are


class Joined(NamedTuple):
    """A table of models joined with scores, and the models and scores without a match."""

    table: pd.DataFrame
    without_scores: list[str]  # models that no score belongs to
    without_models: list[str]  # scores that belong to no model


def read_models(paths: Sequence[Path]) -> pd.DataFrame:
    """Return one row per checkpoint of runs, sweeps and tables.

    Args:
        paths: Folders of runs, sweeps or series (atlas/NAME) with results, CSV or Parquet files
            with one row per model.

    Raises:
        UserError: A path without results, or a file that is no table.
    """
    folders = [path for path in paths if path.suffix not in (".csv", ".parquet")]
    tables = [read_table(path) for path in paths if path.suffix in (".csv", ".parquet")]
    if folders:
        files = [file for folder in folders for file in results_files(folder)]
        tables.append(at_centres(checkpoints(gather(files))).table)
    if not tables:
        raise UserError("nothing to relate; give runs, sweeps, or tables as .csv or .parquet")
    return pd.concat(tables, ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read anyone's table, one row per model, from a CSV or a Parquet file."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table, one row per model") from None
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a table ({reason}); expected CSV or Parquet") from None


def results_files(path: Path) -> list[Path]:
    """Return the results files of a sweep, of a run, or of a folder of runs."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a sweep or a run")
    for pattern in ("runs/*/results/*.jsonl", "results/*.jsonl", "*/results/*.jsonl"):
        if files := sorted(path.glob(pattern)):
            return files
    raise UserError(f"{path}: no results yet; run `tightframe measure {path}` first")


def add_scores(table: pd.DataFrame, scores: pd.DataFrame) -> Joined:
    """Put scores beside the models that they are of.

    A score's model is a run or model of the table, by its whole name or the last part of it; its
    revision is a step ("step3000" or "3000"), and "main" or none is the last step of the run.

    Args:
        table: One row per checkpoint, with run or model and, if there are several, step.
        scores: As `read_scores` returns them.

    Raises:
        UserError: No score belongs to any row.
    """
    names = [one for one in ("run", "model_name", "model") if one in table]
    if not names:
        raise UserError("the table has no column run or model, which scores are matched by")
    if repeated := [name for name in scores if name in table and name not in KEYS]:
        raise UserError(f"the scores' column {repeated[0]} is in the table already; rename it")
    steps = table["step"] if "step" in table else pd.Series(0, table.index)
    last = steps == steps.groupby(table[names[0]]).transform("max")
    places: dict[tuple[str, str], int] = {}
    for row in range(len(table)):
        words = {str(table[name].iloc[row]) for name in names}
        for word in words | {one.rstrip("/").rsplit("/", 1)[-1] for one in words}:
            places[word, str(steps.iloc[row])] = row
            for name in {"revision", "model_revision"} & set(table):
                # Stages and branches of a series are runs of their own: NAME@stage1.
                places[word.partition("@")[0], str(table[name].iloc[row])] = row
            if last.iloc[row]:
                places[word, ""] = row
    found: dict[int, int] = {}
    strangers = []
    for number, score in enumerate(scores.to_dict("records")):
        model, revision = str(score["model"]), _revision(score)
        short = model.rstrip("/").rsplit("/", 1)[-1]
        place = places.get((model, revision), places.get((short, revision)))
        if place is None:
            strangers.append(f"{model} {revision}".strip())
        elif place in found:
            raise UserError(f"two scores are of {model} {revision}".strip() + "; keep one of them")
        else:
            found[place] = number
    if not found:
        hint = nearest(strangers[0], [key[0] for key in places]) if strangers else ""
        raise UserError(
            f"none of the {len(scores)} scores belongs to a model of the table, such as "
            f"{table[names[0]].iloc[0]}{hint}; the scores are of {', '.join(strangers[:3])}"
        )
    values = scores.drop(columns=[name for name in KEYS if name in scores])
    beside = values.reindex([found.get(row, -1) for row in range(len(table))])
    beside.index = table.index
    alone = [str(table[names[0]].iloc[row]) for row in range(len(table)) if row not in found]
    return Joined(pd.concat([table, beside], axis=1), alone, strangers)


def read_scores(path: Path) -> pd.DataFrame:
    """Read scores of models: a table, or results of lm-evaluation-harness.

    Args:
        path: A CSV or Parquet file with a column model (and revision or step), a `results_*.json`
            of lm-evaluation-harness, or a folder of such files.

    Returns:
        One row per model and revision; a column per score, `hellaswag_acc_norm` for example.
    """
    if path.suffix in (".csv", ".parquet"):
        table = read_table(path)
        if "model" not in table and "run" in table:
            table = table.rename(columns={"run": "model"})
        if "model" not in table:
            raise UserError(f"{path}: no column model or run, which says whose the scores are")
        return table
    files = sorted(path.rglob("results*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no results_*.json of lm-evaluation-harness, and no table")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        key, values = _harness_file(file)
        rows.setdefault(key, {}).update(values)  # a later file, by its dated name, replaces
    return pd.DataFrame(
        [
            {"model": model, "revision": revision} | values
            for (model, revision), values in rows.items()
        ]
    )


def _harness_file(path: Path) -> tuple[tuple[str, str], dict[str, float]]:
    """Return whose results a file of lm-evaluation-harness holds, and its scores."""
    expected = f"{path}: not a results file of lm-evaluation-harness"
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected scores") from None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{expected} (no JSON)") from None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(one, dict) for one in results.values()):
        raise UserError(f"{expected} (no field results)")
    config = content.get("config") if isinstance(content.get("config"), dict) else {}
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    model = arguments.get("pretrained") or content.get("model_name")
    if not model:
        raise UserError(f"{expected} (no config.model_args pretrained=... and no model_name)")
    revision = arguments.get("revision") or config.get("model_revision") or ""
    scores = {}
    for task, values in results.items():
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                metric, _, filtered = name.partition(",")
                suffix = "" if filtered in ("", "none") else f"_{filtered.replace('-', '_')}"
                scores[f"{task}_{metric}{suffix}"] = float(value)
    return (str(model), str(revision)), scores


def _revision(score: dict[Any, Any]) -> str:
    """Return the step of a score as text; "" for the last one."""
    for name in ("step", "revision"):
        value = score.get(name)
        if value is not None and value == value and str(value) not in ("", "main"):
            text = str(int(value)) if isinstance(value, float) else str(value)
            return text.removeprefix("step") if text.removeprefix("step").isdigit() else text
    return ""
