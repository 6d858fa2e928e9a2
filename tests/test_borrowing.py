"""Looking at a model in the middle of its training changes nothing of it."""

import accelerate
import pytest
import torch
import transformers
from torch import nn

from tightframe.errors import UserError
from tightframe.lm.frozen import left_as_found, unwrapped
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.load import as_language_model
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=24, resid_pdrop=0.5
    )
    return transformers.GPT2LMHeadModel(config)


def ours():
    return Transformer(TransformerConfig(vocab_size=40, width=8, depth=2, heads=2, positions=24))


def test_wrappers_are_taken_off_in_any_order():
    inner = gpt2()
    compiled = torch.compile(inner, backend="eager")
    wrapped = nn.DataParallel(torch.compile(nn.DataParallel(compiled), backend="eager"))
    assert unwrapped(wrapped) is inner
    assert unwrapped(inner) is inner


def test_weights_spread_over_processes_are_refused():
    model = ours()
    model.token_embedding.ds_id = 0  # as DeepSpeed marks them
    with pytest.raises(UserError, match=r"spread over processes.*measure checkpoints"):
        unwrapped(model)


def test_our_model_is_itself_and_any_other_is_one_of_transformers():
    model = ours()
    assert as_language_model(model, name="x") is model
    taken = as_language_model(gpt2(), name="x")
    assert isinstance(taken, HuggingFaceModel)
    assert taken.name == "x"
    with pytest.raises(TypeError, match="Linear is neither"):
        as_language_model(nn.Linear(2, 2), name="x")


def test_modes_generators_and_autocast_are_put_back():
    model = gpt2().train()
    model.transformer.h[1].eval()  # somebody froze a block
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        with left_as_found(model):
            as_language_model(model, name="x")
            model.train()
            model(torch.arange(8)[None])  # draws for its dropout
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.rand(2), expected)


def test_they_are_put_back_after_an_error_too():
    model = gpt2().train()
    with pytest.raises(RuntimeError, match="inside"), left_as_found(model):
        model.eval()
        raise RuntimeError("inside")
    assert all(module.training for module in model.modules())


def test_casts_of_weights_are_not_left_to_the_training():
    # Autocast keeps casts of weights until it ends; before some version of torch, those made
    # without gradients served the training as well.
    with torch.autocast("cpu", torch.bfloat16):
        with left_as_found(ours()), torch.autocast("cpu", torch.bfloat16):
            assert not torch.is_autocast_cache_enabled()
        assert torch.is_autocast_cache_enabled()


@pytest.fixture
def accelerator():
    """With bfloat16; its settings are those of the process until they are reset."""
    state = accelerate.state.AcceleratorState
    state._reset_state(reset_partial_state=True)
    yield accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    state._reset_state(reset_partial_state=True)


def test_accelerate_s_patch_is_off_inside_and_on_outside(accelerator):
    prepared = accelerator.prepare(gpt2())
    inner = unwrapped(prepared)
    assert "_original_forward" in vars(inner)
    patched = inner.forward
    tokens = torch.arange(8)[None]
    inner.eval()
    rounded = inner(tokens).logits
    with left_as_found(inner):
        taken = as_language_model(inner, name="x")
        exact = taken.head(taken.embed(tokens))
    assert inner.forward is patched
    torch.testing.assert_close(inner(tokens).logits, rounded, rtol=0, atol=0)
    # bfloat16 has 8 bits: the two differ, but not by much.
    assert 0 < (exact - rounded).abs().max() < 0.05


def test_compiled_models_run_as_written_inside():
    runs = []

    def backend(graph, inputs):
        runs.append(len(inputs))
        return graph.forward

    model = gpt2().eval()
    model.compile(backend=backend)  # in place: calls of the model itself are compiled
    with left_as_found(unwrapped(model)):
        taken = as_language_model(model, name="x")
        taken.embed(torch.arange(8)[None])
    assert runs == []
    model(torch.arange(8)[None])
    assert runs
    torch.compiler.reset()
