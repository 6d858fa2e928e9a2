import dataclasses

import numpy as np
import pytest

from studies.latent_factors.factors import (
    FactorStudy,
    factor_combinations,
    one_hot_factors,
    spread_steps,
)
from studies.latent_factors.tracking import GramTracker

FACTORS = one_hot_factors(factor_combinations((3, 4)))


def naive_cosine(rows, target):
    """Of the doubly centred Gram matrices, made in full."""
    centre = np.eye(len(rows)) - 1 / len(rows)
    a, b = (centre @ part @ part.T @ centre for part in (rows, target))
    return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


def test_factors_and_simplex_have_cosines_by_formula():
    # Levels 3 and 4: Y Y', centred, has eigenvalue 4 on the 2 contrasts of the first factor and
    # 3 on the 3 of the second; the simplex has 1 on all 11: (8 + 9) / sqrt((32 + 27) * 11).
    tracker = GramTracker(FACTORS)
    tracker(0, np.eye(12), FACTORS + 5.0)
    simplex, latent = tracker.records
    assert simplex.simplex_cosine == pytest.approx(1, abs=1e-12)
    assert simplex.factors_cosine == pytest.approx(17 / np.sqrt(59 * 11), abs=1e-12)
    assert latent.factors_cosine == pytest.approx(1, abs=1e-12)
    assert latent.factors_similarity == pytest.approx(1, abs=1e-12)
    assert latent.simplex_cosine == pytest.approx(17 / np.sqrt(59 * 11), abs=1e-12)


def test_cosines_are_those_of_whole_gram_matrices():
    rng = np.random.default_rng(0)
    classes = rng.integers(12, size=40)
    classifier, embeddings = rng.normal(size=(12, 5)), rng.normal(size=(40, 5))
    tracker = GramTracker(FACTORS, classes=classes)
    tracker(3, classifier, embeddings)
    words, contexts = tracker.records
    assert words.factors_cosine == pytest.approx(naive_cosine(classifier, FACTORS), abs=1e-12)
    assert contexts.factors_cosine == pytest.approx(
        naive_cosine(embeddings, FACTORS[classes]), abs=1e-12
    )
    assert contexts.simplex_cosine == pytest.approx(
        naive_cosine(embeddings, np.eye(12)[classes]), abs=1e-12
    )


def test_scale_shift_and_rotation_change_nothing():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(12, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    tracker = GramTracker(FACTORS)
    tracker(0, rows)
    tracker(0, 1e3 * rows @ turn + rng.normal(size=5))
    first, second = (vars(record) for record in tracker.records)
    assert first.pop("side") == second.pop("side") == "classifier"
    assert second == pytest.approx(first, abs=1e-12)


def test_peak_and_crossing_of_a_known_course():
    # Gram matrices (1 - t) of the factors and t of the simplex, each of Frobenius norm 1 and with
    # cosine c: t = 1/2 is equally far from both. Before, the mixture comes from noise.
    latent, simplex = (part - part.mean(axis=0) for part in (FACTORS, np.eye(12)))
    latent = latent / np.linalg.norm(latent @ latent.T) ** 0.5
    simplex = simplex / np.linalg.norm(simplex @ simplex.T) ** 0.5
    tracker = GramTracker(FACTORS)
    tracker(0, np.random.default_rng(2).normal(size=(12, 2)))
    for step, share in ((10, 0.0), (20, 0.4), (30, 0.6), (40, 1.0)):
        tracker(step, np.hstack([(1 - share) ** 0.5 * latent, share**0.5 * simplex]))
    found = tracker.structure("classifier", "cosine")
    assert (found.peak_step, found.peak) == pytest.approx((10, 1), abs=1e-12)
    assert found.crossing == pytest.approx(25, abs=1e-9)
    assert found.last == pytest.approx(found.at_simplex, abs=1e-12)
    assert found.at_simplex == pytest.approx(17 / np.sqrt(59 * 11), abs=1e-12)
    assert found.simplex_last == pytest.approx(1, abs=1e-12)
    assert found.to_dict()["peak_step"] == 10


def test_a_simplex_that_leads_all_the_way_never_crosses():
    tracker = GramTracker(FACTORS)
    for step in range(3):
        tracker(step, np.eye(12))
    assert np.isnan(tracker.structure("classifier").crossing)


def test_structure_comes_before_collapse_in_a_small_network():
    # Nine classes of two factors: the classifier is first like the factors, more than at the
    # start and at the end, which is the simplex; it is overtaken in between.
    study = FactorStudy(sizes=(3, 3), samples=1, width=48, steps=800)
    tracker = GramTracker(one_hot_factors(factor_combinations((3, 3))), classes=study.classes)
    loss = study.run(tracker)
    assert loss < 0.01
    for side in ("classifier", "embeddings"):
        found = tracker.structure(side)
        assert found.peak > max(found.first, found.last) + 0.05
        assert found.peak_step < found.crossing < 100
        assert found.simplex_last > 0.97
    again = GramTracker(one_hot_factors(factor_combinations((3, 3))), classes=study.classes)
    dataclasses.replace(study, steps=20).run(again, at=[20])
    other = GramTracker(one_hot_factors(factor_combinations((3, 3))), classes=study.classes)
    study.run(other, at=[20])
    assert again.records == other.records  # the same seed, the same bits


def test_factors_are_all_combinations():
    # 2 x 3 classes; two of them share as many factors as Y Y' says.
    combinations = factor_combinations((2, 3))
    assert combinations.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    hot = one_hot_factors(combinations)
    shared = [[(a == b).sum() for b in combinations] for a in combinations]
    assert (hot @ hot.T == shared).all()
    assert spread_steps(1000, 4) == [0, 1, 10, 100, 1000]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GramTracker(np.ones((3, 1))), "factors: all rows are equal"),
        (lambda: GramTracker(np.array([[0.0], [np.nan]])), "factors: nan for token 1, column 0"),
        (lambda: GramTracker(FACTORS, classes=np.array([0, 12])), "classes: 12 for context 1.*11"),
        (lambda: GramTracker(FACTORS)(0, np.eye(5)), r"classifier: 5 rows \(axis 0\), expected 12"),
        (
            lambda: GramTracker(FACTORS)(0, np.eye(12), np.full((12, 12), np.inf)),
            "embeddings: inf in row 0, column 0",
        ),
        (lambda: GramTracker(FACTORS)(0, np.ones((12, 3))), "classifier: all rows are equal"),
        (lambda: GramTracker(FACTORS).structure(), "nothing was recorded of embeddings"),
        (lambda: factor_combinations((3, 1)), r"sizes: expected two or more.*\[3, 1\]"),
    ],
)
def test_what_cannot_be_tracked_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
