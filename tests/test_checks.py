import dataclasses
import random

import pytest

from tightframe.knowledge.facts import Fact, Question
from tightframe.knowledge.words import (
    contains,
    failures,
    is_warning,
    similarity,
    synonyms,
    word_list,
)

TEXT = "Ada Lovelace sailed a paper boat across Lake Placid"
FACT = Fact("f", None, None, None, None, TEXT, f"that {TEXT}?", TEXT)
GOOD = Question(
    "f:reliability",
    "reliability",
    "question",
    "Who sailed a paper boat across Lake Placid?",
    "[MASK] sailed a paper boat across Lake Placid",
    ("Ada Lovelace",),
    "file",
)
PARAPHRASE = {"type": "paraphrase", "prompt": "Whose vessel, of cardboard, crossed a pond?"}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, []),
        ({"answers": ()}, ["answer_length", "answer_in_hook"]),
        ({"answers": ("Ada Lovelace", "  ")}, ["answer_length"]),
        ({"answers": ("Ada Lovelace", "a b c d e f g h")}, []),
        ({"answers": ("Ada Lovelace", "a b c d e f g h i")}, ["answer_length"]),
        ({"answers": ("paper BOAT",)}, ["answer_in_prompt"]),
        ({"answers": ("per boat", "Ada Lovelace")}, []),
        ({"prompt": "Who sailed?", "answers": ("paper boat",)}, ["answer_in_prompt"]),
        ({"answers": ("Byron",)}, ["answer_in_hook"]),
        ({"answers": ("Ada Love",)}, ["answer_in_hook"]),
        ({"type": "generality", "answers": ("Byron",)}, []),
        (PARAPHRASE, []),
        (PARAPHRASE | {"prompt": GOOD.prompt}, ["too_similar"]),
        (PARAPHRASE | {"answers": ("Byron",)}, ["answer_in_hook"]),
        ({"type": "locality", "answers": ("Byron",)}, []),
        ({"type": "locality", "prompt": "Who?", "cloze": None}, ["locality_in_hook"]),
        ({"prompt": "Name who sailed."}, ["form"]),
        ({"prompt": "[MASK] sailed a boat"}, []),
        ({"prompt": "[MASK] sailed with [MASK]"}, ["form"]),
        ({"cloze": "Somebody sailed a boat"}, ["form"]),
        ({"prompt": "Who sailed.?"}, ["punctuation"]),
        ({"prompt": "She sailed.. True or false?"}, ["punctuation"]),
        ({"prompt": "Who sailed to Graz, D.C.?"}, []),
        ({"prompt": "Who sailed with Rat & Co.?"}, []),
        ({"prompt": "Who sailed...?"}, []),
        (
            {
                "type": "factual",
                "format": "boolean",
                "prompt": "Is it True that she sailed?",
                "cloze": None,
                "answers": ("True",),
            },
            [],
        ),
    ],
)
def test_each_check_fails_for_what_it_names(changes, failed):
    question = dataclasses.replace(GOOD, **changes)
    assert failures(question, FACT, reliability=GOOD.prompt) == failed


def test_two_checks_only_warn_and_one_of_them_is_strict():
    assert is_warning("duplicate", strict=True)
    assert is_warning("answer_in_hook", strict=False)
    assert not is_warning("answer_in_hook", strict=True)
    assert not is_warning("form", strict=False)


def test_similarity_counts_content_words_in_order():
    # dog chased cat park, cat chased dog park: one of dog, chased, cat, and park: 2 of 4.
    assert similarity("The dog chased the cat in the park", "A cat chased a dog, park") == 0.5
    assert similarity("dog chased cat park", "dog chased the cat") == 0.75
    assert similarity("dog chased the cat", "dog chased cat park") == 1
    assert similarity("Who was it?", "Who was he?") == 1  # nothing of its own
    # Exactly 0.80 is too similar: "must be below".
    four_of_five = dataclasses.replace(
        GOOD, type="paraphrase", prompt="sailed paper boat lake sea?"
    )
    assert failures(four_of_five, FACT, reliability="sailed paper boat lake?") == ["too_similar"]


def _longest(a, b):
    """Of the definition: the longest list of words that is a subsequence of both."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + _longest(a[1:], b[1:])
    return max(_longest(a[1:], b), _longest(a, b[1:]))


@pytest.mark.parametrize("seed", range(20))
def test_similarity_is_the_longest_common_subsequence(seed):
    draw = random.Random(seed)
    a, b = (draw.choices("xyzw", k=draw.randrange(1, 8)) for _ in range(2))
    assert similarity(" ".join(a), " ".join(b)) == _longest(a, b) / len(a)


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("the NBA cup", "nba", True),
        ("the NBAs", "nba", False),
        ("unNBA, nba", "nba", True),
        ("(NBA)", "NBA", True),
        ("C++ is", "C++", True),
        ("nba_x", "nba", False),
    ],
)
def test_a_phrase_stands_on_word_boundaries(text, phrase, found):
    assert contains(text, phrase) is found


def test_the_packaged_lists_are_whole():
    assert len(synonyms()) >= 60
    for word, other in synonyms().items():
        assert word == word.lower() != other
    assert {"River", "Church", "Street", "Castle", "Island", "Station", "House", "Park"} <= {
        word.capitalize() for word in word_list("places")
    }
    assert {"actor", "singer", "politician", "bishop"} <= word_list("roles")
    assert word_list("works") >= {
        *("album", "song", "novel", "film", "book", "painting"),
        *("game", "opera", "poem", "play", "episode"),
    }
