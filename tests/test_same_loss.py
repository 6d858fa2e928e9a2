import numpy as np
import pandas as pd
import pytest

from tightframe.ntp.summary import at_same_loss

# In any order. The error is a power of the excess, the margin is negative at first.
PATH = pd.DataFrame(
    {"ntp_excess": [1e-2, 1.0, 1e-4], "error": [0.1, 10.0, 1e-3], "margin": [0.8, -0.6, 0.9]}
)
BOTH = ["error", "margin"]


def test_a_point_of_the_path_predicts_itself():
    np.testing.assert_allclose(at_same_loss(PATH, PATH, BOTH), PATH[BOTH], rtol=1e-12)


def test_between_points_a_power_of_the_excess_is_exact():
    # The error is 10 times the excess at every point; 3e-4 and 0.2 lie between two.
    models = pd.DataFrame({"ntp_excess": [3e-4, 0.2]}, index=[7, 8])
    predicted = at_same_loss(PATH, models, ["error"])
    assert list(predicted.index) == [7, 8]
    np.testing.assert_allclose(predicted["error"], [3e-3, 2.0], rtol=1e-12)


def test_a_measure_that_is_negative_somewhere_is_linear_in_the_logarithm_of_the_excess():
    # 1e-3 lies half way between 1e-2 and 1e-4: (0.8 + 0.9) / 2.
    predicted = at_same_loss(PATH, pd.DataFrame({"ntp_excess": [1e-3]}), ["margin"])
    assert predicted.loc[0, "margin"] == pytest.approx(0.85)


def test_outside_of_the_path_there_is_no_prediction():
    models = pd.DataFrame({"ntp_excess": [2.0, 1e-5]})
    assert at_same_loss(PATH, models, BOTH).isna().all(axis=None)
