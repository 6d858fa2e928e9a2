"""Sparse support matrices, checked, with equal rows and columns merged: exact, and a large saving.

Why rows and columns may be merged, `grouping` says. Nothing here is dense, so it serves 10^4 tokens
and 10^6 contexts.

Axes: V tokens, M contexts.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp
from jaxtyping import Shaped

from tightframe.ntp.grouping import EqualColumns
from tightframe.ntp.spectrum import CentredSupport, Triplets


@dataclasses.dataclass(frozen=True, eq=False)
class MergedSupport:
    """A support matrix of distinct rows and columns, and what they stand for.

    Attributes:
        support: Sparse and boolean, distinct tokens are rows.
        tokens: Which token rows were equal.
        contexts: Which columns were equal.
    """

    support: sp.csc_array
    tokens: EqualColumns
    contexts: EqualColumns

    @classmethod
    def of(cls, columns: sp.csc_array) -> "MergedSupport":
        """Of a checked support matrix (V, M)."""
        contexts = EqualColumns.of(columns)
        columns = sp.csc_array(columns[:, contexts.first])
        rows = sp.csc_array(columns.T)
        rows.sort_indices()
        tokens = EqualColumns.of(rows)
        merged = sp.csc_array(sp.csr_array(columns)[tokens.first])
        merged.sort_indices()
        return cls(merged, tokens, contexts)

    @property
    def centred(self) -> CentredSupport:
        """diag(sqrt r) S~ diag(sqrt c): the singular values of S~, and its vectors by `expand`."""
        return CentredSupport(
            self.support, self.tokens.counts.astype(float), self.contexts.counts.astype(float)
        )

    def expand(self, triplets: Triplets) -> Triplets:
        """Singular triplets of S~ itself."""
        return dataclasses.replace(
            triplets,
            left=self.tokens.expand(triplets.left),
            right=self.contexts.expand(triplets.right),
        )


def support_columns(support: Shaped[np.ndarray, "V M"] | sp.sparray) -> sp.csc_array:
    """A support matrix (V, M), dense or sparse, as sparse boolean columns with sorted indices.

    Raises:
        ValueError: It is neither boolean nor 0/1, or a context is followed by no token; the message
            names the first entry.
    """
    columns = sp.csc_array(support)
    wrong = np.flatnonzero((columns.data != 0) & (columns.data != 1))
    if len(wrong):
        context = int(np.searchsorted(columns.indptr, wrong[0], side="right")) - 1
        raise ValueError(
            f"support: {columns.data[wrong[0]]} for token {columns.indices[wrong[0]]}, context "
            f"{context}; expected booleans, or 0 and 1"
        )
    columns = columns.astype(bool)  # a copy: what follows changes it
    columns.sum_duplicates()
    columns.eliminate_zeros()
    empty = np.flatnonzero(np.diff(columns.indptr) == 0)
    if len(empty):
        raise ValueError(
            f"support: no token follows context {empty[0]} (axis 1); leave it out, or transpose "
            "the matrix if contexts are its rows"
        )
    return columns
