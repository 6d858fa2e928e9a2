"""Which tokens of a sentence are hidden, and by what."""

import numpy as np
import pytest

import hub_models
from tightframe.knowledge.hub_load import load_hub_model
from tightframe.knowledge.hub_masked import chosen_tokens
from tightframe.knowledge.qa_models import TrainingExample
from tightframe.lm.interface import IGNORE


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 20, 21, 60])
def test_the_fewest_tokens_that_are_thirty_percent_are_chosen(n):
    for seed in range(20):
        chosen = chosen_tokens(n, np.random.default_rng(seed))
        assert chosen.shape == (n,)
        assert chosen.sum() == -(-3 * n // 10)


def test_tokens_are_chosen_in_spans_of_up_to_five():
    # Of 1,000 tokens 300 are chosen. Single tokens would leave 300 * 0.7 = 210 runs; spans of a
    # mean length of 3, at most 100 of them before any touch.
    chosen = chosen_tokens(1000, np.random.default_rng(0))
    runs = int((np.diff(chosen.astype(int), prepend=0) == 1).sum())
    assert 60 <= runs <= 130


def test_of_the_chosen_eighty_percent_are_hidden_and_ten_are_others(tmp_path):
    learner = load_hub_model(hub_models.save("roberta", tmp_path / "roberta"))
    hidden = kept = others = 0
    sentence = hub_models.SENTENCES[0]
    ids = learner._ids(sentence)
    for draw in range(400):
        example = learner.encode(TrainingExample("f", "mlm", "", sentence, draw))
        assert (example.inputs[0], example.inputs[-1]) == (1, 2)
        for token, seen, target in zip(
            ids, example.inputs[1:-1], example.targets[1:-1], strict=True
        ):
            if target == IGNORE:
                assert seen == token  # what is not predicted is shown as it is
                continue
            assert target == token
            hidden += seen == 3
            kept += seen == token
            others += seen not in (3, token)
            assert seen == 3 or seen >= 8  # a special token is never put in
    n = hidden + kept + others
    # Within five standard errors of the shares; a random token is the same one time in 392.
    for found, share in ((hidden, 0.8), (others, 0.1), (kept, 0.1)):
        assert found / n == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / n))
