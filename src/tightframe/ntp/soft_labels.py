"""Soft labels: the distribution of next tokens after each context, and the entropy floor.

The geometry that next-token prediction drives a model to depends on a table of soft labels alone:
`P[z, j]`, how often token z follows context j, and `pi[j]`, how often context j occurs. Logits
split into an in-support component P_F, differences within each support (the tokens that do follow),
which tends to a finite limit L_in, and the off-support component P_perp, which grows without bound
in a direction that the supports decide.

Axes: V tokens, M distinct contexts. Natural logarithms; losses are nats per pair.
"""

import dataclasses
from functools import cached_property
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int64, Real
from scipy.special import log_softmax

Columns: TypeAlias = sp.csc_array
"""Sparse (V, M) matrix in canonical form: sorted indices, no stored zeros."""

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
        """Return the soft labels of counts (V, M) of each token after each context."""
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
        """Number V of tokens."""
        return int(self.probabilities.shape[0])

    @property
    def n_contexts(self) -> int:
        """Number M of contexts."""
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
        """Entropy of each context's next token, in nats; 0 where only one token follows."""
        p = self.probabilities
        of_entries = np.abs(p.data * np.log(p.data))  # a log of 1 may be -0.0
        sums: Float[np.ndarray, " M"] = np.add.reduceat(of_entries, p.indptr[:-1])
        return sums

    @property
    def entropy(self) -> float:
        """H, the least possible cross-entropy: nats per pair, contexts weighted by `weights`."""
        return float(self.weights @ self.entropies)


def cross_entropy(logits: Float[np.ndarray, "V M"], labels: SoftLabels) -> float:
    """Return CE(L) in nats per pair, contexts weighted; at least `labels.entropy`."""
    return labels.entropy + excess(logits, labels)


def excess(logits: Float[np.ndarray, "V M"], labels: SoftLabels) -> float:
    """Return CE(L) - H, the weighted KL divergence of the model from the soft labels, in nats.

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
    """Return the gradient of the cross-entropy by the logits, (softmax(L) - P) diag(pi)."""
    _check_logits(logits, labels)
    p = labels.probabilities
    slope: Float[np.ndarray, "V M"] = np.exp(log_softmax(logits, axis=0))
    slope[p.indices, _column_of(p)] -= p.data
    slope *= labels.weights
    return slope


def finite_component(labels: SoftLabels) -> Columns:
    """Return L_in, the limit of the logits within each support; sparse (V, M), 0 off the supports.

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
    """Return P_F(L): in each support, logits minus their mean over it; off it, 0."""
    return np.where(support, logits - _means(logits, support), 0.0)


def project_off_support(
    logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]
) -> Float[np.ndarray, "V M"]:
    """Return P_perp(L) = L - P_F(L): in a support, the mean of its logits; off it, the logits."""
    return np.where(support, _means(logits, support), logits)


def centred_support(support: Bool[np.ndarray, "V M"]) -> Float[np.ndarray, "V M"]:
    """Return S~, the proxy: the support matrix with every column centred over tokens."""
    shares: Float[np.ndarray, " M"] = support.mean(axis=0)
    centred: Float[np.ndarray, "V M"] = support - shares
    return centred


def _means(
    logits: Float[np.ndarray, "V M"], support: Bool[np.ndarray, "V M"]
) -> Float[np.ndarray, " M"]:
    """Return the means of the logits within each support."""
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
        raise ValueError(f"weights: expected {n_contexts}, one per context, got {weights.shape}")
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
    """Return the context of each stored entry."""
    return np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))


def _column_sums(columns: Columns) -> Float[np.ndarray, " M"]:
    return np.bincount(_column_of(columns), columns.data, minlength=columns.shape[1])
