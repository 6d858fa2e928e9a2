"""From the folder of a table to a prediction in it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tightframe.errors import UserError
from tightframe.ntp.checks import PROXY, no_solution
from tightframe.ntp.predict import (
    Prediction,
    load_prediction,
    predict_geometry,
    save_prediction,
)
from tightframe.ntp.proxies import ProxyReport, proxy, proxy_report
from tightframe.ntp.solutions import best_solution, load_solution
from tightframe.ntp.table import load_table, table_fingerprint


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
    support = table.soft_labels.support
    with _refused(folder):
        if made_from:
            say(f"{made_from}: predicting from it")
            predicted = predict_geometry(load_solution(made_from, table.matrix), rank=rank)
            report = None
        else:
            predicted = load_prediction(path) if path.exists() else proxy(support, rank)
            report = proxy_report(support)
    if path.exists():
        _check_worth(path, report, predicted, whole=rank is None)
        say(f"{path}: already predicted")
    else:
        facts = {"table": table_fingerprint(folder), "from": str(made_from or PROXY)}
        save_prediction(path, predicted, facts | {"proxy": report and _plain(report.to_dict())})
        say(f"{path}: written")
    return path, predicted.to_dict() | {"proxy": report and _plain(report.to_dict())}


def _check_worth(
    path: Path, report: ProxyReport | None, predicted: Prediction, *, whole: bool
) -> None:
    """Refuse a file that says more, or less, of its worth than what it was made from proves.

    Args:
        path: Of the prediction.
        report: Where it was made from the proxy: the test whether that is exact.
        predicted: What a solution gives, computed anew; of the proxy, what is in the file.
        whole: Whether all dimensions were asked for.
    """
    if report is None:
        kind, gap = predicted.kind, predicted.gap
    elif whole and report.verdict == "exact":
        kind, gap = "exact", 0.0
    else:
        kind, gap = "proxy", float("nan")
    written = load_prediction(path)
    if (written.kind, f"{written.gap:.12g}") != (kind, f"{gap:.12g}"):
        raise UserError(
            f"{path}: says {written.kind} with gap {written.gap:.6g}, but what it was made from "
            f"gives {kind} with gap {gap:.6g}; remove it, and predict again"
        )


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # the rank, or the size of the table
        raise UserError(f"{folder}: {error}") from None


def _source(folder: Path, source: str | None) -> Path | None:
    """The file of a solution; None is the proxy."""
    if source == PROXY:
        return None
    if source is not None:
        return Path(source)
    best = best_solution(folder, table_fingerprint(folder))
    if best is None:
        raise no_solution(folder)
    return best


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was not computed is null."""
    return {
        key: None if isinstance(value, float) and np.isnan(value) else value
        for key, value in facts.items()
    }
