"""Rows -> one line a checkpoint: what statistics, figures and tables across models read."""

import pandas as pd

from tightframe.collapse.checks import PREFIXES
from tightframe.collapse.measures import MEASURES
from tightframe.errors import UserError
from tightframe.results import WAY

CHECKPOINT = ["run", "step"]
MEASURED = [f"measured_{name}" for name in WAY]  # the way in which a checkpoint was measured
# How the columns that are no measures begin.
FACTS = ("set_", "model_", "tokens_", "measured_")


def checkpoints(rows: pd.DataFrame, *, subset: str = "all") -> pd.DataFrame:
    """One line a checkpoint (run and step), a column a metric, then settings, model and tokens.

    A metric that was measured in several ways is taken over one subset, with next tokens as
    labels, at the last layer, on the training split where there is one (loss and agreement have
    the validation split only), with the smallest minimum count; so are the facts of the model,
    some of which go with the classes. Columns of published tables are left out: they are our
    measures over again. A checkpoint that was measured on several token sets is refused: its line
    would mix them. Of one that was measured in several ways, the line is of the plainest.

    Args:
        rows: As `results.gather` gives them: the fields of `Row`, `set_*`, `model_*`, `tokens_*`,
            `measured_*`.
        subset: "all" classes; "probe" gives what was measured while training, where a line need
            not have its weights kept.
    """
    while_training = rows["subset"] == "probe"
    rows = rows[while_training if subset == "probe" else ~while_training]
    _refuse_mixed_tokens(rows)
    chosen = rows[(rows["labels"] == "next") & (rows["subset"] == subset)]
    chosen = chosen[~chosen["metric"].str.startswith(tuple(f"{p}." for p in PREFIXES.values()))]
    chosen = plainest(chosen)
    chosen = chosen.sort_values(
        ["layer", "split", "min_count"], ascending=[False, True, True], kind="stable"
    ).drop_duplicates([*CHECKPOINT, "metric"])
    values = chosen.pivot(index=CHECKPOINT, columns="metric", values="value")
    # Losses have no minimum count, so only a measure tells which one its file was made with.
    no_measure = ~chosen["metric"].isin([measure.name for measure in MEASURES])
    facts = chosen.assign(no_measure=no_measure).sort_values(
        ["no_measure", "min_count"], kind="stable"
    )
    facts = facts.drop_duplicates(CHECKPOINT).set_index(CHECKPOINT)
    facts = facts[[name for name in rows.columns if name.startswith(FACTS)]]
    return values.join(facts).sort_index().reset_index()


def plainest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each checkpoint that were measured in one way, so that nothing is mixed.

    It is the one that skips the fewest positions, in float32 rather than bfloat16.
    """
    if not {*MEASURED} <= {*rows.columns}:  # gathered before these were told apart
        return rows
    ways = by_plainness(rows.drop_duplicates([*CHECKPOINT, *MEASURED]))
    first = ways.drop_duplicates(CHECKPOINT)[[*CHECKPOINT, *MEASURED]]
    return rows.merge(first, on=[*CHECKPOINT, *MEASURED])


def by_plainness(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows, those that were measured in the plainest way first."""
    unusual = rows["measured_precision"] != WAY["precision"]
    order = rows.assign(unusual=unusual).sort_values(
        ["measured_skip_positions", "unusual"], kind="stable"
    )
    return rows.loc[order.index]


def last_of_each_run(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the last checkpoint of every run, one line a run."""
    return table[table["step"] == table.groupby("run")["step"].transform("max")]


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
