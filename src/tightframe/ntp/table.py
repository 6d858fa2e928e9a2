"""The context table of a text: its distinct contexts, and how often each token follows each.

Axes: M distinct contexts, T tokens of a context, V tokens that may follow (rows of the support
matrix, columns of `counts`).
"""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int32, Int64

from tightframe.ntp.soft_labels import SoftLabels

PAD = -1  # stands left of a context that is shorter than the longest


@dataclasses.dataclass(frozen=True, eq=False)
class ContextTable:
    """What a text says of its contexts; made by `context_table`.

    Attributes:
        contexts: Token ids of each context, oldest first; PAD on the left where it is shorter.
        counts: (M, V), sparse by context: how often each token followed each context. Every
            context is followed by a token.
        tokens: The tokenizer's id of each of the V tokens; `arange(V)` where all take part.
        words: The string of each of the V tokens; empty where it is not known.
        source: What it was made from: name and fingerprint of the tokens, split, length, floors.
    """

    contexts: Int32[np.ndarray, "M T"]
    counts: sp.csr_array
    tokens: Int64[np.ndarray, " V"]
    words: tuple[str, ...] = ()
    source: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, columns = self.counts.shape
        if len(self.contexts) != rows:
            raise ValueError(f"counts: {rows} rows, expected one a context, {len(self.contexts)}")
        if len(self.tokens) != columns:
            raise ValueError(f"counts: {columns} columns, expected one a token, {len(self.tokens)}")
        if self.words and len(self.words) != columns:
            raise ValueError(f"words: {len(self.words)}, expected one a token, {columns}")

    @property
    def n_contexts(self) -> int:
        """M."""
        return len(self.contexts)

    @property
    def vocab_size(self) -> int:
        """V, the tokens that may follow."""
        return len(self.tokens)

    @property
    def n_pairs(self) -> int:
        """How many (context, next token) pairs were counted."""
        return int(self.counts.data.sum())

    @cached_property
    def soft_labels(self) -> SoftLabels:
        """P (V, M) and pi (M,)."""
        return SoftLabels.from_counts(self.counts.T)

    @property
    def matrix(self) -> Bool[np.ndarray, "V M"]:
        """The support matrix, dense: what `solve_svm` takes."""
        return self.soft_labels.matrix

    @property
    def empirical_entropy(self) -> float:
        """H of the counted text in nats per pair; lower than its source's, contexts being few."""
        return self.soft_labels.entropy
