"""What training on new facts does to the geometry of others: how far embeddings move.

Axes: N points (questions, or class means), D and E embeddings before and after, F facts.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from studies.recall_geometry.embeddings import FactEmbeddings
from tightframe.geometry.moments import ClassMoments
from tightframe.knowledge.intervals import PERCENT, Difference, differences, estimates

CHANGES = {  # of a fact: column -> what is averaged over facts
    "recalled": "facts recalled, %",
    "seen": "facts recalled in their own sentence, %",
    "log_probability": "log-probability of the answer, nats",
    "ln_cdnv_mean": "ln CDNV with other facts",
    "ln_rank": "ln nearest-mean rank of the question",
    "nearest": "questions nearest to their own mean, %",
}


class Shift(NamedTuple):
    """How far points have moved, in units of their spread; NaN where all points are one."""

    cka: float  # linear, centred, in [0, 1]; 1 where only rotated, shifted and scaled
    displacement: float  # root mean squared, coordinates as they are; 0 where nothing has moved
    aligned: float  # the same after the best rotation, reflection and translation

    @classmethod
    def undefined(cls) -> "Shift":
        """Where there is no spread to compare with."""
        return cls(np.nan, np.nan, np.nan)


def geometry_shift(before: Float[np.ndarray, "N D"], after: Float[np.ndarray, "N E"]) -> Shift:
    r"""How far the same N points lie apart in two models, or in one before and after training.

    With centred X and Y, of the points before and after,

    .. math::
        \mathrm{CKA} = \frac{\lVert X^\top Y\rVert_F^2}
        {\lVert X^\top X\rVert_F \lVert Y^\top Y\rVert_F}, \quad
        \mathrm{aligned}^2 = \frac
        {\lVert X\rVert_F^2 + \lVert Y\rVert_F^2 - 2 \lVert X^\top Y\rVert_*}
        {\lVert X\rVert_F^2}

    CKA and `aligned` don't see rotations and translations of either side, CKA no scale either.
    With few points in many dimensions both flatter: compare them with a control of as many.

    Args:
        before: What is moved; its root mean squared distance to its mean is the unit.
        after: The same points; of another width, `displacement` is NaN.

    Source: Kornblith et al. 2019, arXiv:1905.00414 (CKA); Schönemann 1966 (Procrustes).
    """
    x, y = before - before.mean(0), after - after.mean(0)
    spread, other = float((x * x).sum()), float((y * y).sum())
    if spread == 0 or other == 0:
        return Shift.undefined()
    cross = x.T @ y  # (D, E)
    gram = float(np.linalg.norm(x @ x.T) * np.linalg.norm(y @ y.T))
    nuclear = float(np.linalg.norm(cross, ord="nuc"))
    moved = np.nan
    if before.shape == after.shape:
        moved = float(np.sqrt(((after - before) ** 2).sum() / spread))
    return Shift(
        cka=float((cross * cross).sum()) / gram,
        displacement=moved,
        aligned=float(np.sqrt(max(0.0, spread + other - 2 * nuclear) / spread)),
    )


def shifts(before: FactEmbeddings, after: FactEmbeddings) -> dict[str, Shift]:
    """How far questions and class means of the facts that both have moved."""
    common = [one for one in before.fact_ids if one in set(after.fact_ids)]
    ours = [before.fact_ids.index(one) for one in common]
    theirs = [after.fact_ids.index(one) for one in common]
    return {
        "questions": geometry_shift(
            before.questions.numpy()[ours], after.questions.numpy()[theirs]
        ),
        "class means": geometry_shift(_means(before)[ours], _means(after)[theirs]),
    }


def half_split(facts: FactEmbeddings) -> Shift:
    """What is noise in class means: those of every second variant against those of the others."""
    order = np.arange(len(facts.labels))
    halves = [_means(facts, order[start::2]) for start in (0, 1)]
    return geometry_shift(*halves)


def changes(before: pd.DataFrame, after: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What became of the facts that were not trained on again.

    Args:
        before: A line a fact: fact_id and the columns of `CHANGES`.
        after: The same facts, of the model that was trained on others since.
        seed: Of the resamples.

    Returns:
        A line a column: quantity, before, after, each with its 95 % interval over facts; change
        with its interval; p of the sign test; n, facts with both numbers.
    """
    joined = before.merge(after, on="fact_id", suffixes=("_before", "_after"))
    lines = []
    for column, quantity in CHANGES.items():
        both = joined[[f"{column}_before", f"{column}_after"]].to_numpy(float)
        both = both[np.isfinite(both).all(1)]
        facts = np.arange(len(both))
        bounds = [PERCENT if quantity.endswith("%") else None]
        levels = [estimates(both[:, [i]], facts, bounds, seed=seed)[0] for i in (0, 1)]
        line: dict[str, object] = {"quantity": quantity}
        for name, level in zip(("before", "after"), levels, strict=True):
            line |= {name: level.value, f"{name}_low": level.low, f"{name}_high": level.high}
        change = differences(both[:, [1]], both[:, [0]], facts, bounds, seed=seed)[0]
        lines.append(line | _change(change))
    return pd.DataFrame(lines)


def shift_rows(found: Mapping[str, Mapping[str, Shift]]) -> pd.DataFrame:
    """A line a comparison and set of points: compared, points, cka, displacement, aligned."""
    return pd.DataFrame(
        [
            {"compared": compared, "points": points, **shift._asdict()}
            for compared, sets in found.items()
            for points, shift in sets.items()
        ]
    )


def _means(facts: FactEmbeddings, rows: np.ndarray | None = None) -> Float[np.ndarray, "F D"]:
    moments = ClassMoments(len(facts.fact_ids), facts.variants.shape[1])
    chosen = slice(None) if rows is None else rows
    moments.update(facts.variants[chosen], facts.labels[chosen])
    means: Float[np.ndarray, "F D"] = moments.means.numpy()
    return means


def _change(change: Difference) -> dict[str, float]:
    estimate = change.estimate
    return {
        "change": estimate.value,
        "change_low": estimate.low,
        "change_high": estimate.high,
        "p": change.signs.p,
        "n": estimate.n,
    }
