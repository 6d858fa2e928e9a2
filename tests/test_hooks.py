from pathlib import Path

import pytest

from tightframe.knowledge.wikipedia.hooks import HookLine, hook_lines

EXAMPLE = Path(__file__).parent / "example_hooks.wikitext"


def _found(wikitext):
    return [(one.text, one.date, one.set_time) for one in hook_lines(wikitext)]


def test_the_example_has_twenty_four_hooks_of_two_days_and_four_sets():
    # Counted by hand: 8 + 4 on 2 January, 6 + 6 on 1 January; the stamps, image lines and the
    # hook inside a comment are none.
    found = list(hook_lines(EXAMPLE.read_text()))
    sets = [(one.date, one.set_time) for one in found]
    assert [(key, sets.count(key)) for key in dict.fromkeys(sets)] == [
        (("2023-01-02", "2023-01-02T12:00Z"), 8),
        (("2023-01-02", "2023-01-02T00:00Z"), 4),
        (("2023-01-01", "2023-01-01T12:00Z"), 6),
        (("2023-01-01", "2023-01-01T00:00Z"), 6),
    ]
    assert not any("UTC" in one.text or "Hidden" in one.text for one in found)


def test_lines_are_counted_through_comments_of_several_lines():
    lines = EXAMPLE.read_text().split("\n")
    for one in hook_lines(EXAMPLE.read_text()):
        assert lines[one.line - 1].startswith(one.text)  # a comment may follow


@pytest.mark.parametrize(
    "bullet",
    ["* ... that", "*... that", "* ...that", "* … that", "** ....that", ":* &hellip; that"],
)
def test_bullets_and_ellipses_come_in_many_forms(bullet):
    line = f"{bullet} '''[[A]]''' is one?"
    assert list(hook_lines(line)) == [HookLine(1, line, None, None)]


@pytest.mark.parametrize(
    "line",
    [
        "* '''[[Wikipedia:Recent additions 12|older]]'''",
        "... that '''[[A]]''' stands in no list?",
        "{{main page image/DYK|image=a.jpg|caption=... that}}",
        "# ... that",
        "",
    ],
)
def test_other_lines_are_no_hooks(line):
    assert _found(line) == []


@pytest.mark.parametrize(
    "stamp",
    [
        "*'''''00:05, 3 May 2022 (UTC)'''''",
        "* '''00:05, 3 May 2022 (UTC)'''",
        "'''''00:05, 3 May 2022 (UTC)'''''",
        '*"00:05, 3 may 2022"',
        "* 0:05, 3 May 2022 UTC",
        "*'''''00:05, [[3 May]] [[2022]] (UTC)'''''",
        "=== 00:05, 3 May 2022 (UTC) ===",
    ],
)
def test_a_time_stamp_is_read_however_it_is_quoted(stamp):
    hook = "* ... that '''[[A]]''' is?"
    assert _found(f"{stamp}\n{hook}") == [(hook, "2022-05-03", "2022-05-03T00:05Z")]


def test_an_impossible_stamp_is_still_no_hook():
    assert _found("* '''25:00, 31 February 2022 (UTC)'''\n* ... that X?") == [
        ("* ... that X?", None, None)
    ]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_heading_of_a_day_may_have_any_level_and_wins_over_the_stamp(level):
    mark = "=" * level
    page = f"{mark} '''3 May 2022''' {mark}\n*'''23:00, 2 May 2022 (UTC)'''\n* ... that X?"
    assert _found(page) == [("* ... that X?", "2022-05-03", "2022-05-02T23:00Z")]


def test_a_heading_that_is_no_day_ends_the_day_unless_it_stands_below_it():
    page = (
        "==3 May 2022==\n* 01:00, 3 May 2022 (UTC)\n===Set 1===\n* ... that X?\n"
        "==Sources==\n* ... that Y?"
    )
    assert _found(page) == [
        ("* ... that X?", "2022-05-03", "2022-05-03T01:00Z"),
        ("* ... that Y?", None, None),
    ]


def test_a_new_day_forgets_the_stamp_of_the_day_before():
    page = "==3 May 2022==\n*'''01:00, 3 May 2022'''\n==2 May 2022==\n* ... that X?"
    assert _found(page) == [("* ... that X?", "2022-05-02", None)]


def test_pages_in_preparation_are_read_between_their_marks():
    page = (
        "* ... that this is how to write one?\n<!--Hooks-->\n* ... that A?\n<!--HooksEnd-->\n"
        "* ... that B?\n<!-- hooks -->* ... that C?\n<!--HooksEnd-->\n* ... that D?"
    )
    assert [(one.line, one.text) for one in hook_lines(page)] == [
        (3, "* ... that A?"),
        (6, "* ... that C?"),
    ]
    alone = page.replace("<!--HooksEnd-->", "")  # one mark alone means nothing
    assert len(list(hook_lines(alone))) == 5
