import pytest
from hypothesis import given
from hypothesis import strategies as st

import tightframe as tf
from reference import scores as naive
from tightframe.knowledge.evaluation.scores import cut, normalised, word_f1

score_answer = tf.knowledge.score_answer


@pytest.mark.parametrize(
    ("answers", "prediction", "expected"),
    [
        (["Clipperton Island"], "the Clipperton Island.", (1, 100, 1, 1, 100)),
        (["Clipperton Island"], "clipperton island", (0, 100, 1, 1, 100)),
        (["Clipperton Island"], "Isla Clipperton", (0, 50, 0, 0, 50)),
        (
            ["NBA", "National Basketball Association"],
            "National Basketball Association",
            (1, 0, 1, 1, 100),
        ),
    ],
)
def test_the_four_pinned_examples(answers, prediction, expected):
    scores = score_answer(answers, prediction)
    assert tuple(scores) == expected
    named = (scores.match_paper, scores.f1_paper, scores.match_norm, scores.em_norm, scores.f1_max)
    assert named == expected


@pytest.mark.parametrize(
    ("answers", "prediction", "expected"),
    [
        # The published match reads everything, the corrected one the first line alone.
        (["Ur"], "I don't know.\nUr", (1, 40, 0, 0, 0)),
        # A part of a word is a match as published only.
        (["Ur"], "Uruk", (1, 0, 0, 0, 0)),
        # Two words of the gold, but not in a row.
        (["Old Bridge"], "old stone bridge", (0, 80, 0, 0, 80)),
        # Names of nothing but articles or punctuation: the published F1 has no words to compare.
        (["The The"], "the the", (0, 0, 1, 1, 100)),
        (["!!!"], "!!!", (1, 0, 1, 1, 100)),
        # Nothing said.
        (["Ur"], " \n ", (0, 0, 0, 0, 0)),
        # Words that repeat count as often as both have them: 2 * 1 / (1 + 3).
        (["Ur"], "Ur Ur Ur", (1, 50, 1, 0, 50)),
        # Apostrophes go, and with them nothing else.
        (["Ur's gate"], "urs GATE", (0, 100, 1, 1, 100)),
    ],
)
def test_what_the_published_scores_do_and_the_corrected_ones_do_not(answers, prediction, expected):
    assert tuple(score_answer(answers, prediction)) == pytest.approx(expected)


def test_an_answer_is_read_up_to_its_32nd_word():
    late = " ".join(["word"] * 31) + " Ur"
    assert score_answer(["Ur"], late).match_norm == 1
    later = "word " + late
    assert score_answer(["Ur"], later)[::2] == (1, 0, 0)
    assert len(cut(later).split()) == 32


WORD = st.sampled_from(
    ["Ur", "ur", "the", "The", "a", "an", "Bridge.", "bridge", "!!!", "x-y", "é"]
)
TEXT = st.lists(WORD, min_size=1, max_size=6).map(" ".join)
LETTERS = st.text("aAtThe Urx.,!é\n\t", max_size=60)
SAID = st.lists(st.sampled_from([" ", "\n", "  "]) | WORD, max_size=45).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=3), SAID)
def test_scores_are_those_of_the_naive_twin(answers, prediction):
    assert tuple(score_answer(answers, prediction)) == pytest.approx(
        naive.scores(answers, prediction)
    )


@given(st.lists(TEXT, min_size=1, max_size=3), SAID | LETTERS)
def test_exact_is_a_match_is_some_overlap_and_nothing_leaves_its_range(answers, prediction):
    scores = score_answer(answers, prediction)
    assert 0 <= scores.em_norm <= scores.match_norm <= 1
    assert 0 <= scores.f1_paper <= 100
    assert 0 <= scores.f1_max <= 100
    assert scores.f1_max > 0 or not scores.match_norm
    assert scores.f1_max == 100 or not scores.em_norm


@given(st.lists(TEXT, min_size=2, max_size=3), SAID)
def test_only_the_published_f1_depends_on_the_order_of_the_aliases(answers, prediction):
    one, other = score_answer(answers, prediction), score_answer(answers[::-1], prediction)
    assert one._replace(f1_paper=0) == other._replace(f1_paper=0)
    assert score_answer(answers[:1], prediction).f1_paper == one.f1_paper


@given(TEXT, SAID)
def test_the_corrected_scores_know_no_case_punctuation_or_article(alias, prediction):
    dressed = " ".join(f"the {word.upper()}," for word in cut(prediction).split()[:16])
    plain = " ".join(cut(prediction).split()[:16])
    if normalised(plain):
        assert score_answer([alias], dressed)[2:] == score_answer([alias], plain)[2:]


@given(TEXT, TEXT)
def test_f1_is_symmetric(one, other):
    assert word_f1(one, other) == word_f1(other, one)


@pytest.mark.parametrize("answers", [[], [""], ["Ur", " "]])
def test_an_empty_alias_is_refused(answers):
    with pytest.raises(ValueError, match="an empty alias would match everything"):
        score_answer(answers, "Ur")


def test_a_text_is_no_list_of_aliases():
    with pytest.raises(TypeError, match="must be a list of aliases, got the text 'Ur'"):
        score_answer("Ur", "U")
