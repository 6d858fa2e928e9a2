import dataclasses

import numpy as np
import pytest

from reference.supports import one_hot, random_support, subsets
from tightframe.errors import UserError
from tightframe.ntp.prediction import load_prediction, predict
from tightframe.ntp.soft_labels import centred_support
from tightframe.ntp.solution import Solution


class Solved(Solution):
    """A solution of given logits and gap."""

    gap = 1e-5

    def __init__(self, logits, gap=1e-5):
        vars(self).update(logits=logits, gap=gap)

    def factors(self):
        left, values, right = np.linalg.svd(self.logits, full_matrices=False)
        return left, values, right.T


@pytest.fixture(scope="module")
def logits():
    return centred_support(random_support(8, 14, (1, 4), seed=0))


def test_embeddings_are_balanced_and_make_the_logits(logits):
    predicted = predict(logits)
    assert predicted.logits == pytest.approx(logits, abs=1e-12)
    inner = predicted.classifier.T @ predicted.classifier
    assert inner == pytest.approx(predicted.embeddings.T @ predicted.embeddings, abs=1e-12)
    assert np.diag(inner) == pytest.approx(predicted.singular_values)
    assert predicted.rank == np.linalg.matrix_rank(logits) == 7


def test_grams_are_those_of_the_polar_decomposition(logits):
    # U Sg U^T is the root of L L^T, V Sg V^T that of L^T L; both have norm ||Sg||.
    predicted = predict(logits)
    norm = np.linalg.norm(logits)
    words, contexts = predicted.classifier_gram * norm, predicted.embedding_gram * norm
    assert words @ words == pytest.approx(logits @ logits.T, abs=1e-12)
    assert contexts @ contexts == pytest.approx(logits.T @ logits, abs=1e-12)
    assert np.linalg.norm(predicted.classifier_gram) == pytest.approx(1, rel=1e-14)
    assert np.linalg.norm(predicted.embedding_gram) == pytest.approx(1, rel=1e-14)


def test_one_word_per_context_is_a_simplex_etf():
    predicted = predict(centred_support(one_hot([3] * 4)))
    expected = np.full((4, 4), -1 / 3)
    np.fill_diagonal(expected, 1)
    assert predicted.classifier_cosines == pytest.approx(expected, abs=1e-12)
    # Each context is parallel to its token's word.
    assert predicted.embedding_cosines[::3, ::3] == pytest.approx(expected, abs=1e-12)
    aligned = (predicted.embeddings[::3] * predicted.classifier).sum(axis=1)
    lengths = np.linalg.norm(predicted.embeddings[::3], axis=1)
    lengths *= np.linalg.norm(predicted.classifier, axis=1)
    assert aligned / lengths == pytest.approx(1, abs=1e-12)


def test_all_routes_to_a_prediction_agree(logits):
    left, values, right = np.linalg.svd(logits, full_matrices=False)
    plain = predict(logits)
    for source in (Solved(logits), (-left, values, -right.T)):
        predicted = predict(source)
        assert predicted.classifier == pytest.approx(plain.classifier, abs=1e-10)
        assert predicted.embeddings == pytest.approx(plain.embeddings, abs=1e-10)


def test_the_label_says_what_is_known(logits):
    assert predict(logits).label == "proxy"
    assert np.isnan(predict(logits).gap)
    assert predict(logits, kind="exact").gap == 0
    assert predict(logits, kind="certified", gap=1e-3).label == "certified (gap 1.0e-03)"
    assert predict(Solved(logits)).label == "certified (gap 1.0e-05)"
    assert predict(Solved(logits, gap=float("nan"))).label == "proxy"


def test_a_smaller_rank_is_warned_of_and_loses_its_certificate(logits):
    # What is left out is said as a share of the squared norm.
    values = np.linalg.svd(logits, compute_uv=False)
    share = np.square(values[2:]).sum() / np.square(values).sum()
    message = rf"rank 2 is below that of the logits, 7: {share:.2%} of .* needs 7 dimensions"
    with pytest.warns(UserWarning, match=message):
        predicted = predict(Solved(logits), rank=2)
    assert predicted.rank == 2
    assert predicted.kind == "proxy"
    assert np.linalg.norm(logits - predicted.logits, 2) == pytest.approx(values[2])


def test_a_larger_rank_changes_nothing(logits):
    assert predict(logits, rank=100).rank == 7


def test_a_context_that_all_tokens_follow_has_no_direction():
    support = np.hstack([np.eye(3, dtype=bool), np.ones((3, 1), dtype=bool)])
    cosines = predict(centred_support(support)).embedding_cosines
    assert np.isnan(cosines[3]).all()
    assert cosines[0, 1] == pytest.approx(-0.5)


def test_a_gram_that_is_too_large_is_refused_before_it_is_made(logits):
    predicted = dataclasses.replace(predict(logits), embeddings=np.zeros((100_000, 7)))
    with pytest.raises(ValueError, match=r"embedding_gram: 100,000 contexts .* 80.0 GB; compare"):
        _ = predicted.embedding_gram


def test_what_is_no_prediction_is_refused(logits):
    broken = logits.copy()
    broken[2, 5] = np.nan
    with pytest.raises(ValueError, match="logits: nan for token 2, context 5"):
        predict(broken)
    with pytest.raises(ValueError, match="logits: all are 0"):
        predict(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="rank: 0, expected at least 1"):
        predict(logits, rank=0)
    with pytest.raises(ValueError, match="gap: None, expected that of the certificate"):
        predict(logits, kind="certified")
    with pytest.raises(ValueError, match=r"right vectors: 3 columns \(axis 1\), expected one"):
        predict((np.eye(4)[:, :2], np.ones(2), np.eye(5)[:, :3]))


def test_a_prediction_on_disk_is_the_same(tmp_path, logits):
    predicted = predict(logits)
    predicted.save(tmp_path / "p.safetensors", {"from": "here"})
    loaded = load_prediction(tmp_path / "p.safetensors")
    for name in ("classifier", "embeddings", "singular_values"):
        assert (getattr(loaded, name) == getattr(predicted, name)).all()
    assert loaded.kind == "proxy"
    assert np.isnan(loaded.gap)
    predict(Solved(logits)).save(tmp_path / "q.safetensors", {})
    assert load_prediction(tmp_path / "q.safetensors").gap == 1e-5
    with pytest.raises(UserError, match="no such"):
        load_prediction(tmp_path / "absent.safetensors")


def test_the_summary_has_no_matrices():
    summary = predict(centred_support(subsets(5, [2]))).to_dict()
    assert summary | {"singular_values": None, "gap": None} == {
        "tokens": 5,
        "contexts": 10,
        "rank": 4,
        "kind": "proxy",
        "gap": None,
        "singular_values": None,
    }
    # Four singular values, all sqrt(C(3, 1)).
    assert summary["singular_values"] == pytest.approx([np.sqrt(3)] * 4)
