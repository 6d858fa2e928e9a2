"""Every causal class that transformers offers is measured rightly, or refused in one line."""

import functools

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tightframe.errors import UserError
from tightframe.lm.described import check_described, depth_of, positions_of
from tightframe.lm.hub import random_twin
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import PRENORM, Batch
from tiny_configs import POSITIONS, tiny_config
from tiny_models import enlarged, ids

# Why a class is refused: the end of the one line.
REFUSED = {
    "cpmant": "its embeddings change with later tokens, so it is not causal",
    "prophetnet": "its output layer is not called once with all positions",
    "xlnet": "its embeddings change with later tokens, so it is not causal",
}
# No tiny model can be made of these, by the class named in the reason.
_SEVERAL = "its configuration is that of several models, whose sizes must fit each other"
NOT_TRIED = {
    "blt": _SEVERAL,
    "cohere_compass_text": "its rotary frequencies are given by layer",
    "dots3_note": "its sizes are given by layer, for 42 layers",
    "gemma3n": "it needs the package timm for images",
    "gemma4_assistant": _SEVERAL,
    "gemma4_unified_assistant": _SEVERAL,
    "mimo_v2_flash": "its sizes are given by kind of layer",
    "longcat_flash": "its numbers of experts must fit each other",
    "musicgen": _SEVERAL,
    "musicgen_melody": _SEVERAL,
}
NO_PRENORM = ("qwen4_exp", "qwen4_exp_text", "reformer", "gemma3n_text")
SEVERAL_STREAMS = ("deepseek_v4", "gemma3n_text", "hy_v4")  # between their blocks

# Among them those that count positions on from padding, that stop earlier than they say, or whose
# positions the configuration calls by another name.
SAMPLE = ["roberta", "opt", "whisper", "xlnet", "prophetnet", "bart", "xmod", "gemma4_text"]

close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


def model_of(model_type):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tiny_config(model_type)
        return enlarged(transformers.AutoModelForCausalLM.from_config(config).eval())


@torch.no_grad()
def check(model_type, tmp_path):
    theirs = model_of(model_type)
    if model_type in REFUSED:
        with pytest.raises(UserError) as caught:
            HuggingFaceModel(theirs, name="tiny")
        message = str(caught.value)
        assert "\n" not in message
        assert message.endswith(f"can't be used: {REFUSED[model_type]}")
        return
    ours = HuggingFaceModel(theirs, name="tiny")
    # What config.json tells before the loading never refuses what the model takes.
    theirs.config.save_pretrained(tmp_path)
    check_described(tmp_path, trust_remote_code=False)
    assert (depth_of(tmp_path) or ours.depth) >= ours.depth
    if (described := positions_of(tmp_path)) is not None:
        assert ours.positions is not None
        assert described >= ours.positions
    inputs = ids(3, 11)
    visible = torch.ones_like(inputs)
    output = theirs(inputs, attention_mask=visible, output_hidden_states=True, use_cache=False)
    layers = range(ours.depth + 1)
    if model_type in SEVERAL_STREAMS:
        with pytest.raises(
            UserError, match=r"has several residual streams at layer 0, .* layer 2$"
        ):
            ours.embed_layers(inputs, layers)
        layers = [ours.depth]
    streams = ours.embed_layers(inputs, layers)

    # The head is the model's own, and the classifier's product with the embeddings is its layer's.
    close(ours.head(streams[-1]), output.logits)
    products = F.linear(streams[-1], ours.classifier, ours.bias)
    close(ours.finish(products) if ours.finish else products, output.logits)
    for found, expected in zip(streams[:-1], output.hidden_states, strict=False):
        close(found, expected)

    if model_type not in NO_PRENORM:
        (stream,) = ours.embed_layers(inputs, [PRENORM])
        assert stream.shape[:2] == inputs.shape
        assert not torch.isclose(stream, output.hidden_states[-1]).all()
    else:
        with pytest.raises(UserError, match="has no layer before a final norm"):
            ours.embed_layers(inputs, [PRENORM])

    # Rows of other lengths in one batch, each as it is alone.
    lengths = [11, 4, 1]
    batch = Batch(inputs, inputs, torch.tensor(lengths), torch.zeros(3, dtype=torch.long))
    together = ours.embed_layers(batch, layers)
    for row, length in enumerate(lengths):
        alone = ours.embed_layers(inputs[row : row + 1, :length], layers)
        for found, expected in zip(together, alone, strict=True):
            close(found[row, :length], expected[0])

    # The longest input is one that it takes.
    longest = ours.positions
    assert ours.embed(ids(1, longest or 2 * POSITIONS)).isfinite().all()
    if longest is not None:
        assert POSITIONS - 2 <= longest <= POSITIONS
        with pytest.raises(UserError, match=f"are longer than the {longest} of model tiny"):
            ours.embed(ids(1, longest + 1))

    twin = random_twin(ours, seed=0)
    assert (twin.architecture, twin.depth) == (ours.architecture, ours.depth)
    assert twin.n_parameters == ours.n_parameters


@pytest.mark.parametrize("model_type", SAMPLE)
def test_some_causal_models_are_measured_or_refused(model_type, tmp_path):
    check(model_type, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_causal_model_is_measured_or_refused(model_type, tmp_path):
    if model_type in NOT_TRIED:
        pytest.skip(f"not tried: {NOT_TRIED[model_type]}")
    check(model_type, tmp_path)
