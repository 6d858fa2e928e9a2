"""Alternatives to the 0/1 support matrix, and which of them explains a model's Gram matrix best.

Real continuations are rare and noisy, so a count above 0 may be too coarse. The alternatives take
the place of the centred support in the proxy and in concepts; the NTP-SVM needs a 0/1 support.

Axes: V tokens, M contexts, N tokens or contexts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Real

from tightframe.ntp.similarity import cosine, structural_similarity

Counts = Real[np.ndarray, "V M"] | sp.sparray


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How much a Gram matrix is like the one that an alternative predicts.

    Attributes:
        name: Of the alternative.
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
    """Centred 0/1 support of what was counted at least `floor` times; 1 is the proxy itself."""
    if floor < 1:
        raise ValueError(f"floor: expected at least 1, got {floor}")
    return _centred((_dense(counts) >= floor).astype(np.float64))


def probability_threshold(counts: Counts, threshold: float) -> Float[np.ndarray, "V M"]:
    """Centred 0/1 support of what has at least this share of its context's continuations."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected in (0, 1], got {threshold}")
    dense = _dense(counts)
    return _centred((dense >= threshold * dense.sum(axis=0)) * (dense > 0) * 1.0)


def smoothed_log_probability(counts: Counts, alpha: float = 1.0) -> Float[np.ndarray, "V M"]:
    """Centred log((count + alpha) / (n_j + alpha V)) of each token after each context."""
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ValueError(f"alpha: expected above 0, got {alpha}")
    dense = _dense(counts)
    totals = dense.sum(axis=0) + alpha * len(dense)
    return _centred(np.log((dense + alpha) / totals))


def positive_pmi(counts: Counts) -> Float[np.ndarray, "V M"]:
    """Centred positive pointwise mutual information of token and context; 0 where unseen."""
    dense = _dense(counts)
    expected = np.outer(dense.sum(axis=1), dense.sum(axis=0)) / dense.sum()
    ratio = np.divide(dense, expected, out=np.ones_like(dense), where=dense > 0)
    return _centred(np.maximum(np.log(ratio), 0))


def predicted_gram(
    logits: Float[np.ndarray, "V M"], side: Literal["classifier", "embeddings"]
) -> Float[np.ndarray, "N N"]:
    """U s U' (V, V) or V s V' (M, M) of logits: the Gram matrix they predict, mean diagonal 1."""
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
    """Which alternative to the support explains a model's Gram matrix best; the best first.

    Args:
        gram: Of a model's classifier, centred over tokens (V, V), or of its embeddings (M, M).
        alternatives: Centred logits (V, M) by name.
        side: Which of the two it is.
        permutations: Random orders of rows for the baseline.
        seed: Of these orders.
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
    """Over tokens."""
    centred: Float[np.ndarray, "V M"] = matrix - matrix.mean(axis=0)
    return centred


def _scaled(gram: Float[np.ndarray, "N N"], name: str) -> Float[np.ndarray, "N N"]:
    size = float(np.trace(gram)) / len(gram)
    if not (np.isfinite(gram).all() and size > 0):
        raise ValueError(f"{name}: expected finite numbers, not all 0")
    return gram / size
