"""Templates of wikitext: the few whose text is known, as tables; any other is refused by name."""

import re
from collections.abc import Sequence

# Names are written with a small first letter: the case of that one letter makes no difference.
# Apostrophes as entities: the page's next run of apostrophes must not grow by them.
CHARACTERS = {
    "'s": "&#39;s",
    "`s": "&#39;s",
    "-?": "?",
    "ndash": "&ndash;",
    "mdash": "&mdash;",
    "snd": "&nbsp;&ndash; ",
    "nbsp": "&nbsp;",
}
# Which positional argument is shown.
ARGUMENTS = {"nowrap": 0, "nobr": 0, "lang": 1, "abbr": 0, "transl": -1}
SHIPS = {"hMS": "HMS", "uSS": "USS", "sS": "SS", "mV": "MV"}
RANGES = {
    "-": "\N{EN DASH}",
    "\N{EN DASH}": "\N{EN DASH}",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "by": " by ",
    "x": " \N{MULTIPLICATION SIGN} ",
}

_INNERMOST = re.compile(r"\{\{([^{}]*)\}\}")
_PARTS = re.compile(r"\|(?![^\[\]]*\]\])")  # a bar that stands in no link
_NUMBER = re.compile("[\\d.,/+\N{MINUS SIGN}-]+")


class UnknownTemplateError(Exception):
    """A template whose text is not known here; its only argument is the name."""


def expand(wikitext: str) -> str:
    """The wikitext with every template replaced by what it shows, innermost first.

    Raises:
        UnknownTemplateError: Of the first one that is not in the tables, or has too few arguments.
    """
    while match := _INNERMOST.search(wikitext):
        wikitext = wikitext[: match.start()] + _shown(match[1]) + wikitext[match.end() :]
    return wikitext


def _shown(inside: str) -> str:
    written, *rest = _PARTS.split(inside)
    written = " ".join(written.replace("_", " ").split())
    template = written[:1].lower() + written[1:]
    arguments = _positional(rest)
    match template, arguments:
        case _ if template in CHARACTERS:
            return CHARACTERS[template]
        case _, [*_, last] if len(arguments) > ARGUMENTS.get(template, len(arguments)):
            place = ARGUMENTS[template]
            return last if place < 0 else arguments[place]
        case "convert" | "cvt", [low, between, high, unit, *_] if between in RANGES:
            return f"{low}{RANGES[between]}{high} {unit}"
        case "convert" | "cvt", [big, unit, small, part, *_] if _measure(small, part):
            return f"{big} {unit} {small} {part}"
        case "convert" | "cvt", [number, unit, *_] if unit not in RANGES:
            return f"{number} {unit}"
        case "frac", [below]:
            return f"1/{below}"
        case "frac", [above, below]:
            return f"{above}/{below}"
        case "frac", [whole, above, below]:
            return f"{whole} {above}/{below}"
        case "ship", [prefix, name, *more]:
            return _ship(f"{prefix} {name}", *more[:1])
        case _, [name, *more] if template in SHIPS:
            return _ship(f"{SHIPS[template]} {name}", *more[:1])
    raise UnknownTemplateError(written)


def _positional(arguments: Sequence[str]) -> list[str]:
    """Those without a name; `1=x` is how one is written that holds an equals sign."""
    kept = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            kept.append(argument.strip())
        elif name.strip().isdecimal():
            kept.append(value.strip())
    return kept


def _measure(number: str, unit: str) -> bool:
    """Whether these are the smaller part of "5 ft 3 in", not a target unit and a precision."""
    return bool(_NUMBER.fullmatch(number)) and not _NUMBER.fullmatch(unit)


def _ship(name: str, number: str = "") -> str:
    """A link to the ship; a year or pennant number tells namesakes apart in the title only."""
    return f"[[{name} ({number})|{name}]]" if number else f"[[{name}]]"
