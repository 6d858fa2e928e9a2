r"""Scores of one answer: the two published ones, bug for bug, and three corrected ones.

With c the words that two texts have in common, as often as both have them, and m, n the numbers of
their words,

.. math:: F_1 = 100 \cdot \frac{2 c}{m + n}

in percent, 0 where c = 0. Words are those of `published_form` for the published scores, of
`normal_form` for the corrected ones.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 32  # words of an answer that are read

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_INVERTED = re.compile(r"(?<=\w),\s*(?:a|an|the)\s*$", re.IGNORECASE)
_WORDS_THAT_GO = frozenset({"a", "an", "the"})
# A blank keeps 3\u00bd from 31/2 and 10\u00b2 from 102 once NFKC has made plain digits of them.
_RAISED = re.compile("(?<=\\d)(?=[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215f])")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf", "'"))
_MARKS = re.compile(  # after `_Canonical`: what is not kept (group 1) is dropped or a blank
    r"((?<=\d)\.(?=\d)"  # the point of 3.5
    r"|(?<![\w.])\.(?=\d)"  # of .5
    r"|(?<!\w)-(?='?\.?\d)"  # the sign of -5 and -$5, but not the hyphen of covid-19
    r"|(?<!\d)\+(?=\.?\d))"  # of +5
    r"|(?<=\d),(?=\d{3}(?!\d))"  # the comma of 1,000
    r"|((?<=\d)[-+.,']+(?=\d))"  # 1914-1918 and 9/11 are two numbers each
    r"|[-+.,']"
)


class AnswerScores(NamedTuple):
    """The scores of one answer."""

    match_paper: int  # 1 if an alias is a part of the raw text, same case: long texts gain
    f1_paper: float  # percent, the first alias against the raw text: other aliases count nothing
    match_norm: int  # 1 if an alias's words stand in a row in the answer's
    em_norm: int  # 1 if an alias has the answer's words and no others
    f1_max: float  # percent, the best over the aliases


def score_answer(answers: Sequence[str], prediction: str) -> AnswerScores:
    """Score what a model said against the gold aliases.

    `match_paper` and `f1_paper` are as published, of the raw text; the others read the first line
    of the answer up to its 32nd word (`cut`), and every alias. For `match_norm` an alias may also
    stand in the answer with all its articles: "Serie A" in "Serie A is a league".

    Args:
        answers: Aliases, any of which is right; the published F1 knows the first one only.
        prediction: The raw text, uncut.

    Source: arXiv:2505.12306 for the published two; words are normalised as for SQuAD
    (Rajpurkar et al. 2016).
    """
    if isinstance(answers, str):
        raise TypeError(f"answers must be a list of aliases, got the text {answers!r}")
    if not answers or not all(alias.strip() for alias in answers):
        raise ValueError(f"an empty alias would match everything, got answers = {list(answers)}")
    line = cut(prediction)
    said, every = normal_form(line), _canonical_words(line)
    gold = [normal_form(alias) for alias in answers]
    whole = [_canonical_words(alias) for alias in answers]
    return AnswerScores(
        match_paper=int(any(alias in prediction for alias in answers)),
        f1_paper=word_f1(published_form(answers[0]), published_form(prediction)),
        match_norm=int(
            any(f" {words} " in f" {said} " for words in gold)
            or any(f" {words} " in f" {every} " for words in whole if not _only_articles(words))
        ),
        em_norm=int(said in gold),
        f1_max=max(word_f1(alias, said) for alias in gold),
    )


def published_form(text: str) -> str:
    """Lower-case `text` and drop ASCII punctuation and the words a, an, the; it may be empty."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normal_form(text: str) -> str:
    """Return the words by which answers are compared, with single blanks between them.

    Two texts have one normal form if they differ only in

    - case (full case folding), Unicode's compatibility forms (NFKC) and its invisible characters,
      the script of decimal digits;
    - the articles a, an, the, wherever another word follows or after a last comma: "Serie A" keeps
      its A, "Salt Cellar, The" has no article;
    - punctuation, that of Unicode and of ASCII. Numbers keep their sign and their point, and lose
      the commas between thousands; other marks between two digits part two numbers.

    Accents, other symbols and number words stay. A text without any word is compared as it is, but
    for case, blanks and a final full stop.
    """
    words = _canonical_words(_INVERTED.sub("", text)).split()
    end = max((i + 1 for i, word in enumerate(words) if word not in _WORDS_THAT_GO), default=0)
    kept = [word for word in words[:end] if word not in _WORDS_THAT_GO] + words[end:]
    if kept:
        return " ".join(kept)
    raw = " ".join(text.casefold().split())
    return raw.rstrip(".") or raw


def cut(text: str) -> str:
    """Return the first line of an answer, up to its 32nd word."""
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()[:LONGEST]) if lines else ""


def word_f1(one: str, other: str) -> float:
    """Compute F1 in percent of two normalised texts."""
    ours, theirs = one.split(), other.split()
    common = (Counter(ours) & Counter(theirs)).total()
    return 200 * common / (len(ours) + len(theirs)) if common else 0.0


class _Canonical(dict[int, str]):
    """Map from a character to "-", "+", ".", ",", "'" for other marks, "" or to itself."""

    def __missing__(self, code: int) -> str:
        self[code] = value = self._value(chr(code))
        return value

    @staticmethod
    def _value(character: str) -> str:
        category = unicodedata.category(character)
        if category == "Nd":
            return str(unicodedata.decimal(character))
        if category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:  # invisible; picks a glyph
            return ""
        if category == "Pd" or character == "\u2212":
            return "-"
        if character in "\u066b\u066c":  # Arabic decimal and thousands separators
            return ".,"[ord(character) - 0x066B]
        if character in "+.,":
            return character
        mark = category[0] == "P" or character in string.punctuation or character == "\u2044"
        return "'" if mark else character


_CANONICAL = _Canonical()


def _canonical_words(text: str) -> str:
    """Return the words of `text` in one spelling, articles kept."""
    text = unicodedata.normalize("NFKC", _RAISED.sub(" ", text).translate(_APOSTROPHES))
    text = unicodedata.normalize("NFKC", text.casefold()).translate(_CANONICAL)
    return " ".join(_MARKS.sub(lambda mark: mark[1] or (" " if mark[2] else ""), text).split())


def _only_articles(words: str) -> bool:
    return _WORDS_THAT_GO.issuperset(words.split())
