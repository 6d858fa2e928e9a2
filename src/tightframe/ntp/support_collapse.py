"""Subspace collapse: how near each other the vectors of contexts with equal supports have come.

Axes: M contexts, N contexts of groups that take part, K length of a vector, G groups.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from tightframe.geometry.moments import ClassMoments
from tightframe.ntp.grouping import EqualColumns
from tightframe.ntp.similarity import unit_rows
from tightframe.ntp.soft_labels import SoftLabels

MOST = 2048  # contexts of a group that take part at most, drawn at random; pairs are its square

Vectors = Callable[[Int[np.ndarray, " B"]], Float[np.ndarray, "B K"]]
"""The vectors of some contexts, a row each."""


@dataclasses.dataclass(frozen=True, eq=False)
class SupportGroups:
    """Groups of at least two contexts with one support.

    Attributes:
        members: The contexts of each group, ascending.
        n_alone: Contexts whose support no other has.
        n_left: Contexts beyond `MOST` of their group.
    """

    members: tuple[Int[np.ndarray, " _"], ...]
    n_alone: int
    n_left: int

    @property
    def n_contexts(self) -> int:
        """N."""
        return sum(map(len, self.members))

    @property
    def excluded(self) -> int:
        """Contexts that take no part."""
        return self.n_alone + self.n_left


@dataclasses.dataclass(frozen=True)
class Collapse:
    """Of the vectors of all groups; NaN where there is no such pair.

    Attributes:
        within: Mean cosine of pairs in one group.
        within_min: Their least.
        between: Mean cosine of pairs in different groups.
        nc1: Spread around the mean of the own group over the spread around the mean of all.
        n_within: Pairs in one group.
        n_between: Pairs in different groups.
        n_zero: Vectors without a direction; they are in no pair.
    """

    within: float
    within_min: float
    between: float
    nc1: float
    n_within: int
    n_between: int
    n_zero: int


def support_groups(labels: SoftLabels, *, most: int = MOST, seed: int = 0) -> SupportGroups:
    """Contexts by their support; of a group larger than `most`, as many are drawn by `seed`."""
    equal = EqualColumns.of(labels.support)
    in_order = np.argsort(equal.members, kind="stable")
    generator = np.random.default_rng(seed)
    members, n_left = [], 0
    for group in np.split(in_order, np.cumsum(equal.counts)[:-1]):
        if len(group) > most:
            n_left += len(group) - most
            group = np.sort(generator.choice(group, most, replace=False))
        if len(group) > 1:
            members.append(group)
    return SupportGroups(tuple(members), int((equal.counts == 1).sum()), n_left)


def collapse(vectors: Vectors, groups: SupportGroups, *, block: int = 4096) -> Collapse:
    """Cosines within and between groups, and NC1 with supports as labels.

    Args:
        vectors: Of contexts.
        groups: Of equal support.
        block: Contexts whose vectors are held at once, or those of the largest group; memory only.
    """
    total: ClassMoments | None = None
    everything, spread = np.zeros(0), 0.0
    pairs, cosines, least, n_nonzero, n_zero, squares = 0, 0.0, math.inf, 0, 0, 0.0
    same = 0
    for part in _parts(groups.members, block):
        rows = vectors(np.concatenate(part))  # (B, K)
        sizes = np.array([len(group) for group in part])
        owners = np.repeat(np.arange(len(part)), sizes)
        own = ClassMoments(len(part), rows.shape[1])
        own.update(torch.from_numpy(rows), torch.from_numpy(owners))
        spread += float(own.within_ss.sum())
        total = total or ClassMoments(1, rows.shape[1])
        total.update(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64))
        units, directed = unit_rows(rows)
        n_zero += int((~directed).sum())
        everything = everything + units.sum(axis=0) if everything.size else units.sum(axis=0)
        for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
            there = directed[start : start + size]
            unit = units[start : start + size][there]  # (n, K)
            n = len(unit)
            n_nonzero, same = n_nonzero + n, same + n * n
            squares += float(np.square(unit.sum(axis=0)).sum())
            if n > 1:
                of_pairs = (unit @ unit.T)[np.triu_indices(n, 1)]
                pairs, cosines = pairs + len(of_pairs), cosines + float(of_pairs.sum())
                least = min(least, float(of_pairs.min()))
    if total is None:
        return Collapse(math.nan, math.nan, math.nan, math.nan, 0, 0, 0)
    # Ordered pairs in different groups: all of them, less those in one group.
    n_between = n_nonzero**2 - same
    between = float(np.square(everything).sum()) - squares
    of_all = float(total.within_ss[0])
    return Collapse(
        within=cosines / pairs if pairs else math.nan,
        within_min=least if pairs else math.nan,
        between=between / n_between if n_between else math.nan,
        nc1=spread / of_all if of_all > 0 else math.nan,
        n_within=pairs,
        n_between=n_between // 2,
        n_zero=n_zero,
    )


def _parts(
    members: Sequence[Int[np.ndarray, " _"]], block: int
) -> Iterator[list[Int[np.ndarray, " _"]]]:
    """Whole groups, as many as `block` contexts hold, at least one."""
    part: list[Int[np.ndarray, " _"]] = []
    held = 0
    for group in members:
        if part and held + len(group) > block:
            yield part
            part, held = [], 0
        part.append(group)
        held += len(group)
    if part:
        yield part
