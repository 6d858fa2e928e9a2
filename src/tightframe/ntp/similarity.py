"""Similarity of two Gram matrices or matrices of cosines without forming either, and analogies.

A sum over the N^2 entries of two Gram matrices is a product of their thin factors, because
<a a^T, b b^T> = ||a^T b||^2 for factors a (N, A) and b (N, B): exact at any N, where blocks or
sampled pairs would be slow or inexact.

Axes: N or M rows (tokens or contexts), A and D columns of one matrix, B and E of the other, V
tokens, Q quadruples.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int, Int64
from scipy.stats import spearmanr

STABILIZER = 1e-5  # C of the structural similarity


def cosine(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    """Return <A, B> / (|A| |B|) over all entries, in [-1, 1]; NaN if one of them is 0."""
    _check_same_shape(a, b)
    return quotient(float(np.vdot(a, b)), float(np.vdot(a, a)), float(np.vdot(b, b)))


def distance(cosine: float) -> float:
    """Return || A/|A| - B/|B| || of two matrices with this cosine: 0 if parallel, 2 if opposite.

    Rounding of the cosine hides distances below about 1e-8.
    """
    return math.sqrt(max(0.0, 2 - 2 * cosine)) if cosine == cosine else math.nan


def quotient(product: float, first: float, second: float) -> float:
    """Return the cosine from <A, B>, |A|^2 and |B|^2; NaN if one of these is 0."""
    if first <= 0 or second <= 0:
        return math.nan
    return max(-1.0, min(1.0, product / (math.sqrt(first) * math.sqrt(second))))


def structural_similarity(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    r"""Return the third factor of SSIM over all entries of two matrices; nearly Pearson's r.

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
    """Return `structural_similarity` of A A^T and B B^T over all entries, without forming them."""
    moments = gram_moments(a, b)
    return _structural(
        moments.covariance, max(0.0, moments.variance_a), max(0.0, moments.variance_b)
    )


def unit_rows(
    rows: Float[np.ndarray, "M D"], *, rounding: float = 0.0
) -> tuple[Float[np.ndarray, "M D"], Bool[np.ndarray, " M"]]:
    """Return rows over their norms, and which rows are not zero; the others stay 0.

    Args:
        rows: Vectors, one per row.
        rounding: Rows of at most this share of the largest norm count as zero.
    """
    norms = np.linalg.norm(rows, axis=1)
    directed = norms > rounding * norms.max(initial=0.0)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=directed)
    return rows * scale[:, None], directed


def cosines_of_rows(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """Return the cosines of every two rows, in [-1, 1]; 0 where one of them is 0."""
    directions, _ = unit_rows(rows)
    cosines: Float[np.ndarray, "N N"] = directions @ directions.T
    return cosines


def _structural(covariance: float, first: float, second: float) -> float:
    return (covariance + STABILIZER) / (math.sqrt(first) * math.sqrt(second) + STABILIZER)


def _check_same_shape(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"expected two matrices of one shape, got {a.shape} and {b.shape}")


class GramMoments(NamedTuple):
    """Means, variances and covariance of the entries of two Grams; population, over all N * N."""

    mean_a: float
    mean_b: float
    variance_a: float
    variance_b: float
    covariance: float


def gram_inner(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> float:
    """Return <a a^T, b b^T>, exactly, from factors."""
    _same_rows(a, b)
    return float(np.square(a.T @ b).sum())


def gram_norm(a: Float[np.ndarray, "N A"]) -> float:
    """Return the Frobenius norm ||a a^T||."""
    return float(np.linalg.norm(a.T @ a))


def gram_cosine(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> float:
    """Return the cosine of two Gram matrices, in [0, 1]; 1 where one is a multiple of the other.

    NaN where one of them is 0. Neither rotation nor scale of a factor changes it.
    """
    norms = gram_norm(a) * gram_norm(b)
    inner = gram_inner(a, b)
    return inner / norms if norms > 0 else float("nan")


def gram_distance(a: Float[np.ndarray, "N A"], b: Float[np.ndarray, "_ B"]) -> float:
    """Return || a a^T/||a a^T|| - b b^T/||b b^T|| ||, in [0, sqrt(2)]; 0 where one is a multiple.

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
    """Return means, variances and covariance of all entries of two Gram matrices."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class Analogies:
    """Scores of the given quadruples beside those of random ones. Each mean leaves out NaN.

    Attributes:
        predicted, trained: A score a quadruple, in [-1, 1]; NaN if a pair has equal embeddings.
        random_predicted, random_trained: Scores of random quadruples, the baseline.
        spearman: Rank correlation of predicted and trained scores; NaN if undefined.
        random_spearman: Rank correlation over the random quadruples.
    """

    predicted: Float[np.ndarray, " Q"]
    trained: Float[np.ndarray, " Q"]
    random_predicted: Float[np.ndarray, " N"]
    random_trained: Float[np.ndarray, " N"]
    spearman: float
    random_spearman: float

    def to_dict(self) -> dict[str, Any]:
        """Return mean scores with how many were averaged, and the rank correlations."""
        found: dict[str, Any] = {
            "spearman": self.spearman,
            "random_spearman": self.random_spearman,
        }
        for name in ("predicted", "trained", "random_predicted", "random_trained"):
            scores = getattr(self, name)
            known = scores[np.isfinite(scores)]
            found[name] = float(known.mean()) if len(known) else float("nan")
            found[f"n_{name}"] = len(known)
        return found


def analogy_scores(
    classifier: Float[np.ndarray, "V D"], quadruples: Int[np.ndarray, "Q 4"]
) -> Float[np.ndarray, " Q"]:
    """Return cos(w_a - w_b, w_c - w_d) of each quadruple (a, b, c, d), in [-1, 1]; 1 is perfect.

    NaN where a and b, or c and d, have one embedding.
    """
    _check(quadruples, len(classifier), "quadruples")
    a, b, c, d = (classifier[column] for column in quadruples.T)  # (Q, D) each
    first, second = a - b, c - d
    sizes = [np.linalg.norm(row, axis=1) for row in (a, b, c, d)]
    norms = [np.linalg.norm(row, axis=1) for row in (first, second)]
    # A difference that is rounding of the rows has no direction.
    apart = (norms[0] > 1e-9 * np.maximum(*sizes[:2])) & (norms[1] > 1e-9 * np.maximum(*sizes[2:]))
    dots = (first * second).sum(axis=1)
    scores: Float[np.ndarray, " Q"] = np.full(len(dots), np.nan)
    scores[apart] = dots[apart] / (norms[0] * norms[1])[apart]
    return scores


def random_quadruples(n: int, vocab_size: int, *, seed: int = 0) -> Int64[np.ndarray, "n 4"]:
    """Return random quadruples of four different tokens."""
    if vocab_size < 4:
        raise ValueError(f"vocab_size: expected 4 tokens or more, got {vocab_size}")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(vocab_size, size=4, replace=False) for _ in range(n)]
    return np.array(drawn, dtype=np.int64).reshape(n, 4)


def analogies(
    predicted: Float[np.ndarray, "V D"],
    trained: Float[np.ndarray, "N E"],
    quadruples: Int[np.ndarray, "Q 4"],
    *,
    n_random: int = 1000,
    seed: int = 0,
) -> Analogies:
    """Compare scores from the predicted classifier with those of the trained one, and a baseline.

    Args:
        predicted: A prediction's classifier; one row per token.
        trained: A model's, the same tokens in the same order.
        quadruples: Rows (a, b, c, d): a is to b as c is to d.
        n_random: Quadruples of the baseline.
        seed: Seed of their draw.
    """
    if len(predicted) != len(trained):
        raise ValueError(f"trained: {len(trained)} rows (axis 0), expected {len(predicted)}")
    baseline = random_quadruples(n_random, len(predicted), seed=seed)
    given = analogy_scores(predicted, quadruples), analogy_scores(trained, quadruples)
    drawn = analogy_scores(predicted, baseline), analogy_scores(trained, baseline)
    return Analogies(*given, *drawn, _spearman(*given), _spearman(*drawn))


def _spearman(left: Float[np.ndarray, " Q"], right: Float[np.ndarray, " Q"]) -> float:
    known = np.isfinite(left) & np.isfinite(right)
    left, right = left[known], right[known]
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(spearmanr(left, right).statistic)


def _check(quadruples: Int[np.ndarray, "Q 4"], vocab_size: int, name: str) -> None:
    wrong = np.argwhere((quadruples < 0) | (quadruples >= vocab_size))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{name}: {quadruples[row, column]} in row {row}, expected a token in [0, {vocab_size})"
        )
