"""Classes by how often they occur: every measure can be taken in each stratum on its own."""

import math

from jaxtyping import Bool, Int
from torch import Tensor

# Half-open bins of the samples of a class begin here; the last has no end.
EDGES = (1, 2, 5, 10, 30, 100, 300, 1_000, 10_000, 100_000, 1_000_000)


def strata(counts: Int[Tensor, " C"]) -> dict[str, Bool[Tensor, " C"]]:
    """Which classes are in each bin of their training counts, by name; empty ones are left out.

    A name says which counts are in it: "count 1", "count 100-299", "count 1000000-".
    """
    masks = {}
    for low, high in zip(EDGES, (*EDGES[1:], math.inf), strict=True):
        inside = (counts >= low) & (counts < high)
        if bool(inside.any()):
            last = "" if math.isinf(high) else f"{int(high) - 1}"
            masks[f"count {low}" if last == f"{low}" else f"count {low}-{last}"] = inside
    return masks
