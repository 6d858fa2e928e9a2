# ruff: noqa: RUF001 (characters that look alike are what is tested)
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tightframe as tf
from reference import scores as naive
from tightframe.knowledge.scores import cut, normal_form, word_f1

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


RIGHT = [  # what the gold and the answer differ by is no difference
    ("A", "A."),  # a letter alone is no article
    ("Serie A", "the Serie A"),
    ("Serie A", "SERIE A!"),
    ("The The", "The The."),  # nor is an article in front of an article
    ("The", '"The"'),
    ("The Salt Cellar", "Salt Cellar, The"),  # an inverted title
    ("Francis Martin", "Francis Martin, a"),
    ("Tale of a Tub", "A Tale of the Tub"),
    ("!!!", "!!!."),  # a name without a word
    ("Straße", "STRASSE"),  # full case folding
    ("Οδυσσέας", "ΟΔΥΣΣΈΑΣ"),  # the final sigma
    ("Zoë", "Zoe\u0308"),  # composed and not
    ("\u1e69", "s\u0307\u0323"),  # two marks, in the other order
    ("ﬁlm", "film"),  # a ligature
    ("Ｔｏｋｙｏ １２", "Tokyo 12"),  # full width
    ("ｶﾒﾗ", "カメラ"),  # half width
    ("Ⅷ", "VIII"),
    ("H₂O", "H2O"),
    ("m²", "m^2"),
    ("\ufeffOslo", "Oslo"),  # a byte order mark
    ("soft\u00adware", "software"),  # a soft hyphen
    ("new\u00a0moon", "new moon"),
    ("❤\ufe0f", "❤"),  # a variation selector
    ("Mason–Dixon", "Mason-Dixon"),  # en dash,
    ("Ann—Marie", "Ann‑Marie"),  # em dash, no-break hyphen
    ("O'Neill", "O’Neill"),
    ("Hawaiʻi", "Hawai‘i"),  # an okina, a left quote
    ("rock ’n’ roll", "rock 'n' roll"),
    ("«Carmen»", "“Carmen”"),
    ("„Faust“", "Faust"),
    ("「雪国」", "雪国"),
    ("¿Qué?", "qué"),
    ("Wait…", "wait"),
    ("**Oslo**", "_Oslo_"),
    ("1,000", "1000"),  # thousands
    ("12,345,678.5", "12345678.5"),
    ("١٢٣", "123"),  # other scripts' digits
    ("٣٫٥", "3.5"),
    ("१२", "12"),
    ("−5", "-5"),  # a minus, a hyphen
    ("-5", "(–5)"),
    ("-$5", "$-5"),
    ("1914–1918", "1914-1918"),
    ("1914–1918", "1914 – 1918"),
    ("10:30", "10 30"),
    ("½", "1/2"),
    ("3½", "3 1/2"),
    ("10²", "10^2"),
    ("COVID-19", "COVID19"),
    ("3.5.", "3.5"),
    ("U.S.", "US"),
    ("AC/DC", "ACDC"),
    ("50%", "50"),
]
WRONG = [  # another answer: no exact match, and no words in a row
    ("Serie A", "Serie B"),
    ("Serie A", "serie"),
    ("Type A", "Type O"),
    ("Hepatitis A", "hepatitis"),
    ("A", "It is a dog"),  # an article is no answer
    ("The The", "The cat"),
    ("!!!", "???"),
    ("3.5", "35"),
    ("3,5", "35"),
    ("3.5", "3"),
    (".5", "5"),
    ("-5", "5"),
    ("5", "−5"),
    ("-.5", ".5"),
    ("+5", "5"),
    ("UTC+5", "UTC-5"),
    ("1,000", "1"),
    ("1,00", "100"),
    ("2–1", "21"),
    ("9/11", "911"),
    ("24/7", "247"),
    ("10:30", "1030"),
    ("1/2", "12"),
    ("3½", "31/2"),
    ("10²", "102"),
    ("1.2.3", "12.3"),
    ("Café", "Cafe"),  # accents are letters
    ("C♯", "C"),
    ("café", "cafés"),
    ("東京", "京都"),
]


@pytest.mark.parametrize(("gold", "said"), RIGHT)
def test_the_same_answer_in_another_dress_is_right(gold, said):
    assert score_answer([gold], said)[2:] == (1, 1, 100)
    assert score_answer([said], gold)[2:] == (1, 1, 100)


@pytest.mark.parametrize(("gold", "said"), WRONG)
def test_another_answer_is_wrong(gold, said):
    assert score_answer([gold], said)[2:4] == (0, 0)
    assert score_answer([gold], said).f1_max < 100


@pytest.mark.parametrize(
    ("gold", "said", "expected"),
    [
        ("A", "The answer is A.", (1, 0, 50)),  # answer, is, a
        ("Serie A", "Serie A is a league", (1, 0, 40)),  # serie, is, league: its A could be one
        ("Serie A", "It was in Serie A, the top league", (1, 0, 25)),  # and it, was, in, top
        ("3.5", "about 3.5 km", (1, 0, 50)),
        ("5", "5 to 7", (1, 0, 50)),
        ("1914", "1914–1918", (1, 0, 200 / 3)),  # a range has two numbers
    ],
)
def test_an_answer_among_other_words(gold, said, expected):
    assert score_answer([gold], said)[2:] == pytest.approx(expected)


WORDS = """
    Ur ur the The a an A Bridge. bridge !!! x-y x–y é e\u0301 3.5 -5 −5 5 35 1,000 1000 3½ 10² 9/11
    ’s ٣ \u200b +.5
"""
WORD = st.sampled_from(WORDS.split())
TEXT = st.lists(WORD, min_size=1, max_size=6).map(" ".join)
LETTERS = st.text("aAtThe Urx.,!é\n\t", max_size=60)
MARKED = st.text("a1 -.,+/'–−²½5", max_size=12)
SAID = st.lists(st.sampled_from([" ", "\n", "  "]) | WORD, max_size=45).map(" ".join)


@given(st.lists(TEXT | MARKED.filter(str.strip), min_size=1, max_size=3), SAID | MARKED | st.text())
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
    plain = [word for word in cut(prediction).split()[:16] if word[0].isalpha()]
    dressed = " ".join(f"the “{word.upper()}”," for word in plain)
    if any(word.lower() not in ("a", "an", "the") for word in plain[-1:]):
        assert score_answer([alias], dressed)[3:] == score_answer([alias], " ".join(plain))[3:]


ONE_LINE = st.text(max_size=30).filter(
    lambda text: cut(text) == text and any(map(str.isalnum, text))
)


@given(ONE_LINE)
def test_a_text_answers_itself_in_every_form(text):
    for form in ("NFC", "NFD"):
        assert score_answer([text], cut(unicodedata.normalize(form, text)))[2:] == (1, 1, 100)


@given(ONE_LINE)
def test_the_normal_form_is_its_own(text):
    assert normal_form(normal_form(text)) == normal_form(text)


@given(TEXT, TEXT)
def test_exact_matches_and_f1_are_symmetric(one, other):
    assert score_answer([one], other)[3:] == pytest.approx(score_answer([other], one)[3:])


@given(st.lists(TEXT, min_size=1, max_size=3), TEXT, SAID)
def test_another_alias_never_takes_away(answers, alias, prediction):
    fewer, more = score_answer(answers, prediction), score_answer([*answers, alias], prediction)
    assert all(a <= b for a, b in zip(fewer, more, strict=True))


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
