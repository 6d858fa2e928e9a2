r"""How right one answer is: the published scores, bug for bug, and the corrected ones.

Texts are compared as bags or runs of normalised words (`normalised`). With c the words that two
texts have in common, as often as both have them, and m, n the numbers of their words,

.. math:: F_1 = 100 \cdot \frac{2 c}{m + n}

in percent, 0 where c = 0.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 32  # words of an answer that are read

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


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
    of the answer up to its 32nd word (`cut`), and every alias.

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
    said = _kept(cut(prediction))
    gold = [_kept(alias) for alias in answers]
    return AnswerScores(
        match_paper=int(any(alias in prediction for alias in answers)),
        f1_paper=word_f1(normalised(answers[0]), normalised(prediction)),
        match_norm=int(any(f" {alias} " in f" {said} " for alias in gold)),
        em_norm=int(said in gold),
        f1_max=max(word_f1(alias, said) for alias in gold),
    )


def normalised(text: str) -> str:
    """Lower-case, without ASCII punctuation and the words a, an, the; single blanks between words.

    It may be empty.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def cut(text: str) -> str:
    """The first line of an answer, up to its 32nd word."""
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()[:LONGEST]) if lines else ""


def word_f1(one: str, other: str) -> float:
    """F1 in percent of two normalised texts."""
    ours, theirs = one.split(), other.split()
    common = (Counter(ours) & Counter(theirs)).total()
    return 200 * common / (len(ours) + len(theirs)) if common else 0.0


def _kept(text: str) -> str:
    """`normalised`, but a text of nothing else keeps its articles and punctuation: "The The"."""
    return normalised(text) or " ".join(text.lower().split())
