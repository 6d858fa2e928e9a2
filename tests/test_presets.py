"""The published settings."""

import pytest

from tightframe.errors import UserError
from tightframe.knowledge.injection_runs import PRESETS, preset

RATES = {  # learning rate, rows of a step
    "paper-t5-base": (3e-4, 128),
    "paper-t5-large": (1e-4, 128),
    "paper-clm-ntp": (2e-5, 256),
    "paper-clm-ntp-lora": (2e-4, 256),
    "paper-clm-sp": (2e-6, 256),
    "paper-clm-sp-1b": (2e-5, 256),
    "paper-clm-sp-lora": (2e-4, 256),
    "paper-clm-qa": (2e-5, 256),
    "paper-clm-qa-lora": (2e-4, 256),
    "paper-roberta-large": (1e-5, 512),
    "paper-cluster-t5-base": (3e-4, 128),
    "paper-cluster-t5-large": (1e-4, 128),
}


def test_rates_and_batches_are_the_published_ones():
    found = {name: (one["learning_rate"], one["batch"]) for name, one in PRESETS.items()}
    assert found == RATES
    for name, one in PRESETS.items():
        assert one["lora"] == name.endswith("lora")
        assert (one["schedule"], one["warmup"], one["weight_decay"]) == ("linear", 0, 0)
        assert (one["clip"], one["seed"], one["precision"], one["exposures"]) == (
            1,
            42,
            "bf16",
            1000,
        )


def test_published_steps_follow_from_batch_and_facts():
    # 12,290 facts a thousand times.
    for name, steps in (("paper-t5-large", 96_016), ("paper-clm-sp", 48_008)):
        one = preset(name)
        assert -(-12_290 * one["exposures"] // one["batch"]) == steps


def test_a_setting_of_one_run_does_not_reach_another():
    preset("paper-t5-large")["learning_rate"] = 1.0
    assert preset("paper-t5-large")["learning_rate"] == 1e-4


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match="unknown preset 'paper-t5-lage'; did you mean 'paper-t5-l"):
        preset("paper-t5-lage")
