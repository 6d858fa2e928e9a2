import json
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers

from tightframe.errors import UserError
from tightframe.lm.hub import export_gpt_neo, load_model
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import Batch
from tightframe.lm.transformer import Transformer, TransformerConfig, save_checkpoint

V = 40
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
GPT = {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(**GPT, **ENDS),
    # Its middle layer is half as wide as GPT-Neo's should be, so it isn't our Transformer.
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=24,
        **ENDS,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    "opt": lambda: transformers.OPTConfig(  # embeddings of 8 dimensions in a model of 16
        vocab_size=V,
        hidden_size=16,
        word_embed_proj_dim=8,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        **ENDS,
    ),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=0.5),
    "cohere": lambda: transformers.CohereConfig(**GROUPED, logit_scale=0.25),
    "phi": lambda: transformers.PhiConfig(**SIZES),  # its output layer has a bias
}


def save(config, folder, seed=0):
    """A model of random weights, large enough for everything to matter, and its folder."""
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model


def ids(*shape):
    return torch.randint(2, V, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_any_causal_model_stands_behind_the_interface(tmp_path, name):
    theirs = save(CONFIGS[name](), tmp_path / name)
    ours = load_model(tmp_path / name)
    inputs = ids(3, 11)
    output = theirs(inputs, output_hidden_states=True)
    embeddings = ours.embed(inputs)
    assert isinstance(ours, HuggingFaceModel)
    assert ours.name == name
    assert ours.n_parameters == theirs.num_parameters()
    assert torch.equal(ours.classifier, theirs.get_output_embeddings().weight)
    torch.testing.assert_close(ours.head(embeddings), output.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.head(embeddings[0, 3]), output.logits[0, 3], rtol=0, atol=1e-5)
    first, second, last = ours.embed_layers(inputs, [0, 1, 2])
    torch.testing.assert_close(first, output.hidden_states[0])
    torch.testing.assert_close(second, output.hidden_states[1])
    assert torch.equal(last, embeddings)
    # Padding changes nothing of what is real.
    padded = Batch(inputs, inputs, torch.tensor([11, 4, 1]), torch.zeros(3, dtype=torch.long))
    for row, length in enumerate([11, 4, 1]):
        alone = ours.embed(inputs[row : row + 1, :length])[0]
        torch.testing.assert_close(ours.embed(padded)[row, :length], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("gemma2", lambda logits: 0.5 * torch.tanh(logits / 0.5)),
        ("cohere", lambda logits: 0.25 * logits),
    ],
)
@torch.no_grad()
def test_the_head_keeps_soft_cap_and_scale(tmp_path, name, after):
    save(CONFIGS[name](), tmp_path / name)
    model = load_model(tmp_path / name)
    embeddings = model.embed(ids(1, 5))
    products = embeddings @ model.classifier.T
    assert model.bias is None
    torch.testing.assert_close(model.head(embeddings), after(products), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_bias_is_kept(tmp_path):
    save(CONFIGS["phi"](), tmp_path / "phi")
    model = load_model(tmp_path / "phi")
    embeddings = model.embed(ids(1, 5))
    expected = embeddings @ model.classifier.T + model.bias
    torch.testing.assert_close(model.head(embeddings), expected, rtol=0, atol=1e-5)


def test_a_gpt_neo_becomes_our_transformer(tmp_path):
    ours = Transformer(TransformerConfig(V, 16, 2, heads=2, positions=24))
    export_gpt_neo(ours, tmp_path / "neo")
    loaded = load_model(tmp_path / "neo")
    assert isinstance(loaded, Transformer)
    assert loaded.name == "neo"
    assert torch.equal(loaded.embed(ids(2, 9)), ours.embed(ids(2, 9)))


def test_weights_are_cast_when_asked(tmp_path):
    save(CONFIGS["llama"](), tmp_path / "llama")
    assert load_model(tmp_path / "llama").classifier.dtype == torch.float32
    model = load_model(str(tmp_path / "llama"), dtype=torch.bfloat16, device="cpu")
    assert model.embed(ids(1, 5)).dtype == torch.bfloat16


# Runs and checkpoints of ours.


@pytest.fixture
def run(tmp_path):
    """A run directory with checkpoints at steps 9, 10 and 100, of three seeds."""
    folder = tmp_path / "w8-d1"
    folder.mkdir()
    (folder / "config.toml").touch()
    for step in (9, 10, 100):
        model = Transformer(TransformerConfig(V, 8, 1, heads=2, positions=16), seed=step)
        save_checkpoint(model, folder / "checkpoints" / f"step-{step}")
    return folder


@pytest.mark.parametrize(("step", "seed"), [(None, 100), (10, 10)])
def test_a_run_gives_its_last_checkpoint_or_the_one_asked_for(run, step, seed):
    model = load_model(run, step=step)
    expected = Transformer(model.config, seed=seed)
    assert torch.equal(model.classifier, expected.classifier)
    assert model.name == "w8-d1"
    assert not model.training


def test_a_checkpoint_folder_is_a_model(run):
    model = load_model(run / "checkpoints" / "step-9", dtype=torch.float64)
    assert model.classifier.dtype == torch.float64


def test_a_step_that_is_not_there_is_refused_with_those_that_are(run):
    with pytest.raises(UserError, match="no checkpoint of step 11; it has 9, 10, 100"):
        load_model(run, step=11)


def test_a_step_of_a_folder_that_is_no_run_is_refused(run):
    with pytest.raises(UserError, match="is no run directory, so it has no step 9"):
        load_model(run / "checkpoints" / "step-9", step=9)


# What can't be loaded.


def refused(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((str(folder), folder.name))


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    save(transformers.BertConfig(**SIZES), tmp_path / "bert")
    refused(tmp_path / "bert", "BertLMHeadModel can't be used: .* it is not causal")


def test_a_model_of_another_kind_is_refused(tmp_path):
    transformers.T5Config(vocab_size=V).save_pretrained(tmp_path / "t5")
    refused(tmp_path / "t5", "can't load this as a causal language model .*T5Config")


def test_pickled_weights_are_refused(tmp_path):
    model = save(CONFIGS["gpt2"](), tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "gpt2" / "pytorch_model.bin")
    refused(tmp_path / "gpt2", "can't load this .*safetensors")


class Odd(torch.nn.Module):
    """A model of transformers' interface whose logits are made in a way of its own."""

    config = SimpleNamespace()

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.tokens = torch.nn.Embedding(V, 4)
        self.output = None if way == "none" else torch.nn.Linear(4, V)

    def get_output_embeddings(self):
        return self.output

    def forward(self, input_ids, **_):
        hidden = self.tokens(input_ids)
        if self.way == "beside":  # the layer isn't called
            return SimpleNamespace(logits=hidden @ self.output.weight.T)
        if self.way == "more":  # something is added that did not go through it
            return SimpleNamespace(logits=self.output(hidden) + hidden.sum(2, keepdim=True))
        return SimpleNamespace(logits=self.output(hidden))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("none", "it has no output layer"),
        ("beside", "its output layer is not called once with all positions"),
        ("more", "its logits are not made from the input of its output layer"),
    ],
)
def test_a_model_whose_head_is_another_is_refused(way, reason):
    with pytest.raises(UserError, match=f"^odd: Odd can't be used: {reason}$"):
        HuggingFaceModel(Odd(way), name="odd")


def test_an_odd_model_with_a_plain_head_is_taken():
    model = HuggingFaceModel(Odd("plain"), name="odd")
    assert torch.equal(model.embed(ids(1, 3)), model.model.tokens(ids(1, 3)))


def test_without_transformers_one_line_says_what_to_install(monkeypatch, tmp_path):
    save(CONFIGS["gpt2"](), tmp_path / "gpt2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(tmp_path / "gpt2", r"needs transformers; run `pip install 'tightframe\[hf\]'`")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path):
    save(CONFIGS["gpt2"](), tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 3}))
    refused(tmp_path / "gpt2", r"lacks 12 of the model's tensors, first transformer\.h\.2\.")


def test_a_truncated_file_is_refused(tmp_path):
    save(CONFIGS["gpt2"](), tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(tmp_path / "gpt2", "can't load this .*SafetensorError")


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    classes = {"AutoConfig": "stranger.Config", "AutoModelForCausalLM": "stranger.Model"}
    description = {"model_type": "stranger", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(description))
    refused(folder, "can't load this .*contains custom code")
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_model_is_refused(tmp_path):
    refused(tmp_path, r"neither a run \(config.toml\) nor a model \(config.json\)")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "nothing", "no such folder; expected a run or a model")


def test_a_name_that_the_hub_does_not_give_is_one_line(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^nobody/nothing: transformers can't load this") as caught:
        load_model("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_told_without_waiting(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))
    with pytest.raises(UserError, match=r"^nobody/nothing: transformers can't load this"):
        load_model("nobody/nothing")


def test_rows_longer_than_the_model_knows_are_refused(tmp_path):
    save(CONFIGS["gpt2"](), tmp_path / "gpt2")
    with pytest.raises(UserError, match="rows of 25 positions are longer than the 24 of"):
        load_model(tmp_path / "gpt2").embed(ids(1, 25))


def test_a_prefix_is_refused_by_a_causal_model(tmp_path):
    save(CONFIGS["gpt2"](), tmp_path / "gpt2")
    batch = Batch(ids(1, 5), ids(1, 5), torch.tensor([5]), torch.tensor([5]))
    with pytest.raises(ValueError, match="gpt2 is causal"):
        load_model(tmp_path / "gpt2").embed(batch)


@pytest.mark.parametrize("name", ["gpt2", "phi", "gemma2", "cohere"])
@torch.no_grad()
def test_logits_made_in_tiles_are_finished_as_the_model_does(tmp_path, name):
    theirs = save(CONFIGS[name](), tmp_path / name)
    ours = load_model(tmp_path / name)
    assert isinstance(ours, HuggingFaceModel)
    inputs = ids(3, 11)
    products = torch.nn.functional.linear(ours.embed(inputs), ours.classifier, ours.bias)
    assert (ours.finish is None) == (name in ("gpt2", "phi"))
    tile = products[..., 5:17].flatten(0, 1)  # (33, 12)
    finished = tile if ours.finish is None else ours.finish(tile)
    expected = theirs(inputs).logits[..., 5:17].flatten(0, 1)
    torch.testing.assert_close(finished, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(tile, products[..., 5:17].flatten(0, 1), rtol=0, atol=0)  # untouched
