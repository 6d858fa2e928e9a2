import numpy as np
import pytest

from tightframe.errors import UserError
from tightframe.ntp.model import ModelCheckpoint, load_model_checkpoints, save_model_checkpoints


def _checkpoints(steps):
    generator = np.random.default_rng(0)
    return [
        ModelCheckpoint(
            step,
            generator.normal(size=(4, 3)).astype(np.float32),
            generator.normal(size=(5, 3)).astype(np.float32),
        )
        for step in steps
    ]


def test_what_is_saved_comes_back_by_step(tmp_path):
    path = tmp_path / "runs" / "arm.safetensors"
    saved = _checkpoints([0, 10, 9])
    save_model_checkpoints(path, saved, {"seed": 3, "milestones": [1, 2]})
    loaded, about = load_model_checkpoints(path)
    assert about == {"seed": 3, "milestones": [1, 2]}
    assert [checkpoint.step for checkpoint in loaded] == [0, 9, 10]
    np.testing.assert_array_equal(loaded[1].classifier, saved[2].classifier)
    np.testing.assert_array_equal(loaded[1].embeddings, saved[2].embeddings)


def test_logits_are_products_in_float64():
    (one,) = _checkpoints([0])
    expected = np.einsum("vd,md->vm", one.classifier.astype(float), one.embeddings.astype(float))
    np.testing.assert_allclose(one.logits, expected, rtol=1e-14, atol=1e-14)


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    path = tmp_path / "arm.safetensors"
    with pytest.raises(UserError, match=r"arm\.safetensors: no such file"):
        load_model_checkpoints(path)
    save_model_checkpoints(path, _checkpoints([0]), {})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"arm\.safetensors: not a whole"):
        load_model_checkpoints(path)
