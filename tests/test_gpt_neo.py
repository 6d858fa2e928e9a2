import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from tightframe.corpus.tokenizer import word_level
from tightframe.errors import UserError
from tightframe.lm.checkpoints import export_gpt_neo, from_gpt_neo, import_gpt_neo
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

V = 30


def gpt_neo(depth=2, heads=2, *, window=7, seed=0, **changes):
    """A tiny GPT-Neo of transformers, with weights large enough for everything to matter."""
    kinds = [["global", "local"][i % 2] for i in range(depth)]
    options = {
        "vocab_size": V,
        "hidden_size": 16,
        "num_layers": depth,
        "num_heads": heads,
        "max_position_embeddings": 40,
        "window_size": window,
        "attention_types": [[kinds, 1]],
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model = transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**options | changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model


def ids(*shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def largest_difference(ours, theirs, n_positions=40):
    inputs = ids(3, n_positions)
    return (ours.head(ours.embed(inputs)) - theirs(inputs).logits).abs().max().item()


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize(
    ("depth", "n_positions", "window"), [(1, 10, 7), (2, 40, 7), (3, 33, 1), (4, 40, 16), (4, 9, 9)]
)
def test_logits_are_those_of_transformers(depth, heads, n_positions, window):
    theirs = gpt_neo(depth, heads, window=window)
    ours = from_gpt_neo(theirs.config.to_dict(), theirs.state_dict(), name="neo")
    assert largest_difference(ours, theirs, n_positions) < 1e-5
    assert ours.n_parameters == theirs.num_parameters()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"attention_types": [[["global"], 2]]},
        {"intermediate_size": 64},
    ],
    ids=["published", "untied", "all global", "width said"],
)
def test_a_folder_of_transformers_becomes_ours_and_goes_back(tmp_path, changes):
    theirs = gpt_neo(**changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = import_gpt_neo(tmp_path / "theirs")
    assert ours.name == "theirs"
    assert largest_difference(ours, theirs) < 1e-5
    export_gpt_neo(ours, tmp_path / "ours")
    again = transformers.GPTNeoForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert torch.equal(again(ids(2, 40)).logits, theirs(ids(2, 40)).logits)


def test_our_model_and_its_tokenizer_load_in_transformers(tmp_path):
    ours = Transformer(TransformerConfig(V, 16, 3, heads=4, positions=40, window=5))
    tokenizer = word_level(["<|endoftext|>", "a", "cat", "sat"])
    export_gpt_neo(ours, tmp_path / "out", tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert largest_difference(ours, theirs) < 1e-5
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read("a cat sat")["input_ids"] == tokenizer.encode("a cat sat").ids
    assert (read.eos_token_id, theirs.config.eos_token_id) == (0, 0)
    assert isinstance(Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")), Tokenizer)


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path):
    theirs = gpt_neo()
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    assert largest_difference(import_gpt_neo(tmp_path / "parts"), theirs) < 1e-5


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2' is not what the Transformer has"),
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"intermediate_size": 48}, "intermediate_size 48"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"attention_types": [[["local"], 2]]}, r"attention layers \['local', 'local'\]"),
        ({"num_layers": 3}, "num_layers 3"),
        ({"num_layers": 3, "attention_types": [[["global"], 3]]}, "lacks the tensor .*h.2"),
        ({"vocab_size": 31}, "token_embedding"),
    ],
)
def test_what_the_transformer_is_not_is_refused(tmp_path, changes, message):
    gpt_neo().save_pretrained(tmp_path / "neo")
    edit(tmp_path / "neo", **changes)
    with pytest.raises(UserError, match=message) as caught:
        import_gpt_neo(tmp_path / "neo")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_by_name(tmp_path):
    gpt_neo().save_pretrained(tmp_path / "neo")
    weights = tmp_path / "neo" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"neo/model\.safetensors: not a whole safetensors file"):
        import_gpt_neo(tmp_path / "neo")


def test_a_folder_without_safetensors_is_refused(tmp_path):
    gpt_neo().save_pretrained(tmp_path / "neo")
    (tmp_path / "neo" / "model.safetensors").rename(tmp_path / "neo" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        import_gpt_neo(tmp_path / "neo")


@pytest.mark.parametrize("option", ["attention_bias", "scale_attention"])
def test_only_gpt_neo_s_attention_is_exported(tmp_path, option):
    config = TransformerConfig(V, 16, 1, heads=2, positions=8, **{option: True})
    with pytest.raises(UserError, match="only models trained without attention_bias"):
        export_gpt_neo(Transformer(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()
