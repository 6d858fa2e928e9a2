"""Concepts: singular triplets of centred logits, read as what tokens and contexts have in common.

The k-th triplet (u, s, v) of the proxy, of the solution or of trained logits puts each token on the
side `sign(u[z])` with strength `|u[z]|`, and each context on a side by v. A single axis is often
not readable; the orthants of several are.

In a trained model each predicted concept has a strength and an alignment of its axis. A model's
embeddings are known up to a rotation of their D dimensions; the rotation that brings the predicted
ones nearest puts the k-th concept on an axis of the model.

Axes: V tokens, M contexts, K concepts, N tokens or contexts, D width of a model.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

from tightframe.ntp.support import NULL, signed

NO_SIDE = 1e-10  # an entry below it is on neither side


@runtime_checkable
class LowRankLogits(Protocol):
    """Logits as `classifier @ embeddings.T`: a `Prediction`, a checkpoint, a model's embeddings."""

    @property
    def classifier(self) -> Float[np.ndarray, "V D"]:
        """Classifier, one row per token."""
        ...

    @property
    def embeddings(self) -> Float[np.ndarray, "M D"]:
        """Embeddings, one row per context."""
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
        """Number K of concepts."""
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
        typicality: Sum of each member's strengths on the chosen concepts.
    """

    signs: tuple[int, ...]
    members: Int64[np.ndarray, " N"]
    typicality: Float[np.ndarray, " N"]


def concepts(logits: Float[np.ndarray, "V M"] | LowRankLogits, n: int = 10) -> Concepts:
    """Return the n leading concepts of logits, which are centred over tokens first.

    Args:
        logits: Dense logits (the centred support, a solution, trained ones), or any object with
            a `classifier` (V, D) and `embeddings` (M, D), whose product is never made.
        n: Maximum number of concepts; the rank of the centred logits may be lower.

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
    return Concepts(*signed(u[:, :kept], s[:kept], v[:, :kept]))


def sides(
    vector: Float[np.ndarray, " N"], n: int | None = None
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " Q"]]:
    """Return the rows on the positive and on the negative side of a concept, strongest first.

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
    """Cluster tokens or contexts by their sides on each chosen concept, largest cluster first.

    There are at most 2^|chosen| clusters. A row that is on neither side of some chosen concept is
    in no cluster.

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
    """Return the number of each row's cluster; -1 where it is in none."""
    labels = np.full(n_rows, -1, dtype=np.int64)
    for number, cluster in enumerate(clusters):
        labels[cluster.members] = number
    return labels


def spectral_clusters(
    embeddings: Float[np.ndarray, "N K"], n_clusters: int, *, seed: int = 0
) -> Int64[np.ndarray, " N"]:
    """Cluster rows of `Concepts.classifier` or `.embeddings` by k-means, best of ten starts.

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
    """Return the thin SVD of the product, by QR of its factors: O((V + M) D^2)."""
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


def _check_finite(matrix: Float[np.ndarray, "N K"], name: str) -> None:
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"{name}: {matrix[row, column]} in row {row}, column {column}")


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """Concepts on the axes of a model.

    Attributes:
        axes: Orthonormal columns: where the concepts lie in the model's dimensions.
        tokens: The model's classifier, centred over tokens, projected on the axes.
        contexts: The model's embeddings, projected on the axes.
        strengths: u' L v / s: what the model's logits have of each concept, over its singular
            value; 1 for the predicted logits themselves, growing with their norm.
        token_cosines: Between `tokens[:, k]` and u, in [-1, 1]; 1 is perfect.
        context_cosines: Between `contexts[:, k]` and v, in [-1, 1]; 1 is perfect.
    """

    axes: Float[np.ndarray, "D K"]
    tokens: Float[np.ndarray, "V K"]
    contexts: Float[np.ndarray, "M K"]
    strengths: Float[np.ndarray, " K"]
    token_cosines: Float[np.ndarray, " K"]
    context_cosines: Float[np.ndarray, " K"]

    def to_dict(self) -> dict[str, Any]:
        """Return strength and cosines of each concept as plain values."""
        names = ("strengths", "token_cosines", "context_cosines")
        return {name: getattr(self, name).tolist() for name in names}


def concept_strengths(
    concepts: Concepts,
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M E"],
) -> Float[np.ndarray, " K"]:
    """Return u' L v / s of each concept in logits L = classifier @ embeddings.T, never formed."""
    _check(concepts, classifier, embeddings)
    left, right = concepts.tokens.T @ classifier, concepts.contexts.T @ embeddings  # (K, D)
    strengths: Float[np.ndarray, " K"] = (left * right).sum(axis=1) / concepts.singular_values
    return strengths


def align(
    concepts: Concepts,
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M E"],
) -> Alignment:
    r"""Return the concepts in a model, after the best orthogonal alignment (Procrustes).

    The axes R minimise :math:`\lVert W/\lVert W\rVert - a\,U\Sigma^{1/2}R^T\rVert^2 +
    \lVert H/\lVert H\rVert - a\,V\Sigma^{1/2}R^T\rVert^2` for any a > 0, with W centred over
    tokens: a vector added to all of its rows changes no prediction. The two are scaled apart,
    since optimizers leave them at different norms.

    Raises:
        ValueError: Shapes that don't fit, or fewer dimensions than concepts.
    """
    _check(concepts, classifier, embeddings)
    width = classifier.shape[1]
    if width < concepts.n:
        raise ValueError(
            f"classifier: {width} dimensions (axis 1) can't hold {concepts.n} concepts on axes "
            f"of their own; take at most {width}"
        )
    centred = classifier - classifier.mean(axis=0)
    both = centred.T @ concepts.classifier / np.linalg.norm(centred)
    both = both + embeddings.T @ concepts.embeddings / np.linalg.norm(embeddings)  # (D, K)
    u, _, vt = np.linalg.svd(both, full_matrices=False)
    axes = u @ vt
    tokens, contexts = centred @ axes, embeddings @ axes
    return Alignment(
        axes,
        tokens,
        contexts,
        concept_strengths(concepts, classifier, embeddings),
        _cosines(tokens, concepts.tokens),
        _cosines(contexts, concepts.contexts),
    )


def _cosines(
    left: Float[np.ndarray, "N K"], right: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, " K"]:
    """Return the cosines of a model's projections (left) with unit vectors, column by column.

    NaN where the model has nothing: below 1e-12 of its strongest, rounding alone.
    """
    norms = np.linalg.norm(left, axis=0)
    there = norms > 1e-12 * norms.max(initial=0.0)
    dots = (left * right).sum(axis=0)
    cosines: Float[np.ndarray, " K"] = np.full(len(norms), np.nan)
    cosines[there] = dots[there] / norms[there]
    return cosines


def _check(
    concepts: Concepts,
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M E"],
) -> None:
    wanted = (
        ("classifier", classifier, len(concepts.tokens), "tokens"),
        ("embeddings", embeddings, len(concepts.contexts), "contexts"),
    )
    for name, matrix, rows, what in wanted:
        if len(matrix) != rows:
            raise ValueError(f"{name}: {len(matrix)} rows (axis 0), expected one of {rows} {what}")
    if classifier.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"embeddings: width {embeddings.shape[1]} (axis 1), expected the classifier's, "
            f"{classifier.shape[1]}"
        )
