import math

import pytest
import torch
import torch.nn.functional as F

from tightframe.lm import loss as loss_module
from tightframe.lm.interface import IGNORE
from tightframe.lm.loss import cross_entropy, score


def problem(n=37, width=5, vocabulary=11, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings, classifier, bias = (
        torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
        for shape in ((n, width), (vocabulary, width), (vocabulary,))
    )
    targets = torch.randint(vocabulary, (n,), generator=generator)
    return embeddings, classifier, bias, targets


def small_chunks(monkeypatch, rows, vocabulary=11):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", rows * vocabulary)
    monkeypatch.setattr(loss_module, "MIN_ROWS", 1)


def test_weights_multiply_losses_and_gradients():
    # By hand: the sum of weight times loss over the number of labelled positions.
    generator = torch.Generator().manual_seed(0)
    embeddings, classifier = (
        torch.randn(7, 4, generator=generator),
        torch.randn(9, 4, generator=generator),
    )
    targets, weights = torch.tensor([0, 3, IGNORE, 8, 2, 2, 1]), torch.rand(7, generator=generator)
    weights[4] = 0.0
    leaves = [embeddings.requires_grad_(), classifier.requires_grad_()]
    losses = F.cross_entropy(embeddings @ classifier.T, targets, reduction="none")
    expected = (losses * weights).sum() / 6
    found = cross_entropy(embeddings, classifier, None, targets, weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    theirs, ours = (torch.autograd.grad(loss, leaves) for loss in (expected, found))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    # softmax is uniform, so the loss is ln V; its gradient by row c is the mean embedding times
    # (1 / V - share of positions labelled c).
    embeddings = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    classifier = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
    value = cross_entropy(embeddings, classifier, None, torch.tensor([5, 5]))
    value.backward()
    assert value.item() == pytest.approx(math.log(8), rel=1e-12)
    assert classifier.grad[0].tolist() == pytest.approx([2 / 8, 3 / 8], rel=1e-12)
    assert classifier.grad[5].tolist() == pytest.approx([-2 * 7 / 8, -3 * 7 / 8], rel=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 36, 37, 1024])
@pytest.mark.parametrize("biased", [True, False])
def test_loss_and_gradients_are_those_of_the_whole_matrix(monkeypatch, rows, biased):
    small_chunks(monkeypatch, rows)
    embeddings, classifier, bias, targets = problem()
    parameters = [embeddings, classifier, bias][: 2 + biased]
    naive = F.cross_entropy(F.linear(embeddings, classifier, bias if biased else None), targets)
    expected = torch.autograd.grad(naive, parameters)
    value = cross_entropy(embeddings, classifier, bias if biased else None, targets)
    found = torch.autograd.grad(value, parameters)
    assert value.item() == pytest.approx(naive.item(), rel=1e-12)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_gradients_agree_with_finite_differences(monkeypatch):
    small_chunks(monkeypatch, rows=3)
    embeddings, classifier, bias, targets = problem(n=7)
    assert torch.autograd.gradcheck(
        lambda *parameters: cross_entropy(*parameters, targets), (embeddings, classifier, bias)
    )


def test_the_gradient_is_scaled_by_what_follows_the_loss():
    embeddings, classifier, _, targets = problem()
    value = cross_entropy(embeddings, classifier, None, targets)
    (once,) = torch.autograd.grad(value, embeddings, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * value, embeddings)
    torch.testing.assert_close(thrice, 3 * once)


def test_a_classifier_without_gradient_gets_none():
    embeddings, classifier, _, targets = problem()
    value = cross_entropy(embeddings, classifier.detach(), None, targets)
    value.backward()
    naive = F.cross_entropy(embeddings @ classifier.detach().T, targets)
    (expected,) = torch.autograd.grad(naive, embeddings)
    torch.testing.assert_close(embeddings.grad, expected)
    assert classifier.grad is None


def test_unlabelled_positions_count_for_nothing():
    embeddings, classifier, bias, targets = problem()
    targets[::3] = IGNORE
    value = cross_entropy(embeddings, classifier, bias, targets)
    value.backward()
    assert value.item() == pytest.approx(
        F.cross_entropy(F.linear(embeddings, classifier, bias), targets).item(), rel=1e-12
    )
    assert not embeddings.grad[::3].any()
    assert embeddings.grad[1::3].any(dim=1).all()


def test_only_unlabelled_positions_are_refused():
    embeddings, classifier, _, targets = problem()
    with pytest.raises(ValueError, match="no labelled positions: every target is IGNORE"):
        cross_entropy(embeddings, classifier, None, torch.full_like(targets, IGNORE))


def test_huge_logits_stay_finite():
    # One logit of 1e4 and the rest 0: the loss is 1e4 at any other target, 0 at its own.
    embeddings = torch.tensor([[1e4], [1e4]], requires_grad=True)
    classifier = torch.tensor([[1.0], [0.0], [0.0]])
    value = cross_entropy(embeddings, classifier, None, torch.tensor([0, 2]))
    value.backward()
    assert value.item() == pytest.approx(5e3)
    assert embeddings.grad.flatten().tolist() == pytest.approx([0, 0.5])


def test_bf16_products_keep_a_float32_softmax():
    # bfloat16 has 8 significant bits: each logit is off by at most 2**-8 of its size, about 1e-2
    # here, and the mean over 4,000 positions by far less; a bfloat16 softmax would miss by 1e-2.
    embeddings, classifier, _, targets = problem(4000, 16, 50, dtype=torch.float32)
    naive = F.cross_entropy(embeddings.double() @ classifier.double().T, targets)
    expected = torch.autograd.grad(naive, (embeddings, classifier))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cross_entropy(embeddings, classifier, None, targets)
    found = torch.autograd.grad(value, (embeddings, classifier))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(naive.item(), rel=1e-3)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("rows", [1, 5, 1024])
def test_scores_are_those_of_the_whole_matrix(monkeypatch, rows):
    small_chunks(monkeypatch, rows)
    embeddings, classifier, bias, targets = problem(dtype=torch.float32)
    targets[4] = IGNORE
    keep = targets != IGNORE
    logits = F.linear(embeddings, classifier, bias)[keep]
    losses, hits = score(
        lambda x: F.linear(x, classifier, bias), embeddings, targets, n_classes=len(classifier)
    )
    expected = F.cross_entropy(logits.double(), targets[keep], reduction="none")
    torch.testing.assert_close(losses, expected.float())
    assert hits.tolist() == (logits.argmax(1) == targets[keep]).tolist()


def test_the_first_of_equal_logits_is_the_decision():
    embeddings = torch.ones(2, 3)
    losses, hits = score(lambda x: x, embeddings, torch.tensor([0, 2]), n_classes=3)
    assert hits.tolist() == [True, False]
    assert losses.tolist() == pytest.approx([math.log(3)] * 2)


def test_memory_of_all_logits_is_never_asked_for(monkeypatch):
    # 64 positions in chunks of 4 rows: no buffer may have 64 * 11 elements.
    small_chunks(monkeypatch, rows=4)
    embeddings, classifier, _, targets = problem(n=64)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                Largest.elements = max(Largest.elements, result.numel())
            return result

    with Largest():
        cross_entropy(embeddings, classifier, None, targets).backward()
    assert Largest.elements == 64 * 5
