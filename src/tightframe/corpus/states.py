"""The states of a story, and the forward filter that weighs them.

A state is a place in the telling (a symbol and what follows it) and a memory (what each variable
holds). After a context the filter has every state that can have told it, with its probability; what
the next token may be follows from them without error, however many tellings begin alike.

Axes: W words of a list, V word types.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped

from tightframe.corpus.rules import Choice, Draw, Entry, Recall, Rules, Symbol, Word, article

Memory: TypeAlias = tuple[Entry | None, ...]  # what each variable holds


class Place:
    """Where a telling is: a symbol, and the place after it (itself where all is told)."""

    __slots__ = ("leaves", "symbol", "then", "ways")

    def __init__(self, symbol: Symbol | None, then: "Place | None"):
        self.symbol = symbol  # None where all is told
        self.then = then or self
        self.ways: tuple[list[float], list[Place]] | None = None  # see States.ways
        self.leaves: list[tuple[float, Place]] | None = None  # see States.leaves


State: TypeAlias = tuple[Place, Memory]


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """The words of a list."""

    entries: tuple[Entry, ...]
    index: Mapping[str, int]  # word -> its place in the list
    types: Int[np.ndarray, " W"]  # each word's place in the vocabulary
    articles: Shaped[np.ndarray, " W"]  # "a" or "an"
    probabilities: Float[np.ndarray, " W"]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The words of a list that a draw may give now."""

    lexicon: Lexicon
    probabilities: Float[np.ndarray, " W"]  # 0 for a word that may not come
    articles: Mapping[str, float]  # the probability that the word takes "a", or "an"; none is 0
    entropy: float  # nats


class States:
    """What follows what.

    Args:
        rules: The grammar.
        probabilities: Of each list's words, in the order of the list.
        words: The vocabulary; a token's place in it is its type.
        end: The symbol after which nothing is told.
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
        """The place from which `symbols` are told and then what `then` tells; always one object."""
        for symbol in reversed(symbols):
            key = symbol, then
            if key not in self._places:
                self._places[key] = Place(symbol, then)
            then = self._places[key]
        return then

    def ways(self, place: Place) -> tuple[list[float], list[Place]]:
        """Of a choice: cumulative probabilities (the last is 1) and where each way leads."""
        if place.ways is None:
            assert isinstance(place.symbol, Choice)
            alternatives = self._alternatives[place.symbol.rule]
            heads = [self.place(symbols, place.then) for _, symbols in alternatives]
            place.ways = cumulative([share for share, _ in alternatives]), heads
        return place.ways

    def leaves(self, place: Place) -> list[tuple[float, Place]]:
        """The places that tell something next, by whatever choices, and their probabilities."""
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
        """The words that a recall tells."""
        entry = memory[self._slots[symbol.variable]]
        if entry is None:
            raise ValueError(f"the grammar tells {{{symbol.variable}}} before it is remembered")
        return entry.told(symbol.attribute)

    def source(self, symbol: Draw, memory: Memory) -> str:
        """The list that a draw draws from."""
        variable, dot, attribute = symbol.source.partition(".")
        return self.recall(Recall(variable, attribute), memory)[0] if dot else symbol.source

    def table_of(self, symbol: Draw, memory: Memory) -> Table:
        """The words that a draw may give: those of its list that are not remembered yet."""
        source = self.source(symbol, memory)
        taken = tuple(entry.index for entry in memory if entry and entry.source == source)
        return self.table(source, symbol.article, taken)

    def remember(self, memory: Memory, variable: str, entry: Entry) -> Memory:
        """The memory after a draw."""
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
    """All that may come after a context.

    Args:
        states: What follows what.
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
        """Of each word type."""
        found = np.zeros(len(self.states.words))
        for weight, table, _, _ in self.drawn:
            found[table.lexicon.types] += weight * table.probabilities
        for word, leads in self.told.items():
            found[self.states.types[word]] += sum(leads.values())
        return found

    def entropy(self) -> float:
        """Of the next token, in nats."""
        if not self.drawn:
            masses = [sum(leads.values()) for leads in self.told.values()]
            return max(0.0, -sum(mass * math.log(mass) for mass in masses))
        if len(self.drawn) == 1 and not self.told:
            return self.drawn[0][1].entropy
        return entropy(self.probabilities())

    def after(self, word: str) -> tuple[float, dict[State, float]]:
        """The probability of a word, and the states after it (none if it cannot come)."""
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


def entropy(probabilities: Float[np.ndarray, " W"]) -> float:
    """Of a distribution, in nats; 0 log 0 is 0."""
    positive = probabilities[probabilities > 0]
    return max(0.0, -float(positive @ np.log(positive)))


def cumulative(probabilities: Sequence[float]) -> list[float]:
    """Running sums, of which the last is exactly 1."""
    return [*itertools.accumulate(probabilities[:-1]), 1.0]
