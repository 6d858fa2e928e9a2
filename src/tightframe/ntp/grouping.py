"""Equal supports are solved once: unique columns and rows of a matrix, and how many there are.

Contexts with equal supports may be assumed to have equal logits at an optimum, and so may tokens
with equal rows of S: average over permutations inside a group, which stays feasible and never
raises the norm. What is left is a smaller problem with multiplicities.

Axes: V tokens, M contexts of the whole problem; R distinct rows, C distinct columns; N columns of
any matrix, U of them distinct, K triplets.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class EqualColumns:
    """Which columns of a sparse matrix are equal; groups stand in the order of their first columns.

    Attributes:
        first: (U,), the first column of each group.
        counts: (U,), how many columns each group has.
        members: (N,), the group of each column.
    """

    first: Int64[np.ndarray, " U"]
    counts: Int64[np.ndarray, " U"]
    members: Int64[np.ndarray, " N"]

    @classmethod
    def of_rows(cls, rows: Bool[np.ndarray, "N n"]) -> "EqualColumns":
        """Of the transpose of a dense boolean matrix: a few times faster than by its entries."""
        packed = np.ascontiguousarray(np.packbits(rows, axis=1))
        as_one = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
        _, first, group_of, counts = np.unique(
            as_one, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(first[order], counts[order], rank[group_of])

    @classmethod
    def of(cls, columns: sp.csc_array) -> "EqualColumns":
        """Of a matrix whose indices are sorted: equal in where its entries are, and what they are.

        A boolean matrix is taken to store no zeros, so that it is where they are that decides.
        """
        seen: dict[bytes, int] = {}
        boolean = columns.dtype == bool
        members = np.empty(columns.shape[1], dtype=np.int64)
        first: list[int] = []
        for column in range(columns.shape[1]):
            stored = slice(columns.indptr[column], columns.indptr[column + 1])
            key = columns.indices[stored].tobytes()
            if not boolean:
                key += columns.data[stored].tobytes()
            same = seen.setdefault(key, len(seen))
            if same == len(first):
                first.append(column)
            members[column] = same
        counts = np.bincount(members, minlength=len(first)).astype(np.int64)
        return cls(np.array(first, dtype=np.int64), counts, members)

    def expand(self, vectors: Float[np.ndarray, "U K"]) -> Float[np.ndarray, "N K"]:
        """Singular vectors of all columns: each group's entry, spread evenly over its members."""
        each: Float[np.ndarray, "U K"] = vectors / np.sqrt(self.counts)[:, None]
        expanded: Float[np.ndarray, "N K"] = each[self.members]
        return expanded


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
    columns = EqualColumns.of_rows(support.T)
    rows = EqualColumns.of_rows(support)
    return Groups(
        support[np.ix_(rows.first, columns.first)],
        rows.members,
        columns.members,
        rows.counts.astype(np.float64),
        np.bincount(columns.members, weights),
    )
