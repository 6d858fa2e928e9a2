import numpy as np
import pytest
import torch

from tightframe.geometry import order_statistics
from tightframe.geometry.order_statistics import QuantileBracket, StreamingQuantile


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
    return StreamingQuantile(lambda n: (n - 1) // 2)


def largest_hundredth():
    return StreamingQuantile(lambda n: n - -(-n // 100), tail=True)


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
    monkeypatch.setattr(order_statistics, "CAPACITY", capacity)
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
    monkeypatch.setattr(order_statistics, "CAPACITY", 1)
    _, passes = run(median, np.random.default_rng(0).random(10_000))
    assert 2 < passes <= 5


def test_values_beyond_the_fine_bins_take_six_passes_at_most(monkeypatch):
    # The end bins hold all below 2**-64 and from 2**64 up: the first pass tells nothing there.
    monkeypatch.setattr(order_statistics, "CAPACITY", 1)
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


def in_a_bracket(make, values, sample, *, infinite=0):
    """The selection that a sample tells where to look, and the passes that it took."""

    def told():
        chosen = make()
        tail = make is largest_hundredth
        part = torch.tensor(sample, dtype=torch.float64)
        chosen.look_in(QuantileBracket.around(chosen._rank_of, part, n=len(values), tail=tail))
        return chosen

    return run(told, values, infinite=infinite)


@pytest.mark.parametrize("size", [1, 10, 500])
def test_a_sample_changes_no_result(size):
    rng = np.random.default_rng(size)
    for name, values in streams(2000, rng).items():
        for infinite in (0, 1, 700, 3000):
            everything = np.append(values, [np.inf] * infinite)
            ordered = np.sort(everything)
            middle = (len(ordered) - 1) // 2
            found, _ = in_a_bracket(median, values, rng.choice(everything, size), infinite=infinite)
            assert (found.value, found.next_value) == (ordered[middle], ordered[middle + 1]), name
        found, _ = in_a_bracket(largest_hundredth, values, rng.choice(values, size))
        assert found.tail == pytest.approx(np.sort(values)[-20:].sum(), rel=1e-12), name


@pytest.mark.parametrize("make", [median, largest_hundredth])
def test_a_good_sample_saves_all_passes_but_one(make):
    rng = np.random.default_rng(0)
    values = rng.random(10_000)
    assert in_a_bracket(make, values, rng.choice(values, 1000))[1] == 1


@pytest.mark.parametrize("off", [-10.0, 0.0, 10.0])
def test_a_sample_that_misleads_costs_passes_and_nothing_else(off):
    values = 20 + np.random.default_rng(0).random(1001)
    found, passes = in_a_bracket(median, values, values[:500] + off)
    assert found.value == np.median(values)
    assert passes == (1 if off == 0 else 3)


def test_a_bracket_that_is_too_full_is_given_up(monkeypatch):
    # The sample says that few values lie in its bracket (none but two), the stream has them all.
    monkeypatch.setattr(order_statistics, "CAPACITY", 1)
    values = 1 + np.random.default_rng(0).random(10_000)
    sample = np.repeat([0.0, 1.0, 2.0, 3.0], [30, 20, 20, 30]) + 1e-9
    bracket = QuantileBracket(1.0, 2.0, capacity=100)
    chosen = median()
    chosen.look_in(bracket)
    for part in np.array_split(values, 10):
        chosen.add(torch.tensor(part))
    assert len(bracket._members) == 100
    assert not chosen.end_pass()
    found, _ = in_a_bracket(median, values, sample)
    assert found.value == np.sort(values)[4999]


def test_equal_values_are_counted_and_not_kept():
    # Both ends of the bracket are 0: of 10,000 zeros among 15,000 values, none needs memory.
    values = np.append(np.zeros(10_000), 1 + np.random.default_rng(0).random(5_000))
    chosen = median()
    bracket = QuantileBracket.around(chosen._rank_of, torch.tensor(values[::15]), n=len(values))
    chosen.look_in(bracket)
    chosen.add(torch.tensor(values))
    assert bracket._members is None
    assert chosen.end_pass()
    assert (chosen.value, chosen.next_value) == (0, 0)


@pytest.mark.parametrize("tail", [False, True])
def test_parts_of_a_stream_in_brackets_are_joined(tail):
    values = np.random.default_rng(3).random(6000) ** 3
    whole = largest_hundredth() if tail else median()
    sample = torch.tensor(values[::6])
    whole.look_in(QuantileBracket.around(whole._rank_of, sample, n=len(values), tail=tail))
    parts = [whole.part(), whole.part()]
    for place, stream in enumerate(np.array_split(values, 7)):
        [whole, *parts][place % 3].add(torch.tensor(stream))
    for part in parts:
        whole.join(part)
    assert whole.end_pass()
    ordered = np.sort(values)
    rank = len(values) - len(values) // 100 if tail else (len(values) - 1) // 2
    assert (whole.value, whole.next_value) == (ordered[rank], ordered[rank + 1])
    if tail:
        assert whole.tail == pytest.approx(ordered[rank:].sum(), rel=1e-13)
