import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from reference.bridges import naive_class_moments, naive_cross_entropy
from studies.bridge import models as bridges
from tightframe.geometry import metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.ntp import ContextTable, predict, proxy, solve_svm
from tightframe.ntp.soft_labels import centred_support, finite_component


def table_of(counts, tokens=None):
    """A table whose context j is the single token j."""
    counts = sp.csr_array(np.asarray(counts, dtype=np.int64))
    contexts = np.arange(counts.shape[0], dtype=np.int32)[:, None]
    tokens = np.arange(counts.shape[1]) if tokens is None else np.asarray(tokens)
    return ContextTable(contexts, counts, tokens)


def random_table(n_contexts=40, n_tokens=12, seed=0, density=0.3):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, (n_contexts, n_tokens)) * (
        rng.random((n_contexts, n_tokens)) < density
    )
    counts[np.arange(n_contexts), np.arange(n_contexts) % n_tokens] += 1
    return table_of(counts)


def values(predicted, *names, **options):
    found = metrics(predicted.moments, predicted.classifier, measures=names, **options)
    return [found[name].value for name in names]


def cosines(matrix):
    unit = matrix / matrix.norm(dim=1, keepdim=True)
    return (unit @ unit.T).numpy()


@pytest.mark.parametrize("per_token", [1, 3])
def test_balanced_one_hot_labels_predict_neural_collapse(per_token):
    # One next token a context, equally many contexts a token: S~ is exact and its class means are
    # a simplex ETF, without variability, along the rows of the classifier.
    n = 6
    table = table_of(np.repeat(np.eye(n), per_token, axis=0))
    predicted = bridges.limit(table, dim=n - 1)
    assert predicted.moments.within_ss.numpy() == pytest.approx(np.zeros(n), abs=1e-20)
    expected = np.where(np.eye(n), 1.0, -1 / (n - 1))
    assert cosines(predicted.moments.means) == pytest.approx(expected, abs=1e-12)
    assert cosines(predicted.classifier) == pytest.approx(expected, abs=1e-12)
    nc1, error, duality, angles = values(
        predicted, "nc1_quotient", "nc2_etf_error", "nc3_cos_mean", "nc2_equiang_std"
    )
    assert nc1 == pytest.approx(0, abs=1e-20)
    assert (error, duality, angles) == pytest.approx((0, 1, 0), abs=1e-7)


def test_a_certified_solution_makes_an_ideal_model_as_the_proxy_does():
    # Pairs of four tokens, all six: the proxy is exact, so both have one geometry.
    table = table_of([[int(z in pair) for z in range(4)] for pair in combinations(range(4), 2)])
    solved = bridges.ideal(table, predict(solve_svm(table.support, gap=1e-6)))
    names = ("nc1_quotient", "nc2_equiang_std", "nc3_cos_mean")
    assert values(solved, *names) == pytest.approx(
        values(bridges.limit(table, dim=3), *names), abs=1e-4
    )
    # A class has three contexts, of embeddings (e_a + e_b - 1/2) / scale up to a rotation.
    centres = np.array(
        [[int(z in pair) - 0.5 for z in range(4)] for pair in combinations(range(4), 2)]
    )
    sizes, means, within_ss = naive_class_moments(table.counts.toarray(), centres)
    expected = (within_ss / sizes).mean() / np.square(means).sum(1).mean()
    assert values(solved, "nc1_quotient")[0] == pytest.approx(expected, abs=1e-4)


def test_contexts_that_two_tokens_share_have_the_moments_of_two_points():
    # Token 0 follows context 0 three times and context 1 once: embeddings 0 and 4 have the mean
    # 1 and the spread 3 * 1 + 1 * 9 = 12. Token 1 follows only context 1: no spread.
    moments = bridges.class_moments(table_of([[3, 0], [1, 2]]), np.array([[0.0], [4.0]]))
    assert moments.counts.tolist() == [4, 2]
    assert moments.means.flatten().tolist() == [1, 4]
    assert moments.within_ss.tolist() == [12, 0]


def test_moments_are_those_of_every_occurrence_as_a_sample(monkeypatch):
    monkeypatch.setattr(bridges, "_CHUNK", 50)  # several chunks
    table = random_table()
    embeddings = np.random.default_rng(1).normal(size=(40, 7)) + 1e4
    moments = bridges.class_moments(table, embeddings)
    sizes, means, within_ss = naive_class_moments(table.counts.toarray(), embeddings)
    assert moments.counts.tolist() == sizes.tolist()
    assert moments.means.numpy() == pytest.approx(means, rel=1e-12)
    assert moments.within_ss.numpy() == pytest.approx(within_ss, rel=1e-8)  # of means near 1e4


def test_moments_equal_those_of_the_stream():
    table = random_table(seed=2)
    embeddings = np.random.default_rng(3).normal(size=(40, 5))
    contexts, tokens = table.counts.nonzero()
    repeats = table.counts.toarray()[contexts, tokens]
    streamed = ClassMoments(12, 5)
    streamed.update(
        torch.from_numpy(embeddings[np.repeat(contexts, repeats)]),
        torch.from_numpy(np.repeat(tokens, repeats).astype(np.int64)),
    )
    moments = bridges.class_moments(table, embeddings)
    assert torch.equal(moments.counts, streamed.counts)
    assert moments.means.numpy() == pytest.approx(streamed.means.numpy(), rel=1e-12)
    assert moments.within_ss.numpy() == pytest.approx(streamed.within_ss.numpy(), rel=1e-12)


def test_classes_whose_contexts_agree_have_no_spread_at_all():
    embeddings = np.full((3, 2), 0.1)
    moments = bridges.class_moments(table_of([[1, 0], [5, 1], [0, 3]]), embeddings)
    assert moments.within_ss.tolist() == [0, 0]


def test_a_context_that_is_split_in_two_changes_no_class():
    table = random_table()
    counts, embeddings = table.counts.toarray(), np.random.default_rng(4).normal(size=(40, 3))
    half = counts[:1] // 2
    split = table_of(np.vstack([half, counts[:1] - half, counts[1:]]))
    twice = np.vstack([embeddings[:1], embeddings])
    moments = bridges.class_moments(table, embeddings)
    other = bridges.class_moments(split, twice)
    assert torch.equal(moments.counts, other.counts)
    assert other.means.numpy() == pytest.approx(moments.means.numpy(), abs=1e-12)
    assert other.within_ss.numpy() == pytest.approx(moments.within_ss.numpy(), abs=1e-12)


def test_order_of_contexts_and_rotation_do_not_matter():
    table, rng = random_table(), np.random.default_rng(5)
    shuffle = rng.permutation(40)
    mixed = table_of(table.counts.toarray()[shuffle])
    names = ("nc1_quotient_db", "nc2_equiang_std", "gnc2_log_kernel_excess", "nc3_cos_mean")
    expected = values(bridges.limit(table, dim=6), *names)
    assert values(bridges.limit(mixed, dim=6), *names) == pytest.approx(expected, rel=1e-8)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    found = proxy(table.soft_labels.support, rank=6)
    turned = dataclasses.replace(
        found, classifier=found.classifier @ turn, embeddings=found.embeddings @ turn
    )
    turned = bridges.ideal(table, turned)
    assert values(turned, *names) == pytest.approx(expected, rel=1e-8)


def test_the_limit_of_many_contexts_is_that_of_the_whole_decomposition_cut():
    # By Lanczos iteration where few dimensions are asked for, from all of them where many are.
    table = random_table(n_contexts=300, n_tokens=90, density=0.05)
    whole = predict(centred_support(table.support))
    names = ("nc1_quotient_db", "nc2_equiang_std", "nc3_cos_mean")
    for dim in (8, 60):
        expected = values(bridges.ideal(table, whole, dim=dim), *names)
        assert values(bridges.limit(table, dim=dim), *names) == pytest.approx(expected, rel=1e-8)


def test_a_wider_model_than_the_rank_has_dimensions_of_zero():
    # Six tokens, one context each: rank 5 in 9 dimensions.
    predicted = bridges.limit(table_of(np.eye(6)), dim=9)
    assert predicted.moments.dim == 9
    assert predicted.classifier.shape == (6, 9)
    assert not predicted.moments.means[:, 5:].any()


@pytest.mark.parametrize("margin", [-2.0, 0.0, 3.0, 40.0])
def test_the_margin_of_a_loss_gives_logits_with_that_loss(margin):
    table = random_table()
    labels = table.soft_labels
    logits = finite_component(labels).toarray() + margin * centred_support(table.support)
    loss = naive_cross_entropy(table.counts.toarray(), logits)
    if margin < 30:
        assert bridges.margin_at(labels, loss) == pytest.approx(margin, abs=1e-9)
    else:  # what is left above the entropy is rounding
        assert bridges.margin_at(labels, labels.entropy + 1e-15) > 20


def test_a_loss_that_the_table_can_not_explain_is_the_limit():
    table = random_table()
    entropy = table.empirical_entropy
    assert bridges.margin_at(table.soft_labels, entropy - 0.1) == math.inf
    at_limit = bridges.finite(table, dim=4, loss=entropy - 0.1)
    expected = bridges.limit(table, dim=4)
    assert at_limit.margin == math.inf
    assert torch.equal(at_limit.moments.means, expected.moments.means)


def test_a_model_near_the_entropy_has_the_measures_of_the_limit_and_others_far_from_it():
    # The finite component is R times smaller than the rest.
    table = random_table()
    names = ("nc1_quotient_db", "gnc2_log_kernel_excess")
    limit = values(bridges.limit(table, dim=5), *names)
    near = bridges.finite(table, dim=5, loss=table.empirical_entropy + 1e-13)
    far = bridges.finite(table, dim=5, loss=table.empirical_entropy + 1.0)
    assert 20 < near.margin < 50
    assert values(near, *names) == pytest.approx(limit, rel=0.05)
    assert far.margin < 5
    assert values(far, *names) != pytest.approx(limit, rel=0.01)


def test_a_shuffled_table_keeps_all_counts_of_contexts_and_tokens():
    table = random_table()
    dealt = bridges.shuffled(table, seed=0)
    for axis in (0, 1):
        assert dealt.counts.sum(axis=axis).tolist() == table.counts.sum(axis=axis).tolist()
    assert (dealt.counts != table.counts).nnz > 0
    again, other = bridges.shuffled(table, seed=0), bridges.shuffled(table, seed=1)
    assert (again.counts != dealt.counts).nnz == 0
    assert (other.counts != dealt.counts).nnz > 0


def test_one_context_an_occurrence_leaves_token_counts_alone():
    # All contexts have one token, so classes do not vary; of the first example, SELI at two
    # levels: 10 tokens, five with 10 contexts, cosines of the classifier as the closed form says.
    table = table_of([[10] * 5 + [1] * 5])
    alone = bridges.one_each(table)
    assert alone.n_contexts == 55
    assert alone.counts.sum(axis=0).tolist() == [10] * 5 + [1] * 5
    predicted = bridges.limit(alone, dim=9)
    assert predicted.moments.within_ss.tolist() == pytest.approx([0] * 10, abs=1e-20)
    found = cosines(predicted.classifier)
    assert found[0, 1] == pytest.approx(-0.143953, abs=1e-6)
    assert found[5, 6] == pytest.approx(0.033369, abs=1e-6)
    assert found[0, 5] == pytest.approx(-0.138681, abs=1e-6)


def test_random_embeddings_are_those_of_their_seed():
    table = random_table()
    first, again = (bridges.random_embeddings(table, dim=3, seed=7) for _ in range(2))
    assert torch.equal(first.moments.means, again.moments.means)
    other = bridges.random_embeddings(table, dim=3, seed=8)
    assert not torch.equal(first.moments.means, other.moments.means)


def test_classes_of_a_model_are_taken_in_the_order_of_the_table():
    model = ClassMoments(5, 2)
    model.update(torch.eye(2).repeat(3, 1), torch.tensor([0, 1, 2, 3, 4, 4]))
    chosen = bridges.classes_of(table_of(np.eye(2), tokens=[4, 1]), model)
    assert chosen.counts.tolist() == [2, 1]
    assert torch.equal(chosen.means, model.means[[4, 1]])
    # (1, 0) and (0, 1): each has squared distance 1/2 to their mean.
    assert chosen.within_ss.tolist() == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: bridges.ideal(t, predict(np.eye(11, 40))),
            "prediction has 11 rows of the classifier, expected one per token of the table, 12; is",
        ),
        (
            lambda t: bridges.ideal(t, predict(np.eye(12, 41))),
            "embeddings has 41 rows, expected one per context of the table, 40",
        ),
        (
            lambda t: bridges.class_moments(t, np.zeros((41, 3))),
            "embeddings has 41 rows, expected one per context of the table, 40",
        ),
        (
            lambda t: bridges.class_moments(t, np.where(np.arange(40)[:, None] == 6, np.nan, 1.0)),
            "embeddings: that of context 6 is not finite",
        ),
        (
            lambda t: bridges.classes_of(t, ClassMoments(10, 3)),
            "the table has token 11, but the moments are of 10 classes; are they of another",
        ),
        (
            lambda t: bridges.margin_at(t.soft_labels, math.nan),
            "loss is nan, expected nats per token",
        ),
        (
            lambda t: bridges.finite(t, dim=3, loss=1e4),
            "loss is 1e\\+04 nats per token, which no margin above -700 has",
        ),
    ],
)
def test_what_does_not_fit_the_table_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make(random_table())
