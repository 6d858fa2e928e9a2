"""Rows -> one line a checkpoint: what statistics, figures and tables across models read.

A column has one definition: every checkpoint in it was measured in the same way and with the same
minimum count of samples per class. Where no setting is common to all, there is no column.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from tightframe.errors import UserError
from tightframe.geometry.measures import measure_names
from tightframe.geometry.options import PREFIXES
from tightframe.results import WAY

CHECKPOINT = ["run", "step"]
MEASURED = [f"measured_{name}" for name in WAY]  # the way in which a checkpoint was measured
# How the columns that are no measures begin.
FACTS = ("set_", "model_", "tokens_", "measured_", "centre_", "low_", "high_")


class Checkpoints(NamedTuple):
    """Table of checkpoints, with the definition of each column of measures.

    Attributes:
        table: A line per checkpoint (run and step) and a column per metric, then
            `centre_<metric>`, `low_<metric>` and `high_<metric>`, the 95 % intervals with their
            centres if there are any, and the facts (`set_*`, `model_*`, `tokens_*`,
            `measured_*`).
        settings: A line per metric: `min_count`; `groups` of documents behind its intervals, 0
            without; the way in which all checkpoints were measured; `reason`, which says why there
            is no column or why it has no intervals. A metric that is refused is not in `table`.
    """

    table: pd.DataFrame
    settings: pd.DataFrame

    @property
    def min_counts(self) -> dict[str, int]:
        """Minimum counts above 1, by metric."""
        lines = self.settings[self.settings["min_count"] > 1]
        return dict(zip(lines["metric"], lines["min_count"].astype(int), strict=True))

    @property
    def refused(self) -> dict[str, str]:
        """Reasons of the metrics that have no column, by name."""
        return self._reasons(self.settings["min_count"].isna())

    @property
    def without_intervals(self) -> dict[str, str]:
        """Reasons of the metrics whose intervals are left out, by name."""
        return self._reasons(self.settings["min_count"].notna() & (self.settings["reason"] != ""))

    def _reasons(self, chosen: "pd.Series[bool]") -> dict[str, str]:
        lines = self.settings[chosen]
        return dict(zip(lines["metric"], lines["reason"], strict=True))


def checkpoints(rows: pd.DataFrame, *, subset: str = "all") -> Checkpoints:
    """Set the checkpoints side by side, each column with one definition.

    A metric is taken over one subset, with next tokens as labels, at the last layer, on the
    training split where there is one (loss and agreement have the validation split only). All
    checkpoints are taken in one way of measuring (`results.WAY`): of those that all of them have,
    the one that leaves out the fewest positions, in float32 rather than bfloat16. A metric is
    taken with the largest minimum count that all checkpoints with this metric have; if there is
    none, it is refused. Intervals from different numbers of groups are left out. Columns of
    published tables are left out: they are our measures over again.

    Args:
        rows: As `results.gather` gives them: the fields of `Row`, `set_*`, `model_*`, `tokens_*`,
            `measured_*`.
        subset: "all" classes; "probe" gives what was measured while training, where a line need
            not have its weights kept.

    Raises:
        UserError: A checkpoint was measured on several token sets, or no way of measuring is
            common to all checkpoints.
    """
    while_training = rows["subset"] == "probe"
    rows = rows[while_training if subset == "probe" else ~while_training]
    _refuse_mixed_tokens(rows)
    chosen = rows[(rows["labels"] == "next") & (rows["subset"] == subset)]
    chosen = chosen[~chosen["metric"].str.startswith(tuple(f"{p}." for p in PREFIXES.values()))]
    chosen = in_one_way(chosen)
    chosen = chosen.sort_values(["layer", "split"], ascending=[False, True], kind="stable")
    chosen = chosen.drop_duplicates([*CHECKPOINT, "metric", "min_count"])
    one_a_metric = [_of_one_setting(metric, group) for metric, group in chosen.groupby("metric")]
    settings = pd.DataFrame(
        [line for _, line in one_a_metric],
        columns=["metric", "min_count", "groups", *WAY, "reason"],
    )
    chosen = pd.concat([chosen.iloc[:0], *(group for group, _ in one_a_metric)])
    values = chosen.pivot(index=CHECKPOINT, columns="metric", values="value")
    bounded = chosen[chosen["metric"].isin(settings.loc[settings["groups"] > 0, "metric"])]
    ends = [
        bounded.pivot(index=CHECKPOINT, columns="metric", values=end).add_prefix(f"{end}_")
        for end in ("centre", "low", "high")
    ]
    # Losses have no minimum count, so only a measure tells which one its file was made with.
    is_measure = chosen["metric"].isin(measure_names())
    facts = chosen.assign(is_measure=is_measure).sort_values(
        ["is_measure", "min_count"], ascending=False, kind="stable"
    )
    facts = facts.drop_duplicates(CHECKPOINT).set_index(CHECKPOINT)
    facts = facts[[name for name in rows.columns if name.startswith(FACTS)]]
    table = values.join([*ends, facts]).sort_index().reset_index()
    return Checkpoints(table, settings)


def in_one_way(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were measured in the plainest way that all checkpoints have."""
    ways = rows.drop_duplicates([*CHECKPOINT, *MEASURED])
    n = len(rows.drop_duplicates(CHECKPOINT))
    counts = ways.groupby(MEASURED, as_index=False, dropna=False).size()
    common = by_plainness(counts[counts["size"] == n])
    if common.empty and n:
        lines = ways.drop_duplicates(MEASURED).to_dict("records")
        found = [
            f"{line['run']} at step {line['step']}: "
            + ", ".join(f"{name} {line[f'measured_{name}']}" for name in WAY)
            for line in lines
        ]
        raise UserError(
            f"these checkpoints were measured in {len(lines)} ways, none of them common to all "
            f"({'; '.join(found)}); measure all of them in one way, or report them apart"
        )
    return rows.merge(common.iloc[:1][MEASURED], on=MEASURED)


def by_plainness(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows, those that were measured in the plainest way first."""
    unusual = sum((rows[f"measured_{name}"] != usual).astype(int) for name, usual in WAY.items())
    order = rows.assign(unusual=unusual).sort_values(
        ["measured_skip_positions", "unusual"], kind="stable"
    )
    return rows.loc[order.index]


def last_of_each_run(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of the last checkpoint of every run, one line per run."""
    return table[table["step"] == table.groupby("run")["step"].transform("max")]


def at_centres(shown: Checkpoints) -> Checkpoints:
    """Put every measure at the centres of its intervals, which belong beside them.

    An interval is of the value without its bias by small counts, so that it need not hold the plain
    value. Where only some checkpoints have an interval, centres and plain values would be two
    things in one column: then the plain values stay, and the intervals are left out.
    """
    table, settings = shown.table.copy(), shown.settings.copy()
    for metric in [name for name in settings["metric"] if f"low_{name}" in table]:
        value, centre = table[metric], table[f"centre_{metric}"]
        if (centre.isna() & value.notna()).any() and (centre.notna() & (centre != value)).any():
            table[[f"low_{metric}", f"high_{metric}"]] = math.nan
            settings.loc[settings["metric"] == metric, "reason"] = (
                "intervals are left out: some checkpoints have none, and the others' are of "
                "values without the bias of small counts"
            )
        else:
            table[metric] = centre.fillna(value)
            ends = [f"low_{metric}", f"high_{metric}"]
            table[ends] = table[ends].where(centre.notna(), math.nan)  # of files without centres
    return Checkpoints(table, settings)


def _of_one_setting(metric: Any, rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows of a metric with its common minimum count, and the line of its setting."""
    line = {"metric": metric, "reason": ""} | {
        name: rows[f"measured_{name}"].iloc[0] for name in WAY
    }
    n = len(rows.drop_duplicates(CHECKPOINT))
    common = rows.groupby("min_count").size()
    common = common[common == n]
    if common.empty:
        counts = _listed(rows["min_count"])
        reason = f"no common minimum count: measured with {counts}"
        return rows.iloc[:0], line | {"reason": reason}
    min_count = int(common.index.max())
    rows = rows[rows["min_count"] == min_count]
    groups = rows.loc[rows["low"].notna(), "measured_groups"]
    line |= {"min_count": min_count, "groups": int(groups.max()) if len(groups) else 0}
    if groups.nunique() > 1:
        why = f"intervals are left out: they are from {_listed(groups)} groups of documents"
        line |= {"groups": 0, "reason": why}
    return rows, line


def _listed(values: Iterable[Any]) -> str:
    return " and ".join(f"{value:,}" for value in sorted({*values}))


def _refuse_mixed_tokens(rows: pd.DataFrame) -> None:
    sets = rows.drop_duplicates([*CHECKPOINT, "tokens_fingerprint"])
    mixed = sets[sets.duplicated(CHECKPOINT, keep=False)]
    if mixed.empty:
        return
    run, step = mixed.iloc[0][CHECKPOINT]
    its = mixed[(mixed["run"] == run) & (mixed["step"] == step)]
    found = [
        f"{n} ({f})" for n, f in zip(its["tokens_name"], its["tokens_fingerprint"], strict=True)
    ]
    raise UserError(
        f"{run} at step {step} was measured on {len(found)} token sets, {' and '.join(found)}; "
        "keep the results files of one of them, and move the others elsewhere"
    )
