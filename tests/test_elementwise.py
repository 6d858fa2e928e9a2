import numpy as np
import pytest
import torch

from tightframe.geometry import elementwise


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


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 23, 1000])
def test_the_sum_of_logarithms_is_that_of_each(n, scale):
    # Products of eight would over- or underflow at the outer scales.
    values = torch.from_numpy(np.random.default_rng(n).random(n) + 0.01) * scale
    expected = np.log(values.numpy()).sum()
    least = float(values.min()) if n else 0.0
    found = elementwise.sum_of_logs(values, least, spare=torch.empty_like(values))
    assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.usefixtures("either")
def test_the_least_of_the_present_numbers_is_found_among_absent_ones():
    nan = float("nan")
    assert elementwise.least_present(torch.tensor([nan, 3.0, 2.0], dtype=torch.float64)) == 2
    assert np.isnan(elementwise.least_present(torch.tensor([nan, nan], dtype=torch.float64)))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.97, 1.0])
def test_what_a_mask_picks_does_not_depend_on_its_share(share):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((20, 30)))
    mask = torch.from_numpy(rng.random((20, 30)) < share)
    assert torch.equal(elementwise.picked(values, mask), values[mask])


@pytest.mark.usefixtures("either")
def test_the_least_along_a_dimension_and_its_first_place():
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 3, size=(7, 9)).astype(float))
    for dim in (0, 1):
        least = elementwise.least_along(values, dim)
        assert torch.equal(least, values.amin(dim))
        some = torch.tensor([0, 2, 5])
        places = elementwise.places_of_least(values, dim, some)
        by_class = values.T if dim == 0 else values
        assert places.tolist() == [by_class[i].tolist().index(least[i]) for i in some]
