import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import groups as reference
from tightframe.corpus.shards import even_cuts


def test_equal_items_are_shared_out_equally():
    assert even_cuts(np.array([5] * 12), 4).tolist() == [3, 6, 9]
    assert even_cuts(np.array([5] * 12), 1).tolist() == []
    assert even_cuts(np.array([5]), 1).tolist() == []


def test_a_heavy_item_leaves_the_others_a_group_each():
    # Shares end at 25, 50 and 75 of 100: all nearest to the end or the beginning of the heavy one.
    assert even_cuts(np.array([97, 1, 1, 1]), 4).tolist() == [1, 2, 3]
    assert even_cuts(np.array([1, 1, 1, 97]), 4).tolist() == [1, 2, 3]
    assert even_cuts(np.array([1, 97, 1, 1]), 3).tolist() == [1, 2]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data())
def test_cuts_are_those_of_plain_loops(weights, data):
    n = data.draw(st.integers(1, len(weights)))
    cuts = even_cuts(np.array(weights), n).tolist()
    # Sums of whole numbers and shares of them: ties are the same ties.
    assert cuts == reference.cuts(weights, n)
    assert all(
        after > before for before, after in zip([0, *cuts], [*cuts, len(weights)], strict=True)
    )


@pytest.mark.parametrize("n", [2, 7, 20])
def test_groups_differ_by_less_than_two_items(n):
    weights = np.random.default_rng(n).integers(1, 50, 2_000)
    sums = np.add.reduceat(weights, [0, *even_cuts(weights, n)])
    assert sums.max() - sums.min() < 2 * 50
