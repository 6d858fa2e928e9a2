"""Which masks of a fact make its class: every one that hides the whole answer.

A variant is a span of words that holds all of the answer's. Where it begins at the answer's first
word, the first token that the model predicts is the answer's. Where it begins earlier, the words
between are told to the model (teacher forcing), and the sample is taken where the answer's first
token is predicted. Nothing after that position matters to it, so the words after the answer are
not part of what is predicted, and long spans fit models with few slots.
"""

import re
from typing import NamedTuple

from tightframe.knowledge.clozes import MAX_SPAN, Span
from tightframe.knowledge.facts import MASK

LEAST = 8  # variants of a fact; with fewer, a variance is mostly noise


class Variant(NamedTuple):
    """A fact with a mask over its answer, and what is told of the masked words."""

    cloze: str
    before: str  # masked words before the answer; often empty
    target: str  # these words and the answer
    n_words: int  # of the span behind the mask


def answer_variants(
    answer: Span, *, without: str = "", max_span: int = MAX_SPAN, least: int = LEAST
) -> list[Variant]:
    """All spans over the answer that training shows, and longer ones only until there are enough.

    By length, among equals from the answer's first word backwards: so the spans that are longer
    than any in training are the shortest there are. A short sentence may have fewer than `least`.

    Args:
        answer: The fact with the whole words of its answer taken out.
        without: A cloze that is no variant: many questions are the masked sentence word for word,
            and what is tested must not be among the samples.
        max_span: Words of the longest span in training.
        least: How many variants are wanted at least.
    """
    fact, first_letter = answer.sentence, len(answer.before)
    words = [match.span() for match in re.finditer(r"\S+", fact)]
    inside = [i for i, (start, _) in enumerate(words) if start >= first_letter]
    first, n_answer = inside[0], len(answer.span.split())
    found: list[Variant] = []
    for n_words in range(n_answer, len(words) + 1):
        earliest = max(0, first + n_answer - n_words)
        for start in range(min(first, len(words) - n_words), earliest - 1, -1):
            if n_words > max_span and len(found) >= least:
                return found
            begin, end = words[start][0], words[start + n_words - 1][1]
            told = fact[begin:first_letter]
            cloze = f"{fact[:begin]}{MASK}{fact[end:]}"
            if cloze.strip() != without.strip():
                found.append(Variant(cloze, told.strip(), told + answer.span, n_words))
    return found
