"""Rows -> one line a checkpoint: what statistics, figures and tables across models read."""

import pandas as pd

CHECKPOINT = ["run", "step"]


def checkpoints(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a checkpoint (run and step), a column a metric, then its settings and model facts.

    A metric that was measured in several ways is taken over all classes, with next tokens as
    labels, at the last layer, on the training split where there is one (loss and agreement have
    the validation split only), with the smallest minimum count.

    Args:
        rows: As `results.gather` gives them: the fields of `Row`, `set_*` and `model_*`.
    """
    chosen = rows[(rows["labels"] == "next") & (rows["subset"] == "all")]
    chosen = chosen.sort_values(
        ["layer", "split", "min_count"], ascending=[False, True, True], kind="stable"
    ).drop_duplicates([*CHECKPOINT, "metric"])
    values = chosen.pivot(index=CHECKPOINT, columns="metric", values="value")
    facts = rows.drop_duplicates(CHECKPOINT).set_index(CHECKPOINT)
    facts = facts[[name for name in rows.columns if name.startswith(("set_", "model_"))]]
    return values.join(facts).sort_index().reset_index()


def last_of_each_run(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the last checkpoint of every run, one line a run."""
    return table[table["step"] == table.groupby("run")["step"].transform("max")]
