"""Generated stories whose next-token distribution is known exactly.

A `Grammar` tells short children's stories: rules (`plots.txt`) draw words from lists
(`lexicon.txt`) and tell them again sentences later, with the right pronoun, color, place or number.
What comes next depends on what was told long before, so depth and width pay; and since every choice
has a known probability, so has every next token.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources

import numpy as np
from jaxtyping import Float

from tightframe.corpus.rules import (
    Article,
    Choice,
    Draw,
    Entry,
    Recall,
    Rules,
    Word,
    article,
    parse,
)
from tightframe.corpus.states import Memory, Position, States, cumulative

END = "<|endoftext|>"
_SHIFT = 8  # of the ranks; flattens the most frequent words of a list
_NAMED = 8  # words that an error lists


@dataclasses.dataclass(frozen=True)
class Score:
    """A story under the grammar, position by position; the last is that of END. Nats per token."""

    nll: Float[np.ndarray, " positions"]  # -log probability of the token that came
    entropy: Float[np.ndarray, " positions"]  # of the distribution that it came from


class Grammar:
    """A language of stories, to sample from and to score exactly.

    Args:
        seed: Decides which words of each list are the frequent ones. Probabilities are
            proportional to 1 / (rank + 8), a Zipf-Mandelbrot law.
        text: A grammar in place of the packaged one; `tightframe.corpus.rules` has the notation.

    Attributes:
        words: All word types, END first, then sorted; the same for every seed.
        longest: No story has more words (END not counted).
        categories: The words of each category, e.g. "characters", "objects", "places", "feelings".
        lists: The words of each list that rules draw from: each can stand where another stood.
    """

    def __init__(self, seed: int = 0, *, text: str | None = None):
        rules = parse(_packaged() if text is None else text)
        probabilities = _zipf(rules, np.random.Generator(np.random.PCG64(seed)))
        self.words: tuple[str, ...] = (END, *rules.words)
        self.longest = rules.longest
        self.categories: Mapping[str, tuple[str, ...]] = {
            category: tuple(dict.fromkeys(e.word for name in names for e in rules.lists[name]))
            for category, names in rules.categories.items()
        }
        self.lists: Mapping[str, tuple[str, ...]] = {
            name: tuple(entry.word for entry in entries) for name, entries in rules.lists.items()
        }
        self._lists = rules.lists
        self._sums = {name: cumulative(shares) for name, shares in probabilities.items()}
        self._states = States(rules, probabilities, self.words, Word(END))

    def generate(self, n_tokens: int, seed: int) -> Iterator[list[str]]:
        """Whole stories, without END, until they and an END for each are `n_tokens` or more."""
        rng = np.random.Generator(np.random.PCG64(seed))
        while n_tokens > 0:
            story = self.sample(rng)
            n_tokens -= len(story) + 1
            yield story

    def sample(self, rng: np.random.Generator) -> list[str]:
        """One whole story, without END."""
        states = self._states
        place, memory = states.start
        story: list[str] = []
        articles = []  # where they are; which they are depends on the words after them
        while (symbol := place.symbol) != states.end:
            if isinstance(symbol, Choice):
                sums, ways = place.ways or states.ways(place)
                place = ways[bisect.bisect_right(sums, rng.random())]
                continue
            if isinstance(symbol, Word):
                story.append(symbol.text)
            elif isinstance(symbol, Draw):
                entry = self._draw(states.source(symbol, memory), memory, rng)
                memory = states.remember(memory, symbol.variable, entry)
                story.append(entry.word)
            elif isinstance(symbol, Article):
                articles.append(len(story))
                story.append("a")
            elif isinstance(symbol, Recall):
                story.extend(states.recall(symbol, memory))
            place = place.then
        for number in articles:
            story[number] = article(story[number + 1])
        return story

    def next_token_distribution(self, context: Sequence[str]) -> dict[str, float]:
        """The probability of every word that can follow `context`, and of END; they sum to 1.

        Args:
            context: A story from its first word on; one that cannot be told is a ValueError.
        """
        position = self._begin()
        for number, word in enumerate(context):
            _, position = self._advance(position, word, number)
        probabilities = position.probabilities()
        return {self.words[i]: float(probabilities[i]) for i in np.flatnonzero(probabilities)}

    def score(self, story: Sequence[str]) -> Score:
        """Negative log-likelihood and entropy at each word of a whole story and at its END."""
        nll, entropy = np.empty(len(story) + 1), np.empty(len(story) + 1)
        position = self._begin()
        for number, word in enumerate((*story, END)):
            entropy[number] = position.entropy()
            probability, position = self._advance(position, word, number)
            nll[number] = 0.0 - math.log(probability)
        return Score(nll, entropy)

    def _begin(self) -> Position:
        return Position(self._states, {self._states.start: 1.0})

    def _advance(self, position: Position, word: str, number: int) -> tuple[float, Position]:
        probability, weights = position.after(word)
        if not weights:
            likely = np.argsort(-position.probabilities(), kind="stable")
            possible = np.count_nonzero(position.probabilities())
            named = [self.words[i] for i in likely[: min(possible, _NAMED)]]
            more = f" or {possible - len(named)} more" if possible > len(named) else ""
            raise ValueError(
                f"word {number} of the context is '{word}', which cannot come there; "
                f"the grammar expects {', '.join(named)}{more}"
            )
        return probability, Position(self._states, weights)

    def _draw(self, source: str, memory: Memory, rng: np.random.Generator) -> Entry:
        """A word of a list that is not remembered yet, by rejection."""
        entries, sums = self._lists[source], self._sums[source]
        if all(entry in memory for entry in entries):
            raise ValueError(f"the grammar draws from [{source}], which has no more words")
        while (entry := entries[bisect.bisect_right(sums, rng.random())]) in memory:
            pass
        return entry


def next_token_distribution(context: Sequence[str]) -> dict[str, float]:
    """The probability of every word that can follow `context`, and of END, in the usual stories.

    >>> next_token_distribution("once upon a".split())
    {'time': 1.0}
    """
    return _usual().next_token_distribution(context)


def generate(n_tokens: int, seed: int) -> Iterator[list[str]]:
    """The usual stories, without END, until they and an END for each are `n_tokens` or more."""
    return _usual().generate(n_tokens, seed)


@functools.cache
def _usual() -> Grammar:
    return Grammar()


def _packaged() -> str:
    folder = resources.files("tightframe.corpus")
    files = ("lexicon.txt", "plots.txt")
    return "\n".join(folder.joinpath(file).read_text(encoding="utf-8") for file in files)


def _zipf(rules: Rules, rng: np.random.Generator) -> dict[str, list[float]]:
    """The probability of each word of each list, its rank drawn at random.

    Only uniform doubles, divisions and exact sums: the same numbers on any machine.
    """
    found = {}
    for name, entries in rules.lists.items():
        keys = [rng.random() for _ in entries]
        weights = [0.0] * len(keys)
        for rank, number in enumerate(sorted(range(len(keys)), key=keys.__getitem__), start=1):
            weights[number] = 1 / (rank + _SHIFT)
        total = math.fsum(weights)
        found[name] = [weight / total for weight in weights]
    return found
