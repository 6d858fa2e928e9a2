"""The tables of a report: a line a checkpoint, and a line an association, as CSV."""

from pathlib import Path

import pandas as pd

from tightframe.analysis.checkpoints import FACTS
from tightframe.files import whole_file
from tightframe.report.views import VIEWS

LOSS = ["val_loss", "entropy_floor", "loss_above_floor", "realised_floor", "loss_above_realised"]
QUALITY = [*LOSS, "val_accuracy", "val_perplexity"]


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
    """The checkpoints, in reading order: loss, model, tokens, settings, measures."""
    facts = [name for name in table.columns if name.startswith(("model_", "tokens_"))]
    settings = [name for name in table.columns if name.startswith("set_")]
    quality = [name for name in QUALITY if name in table]
    return table[["run", "step", *quality, *facts, *settings, *measured(table)]]


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all; the same table gives the same bytes."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
