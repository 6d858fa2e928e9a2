import pytest

from studies.recall_geometry.variants import answer_variants
from tightframe.knowledge.clozes import Span, spans

LONG = "one two three four five six seven eight nine ten eleven twelve"


def answer(first, last, sentence=LONG):
    """The words first..last of the sentence, counted from 0."""
    words = sentence.split()
    before, after = " ".join(words[:first]), " ".join(words[last + 1 :])
    return Span(
        before + " " * bool(before), " ".join(words[first : last + 1]), " " * bool(after) + after
    )


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (5, 6), (10, 11), (4, 9), (0, 11)])
def test_every_variant_hides_the_whole_answer_and_says_its_words(first, last):
    taken = answer(first, last)
    found = answer_variants(taken)
    clozes = {one.cloze for one in found}
    assert len(clozes) == len(found)
    # The naive twin: every span of the sentence, of any length, over all of the answer's words.
    every = {
        span.cloze: span
        for span in spans(LONG, 12)
        if len(span.before) <= len(taken.before) and len(span.after) <= len(taken.after)
    }
    assert clozes <= set(every)
    for one in found:
        assert every[one.cloze].span.startswith(one.target)
        assert one.target.split() == [*one.before.split(), *taken.span.split()]
        assert one.n_words == len(every[one.cloze].span.split())


def test_all_spans_of_training_are_taken_and_longer_ones_only_until_there_are_enough():
    # A word in the middle has 1 + 2 + 3 + 4 + 5 spans of up to 5 words, two words 1 + 2 + 3 + 4.
    assert [one.n_words for one in answer_variants(answer(5, 5))] == [
        n for n in range(1, 6) for _ in range(n)
    ]
    assert [one.n_words for one in answer_variants(answer(5, 6))] == [2, 3, 3, 4, 4, 4, 5, 5, 5, 5]
    # At the start of the sentence there is one span of each length.
    assert [one.n_words for one in answer_variants(answer(0, 1))] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert [one.n_words for one in answer_variants(answer(0, 1), max_span=11)] == [*range(2, 12)]


def test_spans_of_a_length_come_from_the_answers_first_word_backwards():
    told = [one.before for one in answer_variants(answer(5, 5))]
    assert told[:6] == ["", "", "five", "", "five", "four five"]
    # At the end of the sentence a longer span can only begin earlier.
    assert [one.before for one in answer_variants(answer(11, 11))][:3] == [
        "",
        "eleven",
        "ten eleven",
    ]


def test_a_short_sentence_has_fewer_variants():
    assert len(answer_variants(answer(0, 0, "one two three"))) == 3


def test_a_cloze_that_is_asked_is_no_variant_and_another_takes_its_place():
    every = answer_variants(answer(0, 1))
    assert answer_variants(answer(0, 1), without="nothing like it") == every
    left = answer_variants(answer(0, 1), without=every[0].cloze + " ")
    assert left[:7] == every[1:]
    assert [one.n_words for one in left] == [3, 4, 5, 6, 7, 8, 9, 10]


def test_a_mask_takes_whole_words_with_what_is_written_on_to_them():
    taken = Span("when ", "Oort's", " comet, the brightest, came back")
    found = {(one.cloze, one.before, one.target) for one in answer_variants(taken)}
    assert ("when [MASK], the brightest, came back", "", "Oort's") not in found
    assert ("when [MASK] the brightest, came back", "", "Oort's") in found
    assert ("[MASK] comet, the brightest, came back", "when", "when Oort's") in found
