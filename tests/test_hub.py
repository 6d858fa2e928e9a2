import json
import socket
import sys
import time
from types import SimpleNamespace

import huggingface_hub
import peft
import pytest
import safetensors.torch
import torch
import transformers
from safetensors.torch import save_file

from tightframe.errors import UserError
from tightframe.lm.checkpoints import export_gpt_neo, save_checkpoint
from tightframe.lm.folders import check_model, with_tokenizer
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import PRENORM, Batch
from tightframe.lm.load import load_model, randomly_initialized
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tiny_models import SIZES, V, enlarged, ids, model_of, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # by peft
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]


def test_a_gpt_neo_becomes_our_transformer(tmp_path):
    ours = Transformer(TransformerConfig(V, 16, 2, heads=2, positions=24))
    export_gpt_neo(ours, tmp_path / "neo")
    loaded = load_model(tmp_path / "neo")
    assert isinstance(loaded, Transformer)
    assert loaded.name == "neo"
    assert torch.equal(loaded.embed(ids(2, 9)), ours.embed(ids(2, 9)))


def test_weights_are_cast_when_asked(tmp_path):
    save("llama", tmp_path / "llama")
    assert load_model(tmp_path / "llama").classifier.dtype == torch.float32
    model = load_model(str(tmp_path / "llama"), dtype=torch.bfloat16, device="cpu")
    assert model.embed(ids(1, 5)).dtype == torch.bfloat16


# Random twins.


def test_a_twin_of_ours_has_the_weights_of_its_seed_and_keeps_dtype_and_shape():
    config = TransformerConfig(V, 8, 2, heads=2, positions=16, tied=False)
    model = Transformer(config, seed=5, name="w8-d2").to(torch.bfloat16)
    before = model.classifier.clone()
    twin = randomly_initialized(model, seed=6)
    assert (twin.name, twin.config, twin.training) == ("w8-d2-random", config, False)
    assert torch.equal(twin.classifier, Transformer(config, seed=6).classifier.bfloat16())
    assert torch.equal(model.classifier, before)
    assert not torch.equal(randomly_initialized(model, seed=7).classifier, twin.classifier)


def test_a_twin_is_drawn_as_the_model_s_own_initialization_draws(tmp_path):
    # 40 x 16 draws of standard deviation 0.02: the sample's is within 0.003 (5 sigma). The
    # weights of the model itself have one of 0.2.
    save("gpt2", tmp_path / "gpt2")
    model = load_model(tmp_path / "gpt2", dtype=torch.bfloat16)
    twin = randomly_initialized(model, seed=0)
    assert twin.classifier.dtype == torch.bfloat16
    assert model.classifier.std() > 0.15
    assert twin.classifier.float().std().item() == pytest.approx(0.02, abs=3e-3)


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
    model = transformers.BertLMHeadModel(transformers.BertConfig(**SIZES, is_decoder=False))
    enlarged(model).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "BertLMHeadModel can't be used: .* it is not causal")


def test_a_model_of_another_kind_is_refused(tmp_path):
    transformers.T5Config(vocab_size=V).save_pretrained(tmp_path / "t5")
    refused(tmp_path / "t5", r"is an encoder-decoder \(t5\); expected a causal language model")
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
    model.save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "is a BertForMaskedLM; expected a causal language model")
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    save_file({"x": torch.zeros(1)}, tmp_path / "vit" / "model.safetensors")
    refused(tmp_path / "vit", r"is a ViT, of which transformers has no causal language model")


def test_an_encoder_without_an_output_layer_is_refused(tmp_path):
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", r"lacks 6 of .* or not of a causal language model$")


def test_pickled_weights_are_refused(tmp_path):
    model = save("gpt2", tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "gpt2" / "pytorch_model.bin")
    refused(tmp_path / "gpt2", r"as pytorch_model.bin only, .*use_safetensors=False\)\.save_pre")
    (tmp_path / "gpt2" / "pytorch_model.bin").unlink()
    refused(tmp_path / "gpt2", "has no weights; expected model.safetensors")


def test_a_file_of_weights_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    refused(tmp_path / "model.safetensors", "is a file; give the folder of a model")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    save("gpt2", tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 50}))
    refused(tmp_path / "gpt2", r"transformer\.wte\.weight is 40 x 16, and 50 x 16 by config\.json")


@pytest.mark.parametrize(
    ("tensor", "value", "named"),
    [
        ("transformer.h.0.mlp.c_fc.bias", torch.nan, r", nor is its tensor transformer\.h\.0\.mlp"),
        ("lm_head.weight", torch.inf, r", nor is its tensor transformer\.wte\.weight"),  # tied
        ("lm_head.weight", 3e38, ""),
    ],
)
def test_logits_that_are_not_finite_are_refused_in_one_line(tmp_path, tensor, value, named):
    model = model_of("gpt2")
    model.get_parameter(tensor).data[:3] = value
    model.save_pretrained(tmp_path / "gpt2")
    found = (
        rf"^model gpt2: its logits are not finite{named}.*; did training diverge, or float16 over"
    )
    with pytest.raises(UserError, match=found):
        load_model(tmp_path / "gpt2")


def test_a_configuration_without_named_outputs_changes_nothing(tmp_path):
    model = save("gpt2", tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"return_dict": False}))
    loaded = load_model(tmp_path / "gpt2")
    expected = model(ids(2, 5), output_hidden_states=True).hidden_states
    assert torch.equal(loaded.embed_layers(ids(2, 5), [1])[0], expected[1])


def test_the_norm_is_found_where_the_last_hidden_state_is_not_its_own(tmp_path):
    model = save("llama", tmp_path / "llama")
    path = tmp_path / "llama" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_last_hidden_states": False}))
    loaded = load_model(tmp_path / "llama")
    stream, final = loaded.embed_layers(ids(2, 5), [PRENORM, loaded.depth])
    hidden = loaded.model(ids(2, 5), output_hidden_states=True).hidden_states[-1]
    assert torch.equal(stream, hidden)
    torch.testing.assert_close(model.model.norm(stream), final)


# Adapters.


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """An adapter of all matrices, that of the output layer too, and its model merged."""
    monkeypatch.chdir(tmp_path)
    save("llama", "base")
    base = transformers.AutoModelForCausalLM.from_pretrained("base")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "up_proj", "lm_head"], init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained("adapter")
    return tmp_path / "adapter", adapted.merge_and_unload()


def test_an_adapter_is_loaded_with_its_base_model_and_merged(adapter):
    folder, merged = adapter
    loaded = load_model(folder)
    assert (loaded.name, loaded.architecture) == ("adapter", "LlamaForCausalLM")
    assert loaded.n_parameters == merged.num_parameters()
    assert torch.equal(loaded.classifier, merged.lm_head.weight)
    torch.testing.assert_close(loaded.head(loaded.embed(ids(2, 5))), merged(ids(2, 5)).logits)
    assert with_tokenizer(folder) == "base"
    (folder / "tokenizer.json").touch()
    assert with_tokenizer(folder) == folder


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5", "d_model": 8}, "is a T5, of which transformers has no causal"),
        ({"model_type": "no_such_kind"}, "its model_type is 'no_such_kind', which the installed"),
    ],
)
def test_kinds_that_transformers_cannot_load_are_named_in_plain_words(tmp_path, config, words):
    save("llama", tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "odd")


def test_an_adapter_of_the_hub_is_merged_into_its_base_model(adapter, monkeypatch):
    folder, merged = adapter

    def fetch(name, file):  # as if the hub had it; the base model lies here
        assert name == "owner/adapter"
        return folder / file if (folder / file).is_file() else None

    monkeypatch.setattr("tightframe.corpus.hub.fetch", fetch)
    monkeypatch.setattr("tightframe.corpus.hub.check_available", lambda *_: None)
    loaded = load_model("owner/adapter")
    assert loaded.name == "adapter"
    torch.testing.assert_close(loaded.head(loaded.embed(ids(2, 5))), merged(ids(2, 5)).logits)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"owner/adapter: is an adapter without adapter_model\."):
        load_model("owner/adapter")


def test_an_adapter_that_cannot_be_merged_is_refused(adapter, monkeypatch):
    folder, _ = adapter
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        refused(folder, "is an adapter of base, and loading it needs peft; run .*merge_and_unload")
    path = folder / "adapter_config.json"
    described = json.loads(path.read_text())
    for base, message in {
        "other": "is an adapter of another model, which fails: other: no such folder, and",
        "./other": "is an adapter of another model, which fails: ./other: no such folder; ",
        "adapter": "names its own folder",
        None: "doesn't say of which model",
    }.items():
        path.write_text(json.dumps(described | {"base_model_name_or_path": base}))
        with pytest.raises(UserError, match=message):
            load_model(folder)
    path.write_text(json.dumps(described))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, "is an adapter of base without adapter_model.safetensors")


def test_an_adapter_that_a_matrix_cannot_hold_is_refused():
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], use_dora=True)
    adapted = peft.get_peft_model(model_of("llama"), config)
    layer = adapted.get_output_embeddings()
    layer.lora_magnitude_vector["default"].weight.data *= 2
    with pytest.raises(
        UserError, match=r"its output layer .* is not its matrix .*merge_and_unload"
    ):
        HuggingFaceModel(adapted, name="adapted")


def test_a_twin_of_a_model_with_adapters_has_none():
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    adapted = HuggingFaceModel(peft.get_peft_model(model_of("llama"), config), name="adapted")
    twin = randomly_initialized(adapted, seed=0)
    assert twin.architecture == "LlamaForCausalLM"
    assert twin.n_parameters == model_of("llama").num_parameters()


class Odd(torch.nn.Module):
    """A model of transformers' interface whose logits are made in a way of its own."""

    config = transformers.PretrainedConfig()

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.tokens = torch.nn.Embedding(V, 4)
        self.output = None if way == "none" else torch.nn.Linear(4, V)

    def get_input_embeddings(self):
        return self.tokens

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
    save("gpt2", tmp_path / "gpt2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(tmp_path / "gpt2", r"needs transformers; run `pip install 'tightframe\[hf\]'`")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path):
    save("gpt2", tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 3}))
    refused(tmp_path / "gpt2", r"lacks 12 of the model's tensors, first transformer\.h\.2\.")


def test_a_truncated_file_is_refused(tmp_path):
    save("gpt2", tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(tmp_path / "gpt2", "its weights are damaged or cut short .*SafetensorError")


STRANGER = """
import torch, transformers

open({ran!r}, "w").close()


class Config(transformers.PretrainedConfig):
    model_type = "stranger"


class Model(transformers.PreTrainedModel, transformers.GenerationMixin):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.tokens = torch.nn.Embedding(30, 4)
        self.output = torch.nn.Linear(4, 30, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.tokens

    def get_output_embeddings(self):
        return self.output

    def forward(self, input_ids, **_):
        logits = self.output(self.tokens(input_ids))
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder whose model is defined by Python code in it, which leaves a file when it runs."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "stranger.py").write_text(STRANGER.format(ran=str(tmp_path / "ran")))
    classes = {"AutoConfig": "stranger.Config", "AutoModelForCausalLM": "stranger.Model"}
    description = {"model_type": "stranger", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(description))
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": torch.randn(30, 4, generator=generator) for name in NAMES}
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # Where transformers copies such code, so that it can be imported.
    for module in (transformers.dynamic_module_utils, transformers.utils.hub):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


NAMES = ("tokens", "output")


def test_code_that_comes_with_a_model_is_not_run(stranger):
    refused(stranger, "brings Python code of its own, which is not run; .* --trust-remote-code")
    assert not (stranger.parent / "ran").exists()
    assert not (stranger.parent / "modules").exists()


def test_code_that_comes_with_a_model_is_run_by_those_who_trust_it(stranger):
    model = load_model(stranger, trust_remote_code=True)
    assert (stranger.parent / "ran").exists()
    assert model.architecture == "Model"
    # It gives no hidden states, so that nothing is known between its first and its last layer.
    assert model.depth == 1
    (last,) = model.embed_layers(ids(1, 3) % 30, [1])
    assert torch.equal(last, model.model.tokens(ids(1, 3) % 30))
    with pytest.raises(UserError, match=r"^stranger: Model gives no hidden states, .* no layer 0;"):
        model.embed_layers(ids(1, 3) % 30, [0])
    with pytest.raises(UserError, match=r"^stranger: Model has no layer before a final norm"):
        model.embed_layers(ids(1, 3) % 30, [PRENORM])


def test_a_folder_without_a_model_is_refused(tmp_path):
    refused(tmp_path, r"neither a run \(config.toml\) nor a model \(config.json\)")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "nothing", "no such folder; expected a run or a model")


def test_a_name_that_the_hub_does_not_give_is_one_line(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^nobody/nothing: no such folder, .* HF_HUB_OFFLINE"):
        load_model("nobody/nothing")


def test_a_hub_that_does_not_answer_is_told_without_waiting(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))
    with pytest.raises(UserError, match=r"^nobody/nothing: no such folder, and .* not answer$"):
        load_model("nobody/nothing")


def test_a_hub_that_is_silent_is_waited_for_a_moment_only(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the request, and says nothing
        port = silent.getsockname()[1]
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("tightframe.corpus.hub.PATIENCE", 0.2)
        began = time.perf_counter()
        with pytest.raises(UserError, match="the Hugging Face hub does not answer"):
            check_model("nobody/nothing")
        assert time.perf_counter() - began < 2


def test_a_name_that_was_misspelt_beside_models_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("gpt2", tmp_path / "models" / "gpt2")
    with pytest.raises(UserError, match=r"^models/gtp2: no such folder; .*; models has gpt2$"):
        check_model("models/gtp2")


def test_rows_longer_than_the_model_knows_are_refused(tmp_path):
    save("gpt2", tmp_path / "gpt2")
    with pytest.raises(UserError, match="rows of 25 positions are longer than the 24 of"):
        load_model(tmp_path / "gpt2").embed(ids(1, 25))


def test_a_prefix_is_refused_by_a_causal_model(tmp_path):
    save("gpt2", tmp_path / "gpt2")
    batch = Batch(ids(1, 5), ids(1, 5), torch.tensor([5]), torch.tensor([5]))
    with pytest.raises(ValueError, match="gpt2 is causal"):
        load_model(tmp_path / "gpt2").embed(batch)


def test_loading_a_model_leaves_no_bar_in_a_log(tmp_path, capsys):
    save("gpt2", tmp_path / "gpt2")
    capsys.readouterr()
    load_model(tmp_path / "gpt2")
    assert capsys.readouterr().err == ""
    assert transformers.utils.logging.is_progress_bar_enabled()
