r"""Limits of what training can reach with embeddings that are fixed, or that are narrow.

`linear_svm`: with fixed context embeddings h_j the classifier splits in two, a finite part W* that
fits the log-ratios of soft labels within supports, and a direction W_mm of smallest norm that
separates supports, along which it grows without bound.

`best_of_rank`: with an embedding too narrow for L_mm,

.. math::
    \min_{W, H} \tfrac12 (\lVert W \rVert^2 + \lVert H \rVert^2)
    \quad\text{subject to}\quad W H^T \in C

is the smallest nuclear norm among feasible logits of rank at most d, for the constraints C of
`solve_svm`. With d below the rank of L_mm the problem is not convex, and no theory says what
training tends to. An augmented Lagrangian from several starts gives an upper bound; finding nothing
proves nothing.

Axes: V tokens, M contexts, D embedding or rank; R, C distinct tokens and contexts; E equalities,
I inequalities, N unknowns left.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import nnls
from torch import Tensor

from tightframe.ntp.certificate import Constraints, worst
from tightframe.ntp.soft_labels import SoftLabels
from tightframe.ntp.support import DistinctSupport, group

MEMORY = 2 * 2**30  # bytes that the constraints may take as a dense matrix
TOLERANCE = 1e-8  # relative: residuals of equalities, margins, least size of a margin


@dataclasses.dataclass(frozen=True, eq=False)
class LinearSvm:
    """The finite part and the growing direction of a classifier over fixed embeddings.

    Attributes:
        finite: W*, the matrix of least norm that fits all log-ratios, or comes nearest to that.
        direction: W_mm, the matrix of least norm that separates supports; None if none does.
        compatible: True if `finite` fits all log-ratios.
        separable: True if there is a `direction`.
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
        """Return all fields but the matrices as plain values."""
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
        embeddings: One row per context, in the order of `labels`.
        labels: Soft labels of the contexts.

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
    """Return rows of vec(W): differences to the first token of a support, log-ratios, margins."""
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
    """Return the coefficients of (w_plus - w_minus)^T h in vec(W), one row per context."""
    rows = np.zeros((len(embeddings), vocab_size, embeddings.shape[1]))
    each = np.arange(len(embeddings))
    rows[each, plus] += embeddings
    rows[each, minus] -= embeddings
    return rows.reshape(len(embeddings), vocab_size * embeddings.shape[1])


def _least_distance(
    margins: Float[np.ndarray, "I N"],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " I"]] | None:
    """Minimize ||x|| subject to margins x >= 1; return x and multipliers, None if infeasible.

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
            f"embeddings: {len(embeddings)} rows (axis 0), expected one per context, "
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


FEASIBLE = 1e-6  # a constraint missed by more than this is missed
MARGIN = 1e-9  # what scaling to feasibility leaves for rounding
GROWTH = 1.5  # of the penalty, where the violation did not fall enough
FALL = 0.5  # of the violation in a round: enough
LARGEST = 1e4  # penalty
INNER = 50  # steps of L-BFGS a round


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """The best logits of rank d that were found.

    Attributes:
        dim: d.
        found: True if any start led to feasible logits; if False, nothing is known.
        norm: Nuclear norm of `logits`, at least the least of this rank; NaN where none was found.
        excess: norm / optimum - 1, of the optimum that was given; NaN without.
        violation: The largest by which `logits` miss a constraint, recomputed.
        classifier, embeddings: (V, d) and (M, d), balanced; of the best start, or the one nearest
            to feasible.
        starts: Number of feasible starts, and of all starts.
    """

    dim: int
    found: bool
    norm: float
    excess: float
    violation: float
    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]
    starts: tuple[int, int]

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """Logits of rank d at most."""
        logits: Float[np.ndarray, "V M"] = self.classifier @ self.embeddings.T
        return logits


def best_of_rank(
    support: Bool[np.ndarray, "V M"],
    dim: int,
    *,
    optimum: float = math.nan,
    starts: int = 5,
    rounds: int = 100,
    seed: int = 0,
) -> LowRank:
    """Search for feasible logits of minimum nuclear norm with rank at most `dim`.

    Args:
        support: S.
        dim: d, from 1 to the smaller of V and M.
        optimum: ||L_mm||_* of `solve_svm`, to compare with.
        starts: Number of starts; the first is the truncated proxy, the others are Gaussian.
        rounds: Updates of the multipliers from each start.
        seed: Seed of the starts.

    Raises:
        ValueError: dim, starts or rounds out of range, or a context without support.
    """
    for name, value in (("dim", dim), ("starts", starts), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name}: {value}, expected 1 or more")
    if dim > min(support.shape):
        raise ValueError(f"dim: {dim}, expected {min(support.shape)} at most: no rank is larger")
    empty = np.flatnonzero(~support.any(axis=0))
    if len(empty):
        raise ValueError(f"support: no token follows context {empty[0]}; leave it out")
    groups = group(support)
    constraints = Constraints.of(groups)
    generator = torch.Generator().manual_seed(seed)
    best: LowRank | None = None
    feasible = 0
    for start in range(starts):
        begun = _begin(constraints, dim, generator, gaussian=start > 0)
        found = _measured(_minimised(constraints, *begun, rounds), groups, support, optimum)
        feasible += found.found
        if best is None or _rank(found) < _rank(best):
            best = found
    assert best is not None
    return dataclasses.replace(best, starts=(feasible, starts))


def _rank(found: LowRank) -> tuple[bool, float]:
    """Return a sort key: feasible ones by norm, others by violation."""
    return not found.found, found.norm if found.found else found.violation


def _begin(
    constraints: Constraints, dim: int, generator: torch.Generator, *, gaussian: bool
) -> tuple[Float[Tensor, "C D"], Float[Tensor, "R D"]]:
    """Return initial embeddings and classifier, scaled; noise keeps every direction alive."""
    proxy = constraints.centred()
    left, values, right = torch.linalg.svd(proxy, full_matrices=False)
    typical = float(values.mean()) ** 0.5 / max(proxy.shape) ** 0.5
    factors = []
    for vectors in (left, right.T):
        n, rank = len(vectors), min(dim, len(values))
        noise = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        if not gaussian:
            noise *= 0.05
            noise[:, :rank] += vectors[:, :rank] * values[:rank].sqrt() / typical
        factors.append(typical * noise)
    return factors[0], factors[1]


def _minimised(
    constraints: Constraints,
    embeddings: Float[Tensor, "C D"],
    classifier: Float[Tensor, "R D"],
    rounds: int,
) -> tuple[Float[Tensor, "C D"], Float[Tensor, "R D"]]:
    """Minimize the augmented Lagrangian, the distance to C of the shifted product, by L-BFGS."""
    factors = [embeddings.requires_grad_(), classifier.requires_grad_()]
    multipliers = torch.zeros(len(embeddings), len(classifier), dtype=torch.float64)
    penalty, last = 1.0, math.inf

    def objective() -> Float[Tensor, ""]:
        shifted = factors[0] @ factors[1].T + multipliers
        with torch.no_grad():
            nearest = constraints.nearest(shifted, constraints.levels(shifted))
        missed: Float[Tensor, ""] = (shifted - nearest).square().sum()
        return (factors[0].square().sum() + factors[1].square().sum() + penalty * missed) / 2

    for _ in range(rounds):
        optimizer = torch.optim.LBFGS(
            factors, max_iter=INNER, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure(optimizer: torch.optim.LBFGS = optimizer) -> float:
            optimizer.zero_grad()
            value = objective()
            value.backward()
            return value.item()

        optimizer.step(closure)
        with torch.no_grad():
            shifted = factors[0] @ factors[1].T + multipliers
            nearest = constraints.nearest(shifted, constraints.levels(shifted))
            missed = float((shifted - multipliers - nearest).abs().max())
            multipliers = shifted - nearest
        if missed <= FEASIBLE * 1e-2:
            break
        if missed > FALL * last and penalty < LARGEST:
            penalty *= GROWTH
            multipliers /= GROWTH
        last = missed
    return factors[0].detach(), factors[1].detach()


def _measured(
    factors: tuple[Float[Tensor, "C D"], Float[Tensor, "R D"]],
    groups: DistinctSupport,
    support: Bool[np.ndarray, "V M"],
    optimum: float,
) -> LowRank:
    """Return the result for all tokens and contexts, with margins scaled to 1, recomputed."""
    embeddings, classifier = (factor.numpy() for factor in factors)
    classifier = (classifier / groups.row_scales[:, None])[groups.row_of]
    embeddings = (embeddings / groups.column_scales[:, None])[groups.column_of]
    left, triangle = np.linalg.qr(classifier)
    right, other = np.linalg.qr(embeddings)
    inner, values, outer = np.linalg.svd(triangle @ other.T)
    classifier = left @ inner * np.sqrt(values)
    embeddings = right @ outer.T * np.sqrt(values)
    logits = classifier @ embeddings.T
    lowest = np.where(support, logits, np.inf).min(axis=0)
    highest = np.where(support, -np.inf, logits).max(axis=0)
    margin = float((lowest - highest).min())  # inf where nothing is off a support
    if 0 < margin < math.inf:
        scale = (1 + MARGIN) / margin
        classifier, embeddings = classifier * math.sqrt(scale), embeddings * math.sqrt(scale)
        values = values * scale
    violation = worst(classifier @ embeddings.T, support)
    found = violation <= FEASIBLE
    norm = float(values.sum()) if found else math.nan
    return LowRank(
        classifier.shape[1],
        found,
        norm,
        norm / optimum - 1,
        violation,
        classifier,
        embeddings,
        (int(found), 1),
    )
