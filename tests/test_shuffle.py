import numpy as np
import pytest
import torch

from tightframe.corpus.labels import Shuffle, ShuffledLabels
from tightframe.corpus.shards import TokenShards
from tightframe.lm.interface import IGNORE, next_token
from tiny_tokens import write_tokens


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 1_000, 4_097])
def test_every_place_is_sent_to_a_place_of_its_own(n):
    sent = Shuffle(n, seed=3)(np.arange(n))
    assert sorted(sent.tolist()) == list(range(n))


def test_a_shuffle_is_its_seeds():
    places = np.arange(1_000)
    one, same, other = (Shuffle(1_000, seed)(places) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    # Two permutations agree at one place on average.
    assert (one == other).sum() < 10


def test_places_can_be_asked_for_in_any_order_and_far_from_the_beginning():
    shuffle = Shuffle(10**12, seed=0)
    places = np.array([10**12 - 1, 0, 5, 5, 123_456_789_012])
    sent = shuffle(places)
    assert all(shuffle(places[[index]])[0] == sent[index] for index in range(5))
    assert sent[2] == sent[3]
    assert ((sent >= 0) & (sent < 10**12)).all()
    assert shuffle(np.zeros(0, dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize("n", [1_000, 65_536, 70_000])
@pytest.mark.parametrize("lag", [1, 2, 256])
def test_neighbours_are_sent_apart(n, lag):
    # Of a random permutation the correlation of places `lag` apart is 0 +- 1 / sqrt(n), as is
    # that of a place with where it is sent; five of these are not reached by chance.
    sent = Shuffle(n, seed=7)(np.arange(n))
    for pair in ((sent[:-lag], sent[lag:]), (np.arange(n), sent)):
        assert abs(np.corrcoef(*pair)[0, 1]) < 5 / np.sqrt(n)
    # And parity is not kept: half of the even places become odd.
    assert abs((sent[::2] % 2).mean() - 0.5) < 5 / np.sqrt(n)


def test_nothing_cannot_be_shuffled():
    with pytest.raises(ValueError, match="one or more to shuffle, got 0"):
        Shuffle(0, seed=0)


@pytest.fixture
def split(tmp_path):
    return TokenShards.open(write_tokens(tmp_path / "x", train=200)).split("train")


def test_shuffled_labels_are_the_same_labels_at_the_same_positions(split):
    targets = next_token(*split.rows(range(len(split)))).targets
    shuffled = ShuffledLabels(split, seed=0).rows(range(len(split)))
    labelled = targets != IGNORE
    assert shuffled.shape == targets.shape
    assert torch.equal(shuffled == IGNORE, ~labelled)
    assert torch.bincount(shuffled[labelled], minlength=split.vocab_size).tolist() == (
        split.label_counts().tolist()
    )
    # The label at each ordinal is the one that the permutation names.
    places = Shuffle(split.n_labels, seed=0)(np.arange(split.n_labels))
    assert torch.equal(shuffled[labelled], targets[labelled][torch.from_numpy(places)])


@pytest.mark.parametrize("step", [1, 7, 64])
def test_shuffled_labels_do_not_depend_on_the_batch(split, step):
    whole = ShuffledLabels(split, seed=5).rows(range(len(split)))
    shuffled = ShuffledLabels(split, seed=5)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    for rows in order.split(step):
        assert torch.equal(shuffled.rows(rows), whole[rows])
    assert not torch.equal(ShuffledLabels(split, seed=6).rows(range(len(split))), whole)


def test_rows_that_do_not_exist_have_no_labels(split):
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 200\), got 0\.\.200"):
        ShuffledLabels(split, seed=0).rows([0, 200])
