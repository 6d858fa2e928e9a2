# ruff: noqa: RUF001 (dashes and signs as readers see them)
import pytest

from tightframe.knowledge.templates import UNITS, UnknownTemplateError, shown
from tightframe.knowledge.wikitext import read


def _read(wikitext):
    """What is shown, with each link as its wikitext."""
    found = read(wikitext)
    text = found.shown.text
    for one in reversed(found.shown.anchors):
        label = text[one.start : one.end]
        text = f"{text[: one.start]}[[{one.title}|{label}]]{text[one.end :]}"
    return text, found.fault


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{'s}}", "'s"),
        ("{{`s}}", "'s"),
        ("''a''{{'}} {{'}}''b''", "a' 'b"),  # no run of three
        ("{{-?}}", "?"),
        ("{{=}}{{CO2}}", "=CO₂"),
        ("{{nowrap|x y}}", "x y"),
        ("{{Nobr| x }}", "x"),
        ("{{lang|fr|mot|italic=no}}", "mot"),
        ("{{lang|2=mot|1=fr}}", "mot"),
        ("{{abbr|ft|foot}}", "ft"),
        ("{{transl|ru|ALA|slovo}}", "slovo"),
        ("{{transl|ru|slovo}}", "slovo"),
        ("{{circa|1500}}", "c. 1500"),
        ("{{£|5}} {{US$|7}}", "£5 US$7"),
        ("{{convert|11|lb|kg}}", "11 lb"),
        ("{{cvt|11|lb|kg|abbr=on}}", "11 lb"),
        ("{{convert|100|km|mi|0}}", "100 km"),
        ("{{convert|100|km|0}}", "100 km"),
        ("{{convert|1,200.5|km|mi nmi|-1}}", "1,200.5 km"),
        ("{{convert|5|-|10|mi|km}}", "5–10 mi"),
        ("{{convert|5|&ndash;|10|mi|km|1}}", "5–10 mi"),
        ("{{convert|5|to|10|mi}}", "5 to 10 mi"),
        ("{{convert|5|and|10|mi}}", "5 and 10 mi"),
        ("{{cvt|5|by|10|by|15|ft|m|adj=on}}", "5 by 10 by 15 ft"),
        ("{{convert|5|x|10|x|15|cm}}", "5 × 10 × 15 cm"),
        ("{{convert|−40|C|F}}", "−40 °C"),
        ("{{convert|5|ft|3|in|cm}}", "5 ft 3 in"),
        ("{{convert|5|yd|1|ft|3|in|cm|0}}", "5 yd 1 ft 3 in"),
        ("{{convert|12|st|3|lb}}", "12 st 3 lb"),
        ("{{convert|1+1/2|mi}} {{convert|1//2|mi}}", "1 1/2 mi 1/2 mi"),
        ("{{convert|3|e6acre}}", "3 million acre"),
        ("{{frac|1|2}}", "1/2"),
        ("{{Frac|3|1|2}}", "3 1/2"),
        ("{{frac|4}}", "1/4"),
        ("{{10^|6}} 5{{e|-3}}", "10⁶ 5×10⁻³"),
        ("X{{su|b=4|p=2−}} O{{sub|2}} m{{sup|3}}", "X₄²⁻ O₂ m³"),
        ("a{{snd}}b", "a\xa0– b"),
        ("a{{ndash}}b{{mdash}}c{{nbsp}}", "a–b—c\xa0"),
        ("{{HMS|Victory}}", "[[HMS Victory|HMS Victory]]"),
        ("{{hMS|Victory}}", "[[HMS Victory|HMS Victory]]"),
        ("{{USS|Elm|DD-1}}", "[[USS Elm (DD-1)|USS Elm (DD-1)]]"),
        ("{{USS|Elm|DD-1|1}}", "[[USS Elm (DD-1)|DD-1]]"),
        ("{{SMS|Elm|1898|2}}", "[[SMS Elm (1898)|Elm]]"),
        ("{{HMAS|Elm|D1|3}}", "[[HMAS Elm (D1)|Elm (D1)]]"),
        ("{{USAT|Elm|1920|6}}", "[[USAT Elm (1920)|USAT Elm]]"),
        ("{{SS|Elm||2}}s {{MV|Elm}}", "[[SS Elm|Elms]] [[MV Elm|MV Elm]]"),
        ("{{ship|HMS|Victory}}", "[[HMS Victory|HMS Victory]]"),
        ("{{ship||Elm|1898}}", "[[Elm (1898)|Elm (1898)]]"),
        ("{{warship|Dutch frigate|Elm||2}}", "[[Dutch frigate Elm|Elm]]"),
        ("{{sclass|Elm|sloop}}", "[[Elm-class sloop|Elm-class sloop]]"),
        ("{{nowrap|1=a=b}}", "a=b"),
        ("{{nowrap|[[A|b=c]]|d}}", "[[A|b=c]]"),  # it names no argument
        ("{{nowrap|{{lang|fr|mot}} x}}", "mot x"),
        ("[[{{nowrap|A}}|{{nowrap|b|c}}]]", "[[A|b]]"),
    ],
)
def test_known_templates_show_their_text(template, text):
    assert _read(template) == (text, None)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{old oak|x}}", "old oak"),
        ("{{Old_oak }}", "Old oak"),
        ("{{hms|Victory}}", "hms"),  # the first letter alone may differ
        ("{{nowrap|{{sic}}}}", "sic"),
        ("{{nowrap|a=b}}", "nowrap"),
        ("{{ship|HMS}}", "ship"),
        ("{{USS|Elm|DD-1|5}}", "USS"),
        ("{{USS|Elm||1}}", "USS"),  # the number alone, and there is none
        ("{{USS|[[Elm]]}}", "USS"),
        ("{{sclass|Elm|sloop|1}}", "sclass"),
        ("{{frac}}", "frac"),
        ("{{circa|1500|1550}}", "circa"),
        ("{{10^|six}}", "10^"),
        ("{{su|b=4|a=c}}", "su"),
        ("{{}}", ""),
        ("{{{1}}}", "{1"),
        # Nothing is shown of a measure that is not understood.
        ("{{convert|11}}", "convert"),
        ("{{convert|eleven|lb}}", "convert"),
        ("{{convert|5|about|7|lb}}", "convert"),
        ("{{convert|5|-|lb}}", "convert"),
        ("{{convert|5|ft|3|kg|cm}}", "convert"),
        ("{{convert|5|km|mi|0|1}}", "convert"),
        ("{{convert|5|km|mi|disp=out}}", "convert"),
        ("{{convert|5|mi|adj=mid|-long}}", "convert"),
        ("{{convert|5|mi|frobnicate=yes}}", "convert"),
        ("{{convert|5|[[mile]]}}", "convert"),
        ("{{convert|5|e7mi}}", "convert"),
    ],
)
def test_any_other_is_named(template, name):
    assert read(f"a {template} b").fault == f"unknown_template:{name}"
    assert read(f"a {template} b").shown.text.startswith("a {")  # and is left as it is


def test_units_are_written_as_they_are_read():
    for code, unit in UNITS.items():
        assert shown("Cvt", ["7", code]) == f"7 {unit}"


def test_a_name_without_end_is_cut_in_its_message():
    with pytest.raises(UnknownTemplateError) as caught:
        shown("a" * 1000, [])
    assert caught.value.args == ("a" * 80,)
