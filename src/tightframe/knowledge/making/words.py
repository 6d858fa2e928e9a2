"""Word lists and synonyms of the package, and what the rules and checks ask about words."""

import functools
import re
from importlib import resources

WORD = re.compile(r"\w+(?:[-.'\u2019]\w+)*")
_ABBREVIATED = re.compile(  # "U.S.", not the last letter of "vitamin C."
    r"\b[^\W\d]\. ?[^\W\d]\.$|\b(?:Bros|Co|Corp|Dr|Inc|Jr|Ltd|Mr|Mrs|Sr|St|etc|vs)\.$"
)


@functools.cache
def word_list(name: str) -> frozenset[str]:
    """A list of `words.txt`, in lower case."""
    return _lists()[name]


@functools.cache
def synonyms() -> dict[str, str]:
    """Word to replacement, the same inflection on both sides."""
    return dict(line.split(" ", 1) for line in _lines("synonyms.txt"))


def contains(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text, ignoring case, on word boundaries."""
    phrase, text = phrase.strip().casefold(), text.casefold()
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if not _in_a_word(text[start - 1 : start]) and not _in_a_word(text[end : end + 1]):
            return True
        start = text.find(phrase, start + 1)
    return False


def without_stop(text: str) -> str:
    """Return a text without the full stop of its sentence; that of an abbreviation stays."""
    text = text.rstrip()
    stops = text.endswith(".") and not text.endswith("..") and not _ABBREVIATED.search(text)
    return text[:-1].rstrip() if stops else text


def content_words(text: str) -> list[str]:
    """The words that carry meaning, in lower case and order: those of no grammatical function."""
    return [word for word in WORD.findall(text.casefold()) if word not in word_list("functions")]


def _in_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


@functools.cache
def _lists() -> dict[str, frozenset[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in _lines("words.txt"):
        head, colon, tail = line.partition(":")
        name, words = (head, tail) if colon else (name, line)
        found.setdefault(name, []).extend(words.split())
    return {name: frozenset(words) for name, words in found.items()}


def _lines(file: str) -> list[str]:
    text = resources.files("tightframe.knowledge.making").joinpath(file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
