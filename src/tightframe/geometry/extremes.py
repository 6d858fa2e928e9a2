"""The extreme pairs of a stream of tiles: their values, and where they are.

Axes: I and J rows and columns of a tile, N pairs of a tile, m extreme pairs.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tightframe.geometry import elementwise

__all__ = ["Extremes", "Pairs"]


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Some pairs i < j of classes with their values."""

    i: Int64[Tensor, " m"]
    j: Int64[Tensor, " m"]
    values: Float64[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.values)


class Extremes:
    """The m largest or smallest values of a stream of tiles, and where they are."""

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
        """Take a tile whose first pair is (row, column); `valid` are its values that count."""
        if len(valid) == 0:
            return
        full = len(self._values) == self._m
        best = elementwise.greatest(valid) if self._sign > 0 else -elementwise.least(valid)
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
        """Take the pairs of another part of the stream, which has other places."""
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
        """Those that were found, in order."""
        i, j = torch.from_numpy(self._places)
        return Pairs(i, j, torch.from_numpy(self._sign * self._values))
