"""What the geometry of facts says of recall, as Markdown and a figure; every number from the files.

Reads what `studies.recall_geometry.run` writes into a study's results.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.injection.tables import markdown
from studies.recall_geometry.geometry import FEATURES
from studies.recall_geometry.recall import BASELINES, BLOCKS, CELL
from tightframe.errors import UserError
from tightframe.report.figures import STYLE, blank, round_log_ticks
from tightframe.report.knowledge import FEATURES as WORDS
from tightframe.report.knowledge_figures import arm_look
from tightframe.results import read_csv

TABLES = ("geometry.parquet", "geometry.csv")
FIGURE = "geometry.png"
PANELS = (  # column, label, logarithmic axis
    ("log_probability", "log-probability of the answer (nats)", False),
    ("cdnv_nearest", "CDNV with the nearest fact", True),
    ("rank", "rank of the fact's mean by distance to its question", True),
    ("margin", "margin of the question to its fact's mean", False),
)
BINS = 5
LEVEL = 0.05  # what p, and q of the features one by one, are compared with
_LINES = ("-", ":", "-.", "--")  # by number of facts


def section(results: Path, *, figure: str = "") -> str:
    """The section on geometry of a study's page, without what has not been measured.

    Args:
        results: A study's folder of results.
        figure: Where a link to the figure points; empty: there is none.
    """
    for name in TABLES:
        if not (results / name).is_file():
            raise UserError(
                f"{results / name}: missing; run `python -m studies.recall_geometry.run` on "
                "the study first"
            )
    facts = pd.read_parquet(results / "geometry.parquet")
    statistics = read_csv(results / "geometry.csv")
    runs = facts.groupby("run")["n_facts"].first()
    parts = [
        "## Does the geometry of a fact tell whether it is recalled?",
        "A fact is a class. Its samples are the embeddings at which the first token of its answer "
        "is predicted, one for each mask over the answer. Its question is the test. The gain is "
        "what geometry adds, out of fold, to a prediction from the model's own outputs.",
        f"{len(facts):,} of {int(runs.sum()):,} facts (of {len(runs)} runs) have a question and "
        f"the eight masks that a variance needs. They have {facts['n_variants'].mean():.1f} masks "
        f"on average, {100 * facts['longer'].sum() / facts['n_variants'].sum():.0f} % of them with "
        f"longer spans than in training. {100 * facts['verbatim'].mean():.0f} % of the questions "
        "are the masked sentence word for word; that mask is then not a sample of the class.",
        _gains(statistics),
        _verdict(statistics),
        _features(statistics),
    ]
    if figure:
        parts.insert(3, f"![facts recalled against their geometry]({figure})")
    if (results / "locality.csv").is_file():
        parts += _locality(results)
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(facts: pd.DataFrame) -> Figure:
    """Share recalled (vertical) by fifths of the log-probability and of three features.

    Args:
        facts: A line a run and fact; the seeds of a cell are taken together.
    """
    arms, sizes = facts["arm"].unique().tolist(), sorted(facts["n_facts"].unique())
    looks = {}
    for key, cell in facts.groupby(list(CELL), sort=False):
        arm, n_facts = cell["arm"].iloc[0], cell["n_facts"].iloc[0]
        line = _LINES[sizes.index(n_facts) % len(_LINES)]
        looks[key] = arm_look(arm, arms) | ({"linestyle": line} if len(sizes) > 1 else {})
    with mpl.rc_context(STYLE):
        figure = blank(8.4, 6.4)
        axes = figure.subplots(2, 2, sharey=True)
        for place, (column, label, log) in zip(axes.flat, PANELS, strict=True):
            for key, cell in facts.groupby(list(CELL), sort=False):
                _draw_cell(place, cell, column, _name(key), looks[key])
            if log:
                place.set_xscale("log")
                round_log_ticks(place.xaxis)
            place.set_xlabel(label)
            place.set_ylim(-3, 103)
        for place in axes[:, 0]:
            place.set_ylabel("recalled (%)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_cell(
    place: Axes, cell: pd.DataFrame, column: str, name: str, look: Mapping[str, Any]
) -> None:
    known = cell[np.isfinite(cell[column])]
    bins = pd.qcut(known[column], BINS, labels=False, duplicates="drop")  # ties share a bin
    parts = known.groupby(bins)
    place.plot(
        parts[column].median().to_numpy(),
        100 * parts["recalled"].mean().to_numpy(),
        label=name,
        **look,
    )


def _gains(statistics: pd.DataFrame) -> str:
    rows = statistics[(statistics["position"] == "all") & (statistics["geometry"] == "all")]
    lines = []
    for _, one in rows.iterrows():
        cell = [_name(tuple(one[name] for name in CELL)), one["baseline"]]
        cell += [f"{one['n_facts_used']} x {one['seeds']}", f"{100 * one['recalled']:.1f}"]
        if np.isfinite(one["gain"]):
            cell += [f"{one[f'auc_{name}']:.3f}" for name in ("baseline", "geometry", "both")]
            cell += [_interval(one["gain"], one["low"], one["high"], 3), _probability(one["p"])]
        else:
            cell += ["", "", "", str(one["reason"]), ""]
        lines.append(cell)
    head = ["arm, facts x exposures", "known", "facts x seeds", "recalled %", "AUC known"]
    head += ["AUC geometry", "AUC both", "gain, nats an answer", "p"]
    return markdown(head, lines)


def _verdict(statistics: pd.DataFrame) -> str:
    """How often each block of geometry adds something, in words."""
    told = statistics[np.isfinite(statistics["gain"]) & (statistics["position"] == "all")]
    if told.empty:
        return "No cell can be judged: nearly all of its facts are recalled, or nearly none."
    sentences, by_p, by_interval = [], 0, 0
    for baseline in BASELINES:
        for block in BLOCKS:
            rows = told[(told["baseline"] == baseline) & (told["geometry"] == block)]
            matters = (rows["p"] <= LEVEL) & (rows["gain"] > 0)
            sure = matters & (rows["low"] > 0)
            name = {"all": "all geometry", "collapse": "collapse alone"}.get(block)
            sentences.append(
                f"{name or 'the place of the question'} beside {baseline}: {int(matters.sum())} "
                f"of {len(rows)} by p, {int(sure.sum())} by the interval"
            )
            by_p, by_interval = by_p + int(matters.sum()), by_interval + int(sure.sum())
    return (
        "There are two tests. The permutation test (p) asks whether geometry has any information "
        f"on these outcomes beyond the baseline: p is at most {LEVEL} with a gain above 0 in "
        f"{by_p} cells. The interval asks whether the gain in log loss would hold for other facts: "
        f"it lies above 0 in **{by_interval} of these {by_p}**. By features, of the cells that can "
        "be judged: " + "; ".join(sentences) + "."
    )


def _probability(p: float) -> str:
    """Return p to three digits; a small one is no 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _features(statistics: pd.DataFrame) -> str:
    lines = []
    for feature in FEATURES:
        rows = statistics[(statistics["geometry"] == feature.name) & statistics["gain"].notna()]
        if len(rows):
            adds = (rows["q"] <= LEVEL) & (rows["gain"] > 0)
            name, alone = feature.name, rows["auc_geometry"].median()
            cell = [f"`{name}`", WORDS[name], f"{alone:.3f}"]
            lines.append([*cell, f"{rows['gain'].median():+.3f}", f"{adds.sum()} of {len(rows)}"])
    if not lines:
        return ""
    added = f"tied to recall beyond the log-probability (q at most {LEVEL})"
    head = ("feature", "what it is", "AUC alone, median", "gain, median", added)
    return "Each feature alone, over the cells:\n\n" + markdown(head, lines)


def _locality(results: Path) -> Iterable[str]:
    changed = read_csv(results / "locality.csv")
    moved = read_csv(results / "locality-shift.csv")
    yield "## Does a second injection change the first facts?"
    first = changed.iloc[0]
    yield (
        f"A model is trained on {first['n_kept']} facts, then on {first['n_new']} others only. "
        "The table compares the first facts before and after:"
    )
    lines = [
        [one["arm"], one["quantity"]]
        + [
            _interval(one[name], one[f"{name}_low"], one[f"{name}_high"], 2)
            for name in ("before", "after", "change")
        ]
        + [_probability(one["p"])]
        for _, one in changed.iterrows()
    ]
    yield markdown(("arm", "mean over facts", "before", "after", "change", "p (signs)"), lines)
    yield (
        "Displacement of their embeddings, in units of their spread, with two references: noise "
        "(class means of two halves of the masks) and unrelated networks (two seeds):"
    )
    lines = [
        [one["arm"], one["compared"], one["points"]]
        + [f"{one[name]:.3f}" for name in ("cka", "displacement", "aligned")]
        for _, one in moved.iterrows()
    ]
    yield markdown(("arm", "compared", "points", "CKA", "displacement", "after alignment"), lines)


def _name(key: tuple[object, ...]) -> str:
    arm, n_facts, exposures = key
    return f"{arm}, {n_facts} x {exposures}"


def _interval(value: float, low: float, high: float, digits: int) -> str:
    ends = f" [{low:.{digits}f}, {high:.{digits}f}]" if low < high else ""
    return f"{value:.{digits}f}{ends}"
