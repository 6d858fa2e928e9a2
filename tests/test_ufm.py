import numpy as np
import pytest
import torch

from reference.path_sets import SETS, objective
from tightframe.ntp import ridge_path, solve_svm, train_ufm
from tightframe.ntp.asymptotics import limit_cosines
from tightframe.ntp.ufm import PUBLISHED_DECAYS, published_steps


@pytest.fixture(scope="module")
def narrow():
    return SETS["narrow"].labels()


def _slopes(checkpoint, labels, lam=0.0):
    """By both factors, from the definition: softmax minus soft labels, times the other factor."""
    likely = np.exp(checkpoint.logits) / np.exp(checkpoint.logits).sum(axis=0)
    by_logits = (likely - labels.probabilities.toarray()) * labels.weights
    return (
        by_logits @ checkpoint.embeddings + lam * checkpoint.classifier,
        by_logits.T @ checkpoint.classifier + lam * checkpoint.embeddings,
    )


def _one_step(labels, **asked):
    """Both factors before and after."""
    before, after = train_ufm(labels, dim=5, steps=1, initial_std=0.5, **asked).checkpoints
    return before, ((before.classifier, after.classifier), (before.embeddings, after.embeddings))


@pytest.mark.parametrize(("lam", "n_pairs"), [(0.0, 1), (0.03, 1), (0.03, 7)])
def test_a_step_of_gradient_descent_is_its_definition(narrow, lam, n_pairs):
    # The loss summed over n pairs has n times the slope, its ridge n times lam.
    before, factors = _one_step(narrow, learning_rate=0.2, lam=lam, n_pairs=n_pairs)
    for (start, end), slope in zip(factors, _slopes(before, narrow, lam), strict=True):
        np.testing.assert_allclose(end, start - 0.2 * n_pairs * slope, rtol=1e-12, atol=1e-14)


def test_the_slope_is_that_of_the_objective(narrow):
    # Of CE + lam / 2 (|W|^2 + |H|^2), entry by entry, at h to both sides.
    start = train_ufm(narrow, dim=5, steps=0, initial_std=0.5).checkpoints[0]
    by_token, by_context = _slopes(start, narrow, 0.03)
    rng, h = np.random.default_rng(0), 1e-5
    along = rng.normal(size=start.classifier.shape), rng.normal(size=start.embeddings.shape)
    ends = [
        objective(start.classifier + s * along[0], start.embeddings + s * along[1], narrow, 0.03)
        for s in (h, -h)
    ]
    expected = np.vdot(by_token, along[0]) + np.vdot(by_context, along[1])
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(expected, rel=1e-7)


def test_normalised_descent_takes_steps_of_a_length_that_falls_like_a_root(narrow):
    run = train_ufm(narrow, dim=5, optimizer="ngd", learning_rate=0.3, steps=4, log_steps=range(5))
    for number, (start, end) in enumerate(
        zip(run.checkpoints[:-1], run.checkpoints[1:], strict=True)
    ):
        moved = np.hypot(
            np.linalg.norm(end.classifier - start.classifier),
            np.linalg.norm(end.embeddings - start.embeddings),
        )
        assert moved == pytest.approx(0.3 / np.sqrt(number + 1), rel=1e-10)


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 0.0), ("adamw", 0.0), ("adamw", 0.5)])
def test_the_first_step_of_adam_is_the_sign_of_the_slope(narrow, optimizer, decay):
    # Both means are corrected to g and g^2, so the step is rate * g / (|g| + 1e-8); decoupled
    # decay takes rate * decay of the weights away before it.
    before, factors = _one_step(narrow, optimizer=optimizer, learning_rate=0.01, weight_decay=decay)
    for (start, end), slope in zip(factors, _slopes(before, narrow), strict=True):
        expected = (1 - 0.01 * decay) * start - 0.01 * slope / (np.abs(slope) + 1e-8)
        np.testing.assert_allclose(end, expected, rtol=1e-10, atol=1e-12)


def test_adam_with_a_ridge_is_not_decoupled_decay(narrow):
    # With a ridge the slope changes, of which only the sign matters in the first step.
    before, factors = _one_step(narrow, optimizer="adam", learning_rate=0.01, lam=0.5)
    for (start, end), slope in zip(factors, _slopes(before, narrow, 0.5), strict=True):
        np.testing.assert_allclose(end, start - 0.01 * slope / (np.abs(slope) + 1e-8), rtol=1e-9)


def test_the_rate_falls_after_the_steps_that_are_named(narrow):
    # With rate 0 from step 2 on, nothing moves any more.
    run = train_ufm(narrow, dim=4, steps=4, decays={2: 0.0}, log_steps=range(5), initial_std=0.5)
    moved = [
        bool((a.classifier != b.classifier).any())
        for a, b in zip(run.checkpoints[:-1], run.checkpoints[1:], strict=True)
    ]
    assert moved == [True, True, False, False]
    assert run.settings["learning_rate"] == 1.0
    assert PUBLISHED_DECAYS["synthetic"][5000] == 0.4


def test_checkpoints_lie_at_the_published_steps(narrow):
    assert published_steps(3500) == [0, 1, 10, 100, 1000, 2000, 3000, 3500]
    assert published_steps(10) == [0, 1, 10]
    run = train_ufm(narrow, dim=4, steps=12)
    assert [line["step"] for line in run.log] == [0, 1, 10, 12]
    assert [c.step for c in train_ufm(narrow, dim=4, steps=9, log_steps=[3]).checkpoints] == [3]


def test_a_checkpoint_says_its_norms_and_losses(narrow):
    first = train_ufm(narrow, dim=4, steps=0, initial_std=0.7).checkpoints[0]
    loss = objective(first.classifier, first.embeddings, narrow, 0.0)
    assert first.excess == pytest.approx(loss - narrow.entropy, rel=1e-10)
    assert first.classifier_norm == pytest.approx(np.sqrt((first.classifier**2).sum()))
    assert first.embedding_norm == pytest.approx(np.sqrt((first.embeddings**2).sum()))
    # Differences within the support of context 0 should be log ratios of its probabilities.
    p, support = narrow.probabilities.toarray(), narrow.matrix
    error = 0.0
    for j in range(narrow.n_contexts):
        inside = first.logits[support[:, j], j] - np.log(p[support[:, j], j])
        error += ((inside - inside.mean()) ** 2).sum()
    assert first.finite_error == pytest.approx(np.sqrt(error), rel=1e-10)


@pytest.mark.parametrize("optimizer", ["gd", "ngd", "adam", "adamw"])
def test_a_seed_repeats_a_run_and_float32_follows_float64(narrow, optimizer):
    def end(**asked):
        return train_ufm(narrow, dim=6, optimizer=optimizer, steps=60, **asked).checkpoints[-1]

    double = end()
    np.testing.assert_array_equal(double.classifier, end().classifier)
    assert (end(seed=1).classifier != double.classifier).any()
    single = end(dtype=torch.float32)
    assert single.excess == pytest.approx(double.excess, rel=1e-4)
    assert single.classifier.dtype == np.float64
    np.testing.assert_allclose(single.embeddings, double.embeddings, atol=1e-3)


def test_descent_with_a_ridge_ends_at_the_point_of_the_path(narrow):
    lam = 1e-2
    [point] = ridge_path(narrow, [lam], dim=16, threshold=1e-6)
    end = train_ufm(narrow, dim=16, steps=3000, lam=lam, learning_rate=2.0).checkpoints[-1]
    assert end.excess == pytest.approx(point.excess, rel=1e-4)
    np.testing.assert_allclose(end.logits, point.logits, atol=1e-3)


@pytest.mark.parametrize("name", ["narrow", "wide", "varied"])
def test_plain_descent_turns_towards_the_solution(name):
    # Without a ridge, 20,000 steps; about half a second each.
    asked = SETS[name]
    labels = asked.labels()
    run = train_ufm(
        labels, dim=asked.dim, steps=20_000, log_steps=[1000, 2000, 5000, 10_000, 20_000]
    )
    solution = solve_svm(labels.matrix, gap=1e-6).logits
    cosines = np.array(
        [
            list(vars(limit_cosines(c.classifier, c.embeddings, solution)).values())
            for c in run.checkpoints
        ]
    )
    assert (np.diff(cosines, axis=0) > 0).all()
    assert cosines[-1].min() >= 0.90
    end = run.checkpoints[-1]
    assert end.excess < 5e-4
    assert 0.99 <= end.classifier_norm / end.embedding_norm <= 1.01


def test_normalised_descent_does_not_hover(narrow):
    # With steps of one length the excess stays near 3e-3.
    assert train_ufm(narrow, dim=16, optimizer="ngd", steps=2000).checkpoints[-1].excess < 1e-3


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dim": 0}, "dim: 0, expected > 0"),
        ({"steps": -1}, "steps: -1, expected >= 0"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0, expected > 0"),
        ({"lam": -1.0}, "lam: -1.0, expected >= 0"),
        ({"weight_decay": 0.1}, "weight_decay: is for 'adamw', not 'gd'; lam is the ridge"),
        ({"n_pairs": 0}, "n_pairs: 0, expected > 0"),
        ({"log_steps": [0, 30]}, "log_steps: 0 to 30, expected within 0 to 20"),
        ({"learning_rate": 1e5}, "learning_rate: the training diverged before step 20, at a rate"),
    ],
)
def test_what_makes_no_training_is_refused_by_name(narrow, asked, words):
    with pytest.raises(ValueError, match=words):
        train_ufm(narrow, **{"dim": 4, "steps": 20} | asked)
