r"""What free embeddings with a ridge lose, and its slope: equal tokens and equal contexts once.

Tokens that follow every context equally often have equal logits at an optimum, and so have contexts
that are followed by the same tokens and occur equally often: the problem is convex in the logits,
and averaging over permutations inside a group changes no loss and does not raise the nuclear norm.
What is solved is `diag(sqrt r) L diag(sqrt c)` with r and c the sizes of the groups, whose nuclear
norm is that of L, as factors of as many columns as it can have rank.

Axes: V tokens, M contexts; R, C distinct ones; D columns of the factors.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.special import entr, logsumexp

from tightframe.ntp.grouping import EqualColumns
from tightframe.ntp.soft_labels import SoftLabels


class FreeEmbeddings:
    """The objective: (CE - H) / lambda + half the squared norm of the factors, and its gradient.

    Within a support the loss is `p (expm1(d) - d)` with `d = log q - log p`, and its slope is
    `p expm1(d)`: both keep their digits where d is 1e-7. Written as `q - p`, the gap of a point
    at 1e-7 ends at 1e-3 instead of 3e-5.

    Attributes:
        tokens, contexts: Which are equal, the R and C groups.
        shape: (R + C, D) of the factors: rows of tokens, then rows of contexts.

    Args:
        labels: What follows each context.
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
        """At factors of the given shape, flattened."""
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
        """diag(sqrt r) L diag(sqrt c)."""
        both = factors.reshape(self.shape)
        product: Float[np.ndarray, "R C"] = both[: self.n_tokens] @ both[self.n_tokens :].T
        return product

    def gap(self, factors: Float[np.ndarray, " n"], lam: float) -> float:
        """`ridge.ridge_gap` of the logits of all tokens and contexts, from those of the groups."""
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
