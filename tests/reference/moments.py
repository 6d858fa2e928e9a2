"""Moments and decisions by their definitions: all embeddings at once, two passes, plain loops."""

import numpy as np


def naive_moments(embeddings, labels, n_classes):
    """Counts, means, within_ss, pooled and class-balanced scatter, in extended precision."""
    x = np.asarray(embeddings, dtype=np.longdouble)
    labels = np.asarray(labels)
    dim = x.shape[1]
    counts = np.zeros(n_classes, dtype=np.int64)
    means = np.zeros((n_classes, dim))
    within_ss = np.zeros(n_classes)
    scatter, balanced = np.zeros((dim, dim)), np.zeros((dim, dim))
    for c in range(n_classes):
        own = x[labels == c]
        counts[c] = len(own)
        if len(own) == 0:
            continue
        mean = own.mean(0)
        outer = (own - mean).T @ (own - mean)
        means[c] = mean
        within_ss[c] = np.trace(outer)
        scatter += outer.astype(np.float64)
        balanced += (outer / len(own)).astype(np.float64)
    return counts, means, within_ss, scatter, balanced


def naive_choices(embeddings, labels, classifier, bias, means, seen):
    """Of each position: choice among all classes, among seen ones, nearest mean, loss in nats."""
    n_classes = len(means)
    classifier = np.asarray(classifier, dtype=np.float64)
    out = []
    for h, label in zip(np.asarray(embeddings, dtype=np.float64), labels, strict=True):
        logits = np.array([(w * h).sum() for w in classifier])
        if bias is not None:
            logits += np.asarray(bias, dtype=np.float64)
        distances = np.array([((h - mean) ** 2).sum() for mean in means])
        all_real, among_seen = logits[:n_classes], np.where(seen, logits[:n_classes], -np.inf)
        nearest = np.where(seen, distances, np.inf).argmin()
        top = logits.max()
        loss = np.log(np.exp(logits - top).sum()) + top - logits[label]
        out.append((all_real.argmax(), among_seen.argmax(), nearest, loss))
    return tuple(np.array(column) for column in zip(*out, strict=True))


def naive_extras(embeddings, classifier, bias, means, seen):
    """Of each position: mean at the smallest angle, from the global one; and the library's choices.

    The library chooses among all rows of the classifier, and among as many means, 0 if missing.
    """
    classifier = np.asarray(classifier, dtype=np.float64)
    seen = np.flatnonzero(seen)
    centre = np.mean([means[c] for c in seen], axis=0)
    padded = np.zeros_like(classifier)
    padded[seen] = means[seen]
    out = []
    for h in np.asarray(embeddings, dtype=np.float64):
        angles = {}
        for c in seen:
            m = means[c] - centre
            if (norm := np.sqrt((m * m).sum())) > 0:
                angles[c] = (m * (h - centre)).sum() / norm
        logits = np.array([(w * h).sum() for w in classifier])
        if bias is not None:
            logits += np.asarray(bias, dtype=np.float64)
        distances = np.array([((h - mean) ** 2).sum() for mean in padded])
        out.append((max(angles, key=angles.get, default=-1), logits.argmax(), distances.argmin()))
    return tuple(np.array(column) for column in zip(*out, strict=True))


def naive_ranks(embeddings, classifier, bias, nearest, seen):
    """How many seen classes have a larger logit than the nearest mean's; equal ones by their id."""
    ranks = []
    for h, z in zip(np.asarray(embeddings, dtype=np.float64), nearest, strict=True):
        logits = [(w * h).sum() for w in np.asarray(classifier, dtype=np.float64)]
        if bias is not None:
            logits += np.asarray(bias, dtype=np.float64)
        before = [logits[c] > logits[z] or (logits[c] == logits[z] and c < z) for c in seen]
        ranks.append(sum(before))
    return np.array(ranks)
