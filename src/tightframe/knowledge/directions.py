"""Facts asked forward and backward, and planted facts with a known answer in both directions.

A forward question gives the beginning of a fact and asks for what follows. A backward question
gives what follows the subject and asks for the subject. Both end in their mask, so that models
that continue sentences and models that fill masks are asked by the same words.

Axes: F facts, D embedding.
"""

import itertools
import random
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tightframe.errors import UserError
from tightframe.knowledge.clozes import answer_span, reordered
from tightframe.knowledge.facts import MASK, Fact, FactSet, Question, Target, Type, fact_id
from tightframe.knowledge.words import found_targets, names, numbers

LAST_WORDS = 2  # asked forward where nothing after the subject is a name or a number
VERBS = ("painted", "built", "founded", "robbed", "sold", "mapped", "saved", "moved", "drew")
NOUNS = ("bridge", "chapel", "garden", "harbour", "library", "market", "mill", "museum", "tower")
_ONSETS, _VOWELS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"), "aeiou"


def forward_question(fact: Fact) -> Question | None:
    """Ask for the last name or number after the subject, or the last words, by all before it."""
    subject = answer_span(fact.fact, _subject(fact))
    if subject is None:
        return None
    first = len(subject.before) + len(subject.span)
    slots = sorted(one for one in names(fact.fact) + numbers(fact.fact) if one[0] >= first)
    words = [word.span() for word in re.finditer(r"\S+", fact.fact)]
    slots = slots or [
        (start, words[-1][1]) for start, _ in words[-LAST_WORDS:][:1] if start > first
    ]
    if not slots:
        return None
    start, end = slots[-1]
    prompt = f"{fact.fact[:start].rstrip()} {MASK}"
    return _question(fact, "forward", prompt, (fact.fact[start:end].strip(" .,;:"),))


def backward_question(fact: Fact) -> Question | None:
    """Ask for the subject by the fact that is rotated to end with it; None if it does so itself."""
    rotated, subject = reordered(fact), _subject(fact)
    if rotated is None or rotated == fact.fact:
        return None
    span = answer_span(rotated, subject)
    if span is None:
        return None
    return _question(fact, "backward", f"{span.before.rstrip()} {MASK}", subject)


def plant(n: int, *, seed: int = 0) -> FactSet:
    """Make facts that pair an invented name with a description of its own.

    Every other fact begins with its name, the others with their description; the other order is
    its reordered wording. Each is asked in both orders: forward is the one that it has.

    Args:
        n: Number of facts; no name and no description stands in two of them.
        seed: Seed of the names and of the pairs.
    """
    if n < 1:
        raise UserError(f"--n {n}: expected at least 1")
    generator = random.Random(seed)
    given, family = _words(generator, n, 2), _words(generator, n, 3)
    places = _words(generator, -(-n // 4), 2)
    deeds = list(itertools.product(VERBS, NOUNS, places))
    chosen = generator.sample(deeds, n)
    pairs = zip(given, family, chosen, strict=True)
    return FactSet(
        _planted(f"{one} {other}", f"{verb} the {noun} of {place}", name_first=i % 2 == 0)
        for i, (one, other, (verb, noun, place)) in enumerate(pairs)
    )


class EntryDistances(NamedTuple):
    """Distances of two entries: the embeddings that answer a fact forward and backward."""

    cosine: Float[np.ndarray, " F"]  # of a fact's two entries, each less its mean over facts
    others: Float[np.ndarray, " F"]  # mean cosine of its forward entry with others' backward ones
    rank: Float[np.ndarray, " F"]  # of its backward entry by distance, 1 is nearest


def entry_distances(
    forward: Float[np.ndarray, "F D"], backward: Float[np.ndarray, "F D"]
) -> EntryDistances:
    """Compare the two entries of each fact with those of different facts."""
    if len(forward) < 2:
        raise ValueError(f"expected at least 2 facts, got {len(forward)}")
    ours, theirs = (np.asarray(one, np.float64) - one.mean(0) for one in (forward, backward))
    squared = ((ours[:, None] - theirs[None]) ** 2).sum(-1)  # (F, F)
    ours, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (ours, theirs))
    cosines = ours @ theirs.T
    own = cosines.diagonal()
    others = (cosines.sum(1) - own) / (len(own) - 1)
    nearer = (squared < squared.diagonal()[:, None]).sum(1)
    return EntryDistances(own.copy(), others, 1.0 + nearer)


def _subject(fact: Fact) -> tuple[str, ...]:
    """Return the aliases of what a fact is about."""
    asked = next((one for one in fact.questions if one.type == "reliability"), None)
    if asked is not None:
        return asked.answers
    return tuple(target.label for target in found_targets(fact)[:1])


def _question(fact: Fact, type_: Type, cloze: str, answers: tuple[str, ...]) -> Question:
    return Question(f"{fact.id}:{type_}", type_, "cloze", cloze, cloze, answers, "rules")


def _planted(name: str, deed: str, *, name_first: bool) -> Fact:
    by_name, by_deed = f"{name} is the one who {deed}", f"The one who {deed} is {name}"
    text, other = (by_name, by_deed) if name_first else (by_deed, by_name)
    start = text.index(name)
    id_ = fact_id(None, text)
    target = Target(name, name, start, start + len(name))
    fact = Fact(id_, None, None, None, None, text, f"that {text}?", text, (target,), license="")
    answers = {True: (name,), False: (deed,)}  # by whether the name is asked for
    asked = {
        True: f"The one who {deed} is {MASK}",
        False: f"{name} is the one who {MASK}",
    }
    # Reliability asks in the order that is trained, so that it tests what is memorized.
    last = not name_first
    prompt = f"Who {deed}?" if last else f"What is {name} known for?"
    main = Question(
        f"{id_}:reliability", "reliability", "question", prompt, asked[last], answers[last], "rules"
    )
    both = [
        _question(fact, "forward", asked[last], answers[last]),
        _question(fact, "backward", asked[not last], answers[not last]),
    ]
    return Fact(**{**vars(fact), "questions": (main, *both), "reordered": (other,)})


def _words(generator: random.Random, n: int, syllables: int) -> list[str]:
    """Return so many different invented words, capitalised."""
    found: dict[str, None] = {}
    if n > (len(_ONSETS) * len(_VOWELS)) ** syllables // 4:
        raise UserError(f"--n {n:,}: there are not so many names; expected at most 1,225")
    while len(found) < n:
        parts = (generator.choice(_ONSETS) + generator.choice(_VOWELS) for _ in range(syllables))
        found["".join(parts).capitalize()] = None
    return list(found)
