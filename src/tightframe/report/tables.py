"""The tables of a report as CSV: a line a checkpoint, a line an association, published tables."""

import pandas as pd

from tightframe.analysis.checkpoints import CHECKPOINT, FACTS, plainest
from tightframe.collapse.checks import PREFIXES
from tightframe.collapse.compat import columns
from tightframe.report.views import VIEWS

LOSS = ["val_loss", "entropy_floor", "loss_above_floor", "realised_floor", "loss_above_realised"]
QUALITY = [*LOSS, "val_accuracy", "val_perplexity"]
COUNTS = ("n_params", "hits", "matches", "misses")  # of published tables; whole numbers


def with_floors(table: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints with what their losses are above the two floors, in nats per token.

    Nobody can expect less than the conditional entropy of the text; the realised floor is what the
    true distribution loses on these very validation positions. NaN where the floor is unknown.
    """
    floors = table.reindex(columns=["entropy_floor", "realised_floor"]).astype(float)
    return table.assign(
        entropy_floor=floors["entropy_floor"],
        realised_floor=floors["realised_floor"],
        loss_above_floor=table["val_loss"] - floors["entropy_floor"],
        loss_above_realised=table["val_loss"] - floors["realised_floor"],
    )


def measured(table: pd.DataFrame) -> list[str]:
    """The measures in the table: those of the views first, then the others by name."""
    shown = dict.fromkeys(panel.metric for view in VIEWS for panel in view.panels)
    others = sorted(
        name
        for name in table.columns
        if name not in {"run", "step", *QUALITY} and not name.startswith(FACTS)
    )
    return [name for name in shown if name in table] + [n for n in others if n not in shown]


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints, in reading order: loss, model, tokens, way, settings, measures."""
    facts = [name for name in table.columns if name.startswith(("model_", "tokens_", "measured_"))]
    settings = [name for name in table.columns if name.startswith("set_")]
    quality = [name for name in QUALITY if name in table]
    return table[["run", "step", *quality, *facts, *settings, *measured(table)]]


def published(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """A published table column for column, a line a checkpoint that was measured for it.

    `model` is the run's name and the step. May's has its index, counted from 0, as a first column
    without a name. The lines of both are by name and step.

    Args:
        rows: As `results.gather` gives them.
        table: "lc-2024-05" or "lc-2024-10".
    """
    prefix = f"{PREFIXES[table]}."
    chosen = rows[rows["metric"].str.startswith(prefix) & (rows["labels"] == "next")]
    chosen = plainest(chosen)
    values = chosen.pivot(index=CHECKPOINT, columns="metric", values="value")
    lines = values.rename(columns=lambda name: name.removeprefix(prefix)).reset_index()
    lines["model"] = [
        f"{run}@{step}" for run, step in zip(lines["run"], lines["step"], strict=True)
    ]
    lines = lines.reindex(columns=list(columns(table)))
    counted = [name for name in COUNTS if name in lines]
    lines[counted] = lines[counted].round().astype("Int64")
    if table == "lc-2024-05":
        lines.insert(0, "", range(len(lines)))
    return lines
