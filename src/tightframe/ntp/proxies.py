"""The proxy: the centred support matrix as a stand-in for L_mm, and whether it is exact.

S~ = S - 1 (1^T S)/V satisfies all constraints with margin exactly 1, so its nuclear norm is at
least the optimum; often it is the optimum, and then its polar factor proves it.

Axes: V tokens, M contexts; R and C distinct token rows and contexts.
"""

import dataclasses
import warnings
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Shaped

from tightframe.ntp.grouping import (
    MergedSupport,
    Triplets,
    dense_triplets,
    leading_triplets,
    support_columns,
)
from tightframe.ntp.predict import Prediction, from_triplets

Support: TypeAlias = Shaped[np.ndarray, "V M"] | sp.sparray
Verdict: TypeAlias = Literal["exact", "not exact", "undecided"]

MEMORY = 4 * 2**30  # bytes that dense arrays may take
DENSE_ARRAYS = 6  # of distinct rows times distinct columns that decomposition and test hold at once
POSITIVE = 1e-9  # an off-support entry of the polar factor above this counts as positive
WORST_RESIDUAL = 1e-3  # a triplet with more than this is warned of


@dataclasses.dataclass(frozen=True)
class ProxyReport:
    """Whether the centred support matrix is an optimum, and what it bounds.

    Attributes:
        verdict: "exact" or "not exact" where that is proved, else "undecided".
        reason: What the verdict rests on.
        off_support: Largest off-support entry of the polar factor of diag(sqrt r) S~ diag(sqrt c),
            on distinct rows and columns; NaN where it was not computed.
        upper: ||S~||_*, at least the optimal nuclear norm; NaN where it was not computed.
        bound: At most the optimal nuclear norm, from the same factor; equals `upper` where the
            verdict is "exact", loose elsewhere. NaN where it was not computed.
        rank: Of S~; -1 where it was not computed.
        tokens, contexts: V and M.
        distinct_tokens, distinct_contexts: After merging equal rows and columns.
    """

    verdict: Verdict
    reason: str
    off_support: float
    upper: float
    bound: float
    rank: int
    tokens: int
    contexts: int
    distinct_tokens: int
    distinct_contexts: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self)


def proxy(support: Support, rank: int | None = None, *, memory: int = MEMORY) -> Prediction:
    """The geometry that the centred support matrix predicts.

    Args:
        support: S (V, M), boolean or 0/1, dense or sparse.
        rank: Only so many of the largest triplets, without forming S~; by default all of them.
        memory: Bytes that dense arrays may take where all are asked for.

    Returns:
        Labelled "exact" only where all triplets are kept and the test of `proxy_report` passes.

    Raises:
        ValueError: As `proxy_triplets`.
    """
    merged = _merged(support)
    triplets = _triplets(merged, rank, memory)
    exact = rank is None and _verdict(merged, triplets)[0] == "exact"
    _warn_of_residuals(triplets)
    expanded = merged.expand(triplets)
    return from_triplets(
        expanded.left,
        expanded.singular_values,
        expanded.right,
        kind="exact" if exact else "proxy",
        gap=0.0 if exact else float("nan"),
    )


def proxy_triplets(support: Support, rank: int | None = None, *, memory: int = MEMORY) -> Triplets:
    """Singular triplets of S~, with the residual of each; arguments as those of `proxy`.

    Signs are fixed: the largest entry of each left vector is positive.

    Raises:
        ValueError: S is no support matrix, constrains nothing, or is too large for `memory` to
            decompose as a whole; or `rank` is below 1 or above the number of tokens or contexts.
    """
    merged = _merged(support)
    triplets = merged.expand(_triplets(merged, rank, memory))
    _warn_of_residuals(triplets)
    return triplets


def proxy_report(support: Support, *, memory: int = MEMORY) -> ProxyReport:
    """Test whether S~ is optimal, by its polar factor Z = U V^T.

    Z has zero column sums and spectral norm 1. If no off-support entry is positive it is feasible
    for the dual problem, with value <S, Z> = ||S~||_*: S~ is optimal. Any other dual matrix that
    proves it is Z + Y with U^T Y = 0, Y V = 0 and zero column sums; Y is 0 if S~ has as many
    non-zero singular values as distinct contexts, or as distinct tokens but one. Then a positive
    entry proves the contrary. All on distinct rows and columns, weighted by their numbers.

    Args:
        support: S (V, M), boolean or 0/1, dense or sparse.
        memory: Bytes that dense arrays may take; above it the verdict is "undecided".

    Raises:
        ValueError: S is no support matrix, or constrains nothing.
    """
    merged = _merged(support)
    rows, columns = merged.support.shape
    sizes = (len(merged.tokens.members), len(merged.contexts.members), int(rows), int(columns))
    need = _dense_bytes(merged)
    if need > memory:
        nan = float("nan")
        reason = f"not tested: {rows:,} x {columns:,} takes {need / 1e9:.1f} GB"
        return ProxyReport("undecided", reason, nan, nan, nan, -1, *sizes)
    triplets = dense_triplets(merged.centred)
    verdict, reason, off_support = _verdict(merged, triplets)
    upper = float(triplets.singular_values.sum())
    bound = upper if verdict == "exact" else _dual_bound(merged, triplets)
    rank = len(triplets.singular_values)
    return ProxyReport(verdict, reason, off_support, upper, bound, rank, *sizes)


def _merged(support: Support) -> MergedSupport:
    """Merged, with what is unconstrained warned of."""
    columns = support_columns(support)
    tokens, contexts = columns.shape
    sizes = np.diff(columns.indptr)
    full = np.flatnonzero(sizes == tokens)
    if len(full) == contexts:
        raise ValueError("support: all tokens follow every context; nothing is to be separated")
    if len(full):
        _warn(
            f"support: all tokens follow {len(full)} contexts (the first is {full[0]}); they "
            "constrain nothing, their logits are 0"
        )
    unused = np.flatnonzero(np.bincount(columns.indices, minlength=tokens) == 0)
    if len(unused):
        _warn(
            f"support: {len(unused)} tokens follow no context (the first is {unused[0]}); they "
            "share one embedding"
        )
    return MergedSupport.of(columns)


def _triplets(merged: MergedSupport, rank: int | None, memory: int) -> Triplets:
    rows, columns = merged.support.shape
    if rank is None:
        need = _dense_bytes(merged)
        if need > memory:
            raise ValueError(
                f"support: all triplets of {rows:,} x {columns:,} distinct tokens and contexts "
                f"take {need:,} bytes, memory allows {memory:,}; ask for a rank, or sample contexts"
            )
        return dense_triplets(merged.centred)
    tokens, contexts = len(merged.tokens.members), len(merged.contexts.members)
    if not 1 <= rank <= min(tokens, contexts):
        raise ValueError(f"rank: {rank}, expected 1 to {min(tokens, contexts)}")
    if 2 * rank < min(rows, columns):
        return leading_triplets(merged.centred, rank)
    every = dense_triplets(merged.centred)  # so many that iteration would take longer
    return Triplets(
        every.left[:, :rank],
        every.singular_values[:rank],
        every.right[:, :rank],
        every.residuals[:rank],
    )


def _verdict(merged: MergedSupport, triplets: Triplets) -> tuple[Verdict, str, float]:
    polar = triplets.left @ triplets.right.T  # (R, C)
    support = merged.support.toarray()
    off_support = float(polar.max(where=~support, initial=-1.0))
    if off_support <= POSITIVE:
        return "exact", "the polar factor is dual feasible", off_support
    rows, columns = support.shape
    constrained = columns - int(support.all(axis=0).sum())  # a full column of S~ is 0
    rank = len(triplets.singular_values)
    if rank in (rows - 1, constrained):
        reason = "the only dual matrix that could prove it has a positive off-support entry"
        return "not exact", reason, off_support
    reason = (
        f"the polar factor has a positive off-support entry, but rank {rank} of "
        f"{min(rows - 1, constrained)} leaves room for other dual matrices"
    )
    return "undecided", reason, off_support


def _dual_bound(merged: MergedSupport, triplets: Triplets) -> float:
    """The value of the polar factor made feasible: signs, then column sums, then norm."""
    r, c = merged.tokens.counts.astype(float), merged.contexts.counts.astype(float)
    scales = np.sqrt(r)
    support: Bool[np.ndarray, "R C"] = merged.support.toarray()
    dual: Float[np.ndarray, "R C"] = triplets.left @ triplets.right.T
    dual = np.where(support, dual, np.minimum(dual, 0))
    missing = scales @ dual / (r @ support)
    dual -= support * np.outer(scales, missing)
    value = float(scales @ (dual * support) @ np.sqrt(c))
    return value / float(np.linalg.norm(dual, ord=2))


def _dense_bytes(merged: MergedSupport) -> int:
    rows, columns = merged.support.shape
    return 8 * DENSE_ARRAYS * int(rows) * int(columns)


def _warn_of_residuals(triplets: Triplets) -> None:
    worst = int(np.argmax(triplets.residuals))
    if triplets.residuals[worst] > WORST_RESIDUAL:
        _warn(
            f"singular triplet {worst} has a relative residual of {triplets.residuals[worst]:.1e}, "
            f"above {WORST_RESIDUAL:g}; its singular value is too small beside the largest, "
            "ask for a smaller rank"
        )


def _warn(message: str) -> None:
    """To the line that called the public function: two frames above the helper that warns."""
    warnings.warn(message, UserWarning, stacklevel=4)
