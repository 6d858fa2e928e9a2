import math

import numpy as np
import pytest
import torch

from tightframe.geometry import dimensions, metrics
from tightframe.geometry.dimensions import DimensionMoments
from tightframe.geometry.moments import ClassMoments


def moments(x, **options):
    state = DimensionMoments(x.shape[1], **options)
    state.update(torch.as_tensor(x))
    return state


def embeddings(n=300, dim=5, offset=0.0, seed=0):
    """Skewed, heavy-tailed, each dimension of a scale of its own."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) ** 3 + rng.exponential(size=(n, dim))) * np.arange(
        1, dim + 1
    ) + offset


def naive(x):
    """The definitions in extended precision."""
    x = np.asarray(x, dtype=np.longdouble)
    gaps = x - x.mean(0)
    norms = np.sqrt((x**2).sum(1))
    return {
        "means": x.mean(0),
        "variances": (gaps**2).mean(0),
        "cubes": (gaps**3).sum(0),
        "kurtoses": (gaps**4).mean(0) / (gaps**2).mean(0) ** 2,
        "mean_squares": (x**2).mean(0),
        "direction": (x[norms > 0] / norms[norms > 0, None]).mean(0),
    }


def check(state, x, rel=1e-10):
    assert state.n == len(x)
    assert state.n_nonzero == int(x.any(1).sum())
    for name, value in naive(x).items():
        scale = float(abs(value).max())
        found = getattr(state, name).numpy()
        assert found == pytest.approx(value.astype(float), rel=rel, abs=rel * 1e-2 * scale), name


def test_coins_and_dice_have_known_moments():
    # A fair coin of +-1 has variance 1 and kurtosis 1; a die's deviations are +-1/2, 3/2, 5/2:
    # variance 35/12, fourth moment 707/48, kurtosis 303/175.
    coin, die = np.meshgrid([-1.0, 1.0], np.arange(1.0, 7.0))
    state = moments(np.stack([coin.ravel(), die.ravel()], 1))
    assert state.means.tolist() == pytest.approx([0, 3.5], abs=1e-15)
    assert state.variances.tolist() == pytest.approx([1, 35 / 12])
    assert state.kurtoses.tolist() == pytest.approx([1, 303 / 175])
    assert float(state.mean_squares.sum()) == pytest.approx(1 + 91 / 6)


@pytest.mark.parametrize("chunk", [5, 7 * 5, 1 << 16])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_moments_are_those_of_extended_precision(monkeypatch, chunk, offset):
    # 3,000 is a hundred standard deviations and more.
    monkeypatch.setattr(dimensions, "CHUNK", chunk)
    x = embeddings(offset=offset)
    check(moments(x), x)


@pytest.mark.parametrize("seed", range(5))
def test_batches_and_merges_change_nothing(seed):
    rng = np.random.default_rng(seed)
    x = embeddings(seed=seed, offset=50.0)
    x[rng.integers(0, 300, 10)] = 0
    states = [DimensionMoments(5) for _ in range(4)]
    for part in np.split(x[rng.permutation(300)], np.sort(rng.integers(0, 301, 9))):
        states[rng.integers(4)].update(torch.from_numpy(part))
    whole = states[0]
    for other in states[1:]:
        whole.merge(other)
    check(whole, x)


def test_states_of_any_number_of_embeddings_are_joined():
    # Each part is there 2^34 times, 1.7e12 and 3.4e12 embeddings: products of four such counts are
    # no 64-bit integers. Ratios of sums don't know how often the parts are there.
    x = embeddings(offset=9.0)
    states = [moments(x[:100]), moments(x[100:])]
    for state in states:
        for _ in range(34):
            state.merge(DimensionMoments.from_tensors(state.tensors()))
    whole = states[0]
    whole.merge(states[1])
    assert whole.n == 300 * 2**34
    for name, value in naive(x).items():
        expected = value.astype(float) * (2.0**34 if name == "cubes" else 1)
        assert getattr(whole, name).numpy() == pytest.approx(expected, rel=1e-10), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_of_any_float_type_are_widened_first(dtype):
    x = torch.from_numpy(embeddings(offset=9.0)).to(dtype).requires_grad_()
    check(moments(x), x.detach().double().numpy())


def test_a_saved_state_goes_on_as_if_nothing_had_happened():
    x = embeddings()
    state = moments(x[:100])
    again = DimensionMoments.from_tensors({k: v.clone() for k, v in state.tensors().items()})
    for each in (state, again):
        each.update(torch.from_numpy(x[100:]))
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name


def test_constant_dimensions_have_no_kurtosis_whatever_the_rounding():
    # Three times 0.1 is not 0.3: the mean is 1e-17 off.
    state = moments(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]))
    assert state.variances[0] == 0
    assert state.kurtoses.isnan().tolist() == [True, False]


def test_a_batch_that_is_not_finite_is_refused_whole():
    state = moments(embeddings())
    before = state.tensors() | {"means": state.means.clone()}
    bad = torch.from_numpy(embeddings())
    bad[250, 2] = math.nan
    with pytest.raises(ValueError, match="embeddings must be finite"):
        state.update(bad)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.tensors().items())
    with pytest.raises(ValueError, match=r"shape \(N, 5\), got \(2, 4\)"):
        state.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match="5 dimensions here, 4 there"):
        state.merge(DimensionMoments(4))
    with pytest.raises(ValueError, match="at least 1 dimension, got 0"):
        DimensionMoments(0)


# What is read off them


def found(x, labels=None, **options):
    """Measures of embeddings, each its own class unless labelled otherwise."""
    x = torch.as_tensor(np.asarray(x, dtype=np.float64))
    labels = torch.arange(len(x)) if labels is None else torch.as_tensor(labels)
    state = ClassMoments(int(labels.max()) + 1, x.shape[1])
    state.update(x, labels)
    state.dimensions = moments(x)
    names = [f"dim_{name}" for name in ("outliers", "kurtosis_med", "kurtosis_max", "top01_share")]
    names += ["dim_anisotropy", "nc2_equiang_mean_stdz"]
    return metrics(state, torch.ones(state.means.shape), measures=names, **options)


def test_outlier_dimensions_are_counted_and_hold_the_norm():
    # 128 dimensions of mean +-1/10 and variance 1; dimensions 3 and 90 lie at 40.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 128)) + np.where(np.arange(128) % 2, 0.1, -0.1)
    assert found(x)["dim_outliers"].value == 0
    assert found(x)["dim_top01_share"].value == pytest.approx(2 / 128, rel=0.1)
    x[:, [3, 90]] += 40
    values = found(x)
    assert values["dim_outliers"].value == 2
    # 1 % of 128 dimensions are two: 2 x 1,601 of 2 x 1,601 + 126 x 1.01.
    assert values["dim_top01_share"].value == pytest.approx(3202 / (3202 + 127), rel=0.01)
    assert values["dim_kurtosis_med"].value == pytest.approx(3, abs=0.1)
    # Nearly one direction: 1 - 126 / 3,328 of each squared norm is shared.
    assert values["dim_anisotropy"].value == pytest.approx(3202 / 3328, rel=0.01)


def test_without_a_common_direction_two_embeddings_are_orthogonal_on_average():
    # +-e_1 .. +-e_D: of the pairs with one of them, one is opposite and the others orthogonal.
    cross = np.concatenate([np.eye(4), -np.eye(4)])
    assert found(cross)["dim_anisotropy"].value == pytest.approx(-1 / 7, rel=1e-14)
    assert found(np.ones((3, 2)))["dim_anisotropy"].value == pytest.approx(1, rel=1e-14)
    with_zero = found(np.concatenate([cross, np.zeros((1, 4))]))["dim_anisotropy"]
    assert (with_zero.n, with_zero.excluded) == (8, 1)
    assert with_zero.reason == "embeddings that are 0: 1 left out"
    assert with_zero.value == pytest.approx(-1 / 7, rel=1e-14)


def test_what_is_constant_is_counted_and_what_is_undefined_says_why():
    values = found([[1.0, 5, 0], [3, 5, 1], [8, 5, 0]])
    assert (values["dim_kurtosis_max"].n, values["dim_kurtosis_max"].excluded) == (2, 1)
    assert values["dim_kurtosis_max"].reason == "constant dimensions: 1 left out"
    # Deviations -3, -1, 4 (and of a bit): 338 / 3 over (26 / 3)^2, 3 / 2 in any case.
    assert values["dim_kurtosis_max"].value == pytest.approx(1.5)
    same = found(np.ones((4, 2)))
    assert same["dim_kurtosis_med"].reason == "no embeddings, or all alike"
    kept = found([[1.0, 5], [3, 5], [8, 5]], [0, 0, 1], min_count=2)
    for name, value in kept.items():
        assert math.isnan(value.value), name
        assert value.reason == "the moments of dimensions hold classes that are left out", name
    state = ClassMoments(2, 2)
    without = metrics(state, torch.ones(2, 2), measures=["dim_outliers", "dim_anisotropy"])
    for value in without.values():
        assert value.reason == "the moments hold none of dimensions; measure with them"


def test_standardising_undoes_the_scale_of_each_dimension():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 4)), np.arange(60) % 12
    plain = found(x, labels)["nc2_equiang_mean_stdz"].value
    scaled = found(x * [1.0, 100.0, 0.01, 7.0], labels)["nc2_equiang_mean_stdz"].value
    assert scaled == pytest.approx(plain, rel=1e-10)
    constant = np.concatenate([x, np.full((60, 1), 0.1)], 1)  # says nothing of classes
    assert found(constant, labels)["nc2_equiang_mean_stdz"].value == pytest.approx(plain, rel=1e-10)


def test_what_is_not_kept_by_group_has_no_interval_and_says_so():
    x = torch.from_numpy(embeddings(n=120))
    state = ClassMoments(6, 5, groups=12)
    state.update(x, torch.arange(120) % 6, torch.arange(120) // 10)
    state.dimensions = moments(x)
    names = ["dim_anisotropy", "gnc2_log_kernel_excess_stdz", "gnc2_log_kernel_excess_pc1"]
    values = metrics(state, torch.ones(6, 5), measures=names)
    for name in names[:2]:
        assert math.isfinite(values[name].value)
        assert math.isnan(values[name].low)
        assert "the moments of dimensions are not kept by group" in values[name].reason
    assert "kept by group" not in values[names[2]].reason


def norms_of(*batches):
    histogram = dimensions.NormHistogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def test_a_few_long_embeddings_are_sinks():
    # 990 norms of 1 and 10 of 100: 1 % of the embeddings with 100,000 / 100,990 of the squares.
    x = torch.eye(4)[torch.arange(1000) % 4]
    x[::100] *= 100
    found = norms_of(x).sinks()
    assert found.share == 0.01
    assert found.times == pytest.approx(100, rel=0.05)
    assert found.weight == pytest.approx(100_000 / 100_990, rel=0.01)
    assert norms_of(x * 1e-9).sinks().share == norms_of(-x).sinks().share == 0.01


@pytest.mark.parametrize(
    "norms",
    [
        [1.0] * 100,  # all alike
        [1.0] * 9999 + [50.0],  # far out, but 2,500 of 12,499
        [1.0] * 10 + [9.0] * 9,  # most of the squares, but no further than usual
        [0.0] * 100,
        [],
    ],
)
def test_without_a_few_that_outweigh_the_rest_there_are_no_sinks(norms):
    x = torch.tensor(norms)[:, None] * torch.ones(1, 3) / 3**0.5
    assert norms_of(x).sinks() is None


def test_norms_of_a_state_are_merged_saved_and_of_labelled_positions_only(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=generator).exp()
    labels = torch.arange(50) % 5
    labels[::7] = -100
    whole, first, second = (ClassMoments(5, 6) for _ in range(3))
    whole.update(x, labels)
    first.update(x[:20], labels[:20])
    second.update(x[20:], labels[20:])
    first.merge(second)
    assert int(whole.norms.counts.sum()) == int((labels != -100).sum())
    assert torch.equal(first.norms.counts, whole.norms.counts)
    first.save(tmp_path / "state.safetensors")
    loaded = ClassMoments.load(tmp_path / "state.safetensors")
    assert torch.equal(loaded.norms.counts, whole.norms.counts)
