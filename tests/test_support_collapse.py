import itertools

import numpy as np
import pytest

from reference import comparison as naive
from tightframe.ntp.model_on_table import support_collapse, support_groups
from tightframe.ntp.soft_labels import SoftLabels


def labels_of(supports, n_tokens=6, seed=0):
    counts = np.zeros((n_tokens, len(supports)), dtype=int)
    rng = np.random.default_rng(seed)
    for context, support in enumerate(supports):
        counts[list(support), context] = rng.integers(1, 5, len(support))
    return SoftLabels.from_counts(counts)


# Three groups of 3, 2 and 2 contexts; one context is alone.
SUPPORTS = [(0, 1), (2,), (0, 1), (3, 4), (2,), (0, 1), (3, 4), (1, 2, 5)]


def test_groups_are_contexts_of_one_support_whatever_their_counts():
    groups = support_groups(labels_of(SUPPORTS))
    assert [group.tolist() for group in groups.members] == [[0, 2, 5], [1, 4], [3, 6]]
    assert (groups.n_contexts, groups.excluded) == (7, 1)


def test_equal_vectors_within_groups_are_collapsed():
    # One-hot vectors by group: cosine 1 within, 0 between, no spread within.
    labels = labels_of(SUPPORTS)
    groups = support_groups(labels)
    rows = np.zeros((8, 3))
    for which, members in enumerate(groups.members):
        rows[members, which] = 2.0
    found = support_collapse(lambda contexts: rows[contexts], groups)
    assert (found.within, found.within_min, found.between, found.nc1) == (1, 1, 0, 0)
    # 3 + 1 + 1 pairs within; 3*2 + 3*2 + 2*2 between.
    assert (found.n_within, found.n_between, found.n_zero) == (5, 16, 0)


@pytest.mark.parametrize("block", [1, 4, 100])
def test_collapse_is_that_of_plain_loops(block):
    labels = labels_of(SUPPORTS)
    rows = np.random.default_rng(1).normal(size=(8, 4))
    found = support_collapse(lambda contexts: rows[contexts], support_groups(labels), block=block)
    expected = naive.collapse(rows, naive.groups(labels.probabilities.toarray()))
    assert (found.within, found.within_min, found.between, found.nc1) == pytest.approx(
        expected, rel=1e-12
    )


def test_rotation_and_order_change_nothing_and_nc1_knows_no_shift():
    rng = np.random.default_rng(2)
    labels = labels_of(SUPPORTS)
    rows = rng.normal(size=(8, 4))
    groups = support_groups(labels)
    plain = support_collapse(lambda contexts: rows[contexts], groups)
    turned = 3 * rows @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    order = rng.permutation(8)
    again = support_collapse(
        lambda contexts: turned[order][contexts],
        support_groups(labels_of([SUPPORTS[j] for j in order])),
    )
    for name in ("within", "within_min", "between", "nc1"):
        assert getattr(again, name) == pytest.approx(getattr(plain, name), rel=1e-12)
    shifted = support_collapse(lambda contexts: rows[contexts] + 5, groups)
    assert shifted.nc1 == pytest.approx(plain.nc1, rel=1e-12)
    assert shifted.within > plain.within


def test_a_vector_without_direction_is_in_no_pair():
    labels = labels_of([(0,), (0,), (0,), (1,), (1,)])
    rows = np.array([[1.0, 0], [0, 0], [1, 1], [0, 1], [0, 2]])
    found = support_collapse(lambda contexts: rows[contexts], support_groups(labels))
    assert (found.n_zero, found.n_within, found.n_between) == (1, 2, 4)
    assert found.within == pytest.approx((1 + np.sqrt(0.5)) / 2)


def test_no_group_has_no_value():
    found = support_collapse(
        lambda contexts: np.ones((len(contexts), 2)), support_groups(labels_of([(0,), (1,)]))
    )
    assert np.isnan([found.within, found.within_min, found.between, found.nc1]).all()


def test_large_groups_are_drawn_from_with_a_seed():
    labels = labels_of([(0,)] * 20 + [(1,)] * 3)
    groups = support_groups(labels, most=5, seed=1)
    assert [len(group) for group in groups.members] == [5, 3]
    assert groups.excluded == 15
    again = support_groups(labels, most=5, seed=1)
    assert all(map(np.array_equal, groups.members, again.members))
    others = (support_groups(labels, most=5, seed=seed).members[0] for seed in range(5))
    assert any(not np.array_equal(a, b) for a, b in itertools.pairwise(others))
