"""Concepts: singular triplets of centred logits, read as what tokens and contexts have in common.

The k-th triplet (u, s, v) of the proxy, of the solution or of trained logits puts each token on the
side `sign(u[z])` with strength `|u[z]|`, and each context on a side by v. A single axis is often
not readable; the orthants of several are.

Axes: V tokens, M contexts, K concepts, N tokens or contexts, D width of a model.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

NO_SIDE = 1e-10  # an entry below it is on neither side
NULL = 1e-6  # singular values below this share of the largest are rounding


@runtime_checkable
class Factored(Protocol):
    """Logits as `classifier @ embeddings.T`: a `Prediction`, a checkpoint, a model's embeddings."""

    @property
    def classifier(self) -> Float[np.ndarray, "V D"]:
        """A row a token."""
        ...

    @property
    def embeddings(self) -> Float[np.ndarray, "M D"]:
        """A row a context."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Concepts:
    """Leading singular triplets, largest first; each has its largest token entry positive.

    Where singular values are equal, any rotation among their vectors serves as well: such concepts
    are only determined together.

    Attributes:
        tokens: u, orthonormal columns.
        singular_values: s, positive, in the unit of the logits.
        contexts: v, orthonormal columns.
    """

    tokens: Float[np.ndarray, "V K"]
    singular_values: Float[np.ndarray, " K"]
    contexts: Float[np.ndarray, "M K"]

    @property
    def n(self) -> int:
        """K."""
        return len(self.singular_values)

    @property
    def classifier(self) -> Float[np.ndarray, "V K"]:
        """U s^(1/2): predicted token embeddings."""
        scaled: Float[np.ndarray, "V K"] = self.tokens * np.sqrt(self.singular_values)
        return scaled

    @property
    def embeddings(self) -> Float[np.ndarray, "M K"]:
        """V s^(1/2): predicted context embeddings."""
        scaled: Float[np.ndarray, "M K"] = self.contexts * np.sqrt(self.singular_values)
        return scaled


@dataclasses.dataclass(frozen=True, eq=False)
class Cluster:
    """The tokens or contexts of one orthant.

    Attributes:
        signs: +1 or -1 for each of the chosen concepts.
        members: Rows, the most typical first.
        typicality: Of each member: the sum of its strengths on the chosen concepts.
    """

    signs: tuple[int, ...]
    members: Int64[np.ndarray, " N"]
    typicality: Float[np.ndarray, " N"]


def concepts(logits: Float[np.ndarray, "V M"] | Factored, n: int = 10) -> Concepts:
    """The n leading concepts of logits, which are centred over tokens first.

    Args:
        logits: Dense logits (the centred support, a solution, trained ones), or any object with
            a `classifier` (V, D) and `embeddings` (M, D), whose product is never made.
        n: How many; fewer come back if the centred logits have a lower rank.

    Raises:
        ValueError: n below 1, or logits that are not finite or have nothing but equal columns.
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 concept, got {n}")
    if isinstance(logits, np.ndarray):
        _check_finite(logits, "logits")
        u, s, vt = np.linalg.svd(logits - logits.mean(axis=0), full_matrices=False)
        v = vt.T
    else:
        u, s, v = _factored_svd(logits.classifier, logits.embeddings)
    kept = min(n, int(np.count_nonzero(s > NULL * s[0]))) if s[0] > 0 else 0
    if kept == 0:
        raise ValueError("logits: all tokens have the same in every context; no concept is there")
    u, s, v = u[:, :kept], s[:kept], v[:, :kept]
    signs = _signs(u)
    return Concepts(u * signs, s, v * signs)


def sides(
    vector: Float[np.ndarray, " N"], n: int | None = None
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " Q"]]:
    """The rows on the positive and on the negative side of a concept, the strongest first.

    Args:
        vector: One column of `Concepts.tokens` or `Concepts.contexts`.
        n: At most so many of each side; by default all.
    """
    order = np.argsort(-np.abs(vector), kind="stable")
    order = order[np.abs(vector[order]) >= NO_SIDE]
    return order[vector[order] > 0][:n], order[vector[order] < 0][:n]


def orthant_clusters(
    vectors: Float[np.ndarray, "N K"], chosen: Sequence[int] | None = None
) -> list[Cluster]:
    """Tokens or contexts with the same side on each chosen concept, largest cluster first.

    At most 2^|chosen| clusters; one concept more splits each. A row that is on neither side of
    some chosen concept is in none.

    Args:
        vectors: `Concepts.tokens` or `Concepts.contexts`.
        chosen: Columns; by default all.
    """
    columns = list(range(vectors.shape[1])) if chosen is None else list(chosen)
    wrong = [column for column in columns if not 0 <= column < vectors.shape[1]]
    if wrong or not columns:
        found = wrong[0] if wrong else "none"
        raise ValueError(f"chosen: expected concepts in [0, {vectors.shape[1]}), got {found}")
    strengths = np.abs(vectors[:, columns])
    rows = np.flatnonzero((strengths >= NO_SIDE).all(axis=1))
    typicality = strengths.sum(axis=1)
    signs = np.where(vectors[rows][:, columns] > 0, 1, -1)
    kinds, of_row = np.unique(signs, axis=0, return_inverse=True)
    clusters = []
    for number, kind in enumerate(kinds):
        members = rows[of_row.reshape(-1) == number]
        members = members[np.argsort(-typicality[members], kind="stable")]
        clusters.append(Cluster(tuple(map(int, kind)), members, typicality[members]))
    return sorted(clusters, key=lambda cluster: (-len(cluster.members), cluster.signs))


def cluster_labels(clusters: Sequence[Cluster], n_rows: int) -> Int64[np.ndarray, " N"]:
    """The number of each row's cluster; -1 where it is in none."""
    labels = np.full(n_rows, -1, dtype=np.int64)
    for number, cluster in enumerate(clusters):
        labels[cluster.members] = number
    return labels


def spectral_clusters(
    embeddings: Float[np.ndarray, "N K"], n_clusters: int, *, seed: int = 0
) -> Int64[np.ndarray, " N"]:
    """k-means on rows of `Concepts.classifier` or `Concepts.embeddings`, ten starts of one seed.

    Returns:
        Cluster numbers; 0 is the largest cluster.
    """
    if not 1 <= n_clusters <= len(embeddings):
        raise ValueError(f"n_clusters: expected 1 to {len(embeddings)} (rows), got {n_clusters}")
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(embeddings)
    order = np.argsort(-np.bincount(found, minlength=n_clusters), kind="stable")
    labels: Int64[np.ndarray, " N"] = np.argsort(order)[found]
    return labels


def _factored_svd(
    classifier: Float[np.ndarray, "V D"], embeddings: Float[np.ndarray, "M E"]
) -> tuple[Float[np.ndarray, "V R"], Float[np.ndarray, " R"], Float[np.ndarray, "M R"]]:
    """The thin SVD of the product, by QR of its factors: O((V + M) D^2)."""
    if classifier.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"embeddings: width {embeddings.shape[1]} (axis 1), expected the classifier's, "
            f"{classifier.shape[1]}"
        )
    for name, matrix in (("classifier", classifier), ("embeddings", embeddings)):
        _check_finite(matrix, name)
    # In the factors' own precision the product's small triplets would be lost.
    left, of_left = np.linalg.qr(classifier.astype(np.float64) - classifier.mean(axis=0))
    right, of_right = np.linalg.qr(embeddings.astype(np.float64))
    u, s, vt = np.linalg.svd(of_left @ of_right.T, full_matrices=False)
    return left @ u, s, right @ vt.T


def _signs(tokens: Float[np.ndarray, "V K"]) -> Float[np.ndarray, " K"]:
    """Makes each column's largest entry positive; among equal ones, up to rounding, the first."""
    sizes = np.abs(tokens)
    first = np.argmax(sizes >= (1 - 1e-9) * sizes.max(axis=0), axis=0)
    signs: Float[np.ndarray, " K"] = np.sign(tokens[first, np.arange(tokens.shape[1])])
    return signs


def _check_finite(matrix: Float[np.ndarray, "N K"], name: str) -> None:
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"{name}: {matrix[row, column]} in row {row}, column {column}")
