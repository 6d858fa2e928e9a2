import numpy as np
import pytest
import scipy.sparse as sp

from tightframe.ntp.support import EqualColumns, group

SUPPORT = np.array(
    [
        [1, 0, 1, 1, 0],
        [0, 1, 0, 0, 1],
        [1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    dtype=bool,
)


def test_equal_rows_and_columns_are_one_with_their_counts_in_order_of_appearance():
    groups = group(SUPPORT)
    np.testing.assert_array_equal(groups.column_of, [0, 1, 0, 0, 2])
    np.testing.assert_array_equal(groups.row_of, [0, 1, 0, 2, 3, 2])
    np.testing.assert_array_equal(groups.column_counts, [3, 1, 1])
    np.testing.assert_array_equal(groups.row_counts, [2, 1, 2, 1])
    np.testing.assert_array_equal(
        groups.support, np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=bool)
    )
    assert groups.describe() == "tokens 6 -> 4, contexts 5 -> 3"


def test_weights_of_equal_columns_add_up():
    groups = group(SUPPORT, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    np.testing.assert_array_equal(groups.column_counts, [8, 2, 5])


def test_expansion_undoes_the_grouping():
    for merge in (True, False):
        groups = group(SUPPORT, merge=merge)
        np.testing.assert_array_equal(groups.expand(groups.support * 1.0), SUPPORT)


def test_unmerged_every_row_and_column_stands_alone():
    groups = group(SUPPORT, merge=False)
    assert groups.support.shape == SUPPORT.shape
    assert groups.describe() == "tokens 6 -> 6, contexts 5 -> 5"


@pytest.mark.parametrize("tokens", [7, 8, 9, 17])
def test_supports_that_differ_in_one_token_stay_apart(tokens):
    # Rows are packed eight to a byte; the last byte is only partly used.
    columns = np.zeros((tokens, tokens), dtype=bool)
    columns[np.arange(tokens), np.arange(tokens)] = True
    assert group(columns).support.shape == (tokens, tokens)


def test_equal_columns_are_grouped_in_their_order():
    support = np.array([[1, 0, 1, 1], [0, 1, 0, 1]], dtype=bool)
    for groups in (EqualColumns.of(sp.csc_array(support)),):
        assert groups.first.tolist() == [0, 1, 3]
        assert groups.counts.tolist() == [2, 1, 1]
        assert groups.members.tolist() == [0, 1, 0, 2]


def test_columns_of_equal_support_and_other_values_stay_apart():
    values = sp.csc_array(np.array([[1.0, 1.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0]]))
    assert EqualColumns.of(values).members.tolist() == [0, 0, 1, 2]
    assert EqualColumns.of(values.astype(bool)).members.tolist() == [0, 0, 0, 1]
