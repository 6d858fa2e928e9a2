import dataclasses

import pytest
import torch

from tightframe.errors import UserError
from tightframe.lm import hardware
from tightframe.lm.options import TrainOptions

SETTINGS = TrainOptions(tokens="tokens/x", out="runs/x")


def test_choices_are_made_once_and_explicit_ones_stay():
    chosen = hardware.choose(SETTINGS)
    assert chosen.precision in ("fp32", "bf16")
    assert chosen.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen.threads == torch.get_num_threads()
    explicit = dataclasses.replace(SETTINGS, precision="fp32", device="cpu", threads=3)
    assert hardware.choose(explicit) == explicit


def test_an_earlier_choice_stands():
    recorded = dataclasses.replace(SETTINGS, precision="fp32", device="cpu", threads=17)
    assert hardware.choose(SETTINGS, recorded) == recorded
    explicit = dataclasses.replace(SETTINGS, threads=2)
    assert hardware.choose(explicit, recorded).threads == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(UserError, match="device is 'cuda', but torch finds no GPU here"):
        hardware.choose(dataclasses.replace(SETTINGS, device="cuda"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (64, 128, 4096), (255, 256, 1024)])
def test_float32_products_keep_float32(shape):
    # Rounding errors of k random terms are about 2**-24 * sqrt(k); bfloat16 inside gives 2**-9.
    n, k, m = shape
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(n, k, generator=generator), torch.randn(k, m, generator=generator)
    exact = left.double() @ right.double()
    with hardware.exact_float32():
        found = left @ right
    assert (found - exact).norm() < 1e-6 * exact.norm()


def test_the_setting_of_products_is_restored():
    state = torch.backends.mkldnn.matmul.fp32_precision
    with hardware.prepared(threads=1):
        assert torch.get_num_threads() == 1
    assert torch.backends.mkldnn.matmul.fp32_precision == state


def test_more_threads_than_a_machine_has_are_refused():
    settings = dataclasses.replace(SETTINGS, threads=10**9)
    with pytest.raises(UserError, match=r"threads is 1,000,000,000; expected at most 1,024"):
        hardware.choose(settings)


def test_what_does_not_fit_into_memory_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(hardware, "free_memory", lambda device: 3 * 10**9)
    hardware.check_memory(3 * 10**9, "cpu", what="a model")
    with pytest.raises(UserError, match=r"a model takes about 4\.0 GB of memory, but 3\.0 GB are"):
        hardware.check_memory(4 * 10**9, "cpu", what="a model")
