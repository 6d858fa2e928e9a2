"""Facts divided by content and by time."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from themed_examples import themed_facts
from tightframe.errors import UserError
from tightframe.knowledge.clusters import (
    load_clusters,
    save_clusters,
    semantic_clusters,
    temporal_clusters,
)
from tightframe.knowledge.embedders import WeightedWords, dimensions, lexical_embeddings
from tightframe.knowledge.facts import facts_fingerprint


def dated(*days):
    facts, _ = themed_facts()
    return [
        dataclasses.replace(fact, date=f"2023-01-{day:02}")
        for fact, day in zip(facts, days, strict=False)
    ]


def test_semantic_clusters_find_the_three_themes():
    facts, themes = themed_facts()
    clusters = semantic_clusters(facts, 3)
    pairs = set(zip(clusters.assignments, themes, strict=True))
    assert len(pairs) == 3  # one cluster a theme, in some order
    assert clusters.sizes == (12, 12, 12)
    assert clusters.silhouette > 0.5


def test_the_same_seed_gives_the_same_clusters_in_any_order_of_the_facts():
    facts, _ = themed_facts()
    one, other = semantic_clusters(facts, 3), semantic_clusters(facts, 3)
    assert one.assignments == other.assignments
    shuffled = semantic_clusters(facts[::-1], 3)
    assert set(one.fingerprints) == set(shuffled.fingerprints)


def test_one_cluster_divides_nothing():
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, 1)
    assert clusters.sizes == (36,)
    assert np.isnan(clusters.silhouette)
    assert clusters.reason == "one cluster"
    assert clusters.fingerprints == (facts_fingerprint(facts),)


def test_the_silhouette_is_that_of_its_definition():
    facts, _ = themed_facts(4)
    clusters = semantic_clusters(facts, 2)
    texts = [fact.fact for fact in facts]
    points = lexical_embeddings(texts, dim=dimensions(12, 2))
    own = np.array(clusters.assignments)
    values = []
    for row in range(12):
        distances = np.linalg.norm(points - points[row], axis=1)
        same = distances[(own == own[row]) & (np.arange(12) != row)].mean()
        other = distances[own != own[row]].mean()  # the only other cluster is the nearest
        values.append((other - same) / max(same, other))
    # scikit-learn's distances of near points, from products, are good to 1e-8.
    assert clusters.silhouette == pytest.approx(np.mean(values), rel=1e-7)


@pytest.mark.parametrize(("n", "k", "dim"), [(300, 3, 20), (10, 3, 2), (12_290, 3, 100)])
def test_a_cluster_has_five_facts_a_dimension_within_limits(n, k, dim):
    assert dimensions(n, k) == dim


def test_weighted_words_are_those_of_their_formula():
    texts = ["red red fox", "red hen"]
    words = WeightedWords.fit(texts)
    assert words.words == ("fox", "hen", "red", "red fox", "red hen", "red red")
    rare, common = np.log(3 / 2) + 1, np.log(3 / 3) + 1
    row = np.array([rare, 0, (1 + np.log(2)) * common, rare, 0, rare])
    np.testing.assert_allclose(words(texts).toarray()[0], row / np.linalg.norm(row), rtol=1e-12)
    assert words(["blue ox"]).nnz == 0


def test_embeddings_keep_the_leading_directions_at_unit_length():
    facts, _ = themed_facts()
    texts = [fact.fact for fact in facts]
    dense = WeightedWords.fit(texts)(texts).toarray()
    left, values, _ = np.linalg.svd(dense, full_matrices=False)
    expected = left[:, :3] * values[:3]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = lexical_embeddings(texts, dim=3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-6)


def test_few_words_give_few_dimensions():
    assert lexical_embeddings(["fox", "hen", "fox"], dim=100).shape == (3, 2)


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="no words of two or more letters in 2 texts"):
        lexical_embeddings(["a", "?"], dim=2)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 36])
def test_temporal_sizes_differ_by_at_most_one_and_the_last_are_larger(k):
    facts, _ = themed_facts()
    clusters = temporal_clusters(facts[::-1], k)
    assert max(clusters.sizes) - min(clusters.sizes) <= 1
    assert list(clusters.sizes) == sorted(clusters.sizes)
    dates = [[(fact.date, fact.id) for fact in clusters.members(c)] for c in range(k)]
    for before, after in itertools.pairwise(dates):
        assert max(before) < min(after)


def test_the_remainder_is_spread_over_the_last_bins():
    # 11 facts, 4 clusters: two each, and one more for the last three.
    assert temporal_clusters(themed_facts(4)[0][:11], 4).sizes == (2, 3, 3, 3)


@pytest.mark.parametrize(
    ("days", "k", "sizes"),
    [
        # The boundary stands at 4; days change at 3 and 6: the nearest is 3.
        ((1, 1, 1, 2, 2, 2, 3, 3), 2, (3, 5)),
        # As far to 3 as to 5: the earlier one.
        ((1, 1, 1, 2, 2, 3, 3, 3), 2, (3, 5)),
        # Boundaries at 2, 4, 6 and changes at 5, 6, 7: each has one of its own.
        ((1, 1, 1, 1, 1, 2, 3, 4), 4, (5, 1, 1, 1)),
        # Boundaries at 2, 4, 6 and changes at 1, 2, 3.
        ((1, 2, 3, 4, 4, 4, 4, 4), 4, (1, 1, 1, 5)),
    ],
)
def test_whole_days_move_a_boundary_to_the_nearest_change_of_day(days, k, sizes):
    clusters = temporal_clusters(dated(*days), k, whole_days=True)
    found = [{fact.date for fact in clusters.members(c)} for c in range(k)]
    assert not set.intersection(*found)
    assert sum(map(len, found)) == len(set(days))
    assert clusters.sizes == sizes


def test_more_clusters_than_days_are_refused():
    with pytest.raises(UserError, match="3 clusters of whole days, but the facts are of 2 days"):
        temporal_clusters(dated(1, 1, 2, 2), 3, whole_days=True)


def test_facts_without_a_date_are_refused_by_time():
    facts, _ = themed_facts()
    facts[4] = dataclasses.replace(facts[4], date=None)
    with pytest.raises(UserError, match=f"1 of 36 facts have no date .*{facts[4].id}"):
        temporal_clusters(facts, 2)


@pytest.mark.parametrize("divide", [semantic_clusters, temporal_clusters])
@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "K = 0: expected at least 1"),
        (-1, "K = -1: expected at least 1"),
        (37, r"K = 37: more clusters than facts \(36\)"),
    ],
)
def test_a_number_of_clusters_that_cannot_be_is_refused(divide, k, message):
    with pytest.raises(UserError, match=message):
        divide(themed_facts()[0], k)


def test_a_cluster_without_facts_is_refused():
    facts, _ = themed_facts()
    same = [dataclasses.replace(fact, fact=facts[0].fact) for fact in facts[:6]]
    with pytest.raises(UserError, match="has no fact, so no model can be trained"):
        semantic_clusters(same, 3)


def test_two_facts_of_one_id_are_refused():
    facts, _ = themed_facts()
    with pytest.raises(UserError, match="two facts have one id"):
        semantic_clusters([*facts, facts[0]], 2)


def test_the_fingerprint_tells_facts_and_not_their_order():
    facts, _ = themed_facts()
    assert facts_fingerprint(facts) == facts_fingerprint(facts[::-1])
    assert facts_fingerprint(facts) != facts_fingerprint(facts[1:])
    other = dataclasses.replace(facts[0], fact=facts[0].fact + " again")
    assert facts_fingerprint(facts) != facts_fingerprint([other, *facts[1:]])


def test_clusters_come_back_from_disk(tmp_path):
    facts, _ = themed_facts()
    for clusters in (semantic_clusters(facts, 1), temporal_clusters(facts, 4, whole_days=True)):
        folder = tmp_path / clusters.by
        save_clusters(folder, clusters)
        again = load_clusters(folder)
        assert again.facts == clusters.facts
        assert again.assignments == clusters.assignments
        assert again.settings == clusters.settings
        assert again.silhouette == pytest.approx(clusters.silhouette, rel=0, nan_ok=True)
        assert again.reason == clusters.reason


@pytest.mark.parametrize("name", ["assignments.jsonl", "facts/1.jsonl"])
def test_a_changed_folder_is_refused(tmp_path, name):
    folder = tmp_path / "clusters"
    save_clusters(folder, semantic_clusters(themed_facts()[0], 3))
    file = folder / name
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with pytest.raises(UserError, match="its facts or assignments were changed"):
        load_clusters(folder)


def test_an_assignment_that_was_edited_is_refused(tmp_path):
    folder = tmp_path / "clusters"
    save_clusters(folder, semantic_clusters(themed_facts()[0], 3))
    file = folder / "assignments.jsonl"
    first, rest = file.read_text().split("\n", 1)
    record = json.loads(first)
    record["cluster"] = (record["cluster"] + 1) % 3
    file.write_text(json.dumps(record) + "\n" + rest)
    with pytest.raises(UserError, match="its facts or assignments were changed"):
        load_clusters(folder)


def test_a_manifest_that_lacks_something_is_refused(tmp_path):
    folder = tmp_path / "clusters"
    save_clusters(folder, semantic_clusters(themed_facts()[0], 3))
    file = folder / "clusters.json"
    content = json.loads(file.read_text())
    del content["k"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"clusters.json: k is missing; divide the facts again"):
        load_clusters(folder)
    with pytest.raises(UserError, match=r"holds no clusters.json"):
        load_clusters(tmp_path)
