import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from example_facts import example_facts
from tightframe.errors import UserError
from tightframe.knowledge.clozes import sample_spans
from tightframe.knowledge.facts import QuestionAnswer
from tightframe.knowledge.lessons import POOL, ExampleStream, FactTexts, TokenBudget

FACTS = example_facts(6)


def all_lessons(stream, batch=4):
    return [lesson for lessons in stream.batches(batch) for lesson in lessons]


def test_span_lessons_are_those_of_the_masks_command():
    # 9 words: 9 + 8 + 7 + 6 + 5 = 35 variants; 80 exposures are two passes and 10 more.
    stream = ExampleStream(FACTS, 80, objective="sp", seed=3)
    shown = Counter((lesson.prompt, lesson.target) for lesson in all_lessons(stream))
    expected = Counter(
        (one.cloze, one.span.strip()) for fact in FACTS for one in sample_spans(fact, 80, seed=3)
    )
    assert shown == expected
    assert set(shown.values()) <= {1, 2, 3}


@pytest.mark.parametrize("objective", ["ntp", "mlm"])
def test_sentences_are_shown_whole(objective):
    lessons = all_lessons(ExampleStream(FACTS, 7, objective=objective, seed=0))
    assert Counter(lesson.target for lesson in lessons) == {fact.fact: 7 for fact in FACTS}
    draws = {lesson.draw for lesson in lessons}
    assert draws == (set(range(7)) if objective == "mlm" else {0})


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_a_stream_goes_on_from_any_batch(exposures, batch, data):
    stream = ExampleStream(FACTS, exposures, objective="ntp", seed=1)
    every = list(stream.batches(batch))
    assert len(every) == stream.n_batches(batch)
    first = data.draw(st.integers(0, len(every)))
    assert list(stream.batches(batch, first=first)) == every[first:]


def test_pools_are_left_and_entered_anywhere():
    stream = ExampleStream(FACTS, 100, objective="ntp", seed=0)
    every = list(stream.batches(2))
    assert len(every) > 2 * POOL
    for first in (POOL - 1, POOL, POOL + 1):
        assert list(stream.batches(2, first=first)) == every[first:]


SIZES = np.random.default_rng(0).integers(3, 40, len(FACTS))


@given(st.integers(1, 30), st.integers(3, 200), st.data())
def test_batches_of_tokens_hold_every_lesson_once_and_go_on_from_any(exposures, tokens, data):
    stream = ExampleStream(FACTS, exposures, objective="ntp", seed=1)
    budget = TokenBudget(tokens, SIZES)
    every = list(stream.batches(budget))
    assert Counter(one.target for lessons in every for one in lessons) == {
        fact.fact: exposures for fact in FACTS
    }
    size = {fact.fact: int(n) for fact, n in zip(FACTS, SIZES, strict=True)}
    for lessons in every:
        padded = len(lessons) * max(size[one.target] for one in lessons)
        assert padded <= tokens or len(lessons) == 1
    assert len(every) == stream.n_batches(budget)
    first = data.draw(st.integers(0, len(every)))
    assert list(stream.batches(budget, first=first)) == every[first:]


def test_batches_of_tokens_are_full_and_of_like_lengths():
    budget = TokenBudget(400, SIZES)
    every = list(ExampleStream(FACTS, 300, objective="ntp", seed=0).batches(budget))
    size = {fact.fact: int(n) for fact, n in zip(FACTS, SIZES, strict=True)}
    shown = 300 * int(SIZES.sum())
    padded = sum(len(one) * max(size[lesson.target] for lesson in one) for one in every)
    # Lengths that count as one differ by less than 8 tokens: padding is a share of the longest.
    assert shown <= padded <= 1.35 * shown
    assert len(every) <= 1.1 * padded / 400 + 5  # and few batches are far from full
    # Not the short ones first: the order of batches is shuffled in each pool.
    firsts = [size[one[0].target] for one in every[:64]]
    assert firsts != sorted(firsts)


def test_a_batch_mixes_facts():
    # Sorted exactly by length, the lessons of one fact, which are equally long, would lie together.
    facts = [
        dataclasses.replace(fact, fact=fact.fact + " " + "x" * i) for i, fact in enumerate(FACTS)
    ]
    batches = list(ExampleStream(facts, 100, objective="sp", seed=0).batches(16))
    mixed = sum(len({lesson.fact_id for lesson in lessons}) > 1 for lessons in batches)
    assert mixed > 0.75 * len(batches)


def test_lessons_of_a_fact_do_not_depend_on_the_others():
    few = all_lessons(ExampleStream(FACTS[:2], 50, objective="sp", seed=0))
    many = all_lessons(ExampleStream(FACTS, 50, objective="sp", seed=0))
    ids = {fact.id for fact in FACTS[:2]}
    assert Counter(few) == Counter(one for one in many if one.fact_id in ids)


def test_the_digest_tells_streams_apart():
    digests = {
        ExampleStream(facts, exposures, objective=objective, seed=seed, max_span=max_span).digest
        for facts, exposures, objective, seed, max_span in [
            (FACTS, 10, "sp", 0, 5),
            (FACTS, 10, "sp", 1, 5),
            (FACTS, 11, "sp", 0, 5),
            (FACTS, 10, "sp", 0, 4),
            (FACTS[:5], 10, "sp", 0, 5),
            (FACTS, 10, "ntp", 0, 5),
        ]
    }
    assert len(digests) == 6
    again = ExampleStream(FACTS, 10, objective="sp", seed=0).digest
    assert again == ExampleStream(FACTS, 10, objective="sp", seed=0).digest


def test_wordings_share_the_exposures():
    facts = [dataclasses.replace(FACTS[0], paraphrases=("a b", "c d"), reordered=("e f",))]
    chosen = FactTexts(paraphrases=True, reordered=True)
    stream = ExampleStream(facts, 10, objective="ntp", seed=0, texts=chosen)
    shown = Counter(lesson.target for lesson in all_lessons(stream))
    assert shown == {FACTS[0].fact: 3, "a b": 3, "c d": 2, "e f": 2}
    alone = ExampleStream(facts, 10, objective="ntp", seed=0)
    assert {lesson.target for lesson in all_lessons(alone)} == {FACTS[0].fact}


def with_pairs():
    pairs = tuple(QuestionAnswer(f"q{i}", f"a{i}") for i in range(3))
    return [dataclasses.replace(fact, generated_qas=pairs) for fact in FACTS]


@pytest.mark.parametrize(("ratio", "expected"), [(-1.0, 60), (0.5, 60), (0.25, 20)])
def test_questions_come_on_top_of_the_sentences(ratio, expected):
    # All: as many as exposures. A share x of all lessons: n * x / (1 - x) beside n sentences.
    stream = ExampleStream(with_pairs(), 10, objective="qa", seed=0, qa_ratio=ratio)
    kinds = Counter(lesson.objective for lesson in all_lessons(stream))
    assert kinds == {"ntp": 60, "qa": expected}


def test_a_fact_s_questions_are_cycled():
    stream = ExampleStream(with_pairs()[:1], 10, objective="qa", seed=0)
    asked = Counter(one.prompt for one in all_lessons(stream) if one.objective == "qa")
    assert asked == {"q0": 4, "q1": 3, "q2": 3}


def test_questions_to_train_on_must_be_there():
    with pytest.raises(UserError, match="no fact has question-answer pairs"):
        ExampleStream(FACTS, 10, objective="qa", seed=0)


@pytest.mark.parametrize("name", ["paraphrases", "reordered"])
def test_wordings_to_train_on_must_be_there(name):
    with pytest.raises(
        UserError, match=rf"no fact has other wordings \({name}\) .* knowledge reword"
    ):
        ExampleStream(FACTS, 10, objective="ntp", seed=0, texts=FactTexts(**{name: True}))
