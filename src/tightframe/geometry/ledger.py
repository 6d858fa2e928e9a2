"""What a state has seen of a split, and which labels and groups it accepts.

Axes: N labelled positions, C classes, G groups.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from tightframe.errors import UserError
from tightframe.formats import Count
from tightframe.lm.interface import IGNORE

Span = tuple[int, int]  # blocks first, ..., end - 1
Spans = list[tuple[Count, Count]]  # as they lie in a file


class Ledger:
    """Blocks of a split, as disjoint spans in increasing order.

    Embeddings that come from no split leave no trace in it: a state of them can be merged with
    any other. So can states of two splits, whose blocks are then told apart no more.

    Args:
        spans: What is in it.
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
        """Neighbours are joined, so equal ledgers have equal spans."""
        return list(self._spans)

    @property
    def n_blocks(self) -> int:
        """How many blocks there are in all."""
        return sum(end - first for first, end in self._spans)

    def covers(self, first: int, end: int) -> bool:
        """Whether all blocks of a span are in it."""
        return any(start <= first and end <= stop for start, stop in self._spans)

    def missing(self, n_blocks: int) -> list[Span]:
        """The spans of [0, n_blocks) that are not in it."""
        starts = [0, *(end for _, end in self._spans)]
        ends = [*(first for first, _ in self._spans), n_blocks]
        return [(a, b) for a, b in zip(starts, ends, strict=True) if a < b]

    def add(self, first: int, end: int) -> None:
        """Add a span; a block that is there already is refused, and nothing is changed."""
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
        """Both together, as a new one; blocks that are in both are refused."""
        if self.source and other.source and self.source != other.source:
            return Ledger(source=f"{self.source} and {other.source}")
        return Ledger([*self._spans, *other.spans], self.source or other.source)


@contextlib.contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Name the file of a state whose parts contradict each other."""
    try:
        yield
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {error}; measure again") from None


GroupIds: TypeAlias = int | Int[Tensor, " N"] | None
"""The group of each position, or of all of them; None is 0, where there is one group only."""


def as_labels(labels: Int[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """Labels as int64; what is no integer is refused."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    return labels.long()


def check_labels(labels: Int64[Tensor, " N"], n_rows: int, n_classes: int) -> int:
    """How many labels are IGNORE; ValueError where one is no class."""
    if labels.shape != (n_rows,):
        raise ValueError(f"expected {n_rows} labels, one a row, got shape {tuple(labels.shape)}")
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
    """Refuse labels of which a class would have more than it will have in the end."""
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
    """The place of each position in a table of groups times classes; IGNORE stays IGNORE."""
    if groups is None:
        if n_groups > 1:
            raise ValueError(f"say to which of the {n_groups} groups the positions belong")
        return labels
    if isinstance(groups, int):
        groups = torch.full_like(labels, groups)
    if groups.shape != labels.shape:
        raise ValueError(
            f"expected {len(labels)} groups, one a label, got shape {tuple(groups.shape)}"
        )
    groups, ignored = as_labels(groups).to(labels.device), labels == IGNORE
    taken = groups[~ignored]
    if len(taken) and (int(taken.min()) < 0 or int(taken.max()) >= n_groups):
        raise ValueError(
            f"groups must lie in [0, {n_groups}), got {int(taken.min())}..{int(taken.max())}"
        )
    return (groups * n_classes + labels).masked_fill_(ignored, IGNORE)


def kept_groups(left_out: Sequence[int], n_groups: int) -> list[int]:
    """The groups but for those that are left out."""
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
