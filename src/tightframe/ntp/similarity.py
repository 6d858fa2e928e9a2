"""How alike two matrices are, or two matrices of cosines, which are never formed.

What is compared of Gram matrices with M^2 entries are sums over them, and those are had from their
factors (`grams`): exactly, at any M, where blocks or sampled pairs would be slow or inexact.

Axes: M rows (tokens or contexts), D and E columns.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from tightframe.ntp.grams import gram_moments

STABILIZER = 1e-5  # C of the structural similarity


def cosine(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    """<A, B> / (|A| |B|) over all entries, in [-1, 1]; NaN if one of them is 0."""
    _check_same_shape(a, b)
    return quotient(float(np.vdot(a, b)), float(np.vdot(a, a)), float(np.vdot(b, b)))


def distance(cosine: float) -> float:
    """|| A/|A| - B/|B| || of two matrices with this cosine: 0 if parallel, 2 if opposite.

    Rounding of the cosine hides distances below about 1e-8.
    """
    return math.sqrt(max(0.0, 2 - 2 * cosine)) if cosine == cosine else math.nan


def quotient(product: float, first: float, second: float) -> float:
    """The cosine from <A, B>, |A|^2 and |B|^2; NaN if one of these is 0."""
    if first <= 0 or second <= 0:
        return math.nan
    return max(-1.0, min(1.0, product / (math.sqrt(first) * math.sqrt(second))))


def structural_similarity(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    r"""The third factor of SSIM over all entries of two matrices; nearly Pearson's r.

    .. math:: \frac{\mathrm{cov}(a, b) + C}{\mathrm{std}(a)\,\mathrm{std}(b) + C}, C = 10^{-5}

    with population moments (ddof 0).

    Returns:
        In about [-1, 1]: 1 of a matrix with itself. It depends on the scale of the entries where
        their standard deviation is not far above sqrt(C), so compare cosine matrices.

    Source: Zhao et al. 2024, arXiv:2408.15417; Wang et al. 2004 (SSIM).
    """
    _check_same_shape(a, b)
    x, y = a - a.mean(), b - b.mean()
    return _structural(float((x * y).mean()), float((x * x).mean()), float((y * y).mean()))


def gram_structural_similarity(a: Float[np.ndarray, "M D"], b: Float[np.ndarray, "M E"]) -> float:
    """`structural_similarity` of A A^T and B B^T over all M^2 entries, none of them formed."""
    moments = gram_moments(a, b)
    return _structural(
        moments.covariance, max(0.0, moments.variance_a), max(0.0, moments.variance_b)
    )


def unit_rows(
    rows: Float[np.ndarray, "M D"], *, rounding: float = 0.0
) -> tuple[Float[np.ndarray, "M D"], Bool[np.ndarray, " M"]]:
    """Rows over their norms, and which rows have one; the others stay 0.

    Args:
        rows: Any.
        rounding: What is at most this share of the largest norm has no direction.
    """
    norms = np.linalg.norm(rows, axis=1)
    directed = norms > rounding * norms.max(initial=0.0)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=directed)
    return rows * scale[:, None], directed


def cosines_of_rows(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """Of every two rows, in [-1, 1]; 0 where one of them is 0."""
    directions, _ = unit_rows(rows)
    cosines: Float[np.ndarray, "N N"] = directions @ directions.T
    return cosines


def _structural(covariance: float, first: float, second: float) -> float:
    return (covariance + STABILIZER) / (math.sqrt(first) * math.sqrt(second) + STABILIZER)


def _check_same_shape(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"expected two matrices of one shape, got {a.shape} and {b.shape}")
