import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.moments import naive_choices, naive_extras, naive_ranks
from tightframe.geometry import argmax_tiles, nearest
from tightframe.geometry.nearest import ArgmaxScorer, NearestMeans


def problem(n=60, n_classes=90, dim=6, *, padding=0, seed=0, unseen=10, dtype=torch.float32):
    """Embeddings, labels, classifier, bias, means and seen classes, at random."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(rng.normal(size=shape))

    embeddings = normal(n, dim).to(dtype)
    labels = torch.from_numpy(rng.integers(n_classes, size=n))
    classifier = normal(n_classes + padding, dim).to(dtype)
    bias = normal(n_classes + padding).to(dtype)
    seen = torch.ones(n_classes, dtype=torch.bool)
    seen[torch.from_numpy(rng.permutation(n_classes)[:unseen])] = False
    means = normal(n_classes, dim) * seen[:, None]  # 0 where there is none, as in ClassMoments
    return embeddings, labels, classifier, bias, means, seen


def assert_naive(embeddings, labels, classifier, bias, means, seen, **options):
    """Choices are those of plain float64 loops, losses to float32's error."""
    choices = ArgmaxScorer(classifier, bias, means[seen], seen, **options)(embeddings, labels)
    ours = (choices.classifier, choices.classifier_seen, choices.nearest, choices.losses)
    theirs = naive_choices(
        embeddings.detach().double().numpy(),
        labels.numpy(),
        classifier.double().numpy(),
        None if bias is None else bias.double().numpy(),
        means.numpy(),
        seen.numpy(),
    )
    for mine, expected in zip(ours[:3], theirs[:3], strict=True):
        assert mine.tolist() == expected.tolist()
    largest = (embeddings.double() @ classifier.double().T).abs().max().item()
    np.testing.assert_allclose(choices.losses, theirs[3], rtol=1e-6, atol=1e-6 * (1 + largest))
    return choices


def test_one_embedding_between_three_means():
    # h = (2, 1). Logits 2, 1, -3, so 0 is chosen; the nearest mean, (2, 3), is that of 1; class 2
    # has none. The loss of label 1 is log(e^2 + e^1 + e^-3) - 1.
    classifier = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    means = torch.tensor([[9.0, 1.0], [2.0, 3.0], [0.0, 0.0]]).double()
    choose = ArgmaxScorer(classifier, None, means[:2], torch.tensor([True, True, False]))
    choices = choose(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert (choices.classifier.item(), choices.nearest.item()) == (0, 1)
    expected = np.log(np.exp([2, 1, -3]).sum()) - 1
    assert choices.losses.item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 20),
    n_classes=st.integers(2, 70),
    dim=st.integers(1, 9),
    padding=st.sampled_from([0, 0, 1, 5]),
    seed=st.integers(0, 2**31),
    unseen=st.sampled_from([0, 1]),
    with_bias=st.booleans(),
)
def test_choices_are_those_of_plain_loops(n, n_classes, dim, padding, seed, unseen, with_bias):
    *rest, bias, means, seen = problem(n, n_classes, dim, padding=padding, seed=seed, unseen=unseen)
    assert_naive(*rest, bias if with_bias else None, means, seen)


@pytest.mark.parametrize("n_classes", [1, 63, 64, 65, 127, 128, 129, 257])
@pytest.mark.parametrize("rows", [1, 7, 60])
def test_the_size_of_tiles_is_memory_only(monkeypatch, n_classes, rows):
    # Every remainder of a tile (128) and of a block (64), and of the rows scored at once.
    monkeypatch.setattr(argmax_tiles, "TILE", 128)
    monkeypatch.setattr(nearest, "SCORES", rows * nearest.TILE)
    assert_naive(*problem(15, n_classes, unseen=0, padding=1))
    if n_classes > 1:
        assert_naive(*problem(15, n_classes, unseen=n_classes // 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_model_and_embeddings_may_have_any_type(dtype):
    embeddings, labels, classifier, bias, means, seen = problem(dtype=dtype)
    choices = assert_naive(embeddings, labels, classifier, bias, means, seen)
    assert choices.losses.dtype == torch.float64
    assert_naive(embeddings.double().requires_grad_(), labels, classifier, bias, means, seen)


def test_equal_rows_and_equal_means_go_to_the_smallest_id():
    # Rows 3, 40 and 80 are one row, so are the means: both always win, and the first is taken.
    embeddings, labels, classifier, _, means, seen = problem(unseen=0)
    for twin in (40, 80):
        classifier[twin], means[twin] = classifier[3], means[3]
    classifier[[3, 40, 80]] *= 100
    embeddings = embeddings[:1] * 0.01 + classifier[3] / 100
    means[[3, 40, 80]] = embeddings[0].double()
    seen[3] = False  # of the classes with a mean, 40 comes first
    choices = assert_naive(embeddings, labels[:1], classifier, None, means, seen)
    assert choices.classifier.item() == 3
    assert choices.classifier_seen.item() == choices.nearest.item() == 40
    assert choices.reevaluated == 3


def test_an_embedding_of_zeros_ties_everything():
    embeddings, labels, classifier, *_ = problem()
    means = torch.zeros(90, 6).double()
    seen = torch.ones(90, dtype=torch.bool)
    choices = ArgmaxScorer(classifier, None, means[seen], seen)(
        torch.zeros_like(embeddings), labels
    )
    assert not choices.classifier.any()
    assert not choices.nearest.any()
    # Equal logits: every label has probability 1/90.
    torch.testing.assert_close(choices.losses, torch.full_like(choices.losses, np.log(90)))


def test_scores_that_differ_by_the_order_of_a_sum_are_a_tie(monkeypatch):
    # All rows are one vector in another order, and h is the same in every direction: each score
    # is the same sum, and each distance, but for its last digits. The smallest id wins, within a
    # tile and across tiles.
    monkeypatch.setattr(argmax_tiles, "TILE", 64)
    rng = np.random.default_rng(0)
    vector = rng.normal(size=33)
    rows = torch.from_numpy(np.stack([rng.permutation(vector) for _ in range(200)]))
    embeddings = torch.linspace(-3, 3, 40).double()[:, None].expand(-1, 33)
    assert len((rows @ embeddings[0]).unique()) > 1
    seen, labels = torch.arange(200) % 7 > 0, torch.zeros(40, dtype=torch.int64)
    choices = ArgmaxScorer(rows, None, rows[seen], seen)(embeddings, labels)
    assert not choices.classifier.any()
    assert (choices.classifier_seen == 1).all()
    assert (choices.nearest == 1).all()
    assert choices.reevaluated == 120


@pytest.mark.parametrize("gap", [1e-7, 1e-8, 1e-9])
@pytest.mark.parametrize("tile", [64, 2048])
def test_near_ties_are_decided_as_float64_does(monkeypatch, gap, tile):
    # Each class has a twin 64 ids later, whose row and mean differ by a share `gap`, which
    # float32 can't tell; the embeddings lie at the classes.
    monkeypatch.setattr(argmax_tiles, "TILE", tile)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(64, 6))
    twins = base * (1 + gap * rng.choice([-1, 1], size=(64, 1)))
    rows = torch.from_numpy(np.concatenate([base, twins]))
    embeddings = torch.from_numpy(base + 0.1 * rng.normal(size=base.shape))
    labels, seen = torch.arange(64), torch.ones(128, dtype=torch.bool)
    choices = assert_naive(embeddings, labels, rows * 3, None, rows, seen)
    assert choices.reevaluated == 128  # all of both rules, since every winner has a twin
    assert len((choices.nearest // 64).unique()) == 2  # each of the twins wins somewhere


def test_a_common_offset_hides_no_mean():
    # Means 0.02 apart around a common offset of 50: expanded float32 distances choose the wrong
    # one nearly always, since 50^2 leaves them a precision of 2e-4.
    rng = np.random.default_rng(0)
    means = torch.from_numpy(50 + 0.02 * rng.normal(size=(300, 16)))
    embeddings = (means[:100] + 0.004 * torch.from_numpy(rng.normal(size=(100, 16)))).float()
    seen, labels = torch.ones(300, dtype=torch.bool), torch.arange(100)
    classifier = torch.from_numpy(rng.normal(size=(300, 16))).float()
    naive = (embeddings.square().sum(1)[:, None] - 2 * embeddings @ means.float().T) + (
        means.float().square().sum(1)
    )
    assert (naive.argmin(1) != labels).float().mean() > 0.5
    choices = assert_naive(embeddings, labels, classifier, None, means, seen)
    assert (choices.nearest == labels).all()
    assert choices.reevaluated <= 3  # the means are centred first, so float32 is enough


def test_most_decisions_need_no_second_look():
    choices = assert_naive(*problem(200, 90, 32))
    assert choices.reevaluated <= 2


def test_where_float32_products_are_not_exact_tiles_are_float64(monkeypatch):
    monkeypatch.setattr(nearest, "_keeps_float32", lambda _: False)
    given = problem(n_classes=150)
    choices = assert_naive(*given)
    # With float64 tiles the losses are exact, too.
    logits = given[0].double() @ given[2].double().T + given[3].double()
    expected = torch.nn.functional.cross_entropy(logits, given[1], reduction="none")
    torch.testing.assert_close(choices.losses, expected, rtol=1e-12, atol=0)


def test_autocast_around_a_choice_changes_nothing():
    given = problem()
    *_, classifier, bias, means, seen = given
    choose = ArgmaxScorer(classifier, bias, means[seen], seen)
    alone = choose(*given[:2])
    with torch.autocast("cpu", torch.bfloat16):
        inside = choose(*given[:2])
    for mine, theirs in zip(alone[:4], inside[:4], strict=True):
        assert torch.equal(mine, theirs)


def test_a_soft_cap_changes_the_loss_and_no_choice():
    embeddings, labels, classifier, bias, means, seen = problem(padding=3)

    def finish(logits):
        return 2 * torch.tanh(logits / 2)

    plain = ArgmaxScorer(classifier, bias, means[seen], seen)(embeddings, labels)
    capped = ArgmaxScorer(classifier, bias, means[seen], seen, finish=finish)(embeddings, labels)
    assert torch.equal(plain.classifier, capped.classifier)
    logits = finish(embeddings.double() @ classifier.double().T + bias.double())
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(capped.losses, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_losses_neither_overflow_nor_underflow(monkeypatch, scale):
    # Logits of several thousands: the largest is subtracted before any exponential, although
    # it comes in a late tile.
    monkeypatch.setattr(argmax_tiles, "TILE", 64)
    embeddings, labels, classifier, _, means, seen = problem(n_classes=200)
    embeddings *= scale
    losses = ArgmaxScorer(classifier, None, means[seen], seen)(embeddings, labels).losses
    logits = embeddings.double() @ classifier.double().T
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6 * float(logits.abs().max()))


def assert_naive_ranks(embeddings, labels, classifier, bias, means, seen):
    """Ranks are those of plain float64 loops, and asking for them changes nothing else."""
    choices = ArgmaxScorer(classifier, bias, means[seen], seen, extras=["ranks"])(
        embeddings, labels
    )
    plain = ArgmaxScorer(classifier, bias, means[seen], seen)(embeddings, labels)
    assert plain.ranks is None
    for asked, unasked in zip(choices[:5], plain[:5], strict=True):
        assert asked == unasked if isinstance(asked, int) else torch.equal(asked, unasked)
    expected = naive_ranks(
        embeddings.double().numpy(),
        classifier.double().numpy(),
        None if bias is None else bias.double().numpy(),
        choices.nearest.tolist(),
        seen.nonzero().flatten().tolist(),
    )
    assert choices.ranks.tolist() == expected.tolist()
    assert torch.equal(choices.ranks == 0, choices.classifier_seen == choices.nearest)
    return choices.ranks


def test_the_rank_of_the_nearest_mean_among_four_logits():
    # h = (2, 1). Logits 2, 1, -3, 5; the nearest mean, (2, 3), is that of class 1. Class 0 is
    # before it; so is 3, which has no mean and doesn't count.
    classifier = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 1.0]])
    means = torch.tensor([[9.0, 1.0], [2.0, 3.0], [-9.0, 0.0], [0.0, 0.0]]).double()
    choose = ArgmaxScorer(
        classifier, None, means[:3], torch.tensor([1, 1, 1, 0]).bool(), extras=["ranks"]
    )
    choices = choose(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert (choices.nearest.item(), choices.ranks.item()) == (1, 1)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 20),
    n_classes=st.integers(2, 150),
    dim=st.integers(1, 9),
    padding=st.sampled_from([0, 1]),
    seed=st.integers(0, 2**31),
    unseen=st.sampled_from([0, 1]),
    with_bias=st.booleans(),
)
def test_ranks_are_those_of_plain_loops(n, n_classes, dim, padding, seed, unseen, with_bias):
    *rest, bias, means, seen = problem(n, n_classes, dim, padding=padding, seed=seed, unseen=unseen)
    assert_naive_ranks(*rest, bias if with_bias else None, means, seen)


@pytest.mark.parametrize("n_classes", [63, 128, 129, 300])
@pytest.mark.parametrize("rows", [1, 7, 60])
def test_the_size_of_tiles_changes_no_rank(monkeypatch, n_classes, rows):
    monkeypatch.setattr(argmax_tiles, "TILE", 128)
    monkeypatch.setattr(nearest, "SCORES", rows * nearest.TILE)
    ranks = assert_naive_ranks(*problem(30, n_classes, padding=1))
    assert len(ranks.unique()) > 10  # unrelated rows and means: ranks of all sizes


@pytest.mark.parametrize("gap", [1e-7, 1e-9])
@pytest.mark.parametrize("tile", [64, 2048])
def test_ranks_among_near_ties_are_those_of_float64(monkeypatch, gap, tile):
    # Rows come in four, whose logits differ by a share `gap` that float32 can't tell: whether the
    # other three are before the nearest mean's is open for each.
    monkeypatch.setattr(argmax_tiles, "TILE", tile)
    rng = np.random.default_rng(0)
    base, jitter = rng.normal(size=(50, 6)), rng.normal(size=(4, 50, 1))
    classifier = torch.from_numpy((base * (1 + gap * jitter)).reshape(200, 6))
    means = torch.from_numpy(rng.normal(size=(200, 6)))
    embeddings = torch.from_numpy(rng.normal(size=(80, 6)))
    seen = torch.arange(200) % 9 > 0
    labels = torch.zeros(80, dtype=torch.int64)
    ranks = assert_naive_ranks(embeddings, labels, classifier, None, means, seen)
    assert len(ranks.unique()) > 20


def test_equal_logits_are_ranked_by_their_ids():
    # Rows 10..19 are one row, whose logit is the largest, and the nearest mean is that of 15:
    # of those with a mean, 11 to 14 come before it. Of an embedding of zeros, all tie.
    embeddings, labels, classifier, _, means, seen = problem(n=2, unseen=0)
    classifier[10:20] = 100 * embeddings[0]
    means[15] = embeddings[0].double()
    seen[10] = False
    embeddings[1] = 0
    means[33] = 0
    ranks = assert_naive_ranks(embeddings, labels, classifier, None, means, seen)
    assert ranks.tolist() == [4, 32]


def test_ranks_are_the_same_where_tiles_are_float64(monkeypatch):
    given = problem(40, 150)
    expected = assert_naive_ranks(*given)
    monkeypatch.setattr(nearest, "_keeps_float32", lambda _: False)
    assert torch.equal(assert_naive_ranks(*given), expected)


def assert_naive_extras(embeddings, labels, classifier, bias, means, seen):
    """Angles and the library's rule are those of plain float64 loops, and change nothing else."""
    rest = (classifier, bias, means[seen], seen)
    choices = ArgmaxScorer(*rest, extras=["cosine", "library"])(embeddings, labels)
    plain = ArgmaxScorer(*rest)(embeddings, labels)
    assert (plain.cosine, plain.library, choices.ranks) == (None, None, None)
    for asked, unasked in zip(choices[:4], plain[:4], strict=True):
        assert torch.equal(asked, unasked)
    expected = naive_extras(
        embeddings.double().numpy(),
        classifier.double().numpy(),
        None if bias is None else bias.double().numpy(),
        means.numpy(),
        seen.numpy(),
    )
    for mine, theirs in zip((choices.cosine, *choices.library), expected, strict=True):
        assert mine.tolist() == theirs.tolist()
    # The means alone, as at an inner layer, say the same.
    alone = NearestMeans(means[seen], seen, n_rows=len(classifier), extras=["cosine", "library"])
    found = alone(embeddings)
    for mine, theirs in zip(
        (found.ids, found.cosine, found.with_origin),
        (choices.nearest, choices.cosine, choices.library[1]),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    return choices


def test_nearest_by_distance_by_angle_and_beside_the_origin():
    # Means (8, 0), (2, 2), (-1, 1), (3, -1): the global one is (3, 0.5). Seen from there h = (1, 0)
    # lies at (-2, -0.5), and the means at (5, -0.5), (-1, 1.5), (-4, 0.5), (0, -1.5): cosines
    # -0.94, 0.34, 0.94, 0.24, so class 2 is chosen by angle. Squared distances are 49, 5, 5, 5: the
    # first of three is 1. The origin, where the mean of class 4 would be, is at distance 1.
    means = torch.tensor([[8.0, 0], [2, 2], [-1, 1], [3, -1], [0, 0]]).double()
    seen = torch.tensor([1, 1, 1, 1, 0]).bool()
    classifier = torch.tensor([[0.0, 0], [0, 1], [1, 1], [0, 0], [2, 0], [3, 0]])  # 5 is padding
    choices = assert_naive_extras(
        torch.tensor([[1.0, 0.0]]), torch.tensor([0]), classifier, None, means, seen
    )
    assert (choices.nearest.item(), choices.cosine.item()) == (1, 2)
    assert (choices.classifier.item(), choices.classifier_seen.item()) == (4, 2)
    assert [ids.item() for ids in choices.library] == [5, 4]


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 8),
    n_classes=st.integers(2, 70),
    dim=st.integers(2, 9),
    padding=st.sampled_from([0, 1]),
    seed=st.integers(0, 2**31),
    unseen=st.sampled_from([0, 1, 70]),
    with_bias=st.booleans(),
    scale=st.sampled_from([0.1, 1]),
)
def test_angles_and_the_library_s_rule_are_those_of_plain_loops(
    n, n_classes, dim, padding, seed, unseen, with_bias, scale
):
    unseen = min(unseen, n_classes - 1)
    embeddings, labels, classifier, bias, means, seen = problem(
        n, n_classes, dim, padding=padding, seed=seed, unseen=unseen
    )
    embeddings *= scale  # small ones lie near the origin
    if int(seen.sum()) == 1:
        means[seen] = 0.5  # is the global mean, and has no direction, exactly
    assert_naive_extras(embeddings, labels, classifier, bias if with_bias else None, means, seen)


def test_equal_angles_go_to_the_smallest_id():
    # On a line there are two directions: the first mean on the side of h is chosen. An embedding at
    # the global mean has no angle, and ties everything.
    means = torch.tensor([[9.0], [-0.7], [3.3], [-0.3], [0.6], [-3.1]]).double()
    seen = torch.arange(6) > 0
    centre = means[seen].mean()
    embeddings = torch.stack([centre + 5, centre - 5, centre])[:, None]
    choose = NearestMeans(means[seen], seen, extras=["cosine"])
    assert choose(embeddings).cosine.tolist() == [2, 1, 1]


@pytest.mark.parametrize("gap", [1e-7, 1e-9])
@pytest.mark.parametrize("tile", [64, 2048])
def test_near_ties_of_angles_are_decided_as_float64_does(monkeypatch, gap, tile):
    # Means come in pairs, 100 ids apart, of other lengths at all but the same angle. They are
    # centred already, up to that.
    monkeypatch.setattr(argmax_tiles, "TILE", tile)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(100, 6))
    base -= base.mean(0)
    means = np.concatenate([base, 2 * base * (1 + gap * rng.normal(size=base.shape))])
    embeddings = torch.from_numpy(base[:40] * (1 + 0.01 * rng.normal(size=(40, 6))))
    classifier = torch.from_numpy(rng.normal(size=(200, 6)))
    labels, seen = torch.zeros(40, dtype=torch.int64), torch.ones(200, dtype=torch.bool)
    means = torch.from_numpy(means)
    choices = assert_naive_extras(embeddings, labels, classifier, None, means, seen)
    assert len((choices.cosine // 100).unique()) == 2  # each of the twins wins somewhere
    assert choices.reevaluated >= 40


@pytest.mark.parametrize("gap", [1e-7, 1e-9])
@pytest.mark.parametrize("first", [0, 60])
def test_near_ties_with_the_origin_are_decided_as_float64_does(gap, first):
    # Embeddings half way to their own mean, so that the origin is all but as near; the others are
    # far, in 50 dimensions. It stands for class `first`, or for the padding.
    rng = np.random.default_rng(0)
    means = torch.from_numpy(rng.normal(size=(60, 50)))
    seen = torch.arange(60) != first
    means[~seen] = 0
    embeddings = means[1:41] * torch.from_numpy(0.5 + gap * rng.normal(size=(40, 1)))
    classifier = torch.from_numpy(rng.normal(size=(62, 50)))
    labels = torch.zeros(40, dtype=torch.int64)
    choices = assert_naive_extras(embeddings, labels, classifier, None, means, seen)
    chosen = choices.library[1]
    assert set(chosen.tolist()) <= {first, *range(1, 41)}
    assert 5 < (chosen == first).sum() < 35
    assert choices.reevaluated >= 40


def test_angles_and_the_library_s_rule_are_the_same_where_tiles_are_float64(monkeypatch):
    given = problem(40, 150, padding=2)
    expected = assert_naive_extras(*given)
    monkeypatch.setattr(nearest, "_keeps_float32", lambda _: False)
    choices = assert_naive_extras(*given)
    assert torch.equal(choices.cosine, expected.cosine)
    assert torch.equal(choices.library[1], expected.library[1])


def test_no_positions_are_no_choices():
    embeddings, labels, classifier, bias, means, seen = problem()
    rest = (classifier, bias, means[seen], seen)
    choices = ArgmaxScorer(*rest)(embeddings[:0], labels[:0])
    assert [len(column) for column in choices[:4]] == [0, 0, 0, 0]
    assert choices.reevaluated == 0
    extras = ArgmaxScorer(*rest, extras=["ranks", "cosine", "library"])(embeddings[:0], labels[:0])
    assert [len(extras.ranks), len(extras.cosine), *map(len, extras.library)] == [0, 0, 0, 0]


def test_what_cannot_be_chosen_among_is_refused():
    _, _, classifier, bias, means, seen = problem()
    with pytest.raises(ValueError, match=r"no class has a mean.*min_count too high"):
        ArgmaxScorer(classifier, bias, means[:0], torch.zeros_like(seen))
    with pytest.raises(ValueError, match=r"classifier \(89, 6\).*90 classes in 6 dim"):
        ArgmaxScorer(classifier[1:], bias[1:], means[seen], seen)
