import numpy as np

from tightframe.ntp.comparison import shuffled_groups

SUPPORT = np.array(
    [[1, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool
)


def test_sizes_and_equal_supports_stay():
    shuffled = shuffled_groups(SUPPORT, seed=3)
    np.testing.assert_array_equal(shuffled.sum(axis=0), SUPPORT.sum(axis=0))
    np.testing.assert_array_equal(shuffled[:, 0], shuffled[:, 2])


def test_every_token_is_as_likely():
    # The second column has one token of five: over 2,000 seeds each about 400 times, deviation 18.
    support = np.array([[1, 1], [1, 0], [0, 0], [0, 0], [0, 0]], dtype=bool)
    times = sum(shuffled_groups(support, seed)[:, 1].astype(int) for seed in range(2000))
    assert (np.abs(times - 400) < 5 * 18).all()


def test_columns_are_drawn_each_for_itself():
    # With the same permutation for both, two disjoint columns would stay disjoint for ever.
    support = np.eye(2, dtype=bool)
    meet = [(shuffled_groups(support, seed).sum(axis=1) == 2).any() for seed in range(40)]
    assert 5 < sum(meet) < 35


def test_the_seed_decides():
    big = np.tile(SUPPORT, (4, 1))
    np.testing.assert_array_equal(shuffled_groups(big, 1), shuffled_groups(big, 1))
    assert (shuffled_groups(big, 1) != shuffled_groups(big, 2)).any()
