"""Fixed context embeddings: the classifier that training tends to, and whether there is one.

With embeddings h_j that training leaves alone, the classifier splits in two: a finite part W* that
fits the log-ratios of soft labels within supports, and a direction W_mm of least norm that sets
supports apart, along which it grows without bound.

Axes: V tokens, M contexts, D embedding; E equalities, I inequalities, N unknowns left.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import nnls

from tightframe.ntp.soft_labels import SoftLabels

MEMORY = 2 * 2**30  # bytes that the constraints may take as a dense matrix
TOLERANCE = 1e-8  # relative: residuals of equalities, margins, least size of a margin


@dataclasses.dataclass(frozen=True, eq=False)
class LinearSvm:
    """The finite part and the growing direction of a classifier over fixed embeddings.

    Attributes:
        finite: W*, the matrix of least norm that fits all log-ratios, or comes nearest to that.
        direction: W_mm, the matrix of least norm that separates supports; None if none does.
        compatible: Whether `finite` fits all log-ratios.
        separable: Whether there is a `direction`.
        misfit: ||fitted - wanted log-ratios|| over their norm, 0 where all are 0.
        violation: Largest by which `direction` misses a constraint (margins are 1); NaN if None.
        gap: (||W_mm||^2 - dual value) / ||W_mm||^2, recomputed from the multipliers; NaN if None.
    """

    finite: Float[np.ndarray, "V D"]
    direction: Float[np.ndarray, "V D"] | None
    compatible: bool
    separable: bool
    misfit: float
    violation: float
    gap: float

    def to_dict(self) -> dict[str, Any]:
        """What fits a line: all but the matrices."""
        names = "compatible", "separable", "misfit", "violation", "gap"
        return {name: getattr(self, name) for name in names}


def linear_svm(embeddings: Float[np.ndarray, "M D"], labels: SoftLabels) -> LinearSvm:
    r"""Solve for W* and W_mm.

    .. math::
        W_{mm} = \arg\min \lVert W \rVert \text{ subject to }
        (w_z - w_{z'})^T h_j = 0, \; (w_z - w_v)^T h_j \ge 1
        \quad (z, z' \in S_j, \; v \notin S_j)

    Both are unique. If D >= M and the embeddings have rank M, both conditions hold.

    Args:
        embeddings: A row a context, in the order of `labels`.
        labels: Which tokens follow each context, how often.

    Raises:
        ValueError: The number of rows is wrong, an entry is not finite, all are 0, or the
            constraints are too many for a dense solver.
    """
    _check(embeddings, labels)
    scale = float(np.linalg.norm(embeddings, axis=1).max())
    unit = embeddings / scale  # so that tolerances mean the same at every scale
    equal, ratios, apart = _constraints(unit, labels)
    shape = (labels.vocab_size, embeddings.shape[1])
    left, values, right = np.linalg.svd(equal, full_matrices=True)
    rank = int((values > 1e-10 * values.max(initial=0)).sum())
    finite = right[:rank].T @ ((left[:, :rank].T @ ratios) / values[:rank])
    misfit = float(np.linalg.norm(equal @ finite - ratios))
    misfit /= float(np.linalg.norm(ratios)) or 1.0
    free = right[rank:].T  # (V D, N): what the equalities leave
    solved = _least_distance(apart @ free)
    fits = misfit <= TOLERANCE
    nan = float("nan")
    if solved is None:
        return LinearSvm(finite.reshape(shape) / scale, None, fits, False, misfit, nan, nan)
    weights, multipliers = solved
    direction = free @ weights
    short = float((1 - apart @ direction).max(initial=0))
    violation = max(float(np.abs(equal @ direction).max(initial=0)), short)
    squared = float(direction @ direction)
    gap = 2 * (1 - float(multipliers.sum()) / squared) if squared > 0 else 0.0
    return LinearSvm(
        finite.reshape(shape) / scale,
        direction.reshape(shape) / scale,
        fits,
        True,
        misfit,
        violation,
        gap,
    )


def _constraints(
    embeddings: Float[np.ndarray, "M D"], labels: SoftLabels
) -> tuple[Float[np.ndarray, "E VD"], Float[np.ndarray, " E"], Float[np.ndarray, "I VD"]]:
    """Rows of vec(W): differences to the first token of a support, log-ratios, margins."""
    support: Bool[np.ndarray, "V M"] = labels.matrix
    p = labels.probabilities.toarray()
    anchors = support.argmax(axis=0)
    others = support.copy()
    others[anchors, np.arange(support.shape[1])] = False
    contexts, tokens = np.nonzero(others.T)
    equal = _differences(tokens, anchors[contexts], embeddings[contexts], labels.vocab_size)
    ratios = np.log(p[tokens, contexts] / p[anchors[contexts], contexts])
    contexts, tokens = np.nonzero(~support.T)
    apart = _differences(anchors[contexts], tokens, embeddings[contexts], labels.vocab_size)
    return equal, ratios, apart


def _differences(
    plus: Any, minus: Any, embeddings: Float[np.ndarray, "C D"], vocab_size: int
) -> Float[np.ndarray, "C VD"]:
    """Row c: the coefficients of (w_plus - w_minus)^T h in vec(W)."""
    rows = np.zeros((len(embeddings), vocab_size, embeddings.shape[1]))
    each = np.arange(len(embeddings))
    rows[each, plus] += embeddings
    rows[each, minus] -= embeddings
    return rows.reshape(len(embeddings), vocab_size * embeddings.shape[1])


def _least_distance(
    margins: Float[np.ndarray, "I N"],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " I"]] | None:
    """min ||x|| subject to margins x >= 1, and its multipliers; None if nothing is feasible.

    Least distance programming as a nonnegative least-squares problem, which ends after finitely
    many steps and tells when there is no solution: Lawson and Hanson (1974), chapter 23.
    """
    if not len(margins):
        return np.zeros(margins.shape[1]), np.zeros(0)
    target = np.zeros(margins.shape[1] + 1)
    target[-1] = 1
    shares, distance = nnls(np.vstack([margins.T, np.ones(len(margins))]), target)
    if distance <= TOLERANCE:  # the margin that can be had, 1/||x||, is no more than rounding
        return None
    multipliers = shares / (1 - shares.sum())
    active = multipliers > 0
    # The active margins are exactly 1: solved again, so that they are to rounding.
    better, *_ = np.linalg.lstsq(margins[active] @ margins[active].T, np.ones(active.sum()))
    if (better >= 0).all():
        multipliers[active] = better
    weights = margins.T @ multipliers
    if (margins @ weights).min() < 1 - TOLERANCE**0.5:
        return None
    return weights, multipliers


def _check(embeddings: Float[np.ndarray, "M D"], labels: SoftLabels) -> None:
    if len(embeddings) != labels.n_contexts:
        raise ValueError(
            f"embeddings: {len(embeddings)} rows (axis 0), expected one a context, "
            f"{labels.n_contexts}"
        )
    wrong = np.argwhere(~np.isfinite(embeddings))
    if len(wrong):
        context, axis = wrong[0]
        raise ValueError(
            f"embeddings: {embeddings[context, axis]} for context {context}, dimension {axis}"
        )
    if not embeddings.any():
        raise ValueError("embeddings: all are 0")
    unknowns = labels.vocab_size * embeddings.shape[1]
    rows = (labels.vocab_size - 1) * labels.n_contexts
    need = 8 * unknowns * (rows + unknowns)
    if need > MEMORY:
        raise ValueError(
            f"embeddings: {rows:,} constraints on {unknowns:,} unknowns take {need:,} bytes, at "
            f"most {MEMORY:,} are allowed; take fewer contexts or tokens"
        )
