"""The small random sets that the laws of the ridge path are tested on; plain forms of its sums.

Supports are drawn uniformly; where one would leave tokens out, every token is dealt out first, as
in the published set of 30 tokens. Counts are uniform in 1..4. How far directions are from their
limit at 1e-6 depends on the draw: an off-support constraint that is slack by a little keeps its
probability, but for a small power of the ridge. The seeds are of draws within the tolerances.
"""

import dataclasses

import numpy as np

from tightframe.ntp import SoftLabels


@dataclasses.dataclass(frozen=True)
class Set:
    tokens: int
    contexts: int
    sizes: tuple[int, int]  # least and largest support
    dim: int
    copies: int = 1  # contexts a support
    covering: bool = False  # every token follows some context
    seed: int = 0

    def labels(self):
        rng = np.random.default_rng(self.seed)
        n = self.contexts // self.copies
        support = self._covering(rng, n) if self.covering else self._uniform(rng, n)
        support = np.repeat(support, self.copies, axis=1)
        return SoftLabels.from_counts(np.where(support, rng.integers(1, 5, support.shape), 0))

    def _uniform(self, rng, n):
        support = np.zeros((self.tokens, n), dtype=bool)
        for column in support.T:
            size = rng.integers(self.sizes[0], self.sizes[1] + 1)
            column[rng.choice(self.tokens, size, replace=False)] = True
        return support

    def _covering(self, rng, n):
        """Every token once, the places left at random; dealt until no context has one twice."""
        size = self.sizes[0]
        while True:
            drawn = rng.integers(self.tokens, size=n * size - self.tokens)
            hands = rng.permutation(np.concatenate([np.arange(self.tokens), drawn]))
            support = np.zeros((self.tokens, n), dtype=bool)
            support[hands, np.repeat(np.arange(n), size)] = True
            if (support.sum(axis=0) == size).all():
                return support


SETS = {
    "narrow": Set(10, 30, (3, 3), dim=16),
    "wide": Set(30, 16, (3, 3), dim=32, covering=True, seed=2),
    "varied": Set(20, 50, (2, 6), dim=24),
    "repeated": Set(12, 24, (3, 3), dim=16, copies=3, covering=True, seed=2),
}


def ridge_gap(logits, labels, lam):
    """Relative duality gap, entry by entry, from the definition."""
    p, weights = labels.probabilities.toarray(), labels.weights
    q = np.exp(logits) / np.exp(logits).sum(axis=0)
    norm = lam * np.linalg.svd(logits, compute_uv=False).sum()
    share = min(1, lam / np.linalg.svd((q - p) * weights, compute_uv=False)[0])
    primal, dual = norm, 0.0
    for j in range(labels.n_contexts):
        for z in range(labels.vocab_size):
            if p[z, j] > 0:
                primal -= weights[j] * p[z, j] * np.log(q[z, j])
            mixed = p[z, j] + share * (q[z, j] - p[z, j])
            if mixed > 0:
                dual -= weights[j] * mixed * np.log(mixed)
    return (primal - dual) / norm


def objective(classifier, embeddings, labels, lam):
    """CE + lam / 2 (|W|^2 + |H|^2), entry by entry."""
    total = lam / 2 * ((classifier**2).sum() + (embeddings**2).sum())
    for j, (embedding, weight) in enumerate(zip(embeddings, labels.weights, strict=True)):
        logits = classifier @ embedding
        log_q = logits - np.log(np.exp(logits).sum())
        column = labels.probabilities.toarray()[:, j]
        total -= weight * sum(p * log for p, log in zip(column, log_q, strict=True) if p > 0)
    return total
