"""The generated stories: their distribution is exact, and they are the same everywhere."""

import collections
import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from reference import stories as reference
from tightframe.corpus.grammar import parse
from tightframe.corpus.stories import END, Grammar, usual_grammar

# Tellings that begin alike, plots that show late, an article that tells of the next word, words
# that may not come twice, lists named by attributes, attributes of several words, early ends.
SMALL = """
[animal] went=ran home=wood
    fox owl
[animal] went=swam_off home=lake
    otter
[wood]
    oak fox
[lake]
    reed oyster
<story>
    2: <hello> <sad>
    <hello> <glad>
    the [animal] slept
<hello>
    a [hero=animal] met a <size> [friend=animal]
    the [hero=animal] met the [friend=animal]
    the [hero=animal] met the [friend=animal] <and>
<size>
    old
    -
<and>
    and a [animal]
    -
<sad>
    3: . the {hero} {hero.went} to a [hero.home] .
    . a {friend} {friend.went}
<glad>
    . the {friend} {friend.went} to a [hero.home] .
    -
"""


@pytest.fixture(scope="module")
def grammar():
    return Grammar()


@pytest.fixture(scope="module")
def sample(grammar):
    return list(grammar.generate(200_000, seed=1))


def test_weights_are_the_distribution():
    weather = Grammar(text="<story>\n    3: it rained .\n    it snowed .")
    assert weather.next_token_distribution([]) == {"it": 1.0}
    assert weather.next_token_distribution(["it"]) == {"rained": 0.75, "snowed": 0.25}
    assert weather.next_token_distribution(["it", "rained", "."]) == {END: 1.0}
    score = weather.score(["it", "snowed", "."])
    # Only the second word is open: -log(1/4), and the entropy of (3/4, 1/4).
    assert score.nll == pytest.approx([0, math.log(4), 0, 0], abs=1e-15)
    assert score.entropy == pytest.approx([0, math.log(4) - 0.75 * math.log(3), 0, 0], abs=1e-15)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_filter_agrees_with_telling_every_story(seed):
    small = Grammar(seed, text=SMALL)
    expected = reference.next_token_distributions(parse(SMALL), seed)
    assert len(expected) > 200
    for context, following in expected.items():
        assert small.next_token_distribution(context) == pytest.approx(following, rel=1e-12)


def test_scores_agree_with_telling_every_story():
    small = Grammar(text=SMALL)
    expected = reference.next_token_distributions(parse(SMALL), seed=0)
    for _, story in reference.stories(parse(SMALL), seed=0)[::7]:
        score = small.score(story)
        for position, token in enumerate([*story, END]):
            following = expected[tuple(story[:position])]
            entropy = -sum(share * math.log(share) for share in following.values())
            assert score.nll[position] == pytest.approx(-math.log(following[token]), abs=1e-12)
            assert score.entropy[position] == pytest.approx(entropy, abs=1e-12)


def test_distributions_of_real_contexts_sum_to_one(grammar, sample):
    for number, story in enumerate(sample[:90]):
        context = story[: number % (len(story) + 1)]
        distribution = grammar.next_token_distribution(context)
        assert math.fsum(distribution.values()) == pytest.approx(1, abs=1e-12)
        assert min(distribution.values()) > 0
        assert set(distribution) <= set(grammar.words)


@pytest.mark.parametrize(
    "context",
    ["", "once", "once upon a time there was a", "in", "in a", "near an"],
)
def test_what_comes_next_is_as_frequent_as_the_distribution_says(grammar, sample, context):
    words = context.split()
    tokens = [[*story, END] for story in sample]
    seen = collections.Counter(t[len(words)] for t in tokens if t[: len(words)] == words)
    expected = grammar.next_token_distribution(words)
    assert set(seen) <= set(expected)
    # Pearson's chi-square over the words expected at least five times, and all others together.
    total = seen.total()
    common = [word for word, share in expected.items() if share * total >= 5]
    observed = [seen[word] for word in common]
    shares = [expected[word] for word in common]
    if len(common) < len(expected):
        observed.append(total - sum(observed))
        shares.append(1 - sum(shares))
    if len(observed) == 1:
        assert observed == [total]
        return
    assert scipy.stats.chisquare(observed, total * np.array(shares)).pvalue > 1e-4


def test_mean_nll_is_the_mean_entropy_within_its_error(grammar, sample):
    # Given its context, a token's nll has its entropy as mean: the differences are a martingale's.
    scores = [grammar.score(story) for story in sample[:150]]
    difference = np.concatenate([score.nll - score.entropy for score in scores])
    assert len(difference) > 12_000
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(difference))


def test_a_color_is_told_again_thirty_words_later(grammar):
    before = (
        "{name} was a kind {child} from Oakham . {they} loved chess . {their} mother gave {them}"
    )
    since = (
        "kite . one rainy morning {name} lost it near the park . "
        "{they} cried and wept , very sad . soon a small dog ran by . it found something"
    )
    girl = {"name": "Lily", "child": "girl", "they": "she", "their": "her", "them": "her"}
    for color in ("red", "green"):
        context = f"{before} a {color} {since}".format(**girl).split()
        assert len(context) - context.index(color) > 30
        assert grammar.next_token_distribution(context) == {color: 1.0}
        then = [*context, *f"{color} in the park : the".split()]
        assert grammar.next_token_distribution(then)["kite"] > 0.5


def test_pronouns_agree_with_the_hero(grammar):
    for name, child, pronoun, other in [("Lily", "girl", "she", "he"), ("Tim", "boy", "he", "she")]:
        context = f"{name} was a kind {child} from Oakham .".split()
        distribution = grammar.next_token_distribution(context)
        assert distribution[pronoun] > 0.4
        assert other not in distribution


def test_the_same_seed_tells_the_same_stories_in_any_process(grammar):
    program = (
        "import hashlib; from tightframe.corpus.stories import usual_grammar;"
        "told = usual_grammar().generate(20_000, seed=3);"
        "text = '\\n'.join(' '.join(story) for story in told);"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    text = "\n".join(" ".join(story) for story in usual_grammar().generate(20_000, seed=3))
    assert hashlib.sha256(text.encode()).hexdigest() == other.stdout.strip()


def test_a_small_grammar_tells_what_it_always_told():
    # Pinned: another numpy or machine must not change a corpus.
    told = [" ".join(story) for story in Grammar(text=SMALL).generate(40, seed=0)]
    assert told == [
        "a fox met an old otter",
        "the owl met the otter . the otter swam off to a fox .",
        "the fox met the otter . the fox ran to an oak .",
        "an otter met an owl . the otter swam off to an oyster .",
    ]


def test_another_seed_tells_other_stories(grammar):
    assert list(grammar.generate(500, seed=1)) != list(grammar.generate(500, seed=2))


def test_another_grammar_seed_makes_other_words_frequent(grammar):
    other = Grammar(seed=1)
    assert other.words == grammar.words
    context = ["once", "there", "was", "a", "kind", "girl", "named"]
    ours, theirs = (each.next_token_distribution(context) for each in (grammar, other))
    assert set(ours) == set(theirs)
    assert max(ours, key=ours.__getitem__) != max(theirs, key=theirs.__getitem__)


def test_stories_are_whole_and_stop_at_the_asked_number_of_tokens(grammar):
    told = list(grammar.generate(5_000, seed=4))
    lengths = [len(story) + 1 for story in told]
    assert sum(lengths) >= 5_000 > sum(lengths[:-1])
    assert all(END in grammar.next_token_distribution(story) for story in told)
    assert list(grammar.generate(0, seed=4)) == []


def test_a_story_and_its_end_fit_a_block_of_128(grammar, sample):
    assert max(len(story) for story in sample) <= grammar.longest <= 127


def test_two_thousand_words_occur_with_zipfs_frequencies(grammar, sample):
    counts = collections.Counter(word for story in sample for word in story)
    assert len(grammar.words) > 2_250
    assert len(counts) > 2_150
    # Zipf's law has slope -1 in log frequency against log rank; ranks evenly spaced in their log.
    frequencies = np.sort(np.array(list(counts.values())))[::-1]
    ranks = np.unique(np.geomspace(1, len(frequencies), 60).astype(int))
    slope = np.polyfit(np.log(ranks), np.log(frequencies[ranks - 1]), 1)[0]
    assert -1.2 < slope < -0.8


def test_categories_name_words_that_occur(grammar):
    assert {"characters", "objects", "places", "feelings"} <= set(grammar.categories)
    for words in grammar.categories.values():
        assert len(words) == len(set(words))
        assert set(words) <= set(grammar.words)
    assert "Lily" in grammar.categories["characters"]
    assert "kite" in grammar.categories["objects"]


def test_an_impossible_context_is_refused_with_what_was_possible():
    small = Grammar(text="<story>\n    3: it rained .\n    it snowed .")
    with pytest.raises(ValueError, match=r"word 1 .* 'hailed', .* expects rained, snowed$"):
        small.next_token_distribution(["it", "hailed"])
    with pytest.raises(ValueError, match=r"word 3 .* 'it', .* expects <\|endoftext\|>$"):
        small.score(["it", "rained", ".", "it"])


def test_the_words_that_were_possible_are_cut_short(grammar):
    with pytest.raises(ValueError, match=r"expects in, (\S+, ){6}\S+ or \d+ more$"):
        usual_grammar().next_token_distribution(["twice"])
    with pytest.raises(ValueError, match="cannot come there"):
        grammar.score(["once", "upon", "a", "time"])  # a story that stops too early
