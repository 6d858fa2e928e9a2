import numpy as np
import pytest
import torch

from tightframe.geometry import tiles


@pytest.fixture(params=[0, 10**6], ids=["torch", "numpy"])
def either(request, monkeypatch):
    """Either library, whatever this machine would choose."""
    monkeypatch.setattr(tiles, "CORES", request.param)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.usefixtures("either")
def test_both_libraries_give_the_same_numbers():
    values = torch.from_numpy(np.random.default_rng(0).random((7, 33)) + 0.01)
    out = torch.empty_like(values)
    for name in ("log", "exp", "sqrt"):
        found = getattr(tiles, name)(values, out=out)
        assert found is out
        np.testing.assert_allclose(out, getattr(np, name)(values.numpy()), rtol=1e-14)
    assert tiles.minimum(values) == float(np.min(values.numpy()))
    assert tiles.maximum(values) == float(np.max(values.numpy()))
    bound = float(values[3, 3])
    above, from_on = tiles.greater(values, bound), tiles.greater_equal(values, bound)
    assert tiles.count_true(from_on) == tiles.count_true(above) + 1  # the bound itself
    assert torch.equal(tiles.masked(values, above), values[values > bound])


@pytest.mark.usefixtures("either")
def test_an_absent_number_is_neither_least_nor_greatest_nor_above():
    values = torch.tensor([1.0, float("nan"), 3.0], dtype=torch.float64)
    assert np.isnan(tiles.minimum(values))
    assert np.isnan(tiles.maximum(values))
    assert tiles.greater(values, 0.0).tolist() == [True, False, True]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 23, 1000])
def test_the_sum_of_logarithms_is_that_of_each(n, scale):
    # Products of eight would over- or underflow at the outer scales.
    values = torch.from_numpy(np.random.default_rng(n).random(n) + 0.01) * scale
    expected = np.log(values.numpy()).sum()
    least = float(values.min()) if n else 0.0
    found = tiles.sum_of_logs(values, least, spare=torch.empty_like(values))
    assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.usefixtures("either")
def test_the_least_of_the_present_numbers_is_found_among_absent_ones():
    nan = float("nan")
    assert tiles.minimum_present(torch.tensor([nan, 3.0, 2.0], dtype=torch.float64)) == 2
    assert np.isnan(tiles.minimum_present(torch.tensor([nan, nan], dtype=torch.float64)))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.97, 1.0])
def test_what_a_mask_picks_does_not_depend_on_its_share(share):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((20, 30)))
    mask = torch.from_numpy(rng.random((20, 30)) < share)
    assert torch.equal(tiles.masked(values, mask), values[mask])


@pytest.mark.usefixtures("either")
def test_the_least_along_a_dimension_and_its_first_place():
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 3, size=(7, 9)).astype(float))
    for dim in (0, 1):
        least = tiles.minimum_along(values, dim)
        assert torch.equal(least, values.amin(dim))
        some = torch.tensor([0, 2, 5])
        places = tiles.argmin_along(values, dim, some)
        by_class = values.T if dim == 0 else values
        assert places.tolist() == [by_class[i].tolist().index(least[i]) for i in some]
