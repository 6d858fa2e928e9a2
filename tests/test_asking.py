import os
from pathlib import Path

import pytest

from example_facts import example_facts
from tightframe.knowledge import load_benchmark, study_eligible
from tightframe.knowledge.asking import FORMS, left_context, left_out, prompts
from tightframe.knowledge.clozes import cloze_of_fact, cloze_of_question
from tightframe.knowledge.facts import Fact, Question
from tightframe.knowledge.qa_models import Prompt

DATA = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"


def fact(text, *questions, id="f", reordered=()):
    return Fact(id, None, None, 2022, 1, text, text, text, questions=questions, reordered=reordered)


def asks(prompt, *answers, type="reliability", format="question", cloze=None):
    return Question(f"f:{type}", type, format, prompt, cloze, answers or ("Oak",), "file")


@pytest.mark.parametrize(
    ("sentence", "answers", "cloze", "before"),
    [
        ("Ada Quill fell", ["Ada Quill"], "[MASK] fell", ""),
        ("in Oak, Ada Quill fell", ["Ada Quill"], "in Oak, [MASK] fell", "in Oak,"),
        # The ending of a genitive, a comma and quotation marks go with their word.
        ("it was Ada Quill's bridge", ["Ada Quill"], "it was [MASK] bridge", "it was"),
        ("in Oak, it fell", ["Oak"], "in [MASK] it fell", "in"),
        ('the song "Oak" is old', ["Oak"], "the song [MASK] is old", "the song"),
        ('the song " Oak " is old', ["Oak"], 'the song " [MASK] " is old', 'the song "'),
        ("a mid-Oaken door", ["Oak"], "a [MASK] door", "a"),
        # The first alias that stands in it, wherever it does.
        ("Ada is not Oak", ["Elm", "Oak", "Ada"], "Ada is not [MASK]", "Ada is not"),
        ("the oak stood in Oak", ["Oak"], "the oak stood in [MASK]", "the oak stood in"),
        # Blanks at the ends of an answer take no other word with them.
        ("near Oak it fell", [" Oak "], "near [MASK] it fell", "near"),
        ("near Elm it fell", ["Oak"], None, None),
    ],
)
def test_whole_words_are_masked_and_none_is_cut(sentence, answers, cloze, before):
    masked = cloze_of_fact(sentence, answers)
    assert (masked and masked[0]) == cloze
    assert left_context(sentence, answers) == before


@pytest.mark.parametrize(
    ("question", "cloze"),
    [
        ("Who fell?", "[MASK] fell"),
        ("In which town did it fall?", "[MASK] town did it fall"),
        ("BY WHOM was it built ? ", "[MASK] was it built"),
        ("for whose sake did it fall", "[MASK] sake did it fall"),
        ("Who, in Oak, fell?", "[MASK], in Oak, fell"),
        ("What's the name?", "[MASK]'s the name"),
        # Only what opens the question takes its preposition along.
        ("In 1921, in which town did it fall?", "In 1921, in [MASK] town did it fall"),
        ("During what war did it fall?", "During [MASK] war did it fall"),
        # The first one, and whole words only.
        ("After it fell, who said what?", "After it fell, [MASK] said what"),
        ("Whoever built it, when did it fall?", "Whoever built it, [MASK] did it fall"),
        ("Somewhat late, where did it fall?", "Somewhat late, [MASK] did it fall"),
        ("How many fell?", None),
    ],
)
def test_the_wh_phrase_of_a_question_is_masked(question, cloze):
    assert cloze_of_question(question) == cloze


def test_every_form_has_its_prompt():
    one = fact(
        "in Oak, it fell",
        asks("Where did it fall?", "Oak", "Oaktown"),
        asks("In [MASK], it rose", "Elm", type="generality", format="cloze"),
        asks("Did it fall?", "Yes", type="locality", cloze="It [MASK]"),
    )
    asked = {
        form: [(found.type, *found.prompt[:2]) for found in prompts([one], form)] for form in FORMS
    }
    rest = [("generality", "cloze", "In [MASK], it rose")]
    assert asked == {
        "cloze_seen": [("reliability", "cloze", "in [MASK] it fell")],
        "left_context": [("reliability", "continuation", "in")],
        "cloze_question": [("reliability", "cloze", "[MASK] did it fall")],
        "raw_question": [("reliability", "cloze", "Where did it fall? [MASK]")],
        "question": [
            ("reliability", "question", "Where did it fall?"),
            *rest,
            ("locality", "question", "Did it fall?"),
        ],
        "cloze": [
            ("reliability", "question", "Where did it fall?"),
            *rest,
            ("locality", "cloze", "It [MASK]"),
        ],
        "forward": [],
        "backward": [],
    }
    (first,) = prompts([one], "cloze_seen")
    assert first.answers == ("Oak", "Oaktown")
    assert (first.question_id, first.fact_id, first.position) == ("f:reliability", "f", "front")


def test_what_cannot_be_asked_is_left_out_and_counted():
    facts = [
        fact("Oak is old", asks("What is old?"), id="first"),
        fact("elms are old", asks("How many are old?"), id="not in it"),
        fact("the town Oak", asks("Which town?"), id="good"),
        fact("the [MASK] Oak", asks("Which [MASK]?"), id="masked"),
    ]

    def asked(form):
        return [one.fact_id for one in prompts(facts, form)]

    assert asked("left_context") == ["good", "masked"]
    assert left_out(facts, "left_context") == {
        "answer comes first": 1,
        "answer not in the fact": 1,
    }
    assert asked("cloze_seen") == ["first", "good"]
    assert left_out(facts, "cloze_seen") == {
        "answer not in the fact": 1,
        "holds a [MASK] already": 1,
    }
    # A question that has one mask is its own cloze.
    assert asked("cloze_question") == ["first", "good", "masked"]
    assert left_out(facts, "cloze_question") == {"no wh-word": 1}
    assert left_out(facts, "question") == {}


def test_a_reordered_wording_is_asked_instead_of_the_fact():
    facts = [
        fact("Oak is old", asks("What is old?"), reordered=("what is old is Oak", "old is Oak")),
        fact("Oak is new", asks("What is new?"), id="other"),
    ]
    (found,) = prompts(facts, "left_context", reordered=True)
    assert found.prompt == Prompt("continuation", "what is old is")
    assert found.position == "front"  # where it stands in the fact itself
    assert left_out(facts, "left_context", reordered=True) == {"no reordered wording": 1}
    with pytest.raises(ValueError, match="only the fact's are reordered"):
        prompts(facts, "cloze_question", reordered=True)


def test_only_the_types_asked_for_are_asked():
    facts = example_facts()
    found = prompts(facts, "question", types=["locality"])
    assert [one.question_id for one in found] == [f"{one.id}:locality" for one in facts]
    assert prompts(facts, "cloze_seen", types=["locality"]) == []
    assert len(prompts(facts, "question")) == 12


@pytest.mark.skipif(not DATA.exists(), reason="the development file is not here")
def test_of_the_real_questions_three_percent_do_not_open_with_a_wh_phrase():
    # Of the specification: 3.0 % of 6,847; of the 80 first eligible facts, 11 % are of the back.
    facts = load_benchmark(DATA)
    clozes = [one.prompt.text for one in prompts(facts, "cloze_question")]
    inside = sum(not cloze.startswith("[MASK]") for cloze in clozes)
    n_left_out = left_out(facts, "cloze_question")["no wh-word"]
    assert (len(clozes), inside, n_left_out) == (6840, 196, 7)
    assert round(100 * (inside + n_left_out) / len(facts), 1) == 3.0
    assert len(prompts(facts, "cloze_seen")) == 6013
    eligible = [one for one in facts if study_eligible(one)]
    assert len(eligible) == 4350
    for form in ("cloze_seen", "cloze_question", "raw_question"):
        assert left_out(eligible, form) == {}
    assert left_out(eligible[:80], "left_context") == {"answer comes first": 32}
    back = sum(one.position == "back" for one in prompts(eligible[:80], "cloze_seen"))
    assert back == 9
