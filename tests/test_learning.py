import numpy as np
import pytest

from reference.learning import learned_share, learning_times, simulate_surrogate
from tightframe.ntp.concept_study import learning_order
from tightframe.ntp.concepts import concepts
from tightframe.ntp.soft_labels import centred_support

DELTA = 4.0


@pytest.fixture(scope="module")
def predicted():
    # Ten tokens, supports of two or three: nine concepts of different singular values.
    support = np.random.default_rng(0).random((10, 24)) < 0.25
    support[np.arange(24) % 10, np.arange(24)] = True
    return concepts(centred_support(support), 9)


def test_half_is_learned_at_the_half_time(predicted):
    s = predicted.singular_values
    halves = learning_times(s, delta=DELTA)
    assert np.diag(learned_share(s, halves, delta=DELTA)) == pytest.approx(0.5, abs=1e-12)
    assert (np.diff(halves) > 0).all()  # smaller singular values later


def test_the_share_follows_the_flow(predicted):
    # x = s a has x' = 2 x (s - x), from x(0) = e^(-2 delta).
    s, times, step = predicted.singular_values, np.linspace(0, 3, 31), 1e-6
    x = s * learned_share(s, times, delta=DELTA)
    assert x[0] == pytest.approx(np.exp(-2 * DELTA), rel=1e-12)
    ahead, behind = (s * learned_share(s, times + h, delta=DELTA) for h in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx(2 * x * (s - x), abs=1e-7)


def test_simulated_half_times_are_those_of_the_closed_form(predicted):
    # 6.3, item 9: within 1 %, and the order is perfect.
    expected = learning_times(predicted.singular_values, delta=DELTA)
    times = np.linspace(0, 2 * expected.max(), 200)
    found = learning_order(predicted, times, simulate_surrogate(predicted, times, delta=DELTA))
    assert found.half_times == pytest.approx(expected, rel=0.01)
    assert found.spearman == pytest.approx(-1, abs=1e-12)
    assert found.n == 9
    assert found.strengths == pytest.approx(
        learned_share(predicted.singular_values, times, delta=DELTA), abs=1e-5
    )


def test_the_order_may_be_read_off_steps_of_any_model(predicted):
    # Strengths 0, 1, 4 of the first concept and 0, 0, 4 of the second at steps 0, 10, 20: half of
    # 4 is passed at 10 + 10/3 and at 15. The third falls from 4 to 1: half was there at once. The
    # fourth ends below 0.
    courses = np.zeros((3, 9))
    courses[:, :4] = [[0, 0, 4, 1], [1, 0, 2, 0], [4, 4, 1, -1]]
    pairs = [(predicted.classifier * course, predicted.embeddings) for course in courses]
    found = learning_order(predicted, np.array([0, 10, 20]), pairs)
    assert found.half_times[:4] == pytest.approx([10 + 10 / 3, 15, 0, np.nan], nan_ok=True)
    assert found.n == 3
    assert found.spearman == pytest.approx(0.5, abs=1e-12)  # ranks 3 2 1 against 2 3 1
    assert found.to_dict()["half_times"][1] == pytest.approx(15)


def test_one_concept_alone_has_no_order(predicted):
    one = concepts(predicted.classifier @ predicted.embeddings.T, 1)
    pairs = [(t * one.classifier, one.embeddings) for t in (0.0, 1.0)]
    assert np.isnan(learning_order(one, [0, 1], pairs).spearman)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda of: learning_times(of.singular_values[:1] / of.singular_values[0], delta=0.3),
            r"delta: 0.3 starts with half of concept 0 or more; expected above 0\.3466",
        ),
        (
            lambda of: simulate_surrogate(of, np.array([1.0, 0.5]), delta=DELTA),
            "times: expected ascending times from 0",
        ),
        (
            lambda of: learning_order(of, [0], [(of.classifier, of.embeddings)]),
            "times: expected two or more, ascending, one for each of 1 checkpoints, got 1",
        ),
    ],
)
def test_what_has_no_order_is_refused_by_name(predicted, call, message):
    with pytest.raises(ValueError, match=message):
        call(predicted)
