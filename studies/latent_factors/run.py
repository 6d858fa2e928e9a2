"""Do concepts find the latent factors? The numbers and the figure of docs/results/concepts.md.

    python -m studies.latent_factors.run tokens/stories docs/results/concepts

takes the shards of `tightframe corpus build stories` and writes three CSV files and a figure; a few
minutes on one core.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_mutual_info_score

import tightframe as tf
from studies.latent_factors.factors import FactorStudy, factor_combinations, one_hot_factors
from studies.latent_factors.tracking import GramTracker
from tightframe.corpus.stories import Grammar
from tightframe.ntp import count, proxy
from tightframe.ntp.concepts import (
    Concepts,
    cluster_labels,
    concepts,
    orthant_clusters,
    spectral_clusters,
)

FOUR = ("characters", "objects", "places", "feelings")
NUMBERS = (1, 2, 3, 4, 8, 16, 32)  # of concepts
LENGTHS = (1, 2, 5)
PERMUTATIONS = 50
Numbers: TypeAlias = np.ndarray[Any, Any]
SEEDS = (0, 1, 2)


def main(tokens: str, out: str) -> None:
    """Both experiments."""
    torch.set_num_threads(1)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    factors = pd.DataFrame(factor_rows(tf.TokenShards.open(tokens)))
    factors.to_csv(folder / "factors.csv", index=False, float_format="%.4f")
    print(factors.to_string())
    courses, structure = structure_rows()
    pd.DataFrame(structure).to_csv(folder / "structure.csv", index=False, float_format="%.4f")
    print(pd.DataFrame(structure).to_string())
    pd.DataFrame(courses).to_csv(folder / "courses.csv", index=False, float_format="%.4f")
    draw(factors, pd.DataFrame(courses), folder / "concepts.png")


def factor_rows(shards: tf.TokenShards) -> Iterator[dict[str, Any]]:
    """Clusters of words by concepts, against the categories of the grammar."""
    grammar = Grammar()
    seen = Counter(word for words in grammar.categories.values() for word in words)
    category = {word: name for name in FOUR for word in grammar.categories[name] if seen[word] == 1}
    for length in LENGTHS:
        table = count(shards, length)
        used = np.asarray(table.counts.sum(axis=0)).ravel() > 0
        rows = np.array([i for i, w in enumerate(table.words) if w in category and used[i]])
        truth = np.array([FOUR.index(category[table.words[i]]) for i in rows])
        with warnings.catch_warnings():  # that some tokens follow no context
            warnings.simplefilter("ignore")
            found = concepts(proxy(table.soft_labels.support, max(NUMBERS)), max(NUMBERS))
        for method, n, labels in clusterings(found, rows):
            yield {"length": length, "method": method, "concepts": n} | scores(truth, labels)


def clusterings(found: Concepts, rows: Numbers) -> Iterator[tuple[str, int, Numbers]]:
    """Of the words alone: sides and orthants of the first concepts, and k-means."""
    words = found.tokens[rows]
    for number in range(max(NUMBERS)):
        yield f"axis {number + 1}", 1, cluster_labels(orthant_clusters(words, [number]), len(rows))
    for n in NUMBERS:
        embedded = found.classifier[rows][:, :n]
        if n <= 4:
            yield "orthants", n, cluster_labels(orthant_clusters(words[:, :n]), len(rows))
        yield "k-means", n, spectral_clusters(embedded, len(FOUR))
        norms = np.linalg.norm(embedded, axis=1, keepdims=True)
        yield "k-means of directions", n, spectral_clusters(embedded / norms, len(FOUR))


def scores(truth: Numbers, labels: Numbers) -> dict[str, float]:
    """Adjusted mutual information and purity, and those of the same clusters dealt at random."""
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(labels) for _ in range(PERMUTATIONS)]
    dealt = [adjusted_mutual_info_score(truth, other) for other in shuffled]
    return {
        "words": len(truth),
        "clusters": len(set(labels)),
        "ami": adjusted_mutual_info_score(truth, labels),
        "ami_permuted_max": max(dealt),
        "purity": purity(truth, labels),
        "purity_permuted": np.mean([purity(truth, other) for other in shuffled]),
    }


def purity(truth: Numbers, labels: Numbers) -> float:
    """The share of words that are in their cluster's commonest category."""
    commonest = [int(np.bincount(truth[labels == one]).max()) for one in set(labels)]
    return sum(commonest) / len(truth)


def structure_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Structure before collapse: independent factors, distinct labels."""
    courses, rows = [], []
    for decay in (5e-3, 0.0):
        for seed in SEEDS:
            study = FactorStudy(embedding_decay=decay, seed=seed)
            factors = one_hot_factors(factor_combinations(study.sizes))
            tracker = GramTracker(factors, classes=study.classes)
            loss = study.run(tracker)
            if seed == 0:
                courses += [vars(record) | {"decay": decay} for record in tracker.records]
            for side in ("classifier", "embeddings"):
                found = tracker.structure(side, "cosine").to_dict()
                similar = tracker.structure(side, "similarity")
                found |= {"peak_similarity": similar.peak, "last_similarity": similar.last}
                rows.append({"decay": decay, "seed": seed, "loss": loss} | found)
    return courses, rows


def draw(factors: pd.DataFrame, courses: pd.DataFrame, path: Path) -> None:
    """Left: what is found of the categories; right: how structure comes and goes."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    styles = {"k-means": "-", "k-means of directions": "--", "orthants": ":"}
    for color, length in enumerate(LENGTHS):
        for method, style in styles.items():
            some = factors[(factors["length"] == length) & (factors["method"] == method)]
            label = f"{method}, {length} token{'s' if length > 1 else ''}"
            axes[0].plot(
                some["concepts"], some["ami"], style, color=f"C{color}", marker=".", label=label
            )
    axes[0].set(xscale="log", xlabel="concepts", ylabel="adjusted mutual information")
    axes[0].set_xticks(NUMBERS, NUMBERS)
    axes[0].minorticks_off()
    axes[0].axhline(0, color="gray", lw=0.8)
    axes[0].set_title("Four categories of words against clusters")
    axes[0].legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    for axis, decay in zip(axes[1:], (5e-3, 0.0), strict=True):
        for color, side in enumerate(("classifier", "embeddings")):
            some = courses[(courses["side"] == side) & (courses["decay"] == decay)]
            for target, style in (("factors", "-"), ("simplex", "--")):
                axis.plot(
                    some["step"] + 1,
                    some[f"{target}_cosine"],
                    style,
                    color=f"C{color}",
                    label=f"{side} to the {target}",
                )
        ridge = f"ridge {decay:g} on embeddings" if decay else "no ridge on embeddings"
        axis.set(xscale="log", xlabel="step + 1", ylabel="cosine of Gram matrices", ylim=(0, 1.03))
        axis.set_title(f"27 classes of three factors,\n{ridge}", fontsize=10)
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
