r"""What an embedding too narrow for L_mm costs: the best feasible logits of a given rank, searched.

.. math::
    \min_{W, H} \tfrac12 (\lVert W \rVert^2 + \lVert H \rVert^2)
    \quad\text{subject to}\quad W H^T \in C

has the value of the least nuclear norm among feasible logits of rank at most d, for the constraints
C of `svm`. With d below the rank of L_mm the problem is not convex and no theory says what training
tends to; this is an augmented Lagrangian from several starts, so what it finds is an upper bound of
that least norm, and finding nothing proves nothing.

Axes: V tokens, M contexts; R, C distinct ones; D the rank.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tightframe.ntp.certificate import worst
from tightframe.ntp.grouping import Groups, group
from tightframe.ntp.splitting import Constraints

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
        found: Whether any start led to feasible logits; where not, nothing is known.
        norm: Nuclear norm of `logits`, at least the least of this rank; NaN where none was found.
        excess: norm / optimum - 1, of the optimum that was given; NaN without.
        violation: The largest by which `logits` miss a constraint, recomputed.
        classifier, embeddings: (V, d) and (M, d), balanced; of the best start, or the one nearest
            to feasible.
        starts: How many starts were feasible, of how many.
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
        """Of rank d at most."""
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
    """Search for the feasible logits of least nuclear norm among those of rank `dim` or less.

    Args:
        support: S.
        dim: d, from 1 to the smaller of V and M.
        optimum: ||L_mm||_* of `solve_svm`, to compare with.
        starts: How many; the first is the truncated proxy, the others are Gaussian.
        rounds: Updates of the multipliers from each start.
        seed: Of the starts.

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
    """The least first: feasible ones by norm, others by violation."""
    return not found.found, found.norm if found.found else found.violation


def _begin(
    constraints: Constraints, dim: int, generator: torch.Generator, *, gaussian: bool
) -> tuple[Float[Tensor, "C D"], Float[Tensor, "R D"]]:
    """Embeddings and classifier, scaled; noise keeps every direction alive."""
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
    """The augmented Lagrangian: distance to C of the shifted product, by L-BFGS."""
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
    groups: Groups,
    support: Bool[np.ndarray, "V M"],
    optimum: float,
) -> LowRank:
    """Of all tokens and contexts, margins scaled to 1, everything recomputed."""
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
