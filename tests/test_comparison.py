import dataclasses

import numpy as np
import pytest

from reference import comparison as naive
from tightframe.ntp.catalogue import MEASURES
from tightframe.ntp.comparison import compare_embeddings, shuffled_proxies, shuffled_support
from tightframe.ntp.model_on_table import by_context
from tightframe.ntp.prediction import predict
from tightframe.ntp.soft_labels import SoftLabels, centred_support, finite_component

V, M = 9, 12


def compare(*args, **options):
    """Return the values by the name of the measure."""
    return compare_embeddings(*args, **options).values


def labels_of(seed=0, groups=True):
    """Random counts; every second context has the support of the one before."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((V, M), dtype=int)
    for j in range(M):
        if j % 2 == 0 or not groups:
            support = rng.choice(V, rng.integers(2, 5), replace=False)
        counts[support, j] = rng.integers(1, 5, len(support))
    return SoftLabels.from_counts(counts)


@pytest.fixture
def labels():
    return labels_of()


def predicted(labels):
    return predict(centred_support(labels.matrix), kind="exact")


def balanced(logits):
    """Classifier and embeddings that make these logits, as training without ridge leaves them."""
    left, values, right = np.linalg.svd(logits, full_matrices=False)
    return left * np.sqrt(values), right.T * np.sqrt(values)


def values_of(logits, labels, prediction, **options):
    return {
        name: v.value
        for name, v in compare(*balanced(logits), labels, prediction, **options).items()
    }


def test_logits_at_the_limit_have_the_values_of_the_theory(labels):
    # L = L_in + R L_mm with R = 7, and L_mm has margin 1 to every off-support token.
    prediction = predicted(labels)
    finite = finite_component(labels).toarray()
    found = values_of(finite + 7 * prediction.logits, labels, prediction, proxy=prediction)
    for name in ("rest_cos", "less_finite_cos", "rest_cos_proxy", "finite_cos"):
        assert found[f"ntp_{name}"] == pytest.approx(1, abs=1e-12), name
    assert found["ntp_rest_scale"] == pytest.approx(7, rel=1e-12)
    assert found["ntp_finite_error"] == pytest.approx(0, abs=1e-12)
    assert found["ntp_spread_max"] == pytest.approx(0, abs=1e-12)
    assert found["ntp_margin_positive"] == 1
    # In the support the least of L_in + R a is R a + min L_in; off it all are R (a - 1).
    margins = 7 + finite.min(axis=0)
    assert found["ntp_margin_min"] == pytest.approx(margins.min(), rel=1e-12)
    assert found["ntp_margin_mean"] == pytest.approx(margins.mean(), rel=1e-12)
    norm = np.linalg.norm(finite + 7 * prediction.logits)
    assert found["ntp_norm_margin"] == pytest.approx(margins.min() / norm, rel=1e-12)
    # L_in and L_mm are orthogonal.
    assert found["ntp_logits_cos"] == pytest.approx(7 * np.linalg.norm(prediction.logits) / norm)
    # Columns of P_perp are those of L_mm: equal within supports.
    assert found["ntp_collapse_cos_min_rest"] == pytest.approx(1, abs=1e-12)
    assert found["ntp_nc1_support_rest"] == pytest.approx(0, abs=1e-12)
    assert found["ntp_support_groups"] == M / 2


def test_zero_logits_have_a_scale_of_zero_and_no_cosine(labels):
    # R is a coordinate: 0 is its value before a model has learned anything, not a missing one.
    shape = labels.matrix.shape
    found = compare(np.zeros((shape[0], 6)), np.ones((shape[1], 6)), labels, predicted(labels))
    assert found["ntp_rest_scale"].value == 0
    assert np.isnan(found["ntp_rest_cos"].value)


def test_the_predicted_geometry_is_like_itself(labels):
    # L = 5 L_mm alone: both Grams are the predicted ones, and the excess is that of no L_in.
    prediction = predicted(labels)
    found = values_of(5 * prediction.logits, labels, prediction)
    for side in ("classifier", "embeddings"):
        assert found[f"ntp_gram_{side}_cos"] == pytest.approx(1, abs=1e-12)
        assert found[f"ntp_gram_{side}_dist"] == pytest.approx(0, abs=1e-10)
        assert found[f"ntp_ssim_{side}"] == pytest.approx(1, abs=1e-10)
    assert found["ntp_logits_dist"] == pytest.approx(0, abs=1e-7)
    # Within the support nothing is told apart: the error is all of L_in.
    assert found["ntp_finite_error_rel"] == pytest.approx(1, rel=1e-12)


def test_every_measure_is_that_of_plain_loops(labels):
    rng = np.random.default_rng(3)
    w, h = rng.normal(size=(V, 8)), rng.normal(size=(M, 8))
    prediction = predicted(labels)
    proxy = predict(rng.normal(size=(V, M)))
    found = {name: v.value for name, v in compare(w, h, labels, prediction, proxy=proxy).items()}
    p = labels.probabilities.toarray()
    logits = w @ h.T
    logits -= logits.mean(axis=0)
    within, rest, finite = naive.parts(logits, p)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=0)
    loss = -sum(
        labels.weights[j] * p[z, j] * np.log(softmax[z, j])
        for j in range(M)
        for z in np.flatnonzero(p[:, j])
    )
    norm = np.linalg.norm
    spreads = [naive.spread(logits, p, j) for j in range(M)]
    margins = [naive.margin(logits, p, j) for j in range(M)]
    expected = {
        "excess": loss - labels.entropy,
        "norm_logits": norm(logits),
        "norm_rest": norm(rest),
        "norm_finite": norm(finite),
        "norm_classifier": norm(w),
        "norm_embeddings": norm(h),
        "finite_error": norm(within - finite),
        "finite_error_rel": norm(within - finite) / norm(finite),
        "finite_cos": naive.cosine(within, finite),
        "spread_mean": np.mean(spreads),
        "spread_max": max(spreads),
        "margin_mean": np.mean(margins),
        "margin_min": min(margins),
        "margin_positive": np.mean([m > 0 for m in margins]),
        "norm_margin": min(margins) / norm(logits),
        "rest_scale": (rest * prediction.logits).sum() / norm(prediction.logits) ** 2,
        "gram_classifier_cos_unc": naive.cosine(
            w @ w.T, prediction.classifier @ prediction.classifier.T
        ),
        "support_groups": 6,
    }
    sides = {"classifier": w - w.mean(axis=0), "embeddings": h}
    for end, reference in (("", prediction), ("_proxy", proxy)):
        for name, part in (("logits", logits), ("less_finite", logits - finite), ("rest", rest)):
            expected[f"{name}_cos{end}"] = naive.cosine(part, reference.logits)
            expected[f"{name}_dist{end}"] = naive.distance(part, reference.logits)
        for side, rows in sides.items():
            theirs = getattr(reference, side)
            grams = rows @ rows.T, theirs @ theirs.T
            expected[f"gram_{side}_cos{end}"] = naive.cosine(*grams)
            expected[f"gram_{side}_dist{end}"] = naive.distance(*grams)
            expected[f"ssim_{side}{end}"] = naive.structural_similarity(
                naive.cosines(rows), naive.cosines(theirs)
            )
    members = naive.groups(p)
    for what, rows in (("embeddings", h), ("rest", rest.T)):
        names = ("collapse_cos", "collapse_cos_min", "collapse_cos_between", "nc1_support")
        for name, value in zip(names, naive.collapse(rows, members), strict=True):
            expected[f"{name}_{what}"] = value
    for name, value in expected.items():
        assert found[f"ntp_{name}"] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    # Nothing was forgotten but what needs a model, or supports drawn at random.
    assert {f"ntp_{name}" for name in expected} | {"ntp_outside"} == set(found)
    assert {m.name for m in MEASURES if m.reference != "shuffled"} == set(found)


def test_rotation_scale_and_order_change_no_direction(labels):
    rng = np.random.default_rng(4)
    w, h = rng.normal(size=(V, 8)), rng.normal(size=(M, 8))
    prediction = predicted(labels)
    plain = compare(w, h, labels, prediction)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    turned = compare(w @ rotation, h @ rotation, labels, prediction)
    for name, value in plain.items():
        assert turned[name].value == pytest.approx(value.value, rel=1e-9, nan_ok=True), name
    longer = compare(2 * w, 3 * h, labels, prediction)
    for name in plain:
        if (
            name.endswith(("_cos", "_dist", "_cos_unc")) and "finite" not in name
        ) or "ssim" in name:
            assert longer[name].value == pytest.approx(plain[name].value, rel=1e-9), name
    tokens, contexts = rng.permutation(V), rng.permutation(M)
    moved = SoftLabels(labels.probabilities[tokens][:, contexts], labels.weights[contexts])
    other = dataclasses.replace(
        prediction,
        classifier=prediction.classifier[tokens],
        embeddings=prediction.embeddings[contexts],
    )
    permuted = compare(w[tokens], h[contexts], moved, other)
    for name, value in plain.items():
        assert permuted[name].value == pytest.approx(value.value, rel=1e-9, nan_ok=True), name
        assert permuted[name].n == value.n


def test_what_is_added_to_all_logits_of_a_context_changes_nothing(labels):
    # A vector added to every row of the classifier adds the same to all logits of a context.
    rng = np.random.default_rng(5)
    w, h = rng.normal(size=(V, 8)), rng.normal(size=(M, 8))
    plain = compare(w, h, labels, predicted(labels))
    shifted = compare(w + rng.normal(size=8), h, labels, predicted(labels))
    differ = {
        n for n in plain if shifted[n].value != pytest.approx(plain[n].value, rel=1e-9, nan_ok=True)
    }
    assert differ == {"ntp_norm_classifier", "ntp_gram_classifier_cos_unc"}


def test_a_bias_is_a_column_of_the_classifier_where_embeddings_have_a_one(labels):
    rng = np.random.default_rng(6)
    w, h, bias = rng.normal(size=(V, 8)), rng.normal(size=(M, 8)), rng.normal(size=V)
    prediction = predicted(labels)
    found = compare(w, h, labels, prediction, bias=bias)
    longer = np.column_stack([w, bias]), np.column_stack([h, np.ones(M)])
    for name, value in compare(*longer, labels, prediction).items():
        assert found[name].value == pytest.approx(value.value, rel=1e-12, nan_ok=True), name
    assert found["ntp_excess"].value != compare(w, h, labels, prediction)["ntp_excess"].value


def test_the_last_thing_that_a_model_does_to_its_logits_counts(labels):
    rng = np.random.default_rng(7)
    w, h = rng.normal(size=(V, 8)), rng.normal(size=(M, 8))
    prediction = predicted(labels)
    scaled = compare(w, h, labels, prediction, finish=lambda logits: 0.25 * logits)
    quarter = compare(0.25 * w, h, labels, prediction)
    for name in (
        "ntp_excess",
        "ntp_spread_max",
        "ntp_margin_min",
        "ntp_finite_error",
        "ntp_logits_cos",
    ):
        assert scaled[name].value == pytest.approx(quarter[name].value, rel=1e-12), name
    # The embeddings and the classifier are as they are.
    assert scaled["ntp_norm_classifier"].value == np.linalg.norm(w)


@pytest.mark.parametrize("block", [1, 30, 10**6])
def test_the_size_of_a_block_changes_nothing(labels, block):
    logits = np.random.default_rng(8).normal(size=(V, M))
    prediction = predicted(labels)
    whole = by_context(lambda contexts: logits[:, contexts], labels, {"x": prediction})
    parts = by_context(lambda contexts: logits[:, contexts], labels, {"x": prediction}, block=block)
    assert parts.excess == pytest.approx(whole.excess, rel=1e-13)
    assert parts.margin == pytest.approx(whole.margin, rel=1e-13)
    assert parts.against["x"].off_support == pytest.approx(
        whole.against["x"].off_support, rel=1e-12
    )


def test_a_support_of_all_tokens_has_no_margin_and_one_of_one_token_no_spread():
    counts = np.array([[1, 2, 1], [1, 0, 1], [3, 0, 0]])
    labels = SoftLabels.from_counts(counts)
    w, h = np.eye(3), np.arange(9.0).reshape(3, 3) ** 2
    with pytest.warns(UserWarning, match="no two contexts have one support; subspace collapse is"):
        found = compare(w, h, labels, None)
    assert (found["ntp_margin_min"].n, found["ntp_margin_min"].excluded) == (2, 1)
    assert found["ntp_margin_min"].reason == "all tokens follow 1 contexts"
    assert (found["ntp_spread_max"].n, found["ntp_spread_max"].excluded) == (2, 1)
    assert np.isnan(found["ntp_collapse_cos_rest"].value)
    assert found["ntp_collapse_cos_rest"].reason == "no two contexts have one support"


def test_uniform_labels_have_no_finite_part():
    labels = SoftLabels.from_counts(np.array([[1, 1], [1, 1], [0, 0]]))
    found = compare(np.eye(3), np.ones((2, 3)), labels, None)
    assert np.isnan(found["ntp_finite_error_rel"].value)
    assert found["ntp_finite_cos"].reason.startswith("L_in is 0")
    assert found["ntp_finite_error"].value == 0


def test_values_say_what_they_are_compared_with(labels):
    prediction = dataclasses.replace(predicted(labels), kind="certified", gap=2e-5)
    proxy = dataclasses.replace(prediction, kind="proxy", gap=float("nan"))
    found = compare(*balanced(proxy.logits), labels, prediction, proxy=proxy)
    assert found["ntp_rest_cos"].reason == "certified (gap 2.0e-05)"
    assert found["ntp_rest_cos_proxy"].reason == "proxy"
    # A proxy is never taken for a solution.
    alone = compare(*balanced(proxy.logits), labels, proxy)
    assert "ntp_rest_cos" not in alone
    assert alone["ntp_rest_cos_proxy"].value == pytest.approx(1, abs=1e-12)


def test_a_random_support_has_the_same_sizes_and_other_tokens(labels):
    drawn = shuffled_support(labels, seed=1)
    assert np.array_equal(np.diff(drawn.indptr), labels.support_sizes)
    assert np.array_equal(drawn.toarray().sum(axis=0), labels.support_sizes)
    assert not np.array_equal(drawn.toarray(), labels.matrix)
    assert np.array_equal(drawn.toarray(), shuffled_support(labels, seed=1).toarray())
    assert not np.array_equal(drawn.toarray(), shuffled_support(labels, seed=2).toarray())


@pytest.mark.filterwarnings("ignore:support")  # of random supports some tokens are in none
def test_the_baseline_is_the_mean_over_random_supports(labels):
    logits = predicted(labels).logits
    drawn = shuffled_proxies(labels, 3, seed=5)
    found = compare(*balanced(logits), labels, predicted(labels), shuffled=drawn)
    each = [naive.cosine(logits, one.logits) for one in drawn]
    assert found["ntp_logits_cos_shuffled"].value == pytest.approx(np.mean(each), rel=1e-9)
    assert found["ntp_logits_cos_shuffled"].n == 3
    assert found["ntp_gram_embeddings_cos_shuffled"].value < found["ntp_gram_embeddings_cos"].value


def test_too_few_dimensions_are_warned_of(labels):
    w, h = np.ones((V, 2)), np.arange(2.0 * M).reshape(M, 2)
    with pytest.warns(
        UserWarning, match=r"have 2 dimensions, but the predicted logits have rank \d"
    ):
        compare(w, h, labels, predicted(labels))


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ((V + 1, M), (4, 4), "classifier: 10 rows, expected one per token of the table, 9"),
        ((V, M - 1), (4, 4), "embeddings: 11 rows, expected one per context of the table, 12"),
        ((M, V), (4, 4), "has 9 tokens and 12 contexts; are the two exchanged"),
        ((V, M), (4, 5), "classifier has 4 columns and embeddings 5; expected rows of one length"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_their_axis(labels, rows, columns, message):
    w, h = (np.ones(shape) for shape in zip(rows, columns, strict=True))
    with pytest.raises(ValueError, match=message):
        compare(w, h, labels, None)


def test_a_bias_of_other_tokens_is_refused(labels):
    with pytest.raises(ValueError, match=r"bias: \(3,\), expected one per token of the table, 9"):
        compare(np.ones((V, 2)), np.ones((M, 2)), labels, None, bias=np.ones(3))


@pytest.mark.parametrize("which", ["classifier", "embeddings"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_row(labels, which, value):
    given = {"classifier": np.ones((V, 2)), "embeddings": np.ones((M, 2))}
    given[which][3, 1] = value
    with pytest.raises(ValueError, match=rf"{which}: {value} in row 3; expected finite"):
        compare(**given, labels=labels, prediction=None)


def test_logits_that_overflow_are_refused_with_their_place(labels):
    with pytest.raises(ValueError, match=r"logits: -?(nan|inf) for token \d+, context 0"):
        compare(
            np.ones((V, 1)), np.ones((M, 1)), labels, None, finish=lambda logits: logits * np.inf
        )


def test_a_prediction_of_another_table_is_refused(labels):
    other = predict(np.eye(4), kind="exact")
    with pytest.raises(ValueError, match="prediction: of 4 tokens and 4 contexts, but the table"):
        compare(np.ones((V, 9)), np.ones((M, 9)), labels, other)


def test_names_are_unique_and_say_what_they_compare_with():
    names = [measure.name for measure in MEASURES]
    assert len(set(names)) == len(names)
    ends = {"proxy": "_proxy", "shuffled": "_shuffled"}
    for measure in MEASURES:
        for reference, end in ends.items():
            assert (measure.reference == reference) == measure.name.endswith(end), measure.name


def test_tokens_that_a_random_support_leaves_out_are_no_warning():
    # Four tokens of a hundred can be drawn: the others follow nothing. Warnings are errors here.
    counts = np.zeros((100, 2), dtype=int)
    counts[[0, 1], 0] = counts[[2, 3], 1] = 1
    assert len(shuffled_proxies(SoftLabels.from_counts(counts), 2)) == 2


def test_contexts_with_one_next_token_have_no_spread():
    # M contexts that all tokens follow, and M one-hot ones, which have no differences.
    rng = np.random.default_rng(6)
    w, h = rng.normal(size=(V, 8)), rng.normal(size=(2 * M, 8))
    counts = np.hstack(
        [rng.integers(1, 5, (V, M)), 3 * np.eye(V, dtype=int)[:, rng.integers(0, V, M)]]
    )
    more = SoftLabels.from_counts(counts)
    found = compare(w, h, more, predict(rng.normal(size=(V, 2 * M))))
    several = [naive.spread(w @ h.T, more.probabilities.toarray(), j) for j in range(M)]
    assert found["ntp_spread_mean"].value == pytest.approx(np.mean(several), rel=1e-12)
    assert (found["ntp_spread_mean"].n, found["ntp_spread_mean"].excluded) == (M, M)
    assert found["ntp_spread_mean"].reason == f"{M} contexts are one-hot"
