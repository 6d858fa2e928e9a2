import dataclasses

import pytest

from tightframe.errors import UserError
from tightframe.lm.options import TrainOptions
from tightframe.settings import as_dict, read_toml, resolve, write_toml


def settings(**values):
    values = {"tokens": "tokens/x", "out": "runs/x", **values}
    return resolve(TrainOptions, values, source="x.toml")


def test_linguistic_collapse_is_the_published_training():
    # As the published study trained (Wu & Papyan 2024, arXiv:2405.17767, and its code).
    found = as_dict(settings(recipe="linguistic-collapse", width=768, depth=2, epochs=3))
    expected = {
        "heads": 16,
        "window": 256,
        "tied": True,
        "batch": 16,
        "learning_rate": 5e-5,
        "schedule": "linear",
        "warmup": 0,
        "final_rate": 0,
        "weight_decay": 5e-4,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "clip": 1,
        "seed": 42,
        "order_seed": 42,
        "checkpoints": [1, 2, 3],
        "precision": "bf16",
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("batch", "shapes"),
    [
        (16, [(1, 64), (1, 1024), (2, 64), (2, 768)]),
        (8, [(2, 1024), (4, 64), (4, 1024), (8, 64), (8, 256)]),
        (4, [(8, 512), (8, 1024), (12, 64), (12, 1024)]),
    ],
)
def test_the_published_batch_follows_the_shape(batch, shapes):
    for depth, width in shapes:
        found = settings(recipe="linguistic-collapse", depth=depth, width=width)
        assert found.batch == batch, (depth, width)


@pytest.mark.parametrize("recipe", ["small-data", "linguistic-collapse"])
def test_explicit_settings_win_over_the_recipe(recipe):
    given = {"heads": 2, "batch": 3, "learning_rate": 0.5, "schedule": "constant", "seed": 9}
    given |= {"warmup": 7, "weight_decay": 0, "betas": [0.5, 0.6], "checkpoints": [0.5]}
    found = as_dict(settings(recipe=recipe, **given))
    assert {name: found[name] for name in given} == given


def test_the_small_data_rate_falls_with_the_width():
    rates = [settings(width=width).learning_rate for width in (64, 128, 256)]
    assert rates == pytest.approx([6e-3, 3e-3, 1.5e-3])


def test_settings_come_back_from_their_file(tmp_path):
    before = settings(epochs=1.5, checkpoints=[0.25, 1], width=64)
    write_toml(tmp_path / "config.toml", as_dict(before))
    after = resolve(TrainOptions, read_toml(tmp_path / "config.toml"), source="config.toml")
    assert after == before


def test_a_changed_copy_keeps_the_rest():
    narrow = settings(recipe="linguistic-collapse", width=64)
    assert dataclasses.replace(narrow, seed=1).batch == narrow.batch


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3}, r"^x.toml: unknown setting 'widht'; did you mean 'width'\?"),
        ({"recipe": "big-data"}, "'recipe' is 'big-data': .*'small-data' or 'linguistic-collapse'"),
        ({"width": "wide"}, "'width' is 'wide': .*integer"),
        ({"width": 0}, "'width' is 0: .*greater than 0"),
        ({"batch": -1}, "'batch' is -1: .*greater than 0"),
        ({"epochs": 0}, "'epochs' is 0: .*greater than 0"),
        ({"epochs": float("inf")}, "'epochs' is inf: .*finite"),
        ({"learning_rate": 0}, "'learning_rate' is 0: .*greater than 0"),
        ({"schedule": "step"}, "'schedule' is 'step': .*'linear', 'cosine' or 'constant'"),
        ({"betas": [0.9, 1.0]}, "'betas.1' is 1.0: .*less than 1"),
        ({"precision": "fp16"}, "'precision' is 'fp16': .*'fp32' or 'bf16'"),
        ({"device": "tpu"}, "'device' is 'tpu': .*'cpu' or 'cuda'"),
        ({"checkpoints": [1, 3], "epochs": 2}, "^x.toml: a checkpoint at epoch 3, but .* 2 epochs"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(values, message):
    with pytest.raises(UserError, match=message):
        settings(**values)
