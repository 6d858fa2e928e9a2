import numpy as np
import pytest

from tightframe.ntp.similarity import analogies, analogy_scores, random_quadruples

# Words of two factors: king, queen, man, woman; and one that is king again.
WORDS = np.array([[1.0, 1, 0], [1, -1, 0], [0, 1, 0], [0, -1, 0], [1, 1, 0], [0, 0, 3]])


def test_sums_of_factors_are_perfect_analogies():
    # king - queen and man - woman are both (0, 2, 0); swapping one pair turns the sign; king - man
    # is (1, 0, 0).
    quadruples = np.array([[0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 0, 1]])
    assert analogy_scores(WORDS, quadruples) == pytest.approx([1, -1, 0], abs=1e-15)


def test_equal_embeddings_have_no_difference():
    scores = analogy_scores(WORDS + 0.1, np.array([[0, 4, 2, 3], [0, 1, 2, 3]]))
    assert np.isnan(scores[0])
    assert scores[1] == pytest.approx(1)


def test_scores_do_not_depend_on_rotation_scale_or_shift():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    quadruples = random_quadruples(20, 6, seed=3)
    assert analogy_scores(7 * WORDS @ turn + rng.normal(size=3), quadruples) == pytest.approx(
        analogy_scores(WORDS, quadruples), abs=1e-12, nan_ok=True
    )


def test_random_quadruples_are_seeded_and_of_different_tokens():
    drawn = random_quadruples(50, 5, seed=1)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert (drawn == random_quadruples(50, 5, seed=1)).all()
    assert (drawn != random_quadruples(50, 5, seed=2)).any()


def test_predicted_and_trained_are_compared_with_a_baseline():
    rng = np.random.default_rng(5)
    predicted = rng.normal(size=(30, 3))
    quadruples = random_quadruples(40, 30, seed=9)
    found = analogies(predicted, 2 * predicted, quadruples, n_random=200, seed=4)
    assert found.trained == pytest.approx(found.predicted, abs=1e-12)
    assert found.spearman == pytest.approx(1)
    baseline = analogy_scores(predicted, random_quadruples(200, 30, seed=4))
    assert (found.random_predicted == baseline).all()
    summary = found.to_dict()
    assert summary["random_predicted"] == pytest.approx(baseline.mean())
    assert summary["n_predicted"] == 40
    other = analogies(predicted, rng.normal(size=(30, 3)), quadruples)
    assert abs(other.random_spearman) < 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analogy_scores(WORDS, np.array([[0, 1, 2, 6]])), r"6 in row 0, .*\[0, 6\)"),
        (lambda: random_quadruples(1, 3), "expected 4 tokens or more, got 3"),
        (
            lambda: analogies(WORDS, WORDS[:5], np.array([[0, 1, 2, 3]])),
            r"trained: 5 rows \(axis 0\), expected 6",
        ),
    ],
)
def test_tokens_that_are_not_there_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
