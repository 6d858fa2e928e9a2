import math

import numpy as np
import pandas as pd
import pytest
import torch

from reference.bridges import naive_cosine_correlation, naive_p
from studies.bridge import agreement
from studies.bridge.models import Ideal
from tightframe.geometry.moments import ClassMoments


def moments_of(means, within_ss=None, count=4):
    counts = torch.tensor([count] * len(means) if isinstance(count, int) else count)
    means = torch.as_tensor(means, dtype=torch.float64)
    within_ss = None if within_ss is None else torch.as_tensor(within_ss).double()
    return ClassMoments.from_dense(counts, means, within_ss)


def ideal_of(means, within_ss=None, count=4):
    moments = moments_of(means, within_ss, count)
    return Ideal(moments, moments.means)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_a_model_that_is_turned_scaled_and_moved_agrees_entirely():
    means, within_ss = normal(9, 4), np.arange(1.0, 10.0)
    turn = np.linalg.qr(normal(4, 4, seed=1))[0]
    model = moments_of(3 * means @ turn + 5, 9 * within_ss)
    found = agreement.class_agreement(ideal_of(means, within_ss), model, min_count=2)
    expected = {"cosines": 1, "norms": 1, "variances": 1, "classes": 9}
    assert found == pytest.approx(expected, abs=1e-12)


def test_agreement_is_the_correlation_of_all_cosines():
    a, b = normal(20, 6), normal(20, 3, seed=1)
    found = agreement.class_agreement(ideal_of(a), moments_of(b), min_count=1)["cosines"]
    expected = naive_cosine_correlation(a - a.mean(0), b - b.mean(0))
    assert found == pytest.approx(expected, rel=1e-10)
    assert abs(expected) > 0.01


def test_opposite_orders_of_norms_and_variances_disagree_entirely():
    # Pairs of opposite means: centred as they are, of norms 1, 1, 2, 2, ... and the reverse.
    axes = np.eye(4)
    sizes = np.arange(1.0, 5)[:, None]
    a, b = (np.vstack([s * axes, -s * axes]) for s in (sizes, sizes[::-1]))
    within_ss = np.arange(8.0)
    found = agreement.class_agreement(
        ideal_of(a, within_ss), moments_of(b, 8 - within_ss), min_count=1
    )
    assert (found["norms"], found["variances"]) == pytest.approx((-1, -1), abs=1e-12)
    assert found["cosines"] == pytest.approx(1, abs=1e-12)


def test_classes_that_are_rare_in_one_of_both_are_left_out():
    a, b = ideal_of(normal(6, 3)), moments_of(normal(6, 3, seed=1), count=[4, 4, 1, 4, 4, 4])
    found = agreement.class_agreement(a, b, min_count=4)
    kept = [0, 1, 3, 4, 5]
    chosen = ideal_of(a.moments.means[kept]), moments_of(b.means[kept])
    assert found == agreement.class_agreement(*chosen, min_count=4)
    assert found["classes"] == 5


def test_means_that_are_a_simplex_have_no_order_of_cosines():
    # All cosines are equal: what would be correlated is rounding.
    simplex = np.eye(5)
    found = agreement.class_agreement(ideal_of(simplex), moments_of(normal(5, 3)), min_count=1)
    assert math.isnan(found["cosines"])


def test_a_prediction_for_other_classes_is_refused():
    with pytest.raises(ValueError, match="moments are of 6 classes, the prediction of 5"):
        agreement.class_agreement(ideal_of(normal(5, 3)), moments_of(normal(6, 3)), min_count=1)


def lines(predicted, measured, loss, variant="limit", measure="nc1"):
    return pd.DataFrame(
        {
            "run": [f"r{i}" for i in range(len(predicted))],
            "variant": variant,
            "measure": measure,
            "predicted": predicted,
            "measured": measured,
            "loss": loss,
        }
    )


def test_models_in_the_predicted_order_have_rank_correlation_one():
    # Five models: of 120 permutations two have a correlation of size 1, p = 1/60.
    frame = lines([1, 2, 3, 4, 5], [10, 20, 30, 40, 500], [3, 1, 2, 5, 4])
    found = agreement.order(frame, ["variant"], permutations=40_000).iloc[0]
    assert found["spearman"] == pytest.approx(1)
    assert found["p"] == pytest.approx(1 / 60, abs=0.003)
    assert (found["n"], found["mean_predicted"], found["mean_measured"]) == (5, 3, 120)


def test_the_loss_is_a_control_beside_and_within_the_order():
    predicted, measured, loss = [1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], [1, 3, 2, 4, 6, 5]
    found = agreement.order(lines(predicted, measured, loss), ["variant"]).iloc[0]
    ranks = pd.DataFrame([predicted, measured, loss]).T.corr().to_numpy()  # no ties: are ranks
    assert found["of_loss"] == pytest.approx(ranks[1, 2])
    # Partial correlation by the inverse of the correlation matrix.
    inverse = np.linalg.inv(ranks)
    partial = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert found["partial"] == pytest.approx(partial, rel=1e-10)


def test_a_prediction_that_is_the_loss_says_nothing_beyond_it():
    found = agreement.order(lines([1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 3, 4]), ["variant"]).iloc[0]
    assert found["spearman"] == found["of_loss"]
    assert math.isnan(found["partial"])


def test_a_constant_prediction_has_no_order():
    found = agreement.order(lines([2, 2, 2, 2], [1, 3, 2, 4], [1, 2, 3, 4]), ["variant"]).iloc[0]
    assert math.isnan(found["spearman"])
    assert math.isnan(found["p"])


def test_values_that_are_not_finite_are_left_out_of_the_order():
    frame = lines([1, 2, 3, math.inf, 5], [1, 2, 3, 0, math.nan], [1, 2, 3, 4, 5])
    assert agreement.order(frame, ["variant"]).iloc[0]["n"] == 3


def test_every_variant_and_measure_has_a_line_of_its_own():
    parts = [([1, 2, 3], "limit", "a"), ([3, 2, 1], "limit", "b"), ([3, 2, 1], "finite", "a")]
    frame = pd.concat(lines(x, [1, 2, 3], [1, 3, 2], v, m) for x, v, m in parts)
    found = agreement.order(frame, ["variant"])
    assert found[["variant", "measure"]].to_numpy().tolist() == [[v, m] for _, v, m in parts]
    assert found["spearman"].tolist() == pytest.approx([1, -1, -1])


def test_p_is_the_share_of_all_permutations():
    x, y = normal(6), normal(6, seed=3)
    found = agreement.permutation_p(x, y, 40_000, seed=0)
    assert found == pytest.approx(naive_p(x, y), abs=0.01)
    assert found == agreement.permutation_p(x, y, 40_000, seed=0)


def test_a_perfect_prediction_joins_with_itself():
    predicted = agreement.measured(
        moments_of(normal(9, 4), np.arange(1.0, 10)), torch.from_numpy(normal(9, 4)), min_count=2
    )
    joined = agreement.joined(predicted, predicted, {"run": "a"})
    assert [line["measure"] for line in joined] == list(agreement.MEASURES)
    assert all(line["predicted"] == line["measured"] for line in joined)
    assert all(line["run"] == "a" for line in joined)
