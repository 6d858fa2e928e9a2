import numpy as np
import pandas as pd
import pytest

from studies.small_sets.figures import (
    CoursePanel,
    Embedded,
    Line,
    draw_course,
    draw_heat_maps,
)
from studies.small_sets.tables import with_predictions


def _model(seed, words=4, contexts=5):
    generator = np.random.default_rng(seed)
    return Embedded(
        "a model", generator.normal(size=(words, 3)), generator.normal(size=(contexts, 3))
    )


def _draw(column):
    return draw_heat_maps(
        [column], words=np.array([2, 0, 3, 1]), contexts=np.array([4, 3, 2, 1, 0]), title="here"
    )


def test_a_heat_map_holds_cosines_in_the_order_given():
    column = _model(0)
    contexts, words, logits, *_ = _draw(column).axes
    shown = contexts.images[0].get_array()
    one, other = column.embeddings[4], column.embeddings[1]  # the first and the fourth in order
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert shown[0, 3] == pytest.approx(cosine)
    np.testing.assert_allclose(np.diag(shown), 1)
    np.testing.assert_allclose(np.diag(words.images[0].get_array()), 1)
    assert logits.images[0].get_array().shape == (4, 5)


def test_what_no_softmax_notices_changes_no_panel():
    # One vector added to every word changes the logits of a context by a constant.
    column = _model(1)
    moved = column._replace(classifier=column.classifier + np.array([5.0, -3.0, 1.0]))
    for before, after in zip(_draw(column).axes[:3], _draw(moved).axes[:3], strict=True):
        np.testing.assert_allclose(
            before.images[0].get_array(), after.images[0].get_array(), atol=1e-12
        )


def test_a_course_shows_model_prediction_and_baseline_and_leaves_out_what_is_undefined():
    course = pd.DataFrame(
        {
            "step": [0, 10],
            "cos": [0.1, 0.9],
            "at_same_loss.cos": [np.nan, 0.95],
            "shuffled.cos": [0.2, 0.3],
            "nowhere": [np.nan, np.nan],
        }
    )
    panels = (
        CoursePanel("cosine", (Line("cos", "words"), Line("nowhere", "contexts"))),
        CoursePanel("undefined", (Line("nowhere", ""), Line("not measured", ""))),
    )
    (panel,) = draw_course(course, panels, title="here").axes
    assert panel.get_title(loc="left") == "cosine"
    drawn = [line.get_ydata().tolist() for line in panel.lines]
    assert drawn[0] == [0.1, 0.9]
    assert drawn[1][1] == 0.95
    assert drawn[2] == [0.2, 0.3]
    assert len(drawn) == 3


def test_rows_become_a_line_a_checkpoint_with_prediction_and_baseline():
    values = {
        ("set-path", 0): {"ntp_excess": 1.0, "ntp_lambda": 1e-1, "ntp_gram_classifier_dist": 0.8},
        ("set-path", 1): {"ntp_excess": 1e-2, "ntp_lambda": 1e-3, "ntp_gram_classifier_dist": 0.2},
        ("set-ufm", 5): {
            "ntp_excess": 0.1,
            "ntp_gram_classifier_dist": 0.5,
            "ntp_gram_classifier_cos_shuffled": 0.28,
        },
    }
    rows = pd.DataFrame(
        [
            {"run": run, "step": step, "metric": metric, "value": value}
            for (run, step), measured in values.items()
            for metric, value in measured.items()
        ]
    )
    (line,) = with_predictions(rows, "set-path").to_dict("records")
    assert (line["run"], line["step"]) == ("set-ufm", 5)
    # Half way of the path, in logarithms: sqrt(1e-1 * 1e-3) and sqrt(0.8 * 0.2).
    assert line["at_same_loss.ntp_lambda"] == pytest.approx(1e-2)
    assert line["at_same_loss.ntp_gram_classifier_dist"] == pytest.approx(0.4)
    # A cosine of 0.28 is a distance of sqrt(2 - 0.56) = 1.2.
    assert line["shuffled.ntp_gram_classifier_dist"] == pytest.approx(1.2)
