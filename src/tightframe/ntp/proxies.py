"""The proxy: the centred support matrix in place of L_mm, whether it is exact, and alternatives.

S~ = S - 1 (1^T S)/V satisfies all constraints with margin exactly 1, so its nuclear norm is at
least the optimum; often it is the optimum, and then its polar factor proves it.

Real continuations are rare and noisy, so a count above 0 may be too coarse a support. Alternatives
(a count floor, a threshold, smoothed log probabilities, positive PMI) replace the centred support,
and `explain` ranks them by how well they explain a model's Gram matrix.

Axes: V tokens, M contexts, N of either; R and C distinct token rows and contexts.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Real, Shaped

from tightframe.ntp.certificate import Constraints, off_support, repaired, spectral_norm
from tightframe.ntp.similarity import cosine, structural_similarity
from tightframe.ntp.support import (
    MergedSupport,
    Triplets,
    dense_triplets,
    leading_triplets,
    support_columns,
)

Support: TypeAlias = Shaped[np.ndarray, "V M"] | sp.sparray
Verdict: TypeAlias = Literal["exact", "not exact", "undecided"]

MEMORY = 4 * 2**30  # bytes that dense arrays may take
DENSE_ARRAYS = 6  # of distinct rows times distinct columns that decomposition and test hold at once
POSITIVE = 1e-9  # an off-support entry of the polar factor above this counts as positive
WORST_RESIDUAL = 1e-3  # a triplet with more than this is warned of


@dataclasses.dataclass(frozen=True)
class ProxyReport:
    """Verdict on the centred support matrix as an optimum, and bounds from it.

    Attributes:
        verdict: "exact" or "not exact" where that is proved, else "undecided".
        reason: Reason for the verdict.
        off_support: Largest off-support entry of the polar factor of diag(sqrt r) S~ diag(sqrt c),
            on distinct rows and columns; NaN where it was not computed.
        upper: ||S~||_*, at least the optimal nuclear norm; NaN where it was not computed.
        bound: At most the optimal nuclear norm, from the same factor; equals `upper` where the
            verdict is "exact", loose elsewhere. NaN where it was not computed.
        rank: Rank of S~; -1 where it was not computed.
        tokens, contexts: V and M.
        distinct_tokens, distinct_contexts: After merging equal rows and columns.
    """

    verdict: Verdict
    reason: str
    off_support: float
    upper: float
    bound: float
    rank: int
    tokens: int
    contexts: int
    distinct_tokens: int
    distinct_contexts: int

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values; None for what was not computed."""
        return {name: None if value != value else value for name, value in vars(self).items()}


def proxy_triplets(support: Support, rank: int | None = None, *, memory: int = MEMORY) -> Triplets:
    """Return singular triplets of S~ with their residuals; arguments are those of `proxy`.

    Signs are fixed: the largest entry of each left vector is positive.

    Raises:
        ValueError: S is no support matrix, constrains nothing, or is too large for `memory` to
            decompose as a whole; or `rank` is below 1 or above the number of tokens or contexts.
    """
    merged = _merged(support)
    triplets = merged.expand(_triplets(merged, rank, memory))
    _warn_of_residuals(triplets)
    return triplets


def checked_triplets(
    support: Support, rank: int | None = None, *, memory: int = MEMORY
) -> tuple[Triplets, bool]:
    """Return `proxy_triplets` and whether all of them are kept and prove S~ to be optimal."""
    merged = _merged(support)
    triplets = _triplets(merged, rank, memory)
    _warn_of_residuals(triplets)
    exact = rank is None and _verdict(merged, triplets)[0] == "exact"
    return merged.expand(triplets), exact


def proxy_report(support: Support, *, memory: int = MEMORY) -> ProxyReport:
    """Test whether S~ is optimal, by its polar factor Z = U V^T.

    Z has zero column sums and spectral norm 1. If no off-support entry is positive it is feasible
    for the dual problem, with value <S, Z> = ||S~||_*: S~ is optimal. Any other dual matrix that
    proves it is Z + Y with U^T Y = 0, Y V = 0 and zero column sums; Y is 0 if S~ has as many
    non-zero singular values as distinct contexts, or as distinct tokens but one. Then a positive
    entry proves the contrary. All on distinct rows and columns, weighted by their numbers.

    Args:
        support: S (V, M), boolean or 0/1, dense or sparse.
        memory: Bytes that dense arrays may take; above it the verdict is "undecided".

    Raises:
        ValueError: S is no support matrix, or constrains nothing.
    """
    merged = _merged(support)
    rows, columns = merged.support.shape
    sizes = (len(merged.tokens.members), len(merged.contexts.members), int(rows), int(columns))
    need = _dense_bytes(merged)
    if need > memory:
        nan = float("nan")
        reason = f"not tested: {rows:,} x {columns:,} takes {need / 1e9:.1f} GB"
        return ProxyReport("undecided", reason, nan, nan, nan, -1, *sizes)
    triplets = dense_triplets(merged.centred)
    verdict, reason, off_support = _verdict(merged, triplets)
    upper = float(triplets.singular_values.sum())
    bound = upper if verdict == "exact" else _dual_bound(merged, triplets)
    rank = len(triplets.singular_values)
    return ProxyReport(verdict, reason, off_support, upper, bound, rank, *sizes)


def _merged(support: Support) -> MergedSupport:
    """Return the support merged, with a warning of what is unconstrained."""
    columns = support_columns(support)
    tokens, contexts = columns.shape
    sizes = np.diff(columns.indptr)
    full = np.flatnonzero(sizes == tokens)
    if len(full) == contexts:
        raise ValueError("support: all tokens follow every context; nothing is to be separated")
    if len(full):
        _warn(
            f"support: all tokens follow {len(full)} contexts (the first is {full[0]}); they "
            "constrain nothing, their logits are 0"
        )
    unused = np.flatnonzero(np.bincount(columns.indices, minlength=tokens) == 0)
    if len(unused):
        _warn(
            f"support: {len(unused)} tokens follow no context (the first is {unused[0]}); they "
            "share one embedding"
        )
    return MergedSupport.of(columns)


def _triplets(merged: MergedSupport, rank: int | None, memory: int) -> Triplets:
    rows, columns = merged.support.shape
    if rank is None:
        need = _dense_bytes(merged)
        if need > memory:
            raise ValueError(
                f"support: all triplets of {rows:,} x {columns:,} distinct tokens and contexts "
                f"take {need:,} bytes, memory allows {memory:,}; ask for a rank, or sample contexts"
            )
        return dense_triplets(merged.centred)
    tokens, contexts = len(merged.tokens.members), len(merged.contexts.members)
    if not 1 <= rank <= min(tokens, contexts):
        raise ValueError(f"rank: {rank}, expected 1 to {min(tokens, contexts)}")
    if 2 * rank < min(rows, columns):
        return leading_triplets(merged.centred, rank)
    every = dense_triplets(merged.centred)  # so many that iteration would take longer
    return Triplets(
        every.left[:, :rank],
        every.singular_values[:rank],
        every.right[:, :rank],
        every.residuals[:rank],
    )


def _verdict(merged: MergedSupport, triplets: Triplets) -> tuple[Verdict, str, float]:
    polar = triplets.left @ triplets.right.T  # (R, C)
    support = merged.support.toarray()
    off_support = float(polar.max(where=~support, initial=-1.0))
    if off_support <= POSITIVE:
        return "exact", "the polar factor is dual feasible", off_support
    rows, columns = support.shape
    constrained = columns - int(support.all(axis=0).sum())  # a full column of S~ is 0
    rank = len(triplets.singular_values)
    if rank in (rows - 1, constrained):
        reason = "the only dual matrix that could prove it has a positive off-support entry"
        return "not exact", reason, off_support
    reason = (
        f"the polar factor has a positive off-support entry, but rank {rank} of "
        f"{min(rows - 1, constrained)} leaves room for other dual matrices"
    )
    return "undecided", reason, off_support


def _dual_bound(merged: MergedSupport, triplets: Triplets) -> float:
    """Return the dual value of the polar factor, repaired and scaled to norm 1."""
    constraints = Constraints.of(merged.distinct())
    polar = torch.from_numpy(triplets.right @ triplets.left.T)  # (C, R)
    dual = repaired(polar, constraints)
    return off_support(dual, constraints) / spectral_norm(dual)


def _dense_bytes(merged: MergedSupport) -> int:
    rows, columns = merged.support.shape
    return 8 * DENSE_ARRAYS * int(rows) * int(columns)


def _warn_of_residuals(triplets: Triplets) -> None:
    worst = int(np.argmax(triplets.residuals))
    if triplets.residuals[worst] > WORST_RESIDUAL:
        _warn(
            f"singular triplet {worst} has a relative residual of {triplets.residuals[worst]:.1e}, "
            f"above {WORST_RESIDUAL:g}; its singular value is too small beside the largest, "
            "ask for a smaller rank"
        )


def _warn(message: str) -> None:
    """Warn at the line that called the public function, two frames above the helper that warns."""
    warnings.warn(message, UserWarning, stacklevel=4)


Counts = Real[np.ndarray, "V M"] | sp.sparray


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Similarity of a Gram matrix to the one that an alternative predicts.

    Attributes:
        name: Name of the alternative.
        cosine: In [-1, 1]; 1 is the same up to scale.
        similarity: Structural similarity, in about [-1, 1]; matrices scaled to a mean diagonal 1.
        permuted_cosine, permuted_similarity: Means over random orders of the rows: what Gram
            matrices with these eigenvalues have in common without knowing which row is which.
        p_value: The share of orders, the true one included, whose cosine is as high; at least
            1 / (permutations + 1).
    """

    name: str
    cosine: float
    similarity: float
    permuted_cosine: float
    permuted_similarity: float
    p_value: float


def count_floor(counts: Counts, floor: int) -> Float[np.ndarray, "V M"]:
    """Return the centred 0/1 support of tokens counted at least `floor` times; 1 is the proxy."""
    if floor < 1:
        raise ValueError(f"floor: expected at least 1, got {floor}")
    return _centred((_dense(counts) >= floor).astype(np.float64))


def probability_threshold(counts: Counts, threshold: float) -> Float[np.ndarray, "V M"]:
    """Return the centred 0/1 support of tokens with at least this share of their context."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected in (0, 1], got {threshold}")
    dense = _dense(counts)
    return _centred((dense >= threshold * dense.sum(axis=0)) * (dense > 0) * 1.0)


def smoothed_log_probability(counts: Counts, alpha: float = 1.0) -> Float[np.ndarray, "V M"]:
    """Return the centred log((count + alpha) / (n_j + alpha V)) of tokens after contexts."""
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ValueError(f"alpha: expected above 0, got {alpha}")
    dense = _dense(counts)
    totals = dense.sum(axis=0) + alpha * len(dense)
    return _centred(np.log((dense + alpha) / totals))


def positive_pmi(counts: Counts) -> Float[np.ndarray, "V M"]:
    """Return the centred positive pointwise mutual information; 0 where a pair is unseen."""
    dense = _dense(counts)
    expected = np.outer(dense.sum(axis=1), dense.sum(axis=0)) / dense.sum()
    ratio = np.divide(dense, expected, out=np.ones_like(dense), where=dense > 0)
    return _centred(np.maximum(np.log(ratio), 0))


def predicted_gram(
    logits: Float[np.ndarray, "V M"], side: Literal["classifier", "embeddings"]
) -> Float[np.ndarray, "N N"]:
    """Return the Gram matrix of logits, U s U' (V, V) or V s V' (M, M), mean diagonal 1."""
    u, s, vt = np.linalg.svd(logits, full_matrices=False)
    vectors = u if side == "classifier" else vt.T
    return _scaled((vectors * s) @ vectors.T, "logits")


def explain(
    gram: Float[np.ndarray, "N N"],
    alternatives: Mapping[str, Float[np.ndarray, "V M"]],
    *,
    side: Literal["classifier", "embeddings"],
    permutations: int = 100,
    seed: int = 0,
) -> list[Explanation]:
    """Rank alternatives to the support by how well they explain a model's Gram matrix.

    Args:
        gram: Gram matrix of a model's centred classifier (V, V), or of its embeddings (M, M).
        alternatives: Centred logits (V, M) by name.
        side: "classifier" or "embeddings".
        permutations: Random orders of rows for the baseline.
        seed: Seed of these orders.
    """
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(gram)) for _ in range(permutations)]
    measured = _scaled(gram, "gram")
    found = []
    for name, logits in alternatives.items():
        predicted = predicted_gram(logits, side)
        if predicted.shape != gram.shape:
            raise ValueError(
                f"gram: {gram.shape}, expected {predicted.shape}, the {side} of '{name}'"
            )
        shuffled = [predicted[np.ix_(order, order)] for order in orders]
        cosines = np.array([cosine(measured, other) for other in shuffled])
        similar = np.array([structural_similarity(measured, other) for other in shuffled])
        at = cosine(measured, predicted)
        found.append(
            Explanation(
                name,
                at,
                structural_similarity(measured, predicted),
                float(cosines.mean()),
                float(similar.mean()),
                float((1 + np.count_nonzero(cosines >= at)) / (1 + permutations)),
            )
        )
    return sorted(found, key=lambda one: -one.cosine)


def _dense(counts: Counts) -> Float[np.ndarray, "V M"]:
    matrix = sp.csc_array(counts).toarray() if isinstance(counts, sp.sparray) else counts
    dense: Float[np.ndarray, "V M"] = np.asarray(matrix, dtype=np.float64)
    wrong = np.argwhere(~(np.isfinite(dense) & (dense >= 0)))
    if len(wrong):
        token, context = wrong[0]
        raise ValueError(f"counts: {dense[token, context]} for token {token}, context {context}")
    empty = np.flatnonzero(dense.sum(axis=0) == 0)
    if len(empty):
        raise ValueError(f"counts: no token follows context {empty[0]}; leave it out")
    return dense


def _centred(matrix: Float[np.ndarray, "V M"]) -> Float[np.ndarray, "V M"]:
    """Return a matrix centred over tokens."""
    centred: Float[np.ndarray, "V M"] = matrix - matrix.mean(axis=0)
    return centred


def _scaled(gram: Float[np.ndarray, "N N"], name: str) -> Float[np.ndarray, "N N"]:
    size = float(np.trace(gram)) / len(gram)
    if not (np.isfinite(gram).all() and size > 0):
        raise ValueError(f"{name}: expected finite numbers, not all 0")
    return gram / size
