"""Blocks of a split with labels: what a class is, and which positions count.

Axes: B rows of a batch, T positions, C classes, G groups.
"""

import dataclasses
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from tightframe.corpus.labels import Capped, ShuffledLabels
from tightframe.corpus.shards import Groups, Split
from tightframe.errors import UserError
from tightframe.lm.interface import IGNORE, Batch, next_token

Labels = Literal["next", "current", "shuffled"]

_COUNTED = 2**20  # tokens read at once where labels are only counted; memory only


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Rule of what a class is, and which positions of a block count.

    Args:
        labels: "next", the token that a position predicts; "current", the token that stands
            there; "shuffled", the next tokens of all positions in a random order: a null, in
            which embeddings and labels have nothing to do with each other.
        skip: First positions of each block that have no label. In many models they are attention
            sinks, whose embeddings are unlike all others.
        skip_special: Leave out the positions whose input is a special token of the split's
            tokenizer, such as the end of a text: these are attention sinks, too.
        seed: Of the order of "shuffled".
    """

    labels: Labels = "next"
    skip: int = 0
    skip_special: bool = False
    seed: int = 0


NEXT = LabelSpec()


class Rows(NamedTuple):
    """Labelled tokens of some blocks."""

    batch: Batch  # its targets are the next tokens, IGNORE at positions that don't count
    labels: Int64[Tensor, "B T"]  # classes, IGNORE at the same positions
    # If labels are next tokens, those at positions that don't count; else IGNORE everywhere.
    passed: Int64[Tensor, "B T"]
    groups: Int64[Tensor, "B T"] | None  # group of each position, where groups are kept


class LabelledBlocks:
    """Blocks of a split with the labels of a `LabelSpec`.

    Args:
        split: Where the tokens are.
        reading: What a label is, and which positions have one.
        groups: Stretches of the split that are kept apart; None keeps none.
        quota: How many positions of each class count, the first ones; None is all of them.
    """

    def __init__(
        self,
        split: Split,
        reading: LabelSpec,
        groups: Groups | None = None,
        quota: Int[Tensor, " C"] | None = None,
    ) -> None:
        if not 0 <= reading.skip < split.block - 1:
            raise UserError(
                f"skip is {reading.skip}, but blocks of {split.block} tokens have "
                f"{split.block - 1} positions; leave at least one"
            )
        self.split = split
        self.reading = reading
        self._bounds = None if groups is None else groups.bounds
        self._special = torch.tensor(split.special if reading.skip_special else ())
        shuffled = reading.labels == "shuffled"
        self._shuffled = ShuffledLabels(split, reading.seed) if shuffled else None
        self._quota = quota
        self._capped = None if quota is None else Capped(quota)
        self._next = 0  # the block that `_capped` has come to

    def rows(self, indices: range) -> Rows:
        """Read some consecutive blocks."""
        batch, labels, passed = self._labelled(indices)
        if self._quota is not None and self._capped is not None:
            if self._next != indices.start:  # not where it was: count the blocks before
                before = self._counts(0, indices.start)
                self._capped = Capped((self._quota - before).clamp(min=0))
            taken = self._capped.take(labels.flatten()).view(labels.shape)
            self._next = indices.stop
            labels = labels.where(taken, IGNORE)
            batch = dataclasses.replace(batch, targets=batch.targets.where(taken, IGNORE))
            passed = torch.full_like(passed, IGNORE)  # the loss is of these classes alone
        return Rows(batch, labels, passed, self._groups(indices, labels.shape[1]))

    def label_counts(self) -> Int64[Tensor, " C"]:
        """Count how often each class is the label of a position that counts."""
        counts = self._counts(0, self.split.n_blocks)
        return counts if self._quota is None else torch.minimum(counts, self._quota)

    def label_counts_by_group(self) -> Int64[Tensor, "G C"]:
        """Count how often each class is the label of a position that counts, in each group."""
        n_groups = 1 if self._bounds is None else len(self._bounds) - 1
        counts = torch.zeros(n_groups * self.split.vocab_size, dtype=torch.int64)
        step = max(1, _COUNTED // self.split.block)
        for first in range(0, self.split.n_blocks, step):
            rows = self.rows(range(first, min(first + step, self.split.n_blocks)))
            places = rows.labels
            if rows.groups is not None:
                places = places + rows.groups * self.split.vocab_size
            places = places[rows.labels != IGNORE]
            counts += torch.bincount(places, minlength=len(counts))
        return counts.view(n_groups, -1)

    def _labelled(self, indices: range) -> tuple[Batch, Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
        """Return a batch, its labels and the next tokens of the other positions, without quota."""
        tokens, lengths = self.split.rows(indices)
        batch = next_token(tokens, lengths)
        every = batch.targets.clone()
        batch.targets[:, : self.reading.skip] = IGNORE
        if self.reading.skip_special:
            batch.targets.masked_fill_(torch.isin(batch.inputs, self._special), IGNORE)
        if self.reading.labels == "next":
            labels = batch.targets
        elif self._shuffled is None:
            labels = batch.inputs.clone()
        else:
            labels = self._shuffled.rows(indices)
        counts = batch.targets != IGNORE
        passed = ~counts if self.reading.labels == "next" else torch.zeros_like(counts)
        return batch, labels.where(counts, IGNORE), every.where(passed, IGNORE)

    def _counts(self, start: int, stop: int) -> Int64[Tensor, " C"]:
        """Count the labels of blocks start, ..., stop - 1, without any quota."""
        plain = self.reading.labels == "next" and not self.reading.skip
        if plain and not self.reading.skip_special and (start, stop) == (0, self.split.n_blocks):
            return self.split.label_counts()
        counts = torch.zeros(self.split.vocab_size, dtype=torch.int64)
        step = max(1, _COUNTED // self.split.block)
        for first in range(start, stop, step):
            _, labels, _ = self._labelled(range(first, min(first + step, stop)))
            counts += torch.bincount(labels[labels != IGNORE], minlength=len(counts))
        return counts

    def _groups(self, indices: range, positions: int) -> Int[Tensor, "B T"] | None:
        if self._bounds is None:
            return None
        starts = torch.arange(indices.start, indices.stop) * self.split.block
        places = starts[:, None] + torch.arange(1, positions + 1)  # (B, T), of the next tokens
        return torch.searchsorted(self._bounds, places, right=True) - 1
