"""The terms of `lm.regularizers` in plain loops, from their definitions."""

import math

import torch


@torch.no_grad()
def naive_terms(embeddings, classifier, targets, averages, decay):
    """The four terms of one batch by name, with every row of the classifier sampled."""
    batch = {}
    for embedding, target in zip(embeddings, targets.tolist(), strict=True):
        if target >= 0:
            batch.setdefault(target, []).append(embedding)
    means = {}
    for label, members in batch.items():
        mean = sum(members) / len(members)
        if averages.seen[label]:
            mean = decay * averages.means[label] + (1 - decay) * mean
        means[label] = mean
    within = sum(
        float((member - means[label]).square().sum())
        for label, members in batch.items()
        for member in members
    )
    between = [float((a - b).square().sum()) for a, b in pairs([*means.values()])]
    cosines = [
        float(torch.cosine_similarity(classifier[label], mean, dim=0))
        for label, mean in means.items()
    ]
    return {
        "dispersion": naive_kernel(list(classifier)),
        "class_dispersion": naive_kernel([*means.values()]),
        "cdnv": within / (sum(between) / len(between)),
        "duality": 1 - sum(cosines) / len(cosines),
    }


def naive_kernel(rows):
    kernels = [-math.log(float((a / a.norm() - b / b.norm()).norm())) for a, b in pairs(rows)]
    return sum(kernels) / len(kernels)


def pairs(rows):
    return [(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
