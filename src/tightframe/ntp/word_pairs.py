"""Analogies: whether differences of word embeddings are parallel, as predicted and as trained.

Axes: V tokens, D and E widths, Q quadruples.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64
from scipy.stats import spearmanr


@dataclasses.dataclass(frozen=True, eq=False)
class Analogies:
    """Scores of the given quadruples beside those of random ones. Each mean leaves out NaN.

    Attributes:
        predicted, trained: A score a quadruple, in [-1, 1]; NaN if a pair has equal embeddings.
        random_predicted, random_trained: Scores of random quadruples, the baseline.
        spearman: Of predicted with trained scores over the given quadruples; NaN if undefined.
        random_spearman: The same over the random ones.
    """

    predicted: Float[np.ndarray, " Q"]
    trained: Float[np.ndarray, " Q"]
    random_predicted: Float[np.ndarray, " N"]
    random_trained: Float[np.ndarray, " N"]
    spearman: float
    random_spearman: float

    def to_dict(self) -> dict[str, Any]:
        """Mean scores with how many were averaged, and the rank correlations."""
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
    """cos(w_a - w_b, w_c - w_d) of each quadruple (a, b, c, d), in [-1, 1]; 1: a perfect analogy.

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
    """Quadruples of four different tokens."""
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
    """Scores from the predicted classifier against those of the trained one, and a baseline.

    Args:
        predicted: A prediction's classifier; a row a token.
        trained: A model's, the same tokens in the same order.
        quadruples: Rows (a, b, c, d): a is to b as c is to d.
        n_random: Quadruples of the baseline.
        seed: Of their draw.
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
