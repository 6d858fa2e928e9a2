import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightframe.knowledge.data.records import Link, Target
from tightframe.knowledge.wikipedia.cleaning import clean


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("* ... that '''[[A]]''' is not B?", "A is not B"),
        ("* ...that '''[[A]]''' is not B {{-?}}", "A is not B"),
        ("* ... ...that '''[[A]]''' is not B?", "A is not B"),
        ("* ... that ...that '''[[A]]''' is not B?", "A is not B"),
        ("* ... that '''[[...And A]]''' is not B?", "...And A is not B"),
        ("* ... that's how '''[[A]]''' is B?", "that's how A is B"),  # not "s how"
        ("* ... that, in 1900, '''[[A]]''' fell?", "that, in 1900, A fell"),
        ("* ... thatch on '''[[A]]''' is B?", "thatch on A is B"),
        ("* ... that '''[[Is A?]]''' is what B asked?", "Is A? is what B asked"),
        ("* ... that B was asked for '''[[Is A?]]'''", "B was asked for Is A"),
        ("* ... that '''[[A]]''' says \" B \" twice?", 'A says " B " twice'),
        ("* ... that '''[[A]]'''   is&nbsp;<small>not</small> B?", "A is not B"),
        (
            "* ... that '''[[A]]''' is not<ref name=a>{{cite|x}}</ref> B<ref name=b />?",
            "A is not B",
        ),
        ("* ... that ''[[A]]''{{'s}} author is '''[[B]]'''?", "A's author is B"),
    ],
)
def test_a_line_becomes_a_sentence(line, fact):
    found = clean(line)
    assert (found.fact, found.fault) == (fact, None)


def test_the_hook_keeps_what_the_training_text_drops():
    assert clean("* ... that '''[[A]]''' is not B{{-?}}").hook == "that A is not B?"


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("'''[[A]]''' (pictured) is not B", "A is not B"),
        ("'''[[A]]''' ''(pictured, left)'', once B, fell", "A, once B, fell"),
        ("'''[[A]]''' (''artist's restoration pictured'') is not B", "A is not B"),
        ("'''[[A]]''' (a (small) replica Pictured) is not B", "A is not B"),
        ("'''[[A]]''' (near B (pictured) and C) is D", "A (near B and C) is D"),
        ("'''[[A]]''' is '(pictured)B' and not C", "A is 'B' and not C"),
        ("'''[[A]]''' is not (pictured)B at all", "A is not B at all"),
        ("'''[[A]]''' (depictured) is not B", "A (depictured) is not B"),
        ("'''[[A]]''' pictured (here) is B", "A pictured (here) is B"),
    ],
)
def test_picture_notes_go_with_their_parentheses(written, cleaned):
    assert clean(f"* ... that {written}?").fact == cleaned


def test_picture_notes_may_stay():
    line = "* ... that '''[[A]]''' (''replica pictured'') is not B?"
    assert clean(line, keep_pictured=True).fact == "A (replica pictured) is not B"


def test_offsets_are_those_of_the_training_text():
    found = clean("* ... that the [[x]] (pictured)  of '''[[A b|A]]''' and '''{{HMS|C}}''' fell?")
    assert found.fact == "the x of A and HMS C fell"
    assert found.targets == (Target("A b", "A", 9, 10), Target("HMS C", "HMS C", 15, 20))
    assert found.links == (Link("x", "x"),)


def test_a_bold_link_inside_a_picture_note_is_no_target():
    found = clean("* ... that the '''[[A]]''' ('''[[B]]''' pictured) fell twice?")
    assert [one.title for one in found.targets] == ["A"]
    assert found.links == (Link("B", ""),)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("* ... that [[A]] is not B?", "no_bold_link"),
        ("* ... that '''A''' is not B?", "no_bold_link"),
        ("* ... that ?", "empty"),
        ("* ...", "empty"),
        ("* ... that '''[[A]]''' is B?", "too_short"),
        ("* ... that '''[[A]]''' (once is not B?", "unbalanced"),
        ("* ... that '''[[A]]''' (once] is not B)?", "unbalanced"),
        ("* ... that '''[[A]]''' is not [[B?", "unbalanced"),
        ("* ... that '''[[A]]''' is not {{nowrap|B?", "unbalanced"),
        ("* ... that [[A|[[B]] c]] is '''[[D]]'''?", "unbalanced"),
        ("* ... that '''[[A]]''' is {{sic}} B?", "unknown_template:sic"),
        ("* ... that '''[[A]]''' \"is' not B?", None),  # quotation marks are not counted
    ],
)
def test_what_is_no_fact_says_why(line, fault):
    assert clean(line).fault == fault


_PIECES = (
    "'''[[A b|A]]'''",
    "[[C]]",
    "'''[[D?]]'''",
    "'''[[ E ]]'''",
    "''(pictured)''",
    "('''[[F]]''' pictured)",
    "[[G|'''H''']]",
    "''[[I]]'''s",
    "{{HMS|J}}",
    "{{'s}}",
    "{{-?}}",
    "&nbsp;",
    "&amp;",
    "'''",
    "''",
    "<b>x</b>",
    "<ref>y</ref>",
    " ",
    " word",
    "that ",
    "...",
    "?",
    "(",
    ")",
    "[[",
    "]]",
    "{{",
    "}}",
    "|",
)


@given(st.lists(st.sampled_from(_PIECES), max_size=15).map("".join), st.booleans())
def test_every_target_stands_at_its_offsets(wikitext, keep_pictured):
    found = clean(f"* ... that {wikitext}", keep_pictured=keep_pictured)
    for one in found.targets:
        assert one.label
        assert found.fact[one.start : one.end] == one.label
    assert found.fact == " ".join(found.fact.split())
    assert found.fact in found.hook
    if found.fault is None:
        assert found.targets
        assert len(found.fact.split()) >= 4


@given(st.text(max_size=60))
def test_any_line_is_read_without_a_fault_of_ours(text):
    found = clean("* ... that " + text)
    assert all(found.fact[one.start : one.end] == one.label for one in found.targets)
