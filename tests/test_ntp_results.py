"""What the functions of tf.ntp return: one line, a table, a file and a figure each."""

import doctest
import importlib

import numpy as np
import pandas as pd
import pytest

import tightframe as tf

TOKENS = [0, 1, 0, 2, 0, 1, 3, 0, 2, 2, 1, 0, 3, 1, 2, 0]


@pytest.fixture(scope="module")
def contexts():
    return tf.ntp.count(TOKENS, length=1, vocab_size=5)


@pytest.fixture(scope="module")
def results(contexts):
    solution = tf.ntp.solve_svm(contexts.support[:4], gap=1e-6)
    prediction = tf.ntp.predict(solution)
    labels = tf.ntp.count(TOKENS, length=1).soft_labels
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    comparison = tf.ntp.compare_embeddings(*factors, labels, prediction)
    return {"contexts": contexts, "solution": solution, "prediction": prediction,
            "comparison": comparison}  # fmt: skip


# 15 pairs; a context of token 3 is followed by 0 and 1 alone.
LINES = {
    "contexts": "ContextTable(15 pairs, 4 contexts over 4 of 5 tokens, ",
    "solution": "Solution(optimal, gap ",
    "prediction": "Prediction(certified (gap ",
    "comparison": "Comparison(model at step 0 on table: 4 contexts, 4 tokens, 1 checkpoint)",
}
ROWS = {"contexts": 4, "solution": 1, "prediction": 3, "comparison": 39}

pytestmark = pytest.mark.filterwarnings("ignore:.*(support|supports|pairs occur|one support)")


@pytest.mark.parametrize("name", LINES)
def test_a_result_is_one_line_and_a_table(results, tmp_path, name):
    result = results[name]
    assert repr(result).startswith(LINES[name])
    assert "\n" not in repr(result)
    table = result.to_pandas()
    assert len(table) == ROWS[name]
    assert all(f"<th>{column}</th>" in result._repr_html_() for column in table)
    result.save(tmp_path / "x.csv")
    assert len(pd.read_csv(tmp_path / "x.csv")) == ROWS[name]


def test_tables_solutions_and_predictions_come_back(results, tmp_path):
    contexts, solution, prediction = (results[n] for n in ("contexts", "solution", "prediction"))
    again = tf.ntp.load_table(contexts.save(tmp_path / "x"))
    np.testing.assert_array_equal(again.support, contexts.support)
    loaded = tf.ntp.load_solution(solution.save(tmp_path / "s.safetensors"))
    np.testing.assert_array_equal(loaded.logits, solution.logits)
    predicted = tf.ntp.load_prediction(prediction.save(tmp_path / "p.safetensors"))
    np.testing.assert_array_equal(predicted.classifier, prediction.classifier)


def test_figures_show_what_the_results_hold(results):
    words, contexts, spectrum = results["prediction"].plot().axes[:3]
    np.testing.assert_array_equal(
        words.images[0].get_array(), results["prediction"].classifier_cosines
    )
    np.testing.assert_array_equal(
        contexts.images[0].get_array(), results["prediction"].embedding_cosines
    )
    np.testing.assert_array_equal(
        spectrum.lines[0].get_ydata(), results["prediction"].singular_values
    )
    (image,) = results["solution"].plot().axes[0].images
    np.testing.assert_array_equal(image.get_array(), results["solution"].logits)
    logits = results["comparison"].plot().axes[0]
    assert logits.lines[0].get_ydata() == [results["comparison"]["ntp_rest_cos"].value]


@pytest.mark.parametrize("module", ["contexts", "svm", "prediction"])
def test_the_examples_in_docstrings_hold(module):
    found = doctest.testmod(importlib.import_module(f"tightframe.ntp.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
