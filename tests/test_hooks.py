import datetime
import time
from pathlib import Path

import pytest

from tightframe.knowledge.hooks import Bullet, bullets, redirect

EXAMPLE = Path(__file__).parent / "example_hooks.wikitext"


def _found(wikitext):
    return [(one.text, one.date, one.set_time) for one in bullets(wikitext)]


def test_the_example_has_twenty_four_hooks_of_two_days_and_four_sets():
    # Counted by hand: 8 + 4 on 2 January, 6 + 6 on 1 January; the stamps, image lines and the
    # hook inside a comment are none.
    found = list(bullets(EXAMPLE.read_text()))
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
    for one in bullets(EXAMPLE.read_text()):
        assert lines[one.line - 1].startswith(one.text)  # a comment may follow


@pytest.mark.parametrize(
    "bullet",
    [
        *("* ... that", "*... that", "* ...that", "* … that", "** ....that", ":* &hellip; that"),
        *("*&nbsp;that", "{{*mp}}that", ":{{ *mp }} that", "<li>that", "* {{nowrap|... that", "*"),
    ],
)
def test_bullets_come_in_many_forms(bullet):
    line = f"{bullet} '''[[A]]''' is one?"
    assert list(bullets(line)) == [Bullet(1, line, None, None)]


@pytest.mark.parametrize(
    "line",
    [
        "... that '''[[A]]''' stands in no list?",
        "{{main page image/DYK|image=a.jpg|caption=... that}}",
        "# ... that",
        "",
    ],
)
def test_other_lines_are_no_bullets(line):
    assert _found(line) == []


@pytest.mark.parametrize(
    "stamp",
    [
        "*'''''00:05, 3 May 2022 (UTC)'''''",
        "* '''00:05, 3 May 2022 (UTC)'''",
        "'''''00:05, 3 May 2022 (UTC)'''''",
        '*"00:05, 3 may 2022"',
        "*'''00:05, May 3, 2022 (UTC)'''",
        "*&nbsp;<small>00:05, 3 May 2022 (UTC)</small>",
        "* 0:05, 3 May 2022 UTC",
        "*'''''00:05, [[3 May]] [[2022]] (UTC)'''''",
        "=== 00:05, 3 May 2022 (UTC) ===",
    ],
)
def test_a_time_stamp_is_read_however_it_is_quoted(stamp):
    hook = "* ... that '''[[A]]''' is?"
    assert _found(f"{stamp}\n{hook}") == [(hook, "2022-05-03", "2022-05-03T00:05Z")]


def test_an_impossible_stamp_is_still_no_hook():
    (one,) = bullets("* '''25:00, 31 February 2022 (UTC)'''\n* ... that X?")
    assert one == Bullet(2, "* ... that X?", None, None, unread_date=True)


@pytest.mark.parametrize(
    "day",
    [
        *("5 January 2020", "January 5, 2020", "january 5 2020", "05 Jan 2020", "5 January, 2020"),
        *("Sunday, January 5, 2020", "Sunday 5 January 2020", "[[5 January]] [[2020]]"),
        *("'''Jan 5, 2020'''", "<small>5 January 2020</small>"),
    ],
)
def test_a_day_is_read_in_british_and_in_american_order(day):
    assert _found(f"== {day} ==\n* ... that X?") == [("* ... that X?", "2020-01-05", None)]


def test_every_month_is_read_by_its_name_and_by_its_first_letters():
    names = [datetime.date(2020, month, 1).strftime("%B") for month in range(1, 13)]
    pages = [f"=={form} 9, 2020==\n* ... that X?" for name in names for form in (name, name[:3])]
    months = [int(date[5:7]) for page in pages for _, date, _ in _found(page)]
    assert months == [month for month in range(1, 13) for _ in range(2)]
    assert _found("==9 Sept 2020==\n* ... that X?")[0][1] == "2020-09-09"


@pytest.mark.parametrize(
    "day",
    [
        *("31 February 2020", "February 30, 2020", "5 January", "January 5", "5-7 January 2020"),
        *("January 5th, 2020", "05/01/2020", "2020-01-05", "1.5.2020", "5 January 2020 (later)"),
    ],
)
def test_a_day_in_another_form_is_never_taken_for_one(day):
    (one,) = bullets(f"== {day} ==\n=== Set 1 ===\n* ... that X?")
    assert (one.date, one.unread_date) == (None, True)
    page = f"== {day} ==\n* 00:05, 3 May 2022 (UTC)\n* ... that X?\n== Sources ==\n* ... that Y?"
    stamped, after = bullets(page)
    assert (stamped.date, stamped.unread_date) == ("2022-05-03", False)
    assert (after.date, after.unread_date) == (None, False)


@pytest.mark.parametrize("heading", ["January 2020", "2020", "Did you know...", "Set 2", "Maybe 3"])
def test_a_heading_that_names_no_day_says_nothing_of_one(heading):
    (one,) = bullets(f"== {heading} ==\n* ... that X?")
    assert (one.date, one.unread_date) == (None, False)


@pytest.mark.parametrize(
    ("page", "redirects"),
    [
        ("#REDIRECT [[Wikipedia:Recent additions/2020/January]]", True),
        ("\ufeff\n#redirect: [[Wikipedia:Recent_additions/2020/January|x]] {{R from move}}", True),
        ("See #REDIRECT [[A]]", False),
        ("# redirect to [[A]]", False),
    ],
)
def test_a_redirect_says_where_it_leads(page, redirects):
    title = "Wikipedia:Recent additions/2020/January"
    assert redirect(page) == (title if redirects else None)


@pytest.mark.parametrize(
    "unit",
    [
        *("*", ":", "* ", "<!--", "<!--Hooks-->", "<!--HooksEnd-->", "=", "= ", "==a", "1 ", "#"),
        *("January ", "12:00, ", "\n", "*\n", "<", "{{*mp}}", "-->", "<!---->", "<li ", "1/1/"),
    ],
)
def test_a_long_page_takes_time_in_line_with_its_length(unit):
    start = time.process_time()
    list(bullets("==" + unit * (100_000 // len(unit)) + "=\n"))
    assert time.process_time() - start < 10


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
    assert [(one.line, one.text) for one in bullets(page)] == [
        (3, "* ... that A?"),
        (6, "* ... that C?"),
    ]
    alone = page.replace("<!--HooksEnd-->", "")  # one mark alone means nothing
    assert len(list(bullets(alone))) == 5
