import math
from itertools import combinations

import numpy as np
import pytest

from reference.closed_forms import closed_form
from reference.supports import blocks, fano, one_hot, subsets
from tightframe.ntp.prediction import predict
from tightframe.ntp.soft_labels import centred_support


def numerical(support):
    """Nuclear norm and Grams U Sg U^T, V Sg V^T of the centred support matrix, by numpy alone."""
    left, values, right = np.linalg.svd(centred_support(support), full_matrices=False)
    return values.sum(), (left * values) @ left.T, (right.T * values) @ right


def cosine(gram, a, b):
    return gram[a, b] / math.sqrt(gram[a, a] * gram[b, b])


@pytest.mark.parametrize(("tokens", "contexts"), [(2, 1), (5, 1), (6, 4)])
def test_one_word_per_context_is_neural_collapse(tokens, contexts):
    form = closed_form("one-hot", tokens=tokens, contexts=contexts)
    norm, words, embeddings = numerical(one_hot([contexts] * tokens))
    assert form.nuclear_norm == pytest.approx(norm, rel=1e-12)
    assert form.classifier_norms["all"] == pytest.approx(words[1, 1], rel=1e-12)
    assert form.classifier_cosines["all"] == pytest.approx(cosine(words, 0, 1), abs=1e-12)
    assert form.embedding_norms["all"] == pytest.approx(embeddings[0, 0], rel=1e-12)
    # The first and the last context have different tokens.
    assert form.embedding_cosines["all"] == pytest.approx(cosine(embeddings, 0, -1), abs=1e-12)


@pytest.mark.parametrize(("classes", "ratio"), [(4, 1), (4, 7), (10, 10), (12, 100)])
def test_two_levels_agree_with_a_decomposition(classes, ratio):
    form = closed_form("two levels", classes=classes, ratio=ratio)
    half = classes // 2
    norm, words, embeddings = numerical(one_hot([ratio] * half + [1] * half))
    big, small = (0, ratio), (ratio * half, ratio * half + 1)  # contexts of two tokens a level
    assert form.nuclear_norm == pytest.approx(norm, rel=1e-10)
    assert form.classifier_norms == pytest.approx(
        {"majority": words[0, 0], "minority": words[-1, -1]}, rel=1e-10
    )
    assert form.classifier_cosines == pytest.approx(
        {
            "majority": cosine(words, 0, 1),
            "minority": cosine(words, -1, -2),
            "majority, minority": cosine(words, 0, -1),
        },
        abs=1e-10,
    )
    assert form.embedding_norms == pytest.approx(
        {"majority": embeddings[0, 0], "minority": embeddings[-1, -1]}, rel=1e-10
    )
    assert form.embedding_cosines == pytest.approx(
        {
            "majority": cosine(embeddings, *big),
            "minority": cosine(embeddings, *small),
            "majority, minority": cosine(embeddings, 0, -1),
        },
        abs=1e-10,
    )


def test_the_published_example_of_two_levels():
    form = closed_form("two levels", classes=10, ratio=10)
    assert form.nuclear_norm == pytest.approx(18.994319, abs=5e-7)
    assert form.classifier_cosines == pytest.approx(
        {"majority": -0.143953, "minority": 0.033369, "majority, minority": -0.138681}, abs=5e-7
    )


def test_pairs_of_five_tokens():
    # Overlap - 4/5 over 2 - 4/5: 1/6 for one common token, -2/3 for none.
    form = closed_form("subsets", tokens=5, sizes=[2])
    assert form.nuclear_norm == pytest.approx(4 * math.sqrt(3), rel=1e-15)
    assert form.classifier_cosines["all"] == -1 / 4
    assert form.embedding_cosines == pytest.approx(
        {"2, 2 sharing 0": -2 / 3, "2, 2 sharing 1": 1 / 6}, abs=1e-15
    )


@pytest.mark.parametrize(
    ("support", "form"),
    [
        (subsets(5, [2]), closed_form("subsets", tokens=5, sizes=[2])),
        (subsets(6, [5]), closed_form("subsets", tokens=6, sizes=[5])),
        (subsets(5, [1, 3, 4]), closed_form("subsets", tokens=5, sizes=[1, 3, 4])),
        (fano(), closed_form("design", points=7, replication=3, concurrence=1)),
    ],
)
def test_complete_families_and_designs_are_tight_frames(support, form):
    norm, words, embeddings = numerical(support)
    assert form.nuclear_norm == pytest.approx(norm, rel=1e-12)
    directions = predict(centred_support(support)).classifier_cosines
    off = ~np.eye(len(support), dtype=bool)
    assert directions[off] == pytest.approx(form.classifier_cosines["all"], abs=1e-10)
    assert np.diag(words) == pytest.approx(form.classifier_norms["all"], rel=1e-10)
    sizes = support.sum(axis=0)
    for context, size in enumerate(sizes):
        assert embeddings[context, context] == pytest.approx(form.embedding_norms[str(size)])
    seen = set()
    for a, b in combinations(range(support.shape[1]), 2):
        small, large = sorted((sizes[a], sizes[b]))
        key = f"{small}, {large} sharing {(support[:, a] & support[:, b]).sum()}"
        assert cosine(embeddings, a, b) == pytest.approx(form.embedding_cosines[key], abs=1e-10)
        seen.add(key)
    if len(support) < 7:  # a design needn't have every overlap
        assert seen == set(form.embedding_cosines)


@pytest.mark.parametrize(
    ("tokens", "contexts"), [([2, 2, 2], [3, 3, 3]), ([1, 4, 2], [5, 1, 3]), ([1, 2], [1, 1])]
)
def test_disjoint_blocks_are_as_many_directions(tokens, contexts):
    form = closed_form("blocks", tokens=tokens, contexts=contexts)
    norm, words, embeddings = numerical(blocks(tokens, contexts))
    token, context = np.cumsum([0, *tokens[:-1]]), np.cumsum([0, *contexts[:-1]])  # first of each
    assert form.nuclear_norm == pytest.approx(norm, rel=1e-12)
    for b in range(len(tokens)):
        t, c = token[b], context[b]
        assert form.classifier_norms[str(b)] == pytest.approx(words[t, t], rel=1e-10)
        assert form.embedding_norms[str(b)] == pytest.approx(embeddings[c, c], rel=1e-10)
    for a, b in combinations(range(len(tokens)), 2):
        of_words = cosine(words, token[a], token[b])
        of_embeddings = cosine(embeddings, context[a], context[b])
        assert form.classifier_cosines[f"{a}, {b}"] == pytest.approx(of_words, abs=1e-10)
        assert form.embedding_cosines[f"{a}, {b}"] == pytest.approx(of_embeddings, abs=1e-10)


def test_equal_blocks_have_a_short_formula():
    # (B - 1) sqrt(t c), and blocks are a simplex ETF.
    form = closed_form("blocks", tokens=[3] * 4, contexts=[5] * 4)
    assert form.nuclear_norm == pytest.approx(3 * math.sqrt(15), rel=1e-14)
    assert form.classifier_cosines["0, 1"] == pytest.approx(-1 / 3, abs=1e-14)


@pytest.mark.parametrize(
    ("case", "parameters", "message"),
    [
        ("cyclic", {}, "case: 'cyclic', expected one of one-hot, two levels, subsets"),
        ("one-hot", {"tokens": 1, "contexts": 2}, "tokens: 1, expected at least 2"),
        ("one-hot", {"tokens": 3, "contexts": 0}, "contexts: 0, expected at least 1"),
        ("two levels", {"classes": 5, "ratio": 2}, "classes: 5, expected an even number"),
        ("two levels", {"classes": 2, "ratio": 2}, "classes: 2, expected at least 4"),
        ("two levels", {"classes": 4, "ratio": 0}, "ratio: 0, expected at least 1"),
        ("subsets", {"tokens": 4, "sizes": [2, 4]}, "sizes: 4, expected 1 to 3 of 4 tokens"),
        ("subsets", {"tokens": 4, "sizes": [2, 2]}, "expected different support sizes"),
        ("subsets", {"tokens": 4, "sizes": []}, "at least one"),
        ("design", {"points": 7, "replication": 3, "concurrence": 3}, "concurrence: 3, expected 0"),
        ("design", {"points": 7, "replication": 4, "concurrence": 1}, "points: there is no 2-des"),
        (
            "design",
            {"points": 21, "replication": 4, "concurrence": 1},
            "replication: 4 is below the block size 6",
        ),
        ("blocks", {"tokens": [3], "contexts": [1]}, "tokens: 1 blocks, expected at least 2"),
        ("blocks", {"tokens": [3, 1], "contexts": [1]}, "contexts: 1 blocks, expected 2"),
        ("blocks", {"tokens": [3, 0], "contexts": [1, 1]}, "tokens: 0 in block 1"),
    ],
)
def test_a_case_that_cannot_be_is_refused_by_name(case, parameters, message):
    with pytest.raises(ValueError, match=message):
        closed_form(case, **parameters)
