"""Gram matrices compared by their factors: no N x N matrix, however many rows there are.

The Gram of `a` (N, A) is a a^T; everything that is asked of two Grams is in products of the thin
factors, since <a a^T, b b^T> = ||a^T b||^2.

Axes: N rows (tokens or contexts), A and B dimensions of the two.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float


class GramMoments(NamedTuple):
    """Means, variances and covariance of the entries of two Grams; population, over all N * N."""

    mean_a: float
    mean_b: float
    variance_a: float
    variance_b: float
    covariance: float


def gram_inner(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> float:
    """<a a^T, b b^T>, exactly, from factors."""
    _same_rows(a, b)
    return float(np.square(a.T @ b).sum())


def gram_norm(a: Float[np.ndarray, "N A"]) -> float:
    """||a a^T||, the Frobenius norm."""
    return float(np.linalg.norm(a.T @ a))


def gram_cosine(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> float:
    """Cosine of two Grams, in [0, 1]; 1 where one is a multiple of the other.

    NaN where one of them is 0. Neither rotation nor scale of a factor changes it.
    """
    norms = gram_norm(a) * gram_norm(b)
    inner = gram_inner(a, b)
    return inner / norms if norms > 0 else float("nan")


def gram_distance(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> float:
    """|| a a^T/||a a^T|| - b b^T/||b b^T|| ||, in [0, sqrt(2)]; 0 where one is a multiple.

    From a triangular factor of both, so that it has its digits where the two are nearly equal:
    sqrt(2 - 2 cosine) would lose them below 1e-8.
    """
    _same_rows(a, b)
    norms = gram_norm(a), gram_norm(b)
    if min(norms) == 0:
        return float("nan")
    both = np.concatenate([a / np.sqrt(norms[0]), b / np.sqrt(norms[1])], axis=1)
    triangle = scipy.linalg.qr(both, mode="r")[0][: both.shape[1]]  # below that it is 0
    signs = np.repeat([1.0, -1.0], [a.shape[1], b.shape[1]])
    return float(np.linalg.norm((triangle * signs) @ triangle.T))


def gram_moments(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> GramMoments:
    """What structural similarity is made of, over all entries of both Grams as they are."""
    inner = gram_inner(a, b)
    entries = len(a) ** 2
    mean_a = float(np.square(a.sum(axis=0)).sum()) / entries
    mean_b = float(np.square(b.sum(axis=0)).sum()) / entries
    return GramMoments(
        mean_a,
        mean_b,
        gram_norm(a) ** 2 / entries - mean_a**2,
        gram_norm(b) ** 2 / entries - mean_b**2,
        inner / entries - mean_a * mean_b,
    )


def _same_rows(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> None:
    if len(a) != len(b):
        raise ValueError(f"b: {len(b)} rows (axis 0), expected {len(a)} as in a")
