"""Structure before collapse: Gram matrices of a model against latent factors, and the simplex.

With one-hot labels the limit of training is symmetric, the simplex of neural collapse. On the way
Gram matrices may first show which classes share a latent factor. `GramTracker` follows both.

Axes: V tokens (classes), M contexts, F columns of the factors, D width of the model.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real

from tightframe.ntp.similarity import gram_cosine, gram_structural_similarity

Side: TypeAlias = Literal["classifier", "embeddings"]
Measure: TypeAlias = Literal["cosine", "similarity"]


@dataclasses.dataclass(frozen=True)
class GramRecord:
    """What a centred Gram matrix is like at one step.

    Attributes:
        step: Of the training.
        side: Whose Gram matrix.
        factors_cosine: To that of the factors, in [0, 1].
        simplex_cosine: To that of the simplex, in [0, 1].
        factors_similarity: Structural similarity to that of the factors, in about [-1, 1].
        simplex_similarity: Structural similarity to that of the simplex, in about [-1, 1].
    """

    step: int
    side: Side
    factors_cosine: float
    simplex_cosine: float
    factors_similarity: float
    simplex_similarity: float


@dataclasses.dataclass(frozen=True)
class Structure:
    """How the structure of the factors came and went.

    Attributes:
        side, measure: Of which Gram matrix, by which measure.
        peak_step, peak: Where the Gram matrix was most like that of the factors, and how much.
        first, last: How much at the first and the last record. It came and went only if the peak
            is above both.
        crossing: The first step, by linear interpolation, at which the simplex overtakes the
            factors; NaN if it never does, or was ahead at all times.
        at_simplex: What the simplex itself would have of the factors: where `last` tends if
            training ends there.
        simplex_last: How much the Gram matrix is like the simplex at the last record.
    """

    side: Side
    measure: Measure
    peak_step: float
    peak: float
    first: float
    last: float
    crossing: float
    at_simplex: float
    simplex_last: float

    def to_dict(self) -> dict[str, Any]:
        """By name."""
        return dataclasses.asdict(self)


class GramTracker:
    """Follows classifier and embeddings through a training: call it at each step of interest.

    Args:
        factors: A row of latent labels for each token, one-hot say; their Gram matrix, centred, is
            what is looked for.
        classes: The token of each context; by default context j has token j.
    """

    def __init__(
        self,
        factors: Real[np.ndarray, "V F"],
        *,
        classes: Int[np.ndarray, " M"] | None = None,
    ) -> None:
        if not np.isfinite(factors).all():
            row, column = np.argwhere(~np.isfinite(factors))[0]
            raise ValueError(f"factors: {factors[row, column]} for token {row}, column {column}")
        n_tokens = len(factors)
        of_context = np.arange(n_tokens) if classes is None else classes
        wrong = np.flatnonzero((of_context < 0) | (of_context >= n_tokens))
        if len(wrong):
            raise ValueError(
                f"classes: {of_context[wrong[0]]} for context {wrong[0]}, expected a row of "
                f"factors, 0 to {n_tokens - 1}"
            )
        self.records: list[GramRecord] = []
        one_hot = np.eye(n_tokens)
        self._latent: dict[Side, Float[np.ndarray, "N F"]] = {
            "classifier": _centred(factors.astype(np.float64), "factors"),
            "embeddings": _centred(factors[of_context].astype(np.float64), "factors"),
        }
        self._simplex: dict[Side, Float[np.ndarray, "N V"]] = {
            "classifier": _centred(one_hot, "factors"),
            "embeddings": _centred(one_hot[of_context], "classes"),
        }

    def __call__(
        self,
        step: int,
        classifier: Float[np.ndarray, "V D"],
        embeddings: Float[np.ndarray, "M E"] | None = None,
    ) -> None:
        """Record a step: rows of tokens, and of contexts where they are given."""
        self._record(step, "classifier", classifier)
        if embeddings is not None:
            self._record(step, "embeddings", embeddings)

    def structure(self, side: Side = "embeddings", measure: Measure = "similarity") -> Structure:
        """Peak and crossing over all records of a side."""
        records = [record for record in self.records if record.side == side]
        if not records:
            raise ValueError(f"side: nothing was recorded of {side}")
        steps = np.array([record.step for record in records], dtype=np.float64)
        latent = np.array([getattr(record, f"factors_{measure}") for record in records])
        simplex = np.array([getattr(record, f"simplex_{measure}") for record in records])
        peak = int(np.argmax(latent))
        return Structure(
            side,
            measure,
            float(steps[peak]),
            float(latent[peak]),
            float(latent[0]),
            float(latent[-1]),
            _crossing(steps, simplex - latent),
            _MEASURES[measure](self._simplex[side], self._latent[side]),
            float(simplex[-1]),
        )

    def _record(self, step: int, side: Side, rows: Float[np.ndarray, "N D"]) -> None:
        latent, simplex = self._latent[side], self._simplex[side]
        if len(rows) != len(latent):
            raise ValueError(f"{side}: {len(rows)} rows (axis 0), expected {len(latent)}")
        centred = _centred(rows.astype(np.float64), side)
        found = [
            measure(centred, target)
            for measure in _MEASURES.values()
            for target in (latent, simplex)
        ]
        self.records.append(GramRecord(step, side, *found))


_MEASURES: dict[Measure, Callable[..., float]] = {
    "cosine": gram_cosine,
    "similarity": gram_structural_similarity,
}


def _centred(rows: Float[np.ndarray, "N D"], name: str) -> Float[np.ndarray, "N D"]:
    """Centred over rows, then scaled to a mean squared norm of 1.

    Structural similarity depends on the scale; so the Gram matrices have that of cosines.
    """
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"{name}: {rows[row, column]} in row {row}, column {column}")
    centred = rows - rows.mean(axis=0)
    scale = float(np.sqrt((centred**2).sum(axis=1).mean()))
    if scale <= 1e-12 * float(np.abs(rows).max(initial=0.0)):
        raise ValueError(f"{name}: all rows are equal, so they have no Gram matrix once centred")
    scaled: Float[np.ndarray, "N D"] = centred / scale
    return scaled


def _crossing(steps: Float[np.ndarray, " T"], lead: Float[np.ndarray, " T"]) -> float:
    """Where the lead of the simplex first goes from below 0 to 0 or more."""
    over = np.flatnonzero((lead[:-1] < 0) & (lead[1:] >= 0))
    if not len(over):
        return float("nan")
    i = over[0]
    return float(steps[i] + (steps[i + 1] - steps[i]) * -lead[i] / (lead[i + 1] - lead[i]))
