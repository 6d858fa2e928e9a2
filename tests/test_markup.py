import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightframe.knowledge.wikipedia.markup import Anchor, Marked, read, styled


def _links(wikitext):
    found = read(wikitext)
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
        ("[[T]]'''s", "Ts", ("T", "T", False)),
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
    assert read("a [[b and <c").text == "a [[b and <c"
    assert read("AT&T &notanentity; &amp").text == "AT&T &notanentity; &amp"


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
        assert [(c, bold) for text, bold in styled(line) for c in text] == seen


@given(_RUNS)
def test_no_apostrophe_is_lost_or_made(runs):
    # Runs count for 2, 3 or 5; a repaired run of three for an apostrophe and 2.
    line = "".join(text + "'" * n for text, n in runs)
    pieces = list(styled(line))
    assert "".join(text.replace("'", "") for text, _ in pieces) == line.replace("'", "")
    turned = line.count("'") - sum(text.count("'") for text, _ in pieces)
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
    found = read(wikitext)
    ends = [0]
    for one in found.anchors:
        assert ends[-1] <= one.start <= one.end <= len(found.text)
        ends.append(one.end)


_MARKED = st.text("ab \t\xa0", max_size=20).flatmap(
    lambda text: st.tuples(
        st.just(text), st.lists(st.integers(0, len(text)), min_size=4, max_size=4).map(sorted)
    )
)


@given(_MARKED)
def test_cutting_keeps_what_a_label_has_left(drawn):
    text, (a, b, c, d) = drawn
    marked = Marked(text, (Anchor("T", a, c, True),))
    left = marked.without([(b, d)])
    (anchor,) = left.anchors
    assert left.text == text[:b] + text[d:]
    assert left.text[anchor.start : anchor.end] == text[a : min(b, c)]
    blanks = marked.collapsed()
    (anchor,) = blanks.anchors
    assert blanks.text == " ".join(text.split())
    assert blanks.text[anchor.start : anchor.end].split() == text[a:c].split()
