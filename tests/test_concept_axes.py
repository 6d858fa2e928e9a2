import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from tightframe.ntp.concepts import (
    cluster_labels,
    concepts,
    orthant_clusters,
    sides,
    spectral_clusters,
)
from tightframe.ntp.soft_labels import centred_support

# Two blocks: tokens 0-2 follow contexts 0-1, tokens 3-4 follow contexts 2-4.
BLOCKS = np.zeros((5, 5), dtype=bool)
BLOCKS[:3, :2] = True
BLOCKS[3:, 2:] = True


def rotation(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def test_disjoint_blocks_are_one_concept():
    # A column of the first block is 1 - 3/5 on its tokens and -3/5 elsewhere, one of the second
    # -2/5 and 3/5: all are multiples of (2, 2, 2, -3, -3), of norm sqrt(30), by 1/5 and -1/5; so
    # s = sqrt(30) / 5 * sqrt(5), and the largest token entry, -3, is made positive.
    found = concepts(centred_support(BLOCKS))
    assert found.singular_values == pytest.approx([np.sqrt(6)], abs=1e-14)
    assert found.tokens[:, 0] * np.sqrt(30) == pytest.approx([-2, -2, -2, 3, 3], abs=1e-13)
    assert found.contexts[:, 0] * np.sqrt(5) == pytest.approx([-1, -1, 1, 1, 1], abs=1e-13)
    positive, negative = sides(found.tokens[:, 0])
    assert positive.tolist() == [3, 4]
    assert negative.tolist() == [0, 1, 2]


def test_concepts_rebuild_the_centred_logits():
    logits = np.random.default_rng(0).normal(size=(6, 9))
    found = concepts(logits, 9)
    assert found.n == 5  # centring takes one of six dimensions
    assert found.classifier @ found.embeddings.T == pytest.approx(
        logits - logits.mean(axis=0), abs=1e-13
    )
    assert (np.diff(found.singular_values) < 0).all()


def test_logits_and_their_factors_have_the_same_concepts():
    # A constant on every context, and any rotation of the factors, change no prediction.
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(7, 4)), rng.normal(size=(5, 4))
    dense = concepts(left @ right.T + rng.normal(size=5), 3)
    turned = SimpleNamespace(
        classifier=left @ rotation(4) + rng.normal(size=4), embeddings=right @ rotation(4)
    )
    factored = concepts(turned, 3)
    for name in ("tokens", "singular_values", "contexts"):
        assert getattr(factored, name) == pytest.approx(getattr(dense, name), abs=1e-12)


def test_signs_do_not_depend_on_the_order_of_contexts():
    logits = np.random.default_rng(2).normal(size=(6, 8))
    order = np.random.default_rng(3).permutation(8)
    straight, shuffled = concepts(logits, 4), concepts(logits[:, order], 4)
    assert shuffled.tokens == pytest.approx(straight.tokens, abs=1e-12)
    assert shuffled.contexts == pytest.approx(straight.contexts[order], abs=1e-12)
    largest = np.abs(straight.tokens).argmax(axis=0)
    assert (straight.tokens[largest, range(4)] > 0).all()


def test_orthants_are_those_of_plain_loops():
    vectors = np.random.default_rng(4).normal(size=(40, 3))
    vectors[[3, 5], 1] = [0.0, 5e-11]  # no side
    clusters = orthant_clusters(vectors)
    assert sum(len(cluster.members) for cluster in clusters) == 38
    found = {cluster.signs: cluster for cluster in clusters}
    for signs in itertools.product((-1, 1), repeat=3):
        members = [z for z in range(40) if all(vectors[z] * signs > 1e-10)]
        members.sort(key=lambda z: -np.abs(vectors[z]).sum())
        assert found[signs].members.tolist() == members
        assert found[signs].typicality == pytest.approx(np.abs(vectors[members]).sum(axis=1))


def test_a_further_concept_splits_every_orthant():
    vectors = np.random.default_rng(5).normal(size=(30, 4))
    coarse = cluster_labels(orthant_clusters(vectors, [2, 0]), 30)
    fine = orthant_clusters(vectors, [2, 0, 3])
    assert all(len(set(coarse[cluster.members])) == 1 for cluster in fine)
    assert len(fine) > coarse.max() + 1


def test_rows_without_a_side_are_in_no_cluster():
    vectors = np.array([[0.5], [0.0], [-0.2], [0.7]])
    clusters = orthant_clusters(vectors)
    assert [cluster.members.tolist() for cluster in clusters] == [[3, 0], [2]]
    assert cluster_labels(clusters, 4).tolist() == [0, -1, 1, 0]
    positive, negative = sides(vectors[:, 0])
    assert positive.tolist() == [3, 0]
    assert negative.tolist() == [2]
    assert sides(vectors[:, 0], 1)[0].tolist() == [3]


def test_spectral_clusters_find_blocks_and_are_seeded():
    # Three disjoint blocks of tokens: their predicted embeddings are three points.
    support = np.kron(np.eye(3, dtype=bool), np.ones((4, 2), dtype=bool))[:10]
    found = concepts(centred_support(support))
    labels = spectral_clusters(found.classifier, 3, seed=7)
    assert [len(set(labels[part])) for part in (slice(0, 4), slice(4, 8), slice(8, 10))] == [1] * 3
    assert np.bincount(labels).tolist() == [4, 4, 2]  # the largest first
    assert (labels == spectral_clusters(found.classifier, 3, seed=7)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: concepts(np.ones((3, 2)), 0), "n: expected at least 1 concept, got 0"),
        (lambda: concepts(np.ones((3, 2))), "logits: all tokens have the same"),
        (
            lambda: concepts(np.array([[1.0, np.nan], [0.0, 1.0]])),
            "logits: nan in row 0, column 1",
        ),
        (
            lambda: concepts(SimpleNamespace(classifier=np.eye(3), embeddings=np.ones((4, 2)))),
            "embeddings: width 2 .axis 1., expected the classifier's, 3",
        ),
        (
            lambda: concepts(
                SimpleNamespace(classifier=np.eye(2), embeddings=np.array([[0.0, np.inf]]))
            ),
            "embeddings: inf in row 0, column 1",
        ),
        (lambda: orthant_clusters(np.ones((4, 2)), [0, 2]), r"concepts in \[0, 2\), got 2"),
        (lambda: orthant_clusters(np.ones((4, 2)), []), "got none"),
        (lambda: spectral_clusters(np.ones((4, 2)), 5), "n_clusters: expected 1 to 4 .*got 5"),
    ],
)
def test_what_has_no_concepts_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
