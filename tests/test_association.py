import math

import numpy as np
import pandas as pd
import pytest

from reference import association as reference
from tightframe.analysis.association import associate, associations
from tightframe.analysis.checkpoints import checkpoints, last_of_each_run
from tightframe.results import WAY


def array(*values):
    return np.array(values, dtype=float)


def test_three_points_have_the_correlation_of_the_textbook():
    # Deviations (-1, 0, 1) and (-1, -1, 2) / 3: r = 1 / sqrt(2 * 2/3) = sqrt(3)/2, slope 1/2.
    found = associate(array(0, 1, 2), array(0, 0, 1))
    assert found.r == pytest.approx(math.sqrt(3) / 2, rel=1e-12)
    assert found.r2 == pytest.approx(3 / 4, rel=1e-12)
    assert found.slope == pytest.approx(1 / 2, rel=1e-12)
    assert found.intercept == pytest.approx(-1 / 6, rel=1e-12)
    # Ranks (1, 2, 3) and (1.5, 1.5, 3): the same correlation.
    assert found.spearman == pytest.approx(math.sqrt(3) / 2, rel=1e-12)


def test_a_falling_line_has_a_negative_sign():
    found = associate(array(1, 2, 3, 4), array(7, 5, 3, 1))
    assert (found.r, found.r2, found.spearman) == (-1, 1, -1)
    assert (found.slope, found.intercept) == pytest.approx((-2, 9), rel=1e-12)


def test_the_log_is_a_line_where_the_loss_goes_with_orders_of_magnitude():
    # y = 2 ln(x) + 1 exactly.
    x = array(0.01, 0.1, 1, 10)
    found = associate(x, 2 * np.log(x) + 1, log=True)
    assert (found.r, found.slope, found.intercept) == pytest.approx((1, 2, 1), rel=1e-12)
    assert associate(x, 2 * np.log(x) + 1).r < 0.9


def test_correlations_equal_the_definition_in_plain_loops():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40).round(1)  # rounded, so that there are ties
    y = (x + rng.normal(size=40)).round(1)
    found = associate(x, y)
    assert len(set(x)) < 40
    assert found.r == pytest.approx(reference.pearson(x, y), rel=1e-12)
    ranks = reference.pearson(reference.ranks(x), reference.ranks(y))
    assert found.spearman == pytest.approx(ranks, rel=1e-12)
    left = reference.residual_share(x, y, found.slope, found.intercept)
    assert 1 - found.r2 == pytest.approx(left, rel=1e-10)


def test_units_and_order_do_not_matter():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20))
    order = rng.permutation(20)
    found, moved = associate(x, y), associate((5 - 1e6 * x)[order], (3 * y + 1e3)[order])
    assert moved.r == pytest.approx(-found.r, rel=1e-9)
    assert moved.spearman == pytest.approx(-found.spearman, rel=1e-12)


def test_pairs_that_are_not_finite_are_left_out_and_not_counted():
    x, y = array(0, 1, math.nan, 2, math.inf, 3), array(0, 0, 5, 1, 5, math.nan)
    assert associate(x, y) == associate(array(0, 1, 2), array(0, 0, 1))


@pytest.mark.parametrize(
    ("x", "y", "log", "reason"),
    [
        ([1, 2], [1, 2], False, "fewer than three points"),
        ([0.1 + 0.2, 0.3, 0.3], [1, 2, 3], False, "the measure is constant"),
        ([1, 2, 3], [4, 4, 4], False, "the loss is constant"),
        ([0, 2, 3], [1, 2, 3], True, "not positive"),
    ],
)
def test_an_undefined_correlation_is_nan_with_its_reason(x, y, log, reason):
    found = associate(array(*x), array(*y), log=log)
    assert found.reason == reason
    assert all(math.isnan(v) for v in (found.r, found.r2, found.spearman, found.slope))


@pytest.mark.parametrize("unit", [1e-200, 1e-3, 1e200])
def test_the_unit_of_a_measure_changes_its_slope_and_nothing_else(unit):
    # Squares of the values, or of their deviations, would leave the range of float64.
    x, y = np.array([1.0, 2, 4, 3]), np.array([2.0, 1, 5, 3])
    plain, other = associate(x, y), associate(unit * x, y)
    assert other.r == pytest.approx(plain.r, rel=1e-12)
    assert other.spearman == plain.spearman
    assert other.slope * unit == pytest.approx(plain.slope, rel=1e-12)
    assert other.intercept == pytest.approx(plain.intercept, rel=1e-12)


def rows(*lines):
    names = ["run", "step", "split", "layer", "labels", "subset", "metric", "value", "min_count"]
    frame = pd.DataFrame(lines, columns=names)
    facts = {"set_seed": 0, "tokens_name": "x", "tokens_fingerprint": "1f", "measured_groups": 1}
    facts |= {f"measured_{name}": usual for name, usual in WAY.items()}
    facts |= {"centre": math.nan, "low": math.nan, "high": math.nan}
    return frame.assign(**facts, model_width=[len(run) for run in frame["run"]])


def test_a_checkpoint_takes_the_last_layer_the_training_split_and_the_largest_minimum_count():
    table, _ = checkpoints(
        rows(
            ("a", 1, "train", 2, "next", "all", "m", 1.0, 1),
            ("a", 1, "train", 1, "next", "all", "m", 2.0, 1),
            ("a", 1, "val", 2, "next", "all", "m", 3.0, 5),
            ("a", 1, "train", 2, "next", "all", "m", 4.0, 5),
            ("a", 1, "train", 2, "next", "rare", "m", 5.0, 0),
            ("a", 1, "train", 3, "current", "all", "m", 6.0, 1),
            ("a", 1, "val", 2, "next", "all", "val_loss", 7.0, 1),
            ("bb", 1, "val", 2, "next", "all", "val_loss", 8.0, 1),
        )
    )
    assert table["run"].tolist() == ["a", "bb"]
    assert table["val_loss"].tolist() == [7, 8]
    assert table["m"].tolist() == pytest.approx([4, math.nan], nan_ok=True)
    assert table["model_width"].tolist() == [1, 2]


def test_associations_count_runs_and_take_the_last_checkpoints_apart():
    # Four runs of two checkpoints; over the last ones, m = 1..4 and the loss falls by 1 each.
    table = pd.DataFrame(
        {
            "run": np.repeat(list("abcd"), 2),
            "step": [1, 2] * 4,
            "m": array(0.5, 1, 0.5, 2, 0.5, 3, 0.5, 4),
            "val_loss": array(9, 8, 9, 7, 9, 6, math.nan, 5),
        }
    )
    assert last_of_each_run(table)["m"].tolist() == [1, 2, 3, 4]
    found = associations(table, ["m"]).set_index(["metric", "log", "checkpoints"])
    assert found.loc[("m", False, "last"), ["n", "n_runs", "r"]].tolist() == [4, 4, -1]
    assert found.loc[("m", False, "all"), ["n", "n_runs"]].tolist() == [7, 4]
    assert found.loc[("m", True, "all"), "r2"] == pytest.approx(
        reference.pearson(*np.log([[0.5, 1, 0.5, 2, 0.5, 3, 4], np.exp([9, 8, 9, 7, 9, 6, 5])]))
        ** 2,
        rel=1e-10,
    )


def associated(metric, **columns):
    """The association over all checkpoints, on a linear axis."""
    found = associations(pd.DataFrame(columns), [metric])
    return found[~found["log"] & (found["checkpoints"] == "all")].iloc[0]


RUNS = {"run": list("abcd"), "step": 4 * [1], "val_loss": array(4, 3, 2, 1)}


def test_checkpoints_of_one_run_are_not_associated():
    one = RUNS | {"run": 4 * ["a"], "step": [1, 2, 3, 4], "m": array(1, 2, 3, 4)}
    found = associated("m", **one)
    assert found["reason"] == "the checkpoints are of one run"
    assert math.isnan(found["r"])
    assert associated("m", **one | {"run": list("aaab")})["r"] == -1


def test_losses_on_several_texts_are_not_associated():
    line = RUNS | {"m": array(1, 2, 3, 4)}
    assert associated("m", **line, tokens_fingerprint=4 * ["1f"])["r"] == -1
    found = associated("m", **line, tokens_fingerprint=["1f", "1f", "1f", "2e"])
    assert found["reason"] == "losses on 2 texts can't be compared"
    assert math.isnan(found["slope"])


@pytest.mark.parametrize(
    ("values", "crosses"),
    [
        ((-1500, 20, -30, 1400), True),
        ((-3, -1, 1, 3), True),
        ((-1, 3, 4, 5), False),  # the mean is 1.2 standard deviations from 0
        ((1, 100, 1, 1), False),  # never negative
        ((-4, -3, -2, -1), False),
    ],
)
def test_no_line_goes_through_a_measure_that_crosses_zero_far(values, crosses):
    found = associated("m", **RUNS, m=array(*values))
    assert (found["reason"] == "the measure crosses 0 far") == crosses
    assert math.isnan(found["r"]) == crosses


def trainings(**columns):
    """Eight runs of one epoch and of three, which lose less."""
    return RUNS | {
        "run": list("abcdefgh"),
        "step": 8 * [1],
        "set_epochs": 4 * [1.0] + 4 * [3.0],
        "val_loss": array(4, 4.1, 4.2, 4.3, 2, 2.1, 2.2, 2.3),
        **columns,
    }


def test_signs_within_trainings_of_one_length_stand_beside_the_pooled_one():
    # Within each length the measure falls as the loss grows; between lengths it grows with it.
    table = pd.DataFrame(trainings(m=array(9, 8, 7, 6, 4, 3, 2, 1), set_recipe="small-data"))
    found = associations(table, ["m"])
    found = found[~found["log"] & (found["checkpoints"] == "all")].set_index("group")
    assert found.index.tolist() == ["all", "epochs 1", "epochs 3"]
    assert found["n"].tolist() == [8, 4, 4]
    assert found.loc["all", "r"] == pytest.approx(
        reference.pearson(table["m"], table["val_loss"]), rel=1e-12
    )
    assert found.loc["all", "r"] > 0.8
    assert found["r"].tolist()[1:] == pytest.approx([-1, -1])
    only = associations(table.assign(set_epochs=1.0), ["m"])
    assert set(only["group"]) == {"all"}


def test_p_counts_the_permutations_that_correlate_as_strongly():
    # Of 4! orders of four points on a line 2 reach |r| = 1: p is near 1/12, and never 0.
    found = associate(array(1, 2, 3, 4), array(2, 4, 6, 8))
    assert found.p == pytest.approx(1 / 12, abs=0.03)
    assert (found.p * 1000) == pytest.approx(round(found.p * 1000))
    x = np.arange(30.0)
    assert associate(x, x).p == 1 / 1000
    rng = np.random.default_rng(0)
    chance = [associate(*rng.normal(size=(2, 10))).p for _ in range(300)]
    assert np.mean(np.array(chance) <= 0.05) == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_unit_of_a_measure_does_not_change_p(unit):
    x, y = np.array([1.0, 2, 4, 3, 7]), np.array([2.0, 1, 5, 3, 4])
    assert associate(unit * x, y).p == associate(x, y).p


def test_a_coefficient_whose_mean_changes_sign_has_no_line():
    # std / mean: beyond -900 and 90 the mean is near 0 on either side; far from 0 "on average".
    values = array(90, 80, 70, -5)
    found = associated("nc2_equiang_cov", **RUNS, nc2_equiang_cov=values)
    assert found["reason"] == "the mean that it divides by changes sign"
    assert math.isnan(found["r2"])
    assert math.isnan(found["slope"])
    assert associated("other", **RUNS, other=values)["reason"] == ""
    assert associated("nc2_equiang_cov", **RUNS, nc2_equiang_cov=-abs(values))["reason"] == ""


def test_a_run_that_rules_a_line_is_named_with_what_r_is_without_it():
    # Beside -37 the others differ by 3 at most; without it the measure falls with the loss.
    columns = trainings(m=array(-37, -6, -5.5, -5, -4.5, -4, -3.5, -3))
    found = associated("m", **columns)
    assert found["ruled_by"] == "a"
    rest = [np.delete(columns[name], 0) for name in ("m", "val_loss")]
    assert found["r_without"] == pytest.approx(reference.pearson(*rest), rel=1e-12)
    even = associated("m", **trainings(m=np.arange(8.0)))
    assert even["ruled_by"] == ""
    assert math.isnan(even["r_without"])
