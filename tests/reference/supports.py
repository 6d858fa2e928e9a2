"""Support matrices whose geometry is known, built by their definitions."""

from itertools import combinations

import numpy as np


def one_hot(counts):
    """Token z alone after counts[z] contexts."""
    return np.repeat(np.eye(len(counts), dtype=bool), counts, axis=1)


def subsets(tokens, sizes):
    """All subsets with these sizes, a column each."""
    chosen = [subset for size in sizes for subset in combinations(range(tokens), size)]
    support = np.zeros((tokens, len(chosen)), dtype=bool)
    for column, subset in enumerate(chosen):
        support[list(subset), column] = True
    return support


def fano():
    """The seven lines of the Fano plane: a 2-design with v = 7, r = 3, lam = 1."""
    support = np.zeros((7, 7), dtype=bool)
    for line in range(7):
        support[[line, (line + 1) % 7, (line + 3) % 7], line] = True
    return support


def blocks(tokens, contexts):
    """Disjoint blocks of tokens[b] x contexts[b] ones."""
    of_token, of_context = (np.repeat(np.arange(len(n)), n) for n in (tokens, contexts))
    return of_token[:, None] == of_context


def cyclic_pairs(tokens):
    """Column j holds tokens j and j + 1, cyclically."""
    columns = np.arange(tokens)
    support = np.zeros((tokens, tokens), dtype=bool)
    support[columns, columns] = support[(columns + 1) % tokens, columns] = True
    return support


def random_support(tokens, contexts, sizes, seed):
    """Columns of sizes[0] to sizes[1] tokens each."""
    rng = np.random.default_rng(seed)
    support = np.zeros((tokens, contexts), dtype=bool)
    for column in range(contexts):
        size = rng.integers(sizes[0], sizes[1] + 1)
        support[rng.choice(tokens, size, replace=False), column] = True
    return support
