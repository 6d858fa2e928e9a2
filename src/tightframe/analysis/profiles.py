"""Rows -> one checkpoint layer by layer, or stratum by stratum of how often its classes occur.

These rows are of one model. None of them is a line of the tables across models, which are of the
last layer, of all classes and of next tokens (`checkpoints.py`).
"""

import re

import pandas as pd

from tightframe.analysis.checkpoints import CHECKPOINT, MEASURED, by_plainness
from tightframe.geometry.measures import measure_names

LABELS = ("next", "current", "shuffled")  # in the order in which they are shown
_STRATUM = re.compile(r"count (\d+)(-\d*)?")


def by_layer(rows: pd.DataFrame, losses: "pd.Series[float]") -> pd.DataFrame:
    """Return the measures of all classes at each layer of one checkpoint with several layers.

    Args:
        rows: As `results.gather` gives them, of one run or many.
        losses: The lowest validation loss of each run: the checkpoint is of the best run that has
            one, and its last.

    Returns:
        A row for each kind of labels that has several layers, layer and measure, taken with one
        minimum count per measure, whatever the labels: the one that most layers have, the largest
        if several do. Empty where there is no such checkpoint.
    """
    return _of_one_checkpoint(_measures(rows[rows["subset"] == "all"]), "layer", losses)


def by_frequency(rows: pd.DataFrame, losses: "pd.Series[float]") -> pd.DataFrame:
    """Return the measures of each frequency stratum at the last layer, and of all classes.

    Args, and what is returned, are those of `by_layer`, with subsets in place of layers.
    """
    measured = _measures(rows)
    last = measured["layer"] == measured.groupby(CHECKPOINT)["layer"].transform("max")
    shown = (measured["subset"] == "all") | measured["subset"].str.fullmatch(_STRATUM)
    measured = measured[last & shown]
    return _of_one_checkpoint(measured, "subset", losses)


def stratum_start(subset: str) -> int:
    """Return the smallest training count of a frequency stratum: 100 of "count 100-299"."""
    found = _STRATUM.fullmatch(subset)
    assert found is not None
    return int(found[1])


def _measures(rows: pd.DataFrame) -> pd.DataFrame:
    """Without losses, floors and columns of published tables, which are of no layer or stratum."""
    names = set(measure_names())
    return rows[rows["metric"].isin(names) & rows["labels"].isin(LABELS)]


def _of_one_checkpoint(rows: pd.DataFrame, along: str, losses: "pd.Series[float]") -> pd.DataFrame:
    keys = [*CHECKPOINT, *MEASURED]  # what was measured in two ways is never mixed
    several = rows.groupby([*keys, "labels"])[along].nunique().groupby(keys).max()
    found = by_plainness(several[several > 1].index.to_frame(index=False))
    if found.empty:
        return rows.iloc[:0]
    order = found.assign(loss=found["run"].map(losses)).sort_values(
        ["loss", "run", "step"], ascending=[True, True, False], kind="stable"
    )
    chosen = rows.merge(order.iloc[:1][keys], on=keys)
    chosen = chosen[chosen.groupby("labels")[along].transform("nunique") > 1]
    # A place of one kind of labels counts once, in whichever splits it was measured.
    distinct = chosen.drop_duplicates(["labels", "metric", "min_count", along])
    places = distinct.groupby(["metric", "min_count"]).size().rename("places")
    chosen = chosen.join(places, on=["metric", "min_count"]).sort_values(
        ["places", "min_count", "split"], ascending=[False, False, True], kind="stable"
    )
    least = chosen.groupby("metric")["min_count"].transform("first")
    kept = chosen[chosen["min_count"] == least].drop(columns="places")
    table: pd.DataFrame = kept.drop_duplicates(["labels", "metric", along])
    return table.reset_index(drop=True)
