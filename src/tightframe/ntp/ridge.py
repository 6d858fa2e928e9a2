r"""The ridge path: optima of unconstrained features under weight decay, with duality gaps.

With both embeddings free, the minimum of the cross-entropy with a ridge on both,

.. math:: CE(W H^T) + \frac{\lambda}{2} (\lVert W \rVert^2 + \lVert H \rVert^2)
    = CE(L) + \lambda \lVert L \rVert_*

is convex in the logits L, so that any logits can be judged by a dual bound. As the ridge falls, the
optimum tends to `L_in + R L_mm` with R growing like log(1 / ridge), see `asymptotics.py`.

Tokens that follow every context equally often have equal logits at an optimum, and so have contexts
that are followed by the same tokens and occur equally often: an average over permutations inside a
group changes no loss and does not raise the nuclear norm. What is solved is
`diag(sqrt r) L diag(sqrt c)` with r and c the sizes of the groups, whose nuclear norm is that of L,
as factors of as many columns as it can have rank.

Axes: V tokens, M contexts; R, C distinct ones; D columns of the factors (embedding). Losses are
nats per pair, contexts weighted.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.optimize import OptimizeResult, minimize
from scipy.special import entr, logsumexp

from tightframe.ntp.soft_labels import SoftLabels, cross_entropy, excess, gradient
from tightframe.ntp.support import EqualColumns
from tightframe.progress import tell


class UnconstrainedFeatures:
    """The objective: (CE - H) / lambda + half the squared norm of the factors, and its gradient.

    Within a support the loss is `p (expm1(d) - d)` with `d = log q - log p`, and its slope is
    `p expm1(d)`: both keep their digits where d is 1e-7. Written as `q - p`, the gap of a point
    at 1e-7 ends at 1e-3 instead of 3e-5.

    Attributes:
        tokens, contexts: Groups of equal tokens and contexts, R and C of them.
        shape: (R + C, D) of the factors: rows of tokens, then rows of contexts.

    Args:
        labels: Soft labels of the contexts.
        dim: D at most; no more columns than a matrix of R x C can have rank.
    """

    def __init__(self, labels: SoftLabels, dim: int):
        p = labels.probabilities
        joint = sp.csc_array(
            (p.data * np.repeat(labels.weights, labels.support_sizes), p.indices, p.indptr),
            shape=p.shape,
        )
        self.contexts = EqualColumns.of(joint)
        by_token = sp.csc_array(joint[:, self.contexts.first].T)
        by_token.sort_indices()
        self.tokens = EqualColumns.of(by_token)
        few = sp.csc_array(sp.csr_array(p[:, self.contexts.first])[self.tokens.first])
        few.sort_indices()
        self.probabilities: Float[np.ndarray, "R C"] = few.toarray()
        self.n_tokens = len(self.tokens.counts)
        rows = self.n_tokens + len(self.contexts.counts)
        self.shape = rows, min(dim, *self.probabilities.shape)
        self.counts = self.tokens.counts.astype(float)  # r
        self.scales = np.sqrt(np.concatenate([self.tokens.counts, self.contexts.counts]))[:, None]
        self.weights = labels.weights[self.contexts.first]  # of one context of each group
        self.group_weights = self.weights * self.contexts.counts
        column = np.repeat(np.arange(few.shape[1]), np.diff(few.indptr))
        self.stored = few.indices, column
        self.log_p = np.log(few.data)
        self.shares = few.data * self.group_weights[column]  # of all pairs, for one token

    def __call__(
        self, factors: Float[np.ndarray, " n"], lam: float
    ) -> tuple[float, Float[np.ndarray, " n"]]:
        """Return the objective and its gradient at flattened factors."""
        n_tokens, (tokens, contexts) = self.n_tokens, self.stored
        both = factors.reshape(self.shape)
        each = both / self.scales  # of one token, of one context
        logits = each[:n_tokens] @ each[n_tokens:].T
        logits -= logits.max(axis=0)
        slope = np.exp(logits)
        totals = self.counts @ slope
        slope *= self.group_weights / totals
        surprise = logits[self.stored] - np.log(totals)[contexts] - self.log_p
        off_by = np.expm1(surprise)
        slope[self.stored] = 0
        loss = self.counts @ slope.sum(axis=1)  # sum of nonnegative terms
        loss += (self.counts[tokens] * self.shares) @ (off_by - surprise)
        slope[self.stored] = self.shares * off_by
        slope /= lam
        steepest = both.copy()
        steepest[:n_tokens] += self.scales[:n_tokens] * (slope @ each[n_tokens:])
        of_tokens = self.scales[:n_tokens] * both[:n_tokens]  # r times those of one token
        steepest[n_tokens:] += (slope.T @ of_tokens) / self.scales[n_tokens:]
        return float(loss / lam + 0.5 * (factors @ factors)), steepest.ravel()

    def product(self, factors: Float[np.ndarray, " n"]) -> Float[np.ndarray, "R C"]:
        """Return diag(sqrt r) L diag(sqrt c)."""
        both = factors.reshape(self.shape)
        product: Float[np.ndarray, "R C"] = both[: self.n_tokens] @ both[self.n_tokens :].T
        return product

    def gap(self, factors: Float[np.ndarray, " n"], lam: float) -> float:
        """Return `ridge_gap` of the logits of all tokens and contexts, from those of the groups."""
        p, r, product = self.probabilities, self.counts[:, None], self.product(factors)
        scales = self.scales[: self.n_tokens] * self.scales[self.n_tokens :].T
        logits = product / scales
        log_q = logits - logsumexp(logits, axis=0, b=r)
        slope = np.exp(log_q) - p
        steepest = float(np.linalg.norm(slope * self.weights * scales, 2))
        share = min(1.0, lam / steepest) if steepest > 0 else 1.0
        dual = self.group_weights @ (r * entr(np.maximum(p + share * slope, 0))).sum(axis=0)
        loss = -self.group_weights @ (r * p * log_q).sum(axis=0)
        norm = lam * float(np.linalg.norm(product, "nuc"))
        if norm == 0:
            return 0.0 if steepest <= lam else float("inf")
        return float(loss + norm - dual) / norm


Status = Literal["certified", "uncertified"]

NOISE = 0.01  # standard deviation added to every entry before a point is sought
THRESHOLD = 1e-3  # relative duality gap up to which a point is certified
RESTARTS = 3  # a point that has no certificate is left with five times the noise, so often
CHECKED_EVERY = 100  # iterations; a certificate costs about as much as five of them
HISTORY = 10  # pairs of steps that L-BFGS remembers: 20 and 30 cost more than they save
MOST_ITERATIONS = 30_000


@dataclasses.dataclass(frozen=True, eq=False)
class RidgePoint:
    """The optimum at one ridge, as balanced factors in the axes of its singular vectors.

    Attributes:
        lam: The ridge (lambda), for a loss that is the mean over pairs.
        classifier: (V, D), one row per token; its Gram matrix of columns is that of `embeddings`.
        embeddings: (M, D), one row per context.
        excess: CE - H in nats per pair.
        nuclear_norm: Nuclear norm of the logits; half the sum of both factors' squared norms.
        relgap: `ridge_gap`: how far the objective may lie above its least value, relative to
            `lam * nuclear_norm`.
        status: "certified" where `relgap` is at most the requested threshold.
        iterations: Number of L-BFGS iterations, restarts included.
    """

    lam: float
    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]
    excess: float
    nuclear_norm: float
    relgap: float
    status: Status
    iterations: int

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """Logits L_lambda."""
        product: Float[np.ndarray, "V M"] = self.classifier @ self.embeddings.T
        return product

    def to_dict(self) -> dict[str, float | int | str]:
        """Return the numbers, without the factors."""
        arrays = ("classifier", "embeddings")
        return {name: value for name, value in vars(self).items() if name not in arrays}


def lambda_max(labels: SoftLabels) -> float:
    """Return the smallest ridge at which zero logits are the optimum; typically 0.02 to 0.07."""
    zero = np.zeros((labels.vocab_size, labels.n_contexts))
    return float(np.linalg.norm(gradient(zero, labels), 2))


def decades(labels: SoftLabels, down_to: float = 1e-7) -> list[float]:
    """Return the powers of ten below `lambda_max`, falling to `down_to`, which is the last."""
    largest = lambda_max(labels)
    _check_ridge(down_to, "down_to", largest)
    powers = range(math.ceil(math.log10(largest)) - 1, math.floor(math.log10(down_to)) - 1, -1)
    return [*(lam for lam in (10.0**power for power in powers) if lam > 1.01 * down_to), down_to]


def ridge_gap(logits: Float[np.ndarray, "V M"], labels: SoftLabels, lam: float) -> float:
    r"""Return an upper bound of the distance of logits from the optimum at a ridge.

    .. math:: \frac{CE(L) + \lambda \lVert L \rVert_* - \sum_j \pi_j Ent(p_j + t (q_j - p_j))}
        {\lambda \lVert L \rVert_*},\quad t = \min(1, \lambda / \lVert G \rVert_2)

    with G the gradient of CE and q the softmax. The sum is a lower bound of the objective: the
    entropies are minus the conjugate of CE at t G, whose spectral norm is at most lambda.

    Returns:
        In [0, inf) but for rounding (about 1e-16 / lam); 0 at the optimum. Infinite for zero
        logits that are not optimal.
    """
    _check_ridge(lam, "lam")
    slope = gradient(logits, labels)
    norm = lam * float(np.linalg.norm(logits, "nuc"))
    steepest = float(np.linalg.norm(slope, 2))
    share = min(1.0, lam / steepest) if steepest > 0 else 1.0
    mixed = labels.probabilities.toarray() + share * slope / labels.weights
    dual = float(labels.weights @ entr(np.maximum(mixed, 0)).sum(axis=0))
    gap = float(cross_entropy(logits, labels)) + norm - dual
    if norm == 0:
        return 0.0 if steepest <= lam else math.inf
    return gap / norm


def ridge_path(
    labels: SoftLabels,
    lambdas: Sequence[float] | None = None,
    *,
    dim: int,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> list[RidgePoint]:
    """Compute optima from the largest ridge to the smallest, each started at the one before.

    Args:
        labels: Soft labels of the contexts.
        lambdas: Ridges above 0 and below `lambda_max(labels)`, any order; by default `decades`.
        dim: D. From min(V - 1, M) on every optimum can be reached; with less there may be none
            that can be certified.
        seed: Seed of the noise. Zero factors are a saddle, and directions that vanished at a larger
            ridge make one again: noise before each point leaves it.
        threshold: A point is certified if its relative duality gap is at most this; a tenth of it
            is aimed at.

    Returns:
        One point per ridge, largest ridge first.

    Raises:
        ValueError: A ridge that is not positive, or at which the optimum is 0; a small `dim`.

    Warns:
        UserWarning: A point that stays without a certificate, with its gap.
    """
    if dim < 1:
        raise ValueError(f"dim: {dim}, expected at least 1")
    if not threshold > 0:
        raise ValueError(f"threshold: {threshold}, expected > 0")
    largest = lambda_max(labels)
    ridges = decades(labels) if lambdas is None else lambdas
    ridges = [float(lam) for lam in ridges]
    for lam in ridges:
        _check_ridge(lam, "lambdas", largest)
    random = np.random.default_rng(seed)
    problem = UnconstrainedFeatures(labels, dim)
    factors = np.zeros(math.prod(problem.shape))
    points: list[RidgePoint] = []
    for lam in sorted(ridges, reverse=True):
        tell("ridge path", len(points) / len(ridges), detail=f"lambda {lam:.3g}")
        factors, iterations = _optimum(problem, lam, factors, random, threshold)
        point = _point(labels, lam, problem, factors, dim, iterations, threshold)
        if point.status == "uncertified":
            _warn(point, labels, threshold)
        points.append(point)
    return points


def _optimum(
    problem: UnconstrainedFeatures,
    lam: float,
    start: Float[np.ndarray, " n"],
    random: np.random.Generator,
    threshold: float,
) -> tuple[Float[np.ndarray, " n"], int]:
    """Return factors near the optimum, and the iterations; restart if not certified."""
    factors, iterations, noise = start, 0, NOISE

    def stop_when_certified(intermediate_result: OptimizeResult) -> None:
        nonlocal iterations
        iterations += 1
        if iterations % CHECKED_EVERY:
            return
        gap = problem.gap(intermediate_result.x, lam)
        tell(f"ridge path at lambda {lam:.3g}", None, iterations, f"gap {gap:.2g}")
        if gap <= threshold / 10:
            raise StopIteration

    for _ in range(1 + RESTARTS):
        factors = minimize(
            problem,
            factors + noise * random.standard_normal(len(factors)),
            args=(lam,),
            jac=True,
            method="L-BFGS-B",
            callback=stop_when_certified,
            options={
                "maxcor": HISTORY,
                "maxiter": MOST_ITERATIONS,
                "maxfun": 2 * MOST_ITERATIONS,
                "ftol": 0,
                "gtol": 1e-8,
            },
        ).x
        if problem.gap(factors, lam) <= threshold:
            break
        noise = 5 * NOISE
    return factors, iterations


def _point(
    labels: SoftLabels,
    lam: float,
    problem: UnconstrainedFeatures,
    factors: Float[np.ndarray, " n"],
    dim: int,
    iterations: int,
    threshold: float,
) -> RidgePoint:
    """Return a point judged by all its logits; factors balanced, by falling singular value."""
    left, values, right = np.linalg.svd(problem.product(factors), full_matrices=False)
    spare = max(0, dim - len(values))
    roots = np.sqrt(values[:dim])
    classifier, embeddings = (
        np.pad(equal.expand(side[:, :dim] * roots), ((0, 0), (0, spare)))
        for equal, side in ((problem.tokens, left), (problem.contexts, right.T))
    )
    nuclear_norm = float(values.sum())
    point = RidgePoint(
        lam, classifier, embeddings, math.nan, nuclear_norm, math.nan, "uncertified", iterations
    )
    return judged(point, labels, threshold=threshold)


def judged(point: RidgePoint, labels: SoftLabels, *, threshold: float = THRESHOLD) -> RidgePoint:
    """Return a point with the excess, gap and status that its factors have, whatever it says."""
    relgap = ridge_gap(point.logits, labels, point.lam)
    return dataclasses.replace(
        point,
        excess=excess(point.logits, labels),
        relgap=relgap,
        status="certified" if relgap <= threshold else "uncertified",
    )


def _warn(point: RidgePoint, labels: SoftLabels, threshold: float) -> None:
    enough = min(labels.vocab_size - 1, labels.n_contexts)
    dim = point.classifier.shape[1]
    wider = f"; dim {dim} may be too small, {enough} is enough" if dim < enough else ""
    message = (
        f"lambda {point.lam:.3g}: uncertified, relative duality gap {point.relgap:.2g} is above "
        f"{threshold:.2g}{wider}"
    )
    warnings.warn(message, UserWarning, stacklevel=3)


def _check_ridge(lam: float, name: str, largest: float = math.inf) -> None:
    if not 0 < lam < math.inf:
        raise ValueError(f"{name}: {lam}, expected a ridge > 0")
    if lam >= largest:
        raise ValueError(
            f"{name}: {lam:.6g} is not below lambda_max = {largest:.6g}, where the optimum is 0"
        )
