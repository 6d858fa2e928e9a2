from hypothesis import given
from hypothesis import strategies as st

from tightframe.knowledge.wikitext import Anchor, Marked, lowered, raised


def test_digits_and_signs_are_raised_and_lowered_and_words_are_not():
    assert raised("10+2-3\N{MINUS SIGN}4(n)=i") == "¹⁰⁺²⁻³⁻⁴⁽ⁿ⁾⁼ⁱ"
    assert lowered("16 ") == "₁₆"
    assert raised("&minus;6") == "⁻⁶"
    assert raised("lle") is lowered("n") is raised("2.5") is None


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
