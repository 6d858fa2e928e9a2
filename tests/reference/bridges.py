"""Class moments of weighted contexts, pair cosines and ranks by their definitions, in loops."""

import itertools

import numpy as np


def naive_class_moments(counts, embeddings):
    """Every occurrence is a sample: repeat the context's embedding, then mean and spread."""
    n_contexts, n_tokens = counts.shape
    means = np.zeros((n_tokens, embeddings.shape[1]))
    sizes, within_ss = np.zeros(n_tokens, dtype=int), np.zeros(n_tokens)
    for token in range(n_tokens):
        samples = [
            embeddings[context]
            for context in range(n_contexts)
            for _ in range(int(counts[context, token]))
        ]
        sizes[token] = len(samples)
        if samples:
            means[token] = np.mean(samples, axis=0)
            within_ss[token] = sum(((x - means[token]) ** 2).sum() for x in samples)
    return sizes, means, within_ss


def naive_cosine_correlation(a, b):
    """Pearson's r of the cosines of all pairs of rows."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    cosines = [
        [x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for i, j in pairs]
        for x in (a, b)
    ]
    return np.corrcoef(cosines)[0, 1]


def naive_cross_entropy(counts, logits):
    """Nats per pair, occurrence by occurrence; logits (tokens, contexts)."""
    losses = []
    for context, token in zip(*np.nonzero(counts), strict=True):
        column = logits[:, context]
        loss = np.log(np.exp(column - column.max()).sum()) + column.max() - column[token]
        losses += [loss] * int(counts[context, token])
    return np.mean(losses)


def naive_p(x, y):
    """Share of all permutations of y whose Spearman's r with x is as large in size; no ties."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x, y)]
    seen = abs(np.corrcoef(ranks)[0, 1])
    found = [
        abs(np.corrcoef(ranks[0], dealt)[0, 1]) >= seen - 1e-12
        for dealt in itertools.permutations(ranks[1])
    ]
    return np.mean(found)
