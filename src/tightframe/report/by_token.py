"""The classes of one model as points: what `tightframe classes` left among the results.

Tokens are strangers' text: everything that the page shows of them is escaped here.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tightframe.errors import UserError, printable
from tightframe.report import plots
from tightframe.report.panels import log_ticks
from tightframe.report.plots import Json, Shared, escaped, four
from tightframe.report.rendering import json_numbers

FILE = "classes.parquet"
MOST = 5_000  # classes on the page, the commonest: each is a mark that the browser draws
_LONGEST = 40  # letters of a token that are shown


@dataclasses.dataclass(frozen=True)
class TokenPanel:
    """A number of each class against its count."""

    column: str
    name: str  # on the switch
    title: str  # of the axis
    meaning: str
    log: bool  # whether its axis is logarithmic where all values are positive


PANELS = (
    TokenPanel(
        "norm",
        "Norm",
        "norm of the centred class mean",
        "Distance of the mean of the embeddings before this token from the average of all class "
        "means, in the unit of the embedding. Equal norms (NC2) would be a horizontal line.",
        log=False,
    ),
    TokenPanel(
        "cdnv",
        "Variability",
        "mean CDNV to all other classes",
        "Variance within this class and another over their squared distance, averaged over all "
        "other classes (NC1); lower is more collapsed. For a rare token it is too low: each point "
        "also shows the debiased value.",
        log=True,
    ),
    TokenPanel(
        "duality",
        "Duality",
        "cosine with the row of the classifier",
        "Cosine between the class mean and the token's row of the classifier (NC3); 1 is the "
        "same direction.",
        log=False,
    ),
    TokenPanel(
        "agreement",
        "Agreement",
        "share of validation positions that agree",
        "How often the classifier and the nearest class mean decide alike at positions before this "
        "token (NC4), on validation text; tokens that do not occur there have no point.",
        log=False,
    ),
)
# What is shown with a point besides its place.
_NUMBERS = (
    *("norm", "cdnv", "cdnv_db", "interference", "duality", "agreement"),
    "nearest_angle",
)
_FACTS = ("run", "step", "min_count")


def find(path: Path, table: pd.DataFrame) -> pd.DataFrame | None:
    """Return the classes of a run, or of the best run of a sweep that has any; None without any.

    Args:
        path: A sweep's or a run's folder.
        table: A line a checkpoint: the best run is that of the lowest validation loss.
    """
    best = table.groupby("run")["val_loss"].min()
    files = sorted(path.glob(f"runs/*/results/{FILE}"))
    losses = [float(best.get(file.parent.parent.name, math.inf)) for file in files]
    if files:
        return _read(files[losses.index(min(losses))])
    file = path / "results" / FILE
    return _read(file) if file.exists() else None


def figures(classes: pd.DataFrame, shared: Shared) -> dict[str, Json]:
    """Return each number of the classes against their counts; classes without it have no point."""
    shown = classes.sort_values("count", ascending=False, kind="stable").head(MOST)
    counts = shared.put("counts of tokens", shown["count"].astype(int).tolist())
    hover = shared.put("tokens", [_hover(line) for line in shown.to_dict("records")])
    drawn = {}
    for panel in PANELS:
        values = shown[panel.column]
        log = panel.log and values.min() > 0
        ticks = log_ticks(values.min(), values.max()) if log else None
        trace = {
            "x": counts,
            "y": json_numbers(values, digits=5),
            "mode": "markers",
            "customdata": hover,
            "hovertemplate": "%{customdata}<extra></extra>",
            "marker": {"size": 6, "color": plots.colour("accent"), "opacity": 0.5},
        }
        drawn[f"token {panel.column}"] = plots.figure(
            [trace],
            x=plots.axis("count in the training text", type="log", dtick=1, tickformat=","),
            y=plots.axis(panel.title, ticks),
            about=f"Scatter plot of {values.notna().sum()} tokens: {panel.title} against how often "
            "they come next. The values are in classes.csv among the results.",
        )
    return drawn


def _hover(line: Mapping[Any, Any]) -> str:
    """Return what is shown with a point, in short lines, escaped."""
    own = {name: four(line[name]) for name in _NUMBERS}
    near = ""
    if not pd.isna(line["nearest_token"]):
        near = (
            f"<br>nearest {readable(line['nearest_token'])}, {own['nearest_angle']}\N{DEGREE SIGN}"
        )
    return (
        f"<b>{readable(line['token'])}</b>  {line['count']:,} times<br>"
        f"norm {own['norm']}<br>CDNV {own['cdnv']}, debiased {own['cdnv_db']}<br>"
        f"interference {own['interference']}, duality {own['duality']}<br>"
        f"agreement {own['agreement']}{near}"
    )


def summary(classes: pd.DataFrame) -> dict[str, Any]:
    """Return which model's the points are, and how many of them are shown."""
    facts = {name: classes.attrs[name] for name in _FACTS}
    return {**facts, "classes": len(classes), "shown": min(len(classes), MOST)}


def readable(token: str) -> str:
    """Return a token for plotly, which reads some HTML: escaped, its spaces seen, not too long."""
    return escaped(visible(token))


def visible(token: str) -> str:
    """Return a token with its spaces seen, not too long."""
    seen = printable(token)
    seen = seen if len(seen) <= _LONGEST else f"{seen[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return seen.replace(" ", "\N{OPEN BOX}")


def _read(file: Path) -> pd.DataFrame:
    try:
        classes = pd.read_parquet(file)
        wanted = classes[["token", "count", *_NUMBERS, "nearest_token"]]
        if not all(name in classes.attrs for name in _FACTS):
            raise ValueError("no facts")
        numbers = {name: wanted[name].astype(float) for name in _NUMBERS}
    except (OSError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{file}: not a table of classes, or damaged; run `tightframe classes` again"
        ) from None
    described = wanted.assign(**numbers)
    described.attrs = classes.attrs
    return described
