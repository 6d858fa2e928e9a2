"""Grammar text: lists of words with attributes, and rules that draw words and repeat them.

    == characters ==                    a category of lists
    [girl] they=she                     a list; the words below share its attributes
        Ada Mia
    [toy] used=played_with
        ball doll
    <story>                             a rule, one alternative a line; stories start at the first
        3: [hero=girl] had a [thing=toy] . <end>
        [hero=girl] sat down with a [thing=toy] . <end>
    <end>
        {hero.they} {thing.used} the {thing} .
        -

`[toy]` draws a word of a list, and `[thing=toy]` remembers it. `{thing}` tells what is remembered,
`{thing.used}` an attribute of it (words joined by `_`), `[x=place.finds]` draws from the list that
an attribute names, `<end>` goes on with a rule, `-` is nothing, and `3:` makes an alternative three
times as likely as one without. A word that the story remembers is not drawn again from the same
list. `a` before what is not written out is told as `an` where the next word begins with a vowel.

Axes: W words of a list.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped

_SHIFT = 8  # of the ranks; flattens the most frequent words of a list


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A word of a list."""

    word: str
    source: str  # the name of its list
    index: int  # its place there
    attributes: Mapping[str, tuple[str, ...]]

    def told(self, attribute: str) -> tuple[str, ...]:
        """Return the words of an attribute; for the empty one, the word itself."""
        return self.attributes[attribute] if attribute else (self.word,)


@dataclasses.dataclass(frozen=True)
class Word:
    """A word that is told as it stands."""

    text: str


@dataclasses.dataclass(frozen=True)
class Draw:
    """A word drawn from a list."""

    source: str  # a list, or variable.attribute, which names one
    variable: str  # remembers the word; empty if nothing does
    article: str = ""  # "a" or "an": only words that take this one


@dataclasses.dataclass(frozen=True)
class Recall:
    """A remembered word, or the words of its attribute."""

    variable: str
    attribute: str


@dataclasses.dataclass(frozen=True)
class Article:
    """The article `a` or `an`, as the word after it needs."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the alternatives of a rule."""

    rule: str


Symbol: TypeAlias = Word | Draw | Recall | Article | Choice
Alternative: TypeAlias = tuple[float, tuple[Symbol, ...]]  # its probability, what it tells


@dataclasses.dataclass(frozen=True)
class Rules:
    """A grammar, read and checked."""

    lists: Mapping[str, tuple[Entry, ...]]
    categories: Mapping[str, tuple[str, ...]]  # category -> its lists
    alternatives: Mapping[str, tuple[Alternative, ...]]  # of each rule, the first rule first
    variables: tuple[str, ...]  # what a story can remember
    words: tuple[str, ...]  # every word that can be told, sorted
    longest: int  # words; no story has more


def article(word: str) -> str:
    """Return the indefinite article of a word, by its spelling."""
    return "an" if word[0].lower() in "aeiou" else "a"


def parse(text: str) -> Rules:
    """Read a grammar; a mistake is refused with its line or its name (ValueError)."""
    lists, categories, tellings = _read(text)
    empty = [f"[{name}]" for name, words in lists.items() if not words]
    empty += [f"<{rule}>" for rule, told in tellings.items() if not told]
    if empty or not tellings:
        raise ValueError(f"{(empty or ['the grammar'])[0]} is empty")
    entries = {name: tuple(words.values()) for name, words in lists.items()}
    alternatives = {rule: _shares(told) for rule, told in tellings.items()}
    walk = _Walk(entries, alternatives)
    longest = walk.story()
    if unused := [f"<{rule}>" for rule in tellings if rule not in walk.lengths]:
        raise ValueError(f"{unused[0]} is never told")
    return Rules(
        lists=entries,
        categories={category: tuple(names) for category, names in categories.items()},
        alternatives=alternatives,
        variables=tuple(walk.remembered),
        words=tuple(sorted(walk.words)),
        longest=longest,
    )


_List: TypeAlias = dict[str, Entry]  # word -> entry
_Tellings: TypeAlias = list[tuple[int, tuple[Symbol, ...]]]  # weight, symbols


def _read(text: str) -> tuple[dict[str, _List], dict[str, list[str]], dict[str, _Tellings]]:
    """Read the lists, the names of each category's lists, and the alternatives of each rule."""
    lists: dict[str, _List] = {}
    categories: dict[str, list[str]] = {}
    rules: dict[str, _Tellings] = {}
    name, category = "", ""
    attributes: dict[str, tuple[str, ...]] = {}
    section: _List | _Tellings | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"== (.+) ==", line):
            category, section = heading[1], None
        elif heading := re.fullmatch(r"\[(\w+)\]((?: +\w+=\S+)*)", line):
            name = heading[1]
            pairs = [pair.split("=", 1) for pair in heading[2].split()]
            attributes = {key: tuple(value.split("_")) for key, value in pairs}
            if name not in lists:
                categories.setdefault(category, []).append(name)
            section = lists.setdefault(name, {})
        elif (heading := re.fullmatch(r"<(\w+)>", line)) and heading[1] not in rules:
            section = rules[heading[1]] = []
        elif line[0].isspace() and isinstance(section, dict):
            for word in line.split():
                if word in section:
                    raise ValueError(f"line {number}: '{word}' is in [{name}] already")
                section[word] = Entry(word, name, len(section), attributes)
        elif line[0].isspace() and isinstance(section, list):
            section.append(_alternative(line.split(), number))
        else:
            raise ValueError(f"line {number}: expected a category, a list or a new rule: {line}")
    return lists, categories, rules


def _alternative(tokens: list[str], number: int) -> tuple[int, tuple[Symbol, ...]]:
    weight = 1
    if re.fullmatch(r"[1-9]\d*:", tokens[0]):
        weight, tokens = int(tokens[0][:-1]), tokens[1:]
    symbols: list[Symbol] = []
    for token in tokens if tokens != ["-"] else []:
        symbol = _symbol(token, number)
        if symbols and symbols[-1] == Word("a") and not isinstance(symbol, Word):
            symbols[-1] = Article()
        symbols.append(symbol)
    return weight, tuple(symbols)


def _symbol(token: str, number: int) -> Symbol:
    if match := re.fullmatch(r"\[(?:(\w+)=)?(\w+(?:\.\w+)?)\]", token):
        return Draw(match[2], match[1] or "")
    if match := re.fullmatch(r"\{(\w+)(?:\.(\w+))?\}", token):
        return Recall(match[1], match[2] or "")
    if match := re.fullmatch(r"<(\w+)>", token):
        return Choice(match[1])
    if set(token) & set("[]{}<>="):
        raise ValueError(f"line {number}: {token} is no word, [list], {{variable}} or <rule>")
    return Word(token)


def _shares(told: _Tellings) -> tuple[Alternative, ...]:
    total = sum(weight for weight, _ in told)
    return tuple((weight / total, symbols) for weight, symbols in told)


class _Walk:
    """A walk that finds what each symbol can tell; a name that leads nowhere is refused."""

    def __init__(
        self,
        lists: Mapping[str, tuple[Entry, ...]],
        alternatives: Mapping[str, tuple[Alternative, ...]],
    ):
        self.lists = lists
        self.alternatives = alternatives
        self.remembered: dict[str, dict[Entry, None]] = {}  # what a variable may hold
        self.lengths: dict[str, int] = {}  # the longest telling of each rule
        self.words: set[str] = set()

    def story(self) -> int:
        """Walk until no variable can hold more; return the longest story's length."""
        held = -1
        while held < (held := sum(map(len, self.remembered.values()))):
            self.lengths.clear()
            longest = self._longest(Choice(next(iter(self.alternatives))), inside=())
        return longest

    def _longest(self, symbol: Symbol, inside: tuple[str, ...]) -> int:
        match symbol:
            case Word(text):
                self.words.add(text)
                return 1
            case Draw(_, variable):
                entries = self._drawn(symbol)
                self.words.update(entry.word for entry in entries)
                if variable:
                    self.remembered.setdefault(variable, {}).update(dict.fromkeys(entries))
                return 1
            case Recall(variable, attribute):
                told = self._recalled(variable, attribute)
                self.words.update(*told)
                return max(map(len, told))
            case Article():
                self.words.update(("a", "an"))
                return 1
            case Choice(rule):
                if rule not in self.alternatives:
                    raise ValueError(f"<{rule}>: there is no such rule")
                if rule in inside:
                    raise ValueError(f"<{rule}> contains itself")
                if rule not in self.lengths:
                    self.lengths[rule] = max(
                        sum(self._longest(part, (*inside, rule)) for part in symbols)
                        for _, symbols in self.alternatives[rule]
                    )
                return self.lengths[rule]

    def _drawn(self, draw: Draw) -> list[Entry]:
        variable, dot, attribute = draw.source.partition(".")
        told = self._recalled(variable, attribute) if dot else [(draw.source,)]
        names = dict.fromkeys(words[0] for words in told)
        for name in names:
            if name not in self.lists:
                raise ValueError(f"[{draw.source}]: there is no list '{name}'")
        return [entry for name in names for entry in self.lists[name]]

    def _recalled(self, variable: str, attribute: str) -> list[tuple[str, ...]]:
        if variable not in self.remembered:
            raise ValueError(f"{{{variable}}} is told before it is remembered")
        for entry in self.remembered[variable]:
            if attribute and attribute not in entry.attributes:
                raise ValueError(f"{{{variable}.{attribute}}}: '{entry.word}' has no '{attribute}'")
        return [entry.told(attribute) for entry in self.remembered[variable]]


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """The words of a list, with their types and probabilities."""

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


def entropy(probabilities: Float[np.ndarray, " W"]) -> float:
    """Return the entropy of a distribution in nats; 0 log 0 is 0."""
    positive = probabilities[probabilities > 0]
    return max(0.0, -float(positive @ np.log(positive)))


def cumulative(probabilities: Sequence[float]) -> list[float]:
    """Return running sums, of which the last is exactly 1."""
    return [*itertools.accumulate(probabilities[:-1]), 1.0]


def zipf(rules: Rules, rng: np.random.Generator) -> dict[str, list[float]]:
    """Return the probability of each word of each list, its rank drawn at random.

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
