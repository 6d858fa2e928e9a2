"""The tables of a report as CSV: checkpoints, associations, published tables."""

from collections.abc import Iterable, Sequence

import pandas as pd

from tightframe.analysis.association import POOLED
from tightframe.analysis.checkpoints import CHECKPOINT, FACTS, in_one_way
from tightframe.geometry.options import PREFIXES
from tightframe.geometry.published import columns
from tightframe.geometry.views import views_of
from tightframe.report.panels import correlation

LOSS = ["val_loss", "entropy_floor", "loss_above_floor", "realised_floor", "loss_above_realised"]
QUALITY = [*LOSS, "val_accuracy", "val_perplexity"]
COUNTS = ("n_params", "hits", "matches", "misses")  # of published tables; whole numbers


def with_floors(table: pd.DataFrame) -> pd.DataFrame:
    """Return the checkpoints with what their losses are above the two floors, in nats per token.

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
    """Return the measures in the table: those of the views first, then the others by name."""
    shown = dict.fromkeys(panel.metric for view in views_of(table) for panel in view.panels)
    others = sorted(
        name
        for name in table.columns
        if name not in {"run", "step", *QUALITY} and not name.startswith(FACTS)
    )
    return [name for name in shown if name in table] + [n for n in others if n not in shown]


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the checkpoints in reading order: loss, model, tokens, way, settings, measures.

    The centre and the ends of an interval stand behind its value.
    """
    facts = [name for name in table.columns if name.startswith(("model_", "tokens_", "measured_"))]
    settings = [name for name in table.columns if name.startswith("set_")]
    quality = [name for name in QUALITY if name in table]
    before, after = with_ends(table, quality), with_ends(table, measured(table))
    return table[["run", "step", *before, *facts, *settings, *after]]


def with_ends(table: pd.DataFrame, metrics: Iterable[str]) -> list[str]:
    """Return the names of these columns, each with those of its intervals if it has any."""
    return [
        name
        for metric in metrics
        for name in (metric, f"centre_{metric}", f"low_{metric}", f"high_{metric}")
        if name in table
    ]


def associations_text(found: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return the associations of the views' measures as a Markdown table, to put on a page.

    A correlation that is not different from 0 is marked "n.s."; kinds of training stand beside all.

    Args:
        found: As `analysis.associations` gives it.
        table: The checkpoints that it is of.
    """
    lines = found[~found["log"] & (found["checkpoints"] == "all")]
    kinds = [kind for kind in dict.fromkeys(lines["group"]) if kind != POOLED]
    rows = []
    for metric in dict.fromkeys(panel.metric for view in views_of(table) for panel in view.panels):
        by_group = {
            one["group"]: one for one in lines[lines["metric"] == metric].to_dict("records")
        }
        if not by_group:
            continue
        pooled = by_group[POOLED]
        beware = str(pooled["reason"])
        if pooled["ruled_by"]:
            without = correlation(pooled["r_without"])
            beware = f"{pooled['ruled_by']} alone decides it; r is {without} without it"
        r2 = "" if pooled["r2"] != pooled["r2"] else f"{pooled['r2']:.2f}"
        of_kinds = (correlation(by_group[kind]["r"], by_group[kind]["p"]) for kind in kinds)
        own = correlation(pooled["r"], pooled["p"]), r2, correlation(pooled["spearman"])
        rows.append([f"`{metric}`", *own, *of_kinds, beware])
    heads = ["measure", "r", "R²", "Spearman", *(f"r, {kind}" for kind in kinds), "notes"]
    cells = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def short_names(runs: Sequence[str]) -> dict[str, str]:
    """Return for each run the parts of its name in which the runs differ.

    Parts end at a hyphen. Names with different numbers of parts are left as they are, and so is
    the name of a single run.
    """
    names = list(dict.fromkeys(runs))
    parts = [name.split("-") for name in names]
    if len({len(each) for each in parts}) != 1 or len(names) == 1:
        return dict(zip(names, names, strict=True))
    differ = [len({*column}) > 1 for column in zip(*parts, strict=True)]
    return {
        name: "-".join(part for part, kept in zip(each, differ, strict=True) if kept)
        for name, each in zip(names, parts, strict=True)
    }


def published(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return a published table column for column, one line per checkpoint measured for it.

    `model` is the run's name and the step. May's has its index, counted from 0, as a first column
    without a name. The lines of both are by name and step.

    Args:
        rows: As `results.gather` gives them.
        table: "lc-2024-05" or "lc-2024-10".
    """
    prefix = f"{PREFIXES[table]}."
    chosen = rows[rows["metric"].str.startswith(prefix) & (rows["labels"] == "next")]
    chosen = in_one_way(chosen)
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
