"""Scores of many candidates against many embeddings, swept in tiles that stay in the cache.

A score is an inner product and an offset. A sweep keeps the best candidate of each embedding and
the margin to the second best, and on request the logarithm of the sum of exponentials; the
scores of a batch never exist together. Float32 tiles are a filter: `resolve` decides what they
leave open in float64, over all candidates. Scores that are the same to float64's own error are a
tie, and the smallest id wins, whatever the order in which a machine sums. `ScoreTable.ahead` counts
the candidates before a given one by the same rule.

Axes: n embeddings, V vocabulary, K candidates, J candidates of a tile, D embedding.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

TILE = 2048  # candidates scored at once
BLOCK = 64  # candidates of which a tile keeps the best only; those of the winner are looked into
ROWS = 512  # embeddings scored at once in float64


class Top(NamedTuple):
    """Best score among some candidates, with the margin that it needs."""

    ids: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    runners_up: Float[Tensor, " n"]  # second-best scores; -inf where there is one candidate
    tolerances: Float[Tensor, " n"]  # a smaller margin means nothing

    @classmethod
    def cat(cls, parts: Sequence["Top"]) -> "Top":
        """Concatenate the tops of several batches."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def join(self, other: "Top") -> "Top":
        """Return the best among the candidates of both; the smaller id if they are equal."""
        tolerances = torch.maximum(self.tolerances, other.tolerances)
        equal = (self.scores - other.scores).abs() <= tolerances
        ahead = torch.where(equal, self.ids < other.ids, self.scores > other.scores)
        return Top(
            torch.where(ahead, self.ids, other.ids),
            torch.maximum(self.scores, other.scores),
            torch.maximum(
                torch.minimum(self.scores, other.scores),
                torch.where(ahead, self.runners_up, other.runners_up),
            ),
            tolerances,
        )


class ScoreTable:
    """Candidates whose score for h is <row - centre, h - centre> + offset.

    Without offsets given it is -norm(row - centre)^2 / 2 where there is a centre, so that the
    largest score is that of the nearest row, and 0 where there is none. With `unit`, rows are
    scaled to norm 1 once they are centred, and the offset is 0: the largest score is that of the
    row at the smallest angle, seen from the centre. No row may be the centre then. Rows of `source`
    are those of all ids, or where `aligned` one row per candidate in the order of `ids`.
    """

    def __init__(
        self,
        source: Float[Tensor, "rows D"],
        ids: Int[Tensor, " K"],  # ascending
        dtype: torch.dtype,
        *,
        centre: Float64[Tensor, " D"] | None = None,
        offsets: Float64[Tensor, " V"] | None = None,
        unit: bool = False,
        aligned: bool = False,
    ) -> None:
        dim, device = source.shape[1], source.device
        self._source, self._ids, self._centre, self._unit = source, ids, centre, unit
        self._aligned = aligned
        self._offsets = torch.zeros(len(ids), dtype=torch.float64, device=device)
        if offsets is not None:
            self._offsets = offsets[ids]
        # A whole number of blocks: what is added can't win.
        n_padded = -(-len(ids) // BLOCK) * BLOCK
        self._rows = torch.zeros(n_padded, dim, dtype=dtype, device=device)
        largest = torch.zeros((), dtype=torch.float64, device=device)
        for start in range(0, len(ids), TILE):
            rows = self._exact_rows(start)  # (J, D)
            squared = rows.square().sum(1)
            largest = torch.maximum(largest, squared.max())
            self._rows[start : start + len(rows)] = rows
            if centre is not None and not unit:
                self._offsets[start : start + len(rows)] = squared / -2
        self._padded_offsets = self._rows.new_full((n_padded,), -math.inf)
        self._padded_offsets[: len(ids)] = self._offsets
        self._largest_row, self._largest_offset = largest.sqrt(), self._offsets.abs().max()

    def sweep(
        self,
        embeddings: Float64[Tensor, "n D"],
        buffers: Float[Tensor, "2 n tile"],
        total: "LogSum | None" = None,
    ) -> Top:
        """Find the best candidate in the precision of the tiles; `total` adds every score."""
        exact_points = self._centred(embeddings)
        points = exact_points.to(self._rows.dtype)
        n = len(points)
        best = points.new_full((n,), -math.inf)
        runners_up = best.clone()
        winners = points.new_full((n, BLOCK), -math.inf)  # scores of the block with the best
        place = torch.zeros(n, dtype=torch.int64, device=points.device)  # where it begins
        for start in range(0, len(self._rows), TILE):
            rows = self._rows[start : start + TILE]  # (J, D)
            tile = buffers[0, :, : len(rows)]  # (n, J)
            torch.addmm(self._padded_offsets[start : start + TILE], points, rows.T, out=tile)
            blocks = tile.view(n, len(rows) // BLOCK, BLOCK)
            peaks = blocks.amax(2)  # (n, J / BLOCK)
            highest, block, others = _two_largest(peaks)  # (n,)
            if total is not None:
                total.add(tile[:, : len(self._ids) - start], highest, buffers[1])
            members = blocks.gather(1, block[:, None, None].expand(n, 1, BLOCK)).squeeze(1)
            runners_up = torch.maximum(runners_up, others)
            runners_up = torch.maximum(runners_up, torch.minimum(best, highest))
            ahead = highest > best
            winners = torch.where(ahead[:, None], members, winners)
            place = torch.where(ahead, start + block * BLOCK, place)
            best = torch.maximum(best, highest)
        _, within, others = _two_largest(winners)
        runners_up = torch.maximum(runners_up, others)
        tolerances = self._tolerances(exact_points, self._rows.dtype).to(best.dtype)
        return Top(self._ids[place + within], best, runners_up, tolerances)

    def exact(self, embeddings: Float64[Tensor, "n D"]) -> Top:
        """Find the best candidate in float64, the smallest id among equal ones."""
        points = self._centred(embeddings)
        slack = self._tolerances(points, torch.float64)
        best = points.new_full((len(points),), -math.inf)
        ids = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        for start in range(0, len(self._ids), TILE):
            scores = points @ self._exact_rows(start).T  # (n, J)
            scores += self._offsets[start : start + TILE]
            highest = scores.amax(1)
            # The first of those that are equal but for the order of a sum: argmax takes it.
            first = (scores >= (highest - slack)[:, None]).byte().argmax(1)
            ahead = highest > best + slack
            ids = torch.where(ahead, self._ids[start + first], ids)
            best = torch.where(ahead, highest, best)
        return Top(ids, best, best, slack)

    def ahead(
        self,
        embeddings: Float64[Tensor, "n D"],
        ids: Int[Tensor, " n"],
        buffers: Float[Tensor, "2 n tile"],
    ) -> Int[Tensor, " n"]:
        """Count the candidates that score above the one of each embedding, as float64 decides.

        Of equal scores, those of smaller ids are above. What a tile leaves open is decided
        in float64, for that tile only: among many thousand scores, some are always close.
        """
        points = self._centred(embeddings)
        places = torch.searchsorted(self._ids, ids)
        own = (points * self._exact(places)).sum(1) + self._offsets[places]  # (n,)
        slack = self._tolerances(points, torch.float64)
        margin = self._tolerances(points, self._rows.dtype)
        swept = points.to(self._rows.dtype)
        low, high = ((own + sign * margin).to(swept.dtype)[:, None] for sign in (-1, 1))
        counts = torch.zeros_like(ids)
        for start in range(0, len(self._ids), TILE):
            rows = self._rows[start : start + TILE]  # (J, D)
            tile, flags = buffers[:, :, : len(rows)]  # (n, J)
            torch.addmm(self._padded_offsets[start : start + TILE], swept, rows.T, out=tile)
            inside = ((places >= start) & (places < start + len(rows))).nonzero().flatten()
            tile[inside, places[inside] - start] = -math.inf  # else each were unsure of itself
            above = torch.gt(tile, high, out=flags).sum(1)
            possible = torch.ge(tile, low, out=flags).sum(1)
            unsure = (possible > above).nonzero().flatten()
            counts += above.long()
            if len(unsure):
                scores = points[unsure] @ self._exact_rows(start).T  # (unsure, J)
                scores += self._offsets[start : start + TILE] - own[unsure, None]
                first = self._ids[start : start + TILE] < ids[unsure, None]
                bound = slack[unsure, None]
                exact = (scores > bound) | ((scores.abs() <= bound) & first)
                counts[unsure] += exact.sum(1) - above[unsure].long()
        return counts

    def _exact_rows(self, start: int) -> Float64[Tensor, "J D"]:
        return self._exact(slice(start, start + TILE))

    def _exact(self, places: slice | Int[Tensor, " J"]) -> Float64[Tensor, "J D"]:
        """Return candidates by their place among all, in float64."""
        rows = self._source[places if self._aligned else self._ids[places]].double()
        if self._centre is not None:
            rows = rows - self._centre
        return rows / rows.square().sum(1, keepdim=True).sqrt() if self._unit else rows

    def _centred(self, embeddings: Float64[Tensor, "n D"]) -> Float64[Tensor, "n D"]:
        return embeddings if self._centre is None else embeddings - self._centre

    def _tolerances(
        self, points: Float64[Tensor, "n D"], dtype: torch.dtype
    ) -> Float64[Tensor, " n"]:
        """Return the margins that rounding of rows, points, offsets and sums can make."""
        eps = torch.finfo(dtype).eps
        norms: Tensor = torch.linalg.vector_norm(points, dim=1)
        products = 4 * eps * math.sqrt(points.shape[1]) * self._largest_row * norms
        return products + 2 * eps * self._largest_offset


def _two_largest(
    scores: Float[Tensor, "n J"],
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the largest of each row, its place, and the second; overwrites the largest."""
    largest, where = scores.max(1)
    return largest, where, scores.scatter_(1, where[:, None], -math.inf).amax(1)


class LogSum:
    """Logarithm of a sum of exponentials that come tile by tile, in powers of two.

    `exp2` is several times as fast as `exp`, and stays so where powers underflow.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "n D"],
        dtype: torch.dtype,
        finish: Callable[[Tensor], Tensor] | None,
    ) -> None:
        # Factor and shift are rounded to the type of the tiles once, so that the end undoes to
        # the last digit what the tiles do: logits of hundreds would show the difference.
        self._factor = torch.tensor(1 / math.log(2), dtype=dtype).item()
        self._shift = embeddings.new_full((len(embeddings),), -math.inf, dtype=dtype)
        self._sum = embeddings.new_zeros(len(embeddings), dtype=torch.float64)
        self._finish = finish

    def add(
        self,
        tile: Float[Tensor, "n J"],
        highest: Float[Tensor, " n"],
        buffer: Float[Tensor, "n tile"],
    ) -> None:
        """Add a tile of scores, whose largest are `highest`."""
        if self._finish is not None:
            tile, highest = self._finish(tile), self._finish(highest)
        shift = torch.maximum(self._shift, highest * self._factor)
        powers = buffer[:, : tile.shape[1]]
        torch.add(-shift[:, None], tile, alpha=self._factor, out=powers).exp2_()
        self._sum *= (self._shift.double() - shift.double()).exp2_()
        self._sum += powers.sum(1)
        self._shift = shift

    def value(self) -> Float64[Tensor, " n"]:
        """Return the natural logarithm of the sum."""
        return (self._shift.double() + self._sum.log2()) / self._factor


def resolve(
    embeddings: Float[Tensor, "n D"], tables: Sequence[ScoreTable], tops: Sequence[Top]
) -> tuple[Int[Tensor, " n"], int]:
    """Return the best of several tables, and how many had to be decided in float64.

    Args:
        embeddings: What was swept.
        tables: Tables that share no candidate.
        tops: What the sweep of each gave.
    """
    top = functools.reduce(Top.join, tops)
    close = (top.scores - top.runners_up <= top.tolerances).nonzero().flatten()
    ids = top.ids
    for rows in close.split(ROWS) if len(close) else ():
        exact = [table.exact(embeddings[rows].double()) for table in tables]
        ids = ids.index_copy(0, rows, functools.reduce(Top.join, exact).ids)
    return ids, len(close)
