import math

import numpy as np
import pytest
import torch

from tightframe.geometry import closed_forms
from tightframe.geometry.closed_forms import ClassSet, select
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.pairs import UnitDistance, sweep


def class_set(means, counts=None, within_ss=None):
    """The set of all classes of these means; of ten samples each, without spread, by default."""
    means = torch.as_tensor(np.asarray(means, dtype=np.float64))
    counts = torch.full((len(means),), 10) if counts is None else torch.tensor(counts)
    if within_ss is not None:
        within_ss = torch.tensor(within_ss, dtype=torch.float64)
    return select(ClassMoments.from_dense(counts, means, within_ss))


def simplex(k, dim, scale=1.0, seed=0):
    """K vectors of one norm at equal angles, in random directions of `dim` dimensions."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    vertices = np.eye(k) - 1 / k
    if k > dim:  # K = D + 1: drop the direction in which all vertices agree
        vertices = vertices @ np.linalg.svd(vertices)[2][: k - 1].T
    padded = np.zeros((k, dim))
    padded[:, : vertices.shape[1]] = vertices
    return scale * padded @ basis


@pytest.mark.parametrize(("k", "dim"), [(2, 2), (5, 8), (5, 5), (6, 5)])
def test_a_simplex_has_no_simplex_error_and_fills_k_minus_1_dimensions(k, dim):
    classes = class_set(simplex(k, dim, scale=3.0) + 7)
    trace = float(classes.squared_norms.sum())
    squared_norm = closed_forms.squared_gram_norm(classes.means)
    assert closed_forms.simplex_error(trace, squared_norm, k) < 1e-7
    assert closed_forms.participation_ratio(classes.eigenvalues) == pytest.approx(k - 1)
    assert closed_forms.stable_rank(classes.eigenvalues) == pytest.approx(k - 1)
    assert closed_forms.entropy_rank(classes.eigenvalues) == pytest.approx(k - 1)
    assert classes.cosines.mean == pytest.approx(-1 / (k - 1))


@pytest.mark.parametrize(("k", "dim"), [(4, 4), (4, 9)])
def test_an_orthogonal_frame_is_a_simplex_once_it_is_centred(k, dim):
    classes = class_set(2.0 * np.eye(dim)[:k])
    # |e_c - mean|^2 = 1 - 1/K, times the square of the scale.
    assert classes.squared_norms.numpy() == pytest.approx(4 * (1 - 1 / k))
    squared_norm = closed_forms.squared_gram_norm(classes.means)
    assert closed_forms.simplex_error(float(classes.squared_norms.sum()), squared_norm, k) < 1e-7


def test_a_cross_has_the_simplex_error_of_its_rank():
    # +-e_1 .. +-e_D: A = 2 I, so PR = D and the error is sqrt(2 - 2 sqrt(D / (K - 1))).
    classes = class_set(np.concatenate([np.eye(3), -np.eye(3)]))
    error = closed_forms.simplex_error(6.0, closed_forms.squared_gram_norm(classes.means), 6)
    assert error == pytest.approx(math.sqrt(2 - 2 * math.sqrt(3 / 5)))
    # 12 pairs at right angles, 3 opposite.
    assert classes.cosines.mean == pytest.approx(-3 / 15)
    assert classes.cosines.mean_square == pytest.approx(3 / 15)
    assert classes.cosines.std == pytest.approx(math.sqrt((3 / 15 - 1 / 25) * 15 / 14))


def test_the_global_mean_counts_each_class_once():
    classes = class_set([[0.0, 0.0], [4.0, 8.0]], counts=[1000, 1])
    assert classes.global_mean.tolist() == [2, 4]
    assert classes.means.sum(0).tolist() == [0, 0]


def test_classes_are_chosen_by_count_and_repeated_ones_come_first():
    means = torch.arange(5, dtype=torch.float64)[:, None]
    moments = ClassMoments.from_dense(torch.tensor([1, 0, 3, 1, 2]), means)
    assert select(moments).ids.tolist() == [2, 4, 0, 3]
    assert select(moments).with_two_samples.ids.tolist() == [2, 4]
    assert select(moments).with_two_samples.means.flatten().tolist() == [-1, 1]  # centred anew
    assert select(moments).with_two_samples.global_mean.tolist() == [3]
    assert select(moments, min_count=3).ids.tolist() == [2]
    assert (classes := select(moments, min_count=2)).with_two_samples is classes
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        select(moments, min_count=0)


def test_a_class_at_the_global_mean_has_no_direction_whatever_the_rounding():
    # 0.1 + 0.2 is not 0.3: the middle class is 5e-17 from the mean.
    classes = class_set([[0.1, 0.7], [0.3, 0.7], [0.2, 0.7]])
    assert classes.nonzero.tolist() == [True, True, False]
    assert classes.cosines.pairs == 1
    assert classes.cosines.mean == pytest.approx(-1)


@pytest.mark.parametrize(("k", "dim"), [(4, 7), (9, 3)])
def test_sums_over_pairs_are_those_of_the_pairs(k, dim):
    means = np.random.default_rng(0).normal(size=(k, dim))
    classes = class_set(means)
    m = means - means.mean(0)
    upper = np.triu_indices(k, 1)
    dots = (m @ m.T)[upper]
    u = m / np.linalg.norm(m, axis=1, keepdims=True)
    cosines = (u @ u.T)[upper]
    for found, expected in ((classes.dots, dots), (classes.cosines, cosines)):
        assert found.pairs == len(expected)
        assert found.mean == pytest.approx(expected.mean(), rel=1e-10)
        assert found.mean_square == pytest.approx((expected**2).mean(), rel=1e-10)
        assert found.variance == pytest.approx(expected.var(), rel=1e-10)
        assert found.std == pytest.approx(expected.std(ddof=1), rel=1e-10)


def test_debiased_norms_and_distances_have_one_sum():
    # sum_{i<j} d2_ij = K sum_c n2_c holds for the debiased ones, too.
    rng = np.random.default_rng(0)
    k = 8
    counts = rng.integers(2, 9, k).tolist()
    classes = class_set(rng.normal(size=(k, 3)), counts, rng.random(k).tolist())
    noise = classes.noise
    squared = torch.cdist(classes.means, classes.means) ** 2 - noise - noise[:, None]
    over_pairs = float(squared.triu(1).sum())
    assert over_pairs == pytest.approx(k * float(classes.debiased_squared_norms.sum()), rel=1e-10)


def test_debiased_norms_are_right_on_average():
    # Draws of 5 classes of 2 to 4 samples: the plain norms are far too long.
    rng = np.random.default_rng(0)
    true = rng.normal(size=(5, 4))
    m = true - true.mean(0)
    plain, debiased = [], []
    counts = [2, 3, 4, 2, 3]
    for _ in range(300):
        groups = [mean + rng.normal(size=(n, 4)) for mean, n in zip(true, counts, strict=True)]
        within_ss = [float(((group - group.mean(0)) ** 2).sum()) for group in groups]
        classes = class_set([group.mean(0) for group in groups], counts, within_ss)
        plain.append(float(classes.squared_norms.mean()))
        debiased.append(float(classes.debiased_squared_norms.mean()))
    error = np.std(debiased) / math.sqrt(300)
    assert abs(np.mean(debiased) - (m**2).sum(1).mean()) < 4 * error
    assert np.mean(plain) - (m**2).sum(1).mean() > 10 * error


@pytest.mark.parametrize(
    ("dim", "mean", "variance"),
    [
        (64, -0.342574, 0.0040639),
        (128, -0.344597, 0.0019919),
        (1024, -0.346329, 0.00024474),
        (4096, -0.346513, 0.000061072),
    ],
)
def test_the_log_kernel_of_uniform_points_has_the_tabled_values(dim, mean, variance):
    assert closed_forms.sphere_log_kernel_mean(dim) == pytest.approx(mean, abs=5e-7)
    assert closed_forms.sphere_log_kernel_variance(dim) == pytest.approx(variance, rel=3e-5)


def test_on_the_sphere_in_three_dimensions_the_log_kernel_is_elementary():
    # (1 - cos)/2 = X is uniform on [0, 1]: -ln|u - v| = -ln(4 X)/2, and -ln X has mean and
    # variance 1.
    assert closed_forms.sphere_log_kernel_mean(3) == pytest.approx(
        -(math.log(4) - 1) / 2, rel=1e-14
    )
    assert closed_forms.sphere_log_kernel_variance(3) == pytest.approx(1 / 4, rel=1e-14)
    assert math.isnan(closed_forms.sphere_log_kernel_mean(1))
    assert math.isnan(closed_forms.sphere_log_kernel_variance(1))


@pytest.mark.parametrize("dim", [3, 8, 64])
def test_uniform_points_meet_the_baselines_within_their_standard_error(dim):
    rng = torch.Generator().manual_seed(dim)
    x = torch.randn(800, dim, generator=rng, dtype=torch.float64)
    quantity = UnitDistance(x.norm(dim=1), torch.zeros(dim, dtype=torch.float64))
    found = sweep(x, {"unit": (quantity, ("logs", "riesz"))})["unit"]
    # Pairs of independent uniform points are pairwise independent: Var(mean) = b_var / pairs.
    variance = closed_forms.sphere_log_kernel_variance(dim)
    error = math.sqrt(variance / found.n)
    assert abs(-found.logs.mean / 2 - closed_forms.sphere_log_kernel_mean(dim)) < 4 * error
    assert found.logs.variance(ddof=0) / 4 == pytest.approx(variance, rel=0.05)
    if dim == 3:  # where the Riesz kernel has a finite variance: its mean is 1
        assert found.log_riesz - math.log(found.n) == pytest.approx(0, abs=0.01)


def test_the_pseudo_inverse_leaves_out_what_the_means_do_not_fill():
    # Means +-2 e_1, +-e_2 in three dimensions: A/K = diag(2, 1/2, 0). Sw = I + 5 e_3 e_3^T.
    between = torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    within = torch.diag(torch.tensor([1.0, 1.0, 6.0], dtype=torch.float64))
    assert closed_forms.pinv_quotient(within, between) == (pytest.approx(1 / 2 + 2), 2)
    assert closed_forms.pinv_quotient(torch.zeros_like(within), between) == (0, 2)


def test_the_slope_of_a_power_law_is_its_exponent():
    eigenvalues = torch.arange(1, 65, dtype=torch.float64) ** -1.5
    assert closed_forms.spectrum_slope(eigenvalues, 10, 32) == pytest.approx(-1.5, rel=1e-12)
    assert math.isnan(closed_forms.spectrum_slope(eigenvalues, 10, 65))
    assert math.isnan(closed_forms.spectrum_slope(eigenvalues, 10, 10))
    eigenvalues[30] = 0
    assert math.isnan(closed_forms.spectrum_slope(eigenvalues, 10, 32))


def test_the_spectrum_is_one_whichever_gram_matrix_is_smaller():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 9)))
    wide, tall = closed_forms.spectrum(rows), closed_forms.spectrum(rows.T.contiguous())
    assert wide.numpy() == pytest.approx(tall.numpy(), rel=1e-10)
    singular = torch.linalg.svdvals(rows) ** 2
    assert wide.numpy() == pytest.approx(singular.numpy(), rel=1e-10)


@pytest.mark.parametrize("k", [0, 1])
def test_without_pairs_of_classes_everything_is_undefined(k):
    classes = class_set(np.ones((k, 3)) if k else np.ones((1, 3)), counts=[1] if k else [0])
    assert isinstance(classes, ClassSet)
    assert (classes.k, classes.n_pairs, classes.cosines.pairs) == (k, 0, 0)
    assert math.isnan(classes.cosines.mean)
    assert math.isnan(classes.dots.variance)
    assert math.isnan(closed_forms.participation_ratio(classes.eigenvalues))
    assert math.isnan(closed_forms.stable_rank(classes.eigenvalues))
    assert math.isnan(closed_forms.entropy_rank(classes.eigenvalues))
    assert math.isnan(closed_forms.simplex_error(0.0, 0.0, k))
