"""Statistics of pairs, tile by tile: moments, order statistics, rows, nearest, extreme pairs.

A `Reduction` adds the values of one quantity tile by tile and keeps O(k) numbers. Neither the size
of tiles nor their division into parts changes a result: sums are merged by Chan's formula, ranks
are exact, and ties go to the smallest index.

Axes: k classes, I and J rows and columns of a tile, N pairs of a tile.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tightframe.geometry import tiles
from tightframe.geometry.order_statistics import Extremes, Pairs, QuantileBracket, StreamingQuantile

# A sum of squares keeps its digits where this share of it, at least, is about the mean.
SPREAD = 1e-4


@dataclasses.dataclass
class RunningMoments:
    """Count, mean and sum of squared deviations of a stream of numbers."""

    n: int = 0
    mean: float = math.nan
    squares: float = 0.0  # sum of squared deviations from the mean

    def take(self, values: Float[Tensor, " N"]) -> None:
        """Add a part by Chan's formula; its memory may be overwritten by deviations."""
        if (n := values.numel()) == 0:
            return
        mean = float(values.sum()) / n
        square = float(values @ values)
        squares = square - n * mean * mean
        if not squares > SPREAD * square:
            deviations = values.sub_(mean)
            squares = float(deviations @ deviations)
        self.join(RunningMoments(n, mean, squares))

    def join(self, part: "RunningMoments") -> None:
        """Merge another stream."""
        if self.n == 0 or part.n == 0:
            if self.n == 0:
                self.n, self.mean, self.squares = part.n, part.mean, part.squares
            return
        shift, before = part.mean - self.mean, self.n
        self.n += part.n
        self.mean += shift * (part.n / self.n)
        self.squares += part.squares + shift * shift * (before * part.n / self.n)

    @property
    def effective(self) -> float:
        """Effective number of values that the sum rests on: (sum x)^2 / sum x^2."""
        square = self.squares + self.n * self.mean**2
        return (self.n * self.mean) ** 2 / square if square > 0 else math.nan

    def variance(self, *, ddof: int) -> float:
        """Return the variance with divisor n - ddof; NaN where that is not positive."""
        return self.squares / (self.n - ddof) if self.n > ddof else math.nan


# fmt: off
Aggregate: TypeAlias = Literal[
    "moments", "logs", "mean_log", "roots", "median", "tail", "tail001",
    "least", "riesz", "nearest", "rows", "largest", "smallest",
]
# fmt: on
# The rank of each order statistic among n values; a tail is what lies there and above.
RANKS: dict[str, Callable[[int], int]] = {
    "median": lambda n: (n - 1) // 2,
    "tail": lambda n: n - -(-n // 100),
    "tail001": lambda n: n - -(-n // 1000),
}
# Fewer pairs are kept for their median and tails; of more, a sample says which ones.
KEPT = 1 << 17
# Where the largest power's logarithm is no larger, nothing that counts over- or underflows.
SAFE_LOG = 600


@dataclasses.dataclass
class PairSummary:
    """Statistics of the pairs of k classes; what was not requested stays empty."""

    pairs: int  # k (k - 1) / 2, with those that have no value
    n: int = 0  # those that have one
    ranked: int = 0  # those that a median is over: also the ones that are debiased to 0 or less
    values: RunningMoments = dataclasses.field(default_factory=RunningMoments)
    # Of the positive ones; of "mean_log" alone, the sum of squares is NaN.
    logs: RunningMoments = dataclasses.field(default_factory=RunningMoments)
    roots: RunningMoments = dataclasses.field(default_factory=RunningMoments)
    middle: tuple[float, float] = (math.nan, math.nan)  # whose mean is the median
    tail_share: float = math.nan  # of the sum, held by the largest 1 % of the values
    tail001_share: float = math.nan  # by the largest 0.1 %
    least: float = math.inf
    log_riesz: float = -math.inf  # ln of the sum of value ** (-(D - 2) / 2)
    nearest: Float[Tensor, " k"] | None = None  # least value of each class; inf where none
    nearest_ids: Int64[Tensor, " k"] | None = None  # the other class of it; -1 where none
    row_sums: Float[Tensor, " k"] | None = None  # of the values of each class with all others
    row_counts: Int64[Tensor, " k"] | None = None  # how many those are
    largest: Pairs | None = None  # descending; ties by i, then by j
    smallest: Pairs | None = None  # ascending; ties by i, then by j

    @property
    def row_means(self) -> Float[Tensor, " k"]:
        """Mean value of each class with all others; NaN where none has a value."""
        assert self.row_sums is not None, "'rows' were not requested"
        assert self.row_counts is not None
        return self.row_sums / self.row_counts


class Reduction:
    """Reduction of one quantity over all tiles to the requested statistics.

    Args:
        k: Classes; only tiles of them are to be given.
        wanted: Aggregates to compute.
        dim: D, which the exponent of the Riesz kernel depends on.
        debiased: What pairs debiased to distance 0 or less count as to the median, "infinite"
            or "zero"; None where nothing is debiased.
        extremes: How many of the largest and smallest pairs are kept.
        device: Of the tiles.
    """

    def __init__(
        self,
        k: int,
        wanted: Collection[Aggregate],
        *,
        dim: int,
        debiased: Literal["infinite", "zero"] | None,
        extremes: int,
        device: torch.device,
    ) -> None:
        self.summary = summary = PairSummary(k * (k - 1) // 2)
        self._wanted = set(wanted)
        self._dim, self._debiased = dim, debiased
        self._empty = functools.partial(
            Reduction, k, dim=dim, debiased=debiased, extremes=extremes, device=device
        )
        if "nearest" in wanted:
            summary.nearest = torch.full((k,), math.inf, dtype=torch.float64, device=device)
            summary.nearest_ids = torch.full((k,), -1, device=device)
        if "rows" in wanted:
            summary.row_sums = torch.zeros(k, dtype=torch.float64, device=device)
            summary.row_counts = torch.zeros(k, dtype=torch.int64, device=device)
        self._extremes = {
            name: Extremes(extremes, largest=name == "largest")
            for name in ("largest", "smallest")
            if name in wanted
        }
        self._selections: dict[str, StreamingQuantile] = {}
        for name in (name for name in RANKS if name in wanted):
            bracket = QuantileBracket(tail=(tail := name != "median"))
            self._selections[name] = StreamingQuantile(RANKS[name], tail=tail, bracket=bracket)
        self._sample: list[tuple[Tensor, Tensor]] = []  # what is ranked, and what is valid

    @property
    def wants_sample(self) -> bool:
        """True if a random sample before the first pass would save further passes."""
        return bool(self._selections) and self.summary.pairs > KEPT

    @property
    def only_mean_log(self) -> bool:
        """True if the sum of logarithms is all that is requested."""
        return self._wanted == {"mean_log"} and not self._selections

    def sample(
        self, values: Float[Tensor, "I J"], base: Float[Tensor, "I J"], *, least: float
    ) -> None:
        """Add a tile of random pairs, as in `add`, which only locate the ranks."""
        kept, valid, ranked = self._counted(values, base, least)
        if kept is None:  # the memory of all tiles
            valid = ranked = valid.clone()
        infinite = values.numel() - len(valid) if self._debiased == "infinite" else 0
        if infinite:
            ranked = torch.cat([ranked, ranked.new_full((infinite,), math.inf)])
        self._sample.append((ranked, valid))

    def end_sample(self) -> None:
        """End the sample: choose where the ranks are to be searched."""
        valid = torch.cat([valid for _, valid in self._sample])
        same = all(ranked is valid for ranked, valid in self._sample)
        ranked = valid if same else torch.cat([ranked for ranked, _ in self._sample])
        self._sample.clear()
        for name, selection in self._selections.items():
            sample, tail = (ranked, False) if name == "median" else (valid, True)
            n = self.summary.pairs
            selection.look_in(QuantileBracket.around(RANKS[name], sample, n=n, tail=tail))

    def part(self) -> "Reduction":
        """Return an empty reduction for some tiles of the first pass, to be joined at its end."""
        part = self._empty(self._wanted)
        part._selections = {name: it.part() for name, it in self._selections.items()}
        return part

    def join(self, part: "Reduction") -> None:
        """Merge a part."""
        mine, its = self.summary, part.summary
        mine.n += its.n
        mine.ranked += its.ranked
        mine.least = min(mine.least, its.least)
        mine.log_riesz = float(np.logaddexp(mine.log_riesz, its.log_riesz))
        for name in ("values", "logs", "roots"):
            getattr(mine, name).join(getattr(its, name))
        if mine.row_sums is not None and mine.row_counts is not None:
            assert its.row_sums is not None
            assert its.row_counts is not None
            mine.row_sums += its.row_sums
            mine.row_counts += its.row_counts
        if mine.nearest is not None and mine.nearest_ids is not None:
            assert its.nearest is not None
            assert its.nearest_ids is not None
            first = (its.nearest == mine.nearest) & (its.nearest_ids < mine.nearest_ids)
            nearer = (its.nearest < mine.nearest) | first
            mine.nearest = its.nearest.where(nearer, mine.nearest)
            mine.nearest_ids = its.nearest_ids.where(nearer, mine.nearest_ids)
        for name, extremes in self._extremes.items():
            extremes.join(part._extremes[name])
        for name, selection in self._selections.items():
            selection.join(part._selections[name])

    def add(
        self,
        values: Float[Tensor, "I J"],
        base: Float[Tensor, "I J"],
        rows: slice,
        columns: slice,
        spares: tuple[Float[Tensor, "I J"], Float[Tensor, "I J"]],
        *,
        least: float,
    ) -> None:
        """Add a tile of values, which are overwritten.

        Args:
            values: Of the pairs; finite and not negative where `base` is positive.
            base: Positive where the pair has a value; else it is absent (NaN), its classes
                coincide (0) or are debiased below 0.
            rows, columns: Which classes they are of.
            spares: Memory to work in.
            least: Of the base; NaN if pairs are absent.
        """
        kept, valid, ranked = self._counted(values, base, least)
        self._rank(valid, ranked)
        if not self._wanted:
            return
        self.summary.ranked += ranked.numel()
        self._lower(values, kept, rows, columns)
        self._credit(values, kept, rows, columns)
        for extremes in self._extremes.values():
            extremes.add(values, kept, valid, rows.start, columns.start)
        known = least if values is base and kept is None else None
        spare, other = (spare.flatten()[: valid.numel()] for spare in spares)
        self._reduce(valid, spare, other, known)

    def add_sum_of_logs(self, total: float, n: int) -> None:
        """Add a tile of n positive values of which only the mean logarithm is requested."""
        self.summary.n += n
        self.summary.ranked += n
        self.summary.logs.join(RunningMoments(n, total / n, math.nan))

    def _rank(self, valid: Tensor, ranked: Tensor) -> None:
        """Search the median, and the tails among the few values that may be in one."""
        going = {name: it for name, it in self._selections.items() if not it.done}
        if (median := going.pop("median", None)) is not None:
            median.add(ranked)
        if not going:
            return
        n, floor = valid.numel(), min(tail.floor for tail in going.values())
        if floor > 0:
            valid = tiles.masked(valid, tiles.greater_equal(valid, floor))
        for tail in going.values():
            tail.add(valid, below=n - valid.numel())

    def _counted(
        self, values: Tensor, base: Tensor, least: float
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return which pairs have a value (None: all), those values, and those of a median."""
        if least > 0:
            return None, (valid := values.flatten()), valid
        kept = tiles.greater(base, 0.0)
        valid = tiles.masked(values, kept)
        if self._debiased != "zero":
            return kept, valid, valid
        present = tiles.greater_equal(values, -math.inf)
        return kept, valid, tiles.masked(values, present).clamp_(min=0)

    def end_pass(self) -> bool:
        """End a pass over all tiles; return True when no further one is needed."""
        summary = self.summary
        infinite = summary.pairs - summary.n if self._debiased == "infinite" else 0
        if self._wanted:
            summary.ranked += infinite
            for name, extremes in self._extremes.items():
                setattr(summary, name, extremes.pairs())
        self._wanted = set()
        done = [
            selection.done or selection.end_pass(infinite if name == "median" else 0)
            for name, selection in self._selections.items()
        ]
        if not all(done):
            return False
        if (median := self._selections.get("median")) is not None:
            even = summary.ranked % 2 == 0
            summary.middle = (median.value, median.next_value if even else median.value)
        for name in ("tail", "tail001"):
            if (tail := self._selections.get(name)) is not None and summary.values.mean > 0:
                setattr(summary, f"{name}_share", tail.tail / (summary.n * summary.values.mean))
        return True

    def _reduce(self, values: Tensor, spare: Tensor, other: Tensor, least: float | None) -> None:
        """Add up sums and extremes of the values (N,), which are overwritten."""
        summary, wanted = self.summary, self._wanted
        if values.numel() == 0:
            return
        summary.n += values.numel()
        if least is None:
            least = tiles.minimum(values)
        summary.least = min(summary.least, least)
        if wanted & {"logs", "mean_log", "roots", "riesz"}:
            self._reduce_logs(values, spare, other, least)
        if wanted & {"moments", "tail", "tail001", "largest"}:
            summary.values.take(values)

    def _reduce_logs(self, values: Tensor, spare: Tensor, other: Tensor, least: float) -> None:
        summary, wanted = self.summary, self._wanted
        if not wanted & {"logs", "riesz"}:
            if "roots" in wanted:
                summary.roots.take(tiles.sqrt(values, out=other))
            if "mean_log" in wanted:
                positive = _positive(values, least)
                n = positive.numel()
                if not least > 0 and n:
                    least = tiles.minimum(positive)
                total = tiles.sum_of_logs(positive, least, spare=spare[:n])
                summary.logs.join(RunningMoments(n, total / n if n else math.nan, math.nan))
            return
        positive = _positive(values, least)
        n = positive.numel()
        logs, other_logs = tiles.log(positive, out=spare[:n]), other[:n]
        if "riesz" in wanted and n:
            part = _log_sum_power(logs, -(self._dim - 2) / 2, other_logs, least)
            summary.log_riesz = float(np.logaddexp(summary.log_riesz, part))
        if "roots" in wanted:
            if least > 0:  # the exponential is the faster one
                roots = tiles.exp(torch.mul(logs, 0.5, out=other_logs), out=other_logs)
            else:
                roots = tiles.sqrt(values, out=other)
            summary.roots.take(roots)
        summary.logs.take(logs)

    def _lower(self, values: Tensor, kept: Tensor | None, rows: slice, columns: slice) -> None:
        """Credit the least values of a tile (I, J) to both classes of each pair."""
        nearest, ids = self.summary.nearest, self.summary.nearest_ids
        if nearest is None or ids is None:
            return
        filled = values if kept is None else values.nan_to_num(nan=math.inf)
        # Every class meets the others in the order of their indices, as a column first: whoever
        # comes later must be strictly nearer. Few are, so indices are searched only where it pays.
        for dim, part, others in ((0, columns, rows), (1, rows, columns)):
            least = tiles.minimum_along(filled, dim)
            lower = (least < nearest[part]).nonzero().flatten()
            if len(lower):
                places = tiles.argmin_along(filled, dim, lower)
                nearest[part.start + lower] = least[lower]
                ids[part.start + lower] = others.start + places

    def _credit(self, values: Tensor, kept: Tensor | None, rows: slice, columns: slice) -> None:
        """Add the values of a tile (I, J) to the sums of both classes of each pair."""
        sums, counts = self.summary.row_sums, self.summary.row_counts
        if sums is None or counts is None:
            return
        if kept is not None:
            values = values.where(kept, 0.0)
        for dim, part in ((0, columns), (1, rows)):
            sums[part] += values.sum(dim)
            counts[part] += values.shape[dim] if kept is None else kept.sum(dim)


def _positive(values: Tensor, least: float) -> Tensor:
    """Return the positive values; two singletons have a CDNV of 0."""
    return values if least > 0 else tiles.masked(values, tiles.greater(values, 0.0))


def _log_sum_power(logs: Tensor, exponent: float, spare: Tensor, least: float) -> float:
    """Return ln of the sum of e^(exponent * logs), of numbers (N,) given by their logarithms."""
    powers = torch.mul(logs, exponent, out=spare)
    known = exponent < 0 < least
    largest = exponent * math.log(least) if known else tiles.maximum(powers)
    if not abs(largest) < SAFE_LOG:
        return float(powers.logsumexp(0))
    return math.log(float(tiles.exp(powers, out=powers).sum()))
