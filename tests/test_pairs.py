import itertools
import math

import numpy as np
import pytest
import torch

from tightframe.geometry import pair_statistics, pairs
from tightframe.geometry.pair_statistics import RunningMoments
from tightframe.geometry.pairs import Cdnv, UnitDistance, sweep

ALL = (
    *("moments", "logs", "roots", "median", "tail", "tail001", "least", "riesz"),
    *("rows", "largest", "smallest", "nearest"),
)


def points(k, dim, seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(k, dim)))
    return x - x.mean(0)


def units(x, origin=None, noise=None):
    origin = torch.zeros(x.shape[1], dtype=torch.float64) if origin is None else origin
    return UnitDistance((x - origin).norm(dim=1), origin, noise)


def requests(x, wanted=ALL, seed=1):
    """A CDNV, a debiased one of the first classes only, and directions from two origins."""
    rng = np.random.default_rng(seed)
    variances = torch.from_numpy(rng.random(len(x)))
    variances[:1] = 0
    noise = torch.from_numpy(rng.random(len(x)))
    some = len(x) * 2 // 3
    other = torch.from_numpy(rng.normal(size=x.shape[1]))
    cdnv = [name for name in wanted if name != "nearest"]
    return {
        "cdnv": (Cdnv(variances), cdnv),
        "debiased": (Cdnv(variances[:some], 2, noise[:some]), cdnv),
        "unit": (units(x), wanted),
        "elsewhere": (units(x, other), wanted),
    }


def numbers(summary):
    moments = [(m.n, m.mean, m.squares) for m in (summary.values, summary.logs, summary.roots)]
    nearest = [] if summary.nearest is None else summary.nearest.tolist()
    nearest += [] if summary.nearest_ids is None else summary.nearest_ids.tolist()
    scalars = [summary.pairs, summary.n, summary.tail_share, summary.least, summary.log_riesz]
    rows = [*summary.row_means.tolist(), *summary.row_counts.tolist()]
    extremes = [n for e in (summary.largest, summary.smallest) for n in (*e.i, *e.j, *e.values)]
    scalars += [summary.tail001_share, *rows, *map(float, extremes)]
    return [*itertools.chain(*moments), *scalars, *summary.middle, *nearest]


def naive(quantity, x):
    """Values of the pairs that have one, by loops; and how many have none."""
    values = naive_pairs(quantity, x)
    kept = [value for value in values.values() if value is not None]
    return np.array(kept), len(values) - len(kept)


def naive_pairs(quantity, x):
    """Each pair's value, None where it has none."""
    values = {}
    k = len(quantity.variances if isinstance(quantity, Cdnv) else quantity.norms)
    for i, j in itertools.combinations(range(k), 2):
        if isinstance(quantity, Cdnv):
            base = float((x[i] - x[j]).square().sum())
            if quantity.noise is not None:
                base -= float(quantity.noise[i] + quantity.noise[j])
            half = float(quantity.variances[i] + quantity.variances[j]) / 2
            value = half / base**quantity.power if base > 0 else None
        else:
            u, v = ((x[c] - quantity.origin) / quantity.norms[c] for c in (i, j))
            value = float((u - v).square().sum())
        values[i, j] = value
    return values


@pytest.mark.parametrize("k", [3, 8, 21])
def test_every_reduction_is_that_of_the_plain_loops(k):
    x = points(k, 4)
    asked = requests(x)
    for name, summary in sweep(x, asked, tile=5).items():
        quantity = asked[name][0]
        values, without = naive(quantity, x)
        logs = np.log(values[values > 0])
        assert (summary.n, summary.pairs - summary.n) == (len(values), without)
        for found, expected in ((summary.values, values), (summary.logs, logs)):
            assert found.n == len(expected)
            assert found.mean == pytest.approx(expected.mean(), rel=1e-12)
            assert found.variance(ddof=0) == pytest.approx(expected.var(), rel=1e-10, abs=1e-28)
        assert summary.roots.mean == pytest.approx(np.sqrt(values).mean(), rel=1e-12)
        beyond = [math.inf] * without if quantity.noise is not None else []
        assert sum(summary.middle) / 2 == pytest.approx(np.median([*values, *beyond]), rel=1e-12)
        largest = np.sort(values)[-math.ceil(len(values) / 100) :].sum()
        assert summary.tail_share == pytest.approx(largest / values.sum(), rel=1e-12)
        largest = np.sort(values)[-math.ceil(len(values) / 1000) :].sum()
        assert summary.tail001_share == pytest.approx(largest / values.sum(), rel=1e-12)
        assert summary.least == pytest.approx(values.min(), rel=1e-12)
        riesz = (values[values > 0] ** -1.0).sum()  # D = 4: the exponent is -(D - 2)/2
        assert summary.log_riesz == pytest.approx(math.log(riesz), rel=1e-12)


@pytest.mark.parametrize("k", [3, 8, 21])
def test_rows_and_extreme_pairs_are_those_of_the_plain_loops(k):
    x = points(k, 4)
    asked = requests(x)
    for name, summary in sweep(x, asked, tile=5, extremes=6).items():
        quantity = asked[name][0]
        values = {p: v for p, v in naive_pairs(quantity, x).items() if v is not None}
        for c in range(quantity.k):
            mine = {p: v for p, v in values.items() if c in p}
            assert summary.row_counts[c] == len(mine)
            assert float(summary.row_sums[c]) == pytest.approx(sum(mine.values()), rel=1e-12)
            if "nearest" in asked[name][1]:
                i, j = min(mine, key=mine.get)
                assert int(summary.nearest_ids[c]) == i + j - c
                assert float(summary.nearest[c]) == pytest.approx(mine[i, j], rel=1e-12)
        for extremes, sign in ((summary.largest, -1), (summary.smallest, 1)):
            expected = sorted(values, key=lambda p, v=values, s=sign: (s * v[p], p))[:6]
            assert list(zip(extremes.i.tolist(), extremes.j.tolist(), strict=True)) == expected
            found = extremes.values.tolist()
            assert found == pytest.approx([values[p] for p in expected], rel=1e-12)


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 9, 64])
def test_ties_go_to_the_smallest_index_whatever_the_tile(tile):
    # The corners of a cross polytope: every class has six others at one angle, 90 degrees, and one
    # opposite. All numbers are powers of two, so that equal values are equal to the last bit.
    x = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    asked = {
        "unit": (units(x), ("nearest", "largest", "smallest")),
        "cdnv": (Cdnv(torch.ones(8).double()), ("rows", "largest")),
    }
    found = sweep(x, asked, tile=tile, extremes=5)
    assert found["unit"].nearest_ids.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert found["unit"].nearest.tolist() == [2.0] * 8
    assert found["unit"].smallest.i.tolist() == [0, 0, 0, 0, 0]
    assert found["unit"].smallest.j.tolist() == [1, 2, 3, 5, 6]
    assert found["unit"].smallest.values.tolist() == [2.0] * 5
    # The four opposite pairs, at distance 2, then the first of the others.
    largest = found["unit"].largest
    assert largest.i.tolist() == [0, 1, 2, 3, 0]
    assert largest.j.tolist() == [4, 5, 6, 7, 1]
    assert largest.values.tolist() == [4.0] * 4 + [2.0]
    # Six pairs at squared distance 2 and one at 4: 6/2 + 1/4.
    assert found["cdnv"].row_sums.tolist() == [3.25] * 8
    assert found["cdnv"].row_counts.tolist() == [7] * 8


def test_no_more_pairs_are_kept_than_there_are():
    x = points(3, 2)
    found = sweep(x, {"cdnv": (Cdnv(torch.ones(3).double()), ("largest", "smallest"))})["cdnv"]
    assert len(found.largest) == len(found.smallest) == 3
    assert found.largest.values.tolist() == found.smallest.values.flip(0).tolist()


def test_the_largest_pairs_are_found_among_many():
    # 300 points, two of them close: 44,850 pairs, of which one in a thousand is 45 pairs.
    x = points(300, 3)
    x[270] = x[17] + 1e-4
    x -= x.mean(0)
    quantity = Cdnv(torch.ones(300, dtype=torch.float64))
    values = naive_pairs(quantity, x)
    expected = sorted(values, key=values.get, reverse=True)
    found = sweep(x, {"cdnv": (quantity, ("largest", "tail001"))}, tile=64)["cdnv"]
    assert (
        list(zip(found.largest.i.tolist(), found.largest.j.tolist(), strict=True))
        == (expected[:20])
    )
    assert expected[0] == (17, 270)
    share = sum(values[p] for p in expected[:45]) / sum(values.values())
    assert found.tail001_share == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 7, 12])
def test_the_tile_never_changes_a_result(k):
    # All remainders of the last tile, tiles of one pair, and a tile larger than all.
    x = points(k, 3)
    expected = {name: numbers(s) for name, s in sweep(x, requests(x), tile=k).items()}
    for tile in range(1, k + 3):
        for name, summary in sweep(x, requests(x), tile=tile).items():
            assert numbers(summary) == pytest.approx(expected[name], rel=1e-11, nan_ok=True)


@pytest.mark.parametrize("k", [0, 1])
def test_without_pairs_nothing_is_averaged(k):
    x = points(k, 3) if k else torch.empty(0, 3, dtype=torch.float64)
    for summary in sweep(x, requests(x)).values():
        assert (summary.pairs, summary.n, summary.values.n) == (0, 0, 0)
        assert math.isnan(summary.values.mean)
        assert math.isnan(sum(summary.middle))
        assert all(math.isnan(mean) for mean in summary.row_means)
        assert (len(summary.largest), len(summary.smallest)) == (0, 0)


def test_classes_that_share_a_mean_are_counted_and_never_divided_by():
    # Four points, two of them one: five of six pairs have a distance.
    x = torch.tensor([[0.0, 0], [0.0, 0], [3.0, 4], [6.0, 8]], dtype=torch.float64)
    variances = torch.full((4,), 25.0, dtype=torch.float64)
    found = sweep(x, {"cdnv": (Cdnv(variances), ("moments", "median", "rows"))})["cdnv"]
    assert (found.pairs, found.n) == (6, 5)
    # Squared distances are 25 (three times) and 100 (twice), so the values 1 and 1/4.
    assert found.values.mean == pytest.approx((3 * 1 + 2 / 4) / 5)
    assert found.middle == (1, 1)
    # Neither of the two that share a mean is credited with their pair.
    assert found.row_counts.tolist() == [2, 2, 3, 3]
    assert found.row_means.tolist() == pytest.approx([5 / 8, 5 / 8, 1, 1 / 2])


def test_points_in_one_direction_are_counted_and_have_no_kernel():
    # The norms 3 and 7 don't divide without rounding: the unit vectors differ in their last bits.
    x = torch.tensor([[1, 2, 3], [3, 6, 9], [7, 14, 21], [-1, 0, 2]], dtype=torch.float64)
    found = sweep(x, {"unit": (units(x), ("logs", "nearest"))})["unit"]
    assert (found.pairs, found.n) == (6, 3)
    assert found.nearest[:3].tolist() == [0, 0, 0]
    assert found.logs.squares < 1e-24  # all three pairs are the same angle


def test_a_class_without_a_direction_is_left_out():
    x = points(5, 3)
    norms = x.norm(dim=1)
    norms[2] = math.nan
    origin = torch.zeros(3, dtype=torch.float64)
    found = sweep(x, {"unit": (UnitDistance(norms, origin), ("moments", "nearest"))})["unit"]
    assert (found.pairs, found.n) == (10, 6)
    assert math.isinf(found.nearest[2])
    assert found.nearest_ids[2] == -1
    assert found.nearest.isfinite().sum() == 4


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_near_pairs_keep_all_digits(gap):
    # By the product of matrices the squared distance would have lost 6, 12 and all 16 of them.
    x = torch.tensor([[1.0, 1], [1.0 + gap, 1], [-2.0 - gap, -2]], dtype=torch.float64)
    exact = float(x[1, 0] - x[0, 0]) ** 2  # what gap is after rounding
    found = sweep(x, {"cdnv": (Cdnv(torch.full_like(x[:, 0], 1.0)), ("tail",))})["cdnv"]
    largest = found.tail_share * found.values.mean * found.n
    assert largest == pytest.approx(1 / exact, rel=1e-12)


@pytest.mark.parametrize("distance", [1e2, 1e5, 1e8])
def test_directions_seen_from_far_away_keep_their_digits(distance):
    # Seen from -t e_1 all directions are nearly one; 2 - 2 cos would lose 4, 10 and 16 digits.
    x = points(6, 3)
    origin = torch.tensor([-distance, 0, 0], dtype=torch.float64)
    found = sweep(x, {"unit": (units(x, origin), ("least",))})["unit"]
    wide = x.numpy().astype(np.longdouble) - origin.numpy().astype(np.longdouble)
    u = wide / np.sqrt((wide**2).sum(1, keepdims=True))
    exact = min(((u[i] - u[j]) ** 2).sum() for i, j in itertools.combinations(range(6), 2))
    assert found.least == pytest.approx(float(exact), rel=1e-16 * distance + 1e-12)


def test_pairs_debiased_to_nothing_are_infinite_to_the_median():
    # Squared distances 1, 4, 9 minus 2 noise: one pair of three is at distance 0 or less.
    x = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
    quantity = Cdnv(torch.ones(3, dtype=torch.float64), 1, torch.ones(3, dtype=torch.float64))
    found = sweep(x, {"cdnv": (quantity, ("moments", "median"))})["cdnv"]
    assert (found.pairs, found.n, found.ranked) == (3, 2, 3)
    assert found.values.mean == pytest.approx((1 / 2 + 1 / 7) / 2)
    assert sum(found.middle) / 2 == pytest.approx(1 / 2)  # of 1/7, 1/2, inf


def test_directions_debiased_to_one_are_the_nearest_to_the_median():
    # Unit vectors at 90, 90 and 180 degrees: squared distances 2, 2, 4, less 2.5: one is left.
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0]], dtype=torch.float64)
    noise = torch.full((3,), 1.25, dtype=torch.float64)
    found = sweep(x, {"unit": (units(x, noise=noise), ("moments", "median"))})["unit"]
    assert (found.pairs, found.n, found.ranked) == (3, 1, 3)
    assert found.values.mean == pytest.approx(1.5)
    assert found.middle == (0, 0)  # of 0, 0, 1.5


def test_moments_are_those_of_the_whole_whatever_the_parts():
    values = np.random.default_rng(0).normal(size=200) * 1e-3 + 1e6
    for cuts in ([], [1], [0, 0, 199], [50, 60, 130]):
        moments = RunningMoments()
        for part in np.split(values, cuts):
            moments.take(torch.tensor(part))
        assert moments.n == 200
        assert moments.mean == pytest.approx(values.mean(), rel=1e-15)
        assert moments.variance(ddof=1) == pytest.approx(values.var(ddof=1), rel=1e-6)


def test_mistakes_of_the_caller_are_named():
    x = points(3, 2)
    with pytest.raises(TypeError, match=r"float64, got torch\.float32"):
        sweep(x.float(), {})
    with pytest.raises(ValueError, match="tile must be at least 1, got 0"):
        sweep(x, {}, tile=0)
    with pytest.raises(ValueError, match="extremes must be at least 1, got 0"):
        sweep(x, {}, extremes=0)


@pytest.mark.parametrize("group", [2, 5, 64])
def test_a_sample_of_pairs_changes_no_result(group, monkeypatch):
    x = points(60, 4)
    x[7] = x[3]
    asked = requests(x)
    asked["unit, debiased"] = (units(x[:40], x[0], torch.linspace(0, 9, 40).double()), ALL)
    expected = sweep(x, asked, tile=16)
    monkeypatch.setattr(pair_statistics, "KEPT", 0)
    monkeypatch.setattr(pairs, "GROUP", group)
    for name, summary in sweep(x, asked, tile=16).items():
        assert numbers(summary) == pytest.approx(numbers(expected[name]), rel=1e-12, nan_ok=True)


def test_medians_and_tails_of_many_pairs_take_one_pass(monkeypatch):
    passes = []
    tiles = pairs._upper_tiles

    def counted(*args):
        passes.append(args)
        return tiles(*args)

    monkeypatch.setattr(pairs, "_upper_tiles", counted)
    x = points(600, 3)  # 179,700 pairs, more than are kept
    # A tenth of the classes vary a hundred times as much: a sample must not miss them.
    variances = torch.where(torch.arange(600) % 10 == 0, 100.0, 1.0).double()
    quantity = Cdnv(variances)
    found = sweep(x, {"cdnv": (quantity, ("moments", "median", "tail", "tail001"))})["cdnv"]
    assert len(passes) == 1
    i, j = np.triu_indices(600, 1)
    halves = (variances[i] + variances[j]).numpy() / 2
    values = np.sort(halves / (x[i] - x[j]).square().sum(1).numpy())
    assert sum(found.middle) / 2 == pytest.approx(np.median(values), rel=1e-12)
    assert found.tail_share == pytest.approx(values[-1797:].sum() / values.sum(), rel=1e-10)
    assert found.tail001_share == pytest.approx(values[-180:].sum() / values.sum(), rel=1e-10)


def test_quantities_of_the_first_dimensions_share_a_sweep():
    # Of 40 points, 10 are one in the first three dimensions; the last are a million times wider.
    x = points(40, 6) * torch.tensor([1, 1, 1, 1, 1e3, 1e6]).double()
    x[:10, :3] = x[0, :3]
    x -= x.mean(0)
    wanted = ("logs", "least", "nearest", "median")
    asked = {str(dim): (units(x[:, :dim]), wanted) for dim in (6, 3, 4)}
    for dim, found in sweep(x, asked, tile=16).items():
        alone = sweep(x[:, : int(dim)].contiguous(), {dim: asked[dim]}, tile=16)[dim]
        assert found.n == alone.n == (780 - 45 if dim == "3" else 780)
        assert found.logs.mean == pytest.approx(alone.logs.mean, rel=1e-11)
        assert found.least == pytest.approx(alone.least, rel=1e-9)
        assert found.middle == pytest.approx(alone.middle, rel=1e-10)
        assert found.nearest_ids.tolist() == alone.nearest_ids.tolist()


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_moments_far_from_zero_keep_their_spread(offset):
    # Plain sums of squares would lose 6 and 12 digits of it.
    values = np.random.default_rng(0).normal(size=10_000)
    moments = RunningMoments()
    for part in np.split(values + offset, 4):
        moments.take(torch.tensor(part))
    exact = ((values + offset) - offset).var()  # after rounding
    assert moments.variance(ddof=0) == pytest.approx(exact, rel=1e-10)


def test_a_kernel_that_overflows_is_summed_by_its_logarithm():
    # In 2,002 dimensions the kernel of a pair at squared distance 1e-2 is 1e2000.
    x = torch.zeros(3, 2002, dtype=torch.float64)
    x[0, 0] = x[1, 0] = 1
    x[1, 1], x[2, 2] = 0.1, 1
    unit = units(x)
    found = sweep(x, {"unit": (unit, ("riesz",))})["unit"]
    near = 2 - 2 / math.sqrt(1.01)
    assert found.log_riesz == pytest.approx(-1000 * math.log(near), rel=1e-12)


@pytest.mark.parametrize("cores", [2, 3])
def test_the_number_of_cores_changes_no_result(cores, threads, monkeypatch):
    monkeypatch.setattr(pairs, "KEPT", 0)  # or so few pairs would stay on one
    monkeypatch.setattr(pair_statistics, "KEPT", 0)
    x = points(60, 4)
    x[7] = x[3]
    asked = requests(x)
    asked["unit, debiased"] = (units(x[:40], x[0], torch.linspace(0, 9, 40).double()), ALL)
    threads(1)
    expected = sweep(x, asked, tile=7)
    threads(cores)
    for name, summary in sweep(x, asked, tile=7).items():
        assert numbers(summary) == pytest.approx(numbers(expected[name]), rel=1e-11, nan_ok=True)
        if summary.nearest_ids is not None:
            assert torch.equal(summary.nearest_ids, expected[name].nearest_ids)
    assert torch.get_num_threads() == cores


def test_ties_go_to_the_smallest_index_whatever_core_finds_them(threads, monkeypatch):
    monkeypatch.setattr(pairs, "KEPT", 0)
    x = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    asked = {"unit": (units(x), ("nearest", "largest", "smallest"))}
    for cores in (2, 3, 4):
        threads(cores)
        found = sweep(x, asked, tile=1, extremes=5)["unit"]
        assert found.nearest_ids.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
        assert found.smallest.j.tolist() == [1, 2, 3, 5, 6]
        assert found.largest.i.tolist() == [0, 1, 2, 3, 0]


def test_cores_work_in_inference_mode_and_pass_errors_on(threads, monkeypatch):
    monkeypatch.setattr(pairs, "KEPT", 0)
    threads(2)
    with torch.inference_mode():
        x = points(20, 3)
        found = sweep(x, {"unit": (units(x), ("nearest", "rows"))}, tile=4)["unit"]
    assert found.row_counts.tolist() == [19] * 20

    def broken(*_):
        raise MemoryError("no tile")

    monkeypatch.setattr(pairs, "_reduce", broken)
    with pytest.raises(MemoryError, match="no tile"):
        sweep(x.clone(), {"unit": (units(x), ("rows",))}, tile=4)
    assert torch.get_num_threads() == 2


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_fewer_dimensions_are_the_first_of_the_turned_points():
    x = points(40, 6)
    x[:5, 1:] = x[0, 1:]  # near each other in the last axes, apart in the first
    rotated = x @ torch.linalg.qr(torch.from_numpy(np.random.default_rng(2).normal(size=(6, 6))))[0]
    variances = torch.linspace(1, 2, 40).double()
    asked = {str(dim): (units(rotated[:, :dim]), ("mean_log", "least")) for dim in (4, 2)}
    asked |= {"6": (units(x), ("logs", "median", "nearest")), "cdnv": (Cdnv(variances), ALL[:6])}
    found = sweep(x, asked, rotated=rotated, tile=16)
    for name, summary in found.items():
        own = rotated[:, : int(name)].contiguous() if name in ("4", "2") else x
        alone = sweep(own, {name: asked[name]}, tile=16)[name]
        assert summary.n == alone.n
        assert summary.logs.mean == pytest.approx(alone.logs.mean, rel=1e-11)
        assert summary.middle == pytest.approx(alone.middle, rel=1e-11, nan_ok=True)
        assert summary.least == pytest.approx(alone.least, rel=1e-9)


def test_near_points_keep_their_digits_where_they_are_turned():
    # In other axes, rounding moves points by 1e-16 of their norms: a millionth of this gap.
    x = torch.tensor([[1.0, 1], [1.0 + 1e-10, 1], [-2.0 - 1e-10, -2]], dtype=torch.float64)
    rotated = x @ torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    asked = {
        "cdnv": (Cdnv(torch.ones(3, dtype=torch.float64)), ("largest",)),
        "first": (units(rotated[:, :1]), ("largest",)),
    }
    largest = sweep(x, asked, rotated=rotated)["cdnv"].largest
    exact = float(x[1, 0] - x[0, 0]) ** 2  # what the gap is after rounding
    assert float(largest.values[0]) == pytest.approx(1 / exact, rel=1e-12)


@pytest.mark.parametrize("k", [2, 5, 30])
def test_a_mean_of_logarithms_needs_no_logarithm_a_pair(k):
    x = points(k, 4)
    variances = torch.rand(k, dtype=torch.float64)
    variances[:2] = 0  # two singletons: their pair has no logarithm
    for quantity in (Cdnv(variances), Cdnv(variances, 2), units(x)):
        found = sweep(x, {"": (quantity, ("mean_log",))}, tile=7)[""].logs
        expected = sweep(x, {"": (quantity, ("logs",))}, tile=7)[""].logs
        assert found.n == expected.n
        assert found.mean == pytest.approx(expected.mean, rel=1e-13, nan_ok=True)
        assert math.isnan(found.variance(ddof=0)) or found.n == 0


@pytest.mark.parametrize("spoil", ["near", "equal", "absent", "nothing"])
def test_a_mean_of_logarithms_alone_minds_pairs_that_are_near_or_absent(spoil):
    x = points(30, 4)
    far = {"near": x[2] * 3 * (1 + 1e-9), "equal": x[2] * 3}.get(spoil, x[20])
    x[20] = far + (1e-9 if spoil == "near" else 0)  # a pair of two tiles
    quantity = units(x)
    if spoil == "absent":
        quantity.norms[20] = math.nan
    found = sweep(x, {"": (quantity, ("mean_log",))}, tile=7)[""]
    expected = sweep(x, {"": (quantity, ("logs",))}, tile=7)[""]
    absent = {"absent": 29, "equal": 1}.get(spoil, 0)
    assert found.logs.n == expected.logs.n == found.n == 435 - absent
    assert found.logs.mean == pytest.approx(expected.logs.mean, rel=1e-13)
