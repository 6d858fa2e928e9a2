"""Which cluster a question is about: the classifier, its calibration, and the routing."""

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from themed_examples import outside_facts, themed_facts, with_locality
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.knowledge import Fact, Question, fact_id
from tightframe.knowledge.clusters import semantic_clusters
from tightframe.knowledge.data_files import write_report
from tightframe.knowledge.options import RouterOptions
from tightframe.knowledge.router import (
    brier,
    calibrate_router,
    fit_router,
    load_linear_router,
    save_linear_router,
    threshold_for,
)
from tightframe.knowledge.routing import (
    Routing,
    choose,
    confusion,
    load_routings,
    reroute,
    route,
    routed_questions,
    routing_report,
    save_router,
    train_router,
)

DATA = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"


def themed_router(k=3):
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, k)
    return clusters, fit_router(clusters, outside_facts(20))


def test_probabilities_are_those_of_scikit_learn():
    clusters, router = themed_router()
    texts = [fact.fact for fact in (*clusters.facts, *outside_facts(20))]
    labels = np.array([*clusters.assignments, *[-1] * 20])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    weighted = vectorizer.fit_transform(texts)
    asked = [one.text for one in routed_questions(clusters)]
    for cluster in range(3):
        model = LogisticRegression(C=1000, class_weight="balanced", max_iter=10_000)
        model.fit(weighted, labels == cluster)
        expected = model.predict_proba(vectorizer.transform(asked))[:, 1]
        np.testing.assert_allclose(router.probabilities(asked)[:, cluster], expected, rtol=1e-10)


def test_questions_reach_the_cluster_of_their_theme_and_others_the_fallback():
    clusters, router = themed_router()
    outside = outside_facts(10, first=500)
    routings = route(router, routed_questions(clusters, outside))
    report = routing_report(routings, clusters)
    assert report["in_scope"] == {"n": 36, "routed": 1.0, "right": 1.0}
    assert report["outside"] == {"n": 10, "accepted": 0.0}
    assert report["locality"]["n"] == 0
    assert np.isnan(report["locality"]["accepted"])


def test_a_saved_scope_has_the_same_probabilities_and_the_same_bytes(tmp_path):
    clusters, router = themed_router()
    router = dataclasses.replace(router, threshold=0.3, scale=1.5, shift=-0.25)
    texts = [one.text for one in routed_questions(clusters)]
    for name in ("one", "other"):
        save_linear_router(tmp_path / name, router)
    again = load_linear_router(tmp_path / "one")
    np.testing.assert_array_equal(again.probabilities(texts), router.probabilities(texts))
    assert again.threshold == 0.3
    assert again.clusters == clusters.fingerprints
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_file_that_is_no_scope_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_linear_router(tmp_path / "x")
    with pytest.raises(UserError, match="no such file"):
        load_linear_router(tmp_path / "y")


@pytest.mark.parametrize(
    ("rule", "threshold", "chosen"),
    [
        ("most-probable", 0.5, 2),
        ("lowest-index", 0.5, 1),
        ("most-probable", 0.9, None),
        ("lowest-index", 0.9, None),
        ("most-probable", 0.8, 2),
        ("lowest-index", 0.6, 2),  # positive is above the threshold, not at it
        ("oracle", 2.0, 0),
    ],
)
def test_a_rule_chooses_among_the_positive_clusters(rule, threshold, chosen):
    assert choose([0.3, 0.6, 0.9], 0, threshold=threshold, rule=rule) == chosen


def test_the_oracle_sends_what_no_cluster_knows_to_the_fallback():
    assert choose([0.3, 0.6, 0.9], None, threshold=0.5, rule="oracle") is None


def test_other_rules_use_the_same_probabilities():
    routing = Routing("q", (0.3, 0.6, 0.9), 2, 0, "most-probable")
    chosen = [
        reroute([routing], threshold=0.5, rule=rule)[0].cluster
        for rule in ("most-probable", "lowest-index", "oracle")
    ]
    assert chosen == [2, 1, 0]


def test_the_report_counts_by_hand():
    facts, _ = themed_facts()
    facts[0] = with_locality(facts[0])
    clusters = semantic_clusters(facts, 2)
    ids = [question.id for fact in facts for question in fact.questions]
    local = next(id for id in ids if id.endswith(":locality"))
    a, b, c = (id for id in ids[:4] if id != local)

    def routing(id, cluster, true_cluster):
        return Routing(id, (0.5, 0.5), cluster, true_cluster, "most-probable")

    routings = [
        routing(a, 0, 0),
        routing(b, 1, 0),
        routing(c, None, 1),
        routing(local, 1, None),
        routing("elsewhere:reliability", 0, None),
        routing("nowhere:reliability", None, None),
    ]
    assert confusion(routings, 2) == [[1, 1, 0], [0, 0, 1], [1, 1, 1]]
    report = routing_report(routings, clusters)
    assert report["in_scope"] == {"n": 3, "routed": pytest.approx(2 / 3), "right": 1 / 3}
    assert report["locality"] == {"n": 1, "accepted": 1.0}
    assert report["outside"] == {"n": 2, "accepted": 0.5}


def test_locality_is_asked_of_no_cluster_and_a_mask_is_no_word():
    facts, _ = themed_facts()
    cloze = dataclasses.replace(facts[1].questions[0], prompt="the river [MASK] floods")
    facts[0] = with_locality(facts[0])
    facts[1] = dataclasses.replace(facts[1], questions=(cloze,))
    asked = routed_questions(semantic_clusters(facts, 3))
    assert [one.cluster is None for one in asked[:3]] == [False, True, False]
    assert asked[2].text.split() == ["the", "river", "floods"]


def test_a_question_id_that_occurs_twice_is_refused():
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, 3)
    with pytest.raises(UserError, match=r"question .*:reliability occurs twice"):
        routed_questions(clusters, [dataclasses.replace(facts[0], id="dyk-other")])


def test_no_questions_and_no_negatives_are_refused():
    clusters, router = themed_router()
    with pytest.raises(UserError, match="no questions to route"):
        route(router, [])
    with pytest.raises(UserError, match="no facts outside the injected ones are left"):
        fit_router(clusters, [])
    with pytest.raises(UserError, match="a negative is one of the injected facts"):
        fit_router(clusters, [clusters.facts[0]])


def test_injected_facts_among_the_negatives_are_left_out_and_counted():
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, 3)
    again = dataclasses.replace(facts[0], id="dyk-000000000000")  # the same text by another id
    some = train_router(clusters, [*outside_facts(20), facts[5], again])
    assert some.report["negatives"] == {"n": 20, "injected_left_out": 2}
    alone = train_router(clusters, outside_facts(20))
    assert some.routings == alone.routings


def test_calibrated_probabilities_are_the_frequencies():
    # Half of what looks in scope is not, and a tenth of the rest is: the intercept of a logistic
    # fit makes the mean probability the share in scope.
    clusters, router = themed_router(k=1)
    texts = [fact.fact for fact in (*clusters.facts[:10], *outside_facts(30))]
    truth = [0] * 5 + [None] * 5 + [0] * 3 + [None] * 27
    calibrated = calibrate_router(router, texts, truth)
    assert calibrated.probabilities(texts).mean() == pytest.approx(8 / 40, abs=1e-4)
    assert brier(calibrated, texts, truth) < brier(router, texts, truth)
    twice = calibrate_router(calibrated, texts, truth)  # of the logits as trained
    assert (twice.scale, twice.shift) == (calibrated.scale, calibrated.shift)


def test_the_brier_score_is_its_mean():
    _, router = themed_router()
    texts = ["the river floods", "a choir"]
    found = router.probabilities(texts)
    truth = np.array([[0, 1, 0], [0, 0, 0]])
    expected = ((found - truth) ** 2).mean()
    assert brier(router, texts, [1, None]) == pytest.approx(expected, rel=1e-12)


def test_calibration_on_one_kind_of_question_is_refused():
    _, router = themed_router()
    with pytest.raises(UserError, match="calibration needs questions in scope and out of it"):
        calibrate_router(router, ["x", "y"], [None, None])


@pytest.mark.parametrize(("share", "accepted"), [(0.0, 0), (0.1, 1), (0.25, 2), (1.0, 10)])
def test_a_calibrated_threshold_accepts_at_most_its_share(share, accepted):
    _, router = themed_router()
    texts = ["floods " * n + "choir" for n in range(1, 11)]  # more and more like a river
    highest = router.probabilities(texts).max(axis=1)
    assert len(set(highest)) == 10
    assert (highest > threshold_for(router, texts, false_accepts=share)).sum() == accepted
    tied = texts[:1] * 10  # none can be accepted without all the others
    highest = router.probabilities(tied).max(axis=1)
    assert (highest > threshold_for(router, tied, false_accepts=share)).sum() == 10 * (share == 1)


def test_what_calibrates_is_neither_trained_on_nor_reported():
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, 3)
    trained = train_router(
        clusters,
        outside_facts(20),
        outside_facts(5, 900),
        RouterOptions(calibrate=0.25, false_accepts=0.0),
    )
    report = trained.report
    assert report["calibrated_on"] == 9 + 5
    assert report["negatives"]["n"] == 15
    assert report["questions"]["in_scope"]["n"] == 27
    assert report["questions"]["outside"] == {"n": 5, "accepted": 0.0}
    assert report["statements"]["in_scope"]["n"] == 36
    assert len(trained.routings) == 36 + 5
    assert report["threshold"] == trained.router.threshold != 0.5
    assert (
        trained.routings
        == train_router(
            clusters,
            outside_facts(20),
            outside_facts(5, 900),
            RouterOptions(calibrate=0.25, false_accepts=0.0),
        ).routings
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrate": 1.0}, r"calibrate = 1: expected a share in \[0, 1\)"),
        ({"calibrate": -0.1}, "calibrate = -0.1"),
        ({"false_accepts": 0.1}, "needs facts to calibrate on"),
        ({"calibrate": 0.2, "false_accepts": 1.1}, "false accepts = 1.1"),
        ({"calibrate": 0.2, "false_accepts": 0.1, "threshold": 0.5}, "give one"),
    ],
)
def test_calibration_that_cannot_be_is_refused(options, message):
    clusters = semantic_clusters(themed_facts()[0], 3)
    with pytest.raises(UserError, match=message):
        train_router(clusters, outside_facts(5), (), RouterOptions(**options))


def test_routings_come_back_from_disk_for_their_clusters_only(tmp_path):
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, 3)
    trained = train_router(clusters, outside_facts(20), (), RouterOptions(threshold=0.4))
    save_router(tmp_path / "router", trained)
    routings, threshold = load_routings(tmp_path / "router", clusters)
    assert routings == trained.routings
    assert threshold == 0.4
    assert "NaN" not in (tmp_path / "router" / "router.json").read_text()
    again = load_linear_router(tmp_path / "router" / "router.safetensors")
    assert route(again, routed_questions(clusters)) == routings
    with pytest.raises(UserError, match="trained on clusters of other facts"):
        load_routings(tmp_path / "router", semantic_clusters(facts[:-1], 3))


def _line(**changed):
    fields = {
        "question_id": "x",
        "probabilities": [0.1, 0.2, 0.3],
        "cluster": None,
        "true_cluster": 0,
        "rule": "most-probable",
    }
    return json.dumps(fields | changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"question_id": "x"}', "line 2: probabilities is missing; expected the routing"),
        ("[1]", "line 2: the content is .* expected the routing of a question"),
        (_line(probabilities=[0.1, 0.2, 1.5]), "line 2: probabilities.2 is 1.5: expected"),
        (_line(probabilities=[0.1, 0.2]), "the routing of .* is not one to 3 clusters"),
        (_line(cluster=3), "the routing of .* is not one to 3 clusters"),
        (_line(question_id="{first}"), "a question occurs twice"),
    ],
)
def test_a_broken_routing_is_named_by_its_line(tmp_path, line, message):
    clusters = semantic_clusters(themed_facts()[0], 3)
    save_router(tmp_path / "router", train_router(clusters, outside_facts(20)))
    file = tmp_path / "router" / "routing.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = line.replace("{first}", json.loads(lines[0])["question_id"])
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"routing.jsonl: damaged or changed since it was written"):
        load_routings(tmp_path / "router", clusters)
    report = json.loads((tmp_path / "router" / "router.json").read_text())
    write_report(tmp_path / "router" / "router.json", report | {"routing": sha256(file)})
    with pytest.raises(UserError, match=message):
        load_routings(tmp_path / "router", clusters)


def test_zeroed_weights_of_a_scope_are_refused(tmp_path):
    _, router = themed_router()
    save_linear_router(tmp_path / "one", router)
    content = (tmp_path / "one").read_bytes()
    (tmp_path / "one").write_bytes(content[:-800] + bytes(800))
    with pytest.raises(UserError, match="one: damaged or changed since it was written"):
        load_linear_router(tmp_path / "one")


@pytest.mark.skipif(not DATA.is_file(), reason=f"no {DATA}")
@pytest.mark.parametrize("first", [0, 2000])
def test_real_questions_reach_the_right_cluster(first):
    # 300 facts in three clusters, 1,000 others to train against, 300 more to ask about.
    with DATA.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file][first : first + 1600]
    facts = [_real(record) for record in records]
    began = time.perf_counter()
    clusters = semantic_clusters(facts[:300], 3)
    router = fit_router(clusters, facts[300:1300])
    report = routing_report(route(router, routed_questions(clusters, facts[1300:])), clusters)
    seconds = time.perf_counter() - began
    print(report, clusters.sizes, f"silhouette {clusters.silhouette:.3f}, {seconds:.2f} s")
    assert report["in_scope"]["n"] == report["outside"]["n"] == 300
    assert report["in_scope"]["right"] >= 0.90
    assert report["outside"]["accepted"] <= 0.10


def _real(record):
    id = f"{fact_id(None, record['fact'])}-{record['id']}"
    asked = Question(
        f"{id}:reliability", "reliability", "question", record["question"], None,
        (record["answer"],), "file",
    )  # fmt: skip
    return Fact(id, None, None, record["year"], None, record["fact"], "", "", questions=(asked,))
