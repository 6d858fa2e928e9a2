import numpy as np

from tightframe.ntp.summary import support_order


def _runs(labels):
    return 1 + int((np.diff(labels) != 0).sum())


def test_blocks_that_were_shuffled_come_together_again():
    # Four disjoint blocks of 3 words and 5 contexts: in the order found each is one run.
    support = np.kron(np.eye(4, dtype=bool), np.ones((3, 5), dtype=bool))
    generator = np.random.default_rng(0)
    words, contexts = generator.permutation(12), generator.permutation(20)
    order = support_order(support[words][:, contexts])
    assert _runs((words // 3)[order.words]) == 4
    assert _runs((contexts // 5)[order.contexts]) == 4


def test_it_is_a_permutation_with_full_contexts_last():
    # Context 0 is followed by every word: its centred column is zero.
    support = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=bool)
    order = support_order(support)
    assert sorted(order.words) == [0, 1, 2]
    assert sorted(order.contexts) == [0, 1, 2, 3]
    assert order.contexts[-1] == 0


def test_two_contexts_keep_their_order():
    order = support_order(np.array([[1, 0], [0, 1], [1, 0]], dtype=bool))
    assert list(order.contexts) == [0, 1]
