"""What a text predicts and how near models have come, as small arrays: read, ordered, for the page.

A table's folder (`ntp/<name>/`) holds all of it: the table, its best solution, the rows of the
models that were compared with it, their classifiers and embeddings where they were kept, and
concepts. Words are strangers' text: all that the page shows of them is escaped here.

Axes: V tokens, M distinct contexts, D embedding, r rank.
"""

import base64
import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from tightframe.ntp.similarity import cosines_of_rows
from tightframe.report.by_token import readable
from tightframe.report.panels import log_ticks

MOST_TOKENS = 300  # rows of a heat map
MOST_CONTEXTS = 600  # columns of it; larger tables have no heat maps
MOST_MODELS = 2  # whose heat maps stand beside the prediction: the last that were made
MOST_VALUES = 400  # singular values of a spectrum
AT_SAME_LOSS = "predicted at the same loss"  # subset of rows: of the optimum at the model's loss


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
        "What the model loses beyond the entropy of the counted next tokens. It goes to 0, and "
        "never gets there.",
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
        "They grow without bound while the loss falls, as the logarithm of its inverse.",
    ),
    CurvePanel(
        "Within the supports",
        "relative error",
        (Curve("ntp_finite_error_rel", "differences of logits"),),
        "Between tokens that both follow a context, differences of logits tend to differences of "
        "log frequencies: how far they are from them, over the size of the latter.",
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
        "What is left of the logits once differences within supports are taken out, against the "
        "prediction from the supports alone. It nears 1 with the logarithm of the steps.",
    ),
    CurvePanel(
        "Words",
        "cosine of Gram matrices",
        (
            Curve("ntp_gram_classifier_cos", "with the prediction"),
            Curve("ntp_gram_classifier_cos_proxy", "with the proxy", "second"),
            Curve("ntp_gram_classifier_cos_shuffled", "with random supports", "baseline"),
        ),
        "Whether the rows of the classifier, one a word, lie to each other as predicted.",
    ),
    CurvePanel(
        "Contexts",
        "cosine of Gram matrices",
        (
            Curve("ntp_gram_embeddings_cos", "with the prediction"),
            Curve("ntp_gram_embeddings_cos_proxy", "with the proxy", "second"),
            Curve("ntp_gram_embeddings_cos_shuffled", "with random supports", "baseline"),
        ),
        "Whether the embeddings of contexts lie to each other as predicted.",
    ),
    CurvePanel(
        "Structural similarity",
        "of cosines",
        (
            Curve("ntp_ssim_classifier", "words"),
            Curve("ntp_ssim_embeddings", "contexts", "second"),
        ),
        "Correlation of all cosines of the model with those predicted: what the eye compares in "
        "two heat maps.",
    ),
    CurvePanel(
        "Subspace collapse",
        "mean cosine in a support",
        (
            Curve("ntp_collapse_cos_rest", "logits off the supports"),
            Curve("ntp_collapse_cos_embeddings", "embeddings", "second"),
        ),
        "Contexts that the same tokens follow fall together: the mean cosine of two of them.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of one model."""

    model: str
    label: str
    look: Literal["measured", "second", "third", "baseline", "predicted"]
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Course:
    """A panel with the lines of all models."""

    panel: CurvePanel
    lines: tuple[Line, ...]

    @property
    def log(self) -> bool:
        """Whether its axis is logarithmic: no value may be 0."""
        return self.panel.log and all(v > 0 for line in self.lines for v in line.values)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Of a logarithmic vertical axis."""
        values = [value for line in self.lines for value in line.values]
        return log_ticks(min(values), max(values)) if self.log else ()

    @property
    def lone(self) -> bool:
        """Whether a line is a single point, which is told by its shape and not by its dashes."""
        return any(len(line.steps) == 1 for line in self.lines)

    @property
    def has_way(self) -> bool:
        """Whether a line has several steps; else its numbers stand in a table."""
        return any(len(line.steps) > 1 for line in self.lines)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """Those that have a line, where there are several to tell apart."""
        drawn = {line.label for line in self.lines}
        found = tuple(curve for curve in self.panel.curves if curve.label in drawn)
        return found if len(self.panel.curves) > 1 else ()


class Geometry(NamedTuple):
    """A model or a prediction: logits are `classifier @ embeddings.T`."""

    title: str
    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]


@dataclasses.dataclass(frozen=True)
class Maps:
    """Cosines of contexts, cosines of words and logits, of each geometry, clusters together.

    Attributes:
        words: Of the rows, in the order shown; escaped.
        contexts: Of the columns, in the order shown; escaped.
        columns: A geometry each, in this order.
    """

    words: tuple[str, ...]
    contexts: tuple[str, ...]
    columns: tuple[Geometry, ...]


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Singular values, largest first."""

    label: str
    values: tuple[float, ...]


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
    spectra: tuple[Spectrum, ...] = ()
    courses: tuple[Course, ...] = ()
    maps: Maps | None = None
    concepts: tuple[Concept, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Whose courses are drawn."""
        names = (line.model for course in self.courses for line in course.lines)
        return tuple(dict.fromkeys(names))

    @property
    def has_predicted(self) -> bool:
        """Whether the optimum at a model's own loss is drawn."""
        return any(line.look == "predicted" for course in self.courses for line in course.lines)


def courses(rows: pd.DataFrame) -> tuple[Course, ...]:
    """The panels that have a line, from the rows of models that were compared with a table.

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
                    Line(
                        str(run),
                        curve.label,
                        "predicted" if subset == AT_SAME_LOSS else curve.look,
                        tuple(map(int, known["step"])),
                        tuple(map(float, known["value"])),
                    )
                )
        if lines:
            found.append(Course(panel, tuple(lines)))
    return tuple(found)


def payload(theory: Theory) -> dict[str, Any]:
    """What the script draws, as plain JSON-able values; matrices as bytes in base 64."""
    models = {name: place for place, name in enumerate(theory.models)}
    return {
        "courses": [
            {
                "axis": course.panel.axis,
                "ticks": course.ticks,
                "lines": [
                    {
                        "model": readable(line.model),
                        "place": models[line.model],
                        "label": line.label,
                        "look": line.look,
                        "x": line.steps,
                        "y": [float(f"{value:.6g}") for value in line.values],
                    }
                    for line in course.lines
                ],
            }
            for course in theory.courses
        ],
        "spectra": [
            {"label": one.label, "y": [float(f"{value:.5g}") for value in one.values[:MOST_VALUES]]}
            for one in theory.spectra
        ],
        "maps": None if theory.maps is None else _maps(theory.maps),
    }


def _maps(maps: Maps) -> dict[str, Any]:
    columns = []
    for one in maps.columns:
        classifier = one.classifier - one.classifier.mean(axis=0)  # changes no probability
        logits = classifier @ one.embeddings.T
        columns.append(
            {
                "title": readable(one.title),
                "contexts": _bytes(cosines_of_rows(one.embeddings)),
                "words": _bytes(cosines_of_rows(classifier)),
                "logits": _bytes(logits / max(float(np.abs(logits).max()), 1e-300)),
            }
        )
    return {"words": maps.words, "contexts": maps.contexts, "columns": columns}


def _bytes(matrix: Float[np.ndarray, "A B"]) -> str:
    """Numbers in [-1, 1] as signed bytes, 127 being 1, row by row."""
    whole = np.rint(127 * matrix.clip(-1, 1)).astype(np.int8)
    return base64.b64encode(whole.tobytes()).decode()
