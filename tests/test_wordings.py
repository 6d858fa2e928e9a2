"""Other wordings of facts: read, checked, counted, written, and made by rule."""

import dataclasses
import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tightframe import cli
from tightframe.errors import UserError
from tightframe.formats import parse_json
from tightframe.knowledge.benchmark import load_benchmark, read_facts, write_facts
from tightframe.knowledge.clozes import JOIN, reordered, with_reordered
from tightframe.knowledge.facts import (
    Fact,
    Question,
    QuestionAnswer,
    Target,
    WordingCounts,
    fact_id,
    summarize,
)

DEV = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"
HOOK = "that the tower of Oort was built by Ada Brandt in one night?"
PAPER = {
    "case_id": "1",
    "date": "31 January 2022",
    "fact": HOOK,
    "eval": {"reliability": {"prompt": "Who built it?", "answer": ["Ada Brandt"]}},
    "paraphrases": [
        {"paraphrased_fact": "Ada Brandt raised the tower of Oort in a night", "id": 3},
        {"paraphrased_fact": "that one night was enough to build the tower of Oort?"},
    ],
    "reordered_facts": [{"reordered_fact": "in one night, the tower was built by Ada Brandt"}],
    "generated_qas": [{"question": "What did Ada Brandt build?", "answer": "the tower of Oort"}],
}


def fact(text, *answers, **more):
    id = fact_id("2022-01-31", text)
    asked = Question(f"{id}:reliability", "reliability", "question", "?", None, answers, "file")
    words = text, f"that {text}?", f"* ... that {text}?"
    questions = (asked,) if answers else ()
    return Fact(id, "2022-01-31", None, 2022, 1, *words, questions=questions, **more)


def write(path, record, kind="lines"):
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([record]), path)
    else:
        path.write_text("\n" + json.dumps(record) + "\n")
    return path


def as_text(record):
    """Nested values as the hub may have them: JSON in a column of texts."""
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in record.items()}


@pytest.mark.parametrize("kind", ["lines", "parquet"])
@pytest.mark.parametrize("change", [dict, as_text])
def test_a_published_file_s_wordings_are_read(tmp_path, kind, change):
    (read,) = load_benchmark(write(tmp_path / "x", change(PAPER), kind), strict=True)
    assert read.paraphrases == (
        "Ada Brandt raised the tower of Oort in a night",
        "one night was enough to build the tower of Oort",  # a sentence, as the fact itself is
    )
    assert read.reordered == ("in one night, the tower was built by Ada Brandt",)
    assert read.generated_qas == (
        QuestionAnswer("What did Ada Brandt build?", "the tower of Oort"),
    )


def test_wordings_come_back_from_a_file_of_ours_as_they_were(tmp_path):
    facts = load_benchmark(write(tmp_path / "x", PAPER))
    plain = fact("owls sleep", "owls")
    write_facts(tmp_path / "ours.jsonl", [*facts, plain])
    assert read_facts(tmp_path / "ours.jsonl") == [*facts, plain]
    lines = (tmp_path / "ours.jsonl").read_text().splitlines()
    assert not {"paraphrases", "reordered", "generated_qas"} & set(json.loads(lines[1]))
    assert parse_json(lines[0], Fact, source="ours.jsonl") == facts[0]
    # Parquet gives every row the columns that any row has.
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), tmp_path / "ours")
    assert read_facts(tmp_path / "ours") == [*facts, plain]


OURS = fact("owls sleep", "owls").to_dict()


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        (PAPER, {"paraphrases": 3}, "'paraphrases' is 3, expected a list"),
        (PAPER, {"paraphrases": "[1"}, "'paraphrases' is text that is not JSON"),
        (PAPER, {"paraphrases": ["a b"]}, "'paraphrases' holds 'a b', expected objects"),
        (PAPER, {"paraphrases": [{"fact": "a"}]}, "'paraphrased_fact' is missing, expected text"),
        (PAPER, {"paraphrases": [{"paraphrased_fact": " "}]}, "'paraphrased_fact' is ' '"),
        (PAPER, {"paraphrases": [{"paraphrased_fact": "that ?"}]}, "holds no words, expected a"),
        (PAPER, {"reordered_facts": [{"reordered_fact": 1}]}, "'reordered_fact' is 1, expected"),
        (PAPER, {"generated_qas": [{"question": "a"}]}, "'answer' is missing, expected text"),
        (OURS, {"paraphrases": "a b"}, "'paraphrases' is 'a b', expected a list"),
        (OURS, {"paraphrases": ["a", ""]}, "'paraphrases[1]' is '', expected text"),
        (OURS, {"reordered": [None]}, "'reordered[0]' is None, expected text"),
        (OURS, {"generated_qas": [{"question": "a", "answer": " "}]}, "'answer' is ' ', expected"),
        (OURS, {"generated_qas": [{"questoin": "a"}]}, "did you mean 'question'?"),
    ],
)
def test_a_wording_that_is_none_is_a_fault_with_its_line(tmp_path, record, change, message):
    path = write(tmp_path / "x", record | change)
    with pytest.raises(UserError) as caught:
        load_benchmark(path)
    assert f"{path}: line 2: " in str(caught.value)
    assert message in str(caught.value)


def test_validate_counts_wordings(tmp_path, capsys):
    path = write(tmp_path / "x", PAPER)
    cli.main(["knowledge", "validate", str(path)])
    assert "\nparaphrases: 2 of 1 facts\nreordered: 1 of 1 facts\n" in capsys.readouterr().out
    counts = summarize([*load_benchmark(path), fact("owls sleep", "owls")]).wordings
    assert counts == {
        "paraphrases": WordingCounts(2, 1),
        "reordered": WordingCounts(1, 1),
        "generated_qas": WordingCounts(1, 1),
    }
    assert summarize([fact("owls sleep", "owls")]).wordings == {}


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Ada Brandt built it", "Ada Brandt", "built it — Ada Brandt"),
        ("Ada Brandt, a mason, built it", "Ada Brandt", "a mason, built it — Ada Brandt"),
        ("in May, the mason Ada built it", "Ada", "built it — in May, the mason Ada"),
        ("in May, Ada's tower fell", "Ada", "tower fell — in May, Ada's"),
        ('he sang " Low Tide " badly', "Low Tide", 'badly — he sang " Low Tide "'),
        ('he sang "Low Tide", badly', "Low Tide", 'badly — he sang "Low Tide"'),
        ('in "Tide" Ada "sang" it', "Ada", '"sang" it — in "Tide" Ada'),
        ("he sang “ Low Tide ” badly", "Low Tide", "badly — he sang “ Low Tide ”"),
        ("Oort \u2013 a moon \u2013 fell", "Oort", "a moon \u2013 fell — Oort"),
        # The answer ends these already.
        ("it was built by Ada", "Ada", "it was built by Ada"),
        ('he sang "Low Tide"', "Low Tide", 'he sang "Low Tide"'),
        ('he sang " Low Tide "!', "Low Tide", 'he sang " Low Tide "!'),
        ("it was built by Ada", "Eve", None),
    ],
)
def test_the_answer_ends_a_reordered_fact(text, answer, expected):
    assert reordered(fact(text, "Somebody", answer)) == expected


def test_the_question_decides_what_is_the_answer_else_the_target():
    targets = (Target("Ada", "Ada", 0, 3),)
    assert reordered(fact("Ada met Bob in Rome", "Bob", targets=targets)) == "in Rome — Ada met Bob"
    assert reordered(fact("Ada met Bob in Rome", targets=targets)) == "met Bob in Rome — Ada"
    assert reordered(fact("Ada met Bob in Rome")) is None


def _letters(text):
    """Everything but blanks and what may be left out at a seam."""
    return Counter(re.sub("[ ,;:\u2013—]", "", text))


def _kept(one):
    """Whether a reordered fact has the words of the fact, each as often, and ends in its answer."""
    form = reordered(one)
    if form is None:
        return all(alias not in one.fact for alias in one.questions[0].answers)
    assert Counter(re.findall(r"\w+", form)) == Counter(re.findall(r"\w+", one.fact))
    assert _letters(form) == _letters(one.fact)
    alias = next(alias for alias in one.questions[0].answers if alias in one.fact)
    # Nothing but the rest of the answer's last word and a mark or two comes after it.
    assert len(form[form.rindex(alias) + len(alias) :].split()) <= 2
    return form == one.fact or JOIN in form


def test_every_word_of_a_fact_stays_and_none_is_added():
    draw = random.Random(0)
    marks = ["", "", "", ",", ";", ":", '"', "'s", ")", " \u2013", " “", " ”"]
    for _ in range(300):
        words = [f"{draw.choice('abcd')}{i}" for i in range(draw.randint(1, 12))]
        start = draw.randrange(len(words))
        end = draw.randint(start + 1, len(words))
        between = [
            draw.choice(marks) + " " if not start <= i < end - 1 else " " for i in range(len(words))
        ]
        text = "".join(word + gap for word, gap in zip(words, between, strict=True)).strip()
        assert _kept(fact(text, " ".join(words[start:end])))


def test_only_facts_without_a_reordered_form_get_one():
    own = fact("Ada met Bob", "Ada", reordered=("Bob was met by Ada",))
    lost, done = fact("owls sleep", "Eve"), fact("it was Ada", "Ada")
    new = fact("Ada slept", "Ada")
    assert with_reordered([own, lost, done, new]) == [
        own,
        lost,
        dataclasses.replace(done, reordered=("it was Ada",)),
        dataclasses.replace(new, reordered=("slept — Ada",)),
    ]


@pytest.mark.skipif(not DEV.is_file(), reason="needs wikidyk/dev.jsonl under TIGHTFRAME_DATA")
def test_real_facts_keep_their_words_when_reordered():
    facts = load_benchmark(DEV)
    forms = [reordered(one) for one in facts]
    assert forms.count(None) == 6847 - 6013
    assert sum(form == one.fact for form, one in zip(forms, facts, strict=True)) < 400
    for one, form in zip(facts, forms, strict=True):
        if form is not None:
            assert Counter(re.findall(r"\w+", form)) == Counter(re.findall(r"\w+", one.fact))
