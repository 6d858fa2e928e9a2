# ruff: noqa: RUF001 (dashes and signs as readers see them)
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightframe.knowledge.hooks import clean
from tightframe.knowledge.wikitext import MAX_DEPTH, TAGS, read, styled


def _links(wikitext):
    found = read(wikitext).shown
    return found.text, [
        (one.title, found.text[one.start : one.end], one.bold) for one in found.anchors
    ]


@pytest.mark.parametrize(
    ("wikitext", "text", "link"),
    [
        ("'''[[T]]'''", "T", ("T", "T", True)),
        ("'''[[T|label]]'''", "label", ("T", "label", True)),
        ("'''''[[T]]'''''", "T", ("T", "T", True)),
        ("[[T|'''label''']]", "label", ("T", "label", True)),
        ("[[T|the '''label''']]", "the label", ("T", "the label", True)),
        ("'''the [[T]]'''", "the T", ("T", "T", True)),
        ("''[[T]]''", "T", ("T", "T", False)),
        ("[[T]]'''s", "Ts", ("T", "T", False)),  # letters behind a run are no label's
        ("[[T]]s and", "Ts and", ("T", "Ts", False)),
        ("[[T|t]]tes", "ttes", ("T", "ttes", False)),
        ("{{nowrap|[[T]]}}s", "Ts", ("T", "Ts", False)),
        ("[[T]]S", "TS", ("T", "T", False)),
        ("[[T]]és", "Tés", ("T", "T", False)),
        ("[[T]]'s", "T's", ("T", "T", False)),
        ("[[T]]<nowiki/>s", "Ts", ("T", "T", False)),
        ("[[T]]<small>s</small>", "Ts", ("T", "T", False)),
        ("[[T]]{{'s}}", "T's", ("T", "T", False)),
        ("<b>[[T]]</b>", "T", ("T", "T", True)),
        ("[[T|a <strong>b</strong>]]", "a b", ("T", "a b", True)),
        ("<b>a</b> [[T]]", "a T", ("T", "T", False)),
        ("[[O&#39;Hara&nbsp;2|x]]", "x", ("O'Hara 2", "x", False)),  # no section "39;Hara"
        ("[[1&ndash;2 at A]]", "1–2 at A", ("1–2 at A", "1–2 at A", False)),
        ("[[A%26B_c|x]]", "x", ("A&B c", "x", False)),
        ("[[100% A]]", "100% A", ("100% A", "100% A", False)),
        ("'''[[X]]''''s", "X's", ("X", "X", True)),
        ("''''[[X]]'''", "'X", ("X", "X", True)),
        ("''''''[[X]]'''''", "'X", ("X", "X", True)),
        ("''[[T]]'''s", "T's", ("T", "T", False)),  # italic, then an apostrophe
        ("''[[T]]''<nowiki/>'s", "T's", ("T", "T", False)),
        ("[[a_b#c|d]]", "d", ("a b", "d", False)),
        ("[[:fr:Chat]]", "fr:Chat", ("fr:Chat", "fr:Chat", False)),
        ("[[T|a [b] c]]", "a [b] c", ("T", "a [b] c", False)),
        ("a&nbsp;&amp; [[R&amp;D]]<br/>c", "a\xa0& R&D c", ("R&D", "R&D", False)),
        ("<span class='x'>[[T]]</span>", "T", ("T", "T", False)),
        ("[[File:a.jpg|thumb]][[T]]", "T", ("T", "T", False)),
    ],
)
def test_links_and_runs_of_apostrophes(wikitext, text, link):
    assert _links(wikitext) == (text, [link])


def test_a_possessive_italic_leaves_the_rest_of_the_line_as_it_is():
    # Runs of 2, 3, 3, 3: read from the left, bold would open at the possessive and A be bold.
    assert _links("''[[W]]'''s [[A]] and '''[[B]]'''") == (
        "W's A and B",
        [("W", "W", False), ("A", "A", False), ("B", "B", True)],
    )


def test_what_is_no_whole_link_stays_as_it_is():
    assert read("a [[b and <c").shown.text == "a [[b and <c"
    assert read("a {{nowrap|b").shown.text == "a {{nowrap|b"
    assert read("AT&T &notanentity; &amp").shown.text == "AT&T &notanentity; &amp"


@pytest.mark.parametrize(
    ("wikitext", "fault"),
    [
        ("a <math>b</math>", "unknown_tag:math"),
        ("a <Foo>b", "unknown_tag:foo"),
        (f"<{'a' * 999}>b", f"unknown_tag:{'a' * 80}"),
        ("a <span style='display: none'>b</span>", "unknown_tag:span"),
        ("<s>a {{nowrap|b</s>}}", "unclosed_tag:s"),
        ("a <sup>2", "unclosed_tag:sup"),
        ("a</del> b", "unclosed_tag:del"),
        ("a <ref>b", "unclosed_tag:ref"),
        ("a </nowiki> b", "unclosed_tag:nowiki"),
        ("a <!-- b", "unclosed_comment"),
        ("a [https://example.org b]", "external_link"),
        ("[[File:a.jpg|20px]] b", "image"),
        ("[[a]] {{nowrap|b", "unbalanced"),
        ("[[a|b", "unbalanced"),
        ("[[|b]]", "unbalanced"),
        ("[[a{b}]]", "unbalanced"),
        ("[[A|b [[c]]]]", "unbalanced"),
        ("[[" * 99, "nested_too_deep"),
        ("{{old oak|[[a|<chem>b</chem>]]}}", "unknown_tag:chem"),  # the first that is not known
    ],
)
def test_what_is_not_known_is_named(wikitext, fault):
    assert read(wikitext).fault == fault


def test_tags_and_templates_nest_as_deep_as_the_limit():
    deep = "{{nowrap|" * MAX_DEPTH + "a" + "}}" * MAX_DEPTH
    assert (read(deep).shown.text, read(deep).fault) == ("a", None)
    assert read("{{nowrap|" + deep + "}}").fault == "nested_too_deep"


@pytest.mark.parametrize("tag", sorted(TAGS))
def test_every_known_tag_is_read_in_either_case_and_is_unknown_when_hidden(tag):
    whole = f"a <{tag.upper()} class=x>1</{tag}> b"
    assert read(whole).fault is None
    assert "<" not in read(whole).shown.text
    assert read(f'<{tag} style="display:none">1</{tag}>').fault == f"unknown_tag:{tag}"


def test_nothing_in_nowiki_is_markup():
    found = read("<nowiki>''a [[b]] {{c}} <s>d</s></nowiki> ''e''")
    assert (found.shown.text, found.fault) == ("''a [[b]] {{c}} <s>d</s> e", None)


def test_runs_of_apostrophes_in_struck_words_still_turn():
    # Without the three in <s>, the bold would end where B's begins.
    found = read("'''[[A]] <s>x'''</s> y '''[[B]]'''")
    assert [(one.title, one.bold) for one in found.shown.anchors] == [("A", True), ("B", True)]
    assert found.struck


def test_every_character_of_the_text_may_be_in_italics():
    found = read("a ''b [[C|d]]'' <i>e</i>f").shown
    assert [found.text[start:end] for start, end in found.italics] == ["b d", "e"]


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "{{",
            "[[",
            "}}",
            "]]",
            "{{nowrap|",
            "[[a|",
            "|",
            "'''",
            "''",
            "<ref>",
            "<nowiki>",
            "<s>",
        ),
        *("<a", "<sup>st</sup>", "1<sup>st</sup>", "&a", "&#1", "<!--", "[[a]]b", "=", "{", "("),
        *("{{convert|1|", "''(shown)'', ", "<b>", "</ref", "[//a", "{{nowrap|a=", "</s>", "... "),
    ],
)
def test_a_long_line_takes_time_in_line_with_its_length(unit):
    # 60,000 characters: without a bound on searches for what never ends this takes minutes.
    start = time.process_time()
    clean("* ... that " + unit * (60_000 // len(unit)))
    assert time.process_time() - start < 10


_RUNS = st.lists(st.tuples(st.text("ab [", max_size=4), st.integers(0, 7)), max_size=8)


def _by_the_book(line):
    """The bold of each letter, a character at a time; lines that stay open both ways aside."""
    bold = italic = False
    seen, place = [], 0
    while place < len(line):
        size = len(line[place:]) - len(line[place:].lstrip("'"))
        if size < 2:
            seen.append((line[place], bold))
            place += 1
            continue
        place += size
        literal = {2: 0, 3: 0, 4: 1}.get(size, max(size - 5, 0))
        seen += [("'", bold)] * literal
        size -= literal
        italic ^= size in (2, 5)
        bold ^= size in (3, 5)
    return seen, bold and italic


@given(_RUNS)
def test_runs_turn_bold_as_by_the_book_where_the_line_closes(runs):
    line = "".join(text + "'" * n for text, n in runs)
    seen, open_both = _by_the_book(line)
    if not open_both:
        assert [(c, bold) for text, bold, _ in styled(line) for c in text] == seen


@given(_RUNS)
def test_no_apostrophe_is_lost_or_made(runs):
    # Runs count for 2, 3 or 5; a repaired run of three for an apostrophe and 2.
    line = "".join(text + "'" * n for text, n in runs)
    pieces = list(styled(line))
    assert "".join(text.replace("'", "") for text, *_ in pieces) == line.replace("'", "")
    turned = line.count("'") - sum(text.count("'") for text, *_ in pieces)
    assert 2 * (len(pieces) - 1) <= turned <= 5 * (len(pieces) - 1)


@given(
    st.lists(
        st.sampled_from(
            ["a", " ", "?", "'", "''", "'''", "[[", "]]", "|", "&amp;", "<b>", "<!", "é", "(x)"]
        ),
        max_size=30,
    ).map("".join)
)
def test_offsets_lie_in_the_text_and_in_order(wikitext):
    found = read(wikitext).shown
    ends = [0]
    for one in found.anchors:
        assert ends[-1] <= one.start <= one.end <= len(found.text)
        ends.append(one.end)
