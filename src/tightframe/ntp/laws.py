"""Laws of the ridge path: how its optima approach what the supports alone predict.

With `L_mm` the solution of the NTP-SVM, as the ridge falls: the excess loss over the ridge tends
to the nuclear norm of `L_mm`; the coefficient of `L_mm` grows by log 10 a decade; the part within
the supports reaches `L_in`, its error falling tenfold a decade; and what one decade adds is
parallel to `L_mm`. The logits themselves turn towards it too, but only logarithmically.

Axes: V tokens, M contexts, D embedding.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tightframe.ntp.ridge import RidgePoint
from tightframe.ntp.similarity import cosine
from tightframe.ntp.soft_labels import (
    SoftLabels,
    finite_component,
    project_in_support,
    project_off_support,
)

NEGLIGIBLE = 1e-6  # singular values below this share of the largest are not of the rank


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Cosines with the predicted geometry, each in [-1, 1], 1 if parallel."""

    logits_cosine: float
    classifier_gram_cosine: float
    embedding_gram_cosine: float


@dataclasses.dataclass(frozen=True)
class PathLaw:
    """What the laws say of one point; the fields that compare it with the one before may be NaN.

    Attributes:
        lam: The ridge.
        norm_ratio: (CE - H) / lam over the nuclear norm of `L_mm`; tends to 1.
        coefficient: R, the coordinate of the off-support part along `L_mm`.
        growth: Of R since the point before, per factor e of the ridge; tends to 1.
        finite_error: Frobenius norm of P_F(L) - L_in.
        finite_fall: By what factor a decade the error has fallen since; tends to 10.
        increment_cosine: Of what was added to the logits since, with `L_mm`; tends to 1.
        alignment: Of logits and Gram matrices; tends to 1 logarithmically.
    """

    lam: float
    norm_ratio: float
    coefficient: float
    growth: float
    finite_error: float
    finite_fall: float
    increment_cosine: float
    alignment: Alignment

    def to_dict(self) -> dict[str, float]:
        """All numbers, flat."""
        own = {name: value for name, value in vars(self).items() if name != "alignment"}
        return own | vars(self.alignment)


def path_laws(
    points: Sequence[RidgePoint], solution_logits: Float[np.ndarray, "V M"], labels: SoftLabels
) -> list[PathLaw]:
    """The laws at each point of a path.

    Args:
        points: By falling ridge, as `ridge_path` gives them.
        solution_logits: L_mm, of `solve_svm` on `labels.matrix`.
        labels: What the path was computed for.

    Raises:
        ValueError: `solution_logits` are 0, as where all tokens follow every context: a path tends
            to no direction.

    Warns:
        UserWarning: Embeddings with fewer dimensions than the rank of `L_mm` can't reach it.
    """
    support, finite = labels.matrix, finite_component(labels).toarray()
    norm = float(np.linalg.norm(solution_logits, "nuc"))
    if norm == 0:
        raise ValueError("solution_logits: all are 0, they have no direction, so there are no laws")
    laws: list[PathLaw] = []
    before: tuple[Float[np.ndarray, "V M"], PathLaw] | None = None
    if points:
        _warn_of_rank(points[0].classifier.shape[1], solution_logits)
    for point in points:
        logits = point.logits
        off = project_off_support(logits, support)
        coefficient = float(np.vdot(off, solution_logits) / np.vdot(*[solution_logits] * 2))
        error = float(np.linalg.norm(project_in_support(logits, support) - finite))
        growth = fall = increment = math.nan
        if before is not None:
            earlier, law = before
            factor = math.log(law.lam / point.lam)
            growth = (coefficient - law.coefficient) / factor
            if error > 0:
                fall = (law.finite_error / error) ** (math.log(10) / factor)
            increment = cosine(logits - earlier, solution_logits)
        laws.append(
            PathLaw(
                lam=point.lam,
                norm_ratio=point.excess / point.lam / norm,
                coefficient=coefficient,
                growth=growth,
                finite_error=error,
                finite_fall=fall,
                increment_cosine=increment,
                alignment=alignment(point.classifier, point.embeddings, solution_logits),
            )
        )
        before = logits, laws[-1]
    return laws


def alignment(
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M D"],
    solution_logits: Float[np.ndarray, "V M"],
) -> Alignment:
    r"""How parallel logits and Gram matrices of free embeddings are to the prediction.

    With `L_mm = U S V^T`, the Gram matrices are compared with `U S U^T` and `V S V^T`.
    """
    left, values, right = np.linalg.svd(solution_logits, full_matrices=False)
    return Alignment(
        cosine(classifier @ embeddings.T, solution_logits),
        cosine(classifier @ classifier.T, (left * values) @ left.T),
        cosine(embeddings @ embeddings.T, (right.T * values) @ right),
    )


def _warn_of_rank(dim: int, solution_logits: Float[np.ndarray, "V M"]) -> None:
    values = np.linalg.svd(solution_logits, compute_uv=False)
    rank = int((values > NEGLIGIBLE * values[0]).sum())
    if dim < rank:
        message = (
            f"embeddings of dim {dim} can't reach L_mm, whose rank is {rank}; take dim >= {rank}"
        )
        warnings.warn(message, UserWarning, stacklevel=3)
