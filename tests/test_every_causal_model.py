"""Every causal class that transformers offers is measured rightly, or refused in one line."""

import functools
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig
from transformers.utils import is_timm_available

from causal_verdicts import line
from tightframe.errors import UserError
from tightframe.lm.described import check_described, depth_of, positions_of
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import PRENORM, Batch
from tightframe.lm.load import load_model, randomly_initialized
from tiny_configs import DECODERS, POSITIONS, tiny_config, tiny_model
from tiny_models import ids

# Why a class is refused: the end of the one line.
_OF_ANOTHER = "ValueError: inputs_embeds and shared_kv_states cannot be None."  # it drafts for it
REFUSED = {
    "cpmant": "its embeddings change with later tokens, so it is not causal",
    "gemma4_unified_assistant": f"its forward pass fails on 4 tokens ({_OF_ANOTHER})",
    "musicgen": "it has no output layer",  # but one for each of its codebooks of sound
    "musicgen_melody": "it has no output layer",
    "prophetnet": "its output layer is not called once with all positions",
    "xlnet": "its embeddings change with later tokens, so it is not causal",
}
# What the installed transformers raises when it is to make the class of its own configuration.
NOT_MADE = {
    # Its configuration wants all layers to share their keys, its model one layer that does not.
    "gemma4_assistant": "The set of layer types producing a cache is different than",
    # The class is made of the decoder's configuration, a folder has that of all three models.
    "musicgen": "'MusicgenConfig' object has no attribute 'dropout'",
    "musicgen_melody": "'MusicgenMelodyConfig' object has no attribute 'dropout'",
}
# What is saved names the kind of its text part, of which transformers lists no causal class.
NOT_LOADED = {
    "emu3": "is a Emu3Text, of which transformers has no causal language model",
    "gemma3n": "needs the package timm",  # of what stands in for its vision tower nothing is saved
    "mllama": "is a MllamaText, of which transformers has no causal language model",
}
NO_PRENORM = ("gemma3n", "gemma3n_text", "qwen4_exp", "qwen4_exp_text", "reformer")
SEVERAL_STREAMS = ("deepseek_v4", "gemma3n", "gemma3n_text", "hy_v4")  # between their blocks

# Among them those that count positions on from padding, that stop earlier than they say, or whose
# positions the configuration calls by another name.
SAMPLE = ["roberta", "opt", "whisper", "xlnet", "prophetnet", "bart", "xmod", "gemma4_text"]

close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def check(model_type, tmp_path):
    if model_type in NOT_MADE:
        with pytest.raises((AttributeError, ValueError), match=NOT_MADE[model_type]):
            transformers.AutoModelForCausalLM.from_config(tiny_config(model_type))
        if model_type not in DECODERS:
            return
    theirs = tiny_model(model_type)
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

    # What it is saved as loads as the same model.
    theirs.save_pretrained(tmp_path)
    if model_type in NOT_LOADED:
        with pytest.raises(
            UserError, match=f"^{re.escape(str(tmp_path))}: {NOT_LOADED[model_type]}"
        ):
            load_model(tmp_path)
    else:
        loaded = load_model(tmp_path)
        close(loaded.head(loaded.embed(inputs)), output.logits)

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

    twin = randomly_initialized(ours, seed=0)
    assert (twin.architecture, twin.depth) == (ours.architecture, ours.depth)
    assert twin.n_parameters == ours.n_parameters


@pytest.mark.parametrize("model_type", SAMPLE)
def test_some_causal_models_are_measured_or_refused(model_type, tmp_path):
    check(model_type, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_causal_model_is_measured_or_refused(model_type, tmp_path):
    check(model_type, tmp_path)


PAGE = Path(__file__).parent.parent / "docs" / "models.md"
OF_THE_PAGE = pytest.mark.skipif(
    f"transformers {transformers.__version__} has" not in PAGE.read_text(),
    reason="the page is of another version of transformers",
)


@OF_THE_PAGE
@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(model_type, marks=[] if model_type in ("gpt2", "xlnet") else pytest.mark.slow)
        for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ],
)
def test_the_page_of_models_says_what_becomes_of_each(model_type):
    if model_type == "gemma3n" and is_timm_available():
        pytest.skip("the page is of an environment without timm")
    assert line(model_type) in PAGE.read_text().splitlines(), "run tools/models_page.py"


@OF_THE_PAGE
def test_the_page_of_models_lists_the_causal_classes():
    listed = re.findall(r"^\| `([\w.-]+)` \|", PAGE.read_text(), re.M)
    assert listed == list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("gemma4_assistant", "can't load this as a causal language model (ValueError: The set of"),
        ("musicgen", "is an encoder-decoder (musicgen); expected a causal language model"),
        ("musicgen_melody", "is an encoder-decoder (musicgen_melody); expected a causal language"),
        pytest.param(
            "gemma3n",
            "needs the package timm; run `pip install timm`",
            marks=pytest.mark.skipif(is_timm_available(), reason="timm is installed"),
        ),
    ],
)
def test_a_folder_whose_model_cannot_be_made_is_refused_in_one_line(tmp_path, model_type, reason):
    config = tiny_config(model_type)
    if model_type == "gemma3n":
        config.vision_config = Gemma3nVisionConfig()
    config.save_pretrained(tmp_path)
    weights = {"weight": torch.zeros(1)}
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: ")
    assert reason in message
    assert "\n" not in message
