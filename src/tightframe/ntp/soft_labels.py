"""Soft labels: which tokens follow each context, how often, and the lowest loss of any model.

The geometry that next-token prediction drives a model to depends on a table of soft labels alone:
`P[z, j]`, how often token z follows context j, and `pi[j]`, how often context j occurs. Logits
split into a part within each support (the tokens that do follow), which tends to a finite limit,
and the rest, which grows without bound in a direction that the supports decide.

Real continuations are rare and noisy, so a count above 0 may be too coarse a support. The
alternatives take the place of the centred support in the proxy and in concepts, and `explain` says
which of them explains a model's Gram matrix best; the NTP-SVM needs a 0/1 support.

Axes: V tokens, M distinct contexts, N tokens or contexts. Natural logarithms; losses are nats per
pair.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int64, Real
from scipy.special import log_softmax

from tightframe.ntp.similarity import cosine, structural_similarity

Columns: TypeAlias = sp.csc_array
"""A sparse (V, M) matrix in canonical form: a column a context, sorted indices, no stored zeros."""

SUM_ERROR = 1e-6  # how far from 1 a column of P, or all weights, may sum


@dataclasses.dataclass(frozen=True, eq=False)
class SoftLabels:
    """Next-token distributions of M contexts, and how often each context occurs.

    Args:
        probabilities: P (V, M); each column sums to 1, and what is stored is positive.
        weights: pi (M,); positive, sums to 1.

    Raises:
        ValueError: A column or the weights are no distribution; the message names the first.
    """

    probabilities: Columns
    weights: Float[np.ndarray, " M"]

    def __post_init__(self) -> None:
        columns = _canonical(self.probabilities, "probabilities")
        object.__setattr__(self, "probabilities", columns)
        _check_distribution(columns)
        _check_weights(self.weights, columns.shape[1])

    @classmethod
    def from_counts(cls, counts: Real[np.ndarray, "V M"] | sp.sparray) -> "SoftLabels":
        """Of counts (V, M): how often each token followed each context."""
        columns = _canonical(counts, "counts")
        totals = _column_sums(columns)
        empty = np.flatnonzero(totals == 0)
        if len(empty):
            raise ValueError(f"counts: no token follows context {empty[0]}; leave it out")
        probabilities = columns.copy()
        probabilities.data = columns.data / np.repeat(totals, np.diff(columns.indptr))
        return cls(probabilities, totals / totals.sum())

    @property
    def vocab_size(self) -> int:
        """V."""
        return int(self.probabilities.shape[0])

    @property
    def n_contexts(self) -> int:
        """M."""
        return int(self.probabilities.shape[1])

    @cached_property
    def support(self) -> Columns:
        """S (V, M), sparse and boolean: which tokens follow which contexts."""
        p = self.probabilities
        return sp.csc_array((np.ones(p.nnz, dtype=bool), p.indices, p.indptr), shape=p.shape)

    @property
    def matrix(self) -> Bool[np.ndarray, "V M"]:
        """S, dense: what `solve_svm` takes."""
        dense: Bool[np.ndarray, "V M"] = self.support.toarray()
        return dense

    @property
    def support_sizes(self) -> Int64[np.ndarray, " M"]:
        """k: how many tokens follow each context."""
        sizes: Int64[np.ndarray, " M"] = np.diff(self.probabilities.indptr).astype(np.int64)
        return sizes

    @property
    def density(self) -> float:
        """The share of (token, context) pairs that occur, in (0, 1]."""
        return self.probabilities.nnz / (self.vocab_size * self.n_contexts)

    @property
    def entropies(self) -> Float[np.ndarray, " M"]:
        """Of each context's next token, in nats; 0 where only one token follows."""
        p = self.probabilities
        of_entries = np.abs(p.data * np.log(p.data))  # a log of 1 may be -0.0
        sums: Float[np.ndarray, " M"] = np.add.reduceat(of_entries, p.indptr[:-1])
        return sums

    @property
    def entropy(self) -> float:
        """H, the least possible cross-entropy: nats per pair, contexts weighted by `weights`."""
        return float(self.weights @ self.entropies)


def cross_entropy(logits: Float[np.ndarray, "V M"], labels: SoftLabels) -> float:
    """CE(L), nats per pair, contexts weighted; at least `labels.entropy`."""
    return labels.entropy + excess(logits, labels)


def excess(logits: Float[np.ndarray, "V M"], labels: SoftLabels) -> float:
    """CE(L) - H: the weighted KL divergence of the model from the soft labels, >= 0, in nats.

    Computed as a divergence, so that it has all its digits where it is tiny.
    """
    _check_logits(logits, labels)
    p, log_q = labels.probabilities, log_softmax(logits, axis=0)
    tokens, contexts = p.indices, _column_of(p)
    terms = p.data * (np.log(p.data) - log_q[tokens, contexts])
    # p log(p/q) - p + q is nonnegative entry by entry; off the support it is q.
    likely = np.exp(log_q)
    within = np.bincount(
        contexts, terms - p.data + likely[tokens, contexts], minlength=labels.n_contexts
    )
    off = likely.sum(axis=0, where=~labels.matrix)
    return float(labels.weights @ (np.maximum(within, 0) + off))


def gradient(logits: Float[np.ndarray, "V M"], labels: SoftLabels) -> Float[np.ndarray, "V M"]:
    """Of the cross-entropy by the logits: (softmax(L) - P) diag(pi); its columns sum to 0."""
    _check_logits(logits, labels)
    p = labels.probabilities
    slope: Float[np.ndarray, "V M"] = np.exp(log_softmax(logits, axis=0))
    slope[p.indices, _column_of(p)] -= p.data
    slope *= labels.weights
    return slope


def finite_component(labels: SoftLabels) -> Columns:
    """L_in: where the logits within each support tend; sparse (V, M), 0 off the supports.

    .. math:: L_{in}[z, j] = \\log P[z, j] - \\frac{1}{k_j} \\sum_{z' \\in S_j} \\log P[z', j]

    0 where labels are one-hot, or uniform on their support.
    """
    p = labels.probabilities
    logs = np.log(p.data)
    means = np.add.reduceat(logs, p.indptr[:-1]) / labels.support_sizes
    return sp.csc_array(
        (logs - np.repeat(means, labels.support_sizes), p.indices, p.indptr), shape=p.shape
    )


def project_in_support(
    logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]
) -> Float[np.ndarray, "V M"]:
    """P_F: differences within each support: in it, logits minus their mean over it; off it, 0."""
    return np.where(support, logits - _means(logits, support), 0.0)


def project_off_support(
    logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]
) -> Float[np.ndarray, "V M"]:
    """P_perp: the rest, one value for all of a support, and the logits off it."""
    return np.where(support, _means(logits, support), logits)


def centred_support(support: Bool[np.ndarray, "V M"]) -> Float[np.ndarray, "V M"]:
    """S~, the proxy: the support matrix with every column centred over tokens."""
    shares: Float[np.ndarray, " M"] = support.mean(axis=0)
    centred: Float[np.ndarray, "V M"] = support - shares
    return centred


def _means(
    logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]
) -> Float[np.ndarray, " M"]:
    """Of the logits within each support."""
    means: Float[np.ndarray, " M"] = logits.sum(axis=0, where=support) / support.sum(axis=0)
    return means


def _canonical(matrix: Real[np.ndarray, "V M"] | sp.sparray, name: str) -> Columns:
    columns = sp.csc_array(matrix).astype(np.float64)
    columns.sum_duplicates()
    wrong = np.flatnonzero(~np.isfinite(columns.data) | (columns.data < 0))
    if len(wrong):
        context = int(_column_of(columns)[wrong[0]])
        raise ValueError(
            f"{name}: {columns.data[wrong[0]]} for token {columns.indices[wrong[0]]} after "
            f"context {context}; expected finite numbers that are not negative"
        )
    columns.eliminate_zeros()
    return columns


def _check_distribution(columns: Columns) -> None:
    empty = np.flatnonzero(np.diff(columns.indptr) == 0)
    if len(empty):
        raise ValueError(f"probabilities: no token follows context {empty[0]}; leave it out")
    sums = _column_sums(columns)
    wrong = np.flatnonzero(np.abs(sums - 1) > SUM_ERROR)
    if len(wrong):
        raise ValueError(
            f"probabilities: column {wrong[0]} sums to {sums[wrong[0]]:.6g}, expected 1; "
            "are contexts the columns?"
        )


def _check_weights(weights: Float[np.ndarray, " M"], n_contexts: int) -> None:
    if weights.shape != (n_contexts,):
        raise ValueError(f"weights: expected {n_contexts}, one a context, got {weights.shape}")
    wrong = np.flatnonzero(~(weights > 0))
    if len(wrong):
        raise ValueError(f"weights: {weights[wrong[0]]} for context {wrong[0]}; expected > 0")
    if abs(weights.sum() - 1) > SUM_ERROR:
        raise ValueError(f"weights: they sum to {weights.sum():.6g}, expected 1")


def _check_logits(logits: Float[np.ndarray, "V M"], labels: SoftLabels) -> None:
    expected = labels.vocab_size, labels.n_contexts
    if logits.shape != expected:
        raise ValueError(f"logits: expected (V, M) = {expected}, got {logits.shape}")
    if not np.isfinite(logits).all():
        token, context = np.argwhere(~np.isfinite(logits))[0]
        raise ValueError(f"logits: {logits[token, context]} for token {token}, context {context}")


def _column_of(columns: Columns) -> Int64[np.ndarray, " stored"]:
    """The context of each stored entry."""
    return np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))


def _column_sums(columns: Columns) -> Float[np.ndarray, " M"]:
    return np.bincount(_column_of(columns), columns.data, minlength=columns.shape[1])


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
