"""Reading a grammar: what is found in it, and how a mistake is named."""

import re

import pytest

from tightframe.corpus.grammar import parse

SMALL = """
== children ==
[girl] they=she
    Ada Mia
[boy] they=he
    Tim
== things ==
[toy] used=played_with
    ball
[toy] used=rode
    bike
<story>
    3: [hero=girl] had a [thing=toy] . <end>
    [hero=boy] had a [thing=toy] . <end>
<end>
    {hero.they} {thing.used} the {thing} .
    -
"""


def test_every_word_that_can_be_told_is_found():
    told = ". Ada Mia Tim a an ball bike had he played rode she the with"
    assert parse(SMALL).words == tuple(told.split())


def test_the_longest_story_takes_the_longest_attribute():
    # "Ada had a ball . she played with the ball ." has 5 + 6 words.
    assert parse(SMALL).longest == 11


def test_lists_belong_to_categories_and_keep_attributes_by_word():
    rules = parse(SMALL)
    assert rules.categories == {"children": ("girl", "boy"), "things": ("toy",)}
    assert [entry.told("used") for entry in rules.lists["toy"]] == [("played", "with"), ("rode",)]


def test_weights_of_alternatives_are_shares():
    rules = parse(SMALL)
    assert [share for share, _ in rules.alternatives["story"]] == [0.75, 0.25]
    assert [share for share, _ in rules.alternatives["end"]] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the grammar is empty"),
        ("<story>\n", "<story> is empty"),
        ("[toy]\n<story>\n    [toy]", "[toy] is empty"),
        ("<story>\n    [toy]", "[toy]: there is no list 'toy'"),
        ("<story>\n    <end>", "<end>: there is no such rule"),
        ("<story>\n    so <story>", "<story> contains itself"),
        ("<story>\n    the end\n<other>\n    -", "<other> is never told"),
        ("<story>\n    {toy}", "{toy} is told before it is remembered"),
        ("[toy]\n    ball\n<story>\n    [x=toy] {x.by}", "{x.by}: 'ball' has no 'by'"),
        ("[toy]\n    ball ball\n<story>\n    [toy]", "line 2: 'ball' is in [toy] already"),
        ("<story>\n    [toy", "line 2: [toy is no word, [list], {variable} or <rule>"),
        ("<story>\n    so\n<story>\n    so", "line 3: expected a category, a list or a new rule"),
        ("so it began", "line 1: expected a category, a list or a new rule: so it began"),
        ("    so it began", "line 1: expected a category, a list or a new rule"),
    ],
)
def test_a_mistake_is_refused_by_line_or_name(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(text)
