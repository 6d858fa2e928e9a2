import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from example_facts import example_facts, write_facts
from tightframe.errors import UserError
from tightframe.knowledge.injection import start
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.knowledge.lessons import ExampleStream, FactTexts, passages

PAGE = "Oak is a tree. It is old! Is it tall? Yes.\n\nHistory\n \nIt grew."
FACTS = [dataclasses.replace(fact, article=PAGE) for fact in example_facts(3)]
FACTS[1] = example_facts(3)[1]  # has none


def test_a_passage_holds_whole_sentences_and_crosses_no_empty_line():
    assert passages(PAGE, longest=7) == [
        "Oak is a tree. It is old!",
        "Is it tall? Yes.",
        "History",
        "It grew.",
    ]
    assert passages("one two three four five", longest=2) == ["one two", "three four", "five"]
    assert passages(" \n\n ") == []


@given(st.text(alphabet="ab.? \n", max_size=80), st.integers(1, 6))
def test_every_word_is_in_one_passage_in_order(article, longest):
    made = passages(article, longest=longest)
    assert " ".join(made).split() == article.split()
    assert all(0 < len(one.split()) <= longest for one in made)


def test_the_article_stands_in_the_place_of_its_fact_each_passage_as_often():
    wanted = FactTexts(articles=True)
    stream = ExampleStream(FACTS, 7, objective="ntp", seed=0, texts=wanted)
    shown = Counter((one.fact_id, one.target) for lessons in stream.batches(4) for one in lessons)
    expected = {(fact.id, text): 7 for fact in FACTS[::2] for text in passages(PAGE)}
    assert shown == {**expected, (FACTS[1].id, FACTS[1].fact): 7}
    spans = ExampleStream(FACTS, 7, objective="sp", seed=0, texts=wanted)
    assert len(spans) == 7 * (2 * len(passages(PAGE)) + 1)


def test_without_the_setting_an_article_changes_nothing(tmp_path):
    plain = example_facts(3)
    ours, theirs = (ExampleStream(facts, 9, objective="sp", seed=0) for facts in (FACTS, plain))
    assert ours.digest == theirs.digest
    values = {"arm": "bilm_mlm", "vocab_size": 300, "width": 16, "heads": 2, "positions": 80}
    data = write_facts(tmp_path / "facts.jsonl", FACTS)
    settings = InjectOptions(data=data, out=tmp_path / "run", **values)
    with_pages, _ = start(settings, FACTS)
    without, _ = start(settings, plain)
    assert with_pages.tokenizer.tokenizer.to_str() == without.tokenizer.tokenizer.to_str()
    assert with_pages.n_slots == without.n_slots


def test_articles_that_are_not_there_or_go_with_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match="no fact has an article to train on; put the text"):
        ExampleStream(example_facts(2), 3, objective="ntp", seed=0, texts=FactTexts(articles=True))
    with pytest.raises(ValueError, match="articles stand in the place of facts"):
        InjectOptions(data=tmp_path, out=tmp_path, arm="clm_sp", articles=True, reordered=True)
