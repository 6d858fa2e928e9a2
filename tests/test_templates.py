import pytest

from tightframe.knowledge.wikipedia.templates import UnknownTemplateError, expand


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{'s}}", "&#39;s"),
        ("{{`s}}", "&#39;s"),
        ("{{-?}}", "?"),
        ("{{nowrap|x y}}", "x y"),
        ("{{Nobr| x }}", "x"),
        ("{{lang|fr|mot|italic=no}}", "mot"),
        ("{{abbr|ft|foot}}", "ft"),
        ("{{transl|ru|ALA|slovo}}", "slovo"),
        ("{{transl|ru|slovo}}", "slovo"),
        ("{{convert|11|lb|kg}}", "11 lb"),
        ("{{cvt|11|lb|kg|abbr=on}}", "11 lb"),
        ("{{convert|100|km|mi|0}}", "100 km"),
        ("{{convert|5|-|10|mi|km}}", "5\N{EN DASH}10 mi"),
        ("{{convert|5|ft|3|in|cm}}", "5 ft 3 in"),
        ("{{frac|1|2}}", "1/2"),
        ("{{Frac|3|1|2}}", "3 1/2"),
        ("{{frac|4}}", "1/4"),
        ("a{{snd}}b", "a&nbsp;&ndash; b"),
        ("a{{ndash}}b{{mdash}}c{{nbsp}}", "a&ndash;b&mdash;c&nbsp;"),
        ("{{HMS|Victory}}", "[[HMS Victory]]"),
        ("{{hMS|Victory}}", "[[HMS Victory]]"),
        ("{{USS|Elm|DD-1}}", "[[USS Elm (DD-1)|USS Elm]]"),
        ("{{SS|Elm}} {{MV|Elm}}", "[[SS Elm]] [[MV Elm]]"),
        ("{{ship|HMS|Victory}}", "[[HMS Victory]]"),
        ("{{nowrap|1=a=b}}", "a=b"),
        ("{{nowrap|[[A|b]]|c}}", "[[A|b]]"),
        ("{{nowrap|{{lang|fr|mot}} x}}", "mot x"),
    ],
)
def test_known_templates_show_their_text(template, text):
    assert expand(template) == text


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{old oak|x}}", "old oak"),
        ("{{Old_oak }}", "Old oak"),
        ("{{hms|Victory}}", "hms"),  # the first letter alone may differ
        ("{{nowrap|{{sic}}}}", "sic"),
        ("{{convert|11}}", "convert"),  # nothing is shown of what is not understood
        ("{{nowrap|a=b}}", "nowrap"),
        ("{{ship|HMS}}", "ship"),
        ("{{frac}}", "frac"),
        ("{{}}", ""),
        ("{{{1}}}", "1"),
    ],
)
def test_any_other_is_named(template, name):
    with pytest.raises(UnknownTemplateError) as caught:
        expand(f"a {template} b")
    assert caught.value.args == (name,)


def test_what_is_never_closed_stays():
    assert expand("a {{nowrap|b") == "a {{nowrap|b"
