"""Models divided among devices give the same numbers, or are refused in one line."""

import gc
import json

import accelerate.hooks
import pytest
import torch

import tightframe as tf
import tokenizer_folders
from tightframe.errors import UserError
from tightframe.geometry.options import MeasureOptions
from tightframe.lm.boundaries import constant_layers
from tightframe.lm.checkpoints import save_checkpoint
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import PRENORM
from tightframe.lm.load import digest_of, load_model
from tightframe.lm.options import TransformerConfig
from tightframe.lm.placement import LoadOptions, read_device_map
from tightframe.lm.transformer import Transformer
from tiny_models import V, ids, save

LLAMA = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
LLAMA |= {"model.norm": "disk", "model.rotary_emb": "cpu", "lm_head": "disk"}
GPT2 = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h.0": "disk"}
GPT2 |= {"transformer.h.1": "cpu", "transformer.ln_f": "disk", "lm_head": "cpu"}
MIXTRAL = {**LLAMA, "model.embed_tokens": "disk", "lm_head": "cpu"}  # its experts are repacked
MAPS = {"llama": LLAMA, "llama_tied": {**LLAMA, "model.embed_tokens": "disk"}}
MAPS |= {"gpt2": GPT2, "mixtral": MIXTRAL}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("models")
    for name in MAPS:
        save(name, parent / name)
    return parent


@pytest.mark.parametrize("name", MAPS)
@torch.no_grad()
def test_a_divided_model_is_the_model(folders, name):
    whole = load_model(folders / name, dtype=torch.float32)
    divided = load_model(folders / name, device_map=MAPS[name], dtype=torch.float32)
    assert set(divided.model.hf_device_map.values()) == {"cpu", "disk"}
    assert any(weight.is_meta for weight in divided.model.parameters())
    inputs, layers = ids(2, 9), [0, 1, PRENORM, 2]
    for found, expected in zip(
        divided.embed_layers(inputs, layers), whole.embed_layers(inputs, layers), strict=True
    ):
        torch.testing.assert_close(found, expected)
    embeddings = whole.embed(inputs)
    torch.testing.assert_close(divided.head(embeddings), whole.head(embeddings))
    assert torch.equal(divided.classifier, whole.classifier)
    assert (divided.tied, divided.n_parameters) == (whole.tied, whole.n_parameters)
    assert digest_of(divided) == digest_of(whole)


class ZeroedHook(accelerate.hooks.AlignDevicesHook):
    """Lose what crosses a boundary, as GPUs do that can't read each other's memory."""

    place = "before"

    def pre_forward(self, module, *arguments, **options):
        arguments, options = super().pre_forward(module, *arguments, **options)
        if self.place == "before":
            arguments = (torch.zeros_like(arguments[0]), *arguments[1:])
        return arguments, options

    def post_forward(self, module, output):
        output = super().post_forward(module, output)
        return torch.zeros_like(output) if self.place == "after" else output


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_hidden_states_that_a_boundary_loses_are_refused(folders, monkeypatch, name, place):
    model = load_model(folders / name, device_map=MAPS[name]).model
    block = model.get_submodule({"llama": "model.layers.1", "gpt2": "transformer.h.1"}[name])
    assert block._old_forward is not None
    monkeypatch.setattr(ZeroedHook, "place", place)
    accelerate.hooks.add_hook_to_module(block, ZeroedHook("cpu"))
    with pytest.raises(UserError, match=r"what goes into or out of \S+\.1 is lost between devices"):
        HuggingFaceModel(model, name="tiny")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_hidden_states_that_are_zero_after_a_boundary_are_refused(folders, name):
    model = load_model(folders / name, device_map=MAPS[name]).model
    block = model.get_submodule({"llama": "model.layers.0", "gpt2": "transformer.h.0"}[name])
    block.register_forward_hook(lambda _, __, made: torch.zeros_like(made))
    with pytest.raises(UserError, match=r"is lost between devices; choose another") as caught:
        HuggingFaceModel(model, name="tiny")
    assert "\n" not in str(caught.value)


def test_equal_embeddings_are_found_by_most_dimensions():
    state = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    fed_by_zeros = state[:, :1].expand(1, 5, 8) * (1 + 1e-6 * state)
    outlier = state.clone()
    outlier[..., 3] = 5000.0  # the same at every position, as massive activations are
    for dtype in (torch.float32, torch.bfloat16):
        states = [x.to(dtype) for x in (state, fed_by_zeros, outlier, torch.zeros(1, 5, 8))]
        assert constant_layers(states) == [1, 3]


def test_a_measurement_of_a_divided_model_gives_the_same_rows(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(tokenizer_folders.SENTENCES * 12))
    tokenizer = tokenizer_folders.write_folder(tmp_path / "words", "words")
    wanted = {"text": "text.txt", "tokenizer": tokenizer, "context": 12, "groups": 1}
    wanted |= {"min_count": 1, "layers": "all", "measures": ["nc1_cdnv_med", "rank_pr"]}
    (tmp_path / "map.json").write_text(json.dumps(MAPS["llama"]))
    whole = tf.measure(folders / "llama", out=tmp_path / "a", device="cpu", **wanted)
    divided = tf.measure(folders / "llama", out=tmp_path / "b", device_map="map.json", **wanted)
    assert divided.header.measurement["device_map"] == "map.json"
    assert divided.header.measurement["weights"] == whole.header.measurement["weights"]
    for one, other in zip(whole.rows, divided.rows, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.json", "nowhere.json: no such file; expected auto, or devices by module"),
        ("{oops", "not JSON"),
        ("{}", "maps no module"),
        ({"model.layers.0": "gpu"}, "'model.layers.0' is put on 'gpu'; expected cuda:0, cpu or"),
    ],
)
def test_what_is_no_map_is_one_line(given, message):
    with pytest.raises(UserError, match=message) as caught:
        read_device_map(given)
    assert "\n" not in str(caught.value)


def test_maps_that_cannot_be_used_are_one_line(folders, monkeypatch):
    with pytest.raises(UserError, match="--device and --device-map: give one of them"):
        MeasureOptions(device="cpu", device_map="auto")
    with pytest.raises(UserError, match="device is 'gpu'; expected auto, cpu, cuda or cuda:0"):
        LoadOptions(device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device is 'cuda:1', but torch finds no GPU here"):
            load_model(folders / "llama", device_map={"": 1})
    with pytest.raises(UserError, match=r"llama: transformers can't load this") as caught:
        load_model(folders / "llama", device_map={"model.layers.7": "disk"})
    assert "\n" not in str(caught.value)
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match="needs the package accelerate; run `pip install"):
            read_device_map("auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="each process of torchrun would take all devices"):
        read_device_map("auto")


@torch.no_grad()
def test_a_map_that_is_left_to_accelerate_gives_the_model(folders):
    whole, loaded = load_model(folders / "llama"), load_model(folders / "llama", device_map="auto")
    logits = [model.head(model.embed(ids(1, 5))).cpu() for model in (whole, loaded)]
    torch.testing.assert_close(*logits)


def test_what_disk_holds_in_another_form_goes_with_the_model(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = load_model(folders / "mixtral", device_map=MIXTRAL)
    assert list(tmp_path.glob("tightframe-*/*.safetensors"))
    del model
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_only_models_of_transformers_are_divided(folders, tmp_path):
    run = tmp_path / "run"
    save_checkpoint(Transformer(TransformerConfig(V, 8, 1, heads=2, positions=8)), run)
    with pytest.raises(UserError, match=r"run: is a model of tightframe, .* give --device instead"):
        load_model(run, device_map="auto")
    (tmp_path / "adapter").mkdir()
    described = {"base_model_name_or_path": str(folders / "llama")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(described))
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="an adapter is merged on one device; give --device instea"):
        load_model(tmp_path / "adapter", device_map="auto")
