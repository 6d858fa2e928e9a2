import numpy as np
import pytest
import torch

from tightframe.moments import selection
from tightframe.moments.selection import Selection


def run(make, values, *, infinite=0, parts=3):
    """Feed the values in parts, again and again, until the selection is done."""
    chosen, passes = make(), 0
    while not chosen.done:
        for part in np.array_split(values, parts):
            chosen.add(torch.tensor(part, dtype=torch.float64))
        chosen.end_pass(infinite)
        passes += 1
    return chosen, passes


def median():
    return Selection(lambda n: (n - 1) // 2)


def largest_hundredth():
    return Selection(lambda n: n - -(-n // 100), tail=True)


def streams(n, rng):
    return {
        "uniform": rng.random(n),
        "over 400 orders of magnitude": np.exp(rng.normal(size=n) * 150).clip(max=1e300),
        "zeros": np.zeros(n),
        "three values": rng.integers(0, 3, n).astype(float),
        "two far ends": np.where(rng.random(n) < 0.5, 1e-300, 1e300),
        "within one bin": 1 + 1e-13 * rng.random(n),
    }


@pytest.mark.parametrize("capacity", [1, 4, 2**22])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 101, 1000])
def test_the_median_and_its_neighbour_are_those_of_the_sorted_stream(n, capacity, monkeypatch):
    monkeypatch.setattr(selection, "CAPACITY", capacity)
    for name, values in streams(n, np.random.default_rng(n)).items():
        for infinite in (0, 1, n):
            found, _ = run(median, values, infinite=infinite)
            ordered = np.sort(np.append(values, [np.inf] * infinite))
            middle = (len(ordered) - 1) // 2
            assert found.value == ordered[middle], name
            if middle + 1 < len(ordered):
                assert found.next_value == ordered[middle + 1], name


@pytest.mark.parametrize("n", [1, 99, 100, 101, 1000])
def test_the_tail_is_the_sum_of_the_largest_hundredth(n):
    for name, values in streams(n, np.random.default_rng(n)).items():
        found, _ = run(largest_hundredth, values)
        largest = np.sort(values)[-(-n // 100) * -1 :]
        assert found.tail == pytest.approx(largest.sum(), rel=1e-12), name


def test_two_passes_are_enough_where_the_bin_fits_into_memory():
    _, passes = run(median, np.random.default_rng(0).random(10_000))
    assert passes == 2


def test_a_small_memory_takes_more_passes(monkeypatch):
    monkeypatch.setattr(selection, "CAPACITY", 1)
    _, passes = run(median, np.random.default_rng(0).random(10_000))
    assert 2 < passes <= 5


def test_values_beyond_the_fine_bins_take_six_passes_at_most(monkeypatch):
    # The end bins hold all below 2**-64 and from 2**64 up: the first pass tells nothing there.
    monkeypatch.setattr(selection, "CAPACITY", 1)
    near_one_another = 1 + 1e-13 * np.random.default_rng(0).random(10_000)
    for scale in (1e-200, 1e200):
        found, passes = run(median, scale * near_one_another)
        assert passes == 6
        assert found.value == np.sort(scale * near_one_another)[4999]


def test_without_values_there_is_no_median():
    found, _ = run(median, np.empty(0))
    assert np.isnan(found.value)
    found, _ = run(median, np.empty(0), infinite=2)
    assert found.value == np.inf
