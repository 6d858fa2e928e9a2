import torch

from tightframe.geometry.stream import Projection


def test_a_projection_is_decided_by_its_seed_and_dimensions():
    assert torch.equal(Projection(8, seed=3).matrix(20), Projection(8, seed=3).matrix(20))
    assert not torch.equal(Projection(8, seed=3).matrix(20), Projection(8, seed=4).matrix(20))


def test_squared_distances_keep_their_mean_and_scatter_as_they_should():
    # |R^T x|^2 / |x|^2 is chi^2_P / P: mean 1, variance 2/P. 4,000 vectors, so the mean is known
    # to sqrt(2/64/4000) = 0.003, if they were independent; they share R: allow 0.05.
    x = torch.randn(4000, 512, generator=torch.Generator().manual_seed(0))
    ratios = (x @ Projection(64).matrix(512)).square().sum(1) / x.square().sum(1)
    assert abs(float(ratios.mean()) - 1) < 0.05
    assert 0.6 < float(ratios.var()) / (2 / 64) < 1.4
