"""In which order concepts are learned: those of larger singular values first.

In closed form for a surrogate, factors that fit the centred support by squared loss; and read off
the checkpoints of any model.

Axes: V tokens, M contexts, K concepts, T times or checkpoints.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from scipy.stats import spearmanr

from tightframe.ntp.concept_axes import Concepts
from tightframe.ntp.concept_strength import concept_strengths

STEP = 0.05  # of the simulation, over 1 / largest singular value


@dataclasses.dataclass(frozen=True, eq=False)
class LearningOrder:
    """When each concept was learned.

    Attributes:
        times: Of the checkpoints: steps, or time of a flow.
        singular_values: Of the concepts.
        strengths: u' L_t v / s at each checkpoint.
        half_times: When each reached half of its final value, by linear interpolation between
            checkpoints; the first time if it was there already, NaN if it ends at 0 or below.
        spearman: Rank correlation of singular values with half times, in [-1, 1]; -1 if larger
            ones are learned first. NaN with fewer than two concepts, or without order in one.
        n: How many concepts it is of; those without a half time are left out.
    """

    times: Float[np.ndarray, " T"]
    singular_values: Float[np.ndarray, " K"]
    strengths: Float[np.ndarray, "T K"]
    half_times: Float[np.ndarray, " K"]
    spearman: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """As lists and numbers."""
        fields = dataclasses.fields(self)
        values = {field.name: getattr(self, field.name) for field in fields}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def learned_share(
    singular_values: Float[np.ndarray, " K"], times: Real[np.ndarray, " T"], *, delta: float
) -> Float[np.ndarray, "T K"]:
    r"""The share of each concept that the surrogate has learned, in (0, 1).

    .. math:: a_k(t) = \frac{1}{1 + (s_k e^{2\delta} - 1)\,e^{-2 s_k t}}

    Gradient flow on :math:`\lVert W H^T - \tilde S\rVert^2/2` from :math:`W = e^{-\delta} U`,
    :math:`H = e^{-\delta} V`: what each concept has, :math:`x = s_k a_k`, follows
    :math:`x' = 2x(s_k - x)`.
    """
    s = singular_values
    shares: Float[np.ndarray, "T K"] = 1 / (
        1 + (s * np.exp(2 * delta) - 1) * np.exp(-2 * np.outer(times, s))
    )
    return shares


def learning_times(
    singular_values: Float[np.ndarray, " K"], *, delta: float
) -> Float[np.ndarray, " K"]:
    r"""When the surrogate has learned half of each concept: :math:`\ln(s e^{2\delta} - 1)/(2s)`.

    Falls with s where s e^(2 delta) > 4.6; about delta / s from a small start.

    Raises:
        ValueError: delta so small that more than half of a concept is there at the start.
    """
    start = singular_values * np.exp(2 * delta)
    wrong = np.flatnonzero(~(start > 2))
    if len(wrong):
        least = np.log(2 / singular_values[wrong[0]]) / 2
        raise ValueError(
            f"delta: {delta} starts with half of concept {wrong[0]} or more; expected above "
            f"{least:.4g}"
        )
    times: Float[np.ndarray, " K"] = np.log(start - 1) / (2 * singular_values)
    return times


def simulate_surrogate(
    concepts: Concepts, times: Real[np.ndarray, " T"], *, delta: float
) -> list[tuple[Float[np.ndarray, "V K"], Float[np.ndarray, "M K"]]]:
    """Classifier and embeddings at each time of the gradient flow, by fourth-order Runge-Kutta.

    The whole matrices are followed, not the concepts' own equations.

    Args:
        concepts: Of the centred support; the part that they leave out is left out of the target.
        times: Ascending, from 0 or later.
        delta: The start is e^(-delta) times the singular vectors.
    """
    if len(times) == 0 or times[0] < 0 or (np.diff(times) < 0).any():
        raise ValueError("times: expected ascending times from 0 on")
    target = (concepts.tokens * concepts.singular_values) @ concepts.contexts.T  # (V, M)
    state = np.exp(-delta) * np.concatenate([concepts.tokens, concepts.contexts])  # (V + M, K)
    n_tokens, longest, now, kept = len(concepts.tokens), STEP / concepts.singular_values[0], 0.0, []

    def velocity(at: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
        left, right = at[:n_tokens], at[n_tokens:]
        missing = target - left @ right.T
        return np.concatenate([missing @ right, missing.T @ left])

    for time in times:
        n_steps = int(np.ceil((time - now) / longest))
        step = (time - now) / max(1, n_steps)
        for _ in range(n_steps):
            first = velocity(state)
            second = velocity(state + step / 2 * first)
            third = velocity(state + step / 2 * second)
            fourth = velocity(state + step * third)
            state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
        now = float(time)
        kept.append((state[:n_tokens].copy(), state[n_tokens:].copy()))
    return kept


def learning_order(
    concepts: Concepts,
    times: Sequence[float | int] | Real[np.ndarray, " T"],
    checkpoints: Sequence[tuple[Float[np.ndarray, "V D"], Float[np.ndarray, "M D"]]],
) -> LearningOrder:
    """When each concept was learned, from the classifier and embeddings of checkpoints.

    Args:
        concepts: Predicted ones, the same for all checkpoints.
        times: Of the checkpoints, ascending; steps, say.
        checkpoints: Classifier (V, D) and embeddings (M, D) of each.
    """
    at = np.asarray(times, dtype=np.float64)
    if len(at) != len(checkpoints) or len(at) < 2 or (np.diff(at) <= 0).any():
        raise ValueError(
            f"times: expected two or more, ascending, one for each of {len(checkpoints)} "
            f"checkpoints, got {len(at)}"
        )
    strengths = np.stack([concept_strengths(concepts, *pair) for pair in checkpoints])
    return order_of(concepts.singular_values, at, strengths)


def order_of(
    singular_values: Float[np.ndarray, " K"],
    times: Float[np.ndarray, " T"],
    strengths: Float[np.ndarray, "T K"],
) -> LearningOrder:
    """The same from the strengths of concepts at ascending times."""
    rounding = 1e-12 * np.abs(strengths).max(initial=0)
    halves = np.array([_half_time(times, course, rounding) for course in strengths.T])
    known = np.isfinite(halves)
    s, t = singular_values[known], halves[known]
    ordered = len(s) > 1 and np.ptp(s) > 0 and np.ptp(t) > 0
    correlation = float(spearmanr(s, t).statistic) if ordered else float("nan")
    return LearningOrder(times, singular_values, strengths, halves, correlation, int(known.sum()))


def _half_time(
    times: Float[np.ndarray, " T"], course: Float[np.ndarray, " T"], rounding: float
) -> float:
    """When a course first reaches half of its last value, if that is more than rounding."""
    half = course[-1] / 2
    if not half > rounding:
        return float("nan")
    after = int(np.argmax(course >= half))
    if after == 0:
        return float(times[0])
    share = (half - course[after - 1]) / (course[after] - course[after - 1])
    return float(times[after - 1] + share * (times[after] - times[after - 1]))
