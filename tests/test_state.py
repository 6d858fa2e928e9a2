import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from reference.moments import naive_moments
from tightframe.errors import UserError
from tightframe.moments import segments, storage
from tightframe.moments.nearest import Choices
from tightframe.moments.state import ClassMoments, Decisions

TIGHT = {"rtol": 1e-10, "atol": 0.0}


def sample(n=400, n_classes=13, dim=5, *, seed=0, offset=0.0, dtype=torch.float64):
    """Embeddings with labels as uneven as words: class 0 has a third, the last has none."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, n_classes)
    labels = rng.choice(n_classes - 1, size=n, p=weights / weights.sum())
    centres = rng.normal(size=(n_classes, dim))
    embeddings = offset + centres[labels] + rng.normal(size=(n, dim))
    return torch.from_numpy(embeddings).to(dtype), torch.from_numpy(labels)


def moments_of(embeddings, labels, n_classes=13, **options):
    moments = ClassMoments(n_classes, embeddings.shape[1], **options)
    moments.update(embeddings, labels)
    return moments


def assert_same(moments, expected):
    """Equal to 1e-10 relative: means by their distance, over the size of the mean."""
    counts, means, spreads, *scatters = (torch.as_tensor(x) for x in expected)
    assert torch.equal(moments.counts, counts)
    distance = (moments.means - means).norm(dim=1)
    assert (distance <= 1e-10 * means.norm(dim=1)).all()
    torch.testing.assert_close(moments.spreads, spreads, **TIGHT)
    for name, scatter in zip(("scatter", "balanced_scatter"), scatters, strict=False):
        kept = getattr(moments, name)
        if kept is not None:
            assert (kept - scatter).norm() <= 1e-10 * scatter.norm()


def arrays(moments):
    return moments.counts, moments.means, moments.spreads


def test_four_points_on_a_line():
    # Class 1 at 1 and 3: mean 2, squared distances 1 + 1. Class 0 at 5 alone. Class 2 is empty.
    moments = moments_of(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([1, 0, 1]), 3)
    assert moments.counts.tolist() == [1, 2, 0]
    assert moments.means.flatten().tolist() == [5, 2, 0]
    assert moments.spreads.tolist() == [0, 2, 0]
    assert moments.variances[:2].tolist() == [0, 1]
    assert moments.variances[2].isnan()
    assert moments.n == 3
    # A later 6 in class 1: mean 10/3, spread 1 + 9 + 36 - 3 (10/3)^2 = 38/3.
    moments.update(torch.tensor([[6.0]]), torch.tensor([1]))
    assert moments.means[1].item() == pytest.approx(10 / 3, rel=1e-14)
    assert moments.spreads[1].item() == pytest.approx(38 / 3, rel=1e-14)


def test_the_global_mean_takes_each_seen_class_once():
    embeddings = torch.tensor([[0.0], [0.0], [0.0], [4.0], [8.0], [8.0]])
    moments = moments_of(embeddings, torch.tensor([0, 0, 0, 1, 2, 2]), 5)
    assert moments.seen().tolist() == [True, True, True, False, False]
    assert moments.global_mean().item() == 4  # (0 + 4 + 8) / 3, whatever the counts
    assert moments.seen(2).tolist() == [True, False, True, False, False]
    assert moments.global_mean(2).item() == 4  # (0 + 8) / 2
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        moments.seen(0)


@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_moments_equal_two_passes_in_extended_precision(offset):
    # Within-class spread is 1 a dimension: the offset is that many standard deviations.
    embeddings, labels = sample(3000, offset=offset)
    counts = torch.bincount(labels, minlength=13)
    moments = ClassMoments(13, 5, scatter=True, label_counts=counts)
    for part in range(0, 3000, 700):
        moments.update(embeddings[part : part + 700], labels[part : part + 700])
    assert_same(moments, naive_moments(embeddings, labels, 13))


@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_float32_embeddings_lose_nothing_once_they_are_rounded(offset):
    embeddings, labels = sample(3000, offset=offset, dtype=torch.float32)
    assert_same(moments_of(embeddings, labels), naive_moments(embeddings, labels, 13))


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=6).map(sorted),
    seed=st.integers(0, 2**31),
    merges=st.permutations(range(7)),
    offset=st.sampled_from([0.0, 100.0, 1e4]),
    shapes=st.sampled_from([(1, 1), (1, 4), (2, 1), (13, 5)]),
)
def test_any_partition_order_and_merge_give_one_state(cuts, seed, merges, offset, shapes):
    n_classes, dim = shapes
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(offset + rng.normal(size=(300, dim)))
    y = torch.from_numpy(rng.integers(n_classes, size=300))
    whole = naive_moments(x, y, n_classes)
    counts = torch.bincount(y, minlength=n_classes)
    order = torch.from_numpy(rng.permutation(300))
    edges = [0, *cuts, 300]
    parts = [order[a:b] for a, b in itertools.pairwise(edges)]
    options = {"scatter": True, "label_counts": counts}
    streamed = ClassMoments(n_classes, dim, **options)
    for part in parts:
        streamed.update(x[part], y[part])
    assert_same(streamed, whole)
    merged = ClassMoments(n_classes, dim, **options)
    for i in [i for i in merges if i < len(parts)]:
        merged.merge(moments_of(x[parts[i]], y[parts[i]], n_classes, **options))
    assert_same(merged, whole)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_size_of_a_chunk_is_memory_only(monkeypatch, chunk):
    embeddings, labels = sample(500)
    expected = naive_moments(embeddings, labels, 13)
    monkeypatch.setattr(segments, "CHUNK", chunk * 5)
    counts = torch.bincount(labels, minlength=13)
    assert_same(moments_of(embeddings, labels, scatter=True, label_counts=counts), expected)


def test_the_same_batches_give_the_same_bits():
    embeddings, labels = sample(2000, dtype=torch.float32)
    first, second = (moments_of(embeddings, labels, scatter=True) for _ in range(2))
    for mine, theirs in zip(arrays(first), arrays(second), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(first.scatter, second.scatter)


def test_a_class_with_half_of_all_samples_keeps_its_digits():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.where(rng.random(20_000) < 0.5, 3, rng.integers(13, size=20_000)))
    embeddings = torch.from_numpy(rng.normal(100, 1, size=(20_000, 3))).float()
    assert_same(moments_of(embeddings, labels), naive_moments(embeddings, labels, 13))


def test_an_outlier_that_comes_first_costs_no_digits():
    # The first embedding of a class is what deviations are taken from within a batch.
    embeddings = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)).double()
    embeddings[0] = 1e6
    labels = torch.zeros(1000, dtype=torch.int64)
    assert_same(moments_of(embeddings, labels, 1), naive_moments(embeddings, labels, 1))


@pytest.mark.parametrize("repeats", [1, 2, 3, 1000])
def test_equal_embeddings_have_no_spread(repeats):
    point = torch.tensor([[0.1, 1e4, -7.3]])
    moments = moments_of(point.repeat(repeats, 1), torch.zeros(repeats, dtype=torch.int64), 1)
    assert moments.spreads.item() == 0
    assert torch.equal(moments.means, point.double())


def test_forty_million_samples_are_counted_and_averaged_without_loss():
    # Doubling 17 times: the mean stays, count and spread double exactly. float32 running sums
    # are 29 % off by then, and 2^33 exceeds an int32.
    embeddings, labels = sample(305, 2, 3, offset=100)
    start = moments_of(embeddings, labels, 2)
    moments = copy.deepcopy(start)
    for _ in range(17):
        moments.merge(copy.deepcopy(moments))
    assert moments.n == 305 * 2**17 == 39_976_960
    assert torch.equal(moments.means, start.means)
    assert torch.equal(moments.spreads, start.spreads * 2**17)
    # One more sample moves the mean by deviation / (n + 1).
    moments.update(torch.full((1, 3), 164.0), torch.tensor([0]))
    n = 39_976_960
    moved = (164 - start.means[0]) / (n + 1)
    torch.testing.assert_close(moments.means[0], start.means[0] + moved, rtol=1e-15, atol=0)
    for _ in range(8):
        moments.merge(moments)
    assert moments.n == (n + 1) * 2**8 > 2**33


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("integers", [torch.int16, torch.int32, torch.int64])
def test_embeddings_and_labels_may_have_any_type(dtype, integers):
    embeddings, labels = sample(dtype=dtype)
    moments = moments_of(embeddings, labels.to(integers))
    assert_same(moments, naive_moments(embeddings.double(), labels, 13))


def test_types_may_be_mixed_and_gradients_are_not_followed():
    embeddings, labels = sample()
    low = embeddings[:200].bfloat16().requires_grad_()
    moments = moments_of(low, labels[:200])
    moments.update(embeddings[200:].requires_grad_(), labels[200:])
    both = torch.cat([low.detach().double(), embeddings[200:].detach()])
    assert_same(moments, naive_moments(both, labels, 13))
    assert not moments.means.requires_grad


def test_batches_may_come_in_and_out_of_inference_mode():
    embeddings, labels = sample()
    moments = ClassMoments(13, 5)
    with torch.inference_mode():
        moments.update(embeddings[:200] * 1, labels[:200])
    moments.update(embeddings[200:], labels[200:])
    assert_same(moments, naive_moments(embeddings, labels, 13))


def test_rows_that_are_not_contiguous_are_rows_all_the_same():
    embeddings, labels = sample()
    strided = torch.stack([embeddings, embeddings + 1], dim=2)[:, :, 0]
    assert_same(moments_of(strided, labels), naive_moments(embeddings, labels, 13))


def test_ignored_positions_are_counted_and_may_hold_anything():
    embeddings, labels = sample()
    holes = torch.arange(400) % 3 == 0
    with_holes = embeddings.clone()
    with_holes[holes] = float("nan")
    moments = moments_of(with_holes, labels.masked_fill(holes, -100))
    assert moments.ignored == 134
    assert_same(moments, naive_moments(embeddings[~holes], labels[~holes], 13))


def test_an_empty_batch_and_one_without_labels_change_nothing():
    embeddings, labels = sample()
    moments = moments_of(embeddings, labels)
    before = copy.deepcopy(arrays(moments))
    moments.update(embeddings[:0], labels[:0])
    moments.update(embeddings, torch.full_like(labels, -100))
    moments.merge(ClassMoments(13, 5))
    for now, then in zip(arrays(moments), before, strict=True):
        assert torch.equal(now, then)
    assert moments.ignored == 400


@pytest.mark.parametrize("bad", [13, -1, -99, -101, 50_000])
def test_a_label_that_is_no_class_is_refused_before_anything_changes(bad):
    embeddings, labels = sample()
    moments = moments_of(embeddings, labels)
    before = copy.deepcopy(arrays(moments))
    labels[100], labels[101] = bad, -100
    with pytest.raises(ValueError, match=rf"in \[0, 13\) or be -100, got .*{bad}.*padded\?"):
        moments.update(embeddings, labels)
    for now, then in zip(arrays(moments), before, strict=True):
        assert torch.equal(now, then)
    assert moments.ignored == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_embedding_that_is_not_finite_is_refused_with_its_place(bad):
    embeddings, labels = sample()
    moments = moments_of(embeddings, labels)
    before = copy.deepcopy(arrays(moments))
    embeddings[77, 2] = embeddings[300, 0] = bad
    with pytest.raises(ValueError, match=f"embedding 77 of the batch .label {labels[77]}. is not"):
        moments.update(embeddings, labels)
    for now, then in zip(arrays(moments), before, strict=True):
        assert torch.equal(now, then)


def test_large_finite_embeddings_are_not_taken_for_infinite_ones():
    # Their sum overflows float32, which is only the first look.
    embeddings = torch.full((4, 2), 3e38)
    moments = moments_of(embeddings, torch.tensor([0, 0, 1, 1]), 2)
    assert torch.equal(moments.means, embeddings[:2].double())


def test_wrong_shapes_and_types_are_refused():
    moments = ClassMoments(3, 4)
    with pytest.raises(ValueError, match=r"shape \(N, 4\), got \(2, 5\)"):
        moments.update(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1 class and 1 dimension, got 0, 4"):
        ClassMoments(0, 4)
    with pytest.raises(ValueError, match=r"each of 3 classes, got shape \(2,\)"):
        ClassMoments(3, 4, label_counts=torch.ones(2, dtype=torch.int64))


def test_states_of_different_shape_are_not_merged():
    moments = ClassMoments(3, 4)
    for other in (ClassMoments(3, 5), ClassMoments(2, 4), ClassMoments(3, 4, scatter=True)):
        with pytest.raises(ValueError, match="states of different shape: 3 classes in 4"):
            moments.merge(other)


def test_states_of_different_origin_are_not_merged():
    moments, other = ClassMoments(3, 4), ClassMoments(3, 4)
    moments.provenance = {"model": "a", "tokens": "x"}
    other.provenance = {"model": "b", "tokens": "x"}
    with pytest.raises(UserError, match="model is 'a' here, 'b' there"):
        moments.merge(other)


def test_more_embeddings_than_were_counted_are_refused():
    embeddings, labels = sample()
    counts = torch.bincount(labels, minlength=13)
    moments = moments_of(embeddings, labels, label_counts=counts)
    more = f"class 2 now has {int(counts[2]) + 1} embeddings, but label_counts says {counts[2]};"
    with pytest.raises(ValueError, match=more):
        moments.update(embeddings[:1], torch.tensor([2]))
    with pytest.raises(ValueError, match="more than label_counts says"):
        moments.merge(moments_of(embeddings, labels, label_counts=counts))
    with pytest.raises(ValueError, match="different label_counts"):
        moments.merge(ClassMoments(13, 5, label_counts=counts + 1))


def test_the_trace_of_the_scatter_is_the_sum_of_the_spreads():
    embeddings, labels = sample(offset=100)
    counts = torch.bincount(labels, minlength=13)
    moments = moments_of(embeddings, labels, scatter=True, label_counts=counts)
    spreads, variances = moments.spreads, moments.variances[moments.seen()]
    torch.testing.assert_close(moments.scatter.trace(), spreads.sum(), **TIGHT)
    torch.testing.assert_close(moments.balanced_scatter.trace(), variances.sum(), **TIGHT)


@pytest.mark.parametrize("scatter", [False, True])
def test_a_saved_state_comes_back_whole_and_goes_on(tmp_path, scatter):
    embeddings, labels = sample()
    options = {"scatter": True, "label_counts": torch.bincount(labels, minlength=13)}
    moments = moments_of(embeddings[:250], labels[:250], **(options if scatter else {}))
    moments.provenance = {"model": "tiny", "tokens": "0123", "steps": [1, 2]}
    moments.ignored = 4
    moments.save(tmp_path / "state.safetensors")
    loaded = ClassMoments.load(tmp_path / "state.safetensors")
    for mine, theirs in zip(arrays(moments), arrays(loaded), strict=True):
        assert torch.equal(mine, theirs)
    assert (loaded.ignored, loaded.provenance) == (4, moments.provenance)
    loaded.update(embeddings[250:], labels[250:])
    assert_same(loaded, naive_moments(embeddings, labels, 13))
    assert (loaded.scatter is not None) == scatter


def test_a_state_that_is_no_state_is_refused_by_name(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(UserError, match="no such file; measure first"):
        ClassMoments.load(path)
    moments_of(*sample()).save(path)
    whole = path.read_bytes()
    with pytest.raises(UserError, match="holds ClassMoments, expected Decisions"):
        Decisions.load(path)
    path.write_bytes(whole.replace(rb"\"schema\": 2", rb"\"schema\": 9"))
    with pytest.raises(UserError, match=r"schema 9 \(tightframe .*\), expected 2; measure again"):
        ClassMoments.load(path)
    path.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"state.safetensors: cannot be read .*damaged"):
        ClassMoments.load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="its content has changed"):
        ClassMoments.load(path)
    path.write_bytes(whole.replace(rb"\"facts\": [0,", rb"\"facts\": [7,"))
    with pytest.raises(UserError, match="its content has changed"):
        ClassMoments.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        ClassMoments.load(path)


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "state.safetensors"
    moments = moments_of(*sample())
    moments.save(path)
    whole = path.read_bytes()
    moments.provenance = {"model": object()}  # not JSON
    with pytest.raises(TypeError):
        moments.save(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    def fail(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(storage, "save_file", fail)
    with pytest.raises(UserError, match=r"state: cannot be written .*No space left.*disk full\?"):
        ClassMoments(2, 3).save(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def choices(classifier, classifier_seen, nearest, losses, reevaluated=0):
    ids = (torch.tensor(x) for x in (classifier, classifier_seen, nearest))
    return Choices(*ids, torch.tensor(losses, dtype=torch.float64), reevaluated)


def test_decisions_are_counted_by_the_class_of_the_label():
    # Classes 0 and 1 have a mean, 2 has none. Positions, with label, classifier among all, among
    # the seen, nearest mean: (0: 0 0 0), (0: 2 1 1), (1: 1 1 0), (2: 2 0 0), and one ignored.
    decisions = Decisions(torch.tensor([True, True, False]))
    labels = torch.tensor([0, 0, 1, 2, -100])
    decisions.update(
        labels,
        choices([0, 2, 1, 2, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [1.0, 2.0, 4.0, 8.0, 99.0], 3),
    )
    assert decisions.counts.tolist() == [2, 1, 1]
    assert decisions.classifier_hits.tolist() == [1, 1, 1]
    assert decisions.nearest_hits.tolist() == [1, 0, 0]
    assert decisions.agreements.tolist() == [2, 0, 0]  # the third agrees, but its label has no mean
    assert decisions.agreements_full.tolist() == [1, 0, 0]
    assert decisions.losses.tolist() == [3, 4, 8]
    assert (decisions.n, decisions.loss, decisions.accuracy) == (4, 15 / 4, 3 / 4)
    assert (decisions.reevaluated, decisions.ignored) == (3, 1)


def random_decisions(seed, n=50):
    rng = np.random.default_rng(seed)
    ids = (torch.from_numpy(rng.integers(7, size=n)) for _ in range(3))
    labels = torch.from_numpy(rng.integers(7, size=n))
    return labels, Choices(*ids, torch.from_numpy(rng.random(n)), int(rng.integers(5)))


def test_decisions_merged_or_saved_are_those_of_one_stream(tmp_path):
    seen = torch.tensor([True] * 5 + [False] * 2)
    whole, merged = Decisions(seen), Decisions(seen)
    for seed in range(3):
        whole.update(*random_decisions(seed))
        part = Decisions(seen)
        part.update(*random_decisions(seed))
        part.save(tmp_path / f"{seed}.safetensors")
        merged.merge(Decisions.load(tmp_path / f"{seed}.safetensors"))
    for name in ("counts", "classifier_hits", "nearest_hits", "agreements", "agreements_full"):
        assert torch.equal(getattr(merged, name), getattr(whole, name))
    torch.testing.assert_close(merged.losses, whole.losses, **TIGHT)
    assert merged.reevaluated == whole.reevaluated


def test_decisions_about_other_candidates_are_not_merged():
    decisions = Decisions(torch.tensor([True, False]))
    with pytest.raises(ValueError, match="2 classes here, 3 there"):
        decisions.merge(Decisions(torch.tensor([True, False, True])))
    with pytest.raises(ValueError, match="candidates differ"):
        decisions.merge(Decisions(torch.tensor([True, True])))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        decisions.update(torch.tensor([2]), choices([0], [0], [0], [1.0]))


def test_no_positions_have_no_loss():
    decisions = Decisions(torch.tensor([True]))
    assert decisions.loss != decisions.loss
    assert decisions.accuracy != decisions.accuracy
