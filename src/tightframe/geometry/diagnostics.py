"""Diagnostics of class moments: why the documents at hand allow no sound intervals.

Samples may have heavy tails, groups of documents may be alike, and class means may be too near to
be told from their noise.

Sources: Hill 1975 on tails.

Axes: C classes, G groups, K classes that take part.
"""

import math

import torch
from jaxtyping import Bool, Float64, Int64
from scipy.stats import t as student
from torch import Tensor

from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.pairs import Aggregate, Cdnv, sweep
from tightframe.geometry.resampling import GROUPS
from tightframe.geometry.segments import squared_norms

ALIKE = 0.05  # correlation of groups that follow each other beyond which nothing has an interval
# Index of tails below which variances have no intervals, by the share that makes up the tail.
HEAVY = {0.05: 3.5, 0.02: 3.2}
RULED = 0.18  # concentration plus its error beyond which they have none, in 20 groups
UNEVEN = 0.04  # concentration beyond which intervals of medians are narrow, in 20 groups
TAILS = (
    "squared distances to the class means have heavy tails ({}), so that a few samples decide "
    "variances; measures of directions (NC2, NC3) have intervals"
)
NOISY = 3.0  # a squared distance within so many times its noise is mostly noise
NEAR = 1e-4  # share of such pairs beyond which what they decide has no interval


def tail_index(
    counts: Int64[Tensor, "G C"], within_ss: Float64[Tensor, "G C"], share: float
) -> float:
    """Return Hill's index of the mean squared deviations of a class in each group.

    Below 2, squared deviations have no variance, and the mean of some tells little of the next
    ones. Infinite where there are too few numbers for a tail.

    Args:
        counts: Samples of each class in each group.
        within_ss: Their squared distances to the mean of the class in all groups, summed.
        share: Of these mean squared deviations, what makes up the tail.
    """
    shares = within_ss / counts * (counts.sum(0) / within_ss.sum(0))  # of the variance of the class
    ordered = shares[shares > 0].sort(descending=True).values
    n = int(share * len(ordered))
    if n < 10:
        return math.inf
    mean_log = float((ordered[:n] / ordered[n]).log().mean())
    return 1 / mean_log if mean_log else math.inf


def concentration(
    counts: Int64[Tensor, "G C"], spreads: Float64[Tensor, "G C"]
) -> tuple[float, float]:
    r"""Return how far single groups decide the errors of class variances, and its standard error.

    With :math:`z_g = \sqrt{n_g} (v_g / v - 1)` of a class, v its variance and v_g that of group g,
    :math:`q = \sum z_g^4 / (\sum z_g^2)^2` is 1 if one group decides, and for normal errors
    :math:`3 \sum (1 - p_g)^2 / (G^2 - 1)` on average, p_g being the group's share of the class.
    What is returned is the mean of q over classes on a scale from 0 for normal errors to 1.
    Averages of samples with heavy tails never become normal, however many there are; Hill's index
    misses that where groups are large. NaN without classes in three groups.

    Args:
        counts: Samples of each class in each group.
        spreads: Their squared distances to the mean of the class in all groups, summed.
    """
    n = counts.double()
    total, groups = n.sum(0), (counts > 0).sum(0)
    shares = n / total
    ratios = spreads / n.clamp(min=1) * (total / spreads.sum(0))
    squares = n * (ratios - 1).square()  # z^2; 0 where a group has no sample
    decided = squares.square().sum(0) / squares.sum(0).square()
    normal = 3 * ((1 - shares).square() * (counts > 0)).sum(0) / (groups.square() - 1)
    usable = (groups >= 3) & decided.isfinite()
    beyond, scale = (decided - normal)[usable], float((1 - normal)[usable].mean())
    error = math.sqrt(float(beyond.square().mean() - beyond.mean().square()) / max(1, len(beyond)))
    return float(beyond.mean()) / scale, error / scale


def neighbour_correlation(moments: ClassMoments, fixed: Bool[Tensor, " C"]) -> tuple[float, float]:
    r"""Return how class means of groups that follow each other correlate, and its standard error.

    With :math:`u_g = \sqrt{n_g} (\mu_g - \mu)` of a class and v their sum of squares over G - 1,
    independent groups have :math:`\langle u_g, u_{g+1} \rangle = -v \sqrt{p_g p_{g+1}}` on average,
    as the errors add up to 0. What is returned is the mean over classes and pairs of groups of
    :math:`\langle u_g, u_{g+1} \rangle / v + \sqrt{p_g p_{g+1}}`: 0 if groups are independent.
    Its error is that of a mean over pairs of groups; NaN where there are fewer than two.

    Args:
        moments: Kept by group.
        fixed: Classes that take part.
    """
    ids = fixed.nonzero().flatten()
    counts = moments.counts_by_group[:, ids].double()
    means = moments.of_classes(ids).means
    squares = torch.zeros_like(counts)
    products = torch.zeros_like(counts[1:])
    before = torch.zeros_like(means)
    for group in range(moments.n_groups):
        of_group = moments.of_group(group, ids).means
        drawn = (of_group - means) * counts[group].sqrt()[:, None]  # (K, D)
        squares[group] = squared_norms(drawn)
        if group:
            products[group - 1] = (drawn * before).sum(1)
        before = drawn
    groups = (counts > 0).sum(0)
    mean_square = squares.sum(0) / (groups - 1)
    both = (counts[1:] > 0) & (counts[:-1] > 0) & (mean_square > 0)
    shares = counts / counts.sum(0)
    alike = products / mean_square + (shares[1:] * shares[:-1]).sqrt()
    by_pair = (alike.where(both, 0).sum(1) / both.sum(1))[both.any(1)]
    if len(by_pair) < 2:
        return float(by_pair.mean()), math.nan
    return float(by_pair.mean()), float(by_pair.std()) / math.sqrt(len(by_pair))


def alike_groups(moments: ClassMoments, fixed: Bool[Tensor, " C"]) -> str:
    """Tell why groups are no independent samples; "" if those that follow each other differ."""
    alike, error = neighbour_correlation(moments, fixed)
    surely = float(student.ppf(0.999, max(1, moments.n_groups - 2))) * error
    if not alike > max(ALIKE, surely):
        return ""
    return (
        f"groups that follow each other are alike (errors of class means correlate by {alike:.2f}, "
        f"expected {ALIKE:g} or less); use fewer and longer groups (--groups) or more text"
    )


def heavy_tailed(moments: ClassMoments, fixed: Bool[Tensor, " C"]) -> tuple[str, bool]:
    """Tell why tails of the samples allow no intervals of variances, and whether they are heavy."""
    ids = fixed.nonzero().flatten()
    of_groups = [moments.of_group(group, ids) for group in range(moments.n_groups)]
    counts = torch.stack([one.counts for one in of_groups])  # (G, K)
    own = torch.stack([one.within_ss for one in of_groups])
    within_ss = own + counts * _drawn(moments, ids)
    for share, least in HEAVY.items():
        if (index := tail_index(counts, within_ss, share)) < least:
            return TAILS.format(f"index {index:.2f}, expected {least:g} or more"), True
    ruled, error = concentration(counts, within_ss)
    scale = (int((counts.sum(1) > 0).sum()) / GROUPS[0]) ** 0.6
    if ruled + error > RULED * scale:
        found = (
            f"single groups decide the variances of classes: {ruled:.2f} with a standard error of "
            f"{error:.2f}, expected {RULED * scale:.2f} or less together"
        )
        return TAILS.format(found), True
    return "", ruled > UNEVEN * scale


def unresolved(moments: ClassMoments, fixed: Bool[Tensor, " C"]) -> str:
    """Return why pairs of near means allow no intervals of what they decide; "" if they do.

    The logarithm or inverse of a distance that is mostly noise has no series in 1/n.
    """
    ids = fixed.nonzero().flatten()
    counts = moments.counts_by_group[:, ids].double()
    squares = (counts / counts.sum(0)).square()
    # Expected squared error of a class mean, from how far its groups are from it.
    noise = (squares * _drawn(moments, ids)).sum(0) / (1 - squares.sum(0))
    means = moments.of_classes(ids).means
    distances = Cdnv(noise, 1, NOISY * noise)  # its values are those of pairs farther apart
    wanted: set[Aggregate] = {"moments"}
    pairs = sweep(means - means.mean(0), {"far": (distances, wanted)})["far"]
    near = pairs.pairs - pairs.n
    if near <= NEAR * pairs.pairs:
        return ""
    return (
        f"{near:,} of {pairs.pairs:,} pairs of class means are too near to be told from their "
        "noise, and they decide it; raise min_count, or read a median, a ratio of means "
        "(nc1_cdnv_rom_db) or cosines (nc2_equiang_std)"
    )


def _drawn(moments: ClassMoments, ids: Int64[Tensor, " K"]) -> Float64[Tensor, "G K"]:
    """Return the squared distance of each group's mean of a class to the mean of the class."""
    means = moments.of_classes(ids).means
    of_groups = (moments.of_group(group, ids).means for group in range(moments.n_groups))
    return torch.stack([squared_norms(of_group - means) for of_group in of_groups])
