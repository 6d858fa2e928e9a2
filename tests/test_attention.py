import functools

import pytest
import torch
import torch.nn.functional as F

from tightframe.lm import attention
from tightframe.lm.attention import CHUNK, attend


def projections(n_positions, width=8, rows=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, n_positions, 3 * width, generator=generator, dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def naive(projected, heads, scale, window):
    """Weights as one (T, T) matrix, hidden logits set to -inf."""
    rows, n_positions, triple = projected.shape
    query, key, value = projected.view(rows, n_positions, 3, heads, -1).permute(2, 0, 3, 1, 4)
    place = torch.arange(n_positions)
    back = place[:, None] - place
    hidden = (back < 0) | (back >= (window or n_positions))
    logits = (scale * query @ key.mT).masked_fill(hidden, -torch.inf)
    return (logits.softmax(-1) @ value).transpose(1, 2).reshape(rows, n_positions, triple // 3)


@pytest.mark.parametrize("short", [0, 512], ids=["sdpa", "chunks"])
@pytest.mark.parametrize(
    ("n_positions", "window"),
    [
        (1, 0),
        (CHUNK - 1, 5),
        (CHUNK, 0),
        (CHUNK + 1, CHUNK),
        (130, 1),
        (150, 0),
        (150, 70),
        (200, CHUNK - 1),
        (200, 199),
        (40, 41),
    ],
)
def test_both_ways_are_the_naive_one_with_its_gradient(monkeypatch, short, n_positions, window):
    monkeypatch.setattr(attention, "SHORT", short)
    projected = projections(n_positions)
    expected = naive(projected, heads=2, scale=0.7, window=window)
    found = attend(projected, None, heads=2, scale=0.7, window=window)
    (expected_gradient,) = torch.autograd.grad(expected.sin().sum(), projected)
    (gradient,) = torch.autograd.grad(found.sin().sum(), projected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("short", [0, 512], ids=["sdpa", "chunks"])
@pytest.mark.parametrize("window", [0, 30])
def test_a_mask_hides_what_it_says_in_both_ways(monkeypatch, short, window):
    # A prefix of 90 keys in one row and of 10 in the other, over two chunks of queries.
    monkeypatch.setattr(attention, "SHORT", short)
    projected = projections(100)
    place = torch.arange(100)
    prefix = torch.tensor([90, 10])[:, None, None]
    visible = ((place <= place[:, None]) | (place < prefix))[:, None]
    query, key, value = projected.view(2, 100, 3, 2, -1).permute(2, 0, 3, 1, 4)
    near = (place - place[:, None]).abs() < (window or 100)
    logits = (0.7 * query @ key.mT).masked_fill(~(visible & near), -torch.inf)
    expected = (logits.softmax(-1) @ value).transpose(1, 2).reshape(2, 100, 8)
    found = attend(projected, visible, heads=2, scale=0.7, window=window)
    (expected_gradient,) = torch.autograd.grad(expected.sin().sum(), projected)
    (gradient,) = torch.autograd.grad(found.sin().sum(), projected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [0, 20])
def test_bfloat16_is_float64_up_to_its_rounding(window):
    # bfloat16 keeps 8 bits: logits of about 2 are off by 0.4 %, hence weights by about 1 %.
    projected = projections(100)
    rounded = projected.detach().bfloat16().requires_grad_()
    exact = attend(rounded.double(), None, heads=2, scale=0.5, window=window)
    found = attend(rounded, None, heads=2, scale=0.5, window=window)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 0.01 * exact.norm()
    (exact_gradient,) = torch.autograd.grad(exact.square().sum(), rounded)
    (gradient,) = torch.autograd.grad(found.square().sum(), rounded)
    assert (gradient - exact_gradient).norm() < 0.02 * exact_gradient.norm()


def test_a_chunk_longer_than_the_window_sees_no_farther():
    # With window 1 a query sees itself alone: its mean of the values is its own value.
    projected = projections(3 * CHUNK + 7)
    found = attend(projected, None, heads=4, scale=3.0, window=1)
    torch.testing.assert_close(found, projected[:, :, 16:], rtol=0, atol=0)


def test_later_positions_change_nothing_however_large_they_are():
    projected = projections(200).detach()
    later = projected.clone()
    later[:, 90:] *= 1e6
    for window in (0, 50):
        found = [attend(x, None, heads=2, scale=1.0, window=window) for x in (projected, later)]
        assert torch.equal(found[0][:, :90], found[1][:, :90])


def test_gelu_is_torch_s_with_its_gradient():
    values = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-1e4, 1e4])])
    found = []
    for function in (attention.gelu, functools.partial(F.gelu, approximate="tanh")):
        leaf = values.clone().requires_grad_()
        (function(leaf) * 0.7).sum().backward()
        found.append((function(values), leaf.grad))
    (ours, by_us), (theirs, by_them) = found
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(by_us, by_them, atol=1e-6, rtol=1e-5)
