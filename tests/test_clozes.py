"""Clozes by rules: what is masked, and what is left beside the mask."""

import os
from pathlib import Path

import pytest

from tightframe.knowledge.benchmark import load_benchmark
from tightframe.knowledge.clozes import answer_span, cloze_of_fact, cloze_of_question, spans

DEV = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"


@pytest.mark.parametrize(
    ("question", "cloze"),
    [
        ("Who built the tower of Oort?", "[MASK] built the tower of Oort"),
        ("WHOSE tower is it ?", "[MASK] tower is it"),
        ("In which city is the tower?", "[MASK] city is the tower"),
        ("for What was it built", "[MASK] was it built"),
        ("Who's there?", "[MASK]'s there"),
        ("After which war was it built?", "After [MASK] war was it built"),
        ("The tower is where?", "The tower is [MASK]"),
        # Only the first wh-word is the phrase; one inside a longer word is none.
        ("Which man who fell got up?", "[MASK] man who fell got up"),
        ("Whoever built somewhat when?", "Whoever built somewhat [MASK]"),
        ("the tower of [MASK]?", "the tower of [MASK]?"),
        ("How many towers are left?", None),
        ("[MASK] and [MASK] are what?", None),
    ],
)
def test_the_wh_phrase_of_a_question_becomes_the_mask(question, cloze):
    assert cloze_of_question(question) == cloze


@pytest.mark.parametrize(
    ("fact", "answers", "cloze", "span"),
    [
        ("Ada Brandt's hat fell", ["Ada Brandt"], "[MASK] hat fell", "Ada Brandt's"),
        ('he sang "Low Tide", badly', ["Low Tide"], "he sang [MASK] badly", '"Low Tide",'),
        ('he sang " Low Tide " badly', ["Low Tide"], 'he sang " [MASK] " badly', "Low Tide"),
        ("it was Ada", ["Brandt", " Ada "], "it was [MASK]", "Ada"),
        # Where the answer also begins a longer word, that word is not what is masked.
        ("Rex III followed Rex II home", ["Rex II"], "Rex III followed [MASK] home", "Rex II"),
        ("all owlets sleep", ["owl"], "all [MASK] sleep", "owlets"),
    ],
)
def test_the_answer_of_a_fact_is_masked_with_the_whole_of_its_words(fact, answers, cloze, span):
    assert cloze_of_fact(fact, answers) == (cloze, span)
    # It is one of the spans that training shows, if it has no more words than these.
    assert answer_span(fact, answers) in spans(fact)


def test_a_fact_without_its_answer_has_no_cloze():
    assert cloze_of_fact("the owl sleeps", ["Owl", "bird"]) is None


@pytest.mark.skipif(not DEV.is_file(), reason="needs wikidyk/dev.jsonl under TIGHTFRAME_DATA")
def test_nearly_all_real_questions_and_every_verbatim_answer_become_clozes():
    facts = load_benchmark(DEV)
    questions = [fact.questions[0] for fact in facts]
    clozes = [cloze_of_question(question.prompt) for question in questions]
    assert clozes.count(None) == 7  # "How ...?"
    assert {cloze.count("[MASK]") for cloze in clozes if cloze} == {1}
    masked = [
        answer_span(fact.fact, question.answers)
        for fact, question in zip(facts, questions, strict=True)
    ]
    assert sum(one is not None for one in masked) == 6013
    for fact, question, one in zip(facts, questions, masked, strict=True):
        if one is not None:
            assert question.answers[0] in one.span
            assert one.sentence == fact.fact
