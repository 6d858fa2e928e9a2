"""All stories of a small grammar, told one by one, and what their counts say about next tokens."""

import numpy as np

from tightframe.corpus.grammar import Article, Choice, Draw, Rules, Word

END = "<|endoftext|>"


def zipf(rules: Rules, seed: int) -> dict[str, dict[str, float]]:
    """The probability of each word of each list: 1 / (rank + 8), ranks by uniform draws."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = {}
    for name, entries in rules.lists.items():
        ranks = 1 + np.argsort(np.argsort(rng.random(len(entries))))
        weights = 1 / (ranks + 8)
        words = [entry.word for entry in entries]
        found[name] = dict(zip(words, weights / weights.sum(), strict=True))
    return found


def stories(rules: Rules, seed: int) -> list[tuple[float, list[str]]]:
    """Every way of telling a story, with its probability; one text may come more than once."""
    frequencies = zipf(rules, seed)
    found = []

    def tell(probability, story, symbols, memory):
        if not symbols:
            found.append((probability, story))
            return
        symbol, *rest = symbols
        if isinstance(symbol, Word):
            tell(probability, [*story, symbol.text], rest, memory)
        elif isinstance(symbol, Article):
            tell(probability, [*story, "(a)"], rest, memory)
        elif isinstance(symbol, Choice):
            for share, way in rules.alternatives[symbol.rule]:
                tell(probability * share, story, [*way, *rest], memory)
        elif isinstance(symbol, Draw):
            name = symbol.source
            if "." in name:
                variable, attribute = name.split(".")
                name = memory[variable].attributes[attribute][0]
            left = [entry for entry in rules.lists[name] if entry not in memory.values()]
            total = sum(frequencies[name][entry.word] for entry in left)
            for entry in left:
                share = frequencies[name][entry.word] / total
                now = {**memory, symbol.variable: entry} if symbol.variable else memory
                tell(probability * share, [*story, entry.word], rest, now)
        else:
            entry = memory[symbol.variable]
            words = entry.attributes[symbol.attribute] if symbol.attribute else (entry.word,)
            tell(probability, [*story, *words], rest, memory)

    tell(1.0, [], [Choice(next(iter(rules.alternatives)))], {})
    return [(probability, _spelt(story)) for probability, story in found]


def _spelt(story: list[str]) -> list[str]:
    following = [*story[1:], ""]
    articles = ["an" if word[:1] in "aeiou" else "a" for word in following]
    return [own if word == "(a)" else word for word, own in zip(story, articles, strict=True)]


def next_token_distributions(rules: Rules, seed: int) -> dict[tuple[str, ...], dict[str, float]]:
    """Of every context that some story begins with: the share of each token that comes next."""
    masses: dict[tuple[str, ...], dict[str, float]] = {}
    for probability, story in stories(rules, seed):
        tokens = [*story, END]
        for position, token in enumerate(tokens):
            following = masses.setdefault(tuple(tokens[:position]), {})
            following[token] = following.get(token, 0.0) + probability
    return {
        context: {token: mass / sum(following.values()) for token, mass in following.items()}
        for context, following in masses.items()
    }
