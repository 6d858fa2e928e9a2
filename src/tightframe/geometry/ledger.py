"""What a state has seen of a split, so that nothing is counted twice or forgotten."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tightframe.errors import UserError
from tightframe.formats import Count

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
