import numpy as np
import pytest

from tightframe.ntp.concepts import align, concept_strengths, concepts


@pytest.fixture
def predicted():
    return concepts(np.random.default_rng(0).normal(size=(8, 11)), 3)


def rotation(n, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def test_a_turned_scaled_and_shifted_prediction_is_found_again(predicted):
    # W = 2 U s^(1/2) R', H = 5 V s^(1/2) R' in six dimensions, plus a vector on every row of W:
    # logits are 10 times the predicted ones, and all axes are those of R.
    axes = rotation(6)[:, :3]
    classifier = 2 * predicted.classifier @ axes.T + rotation(6, 2)[0]
    found = align(predicted, classifier, 5 * predicted.embeddings @ axes.T)
    assert found.axes == pytest.approx(axes, abs=1e-12)
    assert found.strengths == pytest.approx([10, 10, 10], abs=1e-11)
    assert found.token_cosines == pytest.approx([1, 1, 1], abs=1e-12)
    assert found.context_cosines == pytest.approx([1, 1, 1], abs=1e-12)
    assert found.tokens == pytest.approx(2 * predicted.classifier, abs=1e-12)


def test_the_strength_is_that_of_the_logits(predicted):
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(8, 5)), rng.normal(size=(11, 5))
    logits = left @ right.T
    expected = [
        predicted.tokens[:, k] @ logits @ predicted.contexts[:, k] / predicted.singular_values[k]
        for k in range(3)
    ]
    assert concept_strengths(predicted, left, right) == pytest.approx(expected, abs=1e-12)


def test_no_other_axes_are_nearer(predicted):
    # Procrustes: turning the axes, or taking any others, lowers the inner product.
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=(8, 6)), rng.normal(size=(11, 6))
    left -= left.mean(axis=0)
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)

    def inner(axes):
        return ((left @ axes) * predicted.classifier).sum() + (
            (right @ axes) * predicted.embeddings
        ).sum()

    best = inner(align(predicted, left, right).axes)
    assert all(inner(rotation(6, seed)[:, :3]) < best for seed in range(50))


def test_an_empty_direction_has_no_cosine(predicted):
    # The model has the first concept alone: nothing of it lies on the other axes.
    first = np.zeros((3, 4))
    first[0, 0] = 1
    found = align(predicted, predicted.classifier @ first, predicted.embeddings @ first)
    assert found.token_cosines[0] == pytest.approx(1, abs=1e-12)
    assert np.isnan(found.token_cosines[1:]).all()
    assert found.to_dict()["strengths"][0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((7, 4), (11, 4)), r"classifier: 7 rows \(axis 0\), expected one of 8 tokens"),
        (((8, 4), (8, 4)), r"embeddings: 8 rows \(axis 0\), expected one of 11 contexts"),
        (((8, 4), (11, 5)), r"embeddings: width 5 \(axis 1\), expected the classifier's, 4"),
        (((8, 2), (11, 2)), r"2 dimensions \(axis 1\) can't hold 3 concepts"),
    ],
)
def test_shapes_that_do_not_fit_are_named(predicted, shapes, message):
    with pytest.raises(ValueError, match=message):
        align(predicted, np.ones(shapes[0]), np.ones(shapes[1]))
