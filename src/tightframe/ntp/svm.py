r"""Logits of smallest nuclear norm that separate every support: where training leads, certified.

.. math::
    L_{mm} = \arg\min \lVert L \rVert_* \quad\text{subject to, in every column,}\quad
    L_{z} = L_{z'} \text{ in the support},\; L_z - L_v \ge 1 \text{ off it.}

Solved on distinct rows and columns, with multiplicities (`support.py`), by an accelerated ADMM
(`admm.py`) with an exact projection. It ends when both bounds, recomputed from the answer in
float64 (`certificate.py`), are near enough, and for no other reason.

Axes: V tokens, M contexts; R, C distinct ones. Source: arXiv 2408.15417.
"""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Real, Shaped

from tightframe.lm.hardware import device_named, free_memory
from tightframe.ntp import certificate
from tightframe.ntp.admm import BLOCK, HISTORY, Splitting, product
from tightframe.ntp.certificate import Constraints
from tightframe.ntp.options import SolveOptions
from tightframe.ntp.solution import RANK, Solution
from tightframe.ntp.support import DistinctSupport, group
from tightframe.progress import tell

DENSE = 0.5  # density of a support matrix that says little
EXACT = 1e-6  # below this gap the bounds of a Gram matrix are too coarse to stop by
CHECK = 5  # steps between checks, until two of them tell how fast the gap falls
LARGE = 1 << 18  # entries from which the first steps are float32
BUFFERS = 3 << 24  # bytes that the libraries of linear algebra keep for themselves
STALLED = 0.5  # share of the last gap: float32 steps that gain less are the last


def solve_svm(
    support: Shaped[np.ndarray, "V M"],
    gap: float = 1e-4,
    *,
    weights: Real[np.ndarray, " n"] | None = None,
    merge: bool = True,
    vocab_size: int | None = None,
    memory: int | None = None,
    **options: Any,
) -> Solution:
    """Solve for L_mm, with both bounds of the optimum recomputed from the answer.

    Args:
        support: S, boolean or 0/1; tokens are rows, contexts columns.
        gap: Relative distance of the bounds at which the answer counts as optimal.
        weights: Number of times that each column is repeated, > 0; once by default.
        merge: False solves repeated rows and columns separately: slower, the same optimum.
        vocab_size: Number of tokens, where it is known, to recognize a transposed S.
        memory: Bytes that may be used; by default what is free on the device.
        options: Other fields of `SolveOptions`: max_iter, device, dtype.

    Raises:
        ValueError: The support or the weights are not valid; the message names the first mistake.
        UserError: An option out of its range.
        MemoryError: The problem needs more memory than there is; raised before any is allocated.

    >>> import numpy as np
    >>> import tightframe as tf
    >>> solution = tf.ntp.solve_svm(np.eye(3, dtype=bool))  # each context has its own next token
    >>> solution.status, solution.rank, round(solution.upper, 9)
    ('optimal', 2, 2.0)
    >>> solution.logits.round(3)
    array([[ 0.667, -0.333, -0.333],
           [-0.333,  0.667, -0.333],
           [-0.333, -0.333,  0.667]])
    """
    chosen = SolveOptions(gap=gap, **options)
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    device = torch.device(device_named(chosen.device))
    matrix = _checked(support, vocab_size)
    counts = _checked_weights(weights, matrix.shape[1])
    groups = group(matrix, counts, merge=merge)
    _check_memory(groups, device, dtype, memory)
    _warn(matrix)
    constrained = ~np.asarray(groups.support.all(axis=0))  # some token does not follow the context
    with torch.no_grad():
        answer = _solve(_only(groups, constrained), gap, chosen.max_iter, device, dtype)
    logits, dual = (np.zeros(groups.support.shape) for _ in range(2))
    logits[:, constrained], dual[:, constrained] = answer.logits, answer.dual
    return Solution(
        groups,
        logits,
        dual,
        answer.upper,
        answer.lower,
        "optimal" if answer.gap <= gap else "max_iter",
        answer.iterations,
        certificate.worst(logits, groups.support),
        answer.singular_values,
        chosen.dtype,
    )


@dataclasses.dataclass(frozen=True)
class _Certified:
    """Unscaled logits and dual matrix with their bounds."""

    logits: Float[np.ndarray, "R C"]
    dual: Float[np.ndarray, "R C"]
    upper: float
    lower: float
    iterations: int
    singular_values: Float[np.ndarray, " s"]

    @property
    def gap(self) -> float:
        return certificate.relative_gap(self.upper, self.lower)


def _solve(
    groups: DistinctSupport, gap: float, max_iter: int, device: torch.device, dtype: torch.dtype
) -> _Certified:
    if not groups.support.size:
        empty = np.zeros(groups.support.shape)
        return _Certified(empty, empty, 0.0, 0.0, 0, np.zeros(1))
    constraints = Constraints.of(groups, device, dtype)
    rough = dtype == torch.float64 and groups.support.size >= LARGE
    problem = _started(constraints.to(torch.float32) if rough else constraints)
    due, before = 0, (0, math.inf)  # the next check, and the last one: step and gap
    first = math.nan  # the gap at the first check
    while True:
        if problem.iterations >= min(due, max_iter):
            seen = certificate.relative_gap(*problem.bounds())
            last = problem.iterations >= max_iter
            if seen <= max(gap, EXACT) or last:
                answer = _certified(problem, groups)
                if answer.gap <= gap or last:
                    return answer
                seen = answer.gap
            if rough and seen > STALLED * before[1]:  # float32 has given what it can
                rough = False
                problem.refine(constraints)
            first = seen if math.isnan(first) else first
            _tell(problem.iterations, seen, first, gap)
            due = _next_check(problem.iterations, seen, before, gap)
            before = problem.iterations, seen
        problem.step()


def _tell(step: int, seen: float, first: float, wanted: float) -> None:
    """Report how far the gap has fallen, from the first to the wanted one, on a log scale."""
    share = math.log(first / seen) / math.log(first / wanted) if 0 < seen < first else 0.0
    tell("solving", min(share, 1.0), step, f"gap {seen:.2g}")


def _started(constraints: Constraints) -> Splitting:
    """Return the state at the proxy, its polar factor as dual; rho is 1 / mean singular value."""
    proxy = constraints.centred()
    tall = proxy.shape[0] < proxy.shape[1]
    values, vectors = torch.linalg.eigh(
        product(proxy, proxy.T) if tall else product(proxy.T, proxy)
    )
    kept = values > RANK * values[-1]
    values, vectors = values[kept].sqrt(), vectors[:, kept]
    penalty = 1 / float(values.mean())
    inverse = (vectors / values) @ vectors.T
    polar = product(inverse, proxy) if tall else product(proxy, inverse)
    return Splitting(constraints, proxy.sub_(polar, alpha=1 / penalty), penalty)


def _next_check(step: int, gap: float, before: tuple[int, float], wanted: float) -> int:
    """Return the step by which the gap, if it falls as since the last check, is small enough."""
    fell = math.log(before[1] / gap) if 0 < gap < before[1] < math.inf else 0.0
    if not fell:
        return step + CHECK
    steps = math.log(gap / wanted) * (step - before[0]) / fell
    return step + min(max(math.ceil(steps), 2), 2 * CHECK)


def _certified(problem: Splitting, groups: DistinctSupport) -> _Certified:
    """Return the answer in float64 on the CPU, with its certificate."""
    if groups.support.size >= LARGE:
        problem.release()
    constraints = Constraints.of(groups)
    points = problem.points.cpu().double()
    feasible = constraints.nearest(
        points, constraints.levels(points, problem.levels.cpu().double())
    )
    # Along its scales a column may be moved freely: to sum 0, as at an optimum.
    means = (feasible @ constraints.scales) / constraints.scales.square().sum()
    feasible.addr_(means, constraints.scales, alpha=-1)
    values = certificate.singular_values(feasible)  # before there is a dual matrix: it copies
    dual = torch.sub(feasible, points).addr_(means, constraints.scales).mul_(problem.penalty)
    dual = certificate.repaired(dual, constraints)
    norm, value = certificate.spectral_norm(dual), certificate.off_support(dual, constraints)
    shrink = 1 / max(1.0, norm)
    margins, scales = constraints.margins[:, None], constraints.scales
    return _Certified(
        feasible.div_(margins).div_(scales).T.numpy(),
        dual.div_(margins).div_(scales).mul_(shrink).T.numpy(),
        float(values.sum()),
        shrink * value,
        problem.iterations,
        values.numpy(),
    )


def needed_memory(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> int:
    """Return the bytes that `solve_svm` needs for this many distinct tokens and contexts.

    The estimate is of the peak on one device; with an accelerator it bounds each side.
    """
    entries, order = rows * columns, min(rows, columns)
    size = 8 if dtype == torch.float64 else 4
    # An entry of the state: Y, its residual, the history, two masks, 2 L - Y where it is kept.
    state = size + 4 + 8 * HISTORY + 2 + (size if columns < rows else 0)
    # The answer in float64, the dual matrix, their temporaries; large ones take the history's room.
    answer = 8 * 4 if entries < LARGE else 0
    blocks = 5 * size * min(entries, BLOCK + rows)
    return entries * (state + answer) + blocks + 8 * 8 * order**2 + BUFFERS


def _only(groups: DistinctSupport, columns: Bool[np.ndarray, " C"]) -> DistinctSupport:
    """Return the problem of some of the distinct columns; it is never expanded."""
    return dataclasses.replace(
        groups,
        support=groups.support[:, columns],
        column_counts=groups.column_counts[columns],
    )


def _checked(support: Shaped[np.ndarray, "V M"], vocab_size: int | None) -> Bool[np.ndarray, "V M"]:
    matrix = np.asarray(support)
    if not matrix.size:
        raise ValueError(f"support: {matrix.shape} tokens and contexts, expected at least one each")
    if matrix.dtype != bool:
        wrong = np.argwhere(~((matrix == 0) | (matrix == 1)))
        if len(wrong):
            token, context = wrong[0]
            raise ValueError(
                f"support: {matrix[token, context]} for token {token}, context {context}; "
                "expected booleans, or 0 and 1"
            )
        matrix = matrix.astype(bool)
    if vocab_size is not None and matrix.shape[0] != vocab_size:
        cure = "; it is transposed" if matrix.shape[1] == vocab_size else ""
        raise ValueError(
            f"support: {matrix.shape[0]} rows, expected one per token, {vocab_size}{cure}"
        )
    empty = np.flatnonzero(~matrix.any(axis=0))
    if len(empty):
        raise ValueError(f"support: no token follows context {empty[0]}; leave it out")
    return matrix


def _checked_weights(
    weights: Real[np.ndarray, " n"] | None, n_contexts: int
) -> Float[np.ndarray, " M"]:
    if weights is None:
        return np.ones(n_contexts)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (n_contexts,):
        raise ValueError(f"weights: expected {n_contexts}, one per context, got {given.shape}")
    wrong = np.flatnonzero(~((given > 0) & np.isfinite(given)))
    if len(wrong):
        raise ValueError(f"weights: {given[wrong[0]]} for context {wrong[0]}; expected > 0")
    return given


def _check_memory(
    groups: DistinctSupport, device: torch.device, dtype: torch.dtype, memory: int | None
) -> None:
    rows, columns = groups.support.shape
    needed = needed_memory(rows, columns, dtype)
    free = free_memory(device) if memory is None else memory
    if free is not None and needed > free:
        raise MemoryError(
            f"support: {rows:,} distinct tokens x {columns:,} distinct contexts need {needed:,} "
            f"bytes, {free:,} are free; raise the count floor of the table, sample contexts, "
            "or use the proxy"
        )


def _warn(support: Bool[np.ndarray, "V M"]) -> None:
    """Warn of a support that is allowed but may not be meant."""
    unused = int((~support.any(axis=1)).sum())
    full = np.flatnonzero(support.all(axis=0))
    density = float(support.mean())
    if unused:
        say = f"{unused} of {len(support)} tokens follow no context; they stay off every support"
        warnings.warn(f"support: {say}", UserWarning, stacklevel=3)
    if len(full):
        say = f"all tokens follow {len(full)} contexts, the first {full[0]}"
        warnings.warn(f"support: {say}; their logits are 0", UserWarning, stacklevel=3)
    if density > DENSE:
        say = f"{density:.0%} of it is set; supports this large say little"
        warnings.warn(f"support: {say}; take longer contexts", UserWarning, stacklevel=3)
