import copy
import doctest
import itertools

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from reference.moments import naive_moments
from tightframe.errors import UserError
from tightframe.geometry import moments, segments
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.moments import FORMAT, ClassMoments
from tightframe.geometry.nearest import Choices

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
    counts, means, within_ss, *scatters = (torch.as_tensor(x) for x in expected)
    assert torch.equal(moments.counts, counts)
    distance = (moments.means - means).norm(dim=1)
    assert (distance <= 1e-10 * means.norm(dim=1)).all()
    torch.testing.assert_close(moments.within_ss, within_ss, **TIGHT)
    for name, scatter in zip(("scatter", "balanced_scatter"), scatters, strict=False):
        kept = getattr(moments, name)
        if kept is not None:
            assert (kept - scatter).norm() <= 1e-10 * scatter.norm()


def arrays(moments):
    return moments.counts, moments.means, moments.within_ss


def test_four_points_on_a_line():
    # Class 1 at 1 and 3: mean 2, squared distances 1 + 1. Class 0 at 5 alone. Class 2 is empty.
    moments = moments_of(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([1, 0, 1]), 3)
    assert moments.counts.tolist() == [1, 2, 0]
    assert moments.means.flatten().tolist() == [5, 2, 0]
    assert moments.within_ss.tolist() == [0, 2, 0]
    assert moments.variances[:2].tolist() == [0, 1]
    assert moments.variances[2].isnan()
    assert moments.n == 3
    # A later 6 in class 1: mean 10/3, spread 1 + 9 + 36 - 3 (10/3)^2 = 38/3.
    moments.update(torch.tensor([[6.0]]), torch.tensor([1]))
    assert moments.means[1].item() == pytest.approx(10 / 3, rel=1e-14)
    assert moments.within_ss[1].item() == pytest.approx(38 / 3, rel=1e-14)


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
    assert moments.within_ss.item() == 0
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
    assert torch.equal(moments.within_ss, start.within_ss * 2**17)
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


def test_arrays_are_taken_like_tensors():
    embeddings, labels = sample()
    expected = moments_of(embeddings, labels)
    rows, ids = embeddings.numpy(), labels.numpy()
    rows.flags.writeable = False
    for array in (rows, np.ascontiguousarray(rows[::-1])[::-1], np.asfortranarray(rows)):
        state = ClassMoments(13, 5)
        state.update(array, ids.astype(np.int32))
        for one, other in zip(arrays(state), arrays(expected), strict=True):
            assert torch.equal(one, other)
    grouped = ClassMoments(13, 5, groups=2)
    grouped.update(rows, ids, np.arange(len(ids)) % 2)
    assert torch.equal(grouped.counts, expected.counts)


@pytest.mark.parametrize(
    ("rows", "labels", "error", "message"),
    [
        (np.zeros(4), np.zeros(1, int), ValueError, r"shape \(N, 4\), got \(4,\)"),
        (np.zeros((2, 4), int), np.zeros(2, int), TypeError, "of a float type, got torch.int64"),
        (np.zeros((2, 4)), np.zeros(2), TypeError, "labels must be integers, got torch.float64"),
        (np.zeros((2, 4)), np.zeros(2, bool), TypeError, "labels must be integers, got torch.bool"),
        (np.zeros((2, 4)), np.zeros(3, int), ValueError, "expected 2 labels, one per row"),
        (np.zeros((2, 4)), np.array([0, 3]), ValueError, r"in \[0, 3\) or be -100, got 0..3"),
    ],
)
def test_a_wrong_batch_of_arrays_is_named(rows, labels, error, message):
    state = ClassMoments(3, 4)
    with pytest.raises(error, match=message):
        state.update(rows, labels)
    assert state.n == 0


def test_the_example_of_class_moments_is_true():
    result = doctest.testmod(moments)
    assert result.attempted
    assert not result.failed


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
    within_ss, variances = moments.within_ss, moments.variances[moments.seen()]
    torch.testing.assert_close(moments.scatter.trace(), within_ss.sum(), **TIGHT)
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
    with pytest.raises(UserError, match="no such file; measure again"):
        ClassMoments.load(path)
    moments_of(*sample()).save(path)
    whole = path.read_bytes()
    with pytest.raises(UserError, match="holds 'ClassMoments', expected Decisions"):
        Decisions.load(path)
    for changed in (
        whole[:-8],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole.replace(rb"\"facts\": [13,", rb"\"facts\": [14,"),
        b"",
    ):
        assert changed != whole
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"state.safetensors: .*; measure again"):
            ClassMoments.load(path)


def test_a_state_signed_as_ours_with_negative_counts_is_refused(tmp_path):
    moments = moments_of(*sample())
    moments.rows["counts"][0] = -1
    moments.save(tmp_path / "state")
    with pytest.raises(UserError, match="tensor 'counts' is int64"):
        ClassMoments.load(tmp_path / "state")


@pytest.mark.parametrize("places", [[0, 2, 2], [2, 1, 5], [-1, 0, 1], [0, 1, 13]])
def test_a_state_signed_as_ours_with_rows_of_no_class_is_refused(tmp_path, places):
    moments = moments_of(torch.eye(3).double(), torch.tensor([0, 1, 2]))
    tensors, facts = moments.pack()
    FORMAT.write(tmp_path / "state", tensors | {"places": torch.tensor(places)}, facts)
    with pytest.raises(UserError, match=r"state: .*; measure again"):
        ClassMoments.load(tmp_path / "state")


def test_a_state_signed_as_ours_with_blocks_twice_is_refused(tmp_path):
    tensors, facts = moments_of(*sample()).pack()
    FORMAT.write(tmp_path / "state", tensors, [*facts[:3], [[0, 3], [2, 4]], facts[4]])
    with pytest.raises(UserError, match=r"state: blocks 2 to 2 are in both states"):
        ClassMoments.load(tmp_path / "state")


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

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(UserError, match="state: no space left on the disk"):
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


EXTRAS = ("ranks", "cosine", "library")


def random_decisions(seed, n=50):
    rng = np.random.default_rng(seed)
    ids = (torch.from_numpy(rng.integers(7, size=n)) for _ in range(3))
    labels = torch.from_numpy(rng.integers(7, size=n))
    losses, reevaluated = torch.from_numpy(rng.random(n)), int(rng.integers(5))
    ranks, cosine, *library = (torch.from_numpy(rng.integers(7, size=n)) for _ in range(4))
    return labels, Choices(*ids, losses, reevaluated, ranks, cosine, tuple(library))


def test_what_is_told_besides_is_counted_by_the_class_of_the_label():
    # Classes 0 and 1 have a mean, 2 has none. Classes before the nearest mean: 4, 5, 0, 0. By
    # angle and among the seen: alike at the first, third and fourth, whose label has no mean.
    decisions = Decisions(torch.tensor([True, True, False]), extras=EXTRAS)
    found = choices([0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0.0] * 4)
    found = found._replace(
        ranks=torch.tensor([4, 5, 0, 0]),
        cosine=torch.tensor([0, 0, 1, 0]),
        library=(torch.tensor([3, 1, 2, 2]), torch.tensor([3, 2, 2, 2])),
    )
    decisions.update(torch.tensor([0, 0, 1, 2]), found)
    assert decisions.extras == EXTRAS
    assert decisions.agreements_top5.tolist() == [1, 1, 0]
    assert decisions.agreements_cosine.tolist() == [1, 1, 0]
    assert decisions.agreements_library.tolist() == [1, 1, 1]


def test_decisions_tell_all_of_what_they_are_to_tell_or_nothing(tmp_path):
    seen = torch.ones(7, dtype=torch.bool)
    bare = Decisions(seen)
    bare.update(*random_decisions(0))
    assert (bare.extras, bare.agreements_top5, bare.agreements_cosine) == ((), None, None)
    labels, told = random_decisions(0)
    with pytest.raises(ValueError, match="hold no agreements_cosine"):
        Decisions(seen, extras=["cosine"]).update(labels, told._replace(cosine=None))
    with pytest.raises(ValueError, match=r"different extras: \(\) here, \('cosine',\) there"):
        bare.merge(Decisions(seen, extras=["cosine"]))


@pytest.mark.parametrize("extras", [(), ("cosine",), EXTRAS])
def test_decisions_merged_or_saved_are_those_of_one_stream(tmp_path, extras):
    seen = torch.tensor([True] * 5 + [False] * 2)
    whole, merged = (Decisions(seen, extras=extras) for _ in range(2))
    for seed in range(3):
        whole.update(*random_decisions(seed))
        part = Decisions(seen, extras=extras)
        part.update(*random_decisions(seed))
        part.save(tmp_path / f"{seed}.safetensors")
        merged.merge(Decisions.load(tmp_path / f"{seed}.safetensors"))
    assert merged.extras == extras
    names = ["counts", "classifier_hits", "nearest_hits", "agreements", "agreements_full"]
    names += ["agreements_top5"] if "ranks" in extras else []
    names += ["agreements_cosine"] if extras else []
    names += ["agreements_library"] if "library" in extras else []
    for name in names:
        assert torch.equal(getattr(merged, name), getattr(whole, name))
    torch.testing.assert_close(merged.losses, whole.losses, **TIGHT)
    assert merged.reevaluated == whole.reevaluated


def test_decisions_about_other_candidates_are_not_merged():
    decisions = Decisions(torch.tensor([True, False]))
    with pytest.raises(ValueError, match="2 classes, 1 groups here, 3 classes"):
        decisions.merge(Decisions(torch.tensor([True, False, True])))
    with pytest.raises(ValueError, match="candidates differ"):
        decisions.merge(Decisions(torch.tensor([True, True])))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        decisions.update(torch.tensor([2]), choices([0], [0], [0], [1.0]))


def test_no_positions_have_no_loss():
    decisions = Decisions(torch.tensor([True]))
    assert decisions.loss != decisions.loss
    assert decisions.accuracy != decisions.accuracy


def sample_of_all_kinds(rng, dtype, offset, n=160):
    """Half of the samples in one hot class, six singletons, an empty class, some without a label.

    Within a class the standard deviation is 1 a dimension, `offset` is as far as the means go.
    """
    labels = np.where(rng.random(n) < 0.5, 0, rng.integers(1, 6, size=n))
    labels[rng.random(n) < 0.1] = -100
    labels[rng.permutation(n)[:6]] = np.arange(6, 12)
    embeddings = torch.from_numpy(offset + rng.normal(size=(n, 3))).to(dtype)
    embeddings[torch.from_numpy(labels == -100)] = float("nan")
    return embeddings, torch.from_numpy(labels)


def assert_exact(moments, embeddings, labels):
    """Counts exactly, the rest to 1e-10 of what there is: of the size of the class's embeddings
    for a mean, of itself for a spread (so that what has none has none)."""
    kept = labels != -100
    naive = naive_moments(embeddings[kept].double(), labels[kept], 13)
    counts, means, within_ss, scatter, balanced = map(torch.from_numpy, naive)
    assert torch.equal(moments.counts, counts)
    size = ((within_ss + counts * means.square().sum(1)) / counts.clamp(min=1)).sqrt()
    assert ((moments.means - means).norm(dim=1) <= 1e-10 * size).all()
    torch.testing.assert_close(moments.within_ss, within_ss, **TIGHT)
    if moments.scatter is not None:
        assert (moments.scatter - scatter).norm() <= 1e-10 * scatter.norm()
        assert (moments.balanced_scatter - balanced).norm() <= 1e-10 * balanced.norm()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 160), max_size=7).map(sorted),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    offset=st.sampled_from([0.0, 100.0]),
    groups=st.sampled_from([1, 2, 5]),
    scatter=st.booleans(),
)
def test_states_are_exact_for_any_batches_merged_in_any_tree(
    seed, cuts, dtype, offset, groups, scatter
):
    rng = np.random.default_rng(seed)
    embeddings, labels = sample_of_all_kinds(rng, dtype, offset)
    of = torch.from_numpy(rng.integers(groups, size=len(labels)))
    counts = torch.bincount(labels[labels >= 0], minlength=13)
    options = {"scatter": True, "label_counts": counts} if scatter else {}
    order = torch.from_numpy(rng.permutation(len(labels)))
    states = []
    for a, b in itertools.pairwise([0, *cuts, len(labels)]):
        state = ClassMoments(13, 3, groups=groups, **options)
        rows = order[a:b]
        state.update(embeddings[rows], labels[rows], of[rows])
        states.append(state)
    while len(states) > 1:  # any two of those that are left
        i, j = rng.permutation(len(states))[:2]
        states[i].merge(states[j])
        del states[j]
    assert_exact(states[0], embeddings, labels)
    assert states[0].ignored == int((labels == -100).sum())
    if groups > 1:
        left_out = int(rng.integers(groups))
        rest = of != left_out
        assert_exact(states[0].without(left_out), embeddings[rest], labels[rest])


def grouped(n=400, groups=4, **options):
    """A state of groups that are not alike: the last one is far away and holds a class alone."""
    embeddings, labels = sample(n)
    of = torch.arange(n) * groups // n
    embeddings[of == groups - 1] += 50
    labels[-1] = 12
    moments = ClassMoments(13, 5, groups=groups, **options)
    moments.update(embeddings, labels, of)
    return moments, embeddings, labels, of


def test_a_state_in_groups_reads_as_one_without_them():
    embeddings, labels = grouped()[1:3]
    counts = torch.bincount(labels, minlength=13)
    moments = grouped(scatter=True, label_counts=counts)[0]
    assert moments.n_groups == 4
    assert_same(moments, naive_moments(embeddings, labels, 13))
    assert moments.n == 400
    plain = moments_of(embeddings, labels)
    torch.testing.assert_close(moments.global_mean(), plain.global_mean(), **TIGHT)
    torch.testing.assert_close(
        moments.variances, plain.variances, rtol=1e-10, atol=0, equal_nan=True
    )


def test_without_some_groups_is_as_if_they_had_not_been_seen():
    moments, embeddings, labels, of = grouped()
    moments.provenance = {"model": "tiny"}
    for left_out in [(0,), (3,), (1, 2), (0, 1, 2), ()]:
        kept = ~torch.isin(of, torch.tensor(left_out))
        rest = moments.without(*left_out)
        assert_same(rest, naive_moments(embeddings[kept], labels[kept], 13))
        assert (rest.n_groups, rest.provenance) == (1, {"model": "tiny"})
        assert rest.scatter is None
    assert moments.without(0, 1, 2, 3).n == 0
    assert moments.counts_by_group[:, 12].tolist() == [0, 0, 0, 1]


def test_what_is_read_of_a_state_in_groups_follows_its_updates_and_merges():
    moments, embeddings, labels, of = grouped()
    half = ClassMoments(13, 5, groups=4)
    half.update(embeddings[:200], labels[:200], of[:200])
    assert half.n == 200
    assert half.means.isfinite().all()
    half.update(embeddings[200:300], labels[200:300], of[200:300])
    assert_same(half, naive_moments(embeddings[:300], labels[:300], 13))
    rest = ClassMoments(13, 5, groups=4)
    rest.update(embeddings[300:], labels[300:], 3)  # one group for all of them
    half.merge(rest)
    assert_same(half, naive_moments(embeddings, labels, 13))
    assert torch.equal(half.counts_by_group, moments.counts_by_group)


def test_a_saved_state_in_groups_comes_back_whole_and_goes_on(tmp_path):
    counts = torch.bincount(grouped()[2], minlength=13)
    options = {"groups": 4, "scatter": True, "label_counts": counts}
    _, embeddings, labels, of = grouped()
    moments = ClassMoments(13, 5, **options)
    moments.update(embeddings[:250], labels[:250], of[:250])
    moments.save(tmp_path / "state.safetensors")
    loaded = ClassMoments.load(tmp_path / "state.safetensors")
    assert loaded.n_groups == 4
    for state in (moments, loaded):
        state.update(embeddings[250:], labels[250:], of[250:])
    for mine, theirs in zip(arrays(moments.without(1)), arrays(loaded.without(1)), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(loaded.scatter, moments.scatter)
    assert torch.equal(loaded.balanced_scatter, moments.balanced_scatter)
    with pytest.raises(ValueError, match="more than label_counts says"):
        loaded.merge(moments)


def test_groups_that_are_none_are_refused_before_anything_changes():
    moments = grouped()[0]
    embeddings, labels = sample()
    before = copy.deepcopy(arrays(moments))
    with pytest.raises(ValueError, match="say to which of the 4 groups the positions belong"):
        moments.update(embeddings, labels)
    with pytest.raises(ValueError, match=r"groups must lie in \[0, 4\), got 4..4"):
        moments.update(embeddings, labels, 4)
    with pytest.raises(ValueError, match=r"groups lie in \[0, 4\), got 7"):
        moments.without(7)
    with pytest.raises(ValueError, match="holds no groups; make it with `groups`"):
        moments_of(embeddings, labels).without(0)
    with pytest.raises(ValueError, match="at least 1 group, got 0"):
        ClassMoments(3, 4, groups=0)
    with pytest.raises(ValueError, match="13 classes in 5 dimensions in 4 groups here, 13 classes"):
        moments.merge(ClassMoments(13, 5))
    for now, then in zip(arrays(moments), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("n_classes", [13, 1_000_000_000])
def test_the_memory_of_a_state_is_that_of_the_classes_that_occur(n_classes):
    # 400 embeddings of 5 numbers hold 12 classes; in two interleaved groups, each class twice.
    embeddings, labels = sample()
    for groups, scatter in [(1, False), (1, True), (2, False), (2, True)]:
        of = torch.arange(400) % groups
        pairs = len((of * 13 + labels).unique())
        moments = ClassMoments(n_classes, 5, groups=groups, scatter=scatter)
        moments.update(embeddings, labels, of)
        columns = [moments.rows[name] for name in ("counts", "means", "within_ss")]
        tensors = [*columns, moments.rows.places, moments.rows.slots]
        tensors += [] if moments.scatter is None else 2 * [moments.scatter]
        taken = sum(x.numel() * x.element_size() for x in tensors)
        assert ClassMoments.bytes(pairs, 5, scatter) == taken


def test_room_that_was_made_for_rows_changes_no_bit(tmp_path):
    embeddings, labels = sample()
    plain, roomy = ClassMoments(13, 5, groups=2), ClassMoments(13, 5, groups=2)
    roomy.rows.reserve(26)
    for state in (plain, roomy):
        for start in range(0, 400, 90):
            here = slice(start, start + 90)
            state.update(
                embeddings[here], labels[here], torch.arange(start, min(start + 90, 400)) % 2
            )
        state.save(tmp_path / f"{id(state)}")
    assert (tmp_path / f"{id(plain)}").read_bytes() == (tmp_path / f"{id(roomy)}").read_bytes()


def test_some_classes_are_read_without_a_view_of_all():
    moments, embeddings, labels, of = grouped()
    ids = torch.tensor([12, 3, 11, 0])
    counts, means, within_ss = (x[ids.numpy()] for x in naive_moments(embeddings, labels, 13)[:3])
    found = moments.of_classes(ids)
    assert found.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(found.means, means, rtol=1e-10)
    np.testing.assert_allclose(found.within_ss, within_ss, rtol=1e-10, atol=1e-20)
    there = of == 3
    expected = naive_moments(embeddings[there], labels[there], 13)
    found = moments.of_group(3, ids)
    assert found.counts.tolist() == expected[0][ids.numpy()].tolist()
    np.testing.assert_allclose(found.means, expected[1][ids.numpy()], rtol=1e-10)


def test_a_state_of_dense_numbers_holds_the_classes_that_have_a_count():
    moments = grouped()[0]
    rows = moments.rows
    made = ClassMoments.from_dense(
        moments.counts_by_group, rows.dense("means"), rows.dense("within_ss")
    )
    assert len(made.rows) == len(rows) < 4 * 13
    for name, column in made.rows.sorted().items():
        assert torch.equal(column, rows.sorted()[name])
    assert ClassMoments.from_dense(torch.tensor([2, 0]), torch.ones(2, 3).double()).n == 2


@pytest.mark.slow
def test_forty_million_additions_to_one_class_lose_nothing():
    # The same million samples forty times: the mean stays, the spread is forty times as large.
    x = torch.from_numpy(np.random.default_rng(0).normal(100, 1, size=(1_000_000, 2)))
    labels = torch.zeros(1_000_000, dtype=torch.int64)
    moments = ClassMoments(2, 2)
    for _ in range(40):
        moments.update(x, labels)
    assert moments.counts.tolist() == [40_000_000, 0]
    _, means, within_ss, *_ = (torch.from_numpy(part) for part in naive_moments(x, labels, 2))
    torch.testing.assert_close(moments.means[0], means[0], **TIGHT)
    torch.testing.assert_close(moments.within_ss[0], 40 * within_ss[0], **TIGHT)


def test_batches_join_a_saved_state_of_forty_million_samples(tmp_path):
    # Of one class: 4e7 samples at 100 +- 1, by their sums, then batches. Chan's formula by hand,
    # in extended precision: delta from the old mean moves the mean by delta m / (n + m).
    n = torch.tensor([40_000_000])
    big = ClassMoments.from_dense(n, torch.full((1, 1), 100.0).double(), n.double())
    big.save(tmp_path / "big.safetensors")
    moments = ClassMoments.load(tmp_path / "big.safetensors")
    x = torch.from_numpy(np.random.default_rng(0).normal(103, 1, size=(10_000, 1)))
    for part in x.split(999):
        state = ClassMoments(1, 1)
        state.update(part, torch.zeros(len(part), dtype=torch.int64))
        moments.merge(state)
    extended = x.numpy().astype(np.longdouble)
    n, m = 40_000_000, 10_000
    delta = extended.mean() - 100
    spread = n + np.square(extended - extended.mean()).sum() + delta**2 * n * m / (n + m)
    assert moments.counts.item() == n + m
    assert moments.means.item() == pytest.approx(float(100 + delta * m / (n + m)), rel=1e-12)
    assert moments.within_ss.item() == pytest.approx(float(spread), rel=1e-10)


def test_decisions_in_groups_are_those_of_one_stream_and_can_be_left_out(tmp_path):
    seen = torch.tensor([True] * 5 + [False] * 2)
    whole, parts = Decisions(seen, 3, EXTRAS), []
    for group in range(3):
        labels, chosen = random_decisions(group)
        labels[7] = -100
        whole.update(labels, chosen, group)
        parts.append(Decisions(seen, extras=EXTRAS))
        parts[-1].update(labels, chosen)
        labels, chosen = random_decisions(10 + group)
        whole.pass_over(labels, chosen, group)
        parts[-1].pass_over(labels, chosen)
        assert parts[-1].n_passed == len(labels)
    together = Decisions(seen, extras=EXTRAS)
    for part in parts:
        together.merge(part)
    whole.save(tmp_path / "state.safetensors")
    loaded = Decisions.load(tmp_path / "state.safetensors")
    assert loaded.n_groups == 3
    assert loaded.counts_by_group.sum(1).tolist() == [49, 49, 49]
    without = Decisions(seen, extras=EXTRAS)
    without.merge(parts[0])
    without.merge(parts[2])
    doubled = Decisions(seen, 3, EXTRAS)
    for _ in range(2):
        doubled.merge(loaded)
    names = ["counts", "classifier_hits", "nearest_hits", "agreements", "agreements_full"]
    for name in [*names, "agreements_top5", "agreements_cosine", "agreements_library"]:
        assert torch.equal(getattr(whole, name), getattr(together, name))
        assert torch.equal(getattr(loaded, name), getattr(whole, name))
        assert torch.equal(getattr(loaded.without(1), name), getattr(without, name))
        assert torch.equal(getattr(doubled.without(1), name), 2 * getattr(without, name))
    torch.testing.assert_close(loaded.losses, together.losses, **TIGHT)
    torch.testing.assert_close(loaded.passed.sum(0), together.passed[0], **TIGHT)
    torch.testing.assert_close(loaded.without(1).passed, without.passed, **TIGHT)
    assert loaded.without(1).loss == pytest.approx(without.loss)
    torch.testing.assert_close(loaded.without(1).losses, without.losses, **TIGHT)
    with pytest.raises(ValueError, match="different shape: 7 classes, 3 groups here, 7 classes, 1"):
        whole.merge(together)
    with pytest.raises(ValueError, match="say to which of the 3 groups"):
        whole.update(*random_decisions(0))
    with pytest.raises(ValueError, match="at least 1 group, got 0"):
        Decisions(seen, groups=0)
