# ruff: noqa: RUF001 (dashes and signs as readers see them)
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightframe.knowledge.facts import Link, Target
from tightframe.knowledge.hooks import clean


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


# Hooks of the kinds that Wikipedia has, with what their readers see: the bullet, then the fact.
_READINGS = [
    # Raised and lowered characters.
    ("* ... that '''[[Ash]]''' has 10<sup>9</sup> leaves?", "Ash has 10⁹ leaves"),
    ("* ... that '''[[Ash]]''' grows in 3.5&times;10<sup>−4</sup> s?", "Ash grows in 3.5×10⁻⁴ s"),
    ("* ... that '''[[Ash]]''' turns CO<sub>2</sub> to wood?", "Ash turns CO₂ to wood"),
    ("* ... that '''[[Ash]]''' fell to H<sub>2</sub>SO<sub>4</sub>?", "Ash fell to H₂SO₄"),
    ("* ... that '''[[Ash]]''' is 2<sup>''n''</sup> years old?", "Ash is 2ⁿ years old"),
    ("* ... that '''[[Ash]]''' was the 21<sup>st</sup> tree?", "Ash was the 21st tree"),
    ("* ... that '''[[Ash]]''' lost {{10^|6}} leaves?", "Ash lost 10⁶ leaves"),
    ("* ... that '''[[Ash]]''' holds Ca{{su|p=2+}} in bark?", "Ash holds Ca²⁺ in bark"),
    ("* ... that '''[[C-14|<sup>14</sup>C]]''' dated the Ash?", "¹⁴C dated the Ash"),
    # Struck words.
    ("* ... that '''[[Elm]]''' has <s>two</s> three rings?", "Elm has three rings"),
    ("* ... that '''[[Elm]]''' <del>fell</del><ins>stood</ins> in 1903?", "Elm stood in 1903"),
    ("* ... that '''[[Elm]]''' <strike>''once''</strike> bore a pear?", "Elm bore a pear"),
    ("* ... that <s>'''[[Elm]]''' or</s> '''[[Oak]]''' was felled twice?", "Oak was felled twice"),
    ("* ... that '''[[Elm]]'''<s>, ([[Oak]]</s> was felled twice?", "Elm was felled twice"),
    # Measures.
    ("* ... that '''[[Fir]]''' is {{convert|3|by|4|by|5|m|ft}} wide?", "Fir is 3 by 4 by 5 m wide"),
    ("* ... that '''[[Fir]]''' grew {{convert|5|-|7|km|mi|1}}?", "Fir grew 5–7 km"),
    ("* ... that '''[[Fir]]''' grew {{cvt|5|to|7|km|abbr=on}}?", "Fir grew 5 to 7 km"),
    ("* ... that '''[[Fir]]''' has {{convert|2|and|3|ft|cm|0}} roots?", "Fir has 2 and 3 ft roots"),
    ("* ... that '''[[Fir]]''' stands {{convert|6|ft|2|in|m|2}}?", "Fir stands 6 ft 2 in"),
    ("* ... that '''[[Fir]]''' froze at {{convert|-40|C|F|0}}?", "Fir froze at -40 °C"),
    ("* ... that '''[[Fir]]''' shades {{convert|1,200|sqmi|km2}}?", "Fir shades 1,200 sq mi"),
    ("* ... that '''[[Fir]]''' weighs {{convert|2+1/2|LT|t}}?", "Fir weighs 2 1/2 long tons"),
    ("* ... that '''[[Fir]]''' lost {{frac|3|1|2}} needles?", "Fir lost 3 1/2 needles"),
    # Ships.
    ("* ... that '''{{HMS|Wren|1790}}''' sank at noon?", "HMS Wren (1790) sank at noon"),
    ("* ... that '''{{HMS|Wren|1790|2}}''' sank at noon?", "Wren sank at noon"),
    ("* ... that '''{{SMS|Wren||2}}''' sank at noon?", "Wren sank at noon"),
    ("* ... that '''{{HMAS|Wren|L12|6}}''' sank at noon?", "HMAS Wren sank at noon"),
    ("* ... that '''{{USS|Wren|DD-3|3}}''' sank at noon?", "Wren (DD-3) sank at noon"),
    ("* ... that '''{{USS|Wren|DD-3|1}}''' sank at noon?", "DD-3 sank at noon"),
    ("* ... that '''{{USAT|Wren}}''' and {{MV|Lark}} met?", "USAT Wren and MV Lark met"),
    ("* ... that '''{{ship|Dutch brig|Wren||2}}''' was not blue?", "Wren was not blue"),
    ("* ... that '''{{warship|Dutch brig|Wren}}''' sank?", "Dutch brig Wren sank"),
    ("* ... that '''{{sclass|Wren|sloop}}s''' leak a lot?", "Wren-class sloops leak a lot"),
    ("* ... that ''{{SS|Wren}}''{{'s}} cook was '''[[Ann Lee]]'''?", "SS Wren's cook was Ann Lee"),
    # Entities, in titles too.
    ("* ... that '''[[Ivy &amp; Son|Ivy&nbsp;&amp;&nbsp;Son]]''' lost?", "Ivy & Son lost"),
    ("* ... that '''[[Ivy O&#39;Dell]]''' sang twice?", "Ivy O'Dell sang twice"),
    ("* ... that '''[[Ivy&ndash;Oak line]]''' was flooded?", "Ivy–Oak line was flooded"),
    ("* ... that '''[[Ivy]]''' is not <nowiki>''that''</nowiki> I?", "Ivy is not ''that'' I"),
    ("* ... that '''[[Ivy]]''' cost &#163;5&#8239;m in 1990?", "Ivy cost £5 m in 1990"),
    # Letters behind a link, and what ends them.
    ("* ... that '''[[Yew]]s''' are poisonous to [[cow]]s?", "Yews are poisonous to cows"),
    ("* ... that '''[[Yew|The Y]]ews''' played in rain?", "The Yews played in rain"),
    ("* ... that '''[[Yew]]<nowiki/>s''' are never [[cow]]-like?", "Yews are never cow-like"),
    ("* ... that '''[[Yew]]''''s berries are [[red]]dish?", "Yew's berries are reddish"),
    # What is said of pictures and recordings.
    ("* ... that '''[[May]]''' ''(illustrated)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' (''depicted'') sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' ''(statue shown, left)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' ''(video featured)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' ''(audio)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' ''(listen)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' ''(map)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' ''(logo pictured)'' sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''' <i>(shown in 1905)</i> sold a hat?", "May sold a hat"),
    ("* ... that '''[[May]]''', ''pictured'', sold a hat?", "May sold a hat"),
    ("* ... that a hat was sold by '''[[May]]''', ''shown right''?", "a hat was sold by May"),
    ("* ... that '''[[May]]''' (''The Map'') sold a hat?", "May (The Map) sold a hat"),
    ("* ... that '''[[May]]''' (''Hats Illustrated'') left?", "May (Hats Illustrated) left"),
    ("* ... that '''[[May]]''' (illustrated) sold a hat?", "May (illustrated) sold a hat"),
    ("* ... that '''[[May]]''' (''maps and hats'') sold?", "May (maps and hats) sold"),
    ("* ... that '''[[May]]''' was ''shown'' to kings?", "May was shown to kings"),
    # Bullets.
    ("*&nbsp;... that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("*<small>... that '''[[Bay]]''' is not blue?</small>", "Bay is not blue"),
    ("* {{nowrap|... that '''[[Bay]]''' is not}} blue?", "Bay is not blue"),
    ("{{*mp}}... that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("*{{*mp}} . . . that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("<li>... that '''[[Bay]]''' is not blue?</li>", "Bay is not blue"),
    ("* &bull; &hellip; that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("* '''... that [[Bay]]''' is not blue?", "Bay is not blue"),
    ("* that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("* Did you know that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("* Did you know ... that '''[[Bay]]''' is not blue?", "Bay is not blue"),
    ("* ... why <b>[[Bay]]</b> is not blue?", "why Bay is not blue"),
    ("* ... that '''[[Bay]]''' asked <q>Why?</q> of us?", 'Bay asked "Why?" of us'),
    ("* ... that [[File:Bay.jpg|thumb|A]]'''[[Bay]]''' is not blue?", "Bay is not blue"),
]


@pytest.mark.parametrize(("bullet", "fact"), _READINGS)
def test_a_hook_of_every_kind_is_read_as_it_is_seen(bullet, fact):
    found = clean(bullet)
    assert found is not None
    assert (found.fact, found.fault) == (fact, None)


@pytest.mark.parametrize(
    ("bullet", "fault"),
    [
        ("* <s>... that '''[[Bay]]''' was withdrawn by its author?</s>", "struck"),
        ("* ... that <del>'''[[Bay]]''' was opened by a goat</del>?", "struck"),
        ("* ... that <s>'''[[Bay]]'''</s> it was not blue?", "no_bold_link"),
        ("* '''[[Bay]]''' is not blue", "no_ellipsis"),
        ("* 5 May: ... that '''[[Bay]]''' is not blue?", "no_ellipsis"),
        ("* ... that '''[[Bay]]''' is <math>x^2</math> years old?", "unknown_tag:math"),
        ("* ... that '''[[Bay]]''' is <chem>H2O</chem> to us?", "unknown_tag:chem"),
        ("* ... that '''[[Bay]]''' goes <score>c d e</score> at dusk?", "unknown_tag:score"),
        ("* ... that '''[[Bay]]''' is M<sup>lle</sup> A's friend?", "unknown_tag:sup"),
        ("* ... that '''[[Bay]]''' is 10<sup>10<sup>9</sup></sup> old?", "unknown_tag:sup"),
        ("* ... that '''[[Bay]]''' is v<sub>max</sub> to us?", "unknown_tag:sub"),
        ("* ... that '''{{USS|Bay|DD-3|5}}''' sank at noon?", "unknown_template:USS"),
        ("* '''{{unknown ship|Bay}}''' sank at noon", "unknown_template:unknown ship"),
        ("* '''" + "{{nowrap|" * 50 + "[[Bay]]", "nested_too_deep"),
    ],
)
def test_a_bullet_that_is_no_fact_says_why(bullet, fault):
    found = clean(bullet)
    assert found is not None
    assert found.fault == fault


@pytest.mark.parametrize(
    "prose",
    [
        "* See [[Bay]] and its [[hat]]s",
        "* {{main|Bay}}",
        "*",
        "* <s>'''done'''</s> soon",
        "* '''a'''",
    ],
)
def test_a_bullet_without_a_bold_link_that_begins_like_prose_is_no_hook(prose):
    assert clean(prose) is None


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
    "<s>z'''</s>",
    "<sup>",
    "</sup>",
    "2",
    "{{nowrap|",
    "<nowiki>",
    "''(shown)''",
    ", ''pictured'',",
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
    assert found is not None
    assert all(found.fact[one.start : one.end] == one.label for one in found.targets)
