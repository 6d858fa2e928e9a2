"""A benchmark in numbers."""

import dataclasses
import math
import os
from pathlib import Path

import pytest

from tightframe.knowledge.data.benchmark import load_benchmark, read_benchmark, write_facts
from tightframe.knowledge.data.records import Fact, Question, fact_id
from tightframe.knowledge.data.summary import answer_place, normalise, study_eligible, summarize

DEV = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"


def fact(text, *answers, year=2022, type="reliability", prompt="Who?"):
    id = fact_id(str(year), text)
    asked = [Question(f"{id}:{type}", type, "question", prompt, None, answers, "file")]
    return Fact(
        id, None, None, year, 1, text, text, text, questions=tuple(asked if answers else ())
    )


def test_the_numbers_of_four_facts():
    facts = [
        fact("Ada built it", "Ada"),  # starts at 0 of 12 characters
        fact("it was built by Ada", "Eve", "Ada"),  # the second alias, at 16 of 19: tenth 9
        fact("ADA built it!", "Bo", year=2023, type="locality", prompt="Who is not bo?"),
        fact("a b", year=None),
    ]
    summary = summarize(facts)
    all = summary.all
    assert (all.facts, all.questions, all.longest_fact) == (4, 3, 5)
    assert all.fact_words == (3 + 5 + 3 + 2) / 4
    assert all.answer_words == 1
    assert (all.verbatim, all.deciles) == (2, (1, 0, 0, 0, 0, 0, 0, 0, 1, 0))
    assert (all.in_prompt, all.eligible, summary.duplicates) == (1, 2, 1)
    assert {year: one.facts for year, one in summary.by_year.items()} == {
        "2022": 2,
        "2023": 1,
        "none": 1,
    }
    assert {type: one.questions for type, one in summary.by_type.items()} == {
        "reliability": 2,
        "locality": 1,
    }
    assert math.isnan(summary.by_year["none"].answer_words)


def test_a_question_of_true_or_false_does_not_give_its_answer_away():
    told = fact("a b", "True", type="factual", prompt="a b. True or false?")
    asked = dataclasses.replace(told.questions[0], format="boolean")
    assert summarize([told]).all.in_prompt == 1
    assert summarize([dataclasses.replace(told, questions=(asked,))]).all.in_prompt == 0


def test_a_place_is_that_of_the_first_alias_that_stands_there():
    assert answer_place("the cat and the dog", ["bird", "dog", "cat"]) == (16, "dog")
    assert answer_place("the cat", ["Cat"]) is None


@pytest.mark.parametrize(
    ("words", "answer", "eligible"),
    [
        (24, "w w w w", True),
        (25, "w w w w", False),
        (24, "w w w w w", False),
        (24, "v", False),
    ],
)
def test_eligible_is_a_short_verbatim_answer_in_a_fact_that_is_not_long(words, answer, eligible):
    assert study_eligible(fact(" ".join(["w"] * words), answer)) is eligible
    assert not study_eligible(fact("w w", "w", type="generality"))


def test_normalising_leaves_letters_and_digits():
    assert normalise('The "Éclair", 3.5 m') == "theéclair35m"


@pytest.mark.skipif(not DEV.is_file(), reason="needs wikidyk/dev.jsonl under TIGHTFRAME_DATA")
def test_the_development_file_has_its_published_numbers(tmp_path):
    benchmark = read_benchmark(DEV)
    assert benchmark.format == "qa-clean"
    assert benchmark.counts() == {"answer_length": 81}
    summary = summarize(benchmark.facts)
    all = summary.all
    assert (all.facts, all.questions) == (6847, 6847)
    assert {year: one.facts for year, one in summary.by_year.items()} == {
        "2022": 3701,
        "2023": 3146,
    }
    assert (round(all.fact_words, 2), all.longest_fact, round(all.answer_words, 2)) == (
        19.43,
        39,
        2.78,
    )
    assert all.verbatim == 6013
    assert all.deciles == (2868, 983, 734, 482, 322, 210, 133, 123, 114, 44)
    assert (all.long_answers, all.in_prompt, all.eligible) == (81, 28, 4350)
    assert summary.duplicates == 1
    # In our own format they are the same facts; some of them, since types are checked at each call.
    some = benchmark.facts[:300]
    write_facts(tmp_path / "facts.jsonl", some)
    assert tuple(load_benchmark(tmp_path / "facts.jsonl")) == some
