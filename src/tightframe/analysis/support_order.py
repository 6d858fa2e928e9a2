"""An order of words and contexts that puts those of like support beside each other.

Axes: V tokens, M distinct contexts.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage


class SupportOrder(NamedTuple):
    """Permutations that cluster the rows and columns of a support matrix."""

    words: Int[np.ndarray, " V"]
    contexts: Int[np.ndarray, " M"]


def support_order(support: Bool[np.ndarray, "V M"]) -> SupportOrder:
    """The leaves of a hierarchical clustering, average linkage, of the centred support matrix.

    The distance of two contexts is one minus the cosine of their centred columns, so that equal
    supports stand together; words by their rows. A word that nothing or all precede, whose row has
    no direction, comes last.
    """
    centred = support - support.mean(axis=0)
    return SupportOrder(_leaves(centred), _leaves(centred.T))


def _leaves(vectors: Float[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
    norms = np.linalg.norm(vectors, axis=1)
    directed = np.flatnonzero(norms > 1e-12)
    others = np.flatnonzero(norms <= 1e-12)
    if len(directed) < 3:
        return np.concatenate([directed, others])
    unit = vectors[directed] / norms[directed, None]
    distances = np.maximum(1 - unit @ unit.T, 0)  # (N, N)
    pairs = distances[np.triu_indices(len(unit), k=1)]
    leaves = leaves_list(linkage(pairs, method="average", optimal_ordering=True))
    return np.concatenate([directed[leaves], others])
