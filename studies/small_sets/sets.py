"""Two small context tables in the shape of the published ones, from the generated stories.

The published sets are contexts of five words with the words that follow them: 16 contexts over 30
words, written by hand, and 403 over 104, derived from TinyStories. These here follow the same
recipes on text that the package generates, so anyone can make them again: `seed` draws the
stories and every choice. What follows a context is drawn, as there, not estimated: a word stays
or goes, and counts are drawn anew.

Where they differ from the published ones:

- Synthetic: the contexts come from stories, too. Half of the counts are 1 and half are 2, so that
  n is 72 for every seed. Three words with such counts have an entropy between 1.040 and ln 3, so
  the floor is about 1.06 nats; the published 1.0166 needs counts that are more uneven.
- Stories: a synonym is another word of the same list of the grammar. Punctuation is a word.
- The words of the contexts are not counted in V, the words that may follow.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from tightframe.corpus.stories import Grammar
from tightframe.ntp.table import ContextTable

LENGTH = 5  # words of a context
_STORY_WORDS = 500_000  # of the stories that contexts are taken from

_SYNTHETIC = {"words": 30, "contexts": 16, "support": 3}
_CONTINUATIONS = 10  # that a synthetic context has before three of them are kept
_STORIES = {"words": 104, "contexts": 403, "bases": 45}  # 45 supports, shared by synonyms
_RARE = 2  # a next word seen less often after its context is removed
_DRAWS = 100  # of support sizes; most of them can be met and told again, not all
_SMALLEST, _LARGEST = 3, 10  # next words kept of a context

Words: TypeAlias = tuple[str, ...]


def synthetic_set(seed: int = 0) -> ContextTable:
    """16 contexts of five words, each followed by three of 30 words; 72 pairs.

    No two contexts have the same support, most words follow several contexts, every word follows
    one.
    """
    rng = np.random.default_rng(seed)
    frequent = [
        (context, tuple(word for word, _ in following.most_common(_CONTINUATIONS)))
        for context, following in _contexts(seed)
        if len(following) >= _CONTINUATIONS
    ]
    supports = _supports_of_three(frequent, rng)
    counts = rng.permutation(np.repeat([1, 2], len(supports) * 3 // 2))
    return _table(supports, counts, seed, "synthetic")


def stories_set(seed: int = 0) -> ContextTable:
    """403 contexts of five words over 104 next words, with 45 supports of about five words.

    The most frequent contexts that several words follow, without their rare next words; then
    each is told again with synonyms, which have its support. Counts are drawn from 1 to 4.
    """
    rng = np.random.default_rng(seed)
    contexts = [
        (context, [word for word, count in following.most_common() if count >= _RARE])
        for context, following in _contexts(seed)
    ]
    lists = Grammar(seed).lists
    drawn = (_bases(contexts, rng) for _ in range(_DRAWS))
    told = (_with_synonyms(bases, lists, rng) for bases in drawn if bases)
    supports = next(found for found in told if found)
    counts = rng.integers(1, 5, sum(len(support) for support in supports.values()))
    return _table(supports, counts, seed, "stories")


def _contexts(seed: int) -> list[tuple[Words, Counter[str]]]:
    """Contexts of stories that several words follow, the most frequent first."""
    pairs: Counter[Words] = Counter()
    for story in Grammar(seed).generate(_STORY_WORDS, seed):
        pairs.update(zip(*(story[place:] for place in range(LENGTH + 1)), strict=False))
    found: defaultdict[Words, dict[str, int]] = defaultdict(dict)
    for pair, count in pairs.items():
        found[pair[:-1]][pair[-1]] = count
    several = [(context, Counter(after)) for context, after in found.items() if len(after) > 1]
    return sorted(several, key=lambda item: (-item[1].total(), item[0]))


def _supports_of_three(
    frequent: Sequence[tuple[Words, Words]], rng: np.random.Generator
) -> dict[Words, Words]:
    """Three next words of each context: so many new ones that all together are exactly 30."""
    n_words, n_contexts, size = _SYNTHETIC.values()
    supports: dict[Words, Words] = {}
    used: set[str] = set()
    for context, following in frequent:
        left = n_contexts - len(supports)
        n_new = size if not used else round((n_words - len(used)) / max(left, 1))
        old = [word for word in following if word in used]
        new = [word for word in following if word not in used]
        if len(new) < n_new or len(old) < size - n_new:
            continue
        kept = [*rng.choice(new, n_new, replace=False), *rng.choice(old, size - n_new, False)]
        support = tuple(sorted(str(word) for word in kept))
        if support in supports.values():
            continue
        supports[context] = support
        used |= set(support)
        if len(supports) == n_contexts:
            return supports
    raise AssertionError("the stories have too few contexts with ten next words")


def _bases(
    contexts: Sequence[tuple[Words, Sequence[str]]], rng: np.random.Generator
) -> dict[Words, Words] | None:
    """The contexts that synonyms multiply: their supports differ, and have exactly 104 words.

    None where the drawn sizes cannot be met.

    A context either opens a theme, with words that are all new, or shares words with those
    before it and adds so many that the last one completes the 104.
    """
    n_words, _, n_bases = _STORIES.values()
    supports: dict[Words, Words] = {}
    used: set[str] = set()
    for context, common in contexts:
        size = int(rng.integers(_SMALLEST, _LARGEST + 1))
        old = [word for word in common if word in used]
        new = [word for word in common if word not in used]
        if old:
            n_new = round((n_words - len(used)) / (n_bases - len(supports)))
        else:  # themes leave half of the words to what the contexts add to them
            n_new = size if len(used) + size <= n_words // 2 else 0
        kept = tuple(sorted([*old[: size - n_new], *new[:n_new]]))
        if len(new) < n_new or len(kept) < _SMALLEST or kept in supports.values():
            continue
        supports[context] = kept
        used |= set(kept)
        if len(supports) == n_bases:
            return supports
    return None


def _with_synonyms(
    bases: Mapping[Words, Words],
    lists: Mapping[str, Words],
    rng: np.random.Generator,
) -> dict[Words, Words] | None:
    """Every base context, and retellings in turn until there are 403 contexts.

    None where too few words of the contexts have synonyms.
    """
    supports = dict(bases)
    synonyms = {word: words for words in lists.values() for word in words}
    retellings = {context: _retold(context, synonyms, rng) for context in bases}
    while retellings:
        for base in list(retellings):
            retold = next((told for told in retellings[base] if told not in supports), None)
            if retold is None:
                del retellings[base]  # has no words with synonyms, or no more of them
                continue
            supports[retold] = bases[base]
            if len(supports) == _STORIES["contexts"]:
                return supports
    return None


def _retold(
    context: Words, synonyms: Mapping[str, Words], rng: np.random.Generator
) -> Iterator[Words]:
    """The context with one word replaced, in a random order."""
    ways = [
        (place, other)
        for place, word in enumerate(context)
        for other in synonyms.get(word, ())
        if other != word
    ]
    for number in rng.permutation(len(ways)):
        place, other = ways[number]
        yield (*context[:place], other, *context[place + 1 :])


def _table(
    supports: Mapping[Words, Words],
    counts: np.ndarray,
    seed: int,
    name: str,
) -> ContextTable:
    vocabulary = Grammar(seed).words
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokens = np.array(sorted({ids[word] for support in supports.values() for word in support}))
    following = [ids[word] for support in supports.values() for word in support]
    ends = np.cumsum([0, *(len(support) for support in supports.values())])
    return ContextTable(
        np.array([[ids[word] for word in context] for context in supports], dtype=np.int32),
        sp.csr_array(
            (counts.astype(np.int64), np.searchsorted(tokens, following), ends),
            shape=(len(supports), len(tokens)),
        ),
        tokens,
        tuple(vocabulary[token] for token in tokens),
        {"set": name, "seed": seed, "length": LENGTH},
        vocabulary,
    )
