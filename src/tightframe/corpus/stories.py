"""Generated stories whose next-token distribution is known exactly.

A `Grammar` tells short children's stories: rules (`plots.txt`) draw words from lists
(`lexicon.txt`) and repeat them sentences later, with the right pronoun, color, place or number.
What comes next depends on what was told long before, so depth and width pay; and because every
choice has a known probability, so has every next token. After a context, a `Position` holds every
state that can have told it, with its probability: the next token's distribution follows from them
without error, however many tellings begin alike.

Axes: W words of a list, V word types.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from tightframe.corpus.grammar import (
    Article,
    Choice,
    Draw,
    Entry,
    Lexicon,
    Recall,
    Rules,
    Symbol,
    Table,
    Word,
    article,
    cumulative,
    entropy,
    parse,
    zipf,
)

Memory: TypeAlias = tuple[Entry | None, ...]  # what each variable holds


class Place:
    """A place in a story: a symbol, and the place after it (itself at the end)."""

    __slots__ = ("leaves", "symbol", "then", "ways")

    def __init__(self, symbol: Symbol | None, then: "Place | None"):
        self.symbol = symbol  # None where all is told
        self.then = then or self
        self.ways: tuple[list[float], list[Place]] | None = None  # see States.ways
        self.leaves: list[tuple[float, Place]] | None = None  # see States.leaves


State: TypeAlias = tuple[Place, Memory]


class States:
    """The states of a story, and the states that can follow each.

    Args:
        rules: The grammar.
        probabilities: Probabilities of each list's words, in the order of the list.
        words: The vocabulary; a token's place in it is its type.
        end: The last symbol of every story.
    """

    def __init__(
        self,
        rules: Rules,
        probabilities: Mapping[str, Sequence[float]],
        words: Sequence[str],
        end: Word,
    ):
        self.words = words
        self.types = {word: number for number, word in enumerate(words)}
        self._alternatives = rules.alternatives
        self._lexicons = {
            name: self._lexicon(entries, probabilities[name])
            for name, entries in rules.lists.items()
        }
        self._slots = {variable: slot for slot, variable in enumerate(rules.variables)}
        self._places: dict[tuple[Symbol, Place], Place] = {}
        self.table = functools.lru_cache(maxsize=4096)(self._table)
        self.end = end
        last = self.place((end,), Place(None, None))
        first = self.place((Choice(next(iter(rules.alternatives))),), last)
        self.start: State = first, (None,) * len(self._slots)

    def place(self, symbols: Sequence[Symbol], then: Place) -> Place:
        """Return the one place from which `symbols` are told, and then what `then` tells."""
        for symbol in reversed(symbols):
            key = symbol, then
            if key not in self._places:
                self._places[key] = Place(symbol, then)
            then = self._places[key]
        return then

    def ways(self, place: Place) -> tuple[list[float], list[Place]]:
        """Return cumulative probabilities of a choice (the last is 1) and where each leads."""
        if place.ways is None:
            assert isinstance(place.symbol, Choice)
            alternatives = self._alternatives[place.symbol.rule]
            heads = [self.place(symbols, place.then) for _, symbols in alternatives]
            place.ways = cumulative([share for share, _ in alternatives]), heads
        return place.ways

    def leaves(self, place: Place) -> list[tuple[float, Place]]:
        """Return the places that can tell the next word, and their probabilities."""
        if place.leaves is None:
            if isinstance(place.symbol, Choice):
                reached: dict[Place, float] = {}
                alternatives = self._alternatives[place.symbol.rule]
                for (share, _), head in zip(alternatives, self.ways(place)[1], strict=True):
                    for further, leaf in self.leaves(head):
                        reached[leaf] = reached.get(leaf, 0.0) + share * further
                place.leaves = [(share, leaf) for leaf, share in reached.items()]
            else:
                place.leaves = [(1.0, place)] if place.symbol else []
        return place.leaves

    def recall(self, symbol: Recall, memory: Memory) -> tuple[str, ...]:
        """Return the words that a recall tells."""
        entry = memory[self._slots[symbol.variable]]
        if entry is None:
            raise ValueError(f"the grammar tells {{{symbol.variable}}} before it is remembered")
        return entry.told(symbol.attribute)

    def source(self, symbol: Draw, memory: Memory) -> str:
        """Return the list that a draw draws from."""
        variable, dot, attribute = symbol.source.partition(".")
        return self.recall(Recall(variable, attribute), memory)[0] if dot else symbol.source

    def table_of(self, symbol: Draw, memory: Memory) -> Table:
        """Return the words that a draw may give: those of its list that are not remembered yet."""
        source = self.source(symbol, memory)
        taken = tuple(entry.index for entry in memory if entry and entry.source == source)
        return self.table(source, symbol.article, taken)

    def remember(self, memory: Memory, variable: str, entry: Entry) -> Memory:
        """Return the memory after a draw."""
        if not variable:
            return memory
        slot = self._slots[variable]
        return (*memory[:slot], entry, *memory[slot + 1 :])

    def _lexicon(self, entries: tuple[Entry, ...], probabilities: Sequence[float]) -> Lexicon:
        return Lexicon(
            entries,
            {entry.word: entry.index for entry in entries},
            np.array([self.types[entry.word] for entry in entries]),
            np.array([article(entry.word) for entry in entries]),
            np.array(probabilities),
        )

    def _table(self, source: str, needed: str, taken: tuple[int, ...]) -> Table:
        lexicon = self._lexicons[source]
        kept = lexicon.probabilities.copy()
        kept[list(taken)] = 0.0
        if needed:
            kept[lexicon.articles != needed] = 0.0
        if not kept.any():
            raise ValueError(f"the grammar draws from [{source}], which has no more words")
        kept /= kept.sum()
        masses = {word: float(kept[lexicon.articles == word].sum()) for word in ("a", "an")}
        articles = {word: mass for word, mass in masses.items() if mass > 0}
        return Table(lexicon, kept, articles, entropy(kept))


class Position:
    """All states that a context can have led to, and the words that may come next.

    Args:
        states: The states of the grammar.
        weights: The states after the context, and their probabilities.
    """

    def __init__(self, states: States, weights: Mapping[State, float]):
        self.states = states
        self.told: dict[str, dict[State, float]] = {}  # word -> where it leads
        self.drawn: list[tuple[float, Table, Place, Memory]] = []
        for (place, memory), weight in weights.items():
            for share, leaf in place.leaves or states.leaves(place):
                self._add(weight * share, leaf, memory)

    def probabilities(self) -> Float[np.ndarray, " V"]:
        """Return the probability that each word type comes next."""
        found = np.zeros(len(self.states.words))
        for weight, table, _, _ in self.drawn:
            found[table.lexicon.types] += weight * table.probabilities
        for word, leads in self.told.items():
            found[self.states.types[word]] += sum(leads.values())
        return found

    def entropy(self) -> float:
        """Return the entropy of the next token in nats."""
        if not self.drawn:
            masses = [sum(leads.values()) for leads in self.told.values()]
            return max(0.0, -sum(mass * math.log(mass) for mass in masses))
        if len(self.drawn) == 1 and not self.told:
            return self.drawn[0][1].entropy
        return entropy(self.probabilities())

    def after(self, word: str) -> tuple[float, dict[State, float]]:
        """Return the probability of a word, and the states after it (none if it cannot come)."""
        reached = dict(self.told.get(word, {}))
        for weight, table, place, memory in self.drawn:
            number = table.lexicon.index.get(word)
            if number is not None and (share := weight * float(table.probabilities[number])) > 0:
                assert isinstance(place.symbol, Draw)
                entry = table.lexicon.entries[number]
                state = place.then, self.states.remember(memory, place.symbol.variable, entry)
                reached[state] = reached.get(state, 0.0) + share
        total = sum(reached.values(), 0.0)
        return min(total, 1.0), {state: weight / total for state, weight in reached.items()}

    def _add(self, weight: float, leaf: Place, memory: Memory) -> None:
        """Weigh one place that tells something next."""
        states, symbol, then = self.states, leaf.symbol, leaf.then
        if isinstance(symbol, Word):
            self._tell(symbol.text, weight, (then, memory))
        elif isinstance(symbol, Recall):
            first, *rest = states.recall(symbol, memory)
            self._tell(first, weight, (states.place([Word(text) for text in rest], then), memory))
        elif isinstance(symbol, Draw):
            self.drawn.append((weight, states.table_of(symbol, memory), leaf, memory))
        else:
            for share, further in states.leaves(then):
                self._add_article(weight * share, further, memory)

    def _add_article(self, weight: float, leaf: Place, memory: Memory) -> None:
        """Weigh the article before a place; a draw after it is narrowed to words that take it."""
        states, symbol = self.states, leaf.symbol
        if isinstance(symbol, Draw):
            for word, share in states.table_of(symbol, memory).articles.items():
                narrow = Draw(symbol.source, symbol.variable, word)
                self._tell(word, weight * share, (states.place((narrow,), leaf.then), memory))
        elif isinstance(symbol, Word):
            self._tell(article(symbol.text), weight, (leaf, memory))
        else:
            assert isinstance(symbol, Recall)
            self._tell(article(states.recall(symbol, memory)[0]), weight, (leaf, memory))

    def _tell(self, word: str, weight: float, state: State) -> None:
        leads = self.told.setdefault(word, {})
        leads[state] = leads.get(state, 0.0) + weight


END = "<|endoftext|>"
_NAMED = 8  # words that an error lists


@dataclasses.dataclass(frozen=True)
class Score:
    """Loss and entropy of a story under the grammar by position, END last, in nats per token."""

    nll: Float[np.ndarray, " positions"]  # -log probability of the token that came
    entropy: Float[np.ndarray, " positions"]  # of the distribution that it came from


class Grammar:
    """A language of stories, to sample from and to score exactly.

    Args:
        seed: Decides which words of each list are the frequent ones. Probabilities are
            proportional to 1 / (rank + 8), a Zipf-Mandelbrot law.
        text: A grammar in place of the packaged one; `tightframe.corpus.grammar` has the notation.

    Attributes:
        words: All word types, END first, then sorted; the same for every seed.
        longest: No story has more words (END not counted).
        categories: The words of each category, e.g. "characters", "objects", "places", "feelings".
        lists: The words of each list that rules draw from: each can stand where another stood.
    """

    def __init__(self, seed: int = 0, *, text: str | None = None):
        rules = parse(_packaged() if text is None else text)
        probabilities = zipf(rules, np.random.Generator(np.random.PCG64(seed)))
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
        """Yield stories, without END, until they and an END for each are `n_tokens` or more."""
        rng = np.random.Generator(np.random.PCG64(seed))
        while n_tokens > 0:
            story = self.sample(rng)
            n_tokens -= len(story) + 1
            yield story

    def sample(self, rng: np.random.Generator) -> list[str]:
        """Sample one whole story, without END."""
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
        """Return the probability of every word that can follow `context`, and of END.

        >>> usual_grammar().next_token_distribution("once upon a".split())
        {'time': 1.0}

        Args:
            context: A story from its first word on; one that cannot be told is a ValueError.
        """
        position = self._begin()
        for number, word in enumerate(context):
            _, position = self._advance(position, word, number)
        probabilities = position.probabilities()
        return {self.words[i]: float(probabilities[i]) for i in np.flatnonzero(probabilities)}

    def score(self, story: Sequence[str]) -> Score:
        """Compute negative log-likelihood and entropy at each word of a story and at its END."""
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
        """Draw a word of a list that is not remembered yet, by rejection."""
        entries, sums = self._lists[source], self._sums[source]
        if all(entry in memory for entry in entries):
            raise ValueError(f"the grammar draws from [{source}], which has no more words")
        while (entry := entries[bisect.bisect_right(sums, rng.random())]) in memory:
            pass
        return entry


@functools.cache
def usual_grammar() -> Grammar:
    """Return the grammar of the packaged text and seed 0, made once in a process."""
    return Grammar()


def _packaged() -> str:
    folder = resources.files("tightframe.corpus")
    files = ("lexicon.txt", "plots.txt")
    return "\n".join(folder.joinpath(file).read_text(encoding="utf-8") for file in files)
