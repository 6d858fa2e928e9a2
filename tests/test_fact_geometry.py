import numpy as np
import pytest
import torch

from studies.recall_geometry.embeddings import FactEmbeddings
from studies.recall_geometry.geometry import FEATURES, fact_geometry, regressors


def embeddings(variants, labels, questions, rows=None):
    questions = torch.as_tensor(questions, dtype=torch.float64)
    n_facts = len(questions)
    return FactEmbeddings(
        fact_ids=tuple(f"f{i}" for i in range(n_facts)),
        variants=torch.as_tensor(variants, dtype=torch.float64),
        labels=torch.as_tensor(labels),
        longer=torch.zeros(n_facts, dtype=torch.int64),
        questions=questions,
        logit_margins=torch.zeros(n_facts, dtype=torch.float64),
        token_rows=questions if rows is None else torch.as_tensor(rows, dtype=torch.float64),
        excluded={},
    )


def drawn(seed=0, n_facts=5, dim=4):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_facts), rng.integers(8, 12, n_facts))
    means = 3 * rng.normal(size=(n_facts, dim))
    variants = means[labels] + rng.normal(size=(len(labels), dim))
    questions = means + 2 * rng.normal(size=means.shape)
    return variants, labels, questions, rng.normal(size=means.shape)


def test_three_facts_on_a_line():
    # Means 0, 4 and 10, whose mean is 14/3; variants at distance 1 to both sides, so that the
    # variance over n - 1 is 2. Squared distances: 16, 36, 100.
    variants = [[-1.0], [1.0], [3.0], [5.0], [9.0], [11.0]]
    questions = [[1.0], [9.0], [10.0]]
    found = fact_geometry(embeddings(variants, [0, 0, 1, 1, 2, 2], questions))
    between = np.mean((np.array([0, 4, 10]) - 14 / 3) ** 2)
    assert found["variance"].tolist() == pytest.approx([2 / between] * 3, rel=1e-12)
    cdnv = [(2 / 16 + 2 / 100) / 2, (2 / 16 + 2 / 36) / 2, (2 / 100 + 2 / 36) / 2]
    assert found["cdnv_mean"].tolist() == pytest.approx(cdnv, rel=1e-12)
    assert found["cdnv_nearest"].tolist() == pytest.approx([2 / 16, 2 / 16, 2 / 36], rel=1e-12)
    # 0 and 4 lie on the same side of the mean, 10 on the other.
    assert found["cosine_nearest"].tolist() == pytest.approx([1, 1, -1], rel=1e-12)
    # The question at 9 is 5 from its own mean at 4 and 1 from the mean at 10.
    assert found["rank"].tolist() == [1, 2, 1]
    assert found["margin"].tolist() == pytest.approx([(3 - 1) / 4, (1 - 5) / 6, 1], rel=1e-12)
    # Seen from 14/3 the first question points to means 0 and 4 alike, the second away from its own.
    assert found["rank_cosine"].tolist() == [1.5, 2.5, 1]
    assert found["n_variants"].tolist() == [2, 2, 2]


def test_the_definitions_in_plain_loops():
    variants, labels, questions, rows = drawn()
    found = fact_geometry(embeddings(variants, labels, questions, rows))
    own = [variants[labels == f] for f in range(5)]
    means = np.array([one.mean(0) for one in own])
    centre, token_centre = means.mean(0), rows.mean(0)
    scale = np.mean([np.sum((mean - centre) ** 2) for mean in means])

    def variance(f):
        return sum(np.sum((x - means[f]) ** 2) for x in own[f]) / (len(own[f]) - 1)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for f in range(5):
        others = [g for g in range(5) if g != f]
        cdnv = {
            g: (variance(f) + variance(g)) / 2 / np.sum((means[f] - means[g]) ** 2) for g in others
        }
        near = min(others, key=lambda g: np.linalg.norm(means[f] - means[g]))
        distance = [np.linalg.norm(questions[f] - mean) for mean in means]
        other = min(distance[g] for g in others)
        alike = [cosine(questions[f] - centre, mean - centre) for mean in means]
        expected = {
            "variance": variance(f) / scale,
            "cdnv_mean": np.mean(list(cdnv.values())),
            "cdnv_nearest": cdnv[near],
            "cosine_nearest": max(cosine(means[f] - centre, means[g] - centre) for g in others),
            "cosine_classifier": cosine(means[f] - centre, rows[f] - token_centre),
            "rank": 1 + sum(distance[g] < distance[f] for g in others),
            "rank_cosine": 1 + sum(alike[g] > alike[f] for g in others),
            "margin": (other - distance[f]) / (other + distance[f]),
        }
        assert set(expected) == {one.name for one in FEATURES}
        for name, value in expected.items():
            assert found[name][f] == pytest.approx(value, rel=1e-10), name


def test_rotation_shift_and_scale_change_nothing():
    variants, labels, questions, rows = drawn(1)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    first = fact_geometry(embeddings(variants, labels, questions, rows))

    def moved(points):
        return 7 * points @ rotation + 3

    again = fact_geometry(embeddings(moved(variants), labels, moved(questions), moved(rows)))
    for one in FEATURES:
        assert again[one.name].tolist() == pytest.approx(first[one.name].tolist(), rel=1e-9)


def test_the_order_of_facts_and_variants_changes_nothing():
    variants, labels, questions, rows = drawn(3)
    order = np.random.default_rng(0).permutation(len(labels))
    facts = np.array([3, 1, 4, 0, 2])  # fact i of before is number facts[i] now
    back = np.argsort(facts)
    first = fact_geometry(embeddings(variants, labels, questions, rows))
    again = fact_geometry(
        embeddings(variants[order], facts[labels[order]], questions[back], rows[back])
    )
    for one in FEATURES:
        expected = first[one.name].to_numpy()[back].tolist()
        assert again[one.name].tolist() == pytest.approx(expected, rel=1e-9)


def test_logarithms_enter_where_a_feature_says_so():
    table = fact_geometry(embeddings(*drawn()))
    entered = regressors(table)
    assert list(entered) == [one.name for one in FEATURES]
    for one in FEATURES:
        column = np.log(table[one.name]) if one.log else table[one.name]
        assert entered[one.name].tolist() == column.tolist()


def test_full_collapse_is_a_logarithm_of_minus_infinity_and_no_warning():
    table = fact_geometry(
        embeddings([[0.0], [0], [1], [1], [3], [3]], [0, 0, 1, 1, 2, 2], [[0.0], [1], [3]])
    )
    assert table["variance"].tolist() == [0, 0, 0]
    assert regressors(table)["variance"].tolist() == [-np.inf] * 3
