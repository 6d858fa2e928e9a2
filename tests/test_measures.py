import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch

from reference.geometry import naive_measures
from reference.states import decisions_of
from tightframe.errors import UserError
from tightframe.geometry import MEASURES, measure_table, metrics, values
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.dimensions import DimensionMoments
from tightframe.geometry.mean_families import STATISTICS
from tightframe.geometry.measures import DEFAULT, PUBLISHED, ROBUST, measure_names
from tightframe.geometry.model_families import FORMULAS
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.pairs import sweep

FROM_DECISIONS = {measure.name for measure in MEASURES if measure.split == "val"}
# Those of states with groups of documents are in `test_noise.py`.
OF_GROUPS = {measure.name for measure in MEASURES if measure.estimator == "debiased by groups"}

# Everything else keeps its value when all embeddings are scaled by one factor,
SCALE_DEPENDENT = {
    *(f"nc1_cdnv_p2{part}{est}" for part in ("", "_std", "_mlog", "_med") for est in ("", "_db")),
    *("nc2_equinorm_cov_log", "nc2_equinorm_cov_logscl", "nc2_dot_mean", "nc2_dot_var"),
    *("nc3_dot_mean", "unc3_dot_var"),
}
# and when they are moved, except what is not centred,
NOT_CENTRED = {measure.name for measure in MEASURES if "_unc" in measure.name} - OF_GROUPS
NOT_CENTRED |= {"dim_top01_share", "dim_anisotropy"}
# and when they are turned, except what is about single dimensions.
OF_DIMENSIONS = {measure.name for measure in MEASURES if measure.needs_dimensions}
# What can't be rid of the samples of some classes afterwards.
NEEDS_ALL_CLASSES = OF_DIMENSIONS | {m.name for m in MEASURES if m.needs_scatter}


@dataclasses.dataclass
class Sample:
    """Labelled embeddings and a classifier."""

    embeddings: np.ndarray
    labels: np.ndarray
    classifier: np.ndarray

    def moments(self):
        labels = torch.from_numpy(self.labels)
        n_classes, dim = self.classifier.shape
        counts = torch.bincount(labels[labels >= 0], minlength=n_classes)
        moments = ClassMoments(n_classes, dim, scatter=True, label_counts=counts)
        moments.update(torch.from_numpy(self.embeddings), labels)
        moments.dimensions = DimensionMoments(dim)
        moments.dimensions.update(torch.from_numpy(self.embeddings)[labels >= 0])
        return moments

    def all(self, **options):
        classifier = torch.from_numpy(self.classifier)
        return metrics(self.moments(), classifier, measures=["all"], **options)

    def numbers(self, **options):
        """What can be had without decisions or groups."""
        found = self.all(**options).items()
        without = FROM_DECISIONS | OF_GROUPS
        return {name: value.value for name, value in found if name not in without}

    def reference(self, **options):
        labels = self.labels.tolist()
        found = naive_measures(self.embeddings, labels, self.classifier, **options)
        return {name: found.get(name, math.nan) for name in self.numbers()}


def sample(n_classes, dim, seed=0, n=90):
    """Classes of unequal size: 0 is empty, the last two have a single sample; some are ignored."""
    rng = np.random.default_rng(seed)
    repeated = np.arange(1, n_classes - 2)
    drawn = rng.choice(repeated, size=n, p=(1 / repeated) / (1 / repeated).sum())
    labels = np.concatenate([drawn, repeated, np.arange(1, n_classes), np.full(5, -100)])
    means = rng.normal(size=(n_classes, dim)) + 1
    embeddings = means[labels.clip(0)] + rng.normal(size=(len(labels), dim))
    return Sample(embeddings, labels, rng.normal(size=(n_classes, dim)))


def awkward(seed=0):
    """Small whole numbers: equal means, equal directions, equal rows, a row that is 0."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 40, size=110)
    labels[:40] = np.arange(40)
    points = rng.integers(-1, 2, size=(40, 3)).astype(float)
    embeddings = points[labels] + (labels > 25)[:, None] * rng.integers(0, 2, size=(110, 3))
    classifier = rng.integers(-2, 3, size=(40, 3)).astype(float)
    classifier[7] = 0
    return Sample(embeddings, labels, classifier)


def collapsed(k, dim, *, scale=1.0, variance=0.0, origin=0.0):
    """Two samples a class, around a simplex; the classifier's rows are its vertices."""
    vertices = np.zeros((k, dim))
    vertices[:, :k] = scale * (np.eye(k) - 1 / k)
    offset = np.zeros(dim)
    offset[-1] = math.sqrt(variance)
    embeddings = np.concatenate([vertices + offset, vertices - offset]) + origin
    return Sample(embeddings, np.tile(np.arange(k), 2), vertices)


def same(found, expected, tolerance=1e-10):
    """Compare by name; values that are 0 but for rounding are compared absolutely."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-13, nan_ok=True), name


# Closed forms


def test_full_collapse_reaches_every_target():
    k = 6
    found = collapsed(k, 9, scale=2.0, origin=5.0).numbers()
    zero = [name for name in found if name.startswith("nc1_") and "tail0" not in name]
    zero = [name for name in zero if "_mlog" not in name and "_cov" not in name]
    zero += ["nc2_equinorm_cov", "nc2_equinorm_std_log", "nc2_equiang_rmsdev", "nc2_etf_error"]
    zero += ["nc3_dual_error", "nc3_frob", "nc3_dist_mean", "unc3_cos_var", "unc3_dot_var"]
    for name in zero:
        assert found[name] == pytest.approx(0, abs=1e-7), name
    assert found["nc2_equiang_mean"] == pytest.approx(-1 / (k - 1))
    assert found["nc2_equiang_nn"] == pytest.approx(-1 / (k - 1))
    assert found["nc3_cos_mean"] == pytest.approx(1)
    assert found["rank_pr"] == pytest.approx(k - 1)
    # The least that K points can reach.
    assert found["gnc2_log_kernel_mean"] == pytest.approx(-math.log(2 * k / (k - 1)) / 2)
    # Classes without any spread have no log of it.
    assert math.isnan(found["nc1_cdnv_mlog"])


def test_the_variability_of_a_simplex_is_variance_over_squared_distance():
    # All pairs lie at squared distance 2 scale^2. Two samples: s2 = variance, unbiased twice that;
    # v = s2_unbiased / 2 = variance, so the debiased squared distance is 2 scale^2 - 2 variance.
    found = collapsed(5, 8, scale=3.0, variance=0.9).numbers()
    for aggregate in ("", "_med", "_rom"):
        assert found[f"nc1_cdnv{aggregate}"] == pytest.approx(0.9 / 18)
        assert found[f"nc1_cdnv{aggregate}_db"] == pytest.approx(1.8 / (18 - 1.8))
    assert found["nc1_cdnv_p2"] == pytest.approx(0.9 / 18**2)
    assert found["nc1_cdnv_p2_db"] == pytest.approx(1.8 / (18 - 1.8) ** 2)
    assert found["nc1_cdnv_mlog"] == pytest.approx(math.log(0.9 / 18))
    assert found["nc1_cdnv_std"] == pytest.approx(0, abs=1e-12)
    assert found["nc1_cdnv_tail01"] == pytest.approx(1 / 10)  # one of ten pairs
    # norm(m_c)^2 = scale^2 (1 - 1/K).
    assert found["nc1_quotient"] == pytest.approx(0.9 / (9 * 0.8))
    assert found["nc1_cdnv_p2_sf"] == pytest.approx(0.9 / 18**2 * 9 * 0.8)


def test_the_between_class_covariance_is_divided_by_the_number_of_classes():
    # Means +-2 e_1, +-e_2: A/K = diag(2, 1/2). Two classes vary along e_1, two along e_2, by 1:
    # Sw = diag(1/2, 1/2). So tr(Sw pinv(Sb)) / K = (1/4 + 1) / 4, and with A/D half of it.
    means = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    spread = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    embeddings = np.concatenate([means + spread, means - spread])
    found = Sample(embeddings, np.tile(np.arange(4), 2), np.eye(4)[:, :2]).numbers()
    assert found["nc1_pinv"] == pytest.approx(1.25 / 4)
    assert found["nc1_pinv_tok"] == pytest.approx(1.25 / 4)
    assert found["nc1_pinv_lib"] == pytest.approx(1.25 / 8)
    assert found["nc1_quotient_tok"] == pytest.approx(1 / 2.5)


def test_what_a_dominant_direction_hides_shows_once_it_is_removed():
    # Uniform directions in 11 dimensions, and a twelfth in which the means lie far apart: seen
    # as they are, they are two clusters; without it, uniform in 11 dimensions, not in 12.
    rng = np.random.default_rng(0)
    means = rng.normal(size=(400, 12))
    means[:, 0] = np.where(np.arange(400) % 2, 100.0, -100.0)
    found = Sample(means, np.arange(400), means).numbers()
    assert found["nc2_equiang_std"] > 0.9
    assert found["nc2_equiang_std_pc1"] == pytest.approx(11**-0.5, rel=0.02)
    assert found["gnc2_log_kernel_excess"] > 1
    assert found["gnc2_log_kernel_excess_pc1"] == pytest.approx(0, abs=0.003)
    assert found["gnc2_log_kernel_excess_stdz"] == pytest.approx(0, abs=0.003)


def test_without_all_their_directions_nothing_is_left_of_the_means():
    # Four means fill three dimensions: what is left of them is rounding, and has no direction.
    rng = np.random.default_rng(0)
    found = Sample(rng.normal(size=(4, 6)), np.arange(4), np.ones((4, 6))).all()
    assert math.isfinite(found["nc2_equiang_mean_pc1"].value)
    for name in ("nc2_equiang_mean_pc3", "gnc2_log_kernel_mean_pc3", "gnc2_log_kernel_mean_pc10"):
        assert math.isnan(found[name].value), name
        assert (found[name].n, found[name].excluded) == (0, 6), name


@pytest.mark.parametrize(("n_classes", "dim"), [(3, 15), (5, 6), (12, 30), (9, 2)])
def test_the_log_kernel_on_a_line_is_undefined(n_classes, dim):
    # Means that fill n + 1 dimensions lie on a line without n of them: what tells two of one
    # direction apart is rounding.
    left = min(n_classes - 1, dim) - 1
    means = np.random.default_rng(0).normal(size=(n_classes, dim))
    found = Sample(means, np.arange(n_classes), means).all()
    for name in (f"gnc2_log_kernel_mean_pc{left}", f"gnc2_log_kernel_excess_pc{left}"):
        assert math.isnan(found[name].value), name
        assert found[name].reason == "fewer than two dimensions of the means are left", name


def test_weights_say_nothing_where_all_classes_are_equally_frequent():
    data = collapsed(6, 9, variance=0.3)
    data.classifier[:, 0] += np.arange(6)
    found = data.numbers()
    for name in ("nc1_cdnv_rom", "nc1_cdnv_rom_db", "nc2_equiang_mean", "nc2_cos_sq_mean"):
        assert found[f"{name}_fw"] == pytest.approx(found[name], rel=1e-12), name
    assert found["head_overlap_sq_fw"] == pytest.approx(found["head_overlap_sq"], rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_debiased_median_is_right_where_the_plain_one_is_far_off(n):
    # 200 classes, means and noise N(0, I/64): the true CDNV is near 0.507 (0.507 to 0.517 is what
    # 2 to 1,000 samples a class gave); the plain median of 2 samples is 0.17.
    rng = np.random.default_rng(n)
    means = rng.normal(size=(200, 64)) / 8
    labels = np.repeat(np.arange(200), n)
    embeddings = means[labels] + rng.normal(size=(200 * n, 64)) / 8
    found = Sample(embeddings, labels, means).numbers()
    assert found["nc1_cdnv_med_db"] == pytest.approx(0.51, abs=0.03)
    assert found["nc1_cdnv_rom_db"] == pytest.approx(0.51, abs=0.03)
    assert found["nc1_cdnv_med"] == pytest.approx({2: 0.169, 5: 0.338, 20: 0.459}[n], abs=0.02)


def nearly_one(gap):
    """Twenty classes of two samples on axes of their own; two are apart by little beyond noise."""
    means = 3 * np.eye(20, 21)
    means[1] = means[0]
    means[1, 1] = math.sqrt(2 * 0.01 + gap)  # of two samples at +-0.1, v is 0.01
    offset = np.zeros(21)
    offset[-1] = 0.1
    return Sample(
        np.concatenate([means + offset, means - offset]), np.tile(np.arange(20), 2), means
    )


def test_a_sum_that_one_pair_holds_says_so_and_only_it():
    # A pair at a debiased squared distance of 1e-6, 189 at about 18, to the power of -2.
    found = nearly_one(1e-6).all()
    assert found["nc1_cdnv_p2_db"].value == pytest.approx(0.02 * 1e12 / 190, rel=1e-4)
    for name in ("nc1_cdnv_db", "nc1_cdnv_p2_db", "nc1_cdnv_p2_std_db", "nc1_cdnv_p2_sf_db"):
        assert found[name].reason == (
            "a few pairs decide it, as if 1 of 190 held all of the sum: rather read a median or a "
            "ratio of means"
        ), name
    even = nearly_one(18.0).all()
    for name, value in even.items():
        assert "a few pairs decide it" not in value.reason, name
    # The plain distance of that pair is the noise, 0.02: 900 times nearer than the others, and the
    # square of that among 190.
    assert "as if 1 of 190 held" in found["nc1_cdnv_p2"].reason
    for name in ("nc1_cdnv_med_db", "nc1_cdnv_rom_db", "nc1_cdnv_p2_med_db"):
        assert found[name].reason == "", name


@pytest.mark.parametrize(
    ("variance", "share"), [(0.5, 0.056), (1.5, 0.17), (4.0, 0.44), (6.0, 0.67)]
)
def test_noise_that_single_pairs_keep_stands_on_what_it_moves(variance, share):
    # On a simplex all pairs lie at 2 scale^2 and two samples have a noise of their variance each,
    # so that a share of variance / scale^2 of the mean squared distance is noise.
    found = collapsed(12, 14, scale=3.0, variance=variance).all()
    said = {name: "sampling is " in value.reason for name, value in found.items()}
    assert f"sampling is {share:.0%} of the mean squared" in found["gnc2_log_kernel_mean_db"].reason
    assert said["nc1_cdnv_db"] == (share > 0.08)
    assert said["nc1_cdnv_med_db"] == said["nc3_cos_mean_db"] == (share > 0.25)
    assert said["nc1_cdnv_rom_db"] == said["nc1_quotient_db"] == (share > 0.5)
    assert not any(is_said for name, is_said in said.items() if "_db" not in name)


# Naive twins


@pytest.mark.parametrize("min_count", [1, 2, 3])
@pytest.mark.parametrize(("n_classes", "dim"), [(12, 5), (40, 3), (7, 16), (30, 24), (26, 2)])
def test_every_measure_is_that_of_the_plain_loops(n_classes, dim, min_count):
    data = sample(n_classes, dim)
    expected = data.reference(min_count=min_count)
    for name in [name for name in expected if "riesz" in name and dim == 2]:
        expected[name] = math.nan  # its exponent would be 0
    found = data.numbers(min_count=min_count)
    for name in NEEDS_ALL_CLASSES:
        if math.isnan(found[name]) and not math.isnan(expected[name]):
            # Single samples have no scatter, but are among the embeddings.
            assert min_count == 3 or (min_count == 2 and name in OF_DIMENSIONS)
            expected[name] = math.nan
    same(found, expected)


@pytest.mark.parametrize("seed", range(3))
def test_equal_means_directions_and_rows_leave_every_measure_right(seed):
    data = awkward(seed)
    same(data.numbers(), data.reference())


# Invariances


@pytest.mark.parametrize(("n_classes", "dim"), [(12, 5), (7, 16)])
def test_scale_moves_only_what_has_a_unit(n_classes, dim):
    data = sample(n_classes, dim)
    scaled = dataclasses.replace(data, embeddings=data.embeddings * 3.7)
    before, after = data.numbers(), scaled.numbers()
    same(
        {name: value for name, value in after.items() if name not in SCALE_DEPENDENT},
        {name: value for name, value in before.items() if name not in SCALE_DEPENDENT},
    )
    for name in SCALE_DEPENDENT:
        assert after[name] != pytest.approx(before[name], rel=0.01), name


@pytest.mark.parametrize(("n_classes", "dim"), [(12, 5), (7, 16)])
def test_translation_moves_only_what_is_not_centred(n_classes, dim):
    data = sample(n_classes, dim)
    moved = dataclasses.replace(data, embeddings=data.embeddings + np.arange(dim))
    before, after = data.numbers(), moved.numbers()
    del before["dim_outliers"], after["dim_outliers"]  # a count: it may move, or not
    same(
        {name: value for name, value in after.items() if name not in NOT_CENTRED},
        {name: value for name, value in before.items() if name not in NOT_CENTRED},
    )
    for name in NOT_CENTRED:
        assert after[name] != pytest.approx(before[name], rel=0.01), name


@pytest.mark.parametrize(("n_classes", "dim"), [(12, 5), (7, 16)])
def test_rotating_embeddings_and_classifier_together_moves_nothing(n_classes, dim):
    data = sample(n_classes, dim)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    turned = Sample(data.embeddings @ rotation, data.labels, data.classifier @ rotation)
    before, after = data.numbers(), turned.numbers()
    for name in OF_DIMENSIONS - {"dim_anisotropy"}:
        del before[name], after[name]
    same(after, before)


def test_the_order_of_the_classes_moves_nothing():
    data = sample(12, 5)
    order = np.random.default_rng(1).permutation(12)
    labels = np.where(data.labels < 0, data.labels, order[data.labels.clip(0)])
    shuffled = Sample(data.embeddings, labels, data.classifier[np.argsort(order)])
    same(shuffled.numbers(), data.numbers())


# Identities between measures (those of the published tables)


@pytest.mark.parametrize(("n_classes", "dim"), [(12, 5), (40, 3), (7, 16)])
def test_the_identities_of_the_published_tables_hold(n_classes, dim):
    data = sample(n_classes, dim)
    found = data.numbers()
    moments = data.moments()
    k = int((moments.counts > 0).sum())
    pairs = k * (k - 1) / 2
    means = moments.means[moments.counts > 0]
    squared = (means - means.mean(0)).square().sum(1)
    norms, square_mean = squared.sqrt(), float(squared.mean())

    def close(a, b):
        return a == pytest.approx(b, rel=1e-10)

    assert close(found["nc2_dot_mean"], -square_mean / (k - 1))
    assert close(square_mean, float(norms.mean()) ** 2 + float(norms.var()) * (k - 1) / k)
    assert close(
        found["nc3_dist_mean"] ** 2 + found["nc3_dist_var"] * (k - 1) / k,
        2 - 2 * found["nc3_cos_mean"],
    )
    assert close(found["unc3_cos_cov"] * found["nc3_cos_mean"], math.sqrt(found["unc3_cos_var"]))
    # normF(A)^2 from the variance of the inner products and of the squared norms.
    sum_of_squares = pairs * (found["nc2_dot_var"] + found["nc2_dot_mean"] ** 2)
    fourth = (k - 1) * float(squared.var()) + k * square_mean**2
    norm = math.sqrt(2 * sum_of_squares + fourth)
    etf_error = math.sqrt(2 - 2 * k * square_mean / (norm * math.sqrt(k - 1)))
    assert close(found["nc2_etf_error"], etf_error)
    assert close(found["nc2_etf_error"], math.sqrt(2 - 2 * math.sqrt(found["rank_pr"] / (k - 1))))
    assert close(found["nc1_cdnv_rom"], found["nc1_quotient"] * (k - 1) / (2 * k))
    cosine_variance = found["nc2_equiang_std"] ** 2 * (pairs - 1) / pairs
    assert close(found["nc2_cos_sq_mean"], cosine_variance + found["nc2_equiang_mean"] ** 2)


def test_the_closed_form_of_the_log_norms_is_free_of_the_square():
    # std / mean of ln norm is that of ln norm^2: both are doubled.
    data = sample(12, 5)
    means = data.moments().means[data.moments().counts > 0]
    logs = (means - means.mean(0)).square().sum(1).log()
    expected = float(logs.std() / logs.mean())
    assert data.numbers()["nc2_equinorm_cov_log"] == pytest.approx(expected, rel=1e-10)


# What is counted and left out


@pytest.mark.parametrize("min_count", [1, 2, 4])
def test_what_is_averaged_and_what_is_left_out_add_up_to_what_was_observed(min_count):
    data = awkward()
    counts = data.moments().counts
    classes = int((counts > 0).sum())
    for name, value in data.all(min_count=min_count).items():
        if name not in FROM_DECISIONS:
            dimensions = name.startswith("dim_")
            if name == "dim_anisotropy":
                observed = (len(data.labels),)
            else:
                observed = (3,) if dimensions else (classes, classes * (classes - 1) // 2)
            assert value.n + value.excluded in observed, name
            assert (value.n == 0) == math.isnan(value.value), name
            assert value.excluded == 0 or value.reason, name


def test_left_out_classes_and_pairs_are_told_by_reason():
    # Classes 0 and 1 share their mean, 3 and 4 are single, 2 and 5 have two samples.
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, 3], [5, 5], [-3, 0], [4, 0], [4, 2.0]])
    labels = np.array([0, 1, 2, 2, 3, 4, 5, 5])
    found = Sample(embeddings, labels, np.eye(6)[:, :2]).all()
    assert (found["nc1_cdnv"].n, found["nc1_cdnv"].excluded) == (14, 1)
    assert found["nc1_cdnv"].reason == "pairs with one mean: 1 left out"
    # Of the pairs of 0, 1, 3, 4 five have no spread on either side, besides the one without
    # distance.
    assert found["nc1_cdnv_mlog"].n == 9
    assert "pairs of classes without any spread: 5 left out" in found["nc1_cdnv_mlog"].reason
    debiased = found["nc1_cdnv_med_db"]
    assert (debiased.n, debiased.excluded) == (1, 14)
    assert debiased.reason == "classes with fewer than 2 samples: 4 left out"
    assert (found["nc1_quotient_db"].n, found["nc1_quotient_db"].excluded) == (2, 4)


def test_single_samples_do_not_count_as_infinitely_collapsed_in_a_mean_of_logs():
    # One class varies (s2 = 1), the other is single: ln((1 + 0) / 2 / 4) is a number.
    data = Sample(np.array([[1.0], [-1], [2]]), np.array([0, 0, 1]), np.ones((2, 1)))
    found = data.numbers()
    assert found["nc1_cdnv_mlog"] == pytest.approx(math.log(1 / 8))
    assert math.isnan(found["nc1_cdnv_mlog_db"])


def test_pairs_debiased_to_nothing_are_said_to_be_many():
    # Two classes of large spread and near means: nothing is left of their distance.
    embeddings = np.array([[9.0, 0], [-9, 0], [9, 1], [-9, 1]])
    found = Sample(embeddings, np.array([0, 0, 1, 1]), np.eye(2)).all()
    assert (found["nc1_cdnv_db"].n, found["nc1_cdnv_db"].excluded) == (0, 1)
    assert found["nc1_cdnv_db"].reason == (
        "pairs debiased to distance 0 or less: 1 left out; "
        "that is more than 1 %: rather read a median or a ratio of means"
    )
    assert found["nc1_cdnv_med_db"].value == math.inf
    assert found["nc1_cdnv_med_db"].reason == "pairs debiased to distance 0 or less: 1, infinite"


def test_ratios_whose_denominator_is_debiased_to_nothing_are_undefined_and_say_so():
    # Three samples of every class, of one distribution: the distances are all noise, and in this
    # draw debiased to less than 0 on average.
    rng = np.random.default_rng(0)
    data = Sample(rng.normal(size=(18, 20)), np.tile(np.arange(6), 3), rng.normal(size=(6, 20)))
    found = data.all()
    for name in ("nc1_cdnv_rom_db", "nc1_cdnv_rom_db_fw", "nc1_quotient_db"):
        assert math.isnan(found[name].value), name
        assert found[name].reason == "the mean squared distance is debiased to 0 or less", name
    assert found["nc1_cdnv_p2_db"].value > 0
    assert math.isnan(found["nc1_cdnv_p2_sf_db"].value)


def test_a_few_pairs_that_decide_a_mean_are_pointed_out():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 4))
    labels = np.arange(60) % 30
    found = Sample(embeddings, labels, rng.normal(size=(30, 4))).all()
    assert 0.01 < found["nc1_cdnv_tail01"].value < 0.5
    assert not found["nc1_cdnv_tail01"].reason
    embeddings[[1, 31]] = embeddings[[0, 30]] + 1e-4  # classes 0 and 1 nearly share their mean
    found = Sample(embeddings, labels, rng.normal(size=(30, 4))).all()
    assert found["nc1_cdnv_tail01"].value > 0.99
    assert found["nc1_cdnv_tail01"].reason == "a few pairs decide the mean"


@pytest.mark.parametrize("labels", [[0], [0, 0], [-100], [0, 1]])
def test_one_class_or_none_or_two_give_no_numbers_but_reasons(labels):
    n = len(labels)
    data = Sample(np.arange(3.0 * n).reshape(n, 3) ** 2, np.array(labels), np.eye(3))
    for name, value in data.all().items():
        if math.isnan(value.value):
            assert value.n == 0, name
            assert value.reason, name


def test_what_needs_a_scatter_says_so_without_one():
    data = sample(12, 5)
    moments = ClassMoments(12, 5)
    moments.update(torch.from_numpy(data.embeddings), torch.from_numpy(data.labels))
    found = metrics(moments, torch.from_numpy(data.classifier), measures=["all"])
    assert found["nc1_pinv_tok"].reason == "the moments hold no pooled scatter; measure with it"
    assert found["nc1_pinv"].reason.startswith("the moments hold no class-balanced scatter")
    assert math.isnan(found["rank_pr_within"].value)


# Decisions


def decisions(counts=(10, 2, 0, 4)):
    """Four labels: 0, 1 seen with 10 and 2 positions, 2 seen but never asked, 3 unseen."""
    return decisions_of(
        [True, True, True, False],
        extras=["cosine", "library"],
        counts=counts,
        agreements=[6, 2, 0, 0],
        agreements_full=[5, 2, 0, 1],
        nearest_hits=[4, 1, 0, 0],
        agreements_cosine=[3, 1, 0, 0],
        agreements_library=[4, 1, 0, 2],
    )


def test_agreement_is_counted_over_positions_and_over_labels():
    data = Sample(np.eye(4)[:3], np.arange(3), np.eye(4))
    found = data.all(decisions=decisions())
    expected = {  # value, n, excluded
        "nc4_hits": (8, 12, 4),
        "nc4_rate": (8 / 12, 12, 4),
        "nc4_rate_fullv": (8 / 16, 16, 0),
        "nc4_rate_macro": ((0.6 + 1) / 2, 2, 1),
        "nc4_cos_rate": (4 / 12, 12, 4),
        "nc4_rate_lib": (7 / 16, 16, 0),
        "ncc_accuracy": (5 / 16, 16, 0),
    }
    for name, numbers in expected.items():
        value = found[name]
        assert (value.value, value.n, value.excluded) == pytest.approx(numbers, rel=1e-15), name
    assert math.isnan(found["nc4_top5_head"].value)
    assert "not among the `extras` of these decisions" in found["nc4_top5_head"].reason
    assert found["nc4_rate"].reason == "positions whose label has no class mean: 4 left out"
    # Only 12 of 16 positions can have their own class mean nearest.
    ceiling = "at most 0.75: 4 of 16 positions have a label that has no class mean"
    assert found["ncc_accuracy"].reason == ceiling
    assert data.all(decisions=decisions((10, 2, 0, 0)))["ncc_accuracy"].reason == ""


def test_without_decisions_or_positions_agreement_is_undefined():
    data = Sample(np.eye(3), np.arange(3), np.eye(3))
    for made in (None, Decisions(torch.ones(3, dtype=torch.bool))):
        for name in FROM_DECISIONS:
            value = data.all(decisions=made)[name]
            assert math.isnan(value.value)
            assert value.n == 0
            assert value.reason


# The list


def test_names_never_change():
    # Results refer to them. Whoever adds a measure, and changes none, may write the new hash here.
    names = "\n".join(measure_names())
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "7914e0e078e33c01"
    assert len(names.split()) == 186


def test_every_measure_has_one_function_and_every_function_its_measure():
    assert FORMULAS.keys() == {one.name for one in MEASURES if not one.quantity}
    used = {one.statistic for one in MEASURES if one.quantity}
    assert STATISTICS.keys() == used | {"scale_free_debiased"}


def test_names_are_distinct_and_views_are_made_of_them():
    names = [measure.name for measure in MEASURES]
    assert len(set(names)) == len(names)
    assert {*DEFAULT, *PUBLISHED, *ROBUST} <= set(names)
    assert len(set(DEFAULT)) == len(DEFAULT) == 30
    assert {*PUBLISHED, *ROBUST} <= set(DEFAULT)


def test_the_default_list_is_computed_unasked_and_others_by_name():
    data = sample(7, 3)
    moments, classifier = data.moments(), torch.from_numpy(data.classifier)
    assert set(metrics(moments, classifier)) == set(DEFAULT)
    assert list(metrics(moments, classifier, measures=["rank_pr", "nc1_cdnv"])) == [
        "nc1_cdnv",
        "rank_pr",
    ]
    assert len(metrics(moments, classifier, measures="all")) == len(MEASURES)


def test_all_pairs_are_swept_once_a_view_for_all_measures(monkeypatch):
    sweeps = []

    def counted(*args, **options):
        sweeps.append(args)
        return sweep(*args, **options)

    monkeypatch.setattr(values, "sweep", counted)
    data = sample(7, 3)
    data.all()
    # As they are, and at once without 1, 3 and 10 directions; standardised.
    assert len(sweeps) == 2
    metrics(data.moments(), torch.from_numpy(data.classifier), measures=["nc2_etf_error"])
    assert len(sweeps) == 2  # closed forms need none
    metrics(data.moments(), torch.from_numpy(data.classifier))
    assert len(sweeps) == 3


def test_the_classifier_may_be_of_any_float_type_and_want_gradients():
    data = sample(7, 3)
    classifier = torch.from_numpy(data.classifier).bfloat16().requires_grad_()
    found = metrics(data.moments(), classifier, measures=["nc3_cos_mean"])
    rounded = dataclasses.replace(data, classifier=classifier.detach().double().numpy())
    assert found["nc3_cos_mean"].value == pytest.approx(rounded.numbers()["nc3_cos_mean"])


def test_mistakes_are_named():
    data = sample(7, 3)
    moments, classifier = data.moments(), torch.from_numpy(data.classifier)
    with pytest.raises(UserError, match="unknown measure 'nc1_cdvn'; did you mean 'nc1_cdnv'"):
        metrics(moments, classifier, measures=["nc1_cdvn"])
    with pytest.raises(UserError, match="unknown measure 'x'; `all` shows every one"):
        metrics(moments, classifier, measures=["x"])
    with pytest.raises(ValueError, match=r"classifier has shape \(6, 3\), expected at least 7"):
        metrics(moments, classifier[:6])
    with pytest.raises(ValueError, match="decisions are about 4 classes, moments about 7"):
        metrics(moments, classifier, decisions())
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        metrics(moments, classifier, min_count=0)


def test_the_table_has_a_line_for_every_measure():
    lines = measure_table().splitlines()
    assert len(lines) == len(MEASURES) + 2
    assert lines[2].startswith("| `nc1_cdnv` | `mean_{i<j} c_ij(1)` | plain | [0, inf) | low | Gal")
    assert all(line.count("|") == 7 for line in lines)
