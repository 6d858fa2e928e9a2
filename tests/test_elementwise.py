import numpy as np
import pytest
import torch

from tightframe.moments import elementwise


@pytest.fixture(params=[0, 10**6], ids=["torch", "numpy"])
def either(request, monkeypatch):
    """Either library, whatever this machine would choose."""
    monkeypatch.setattr(elementwise, "CORES", request.param)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.usefixtures("either")
def test_both_libraries_give_the_same_numbers():
    values = torch.from_numpy(np.random.default_rng(0).random((7, 33)) + 0.01)
    out = torch.empty_like(values)
    for name in ("log", "exp", "sqrt"):
        found = getattr(elementwise, name)(values, out=out)
        assert found is out
        np.testing.assert_allclose(out, getattr(np, name)(values.numpy()), rtol=1e-14)
    assert elementwise.least(values) == float(np.min(values.numpy()))
    assert elementwise.greatest(values) == float(np.max(values.numpy()))
    bound = float(values[3, 3])
    above, from_on = elementwise.above(values, bound), elementwise.from_on(values, bound)
    assert elementwise.count(from_on) == elementwise.count(above) + 1  # the bound itself
    assert torch.equal(elementwise.picked(values, above), values[values > bound])


@pytest.mark.usefixtures("either")
def test_an_absent_number_is_neither_least_nor_greatest_nor_above():
    values = torch.tensor([1.0, float("nan"), 3.0], dtype=torch.float64)
    assert np.isnan(elementwise.least(values))
    assert np.isnan(elementwise.greatest(values))
    assert elementwise.above(values, 0.0).tolist() == [True, False, True]
