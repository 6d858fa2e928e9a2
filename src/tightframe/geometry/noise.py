r"""What sampling whole documents adds to class means, from their sums by group of documents.

Samples of one document depend on each other, groups of documents don't. With :math:`p_{gc}` the
share of class c that group g holds, and :math:`\delta_{gc} = p_{gc} (\mu_{gc} - \mu_c)` how far it
draws the class mean towards its own, the expected squared error of a class mean is estimated by

.. math::
    v_c = \sum_g b_{gc} \lVert \delta_{gc} \rVert^2, \qquad
    b_{gc} = \frac{1}{1 - 2 p_{gc}} \Big/ \Big(1 + \sum_h \frac{p_{hc}^2}{1 - 2 p_{hc}}\Big)

which is without bias whatever the groups' variances and however unequal their shares (for G equal
ones, b = G / (G - 1)). It needs a class of which no group holds more than half: nothing tells how
far a group that rules the mean has drawn it.

A deviation that all classes of a document have in common (its topic, its style) joins the errors of
two classes. In group g its squared length is what their :math:`\delta` have in common,

.. math::
    t_g = \sum_{i \ne j} \sqrt{b_{gi} b_{gj}} \langle \delta_{gi}, \delta_{gj} \rangle
          \Big/ \sum_{i \ne j} p_{gi} p_{gj}, \qquad
    C_{ij} = \sum_g t_g \, p_{gi} p_{gj}

so that the sum of the covariances over all pairs of classes is that of their group means, and a
pair has its part of it by its shares. Each pair for itself would cost G sweeps over pairs in place
of one, and tell the same averages.

In a resample of the groups the estimates stay those of all groups, of which those are added up that
are kept: few groups tell little of their own variance.

Axes: C classes of the moments, k classes that have an estimate, G groups, D embedding.
"""

import dataclasses
from collections.abc import Collection
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.segments import squared_norms


class Joint(NamedTuple):
    r"""Covariances of the errors of class means, :math:`C_{ij} = \sum_g t_g p_{gi} p_{gj}`."""

    shares: Float[Tensor, "k G"]
    shifts: Float[Tensor, " G"]

    def of(self, ids: Tensor) -> "Joint":
        """Return those of some classes."""
        return Joint(self.shares[ids], self.shifts)

    def between(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return two factors whose product they are, of a tile."""
        return self.shares[rows] * self.shifts, self.shares[columns].T


@dataclasses.dataclass(frozen=True, eq=False)
class GroupNoise:
    """Contributions of each group of documents to the errors of some class means."""

    ids: Int64[Tensor, " k"]  # ascending
    counts: Float64[Tensor, "k G"]
    parts: Float64[Tensor, "k G"]  # estimated variance of the sum over a group's samples
    shifts: Float64[Tensor, " G"]  # t_g; may be negative where there is none

    def of(self, ids: Int64[Tensor, " n"]) -> "GroupNoise":
        """Return that of some of these classes, in the order asked for."""
        places = torch.searchsorted(self.ids, ids)
        return GroupNoise(ids, self.counts[places], self.parts[places], self.shifts)

    def without(self, groups: Collection[int]) -> "GroupNoise":
        """Return that of the class means without some groups."""
        kept = torch.tensor([g not in groups for g in range(len(self.shifts))])
        kept = kept.to(self.shifts.device)
        return GroupNoise(self.ids, self.counts[:, kept], self.parts[:, kept], self.shifts[kept])

    @cached_property
    def own(self) -> Float64[Tensor, " k"]:
        """Expected squared error of each class mean."""
        return self.parts.sum(1) / self.counts.sum(1).square()

    @cached_property
    def shares(self) -> Float64[Tensor, "k G"]:
        """Share of each class that each group holds."""
        return self.counts / self.counts.sum(1, keepdim=True)

    @property
    def joint(self) -> Joint:
        """Factors that a sweep over pairs needs besides `own`."""
        return Joint(self.shares, self.shifts)

    @cached_property
    def rows(self) -> Float64[Tensor, " k"]:
        """Sum of each class's covariances with all classes, its own variance included."""
        others = self.shares.sum(0) - self.shares
        return self.own + (self.shifts * self.shares * others).sum(1)

    def between(self, weights: Float64[Tensor, " k"]) -> float:
        """Sum of the covariances over ordered pairs of two classes, a pair weighted w_i w_j."""
        weighted = self.shares * weights[:, None]
        squares = weighted.sum(0).square() - weighted.square().sum(0)
        return float(self.shifts @ squares)


def told_by_groups(counts: Int64[Tensor, "G C"]) -> Bool[Tensor, " C"]:
    """Tell of which classes no group holds more than half, so that their noise can be estimated."""
    total = counts.sum(0)
    return (total > 0) & (2 * counts.amax(0) <= total)


def group_noise(moments: ClassMoments, ids: Int64[Tensor, " k"]) -> GroupNoise:
    """Estimate the noise of the means of classes that are `told_by_groups`, ids ascending."""
    counts = moments.counts_by_group[:, ids].T.double()  # (k, G)
    total = counts.sum(1, keepdim=True)
    shares = counts / total
    rest = total - 2 * counts  # (1 - 2 p) times the total: whole numbers, 0 at a half
    least = rest.amin(1, keepdim=True)
    # 1 / (1 - 2 p) over its largest, which is 1 also where that is infinite.
    relative = torch.where(rest == least, 1.0, least / rest.clamp(min=1))
    factors = relative / (least / total + (relative * shares.square()).sum(1, keepdim=True))
    means = moments.of_classes(ids).means
    lengths = torch.zeros_like(shares)
    shifts = shares.new_zeros(moments.n_groups)
    for group in range(moments.n_groups):
        weights = shares[:, group] * factors[:, group].sqrt()
        drawn = (moments.of_group(group, ids).means - means).mul_(weights[:, None])  # (k, D)
        lengths[:, group] = squared_norms(drawn)
        pairs = shares[:, group].sum().square() - shares[:, group].square().sum()
        joint = drawn.sum(0).square().sum() - lengths[:, group].sum()
        if int((counts[:, group] > 0).sum()) > 1:
            shifts[group] = joint / pairs
    return GroupNoise(ids, counts, lengths * total.square(), shifts)
