"""Learning of concepts in the square-loss surrogate: closed forms, and the flow step by step."""

import numpy as np
from jaxtyping import Float, Real

from tightframe.ntp.concepts import Concepts

STEP = 0.05  # longest step of the simulation, in units of 1 / the largest singular value


def learned_share(
    singular_values: Float[np.ndarray, " K"], times: Real[np.ndarray, " T"], *, delta: float
) -> Float[np.ndarray, "T K"]:
    r"""Return the share of each concept that the surrogate has learned, in (0, 1).

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
    r"""Return times when half of each concept is learned, :math:`\ln(s e^{2\delta} - 1)/(2s)`.

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
    """Return classifier and embeddings at times of the gradient flow, by Runge-Kutta of order 4.

    The whole matrices are followed, not the concepts' own equations.

    Args:
        concepts: Concepts of the centred support; the target is their part of it.
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
