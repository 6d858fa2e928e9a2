"""Ledgers of the blocks that a state has seen, and checks of its labels and groups.

Axes: N labelled positions, C classes, G groups.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from tightframe.errors import UserError
from tightframe.formats import Count
from tightframe.lm.interface import IGNORE

Span = tuple[int, int]  # blocks first, ..., end - 1
Spans = list[tuple[Count, Count]]  # as they lie in a file


class Ledger:
    """Blocks of a split, as disjoint spans in increasing order.

    Embeddings that come from no split leave no trace in it: their state can be merged with any
    other. States of two splits can be merged, too; their ledger then only names both splits.

    Args:
        spans: Blocks that are in it from the start.
        source: Fingerprint of the split; empty where that is known otherwise.
    """

    def __init__(self, spans: Iterable[Sequence[int]] = (), source: str = "") -> None:
        self.source = source
        self._spans: list[Span] = []
        for first, end in spans:
            self.add(first, end)

    def __repr__(self) -> str:
        return f"Ledger({self._spans})"

    @property
    def spans(self) -> list[Span]:
        """Disjoint spans in order; neighbours are joined, so equal ledgers have equal spans."""
        return list(self._spans)

    @property
    def n_blocks(self) -> int:
        """Number of blocks in all spans."""
        return sum(end - first for first, end in self._spans)

    def covers(self, first: int, end: int) -> bool:
        """Return whether all blocks of a span are in it."""
        return any(start <= first and end <= stop for start, stop in self._spans)

    def missing(self, n_blocks: int) -> list[Span]:
        """Return the spans of [0, n_blocks) that are not in it."""
        starts = [0, *(end for _, end in self._spans)]
        ends = [*(first for first, _ in self._spans), n_blocks]
        return [(a, b) for a, b in zip(starts, ends, strict=True) if a < b]

    def add(self, first: int, end: int) -> None:
        """Add a span; refuse blocks that are in it already, and change nothing then."""
        if not 0 <= first < end:
            raise ValueError(f"a span must be first < end from 0 up, got {first}, {end}")
        for start, stop in self._spans:
            if first < stop and start < end:
                raise UserError(
                    f"blocks {max(first, start)} to {min(end, stop) - 1} are in both states; "
                    "merge pieces that share none"
                )
        joined: list[Span] = []
        for start, stop in sorted([*self._spans, (first, end)]):
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], stop)
            else:
                joined.append((start, stop))
        self._spans = joined

    def joined(self, other: "Ledger") -> "Ledger":
        """Return a ledger of the blocks of both; refuse blocks that are in both."""
        if self.source and other.source and self.source != other.source:
            return Ledger(source=f"{self.source} and {other.source}")
        return Ledger([*self._spans, *other.spans], self.source or other.source)


@contextlib.contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Add the path to errors of the block: a context manager for unpacking a state."""
    try:
        yield
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {error}; measure again") from None


Array: TypeAlias = Tensor | np.ndarray
GroupIds: TypeAlias = int | Array | None
"""The group of each position, or of all of them; None is 0, where there is one group only."""


def as_tensor(values: Array) -> Tensor:
    """Return an array as a tensor, without a copy where NumPy allows it."""
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray):
        raise TypeError(f"expected a tensor or a NumPy array, got {type(values).__name__}")
    plain = values.flags.writeable and all(stride >= 0 for stride in values.strides)
    return torch.from_numpy(values if plain else values.copy())


def as_labels(labels: Array) -> Int64[Tensor, " N"]:
    """Return labels as int64; refuse what is no integer."""
    labels = as_tensor(labels)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    return labels.long()


def check_labels(labels: Int64[Tensor, " N"], n_rows: int, n_classes: int) -> int:
    """Return how many labels are IGNORE; refuse a label that is no class."""
    if labels.shape != (n_rows,):
        raise ValueError(f"expected {n_rows} labels, one per row, got shape {tuple(labels.shape)}")
    ignored = labels == IGNORE
    if bool((((labels < 0) & ~ignored) | (labels >= n_classes)).any()):
        rest = labels[~ignored]
        raise ValueError(
            f"labels must lie in [0, {n_classes}) or be {IGNORE}, got {int(rest.min())}.."
            f"{int(rest.max())}; was the model's vocabulary padded?"
        )
    return int(ignored.sum())


def check_label_counts(
    before: Int64[Tensor, " C"], labels: Int64[Tensor, " N"], limits: Int64[Tensor, " C"]
) -> None:
    """Refuse labels that give a class more embeddings than its final number."""
    counts = before + torch.bincount(labels, minlength=len(before))
    beyond = (counts > limits).nonzero().flatten()
    if len(beyond):
        c = int(beyond[0])
        raise ValueError(
            f"class {c} now has {int(counts[c])} embeddings, but label_counts says "
            f"{int(limits[c])}; were they counted on the same tokens?"
        )


def grouped_labels(
    labels: Int64[Tensor, " N"], groups: GroupIds, n_classes: int, n_groups: int
) -> Int64[Tensor, " N"]:
    """Return the place of each position in a table of groups times classes; keep IGNORE."""
    if groups is None:
        if n_groups > 1:
            raise ValueError(f"say to which of the {n_groups} groups the positions belong")
        return labels
    if isinstance(groups, int):
        groups = torch.full_like(labels, groups)
    groups, ignored = as_labels(groups).to(labels.device), labels == IGNORE
    if groups.shape != labels.shape:
        raise ValueError(
            f"expected {len(labels)} groups, one per label, got shape {tuple(groups.shape)}"
        )
    present = groups[~ignored]
    if len(present) and (int(present.min()) < 0 or int(present.max()) >= n_groups):
        raise ValueError(
            f"groups must lie in [0, {n_groups}), got {int(present.min())}..{int(present.max())}"
        )
    return (groups * n_classes + labels).masked_fill_(ignored, IGNORE)


def kept_groups(left_out: Sequence[int], n_groups: int) -> list[int]:
    """Return the groups without those that are left out."""
    if n_groups == 1:
        raise ValueError("the state holds no groups; make it with `groups` to leave one out")
    if bad := [group for group in left_out if not 0 <= group < n_groups]:
        raise ValueError(f"groups lie in [0, {n_groups}), got {bad[0]}")
    return [group for group in range(n_groups) if group not in left_out]


def check_provenance(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse states whose provenance differs."""
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise UserError(
                f"states that don't belong together: {key} is {mine.get(key)!r} here, "
                f"{theirs.get(key)!r} there"
            )
