import math

import numpy as np
import pytest
import torch

from tightframe.geometry import metrics
from tightframe.geometry.moments import ClassMoments

NAMES = ["nc5_orthodev", "nc5_orthodev_ctr"]


def state(embeddings, labels):
    embeddings, labels = torch.as_tensor(embeddings).double(), torch.as_tensor(labels)
    moments = ClassMoments(int(labels.max()) + 1, embeddings.shape[1])
    moments.update(embeddings, labels)
    return moments


def values(moments, ood, **options):
    classifier = torch.ones(moments.means.shape)
    return metrics(moments, classifier, measures=NAMES, ood=ood, **options)


def test_what_is_orthogonal_to_all_class_means_deviates_by_nothing():
    # Means +-e_1, +-e_2 around 0; the other stream lies on e_3, or on e_1: cosines 1, 1, 0, 0.
    moments = state(np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]), np.arange(4))
    away = values(moments, state([[0, 0, 2.0]], [0]))
    along = values(moments, state([[3.0, 0, 0]], [0]))
    for name in NAMES:
        assert away[name].value == 0
        assert along[name].value == 0.5
        assert (along[name].n, along[name].excluded) == (4, 0)


def test_the_mean_embedding_is_over_embeddings_not_over_classes():
    # Three times 4 e_1 and once 4 e_2, of two classes: the mean is (3, 1).
    ood = state([[4.0, 0], [4, 0], [4, 0], [0, 4]], [0, 0, 0, 1])
    found = values(state([[1.0, 0], [0, 2]], [0, 1]), ood)
    assert found["nc5_orthodev"].value == pytest.approx((3 + 1) / 2 / math.sqrt(10), rel=1e-14)


def test_both_forms_are_those_of_plain_loops():
    rng = np.random.default_rng(0)
    x, labels, y = rng.normal(size=(40, 5)) + 1, np.arange(40) % 7, rng.normal(size=(9, 5))
    found = values(state(x, labels), state(y, np.arange(9) % 4))
    means = [x[labels == c].mean(0) for c in range(7)]
    centre, other = np.mean(means, axis=0), y.mean(0)
    for name, origin in (("nc5_orthodev", 0 * centre), ("nc5_orthodev_ctr", centre)):
        b = other - origin
        cosines = [abs((m - origin) @ b) / np.linalg.norm(m - origin) for m in means]
        expected = np.mean(cosines) / np.linalg.norm(b)
        assert found[name].value == pytest.approx(expected, rel=1e-12), name


def test_without_another_stream_it_is_undefined():
    moments = state([[1.0, 0], [0, 0]], [0, 1])
    for value in values(moments, None).values():
        assert (value.n, value.excluded) == (0, 2)
        assert value.reason == "no out-of-distribution moments were given"
    for value in values(moments, ClassMoments(1, 2)).values():  # which has seen nothing
        assert math.isnan(value.value)
    left_out = values(moments, state([[1.0, 1]], [0]))["nc5_orthodev"]
    assert (left_out.n, left_out.excluded) == (1, 1)
    assert left_out.reason == "classes without a direction: 1 left out"
    with pytest.raises(ValueError, match="embeddings have 3 dimensions, the others 2"):
        values(moments, ClassMoments(1, 3))


def test_its_interval_leaves_out_documents_of_the_model_s_own_stream():
    # 12 groups with ten samples of each of 7 classes: an interval, within what it can be.
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(840, 5)) + 1, np.arange(840) % 7
    moments = ClassMoments(7, 5, groups=12)
    moments.update(torch.from_numpy(x), torch.from_numpy(labels), torch.arange(840) // 70)
    for value in values(moments, state(rng.normal(size=(9, 5)) + 1, np.arange(9) % 4)).values():
        assert 0 <= value.low < value.high <= 1, value.reason
        assert value.resampled == "documents"
