"""What a text predicts and how near models have come: read from a table's folder for the page.

::

    ntp/<name>/   summary.json  results/*.jsonl  results/<model>/*.jsonl  concepts/*/concepts.csv

`tightframe.ntp.summary` makes the summary: the facts of the table, spectra, heat maps, and what is
predicted at the losses of the models. Words are strangers' text: all that the page shows of them
is escaped here.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from tightframe.errors import UserError
from tightframe.formats import Count, Record, read_signed
from tightframe.report.by_token import visible
from tightframe.report.inputs import check_theory
from tightframe.report.panels import log_ticks
from tightframe.results import gather, read_csv

SUMMARY = "summary.json"
AT_SAME_LOSS = "predicted at the same loss"  # subset of rows: of the optimum at the model's loss
PATH = "-path"  # how the name of a run ends that is the ridge path of its table
MOST_CONCEPTS = 12


class Curve(NamedTuple):
    """One kind of line of a panel."""

    metric: str
    label: str
    look: Literal["measured", "second", "third", "baseline"] = "measured"


@dataclasses.dataclass(frozen=True)
class CurvePanel:
    """Measures of trained models against the step."""

    title: str
    axis: str
    curves: tuple[Curve, ...]
    meaning: str  # for somebody who has not read the paper
    log: bool = False  # the vertical axis, where all values are positive


PANELS = (
    CurvePanel(
        "Loss above the floor",
        "nats per pair",
        (Curve("ntp_excess", "loss less entropy"),),
        "Loss of the model minus the entropy of the counted next tokens. It approaches 0 and "
        "never reaches it.",
        log=True,
    ),
    CurvePanel(
        "Norms",
        "Frobenius norm",
        (
            Curve("ntp_norm_logits", "logits"),
            Curve("ntp_norm_classifier", "classifier", "second"),
            Curve("ntp_norm_embeddings", "embeddings", "third"),
        ),
        "Norms grow without bound while the loss falls, as the logarithm of the inverse loss.",
    ),
    CurvePanel(
        "Within the supports",
        "relative error",
        (Curve("ntp_finite_error_rel", "differences of logits"),),
        "For tokens that follow the same context, differences of logits approach differences of "
        "log frequencies. The panel shows the error, relative to the norm of the latter.",
        log=True,
    ),
    CurvePanel(
        "Direction of the logits",
        "cosine",
        (
            Curve("ntp_rest_cos", "with the prediction"),
            Curve("ntp_rest_cos_proxy", "with the proxy", "second"),
            Curve("ntp_rest_cos_shuffled", "with random supports", "baseline"),
        ),
        "Logits without the differences within supports, compared with the prediction from the "
        "supports alone. The cosine approaches 1 with the logarithm of the steps.",
    ),
    CurvePanel(
        "Words",
        "cosine of Gram matrices",
        (
            Curve("ntp_gram_classifier_cos", "with the prediction"),
            Curve("ntp_gram_classifier_cos_proxy", "with the proxy", "second"),
            Curve("ntp_gram_classifier_cos_shuffled", "with random supports", "baseline"),
        ),
        "Agreement of the geometry of the classifier, one row per word, with the prediction.",
    ),
    CurvePanel(
        "Contexts",
        "cosine of Gram matrices",
        (
            Curve("ntp_gram_embeddings_cos", "with the prediction"),
            Curve("ntp_gram_embeddings_cos_proxy", "with the proxy", "second"),
            Curve("ntp_gram_embeddings_cos_shuffled", "with random supports", "baseline"),
        ),
        "Agreement of the geometry of the embeddings of contexts with the prediction.",
    ),
    CurvePanel(
        "Structural similarity",
        "of cosines",
        (
            Curve("ntp_ssim_classifier", "words"),
            Curve("ntp_ssim_embeddings", "contexts", "second"),
        ),
        "Correlation of all cosines of the model with the predicted cosines, as one compares two "
        "heat maps by eye.",
    ),
    CurvePanel(
        "Subspace collapse",
        "mean cosine in a support",
        (
            Curve("ntp_collapse_cos_rest", "logits off the supports"),
            Curve("ntp_collapse_cos_embeddings", "embeddings", "second"),
        ),
        "Mean cosine of two contexts with the same support. It approaches 1.",
    ),
)


@dataclasses.dataclass(frozen=True)
class ModelLine:
    """A curve of one model."""

    model: str
    label: str
    look: Literal["measured", "second", "third", "baseline", "predicted"]
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Curves:
    """A panel with the lines of all models."""

    kind: CurvePanel
    lines: tuple[ModelLine, ...]

    @property
    def log(self) -> bool:
        """True if the axis is logarithmic: no value may be 0."""
        return self.kind.log and all(v > 0 for line in self.lines for v in line.values)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Ticks of a logarithmic vertical axis."""
        values = [value for line in self.lines for value in line.values]
        return log_ticks(min(values), max(values)) if self.log else ()

    @property
    def lone(self) -> bool:
        """True if a line is a single point, known by its shape instead of its dashes."""
        return any(len(line.steps) == 1 for line in self.lines)

    @property
    def has_steps(self) -> bool:
        """True if a line has several steps; otherwise its numbers stand in a table."""
        return any(len(line.steps) > 1 for line in self.lines)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """Curves that have a line, where there are several to tell apart."""
        drawn = {line.label for line in self.lines}
        found = tuple(curve for curve in self.kind.curves if curve.label in drawn)
        return found if len(self.kind.curves) > 1 else ()


class MapColumn(Record):
    """Heat maps of a model or of a prediction, as signed bytes in base 64, 127 being 1."""

    title: str
    contexts: str  # cosines of contexts, row by row
    words: str  # cosines of words
    logits: str  # logits over their largest, a row per word


class Maps(Record):
    """Heat maps of each geometry, and the words of their rows and columns, in the order shown."""

    words: tuple[str, ...]
    contexts: tuple[str, ...]
    columns: tuple[MapColumn, ...]


class Predicted(Record):
    """A measure of the ridge solution whose loss is that of a model."""

    run: str
    step: Count
    metric: str
    value: float


class SupportSizes(Record):
    """Numbers of words that follow a context."""

    mean: float
    min: Count
    max: Count


class Summary(Record):
    """Summary of a table as `tightframe.ntp.summary` writes it."""

    table: str
    source: dict[str, Any]
    solution: str | None
    kind: str
    rank: Count
    contexts: Count
    pairs: Count
    words: Count
    entropy: float
    support: SupportSizes
    spectra: dict[str, tuple[float, ...]]
    predicted: tuple[Predicted, ...]
    maps: Maps | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Concept:
    """A singular direction read as a concept: what stands on its two sides."""

    number: int
    value: float  # singular value
    sides: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # tokens, contexts of each side


@dataclasses.dataclass(frozen=True)
class Theory:
    """All that the page shows of one table."""

    name: str
    facts: tuple[tuple[str, str, str], ...]  # name, value, what is said beside it
    kind: str  # what the prediction is worth: "exact", "certified (gap 1e-05)", "proxy"
    spectra: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    panels: tuple[Curves, ...] = ()
    maps: Maps | None = None
    concepts: tuple[Concept, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that have lines."""
        names = (line.model for panel in self.panels for line in panel.lines)
        return tuple(dict.fromkeys(names))

    @property
    def has_predicted(self) -> bool:
        """True if the optimum at a model's own loss is drawn."""
        return any(line.look == "predicted" for panel in self.panels for line in panel.lines)


def curves(rows: pd.DataFrame) -> tuple[Curves, ...]:
    """Return the panels that have a line, from the rows of models that were compared with a table.

    Args:
        rows: As `results.gather` gives them; subset "all" is measured, `AT_SAME_LOSS` predicted.
    """
    found = []
    for panel in PANELS:
        lines = []
        for curve in panel.curves:
            of_metric = rows[rows["metric"] == curve.metric]
            for (run, subset), own in of_metric.groupby(["run", "subset"], sort=True):
                known = own[np.isfinite(own["value"])].sort_values("step")
                if known.empty or subset not in ("all", AT_SAME_LOSS):
                    continue
                lines.append(
                    ModelLine(
                        str(run),
                        curve.label,
                        "predicted" if subset == AT_SAME_LOSS else curve.look,
                        tuple(map(int, known["step"])),
                        tuple(map(float, known["value"])),
                    )
                )
        if lines:
            found.append(Curves(panel, tuple(lines)))
    return tuple(found)


def read_theory(path: Path) -> tuple[Theory, dict[str, Any]]:
    """Load the theory section of a context table, and the names of its source files."""
    check_theory(path)
    again = f"`tightframe report {path}` writes it"
    if not (path / SUMMARY).exists():
        raise UserError(f"{path}: has no {SUMMARY} yet; {again}")
    summary: Summary = read_signed(path / SUMMARY, Summary, remedy=again)
    rows = _rows(path, summary)
    theory = Theory(
        path.resolve().name,
        _facts(summary),
        summary.kind,
        summary.spectra,
        curves(rows) if len(rows) else (),
        summary.maps,
        _concepts(path / "concepts"),
    )
    sources = {
        "solution": summary.solution or "none; `tightframe ntp solve` makes one",
        **{name: value for name, value in summary.source.items() if not isinstance(value, dict)},
    }
    return theory, sources


def _facts(summary: Summary) -> tuple[tuple[str, str, str], ...]:
    sizes = summary.support
    return (
        ("Contexts", f"{summary.contexts:,}", f"distinct, of {summary.pairs:,} pairs"),
        ("Words", f"{summary.words:,}", "that may follow"),
        (
            "Entropy floor",
            f"{summary.entropy:.3f}",
            "nats per pair, of the counted text; the minimum loss of any model on it",
        ),
        (
            "Support",
            f"{sizes.mean:.1f}",
            f"words follow a context on average, {sizes.min} to {sizes.max:,}",
        ),
        ("Rank", f"{summary.rank:,}", "dimensions of the predicted geometry"),
    )


def _rows(path: Path, summary: Summary) -> pd.DataFrame:
    """Return the rows of all models, and those predicted at their losses as another subset."""
    files = [*(path / "results").glob("*.jsonl"), *(path / "results").glob("*/*.jsonl")]
    if not files:
        return pd.DataFrame()
    rows = gather(sorted(files))
    models = rows[~rows["run"].str.endswith(PATH)]
    baselines = {one.metric for panel in PANELS for one in panel.curves if one.look == "baseline"}
    predicted = pd.DataFrame(
        [dict(one) for one in summary.predicted if one.metric not in baselines]
    ).assign(subset=AT_SAME_LOSS)
    return pd.concat([models, predicted], ignore_index=True) if len(predicted) else models


def _concepts(folder: Path) -> tuple[Concept, ...]:
    """Return the concepts of the newest table of them."""
    files = folder.glob("*/concepts.csv")
    newest = max(files, key=lambda file: file.stat().st_mtime_ns, default=None)
    if newest is None:
        return ()
    try:
        sides = read_csv(newest, keep_default_na=False)
        found = [
            Concept(int(str(number)), float(lines["singular_value"].iloc[0]), _sides(lines))
            for number, lines in sides.groupby("concept", sort=True)
        ]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{newest}: not a table of concepts, or damaged; remove it") from None
    return tuple(found[:MOST_CONCEPTS])


def _sides(lines: pd.DataFrame) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    def listed(what: str, side: str) -> tuple[str, ...]:
        of_side = lines[(lines["what"] == what) & (lines["side"] == side)].sort_values("rank")
        return tuple(visible(str(text)) for text in of_side["text"])

    return tuple((listed("token", side), listed("context", side)) for side in "+-")
