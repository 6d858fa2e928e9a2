"""A model against its table in plain loops: slow, and as the definitions read."""

import itertools

import numpy as np


def parts(logits, probabilities):
    """P_F(L), P_perp(L) and L_in of logits that are centred over tokens."""
    within, rest, finite = (np.zeros_like(logits) for _ in range(3))
    for j in range(logits.shape[1]):
        support = np.flatnonzero(probabilities[:, j])
        mean = sum(logits[z, j] for z in support) / len(support)
        log_mean = sum(np.log(probabilities[z, j]) for z in support) / len(support)
        for z in range(len(logits)):
            rest[z, j] = mean if z in support else logits[z, j]
            if z in support:
                within[z, j] = logits[z, j] - mean
                finite[z, j] = np.log(probabilities[z, j]) - log_mean
    return within, rest, finite


def spread(logits, probabilities, j):
    support = np.flatnonzero(probabilities[:, j])
    return max(
        abs(logits[z, j] - logits[y, j] - np.log(probabilities[z, j] / probabilities[y, j]))
        for z, y in itertools.product(support, support)
    )


def margin(logits, probabilities, j):
    inside = probabilities[:, j] > 0
    return min(
        logits[z, j] - logits[v, j] for z in np.flatnonzero(inside) for v in np.flatnonzero(~inside)
    )


def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def distance(a, b):
    return float(np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)))


def structural_similarity(a, b):
    covariance = np.cov(a.ravel(), b.ravel(), ddof=0)[0, 1]
    return (covariance + 1e-5) / (a.std() * b.std() + 1e-5)


def cosines(rows):
    return np.array([[cosine(x, y) for y in rows] for x in rows])


def groups(probabilities):
    """Contexts by support, those of at least two."""
    found = {}
    for j in range(probabilities.shape[1]):
        found.setdefault(tuple(np.flatnonzero(probabilities[:, j])), []).append(j)
    return [members for members in found.values() if len(members) > 1]


def collapse(rows, members):
    """Mean and least cosine within groups, mean between, and NC1."""
    within, between = [], []
    for a, b in itertools.combinations(range(len(members)), 2):
        between += [cosine(rows[i], rows[j]) for i in members[a] for j in members[b]]
    for group in members:
        within += [cosine(rows[i], rows[j]) for i, j in itertools.combinations(group, 2)]
    everyone = [j for group in members for j in group]
    mean = rows[everyone].mean(0)
    spread = sum(
        float(((rows[j] - rows[group].mean(0)) ** 2).sum()) for group in members for j in group
    )
    total = sum(float(((rows[j] - mean) ** 2).sum()) for j in everyone)
    return np.mean(within), min(within), np.mean(between), spread / total
