"""Spans of a fact, and clozes by rules: a fact or a question with a mask in place of its answer."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tightframe.knowledge.facts import MASK, Fact, Question, answer_place
from tightframe.knowledge.words import found_targets

MAX_SPAN = 5  # words of the longest span


@dataclasses.dataclass(frozen=True)
class Span:
    """A fact with a run of its words taken out; `before + span + after` is the fact."""

    before: str
    span: str
    after: str

    @property
    def cloze(self) -> str:
        """The sentence with a mask in its place."""
        return f"{self.before}{MASK}{self.after}"

    @property
    def sentence(self) -> str:
        """The sentence with its words put back."""
        return f"{self.before}{self.span}{self.after}"


def spans(fact: str, max_span: int = MAX_SPAN) -> list[Span]:
    """Return all runs of 1 to `max_span` words between blanks, by start, then length."""
    if max_span < 1:
        raise ValueError(f"max_span must be at least 1, got {max_span}")
    words = [match.span() for match in re.finditer(r"\S+", fact)]
    return [
        Span(fact[:start], fact[start : words[last][1]], fact[words[last][1] :])
        for first, (start, _) in enumerate(words)
        for last in range(first, min(first + max_span, len(words)))
    ]


def n_spans(n_words: int, max_span: int = MAX_SPAN) -> int:
    """Return the number of spans of a fact: 5n - 10 for n >= 5 words and spans of up to 5."""
    return sum(n_words - length + 1 for length in range(1, min(max_span, n_words) + 1))


def exposures_of(n_variants: int, exposures: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the variant of each repeat, so that counts of variants differ by at most one.

    Whole passes over the variants, each in a new order, then a part of one more.

    Returns:
        Indices in [0, n_variants), as many as exposures.
    """
    if n_variants < 1 or exposures < 1:
        raise ValueError(
            f"variants and exposures must be at least 1, got {n_variants} and {exposures}"
        )
    passes = -(-exposures // n_variants)
    return np.concatenate([generator.permutation(n_variants) for _ in range(passes)])[:exposures]


def fact_generator(seed: int, fact_id: str) -> np.random.Generator:
    """Return a fact's own generator: its examples do not depend on the other facts."""
    digest = hashlib.sha256(f"{seed}|{fact_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def sample_spans(
    fact: Fact, exposures: int, *, seed: int, max_span: int = MAX_SPAN
) -> Iterator[Span]:
    """Yield the span of a fact at each of its repeats, in the order of training."""
    variants = spans(fact.fact, max_span)
    for index in exposures_of(len(variants), exposures, fact_generator(seed, fact.id)):
        yield variants[index]


@dataclasses.dataclass(frozen=True)
class SpanCounts:
    """Counts of examples, before any is made."""

    facts: int
    examples: int
    fewest_variants: int  # of a fact
    mean_variants: float
    most_variants: int
    least_shown: int  # how often a variant is shown, at least; 0 where not all fit
    most_shown: int


def count_spans(facts: Sequence[Fact], exposures: int, max_span: int = MAX_SPAN) -> SpanCounts:
    """Count what `sample_spans` will yield over all facts."""
    if exposures < 1 or max_span < 1 or not facts:
        raise ValueError(
            f"expected facts, exposures and max_span from 1 on, "
            f"got {len(facts)}, {exposures}, {max_span}"
        )
    variants = [n_spans(len(fact.fact.split()), max_span) for fact in facts]
    return SpanCounts(
        facts=len(facts),
        examples=len(facts) * exposures,
        fewest_variants=min(variants),
        mean_variants=sum(variants) / len(variants),
        most_variants=max(variants),
        least_shown=min(exposures // n for n in variants),
        most_shown=max(-(-exposures // n) for n in variants),
    )


def span_records(
    facts: Iterable[Fact], exposures: int, *, seed: int, max_span: int = MAX_SPAN
) -> Iterator[dict[str, str]]:
    """Yield the examples of all facts as records for JSON, fact after fact."""
    for fact in facts:
        for one in sample_spans(fact, exposures, seed=seed, max_span=max_span):
            yield {"fact_id": fact.id, "cloze": one.cloze, "span": one.span}


_WH = r"(?:who|whom|whose|what|which|where|when)\b"
_OPENING = re.compile(rf"\s*(?:(?:in|by|of|from|at|on|to|for|with)\s+)?{_WH}", re.IGNORECASE)
_INSIDE = re.compile(rf"\b{_WH}", re.IGNORECASE)


def cloze_of_question(question: str) -> str | None:
    """Return a question with its wh-phrase as the mask, and without its final "?".

    The phrase is an opening wh-word with the preposition before it ("In which city" begins with
    it); where the question opens otherwise, its first wh-word. A prompt that holds a mask already
    is its own cloze.

    Returns:
        A text with exactly one mask; None for a question without such a word ("How many ...?").
    """
    if MASK in question:
        return question if question.count(MASK) == 1 else None
    asked = question.strip().removesuffix("?").rstrip()
    phrase = _OPENING.match(asked) or _INSIDE.search(asked)
    return None if phrase is None else asked[: phrase.start()] + MASK + asked[phrase.end() :]


def cloze_by_rule(question: Question) -> str | None:
    """Return the cloze of a question by `cloze_of_question`; true or false gets a final mask."""
    if question.format == "boolean":
        return f"{question.prompt} {MASK}"
    return cloze_of_question(question.prompt)


def cloze_of_fact(fact: str, answers: Iterable[str]) -> tuple[str, str] | None:
    """Return a fact with its answer masked, and the masked words; None if no alias is in it."""
    masked = answer_span(fact, answers)
    return None if masked is None else (masked.cloze, masked.span)


def answer_span(fact: str, answers: Iterable[str]) -> Span | None:
    """Return the words of a fact that hold its answer, None if no alias stands in it.

    The first alias that stands there letter for letter, where it is no part of a longer word if
    there is such a place, widened to what blanks separate: of "Oort's" nothing is left beside the
    mask, and the span is one that span prediction shows.
    """
    place = answer_place(fact, [alias.strip() for alias in answers])
    if place is None:
        return None
    start, alias = place
    whole = re.search(rf"(?<!\w){re.escape(alias)}(?!\w)", fact)
    start = whole.start() if whole else start
    words = [word.span() for word in re.finditer(r"\S+", fact)]
    first = max(begin for begin, _ in words if begin <= start)
    last = min(end for _, end in words if end >= start + len(alias))
    return Span(fact[:first], fact[first:last], fact[last:])


JOIN = " — "  # between what followed the answer and what led to it

_WORD = re.compile(r"\w")
_CLOSE_QUOTE = re.compile(r"\s*[\"”]")
_SEAM = " ,;:\u2013—"  # what may hang on the words that now begin or end the sentence


def reordered(fact: Fact) -> str | None:
    """Rotate the fact so that the words of its answer end it.

    What follows the answer comes first, then a dash, then what stood before the answer, then the
    answer: "Ada Brandt, a mason, built it" is "a mason, built it — Ada Brandt". Every word stands
    there once, in no other form; only commas, colons and dashes that hung on its new ends and at
    the seam are left out. Quotation marks around the answer stay with it.

    Returns:
        The fact as it is where the answer ends it already; None if the answer is not in it. The
        answer is the first alias of the first reliability question that stands in the fact, or,
        of a fact without such a question, its first target.
    """
    span = answer_span(fact.fact, _answers(fact))
    if span is None:
        return None
    before, after = span.before, span.after
    closing = _CLOSE_QUOTE.match(after) if _in_quotes(before) else None
    cut = closing.end() if closing else 0
    ending, rest = span.span + after[:cut], after[cut:]
    if not _WORD.search(rest):
        return fact.fact
    return rest.strip(_SEAM) + JOIN + (before + ending.rstrip(_SEAM)).lstrip()


def with_reordered(facts: Sequence[Fact]) -> list[Fact]:
    """Return facts with their reordered form, if a rule gives one; existing ones stay."""
    return [
        fact
        if fact.reordered or (form := reordered(fact)) is None
        else dataclasses.replace(fact, reordered=(form,))
        for fact in facts
    ]


def _in_quotes(before: str) -> bool:
    """Return whether the last character is a quotation mark that is still open."""
    last = before.rstrip()
    return last.endswith("“") or (last.endswith('"') and last.count('"') % 2 == 1)


def _answers(fact: Fact) -> tuple[str, ...]:
    asked = next((one for one in fact.questions if one.type == "reliability"), None)
    if asked is not None:
        return asked.answers
    return tuple(target.label for target in found_targets(fact)[:1])
