import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from reference.mixtures import Mixture
from reference.states import dense
from tightframe.geometry import diagnostics, intervals, resampling
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.measures import MEASURES, metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.nearest import Choices
from tightframe.geometry.values import Value

COVERED = ("nc1_cdnv_med_db", "gnc2_log_kernel_excess", "nc3_cos_mean")


def mixture(n_classes=30, dim=8, *, seed=0, **options):
    return Mixture(n_classes, dim, torch.Generator().manual_seed(seed), **options)


def test_the_jackknife_of_a_mean_is_its_textbook_interval():
    # theta_(g) = (S - x_g) / (G - 1): pseudo-values are the x_g themselves, so that centre and
    # error are the mean and std / sqrt(G).
    x = np.random.default_rng(0).normal(3, 2, size=20)
    found = resampling.jackknife(x.mean(), [np.delete(x, g).mean() for g in range(20)])
    reach = student.ppf(0.975, 19) * x.std(ddof=1) / math.sqrt(20)
    assert found.low == pytest.approx(x.mean() - reach, rel=1e-10)
    assert found.high == pytest.approx(x.mean() + reach, rel=1e-10)
    assert found.reason == ""


def test_the_jackknife_takes_out_a_bias_that_goes_as_one_over_n():
    # The variance with divisor n: the jackknife's centre is the one with n - 1, exactly.
    x = np.random.default_rng(1).normal(size=12)
    found = resampling.jackknife(x.var(), [np.delete(x, g).var() for g in range(12)])
    assert (found.low + found.high) / 2 == pytest.approx(x.var(ddof=1), rel=1e-10)


def test_on_a_log_scale_the_centre_is_a_geometric_one():
    x = np.random.default_rng(0).normal(3, 0.2, size=20)
    without = [math.exp(np.delete(x, g).mean()) for g in range(20)]
    plain = resampling.jackknife(x.mean(), np.log(without).tolist())
    found = resampling.jackknife(math.exp(x.mean()), without, log=True)
    assert found.low == pytest.approx(math.exp(plain.low), rel=1e-10)
    assert found.high == pytest.approx(math.exp(plain.high), rel=1e-10)


@pytest.mark.parametrize("n_groups", [8, 12, 20, 24, 32])
def test_balanced_halves_are_halves_and_share_half_of_each_other(n_groups):
    halves = resampling.balanced_halves(n_groups).long()
    assert halves.shape == (n_groups - 1, n_groups)
    common = halves @ halves.T
    assert (common.diagonal() == n_groups // 2).all()
    assert (common[~torch.eye(n_groups - 1, dtype=torch.bool)] == n_groups // 4).all()
    assert (halves.sum(0) < n_groups - 1).all()  # no group is in all of them


@pytest.mark.parametrize("n_groups", [1, 2, 4, 10, 16, 21, 28])
def test_other_numbers_of_groups_have_no_balanced_halves(n_groups):
    assert resampling.balanced_halves(n_groups) is None


def test_half_samples_of_a_mean_have_its_variance():
    # With contrasts e_g = x_g - mean, a half's mean is off by sum(h_g e_g) / G, h = +-1. Over the
    # orthogonal halves the squares of it add up to (G - 1) std^2 / G.
    x = np.random.default_rng(0).normal(3, 2, size=20)
    halves = resampling.balanced_halves(20).numpy()
    means = np.array([x[half].mean() for half in halves])
    assert np.square(means - x.mean()).mean() == pytest.approx(x.var(ddof=1) / 20, rel=1e-10)
    found = resampling.half_samples(x.mean(), means.tolist())
    assert (found.low + found.high) / 2 == pytest.approx(2 * x.mean() - means.mean(), rel=1e-10)
    error = means.std(ddof=1) * math.sqrt(20 / 19)
    assert found.high - found.low == pytest.approx(2 * student.ppf(0.975, 19) * error, rel=1e-10)


def test_the_parabola_takes_out_a_bias_of_second_order():
    # theta(x) = 5 + 0.3 x + 0.02 x^2 at x = 1 / share ends at 5. The line through x = 1 and
    # G / (G - 1) ends at 5 - 0.02 G / (G - 1) instead, which is told in standard errors.
    def theta(x):
        return 5 + 0.3 * x + 0.02 * x * x

    noise = np.array([0.01, -0.01] * 10)
    without = (theta(20 / 19) + noise).tolist()
    kept = resampling.halves_of(20).numpy()
    # A half has the mean of its groups' pseudo-values in it; those are -19 times the noise.
    halves = theta(2) + (kept @ (-19 * noise)) / 10
    found, bent, _ = resampling.extrapolate(theta(1), without, halves.tolist(), kept)
    error = math.sqrt(19 * 0.01**2)
    assert found.centre == pytest.approx(5, rel=1e-10)
    assert found.high - found.centre == pytest.approx(student.ppf(0.975, 19) * error, rel=1e-8)
    assert bent == pytest.approx(0.02 * 20 / 19 / error, rel=1e-8)


def test_the_parabola_of_a_mean_is_its_textbook_interval():
    # A mean has no bias, and halves of any kind say nothing but what their groups are.
    x = np.random.default_rng(0).normal(3, 2, size=10)
    kept = resampling.halves_of(10).numpy()
    assert kept.sum(1).tolist() == [5, 5, 4, 6]
    without = [np.delete(x, g).mean() for g in range(10)]
    found, bent, _ = resampling.extrapolate(x.mean(), without, [x[h].mean() for h in kept], kept)
    reach = student.ppf(0.975, 9) * x.std(ddof=1) / math.sqrt(10)
    assert found[:3] == pytest.approx((x.mean() - reach, x.mean() + reach, x.mean()), rel=1e-10)
    assert bent == pytest.approx(0, abs=1e-10)


def test_halves_tell_what_of_the_error_is_of_second_order():
    # Halves of a mean have its variance on average. Of a square about 0, which is all second order,
    # halves tell three parts where leaving one out tells two: 1.5 on average.
    rng = np.random.default_rng(0)
    kept = resampling.halves_of(20).numpy()
    curved = []
    for square in (False, True):
        told = []
        for _ in range(400):
            x = rng.normal(size=20)
            parts = [x, *(np.delete(x, g) for g in range(20)), *(x[half] for half in kept)]
            full, *rest = [float(part.mean()) ** (2 if square else 1) for part in parts]
            values, halves = rest[:20], rest[20:]
            *_, ratio = resampling.extrapolate(full, values, halves, kept)
            told.append((ratio, np.var(values)))
        ratios, weights = np.array(told).T
        curved.append(np.average(ratios, weights=weights))
    assert curved[0] == pytest.approx(1, abs=0.02)
    assert curved[1] == pytest.approx(1.5, abs=0.1)


def test_quantiles_are_of_as_many_groups_as_there_are_in_effect():
    # A class in equal parts of four groups, one with all but nothing in one, one of two and one of
    # 3, 1: (3 + 1)^2 / (9 + 1) = 1.6 groups.
    even, single, uneven = [5, 5, 5, 5], [9, 0, 0, 0], [3, 1, 0, 0]
    counts = torch.tensor([even, single, uneven]).T
    assert resampling.effective_groups(counts[:, :1]) == 4
    assert resampling.effective_groups(counts[:, 1:2]) == 1
    assert resampling.effective_groups(counts) == pytest.approx(1.6)
    x = np.random.default_rng(0).normal(size=20)
    without = [np.delete(x, g).mean() for g in range(20)]
    found = resampling.jackknife(x.mean(), without, freedom=7.5)
    reach = student.ppf(0.975, 7.5) * x.std(ddof=1) / math.sqrt(20)
    assert found.high == pytest.approx(x.mean() + reach, rel=1e-10)


@pytest.mark.parametrize("index", [1.5, 3.0])
def test_the_index_of_a_tail_is_that_of_its_law(index):
    # Hill's estimate from n values of a Pareto law is off by index / sqrt(n): n = 5 % of 40,000.
    # Classes of one group more each have a variance of 1 in the end.
    tails = torch.from_numpy(np.random.default_rng(0).pareto(index, size=(19, 2000)) + 1)
    rest = (1e6 - tails.sum(0))[None]
    counts = torch.ones(20, 2000, dtype=torch.int64)
    counts[-1] = 10**6
    found = diagnostics.tail_index(counts, torch.cat([tails, rest]), 0.05)
    assert found == pytest.approx(index, abs=4 * index / math.sqrt(0.05 * 40_000))


@pytest.mark.parametrize("n_groups", [3, 8, 20])
def test_normal_errors_of_class_variances_have_no_concentration(n_groups):
    # z_g = sqrt(n_g) (v_g / v - 1) is normal if the v_g are, with variances in 1 / n_g.
    rng = np.random.default_rng(n_groups)
    counts = rng.integers(1, 30, size=(n_groups, 20_000))
    variances = 1 + 1e-3 * rng.normal(size=counts.shape) / np.sqrt(counts)
    found, error = diagnostics.concentration(
        torch.from_numpy(counts), torch.from_numpy(counts * variances)
    )
    assert abs(found) < 4 * error < 0.02


def test_a_class_whose_variance_one_group_decides_is_concentrated():
    # All groups are alike but for one, of many: its z^4 over the squared sum of z^2 is nearly 1.
    counts = torch.full((200, 2), 5)
    within_ss = torch.full((200, 2), 5.0).double()
    within_ss[0, :] = 500
    assert diagnostics.concentration(counts, within_ss)[0] == pytest.approx(1, abs=0.02)
    # The other groups fill what the first has too much, each a 199th: z^4 is a 199^-3 of it.
    assert math.isnan(diagnostics.concentration(counts[:2], within_ss[:2])[0])


@pytest.mark.parametrize(("memory", "expected"), [(0.0, 0.0), (0.5, 0.5)])
def test_neighbours_correlate_as_much_as_they_do(memory, expected):
    # Deviations of groups are a first-order autoregressive process: of 60 groups, each correlates
    # by its memory with the next one, up to what their common mean takes away (about 3 / 60).
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(60, 40, 16))
    for group in range(1, 60):
        noise[group] = memory * noise[group - 1] + math.sqrt(1 - memory**2) * noise[group]
    moments = ClassMoments(40, 16, groups=60)
    for group in range(60):
        moments.update(torch.from_numpy(noise[group]), torch.arange(40), group)
    found, error = diagnostics.neighbour_correlation(moments, torch.ones(40, dtype=torch.bool))
    assert found == pytest.approx(expected, abs=0.05)
    assert error < 0.01


def test_groups_that_follow_each_other_give_no_interval_if_they_are_alike():
    rng = np.random.default_rng(0)
    moments = ClassMoments(30, 16, groups=20)
    means, drift = rng.normal(size=(30, 16)), np.zeros((30, 16))
    for group in range(20):
        drift = 0.8 * drift + 0.6 * rng.normal(size=(30, 16))
        samples = np.repeat(means + drift, 4, axis=0) + rng.normal(size=(120, 16))
        moments.update(torch.from_numpy(samples), torch.arange(30).repeat_interleave(4), group)
    classifier = torch.from_numpy(means)
    found = metrics(moments, classifier, measures=["nc3_cos_mean", "nc1_cdnv_rom_db"])
    for value in found.values():
        assert math.isnan(value.low)
        assert "no interval: groups that follow each other are alike" in value.reason


def test_few_numbers_have_no_tail():
    few = torch.ones(20, 20, dtype=torch.int64)
    assert diagnostics.tail_index(few, few.double(), 0.02) == math.inf


@pytest.mark.parametrize(
    ("full", "without", "log", "reason"),
    [
        (1.0, [1.0, math.nan, 2.0], False, "undefined in some of the resamples"),
        (1.0, [1.0, math.inf, 2.0], False, "undefined in some of the resamples"),
        (1.0, [1.0, 0.0, 2.0], True, "0 in some of the resamples"),
        (1.0, [1.0, 1.0, 1.0], False, "the same in every resample"),
    ],
)
def test_resamples_that_say_nothing_give_no_interval(full, without, log, reason):
    kept = np.ones((2, len(without)), dtype=bool)
    for found in (
        resampling.jackknife(full, without, log=log),
        resampling.half_samples(full, without, log=log),
        resampling.extrapolate(full, without, without[:2], kept, log=log)[0],
    ):
        assert all(math.isnan(number) for number in found[:3])
        assert found.reason == f"no interval: {reason}"


def test_groups_that_change_nothing_give_no_interval():
    # Each group left out gives 2, so the standard error is 0, while halves of groups differ.
    kept = resampling.halves_of(8).numpy()
    halves = np.linspace(1, 3, len(kept)).tolist()
    for found in (
        resampling.jackknife(2.5, [2.0] * 8),
        resampling.extrapolate(2.5, [2.0] * 8, halves, kept)[0],
    ):
        assert found.reason == "no interval: the same in every resample"


def test_whole_groups_are_left_out():
    # One class at 0 and one on a line, whose groups are at 1, 2, 3 and 4: a sample in the first,
    # two in the second and so on. Of two classes in one dimension, the mean inner product of the
    # centred means is -(distance / 2)^2, and without a group the distance is a weighted mean.
    moments = ClassMoments(2, 1, groups=4)
    for group in range(4):
        n = group + 1
        moments.update(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), group)
        moments.update(torch.full((n, 1), float(n)), torch.ones(n, dtype=torch.int64), group)
    n = np.arange(1, 5)

    def value(kept):
        return -(((n[kept] @ n[kept]) / n[kept].sum() / 2) ** 2)

    found = metrics(moments, torch.eye(2)[:, :1], measures=["nc2_dot_mean"])["nc2_dot_mean"]
    everything = np.arange(4)
    kept = resampling.halves_of(4).numpy()
    counts = np.array([[1, 1], [1, 2], [1, 3], [1, 4]])  # of both classes, in each group
    effective = min(counts.sum(0) ** 2 / (counts**2).sum(0))  # the lower of two is their median
    expected, *_ = resampling.extrapolate(
        value(everything),
        [value(np.delete(everything, g)) for g in range(4)],
        [value(everything[half]) for half in kept],
        kept,
        freedom=effective - 1,
    )
    assert found.value == pytest.approx(value(everything), rel=1e-12)
    assert found.low == pytest.approx(expected.low, rel=1e-10)
    assert found.high == pytest.approx(min(expected.high, 0), rel=1e-10)
    assert found.resampled == "documents"


def test_without_groups_there_is_no_interval_and_nothing_is_said():
    mixed = mixture()
    found = metrics(mixed.sample(20, 1), mixed.classifier, measures=COVERED)
    for value in found.values():
        assert math.isnan(value.low)
        assert math.isnan(value.high)
        assert (value.resampled, value.reason) == ("", "")


def test_intervals_leave_the_values_as_they_are():
    mixed = mixture()
    moments = mixed.sample(40, 20)
    alone = metrics(moments.without(), mixed.classifier, measures=COVERED)
    found = metrics(moments, mixed.classifier, measures=COVERED)
    for name in COVERED:
        assert found[name].value == alone[name].value
        assert found[name].low < found[name].high
        assert found[name].resampled == "documents"


def test_every_measure_has_an_interval_or_says_why_it_has_none():
    mixed = mixture(40, 24)
    found = metrics(mixed.sample(60, 20), mixed.classifier, measures=["all"])
    without = set()
    for measure in MEASURES:
        value = found[measure.name]
        if math.isnan(value.value):
            assert math.isnan(value.low)
        elif math.isnan(value.low):
            assert "no interval: " in value.reason
            without.add(measure.name)
        else:
            assert value.low < value.high
            assert value.resampled == "documents"
    declared = {measure.name for measure in MEASURES if measure.traits.why_none}
    of_the_classifier = {
        name for name in found if "head" in name and not name.endswith(("_fw", "5_head"))
    }
    # The means have norms near 1, so that the mean of their logarithms, in a denominator, is
    # near 0: the one measure here whose bias can't be taken out.
    near_zero = {"nc2_equinorm_cov_log"}
    assert without <= declared | of_the_classifier | near_zero
    assert of_the_classifier <= without
    assert "the same in every resample" in found["rank_pr_head"].reason
    assert "one pair decides" in found["gnc2_min_dist"].reason


def test_the_order_of_groups_does_not_move_what_leaving_one_out_gives():
    mixed = mixture()
    moments = mixed.sample(40, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    turned = ClassMoments.from_dense(*(numbers[order] for numbers in dense(moments)))
    names = ["nc3_cos_mean", "gnc2_log_kernel_excess"]
    mine, theirs = (metrics(x, mixed.classifier, measures=names) for x in (moments, turned))
    for name in names:
        widths = [found[name].high - found[name].low for found in (mine, theirs)]
        assert widths[0] == pytest.approx(widths[1], rel=1e-10)
        # The halves are others, and with them what is left of the bias.
        centres = [found[name].centre for found in (mine, theirs)]
        assert centres[0] == pytest.approx(centres[1], abs=widths[0] / 10)


def test_documents_in_one_group_give_no_interval():
    mixed = mixture()
    one = mixed.sample(40, 1)
    third = [numbers.new_zeros(20, *numbers.shape[1:]) for numbers in dense(one)]
    for numbers, of_one in zip(third, dense(one), strict=True):
        numbers[2] = of_one[0]
    moments = ClassMoments.from_dense(*third)
    found = metrics(moments, mixed.classifier, measures=COVERED)
    assert found["nc3_cos_mean"].value == metrics(one, mixed.classifier)["nc3_cos_mean"].value
    assert found["nc3_cos_mean"].reason == "no interval: the documents are in one group"
    assert found["nc1_cdnv_med_db"].reason == found["nc3_cos_mean"].reason
    assert math.isnan(found["nc3_cos_mean"].low)


def test_a_median_needs_documents_in_every_group():
    mixed = mixture()
    some = dense(mixed.sample(80, 19))
    none = (torch.zeros_like(numbers[:1]) for numbers in some)  # in the first group
    moments = ClassMoments.from_dense(*map(torch.cat, zip(none, some, strict=True)))
    found = metrics(moments, mixed.classifier, measures=COVERED)
    assert found["nc1_cdnv_med_db"].reason == (
        "no interval: some groups have no documents, and a median needs balanced halves"
    )
    assert found["nc3_cos_mean"].low < found["nc3_cos_mean"].high


def test_a_median_needs_a_number_of_groups_that_has_balanced_halves():
    mixed = mixture(seed=1)
    found = metrics(mixed.sample(40, 10), mixed.classifier, measures=COVERED)
    assert found["nc1_cdnv_med_db"].reason == (
        "no interval: 10 groups have no balanced halves; 20, 12, 8 do"
    )
    assert found["nc3_cos_mean"].low < found["nc3_cos_mean"].high


def with_rare_classes(n_rare):
    """Thirty classes, of which some have but one sample."""
    mixed = mixture()
    moments = mixed.sample(80, 20)
    counts, means, within_ss = dense(moments)
    for c in range(n_rare):
        counts[:, c], within_ss[:, c] = 0, 0
        counts[c, c] = 1
    return ClassMoments.from_dense(counts, means, within_ss), mixed.classifier


def test_classes_that_do_not_survive_every_resample_are_left_out_of_the_interval():
    # The interval is that of the others on their own, and says so.
    moments, classifier = with_rare_classes(2)
    found = metrics(moments, classifier, measures=["nc3_cos_mean", "nc1_cdnv_med_db"])
    others = metrics(moments, classifier, measures=["nc3_cos_mean"], min_count=2)["nc3_cos_mean"]
    assert found["nc3_cos_mean"].value != others.value
    assert (found["nc3_cos_mean"].low, found["nc3_cos_mean"].high) == (others.low, others.high)
    assert found["nc3_cos_mean"].reason == (
        "interval over the 28 of 30 classes with two samples in resamples"
    )
    assert others.reason == "classes with fewer than 2 samples: 2 left out"
    # Debiased measures are about classes with two samples in the first place.
    assert "interval over" not in found["nc1_cdnv_med_db"].reason


def test_if_many_classes_do_not_survive_there_is_no_interval():
    moments, classifier = with_rare_classes(4)
    value = metrics(moments, classifier, measures=["nc3_cos_mean"])["nc3_cos_mean"]
    assert math.isnan(value.low)
    assert value.reason == (
        "no interval: only 26 of 30 classes have two samples in every resample; raise min_count"
    )


def test_a_measure_that_counts_classes_has_an_interval_over_all_of_its_classes_or_none():
    names = ["rank_pr", "nc2_etf_error", "nc3_dual_error", "nc2_equiang_mean", "nc2_equiang_std"]
    moments, classifier = with_rare_classes(2)
    found = metrics(moments, classifier, measures=names)
    over_all = metrics(moments, classifier, measures=names, min_count=2)
    for name in names[:-1]:
        assert found[name].reason == (
            "no interval: it changes with the number of classes, and only 28 of 30 have two "
            "samples in every resample; raise min_count"
        )
        assert over_all[name].low < over_all[name].high
    assert found["nc2_equiang_std"].low < found["nc2_equiang_std"].high


def test_a_bias_that_is_too_large_to_be_taken_out_is_told():
    # The means have norms near 1, so that the mean of their logarithms is near 0, in a denominator:
    # the line and the parabola lead to two different places.
    mixed = mixture(150, 64)
    value = metrics(mixed.sample(60, 20), mixed.classifier, measures=["nc2_equinorm_cov_log"])
    assert math.isnan(value["nc2_equinorm_cov_log"].low)
    assert "its bias by small counts is too large" in value["nc2_equinorm_cov_log"].reason


def test_inverse_distances_that_are_mostly_noise_have_no_interval():
    # At six samples a class, the noise of two means adds a third to squared distances of 2.
    mixed = mixture(400, 16)
    drawn = [dense(mixed.sample(1, 1)) for _ in range(6)]
    moments = ClassMoments.from_dense(*map(torch.cat, zip(*drawn, strict=True)))
    found = metrics(moments, mixed.classifier, measures=["nc1_cdnv_p2", "nc1_cdnv_rom_db"])
    assert math.isnan(found["nc1_cdnv_p2"].low)
    assert "pairs of class means are too near to be told from their noise" in (
        found["nc1_cdnv_p2"].reason
    )
    assert found["nc1_cdnv_rom_db"].low < found["nc1_cdnv_rom_db"].high


def decided(agree, n, groups):
    """Positions of one label; in each group, some where classifier and nearest mean agree."""
    decisions = Decisions(torch.ones(2, dtype=torch.bool), groups)
    for group, (hits, positions) in enumerate(zip(agree, n, strict=True)):
        nearest = (torch.arange(positions) >= hits).long()
        zeros = torch.zeros(positions, dtype=torch.int64)
        decisions.update(zeros, Choices(zeros, zeros, nearest, zeros.double(), 0), group)
    return decisions


def test_agreement_is_resampled_by_validation_documents_given_the_means():
    hits, n = np.array([8, 5, 9, 3]), np.array([10, 10, 12, 5])
    moments = ClassMoments(2, 1)
    moments.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    decisions = decided(hits, n, 4)
    names = ["nc4_rate", "nc4_hits", "nc3_dot_mean"]
    found = metrics(moments, torch.eye(2)[:, :1], decisions, measures=names)
    without = [np.delete(hits, g).sum() / np.delete(n, g).sum() for g in range(4)]
    freedom = n.sum() ** 2 / (n**2).sum() - 1
    expected = resampling.jackknife(hits.sum() / n.sum(), without, freedom=freedom)
    rate = found["nc4_rate"]
    assert rate.value == 25 / 37
    assert rate.low == pytest.approx(expected.low, rel=1e-10)
    assert rate.high == pytest.approx(min(1, expected.high), rel=1e-10)
    assert rate.resampled == "documents"
    assert rate.reason == "interval given the measured class means"
    assert found["nc4_hits"].reason == "no interval: it is a count: see nc4_rate"
    assert found["nc3_dot_mean"].resampled == ""


def test_an_interval_of_a_share_ends_where_shares_end():
    moments = ClassMoments(2, 1)
    moments.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    decisions = decided([10, 10, 10, 7], [10, 10, 10, 10], 4)
    rate = metrics(moments, torch.eye(2)[:, :1], decisions, measures=["nc4_rate"])["nc4_rate"]
    assert rate.low < rate.value < rate.high == 1


def of_accuracy(hits, n):
    """The accuracy of positions in groups, each with so many hits."""
    decisions = Decisions(torch.ones(2, dtype=torch.bool), len(n))
    for group, (right, positions) in enumerate(zip(hits, n, strict=True)):
        labels = torch.zeros(positions, dtype=torch.int64)
        chosen = (torch.arange(positions) >= right).long()
        decisions.update(labels, Choices(chosen, chosen, chosen, chosen.double(), 0), group)
    return intervals.of_positions(decisions, lambda of: of.accuracy, range="[0, 1]")


def test_the_interval_of_a_rare_hit_begins_at_zero():
    # One hit in 400 positions: 1/400 less 3.18 standard errors of 1/400 is negative.
    value = of_accuracy([1, 0, 0, 0], [100] * 4)
    assert value.value == 1 / 400
    assert value.low == 0 < value.value < value.high < 1


@pytest.mark.parametrize(
    ("range", "interval", "expected"),
    [
        ("[0, 1]", (-0.5, 0.5), (0, 0.5)),
        ("[0.01, 1]", (0.0, 1.5), (0.01, 1)),
        ("[-1/(K-1), 1]", (-2.0, 2.0), (-2, 1)),  # what is no number bounds nothing
        ("[1, D]", (0.5, 70.0), (1, 70)),
        ("(-inf, 0]", (-3.0, 1.0), (-3, 0)),
        ("real", (-3.0, 1.0), (-3, 1)),
    ],
)
def test_an_interval_ends_where_the_measure_does(range, interval, expected):
    inside = sum(expected) / 2
    found = intervals._filled(Value(0.1, 5, 0), resampling.Interval(*interval, inside), range)
    assert (found.low, found.high, found.centre) == (*expected, inside)


def test_a_centre_beyond_the_range_is_at_its_end():
    found = intervals._filled(Value(0.9, 5, 0), resampling.Interval(0.8, 1.4, 1.1), "[0, 1]")
    assert (found.low, found.high, found.centre) == (0.8, 1, 1)


@pytest.mark.parametrize("interval", [(1.01, 1.2), (-0.2, -0.1), (0.99, 1.2)])
def test_an_interval_beyond_the_range_is_none(interval):
    # All documents together may say 0.992 and each resample more, once the bias is taken out.
    beyond = resampling.Interval(*interval, sum(interval) / 2)
    found = intervals._filled(Value(0.992, 5, 0), beyond, "[0, 1]")
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.centre)
    assert found.reason == "no interval: all of it, or nearly, is outside of [0, 1]"
