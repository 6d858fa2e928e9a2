import numpy as np
import pytest
import scipy.sparse as sp

from reference.supports import random_support
from tightframe.ntp.soft_labels import centred_support
from tightframe.ntp.support import MergedSupport, dense_triplets, support_columns


def test_merged_triplets_expand_to_those_of_the_whole():
    # Repeats of columns and of rows, shuffled; the weighted small matrix has the same spectrum.
    rng = np.random.default_rng(0)
    small = random_support(8, 12, (2, 4), seed=1)
    small[small.sum(axis=1) == 0, 0] = True  # no unused token
    whole = small[np.ix_(rng.permutation(np.arange(24) % 8), rng.permutation(np.arange(36) % 12))]
    merged = MergedSupport.of(support_columns(whole))
    assert merged.support.shape == (8, len(np.unique(small, axis=1).T))
    triplets = merged.expand(dense_triplets(merged.centred))
    product = (triplets.left * triplets.singular_values) @ triplets.right.T
    assert product == pytest.approx(centred_support(whole), abs=1e-12)
    assert triplets.left.T @ triplets.left == pytest.approx(np.eye(product.shape[0])[:7, :7])


@pytest.mark.parametrize("kind", [np.array, sp.csr_array, sp.coo_array])
def test_dense_and_sparse_supports_are_the_same(kind):
    support = random_support(6, 9, (1, 3), seed=2)
    for dtype in (bool, np.int64, np.float64):
        columns = support_columns(kind(support.astype(dtype)))
        assert columns.dtype == bool
        assert (columns.toarray() == support).all()


def test_stored_zeros_are_not_in_the_support():
    stored = sp.csc_array(([1, 0, 1], [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    assert support_columns(stored).toarray().tolist() == [[True, False], [False, True]]
    assert stored.nnz == 3  # the caller's matrix is as it was


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, np.nan])
def test_entries_other_than_0_and_1_are_refused(value):
    support = np.eye(3)
    support[1, 2] = value
    with pytest.raises(ValueError, match=rf"support: {value} for token 1, context 2; expected"):
        support_columns(support)


def test_an_empty_column_is_refused():
    with pytest.raises(ValueError, match=r"support: no token follows context 1 \(axis 1\)"):
        support_columns(np.array([[True, False, True]]))
