"""From the folder of a table to a prediction in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tightframe.errors import UserError
from tightframe.ntp.predict import (
    Prediction,
    load_prediction,
    predict_geometry,
    prediction_facts,
    save_prediction,
)
from tightframe.ntp.proxies import proxy, proxy_report
from tightframe.ntp.solutions import best_solution, load_solution
from tightframe.ntp.storage import load_table, table_fingerprint
from tightframe.ntp.svm import Solution
from tightframe.ntp.table import ContextTable

PROXY = "proxy"


def predict_table(
    folder: Path, source: str | None, rank: int | None, *, say: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """Predict the geometry of a table and write it to `folder`/predictions.

    Args:
        folder: Of the table, with its solutions if there are any.
        source: "proxy", or the file of a solution; by default that of smallest gap in `folder`.
        rank: Dimensions to keep.
        say: Told what is going on.

    Returns:
        The file, and its summary: sizes, rank, kind, gap, singular values, and the report on the
        proxy where that is the source.
    """
    table = load_table(folder)
    made_from = _source(folder, source)
    name = made_from.stem if made_from else PROXY
    path = (
        folder / "predictions" / f"{name}{f'-rank{rank}' if rank is not None else ''}.safetensors"
    )
    if path.exists():
        say(f"{path}: already predicted")
        return path, load_prediction(path).to_dict() | {"proxy": prediction_facts(path)["proxy"]}
    report = None
    try:
        if made_from:
            say(f"{made_from}: predicting from it")
            predicted = _of_solution(made_from, table, rank)
        else:
            predicted = proxy(table.soft_labels.support, rank)
            report = _plain(proxy_report(table.soft_labels.support).to_dict())
    except ValueError as error:  # the rank, or the size of the table
        raise UserError(f"{folder}: {error}") from None
    facts = {"table": table_fingerprint(folder), "from": str(made_from or PROXY), "proxy": report}
    save_prediction(path, predicted, facts)
    say(f"{path}: written")
    return path, predicted.to_dict() | {"proxy": report}


def _source(folder: Path, source: str | None) -> Path | None:
    """The file of a solution; None is the proxy."""
    if source == PROXY:
        return None
    if source is not None:
        return Path(source)
    best = best_solution(folder, table_fingerprint(folder))
    if best is None:
        raise UserError(
            f"{folder}: holds no solution; run `tightframe ntp solve {folder}` first, or take "
            "`--from proxy`"
        )
    return best


def _of_solution(path: Path, table: ContextTable, rank: int | None) -> Prediction:
    solution: Solution = load_solution(path)
    groups = solution.groups
    shape = len(groups.row_of), len(groups.column_of)
    expected = table.vocab_size, table.n_contexts
    if shape != expected or not np.array_equal(
        groups.support[np.ix_(groups.row_of, groups.column_of)], table.matrix
    ):
        raise UserError(
            f"{path}: solves another support matrix ({shape[0]} x {shape[1]}) than that of the "
            f"table ({expected[0]} x {expected[1]}); run `tightframe ntp solve` on this table"
        )
    return predict_geometry(solution, rank=rank)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was not computed is null."""
    return {
        key: None if isinstance(value, float) and np.isnan(value) else value
        for key, value in facts.items()
    }
