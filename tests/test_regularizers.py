import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from reference.regularizers import naive_terms
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry.closed_forms import sphere_log_kernel_mean
from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.interface import IGNORE
from tightframe.lm.options import Schedule, TrainOptions
from tightframe.lm.regularizers import (
    DECAY,
    SAMPLE,
    Averages,
    Regularizer,
    mean_log_kernel,
    no_averages,
    sampled_rows,
)
from tightframe.lm.runs import Run
from tightframe.lm.training import train
from tightframe.settings import resolve
from tiny_runs import Killed, killed_at, tiny_settings
from tiny_tokens import write_tokens

NAMES = ("dispersion", "class_dispersion", "cdnv", "duality")
N, D, V = 40, 5, 11


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny")


def example(seed=0):
    """Embeddings, classifier, targets and averages of a moment, in float64; class 3 is new."""
    draw = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(N, D, generator=draw, dtype=torch.float64)
    classifier = torch.randn(V, D, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, V - 2, (N,), generator=draw)
    targets[::7] = IGNORE
    means = torch.randn(V, D, generator=draw, dtype=torch.float64)
    seen = torch.ones(V, dtype=torch.float64)
    means[3], seen[3] = 0, 0
    return embeddings, classifier, targets, Averages(means, seen)


def copied(averages):
    return Averages(*(tensor.clone() for tensor in averages))


@pytest.mark.parametrize("name", NAMES)
def test_each_term_is_its_definition_in_plain_loops(name):
    embeddings, classifier, targets, averages = example()
    expected = naive_terms(embeddings, classifier, targets, averages, DECAY)
    found = Regularizer(name, 0.7, copied(averages), seed=0)(embeddings, classifier, targets, 1)
    assert float(found) == pytest.approx(0.7 * expected[name], rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_each_gradient_is_that_of_finite_differences(name):
    embeddings, classifier, targets, averages = example()

    def term(embeddings, classifier):
        # The averages so far are constants, so each call begins from the same ones.
        return Regularizer(name, 1.0, copied(averages), seed=0)(embeddings, classifier, targets, 1)

    given = (embeddings.requires_grad_(), classifier.requires_grad_())
    assert torch.autograd.gradcheck(term, given, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_along_the_gradient_lowers_the_term(name):
    embeddings, classifier, targets, averages = example()
    parts = embeddings.requires_grad_(), classifier.requires_grad_()

    def term(embeddings, classifier):
        return Regularizer(name, 1.0, copied(averages), seed=0)(embeddings, classifier, targets, 1)

    before = term(*parts)
    before.backward()
    rate = 1e-4
    after = term(*(p.detach() if p.grad is None else p.detach() - rate * p.grad for p in parts))
    squared = sum(float(p.grad.square().sum()) for p in parts if p.grad is not None)
    assert squared > 0
    assert float((before - after).detach()) == pytest.approx(rate * squared, rel=0.05)


def test_a_simplex_has_the_lowest_kernel():
    # n unit vectors of a simplex lie at squared distance 2n / (n - 1) from each other.
    rows = torch.eye(5, dtype=torch.float64) - 1 / 5
    assert float(mean_log_kernel(3 * rows)) == pytest.approx(-math.log(10 / 4) / 2, rel=1e-12)


def test_the_kernel_of_uniform_directions_is_that_of_the_sphere():
    rows = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(mean_log_kernel(rows)) == pytest.approx(sphere_log_kernel_mean(16), abs=2e-4)


def test_rows_in_one_direction_stay_finite():
    rows = torch.ones(3, 4, requires_grad=True)
    kernel = mean_log_kernel(rows)
    kernel.backward()
    assert kernel.isfinite()
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("name", ["class_dispersion", "cdnv"])
@pytest.mark.parametrize("targets", [[4, 4, 4], [IGNORE, IGNORE, 2]])
def test_a_batch_of_one_class_has_no_pairs_to_push(name, targets):
    regularizer = Regularizer(name, 1.0, no_averages(V, D), seed=0)
    assert regularizer(torch.randn(3, D), torch.randn(V, D), torch.tensor(targets), 1) == 0


def test_averages_follow_the_batches_of_their_class():
    averages = no_averages(4, 2)
    regularizer = Regularizer("duality", 1.0, averages, seed=0)
    for value in (1.0, 3.0):
        regularizer(torch.full((2, 2), value), torch.randn(4, 2), torch.tensor([1, 1]), 1)
    # The first mean is 1 and the second batch's 3: 0.9 x 1 + 0.1 x 3.
    torch.testing.assert_close(averages.means[1], torch.full((2,), 1.2))
    assert averages.seen.tolist() == [0, 1, 0, 0]


def test_sampled_rows_are_a_function_of_seed_and_step():
    first = sampled_rows(5000, 3, 7)
    assert len(first.unique()) == SAMPLE
    assert torch.equal(first, sampled_rows(5000, 3, 7))
    assert not torch.equal(first, sampled_rows(5000, 3, 8))
    assert not torch.equal(first, sampled_rows(5000, 4, 7))
    assert sampled_rows(10, 0, 1).tolist() == list(range(10))


def weights(run):
    return dict(load_checkpoint(run.checkpoint(run.steps[-1])).named_parameters())


def files(run):
    return (run.checkpoint(run.steps[-1]) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_training_minimizes_loss_and_term(tokens, tmp_path, name):
    settings = tiny_settings(tokens, tmp_path / "run", regularizer=name, strength=0.3, log_every=1)
    run = train(dataclasses.replace(settings, checkpoints=(0.0,)))
    model = load_checkpoint(run.checkpoint(0)).double()
    split = TokenShards.open(tokens).split("train")
    rows, lengths = split.rows(next(Schedule(settings, split.n_blocks).batches(0)))
    inputs, targets = rows[:, :-1], rows[:, 1:].clone()
    targets[torch.arange(1, rows.shape[1]) >= lengths[:, None]] = IGNORE
    embeddings = model.embed(inputs)
    loss = F.cross_entropy(model.head(embeddings).flatten(0, 1), targets.flatten())
    unseen = no_averages(len(model.classifier), settings.width)
    term = naive_terms(
        embeddings.flatten(0, 1), model.classifier, targets.flatten(), unseen, DECAY
    )[name]
    assert run.log[1]["loss"] == pytest.approx(float(loss.detach()) + 0.3 * term, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(tokens, tmp_path, name):
    values = {"regularizer": name, "strength": 0.5, "save_every": 2, "log_every": 1}
    plain = train(tiny_settings(tokens, tmp_path / "plain", **values))
    settings = tiny_settings(tokens, tmp_path / "killed", **values)
    for step in (3, 6):
        with pytest.raises(Killed):
            train(settings, hooks=[killed_at(step)])
    assert files(train(settings)) == files(plain)


def test_strength_zero_changes_no_bit(tokens, tmp_path):
    plain = train(tiny_settings(tokens, tmp_path / "plain"))
    zero = tiny_settings(tokens, tmp_path / "zero", regularizer="cdnv", strength=0.0)
    assert files(train(zero)) == files(plain)
    assert "\nstrength" not in (plain.path / "config.toml").read_text()
    assert Run.open(plain.path).settings.regularizer is None


def test_bf16_keeps_the_term_in_float32(tokens, tmp_path):
    values = {"regularizer": "class_dispersion", "strength": 0.5, "precision": "bf16"}
    run = train(tiny_settings(tokens, tmp_path / "run", **values))
    assert all(value.isfinite().all() for value in weights(run).values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"regularizer": "cdnv"}, "belong together"),
        ({"strength": 1.0}, "belong together"),
        ({"regularizer": "collapse", "strength": 1.0}, "regularizer"),
        ({"regularizer": "cdnv", "strength": -1.0}, "strength"),
        ({"regularizer": "cdnv", "strength": math.inf}, "strength"),
    ],
)
def test_a_regularizer_that_cannot_be_is_refused_in_one_line(tokens, tmp_path, values, message):
    values = {"tokens": tokens, "out": tmp_path / "run", **values}
    with pytest.raises(UserError, match=message) as caught:
        resolve(TrainOptions, values, source="lab.toml")
    assert "\n" not in str(caught.value)
