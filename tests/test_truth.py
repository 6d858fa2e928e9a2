"""Debiased estimators against a known truth: a Gaussian mixture of 200 classes in 64 dimensions.

Class means are N(0, I/D), samples N(mean, I/D), so that a class's true variance is 1. What n
samples of a class come to is drawn directly: their mean is N(mean, I/(nD)), and their spread is
chi-squared with (n - 1) D degrees of freedom, over D.
"""

import numpy as np
import pytest
import torch

from tightframe.geometry import metrics
from tightframe.geometry.closed_forms import select
from tightframe.geometry.moments import ClassMoments

K, D = 200, 64
COUNTS = [2, 5, 20, 100, 1000]
MEASURES = [
    *("nc1_cdnv", "nc1_cdnv_med", "nc1_cdnv_rom", "nc1_cdnv_db", "nc1_cdnv_med_db"),
    *("nc1_cdnv_rom_db", "nc1_cdnv_rom_db_fw", "nc3_cos_mean", "nc3_cos_mean_db"),
    "unc3_cos_var",
]


def sampled(true, n, rng):
    """The moments of n samples of each class."""
    means = torch.from_numpy(true + rng.normal(size=(K, D)) / np.sqrt(n * D))
    within_ss = torch.from_numpy(rng.chisquare((n - 1) * D, size=K) / D)
    return ClassMoments.from_dense(torch.full((K,), n), means, within_ss)


def draw(n, seed):
    """What is measured of one draw, over its truth, by name."""
    rng = np.random.default_rng([n, seed])
    true = rng.normal(size=(K, D)) / np.sqrt(D)
    moments = sampled(true, n, rng)
    centred = true - true.mean(0)
    rows = centred + rng.normal(size=(K, D)) / np.sqrt(D)  # cosines near 1 / sqrt(2)
    found = metrics(moments, torch.from_numpy(rows), measures=MEASURES)
    classes = select(moments)

    upper = np.triu_indices(K, 1)
    squared = ((true[:, None] - true[None]) ** 2).sum(2)[upper]
    cosines = (rows * centred).sum(1) / np.linalg.norm(rows, axis=1)
    cosines /= np.linalg.norm(centred, axis=1)
    truth = {
        "nc1_cdnv": (1 / squared).mean(),
        "nc1_cdnv_med": np.median(1 / squared),
        "nc1_cdnv_rom": 1 / squared.mean(),
        "nc3_cos_mean": cosines.mean(),
        "unc3_cos_var": cosines.var(ddof=1),
    }
    ratios = {}
    for name in MEASURES:
        base = name.removesuffix("_fw").removesuffix("_db")
        if base in truth:
            ratios[name] = found[name].value / truth[base]
    ratios["distance"] = 2 * float(classes.squared_norms.sum()) / (K - 1) / squared.mean()
    debiased = float(classes.debiased_squared_norms.sum())  # their mean is K / (K - 1) / 2 of it
    ratios["distance_db"] = 2 * debiased / (K - 1) / squared.mean()
    return ratios


def average(n, draws):
    drawn = [draw(n, seed) for seed in range(draws)]
    return {name: float(np.mean([ratios[name] for ratios in drawn])) for name in drawn[0]}


def check(ratios, n, tolerance):
    for name in ("nc1_cdnv_med_db", "nc1_cdnv_rom_db", "nc1_cdnv_rom_db_fw", "distance_db"):
        assert ratios[name] == pytest.approx(1, abs=tolerance), name
    assert ratios["nc3_cos_mean_db"] == pytest.approx(1, abs=tolerance)
    if n >= 5:
        assert ratios["nc1_cdnv_db"] == pytest.approx(1, abs=tolerance)
    # A plain distance is longer by the noise of two means, 2 / n of its 2; so all are off by
    # 1 + 1 / n, and by (n - 1) / n where variances are divided by n: three times at n = 2.
    assert ratios["distance"] == pytest.approx(1 + 1 / n, abs=tolerance)
    for name in ("nc1_cdnv", "nc1_cdnv_med", "nc1_cdnv_rom"):
        assert ratios[name] == pytest.approx((n - 1) / (n + 1), abs=tolerance), name
    assert ratios["nc3_cos_mean"] == pytest.approx((1 + 1 / n) ** -0.5, abs=tolerance)


@pytest.mark.parametrize("n", COUNTS)
def test_debiased_measures_are_near_the_truth_at_any_number_of_samples(n):
    check(average(n, draws=6), n, tolerance=0.03)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("centring", ["", "_unc"])
def test_debiased_kernels_see_the_angles_that_noise_hides(centring, n):
    # A fifth of the classes lies apart by 5, so that most pairs have a centred cosine near 1/2;
    # all lie off the origin by 1, as those do with a raw one. Noise of 1/n in the squared norms
    # makes it 1 / (2 + 1/n): plain kernels -ln(2 - 2 cos)/2 take directions for more uniform.
    rng = np.random.default_rng(n)
    true = rng.normal(size=(K, D)) / np.sqrt(D)
    true[: K // 5, 0] += 5
    true[:, 1] += 1
    vectors = true if centring else true - true.mean(0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = np.median(-np.log(2 - 2 * (unit @ unit.T)[np.triu_indices(K, 1)]) / 2)
    names = [f"gnc2_log_kernel_med{centring}", f"gnc2_log_kernel_med{centring}_db"]
    found = metrics(sampled(true, n, rng), torch.ones(K, D), measures=names)
    plain, debiased = (found[name].value - truth for name in names)
    assert abs(debiased) < 0.03
    assert plain == pytest.approx(np.log(2 * (1 - 1 / (2 + 1 / n))) / -2, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("n", COUNTS)
def test_on_average_over_many_draws_little_bias_is_left(n):
    check(average(n, draws=200), n, tolerance=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("n", COUNTS)
def test_noise_spreads_the_cosines_as_its_share_of_the_norms_says(n):
    # Cosines of Gaussian vectors have variance (1 - r^2)^2 / D about their mean r. Here r^2 is 1/2
    # of the true means and 1 / (2 + 2 / n) of the measured ones: 1.8 times at n = 2, 1.1 at 20.
    ratios = average(n, draws=200)
    assert ratios["unc3_cos_var"] == pytest.approx((2 - n / (n + 1)) ** 2, rel=0.05)


@pytest.mark.slow
def test_at_two_samples_a_mean_of_ratios_is_not_to_be_trusted():
    # 1 / d^2 is convex, so the noise of d^2 lifts its mean: that is what medians are for.
    ratios = average(2, draws=200)
    assert ratios["nc1_cdnv_db"] > 1.05
