import numpy as np
import pytest
import scipy.sparse as sp

from tightframe.ntp.proxies import (
    count_floor,
    explain,
    positive_pmi,
    predicted_gram,
    probability_threshold,
    smoothed_log_probability,
)
from tightframe.ntp.soft_labels import centred_support

COUNTS = np.array([[3, 0, 1], [1, 0, 1], [0, 2, 2], [0, 0, 0]])


def centred(matrix):
    return matrix - matrix.mean(axis=0)


def test_a_floor_of_one_is_the_proxy():
    assert (count_floor(COUNTS, 1) == centred_support(COUNTS > 0)).all()
    assert count_floor(COUNTS, 2)[:, 0] == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert not count_floor(COUNTS, 3)[:, 1].any()  # nothing is left of this context


def test_a_threshold_is_on_shares():
    # Shares 3/4 and 1/4, 1, then 1/4, 1/4 and 1/2; a share as large as the threshold is kept.
    kept = probability_threshold(COUNTS, 0.25)
    assert (kept == centred_support(COUNTS > 0)).all()
    assert probability_threshold(COUNTS, 0.5)[:, 2] == pytest.approx([-0.25, -0.25, 0.75, -0.25])


def test_log_probabilities_and_pmi_are_those_of_plain_loops():
    alpha, totals = 0.5, COUNTS.sum(axis=0)
    logs = np.empty(COUNTS.shape)
    pmi = np.zeros(COUNTS.shape)
    for token, context in np.ndindex(COUNTS.shape):
        logs[token, context] = np.log((COUNTS[token, context] + alpha) / (totals[context] + 2))
        if COUNTS[token, context]:
            joint = COUNTS[token, context] / COUNTS.sum()
            alone = COUNTS[token].sum() * totals[context] / COUNTS.sum() ** 2
            pmi[token, context] = max(0, np.log(joint / alone))
    assert smoothed_log_probability(COUNTS, alpha) == pytest.approx(centred(logs), abs=1e-14)
    assert positive_pmi(COUNTS) == pytest.approx(centred(pmi), abs=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda counts: count_floor(counts, 2),
        lambda counts: probability_threshold(counts, 0.3),
        smoothed_log_probability,
        positive_pmi,
    ],
)
def test_all_are_centred_and_take_sparse_counts(make):
    found = make(COUNTS)
    assert np.abs(found.sum(axis=0)).max() < 1e-14
    assert (make(sp.csc_array(COUNTS)) == found).all()


def test_the_predicted_gram_is_the_root_of_the_product():
    # (U s U')^2 = L L'.
    logits = centred(np.random.default_rng(0).normal(size=(5, 7)))
    words, contexts = (predicted_gram(logits, side) for side in ("classifier", "embeddings"))
    for gram, square in ((words, logits @ logits.T), (contexts, logits.T @ logits)):
        assert np.trace(gram) == pytest.approx(len(gram))
        scale = np.trace(gram @ gram) / np.trace(square)
        assert gram @ gram == pytest.approx(scale * square, abs=1e-12)


@pytest.mark.parametrize("side", ["classifier", "embeddings"])
def test_the_alternative_that_made_the_gram_explains_it_best(side):
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(0.3, 3, size=(20, 30))) + np.eye(20, 30, dtype=int)
    counts[0, 20:] += 1
    alternatives = {
        "support": count_floor(counts, 1),
        "floor 3": count_floor(counts, 3),
        "logs": smoothed_log_probability(counts),
        "pmi": positive_pmi(counts),
    }
    gram = 5 * predicted_gram(alternatives["logs"], side)
    best, *others = explain(gram, alternatives, side=side, permutations=99)
    assert best.name == "logs"
    assert (best.cosine, best.similarity) == pytest.approx((1, 1), abs=1e-12)
    assert best.p_value == pytest.approx(0.01)  # no order is as good: 1 of 100
    assert best.permuted_cosine < 0.95
    # The baseline by plain loops, from the same orders.
    rng, scaled = np.random.default_rng(0), gram * len(gram) / np.trace(gram)
    similar = []
    for _ in range(99):
        order = rng.permutation(len(gram))
        x, y = scaled.ravel(), scaled[order][:, order].ravel()
        similar.append((np.cov(x, y, ddof=0)[0, 1] + 1e-5) / (x.std() * y.std() + 1e-5))
    assert best.permuted_similarity == pytest.approx(np.mean(similar), abs=1e-12)
    assert all(other.cosine < 0.999 for other in others)
    again = explain(gram, alternatives, side=side, permutations=99)
    assert again[0] == best


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_floor(COUNTS, 0), "floor: expected at least 1, got 0"),
        (lambda: probability_threshold(COUNTS, 1.5), r"threshold: expected in \(0, 1\], got 1.5"),
        (lambda: smoothed_log_probability(COUNTS, 0.0), "alpha: expected above 0, got 0.0"),
        (lambda: positive_pmi(-COUNTS), "counts: -3.0 for token 0, context 0"),
        (lambda: positive_pmi(COUNTS * [1, 0, 1]), "counts: no token follows context 1"),
        (
            lambda: explain(np.eye(3), {"s": count_floor(COUNTS, 1)}, side="classifier"),
            r"gram: \(3, 3\), expected \(4, 4\), the classifier of 's'",
        ),
        (
            lambda: explain(np.eye(4), {}, side="classifier", permutations=0),
            "permutations: expected at least 1, got 0",
        ),
        (
            lambda: explain(np.full((4, 4), np.nan), {}, side="classifier"),
            "gram: expected finite",
        ),
    ],
)
def test_what_is_no_alternative_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
