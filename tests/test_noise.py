"""What sampling by groups of documents adds to class means, and measures without it (`_dbg`)."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch

from reference.noise import factors, naive_by_groups
from tightframe.geometry import MEASURES, metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.noise import group_noise, told_by_groups
from tightframe.geometry.pairs import sweep
from tightframe.geometry.values import NO_GROUPS

BY_GROUPS = [measure.name for measure in MEASURES if measure.estimator == "debiased by groups"]
# What has the unit of a squared distance in its denominator.
WITH_UNIT = {f"nc1_cdnv_p2{part}_dbg" for part in ("", "_std", "_mlog", "_med")}


def state(embeddings, labels, groups, n_classes, n_groups):
    moments = ClassMoments(n_classes, embeddings.shape[1], groups=n_groups)
    moments.update(*(torch.as_tensor(x) for x in (embeddings, labels, groups)))
    return moments


def sample(n_classes=14, dim=6, n_groups=7, seed=0, n=220):
    """Classes of unequal size in unequal groups, which share deviations; some are ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(n_classes, size=n, p=(q := 1 / np.arange(1, n_classes + 1)) / q.sum())
    groups = rng.choice(n_groups, size=n, p=(q := np.arange(1.0, n_groups + 1)) / q.sum())
    means = 2 * rng.normal(size=(n_classes, dim)) + 1
    shared = rng.normal(size=(n_groups, dim)) / 2
    own = rng.normal(size=(n_groups, n_classes, dim)) / 2
    embeddings = means[labels] + shared[groups] + own[groups, labels] + rng.normal(size=(n, dim))
    labels[:3] = -100
    return embeddings, labels, groups, rng.normal(size=(n_classes, dim))


def numbers(embeddings, labels, groups, classifier, **options):
    moments = state(embeddings, labels, groups, len(classifier), int(max(groups)) + 1)
    found = metrics(moments, torch.from_numpy(classifier), measures=BY_GROUPS, **options)
    return {name: value.value for name, value in found.items()}


def close(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-12, nan_ok=True), name


def noise_of(counts, means):
    """The noise of classes whose samples in a group (G, C) are all at its mean (G, C, D)."""
    counts, means = torch.as_tensor(counts), torch.as_tensor(means, dtype=torch.float64)
    moments = ClassMoments.from_dense(counts, means)
    told = told_by_groups(moments.counts_by_group)
    return group_noise(moments, told.nonzero().flatten())


def test_two_equal_groups_differ_by_twice_their_error():
    # Means at 1 and 3: the class mean 2 has the error of a mean of two draws, their variance 2
    # over 2.
    noise = noise_of([[5], [5]], [[[1.0]], [[3.0]]])
    assert float(noise.own[0]) == pytest.approx(1.0, rel=1e-14)


def test_equal_groups_have_the_variance_of_a_mean():
    x = np.random.default_rng(0).normal(size=(8, 1, 3))
    noise = noise_of(np.full((8, 1), 4), x)
    assert float(noise.own[0]) == pytest.approx(x.var(axis=0, ddof=1).sum() / 8, rel=1e-12)


@pytest.mark.parametrize("counts", [[5, 5], [4, 2, 2], [9, 5, 3, 1], [1, 1, 6, 2, 7, 3]])
def test_the_noise_is_right_on_average_whatever_the_groups_variances(counts):
    # Each group's mean is off by s_g one way or the other: over all 2^G cases, the estimate is
    # on average what it estimates, sum_g p_g^2 s_g^2. That of squared deviations over 1 - sum p^2
    # is not, where groups are unequal.
    n = np.array(counts)
    p, s = n / n.sum(), 1.0 + np.arange(len(n)) ** 2
    found = [
        float(noise_of(n[:, None], (np.array(signs) * s)[:, None, None]).own[0])
        for signs in itertools.product([-1, 1], repeat=len(n))
    ]
    assert np.mean(found) == pytest.approx((p**2) @ (s**2), rel=1e-12)


def test_the_covariance_of_two_classes_is_right_on_average():
    # Both are off by the same s_g in a group, the second class by as much again of its own.
    s = 1.0 + np.arange(4)
    joint, own = [], []
    for signs in itertools.product([-1, 1], repeat=8):
        shared, other = np.array(signs[:4]) * s, np.array(signs[4:]) * s
        noise = noise_of(np.full((4, 2), 3), np.stack([shared, shared + other], 1)[..., None])
        left, right = noise.joint.between(slice(0, 1), slice(1, 2))
        joint.append(float(left @ right))
        own.append(float(noise.own[1]))
    assert np.mean(joint) == pytest.approx((s @ s) / 16, rel=1e-12)
    assert np.mean(own) == pytest.approx(2 * (s @ s) / 16, rel=1e-12)


def test_sums_of_covariances_are_those_of_the_pairs():
    embeddings, labels, groups, _ = sample()
    moments = state(embeddings, labels, groups, 14, 7)
    noise = group_noise(moments, told_by_groups(moments.counts_by_group).nonzero().flatten())
    left, right = noise.joint.between(slice(None), slice(None))
    full = (left @ right).fill_diagonal_(0) + noise.own.diag()
    torch.testing.assert_close(noise.rows, full.sum(1), rtol=1e-12, atol=0)
    weights = torch.rand(len(full), dtype=torch.float64)
    expected = weights @ (full - full.diag().diag()) @ weights
    assert noise.between(weights) == pytest.approx(float(expected), rel=1e-10)


def test_what_a_resample_keeps_is_added_up():
    embeddings, labels, groups, _ = sample()
    moments = state(embeddings, labels, groups, 14, 7)
    noise = group_noise(moments, told_by_groups(moments.counts_by_group).nonzero().flatten())
    left = noise.without([2, 5])
    kept = [0, 1, 3, 4, 6]
    expected = noise.parts[:, kept].sum(1) / noise.counts[:, kept].sum(1) ** 2
    torch.testing.assert_close(left.own, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(left.of(noise.ids[1:3]).own, expected[1:3], rtol=1e-12, atol=0)
    assert left.shifts.tolist() == noise.shifts[kept].tolist()


# Naive twins


@pytest.mark.parametrize("min_count", [1, 12])
@pytest.mark.parametrize(("n_classes", "dim", "n_groups"), [(14, 6, 7), (9, 12, 3), (25, 3, 20)])
def test_every_measure_is_that_of_the_plain_loops(n_classes, dim, n_groups, min_count):
    data = sample(n_classes, dim, n_groups)
    expected = naive_by_groups(*data, min_count=min_count)
    close(numbers(*data, min_count=min_count), expected)


def test_the_factors_solve_the_equations_of_a_class_that_is_half_in_one_group():
    # p = 1/2, 1/4, 1/4: the deviation of the first group is half its difference from the rest,
    # whose square is that of all errors together; a quarter of it is in the deviation.
    assert factors(np.array([0.5, 0.25, 0.25])) == pytest.approx([4, 0, 0], abs=1e-12)
    assert factors(np.array([0.5, 0.5])) == pytest.approx([2, 2])
    assert factors(np.full(8, 1 / 8)) == pytest.approx(np.full(8, 8 / 7))


def test_tiles_do_not_matter(monkeypatch):
    data = sample(25, 3, 20)
    whole = numbers(*data)
    monkeypatch.setattr("tightframe.geometry.values.sweep", partial(sweep, tile=4))
    close(numbers(*data), whole)


# Invariances


def test_scale_moves_only_what_has_a_unit():
    embeddings, *rest = sample()
    before, after = numbers(embeddings, *rest), numbers(3.7 * embeddings, *rest)
    close(
        {name: value for name, value in after.items() if name not in WITH_UNIT},
        {name: value for name, value in before.items() if name not in WITH_UNIT},
    )
    for name in WITH_UNIT:
        assert after[name] != pytest.approx(before[name], rel=0.01), name


def test_rotating_embeddings_and_classifier_together_moves_nothing():
    embeddings, labels, groups, classifier = data = sample()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    close(numbers(embeddings @ turn, labels, groups, classifier @ turn), numbers(*data))


def test_translation_moves_only_what_is_not_centred():
    embeddings, *rest = data = sample()
    before, after = numbers(*data), numbers(embeddings + np.arange(6), *rest)
    centred = [name for name in BY_GROUPS if "_unc_" not in name]
    close({n: after[n] for n in centred}, {n: before[n] for n in centred}, 1e-8)


def test_the_order_of_the_groups_and_of_the_classes_moves_nothing():
    embeddings, labels, groups, classifier = data = sample()
    rng = np.random.default_rng(1)
    order, places = rng.permutation(7), rng.permutation(14)
    renamed = np.where(labels < 0, labels, places[labels.clip(0)])
    turned = numbers(embeddings, renamed, order[groups], classifier[np.argsort(places)])
    close(turned, numbers(*data))


def test_states_merged_in_any_order_say_the_same():
    embeddings, labels, groups, classifier = data = sample()
    parts = [
        state(embeddings[part], labels[part], groups[part], 14, 7)
        for part in np.array_split(np.random.default_rng(1).permutation(len(labels)), 3)
    ]
    merged = ClassMoments(14, 6, groups=7)
    for part in reversed(parts):
        merged.merge(part)
    found = metrics(merged, torch.from_numpy(classifier), measures=BY_GROUPS)
    close({name: value.value for name, value in found.items()}, numbers(*data))


# Classes and states without an estimate


def test_classes_that_one_group_rules_are_left_out_and_counted():
    # Class 0 lies in one group, class 1 by more than half, class 2 by half: it is the first that
    # tells its noise.
    embeddings, labels, groups, classifier = sample(8, 4, 6)
    kept = labels > 2
    own = np.repeat([0, 1, 2], [5, 5, 6])
    where = np.array([0] * 5 + [0] * 3 + [1, 2] + [0] * 3 + [1, 2, 3])
    labels, groups = np.append(labels[kept], own), np.append(groups[kept], where)
    embeddings = np.append(embeddings[kept], np.random.default_rng(1).normal(size=(16, 4)), 0)
    moments = state(embeddings, labels, groups, 8, 6)
    value = metrics(moments, torch.from_numpy(classifier), measures=["nc3_cos_mean_dbg"])
    value = value["nc3_cos_mean_dbg"]
    assert (value.n, value.excluded) == (6, 2)
    assert "classes of which one group holds more than half: 2 left out" in value.reason
    others = np.isin(labels, [0, 1], invert=True)
    alone = numbers(embeddings[others], labels[others], groups[others], classifier)
    assert value.value == pytest.approx(alone["nc3_cos_mean_dbg"], rel=1e-12)


def test_documents_in_one_group_tell_no_noise():
    embeddings, labels, _, classifier = sample()
    moments = state(embeddings, labels, np.full(len(labels), 3), 14, 7)
    found = metrics(moments, torch.from_numpy(classifier), measures=BY_GROUPS)
    for name, value in found.items():
        assert math.isnan(value.value), name
        assert "classes of which one group holds more than half: " in value.reason, name


def test_without_groups_there_is_no_value_and_what_to_do():
    embeddings, labels, _, classifier = sample()
    moments = ClassMoments(14, 6)
    moments.update(torch.from_numpy(embeddings), torch.from_numpy(labels))
    found = metrics(moments, torch.from_numpy(classifier), measures=[*BY_GROUPS, "nc1_cdnv_db"])
    assert not math.isnan(found.pop("nc1_cdnv_db").value)
    for name, value in found.items():
        assert math.isnan(value.value), name
        assert (value.n, value.reason) == (0, NO_GROUPS), name


def test_each_debiased_measure_has_a_twin_that_says_what_it_is():
    twins = {m.name: m for m in MEASURES if m.estimator == "debiased by groups"}
    debiased = [m for m in MEASURES if m.estimator == "debiased"]
    assert len(twins) == len(debiased) == 31
    for measure in debiased:
        twin = twins[measure.name.replace("_db", "_dbg")]
        assert twin.least_count == 2
        assert "debiased by groups" in twin.formula
        assert (twin.range, twin.direction) == (measure.range, measure.direction)


def test_they_have_intervals_around_them():
    embeddings, labels, groups, classifier = sample(10, 6, 20, n=4000)
    moments = state(embeddings, labels, groups, 10, 20)
    names = ["nc1_cdnv_rom_dbg", "nc1_cdnv_med_dbg", "nc3_cos_mean_dbg"]
    found = metrics(moments, torch.from_numpy(classifier), measures=names)
    for name, value in found.items():
        assert value.low < value.high, name
        assert value.resampled == "documents"
