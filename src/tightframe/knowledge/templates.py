"""Templates of wikitext: the few whose text is known, as tables; any other is refused by name.

While wikitext is read, what is not text is written as a control character, of which the page has
none left: a link is `OPEN title BAR label CLOSE`. So a template can pass on its argument, links
and all, as a string.
"""

import html
import re
from collections.abc import Mapping, Sequence
from html.entities import html5
from urllib.parse import unquote

OPEN, BAR, CLOSE = "\x02", "\x03", "\x04"  # of a link
BOLD, LIGHT, ITALIC, UPRIGHT = "\x05", "\x06", "\x07", "\x0e"  # of tags; runs of apostrophes stay
NOTHING = "\x01"  # keeps apart what a tag kept apart: runs of apostrophes, letters behind a link
APOSTROPHE = "\x0f"  # one that belongs to no run
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w+);")
# Control characters, and those that only say where a line may break or which way it runs.
_UNSEEN = dict.fromkeys(
    [*range(9), *range(14, 32), 127, 0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF]
)
_RAISED = str.maketrans("0123456789+-\N{MINUS SIGN}()=ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾⁼ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-\N{MINUS SIGN}()=", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎₌")


# Names begin with a capital letter, as titles do: the case of that one letter makes no difference.
CHARACTERS = {
    "'": APOSTROPHE,
    "'s": f"{APOSTROPHE}s",
    "`s": f"{APOSTROPHE}s",
    "-?": "?",
    "=": "=",
    "*mp": "",  # the Main Page's bullet
    "CO2": "CO₂",
    "Mdash": "&mdash;",
    "Nbsp": "&nbsp;",
    "Ndash": "&ndash;",
    "Okina": "\N{MODIFIER LETTER TURNED COMMA}",
    "Shy": "",
    "Snd": "&nbsp;&ndash; ",
    "Spaced ndash": "&nbsp;&ndash; ",
    "Spnd": "&nbsp;&ndash; ",
    "Thinsp": " ",
    "Wbr": "",
}
# Which positional argument is shown.
ARGUMENTS = {
    "Abbr": 0,
    "Big": 0,
    "Em": 0,
    "Lang": 1,
    "Nobr": 0,
    "Nobreak": 0,
    "Nowrap": 0,
    "Small": 0,
    "Smaller": 0,
    "Tooltip": 0,
    "Transl": -1,
    "Transliteration": -1,
}
# What stands in front of the argument.
PREFIXES = {"A$": "A$", "C.": "c. ", "Circa": "c. ", "US$": "US$", "£": "£", "¥": "¥", "€": "€"}
SHIPS = frozenset(
    ["HMAS", "HMCS", "HMNZS", "HMS", "HMT", "MS", "MV", "RMS", "SMS", "SS", "USAT", "USNS", "USS"]
)
# What is shown of a ship: of its prefix, its name and its number. Other forms are refused.
SHIP_FORMS = {"": "pni", "1": "i", "2": "n", "3": "ni", "6": "pn"}
RANGES = {
    "-": "\N{EN DASH}",
    "\N{EN DASH}": "\N{EN DASH}",
    "to(-)": "\N{EN DASH}",
    "to": " to ",
    "and": " and ",
    "and(-)": " and ",
    "or": " or ",
    "by": " by ",
    "by(-)": " by ",
    "x": " \N{MULTIPLICATION SIGN} ",
    "xx": " \N{MULTIPLICATION SIGN} ",
    "\N{MULTIPLICATION SIGN}": " \N{MULTIPLICATION SIGN} ",
    "+/-": " ± ",
    "±": " ± ",
    ",": ", ",
}
# The parts that a unit may be followed by: {{convert|5|ft|3|in}} is one length.
PARTS = {
    "lb": ("oz",),
    "LT": ("cwt",),
    "mi": ("ch", "ft", "furlong", "yd"),
    "st": ("lb",),
    "yd": ("ft", "in"),
    "ft": ("in",),
}
UNITS = {  # whose code is not how they are written
    "C": "°C",
    "F": "°F",
    "cuft": "cu ft",
    "cuyd": "cu yd",
    "impgal": "imp gal",
    "LT": "long tons",
    "ST": "short tons",
    "km2": "km²",
    "m2": "m²",
    "m3": "m³",
    "nmi": "nautical miles",
    "sqft": "sq ft",
    "sqmi": "sq mi",
    "USgal": "US gal",
}
THOUSANDS = {"e3": "thousand", "e6": "million", "e9": "billion"}
# Settings of {{convert}} that leave the first measure as it is; any other is refused.
SETTINGS = {
    "abbr": None,  # any value
    "adj": ("", "off", "on"),
    "comma": None,
    "disp": ("", "b", "br", "comma", "or", "slash", "sqbr"),
    "lk": None,
    "order": None,
    "round": None,
    "sigfig": None,
    "sortable": None,
    "sp": None,
    "spell": None,
}

_DECIMAL = re.compile("[\N{MINUS SIGN}-]?(?:\\d[\\d,]*(?:\\.\\d+)?|\\.\\d+)")
_FRACTION = re.compile(r"(?:(\d+)\+)?(\d+)//?(\d+)")
_UNIT = re.compile(r"(e\d)?(°?[^\W\d][\w /.°²³]*)")


class UnknownTemplateError(Exception):
    """A template whose text is not known here; its only argument is the name."""


def shown(written: str, arguments: Sequence[str]) -> str:
    """Return what a template shows, in marks, given its name and its arguments, in marks too.

    Raises:
        UnknownTemplateError: It is not in the tables, or not with such arguments.
    """
    name = " ".join(written.replace("_", " ").split())
    text = _shown(name[:1].upper() + name[1:], *_sorted(arguments))
    if text is None:
        raise UnknownTemplateError(seen(name)[:80])
    return text


def _shown(name: str, arguments: list[str], named: Mapping[str, str]) -> str | None:
    match name, arguments:
        case _ if name in CHARACTERS:
            return CHARACTERS[name]
        case _, [*_] if name in ARGUMENTS:
            place = ARGUMENTS[name]
            return arguments[place] if len(arguments) > max(place, 0) else None
        case _, [amount] if name in PREFIXES:
            return PREFIXES[name] + amount
        case "Convert" | "Cvt", [_, _, *_]:
            return _quantity([_plain(one) for one in arguments], named)
        case "Frac" | "Fraction" | "Sfrac", [below]:
            return f"1/{below}"
        case "Frac" | "Fraction" | "Sfrac", [above, below]:
            return f"{above}/{below}"
        case "Frac" | "Fraction" | "Sfrac", [whole, above, below]:
            return f"{whole} {above}/{below}"
        case "10^", [power] if (high := raised(power)) is not None:
            return f"10{high}"
        case "E", [power] if (high := raised(power)) is not None:
            return f"\N{MULTIPLICATION SIGN}10{high}"
        case "Sup", [text]:
            return raised(text)
        case "Sub", [text]:
            return lowered(text)
        case "Su", [] if {"b", "p"}.issuperset(named):
            low, high = lowered(named.get("b", "")), raised(named.get("p", ""))
            return None if low is None or high is None else low + high
        case "Ship" | "Warship", [prefix, ship, *more] if ship and len(more) < 3:
            return _ship(prefix, ship, *more)
        case _, [ship, *more] if name in SHIPS and ship and len(more) < 3:
            return _ship(name, ship, *more)
        case "Sclass" | "Sclass2", [ship, kind] if _is_plain(ship + kind):
            return link(f"{ship}-class {kind}", f"{ship}-class {kind}")
    return None


def _sorted(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return positional and named arguments; `1=x` is positional, and may hold an equals sign."""
    places: dict[int, str] = {}
    named: dict[str, str] = {}
    count = 0
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = name.strip()
        if not equals:
            count += 1
            places[count] = argument.strip()
        elif name.isascii() and name.isdecimal() and len(name) < 4:
            places[int(name)] = value.strip()
        else:
            named[name] = value.strip()
    return [places[place] for place in range(1, len(places) + 1) if place in places], named


def _plain(argument: str) -> str:
    return shown_characters(argument).replace("\xa0", " ").strip()


def _is_plain(argument: str) -> bool:
    return seen(argument) == argument and "''" not in argument


def _quantity(arguments: list[str], named: Mapping[str, str]) -> str | None:
    """Return a measure as its first unit says it: numbers joined by ranges, or a sum of parts."""
    for name, value in named.items():
        allowed = SETTINGS.get(name, ())
        if allowed is not None and value not in allowed:
            return None
    first, *rest = arguments
    numbers = [_number(first)]
    while len(rest) > 1 and rest[0] in RANGES:
        numbers += [RANGES[rest[0]], _number(rest[1])]
        rest = rest[2:]
    parts = ["".join(one or "" for one in numbers), _unit(rest[0]) if rest else None]
    while len(rest) > 2 and rest[2] in PARTS.get(rest[0], ()):
        numbers.append(_number(rest[1]))
        parts += [numbers[-1], _unit(rest[2])]
        rest = rest[2:]
    targets, settings = rest[1:], 0
    while targets and _DECIMAL.fullmatch(targets[-1]) and not settings:
        targets, settings = targets[:-1], 1  # the precision stands last
    if None in numbers or None in parts or not all(map(_unit, targets)):
        return None
    return " ".join(one for one in parts if one)


def _number(text: str) -> str | None:
    if _DECIMAL.fullmatch(text):
        return text
    if fraction := _FRACTION.fullmatch(text):
        whole, above, below = fraction.groups()
        return f"{whole} {above}/{below}" if whole else f"{above}/{below}"
    return None


def _unit(text: str) -> str | None:
    if text in RANGES or not (match := _UNIT.fullmatch(text)):
        return None
    thousands, unit = match.groups()
    if thousands and thousands not in THOUSANDS:
        return None
    return f"{THOUSANDS[thousands]} {unit}" if thousands else UNITS.get(unit, unit)


def _ship(prefix: str, name: str, number: str = "", form: str = "") -> str | None:
    """Return a link to a ship; its number, or a year, tells it from others of its name."""
    if form not in SHIP_FORMS or not _is_plain(prefix + name + number):
        return None
    title = " ".join(filter(None, (prefix, name, number and f"({number})")))
    shows = SHIP_FORMS[form]
    label = [
        prefix if "p" in shows else "",
        name if "n" in shows else "",
        (number if shows == "i" else number and f"({number})") if "i" in shows else "",
    ]
    return link(title, " ".join(filter(None, label))) if any(label) else None


def link(title: str, label: str) -> str:
    """Write a link in marks; `title` as the page has it, an empty one gives ""."""
    decoded = unquote(shown_characters(title)).translate(_UNSEEN)
    name = " ".join(decoded.replace("_", " ").split()).removeprefix(":")
    page = name.partition("#")[0].strip() or name
    return f"{OPEN}{page.replace(chr(39), APOSTROPHE)}{BAR}{label}{CLOSE}" if page else ""


def raised(text: str) -> str | None:
    """Return digits and signs as superscripts; None if a character has no superscript form."""
    return _moved(text, _RAISED)


def lowered(text: str) -> str | None:
    """Return digits and signs as subscripts; None if a character has no subscript form."""
    return _moved(text, _LOWERED)


def _moved(text: str, characters: dict[int, int]) -> str | None:
    text = shown_characters(text).strip()
    return text.translate(characters) if all(ord(one) in characters for one in text) else None


def seen(text: str) -> str:
    """Return a text without invisible characters, marks among them."""
    return text.translate(_UNSEEN)


def shown_characters(text: str) -> str:
    """Decode the entities of a text; a name that is none stays, and none is found inside one."""
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(entity: re.Match[str]) -> str:
    written = entity[0]
    shown = html.unescape(written) if written[1] == "#" else html5.get(written[1:], written)
    return shown.translate(_UNSEEN)
