"""Equal supports are solved once: unique columns and rows of a support matrix, and how many.

Contexts with equal supports may be assumed to have equal logits at an optimum, and so may tokens
with equal rows of S: average over permutations inside a group, which stays feasible and never
raises the norm. What is left is a smaller problem with multiplicities.

Axes: V tokens, M contexts of the whole problem; R distinct rows, C distinct columns.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """A support matrix without its repetitions.

    Attributes:
        support: Distinct rows and columns, each in the order of its first appearance.
        row_of: Of each token, its row of `support`.
        column_of: Of each context, its column of `support`.
        row_counts: How many tokens share a row.
        column_counts: How many contexts share a column, or the sum of their weights.
    """

    support: Bool[np.ndarray, "R C"]
    row_of: Int64[np.ndarray, " V"]
    column_of: Int64[np.ndarray, " M"]
    row_counts: Float[np.ndarray, " R"]
    column_counts: Float[np.ndarray, " C"]

    @property
    def row_scales(self) -> Float[np.ndarray, " R"]:
        """sqrt(r): the problem is solved for diag(sqrt r) L diag(sqrt c)."""
        scales: Float[np.ndarray, " R"] = np.sqrt(self.row_counts)
        return scales

    @property
    def column_scales(self) -> Float[np.ndarray, " C"]:
        """sqrt(c)."""
        scales: Float[np.ndarray, " C"] = np.sqrt(self.column_counts)
        return scales

    def expand(self, grouped: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "V M"]:
        """Every token and context gets the entry of its group."""
        expanded: Float[np.ndarray, "V M"] = grouped[np.ix_(self.row_of, self.column_of)]
        return expanded

    def describe(self) -> str:
        """The compression, for readers: "tokens 104 -> 98, contexts 403 -> 45"."""
        rows, columns = self.support.shape
        tokens, contexts = len(self.row_of), len(self.column_of)
        return f"tokens {tokens:,} -> {rows:,}, contexts {contexts:,} -> {columns:,}"


def group(
    support: Bool[np.ndarray, "V M"],
    weights: Float[np.ndarray, " M"] | None = None,
    *,
    merge: bool = True,
) -> Groups:
    """Find equal rows and equal columns.

    Args:
        support: S; tokens are rows.
        weights: How often each column counts, > 0; once each by default.
        merge: False leaves every row and column alone: the same optimum, found more slowly.
    """
    tokens, contexts = support.shape
    weights = np.ones(contexts) if weights is None else weights
    if not merge:
        each = np.ones(tokens)
        return Groups(support, np.arange(tokens), np.arange(contexts), each, weights)
    column_of, columns = _distinct(support.T)
    row_of, rows = _distinct(support)
    return Groups(
        support[np.ix_(rows, columns)],
        row_of,
        column_of,
        np.bincount(row_of).astype(np.float64),
        np.bincount(column_of, weights),
    )


def _distinct(
    lines: Bool[np.ndarray, "n m"],
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " distinct"]]:
    """Of each line, its group; of each group, its first line. Groups in order of appearance."""
    packed = np.ascontiguousarray(np.packbits(lines, axis=1))
    as_one = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, group_of = np.unique(as_one, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[group_of].astype(np.int64), first[order].astype(np.int64)
