"""Exact order statistics and extreme pairs of a stream that is too long to keep.

Axes: N values, I and J rows and columns of a tile, m extreme pairs.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tightframe.geometry import tiles

BINS = 1 << 16
CAPACITY = 1 << 22  # values that the last pass keeps at once: 32 MiB
_ORIGIN = (1023 - 64) << 52  # the bits of 2**-64; with the shift, the bins end at 2**64
_SHIFT = 43  # leaves 9 bits of the mantissa: 512 bins an octave, each 0.2 % wide
_END = 0x7FF << 52  # the bits of infinity
# How far a bracket reaches beyond the sample's quantile, in standard errors. A rank that it misses
# costs further passes, and nothing else.
ERRORS = 6
# A bracket that holds this many times what the sample says, and CAPACITY, is given up.
OVERFULL = 4


class StreamingQuantile:
    """Exact value of one rank among non-negative numbers, without keeping them.

    With a sample, the first pass is the only one as a rule: it keeps what lies in a
    `QuantileBracket`. Where that misses the rank, and without a sample, the stream is counted.

    Non-negative doubles are ordered as their bit patterns are, so shifted bits are the bin of a
    fixed histogram of logarithms (what lies outside falls in the end bins). One pass counts; every
    further one looks only into the bin that holds the rank, until its members fit into memory and
    are sorted. Two such passes are the rule, six the most.

    Feed the whole stream by `add`, then call `end_pass`; repeat the same stream until `done`.

    Attributes:
        value, next_value: The values of the rank and of the one above it (infinite if none is).
        tail: The sum of the values from the rank up, if requested.
    """

    def __init__(
        self,
        rank: Callable[[int], int],
        *,
        tail: bool = False,
        bracket: "QuantileBracket | None" = None,
    ) -> None:
        """Search the rank that `rank` gives for a number of values; 0 is the smallest."""
        self.done = False
        self._bracket = bracket
        self.value = self.next_value = self.tail = float("nan")
        self._rank_of = rank
        self._rank = -1  # not known before the first pass has counted
        self._wants_tail = tail
        self._low, self._high = 0, _END  # the value lies in [low, high), as bits
        self._origin, self._shift = _ORIGIN, _SHIFT
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._bins = torch.empty(0, dtype=torch.int64)  # memory that the parts share
        self._below = 0  # how many values are under `low`
        self._n_members = 0  # how many are in [low, high)
        self._members: list[Tensor] | None = None  # those, in the last pass
        self._next = float("inf")  # the smallest value from `high` up, and their sum
        self._sum_above = 0.0

    def look_in(self, bracket: "QuantileBracket") -> None:
        """Set the bracket that likely holds the rank, before the first pass."""
        self._bracket = bracket

    def part(self) -> "StreamingQuantile":
        """Return one for a part of the first pass, with the same bracket, to be joined."""
        assert self._bracket is not None, "there is no bracket"
        bracket = self._bracket.part()
        return StreamingQuantile(self._rank_of, tail=self._wants_tail, bracket=bracket)

    def join(self, part: "StreamingQuantile") -> None:
        """Merge a part."""
        assert self._bracket is not None, "the pass is over"
        assert part._bracket is not None, "the pass is over"
        self._bracket.join(part._bracket)

    @property
    def floor(self) -> float:
        """Bound below which `add` needs only the number of values."""
        return 0.0 if self._bracket is None else self._bracket.low

    def add(self, values: Float[Tensor, " N"], *, below: int = 0) -> None:
        """Add a part of the stream: finite values, none negative; and a number below the floor."""
        if self._bracket is not None:
            self._bracket.add(values, below)
            return
        bits = values.view(torch.int64)
        if self._members is not None:
            self._collect(self._members, values, bits)
            return
        if self._rank >= 0:
            bits = bits[(bits >= self._low) & (bits < self._high)]
        if len(self._bins) < len(bits):
            self._bins = torch.empty_like(bits)
        bins = torch.sub(bits, self._origin, out=self._bins[: len(bits)])
        bins.bitwise_right_shift_(self._shift).clamp_(0, BINS - 1)
        self._counts += torch.bincount(bins, minlength=BINS).cpu().numpy()

    def end_pass(self, infinite: int = 0) -> bool:
        """End a pass over the stream; return True when the value is known.

        `infinite` counts further values, above all that were fed.
        """
        if self._bracket is not None:
            bracket, self._bracket = self._bracket, None
            if bracket.find(self._rank_of, infinite):
                self.value, self.next_value = bracket.value, bracket.next_value
                self.tail = bracket.tail
                self.done = True
        elif self._members is not None:
            self._finish(torch.cat(self._members).cpu().numpy())
        elif self._rank < 0:
            n = int(self._counts.sum())
            self._rank = self._rank_of(n + infinite) if n + infinite else 0
            if self._rank >= n:
                self.value = self.next_value = float("inf") if infinite else float("nan")
                self.done = True
            else:
                self._narrow()
        else:
            self._narrow()
        return self.done

    def _narrow(self) -> None:
        """Go into the bin that holds the rank: collect it if it is small, else count its parts."""
        ends = self._below + np.cumsum(self._counts)
        index = int(np.searchsorted(ends, self._rank, side="right"))
        self._n_members = int(self._counts[index])
        self._below = int(ends[index]) - self._n_members
        low = self._origin + (index << self._shift)
        if index < BINS - 1:  # the end bins reach to the ends
            self._high = min(self._high, low + (1 << self._shift))
        if index > 0:
            self._low = low
        width = self._high - self._low
        if self._n_members <= CAPACITY or width == 1:
            self._members = []
        self._origin = self._low
        self._shift = max(0, (width - 1).bit_length() - 16)
        self._counts = np.zeros(BINS, dtype=np.int64)

    def _collect(self, members: list[Tensor], values: Tensor, bits: Tensor) -> None:
        inside = values[(bits >= self._low) & (bits < self._high)]
        # All members of a bin one wide are equal: one of them stands for any number.
        members.append(inside if self._high - self._low > 1 else inside[:1])
        last = self._rank - self._below == self._n_members - 1
        if last or self._wants_tail:
            above = values[bits >= self._high]
            self._sum_above += float(above.sum())
            self._next = min(self._next, float(above.min()) if len(above) else float("inf"))

    def _finish(self, members: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        place = self._rank - self._below
        if self._high - self._low == 1:
            rest, repeats = members[:1], self._n_members - place
        else:
            assert len(members) == self._n_members, "the stream changed between two passes"
            members.partition(place)
            rest, repeats = members[place:], 1
        self.value = float(rest[0])
        above = [self.value] if repeats > 1 else rest[1:]
        self.next_value = float(min(above)) if len(above) else self._next
        self.tail = self._sum_above + float(rest.sum()) * repeats
        self.done = True


class QuantileBracket:
    """Interval [low, high] that likely holds a rank, by a random sample; members, and the rest.

    Attributes:
        low, high: Its ends.
        value, next_value, tail: As in `StreamingQuantile`, once `find` has found them.
    """

    def __init__(
        self,
        low: float = 0.0,
        high: float = math.inf,
        *,
        tail: bool = False,
        capacity: int = CAPACITY,
    ) -> None:
        """Keep the sum of what is above, too, with `tail`; by default, all values are inside."""
        self.value = self.next_value = self.tail = math.nan
        self.low, self.high = low, high
        self._wants_tail = tail
        self._capacity = capacity
        self._below = self._above = self._n_members = 0
        self._sum_above = 0.0
        # One piece, of which only what is written takes memory: many small ones would scatter.
        self._members: Tensor | None = None

    @classmethod
    def around(
        cls,
        rank: Callable[[int], int],
        sample: Float[Tensor, " N"],
        *,
        n: int,
        tail: bool = False,
    ) -> "QuantileBracket":
        """Return a bracket of the rank of about n values, from a sample, which is overwritten.

        What is infinite in the sample stands for the infinite values that `find` counts.
        """
        n_sample = len(sample)
        if n_sample == 0:
            return cls(tail=tail)
        middle = rank(n_sample)
        share = middle / n_sample
        margin = 1 + math.ceil(ERRORS * math.sqrt(n_sample * share * (1 - share)))
        first, last = middle - margin, middle + margin
        ordered = sample.cpu().numpy()
        if places := [place for place in (first, last) if 0 <= place < n_sample]:
            ordered.partition(places)
        return cls(
            float(ordered[first]) if first >= 0 else 0.0,
            float(ordered[last]) if last < n_sample else math.inf,
            tail=tail,
            capacity=max(CAPACITY, OVERFULL * math.ceil(n * 2 * margin / n_sample)),
        )

    def part(self) -> "QuantileBracket":
        """Return an empty bracket with the same ends."""
        return QuantileBracket(self.low, self.high, tail=self._wants_tail, capacity=self._capacity)

    def join(self, part: "QuantileBracket") -> None:
        """Merge the bracket of another part of the stream, with the same ends; it is used up."""
        n, more = self._n_members, part._n_members
        self._below += part._below
        self._above += part._above
        self._sum_above += part._sum_above
        self._n_members += more
        if part._members is None or self._n_members > self._capacity:
            return
        if self._members is None:
            self._members = part._members
        else:
            self._members[n : n + more] = part._members[:more]
        part._members = None  # its memory is free before the next one is joined

    def add(self, values: Float[Tensor, " N"], below: int = 0) -> None:
        """Add a part of the stream, and the number of its other values, below the low end."""
        from_low = tiles.greater_equal(values, self.low)
        n_from_low = tiles.count_true(from_low)
        self._below += below + values.numel() - n_from_low
        above = tiles.greater(values, self.high)
        n_above = tiles.count_true(above)
        n_inside = n_from_low - n_above
        self._above += n_above
        self._n_members += n_inside
        if self._wants_tail and n_above:
            self._sum_above += float(tiles.masked(values, above).sum())
        if self.low == self.high:  # all members are equal: their number is enough
            return
        if self._members is None:
            self._members = values.new_empty(self._capacity)
        if n_inside and self._n_members <= self._capacity:
            place = self._n_members - n_inside
            inside = from_low.logical_xor_(above)
            self._members[place : self._n_members] = tiles.masked(values, inside)

    def find(self, rank_of: Callable[[int], int], infinite: int) -> bool:
        """End the stream; return False if the rank, or the one above, is not in the bracket."""
        n = self._below + self._n_members + self._above
        rank = rank_of(n + infinite) if n + infinite else 0
        if rank >= n:
            self.value = self.next_value = math.inf if infinite else math.nan
            return True
        place = rank - self._below
        last = place == self._n_members - 1
        if not 0 <= place < self._n_members or (last and self._above):
            return False
        if self.low == self.high:
            self.value = self.low
            self.next_value = math.inf if last else self.low
            self.tail = self._sum_above + (self._n_members - place) * self.low
            return True
        if self._members is None or self._n_members > self._capacity:
            return False
        members = self._members[: self._n_members].cpu().numpy()
        members.partition([place, min(place + 1, self._n_members - 1)])
        self.value = float(members[place])
        self.next_value = math.inf if last else float(members[place + 1])
        self.tail = self._sum_above + float(members[place:].sum())
        return True


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Some pairs i < j of classes with their values."""

    i: Int64[Tensor, " m"]
    j: Int64[Tensor, " m"]
    values: Float64[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.values)


class Extremes:
    """Largest or smallest m values of a stream of tiles, and their places."""

    def __init__(self, m: int, *, largest: bool) -> None:
        self._m = m
        self._sign = 1 if largest else -1
        # Of the pairs so far, in their order: sign * value, i, j.
        self._values = np.empty(0)
        self._places = np.empty((2, 0), dtype=np.int64)

    def add(
        self,
        values: Float[Tensor, "I J"],
        kept: Bool[Tensor, "I J"] | None,
        valid: Float[Tensor, " N"],
        row: int,
        column: int,
    ) -> None:
        """Add a tile whose first pair is (row, column); `valid` are its values that count."""
        if len(valid) == 0:
            return
        full = len(self._values) == self._m
        best = tiles.maximum(valid) if self._sign > 0 else -tiles.minimum(valid)
        if full and best < self._values[-1]:  # the rule, once a few tiles are through
            return
        signed = (values if self._sign > 0 else -values).flatten()
        if kept is not None:
            signed = signed.where(kept.flatten(), -math.inf)
        bound = float(self._values[-1]) if full else -math.inf
        if len(valid) > self._m:
            bound = max(bound, float(signed.topk(self._m).values[-1]))
        # In a tile, places ascend as (i, j) do: of those that tie at the bound, the first ones.
        above = (signed > bound).nonzero().flatten()
        ties = (signed == bound).nonzero().flatten()[: self._m]
        if bound == -math.inf:  # no bound yet: those are not kept
            ties = ties[:0]
        places = torch.cat([above, ties])
        at = places.cpu().numpy()
        i, j = at // values.shape[1] + row, at % values.shape[1] + column
        self._keep(signed[places].cpu().numpy(), np.stack([i, j]))

    def join(self, other: "Extremes") -> None:
        """Merge another part of the stream, which has other places."""
        self._keep(other._values, other._places)

    def _keep(
        self,
        values: np.ndarray[tuple[int], np.dtype[np.float64]],
        places: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    ) -> None:
        values = np.concatenate([self._values, values])
        places = np.concatenate([self._places, places], axis=1)
        order = np.lexsort((places[1], places[0], -values))[: self._m]
        self._values, self._places = values[order], places[:, order]

    def pairs(self) -> Pairs:
        """Return the extreme pairs, in order."""
        i, j = torch.from_numpy(self._places)
        return Pairs(i, j, torch.from_numpy(self._sign * self._values))
