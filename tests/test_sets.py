import functools

import numpy as np
import pytest

from studies.small_sets import sets
from studies.small_sets.sets import stories_set, synthetic_set
from tightframe.corpus.stories import Grammar


@pytest.fixture(scope="module")
def told():
    """Both sets are made of the same stories; telling them takes the longest, so once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "_contexts", functools.cache(sets._contexts))
        yield


@pytest.fixture(scope="module")
def synthetic(told):
    return synthetic_set()


@pytest.fixture(scope="module")
def stories(told):
    return stories_set()


def test_the_synthetic_set_has_the_published_shape(synthetic):
    assert synthetic.support.shape == (30, 16)
    assert synthetic.contexts.shape == (16, 5)
    assert (synthetic.support.sum(axis=0) == 3).all()
    assert synthetic.n_pairs == 72
    assert set(synthetic.counts.data) == {1, 2}
    assert synthetic.n_supports == 16
    # Of three words with counts of 1 and 2: from (1, 1, 2), 1.5 ln 2, to uniform, ln 3.
    assert 1.5 * np.log(2) < synthetic.empirical_entropy < np.log(3)
    assert (synthetic.support.sum(axis=1) > 1).any()  # words are shared


def test_the_set_of_stories_has_the_published_shape(stories):
    assert stories.support.shape == (104, 403)
    assert stories.contexts.shape == (403, 5)
    assert 4 < stories.soft_labels.support_sizes.mean() < 6
    assert set(stories.counts.data) == {1, 2, 3, 4}
    assert stories.n_supports == 45
    # 2.5 on average, uniform on 1..4 with variance 1.25: five standard errors.
    n = stories.counts.nnz
    assert stories.counts.data.mean() == pytest.approx(2.5, abs=5 * np.sqrt(1.25 / n))


@pytest.mark.parametrize("name", ["synthetic", "stories"])
def test_every_word_follows_a_context_and_every_context_is_another(name, request):
    table = request.getfixturevalue(name)
    assert table.support.any(axis=1).all()
    assert len(np.unique(table.contexts, axis=0)) == table.n_contexts
    vocabulary = Grammar().words
    assert table.words == tuple(vocabulary[token] for token in table.tokens)
    assert table.text(0) == " ".join(vocabulary[token] for token in table.contexts[0])


def test_contexts_with_a_shared_support_differ_in_words_of_one_list(stories):
    # 45 contexts come from stories, the others are these with a synonym in one place.
    lists = Grammar().lists.values()
    base, retold = stories.contexts[:45], stories.contexts[45:]
    supports = stories.support
    for context, support in zip(retold, supports.T[45:], strict=True):
        source = base[(supports.T[:45] == support).all(axis=1)][0]
        (place,) = np.flatnonzero(context != source)
        pair = {stories.vocabulary[context[place]], stories.vocabulary[source[place]]}
        assert any(pair <= set(words) for words in lists)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_every_seed_makes_both_shapes_and_the_same_ones_again(seed):
    for make, shape in ((synthetic_set, (30, 16)), (stories_set, (104, 403))):
        once, again = make(seed), make(seed)
        assert once.support.shape == shape
        assert np.array_equal(once.contexts, again.contexts)
        assert (once.counts != again.counts).nnz == 0
        assert not np.array_equal(make(seed + 4).contexts, once.contexts)
