"""GGUF files: weights are dequantized, tokens are the file's own, whatever is wrong is one line."""

import json

import numpy as np
import pytest
import torch
import transformers

import tightframe as tf
import tokenizer_folders
from tightframe.corpus.model_tokenizer import load_tokenizer
from tightframe.errors import UserError
from tightframe.geometry.subject import Subject
from tightframe.lm.folders import check_model
from tightframe.lm.load import load_model, randomly_initialized
from tiny_models import enlarged, ids

gguf = pytest.importorskip("gguf")

WIDTH, DEPTH, HEADS, POSITIONS = 32, 2, 2, 64
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _tensor_name(name):
    for theirs, written in NAMES.items():
        name = name.replace(theirs, written)
    return name.replace("model.layers.", "blk.")


def write_gguf(path, model, vocabulary, merges):
    """Write a Qwen 2 whose matrices are quantized to 8 bits, and return the weights that are left.

    The package gguf quantizes and dequantizes them, not transformers.
    """
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(DEPTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(
        [3 if token.startswith("<") and len(token) > 1 else 1 for token in vocabulary]
    )
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocabulary.index("</s>"))
    left = {}
    for name, values in model.state_dict().items():
        array = values.numpy().astype(np.float32)
        if array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor(_tensor_name(name), packed, raw_dtype=kind)
            array = gguf.quants.dequantize(packed, kind)
        else:
            writer.add_tensor(_tensor_name(name), array)
        left[name] = torch.from_numpy(array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return left


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A GGUF file alone in its folder, and the model that it holds."""
    content = json.loads(tokenizer_folders.trained("byte-level")[0])["model"]
    vocabulary = sorted(content["vocab"], key=content["vocab"].get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["merges"]]
    config = transformers.Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = enlarged(transformers.Qwen2ForCausalLM(config)).eval()
    path = tmp_path_factory.mktemp("small") / "tiny-q8.gguf"
    model.load_state_dict(write_gguf(path, model, vocabulary, merges))
    return path, model


@torch.no_grad()
def test_a_gguf_file_holds_the_dequantized_model(made):
    path, model = made
    loaded = load_model(path)
    assert (loaded.name, loaded.architecture) == ("tiny-q8", "Qwen2ForCausalLM")
    expected = model.get_output_embeddings().weight
    torch.testing.assert_close(loaded.classifier, expected, rtol=1e-6, atol=1e-6)
    inputs = ids(2, 9)
    torch.testing.assert_close(
        loaded.head(loaded.embed(inputs)), model(inputs).logits, rtol=1e-4, atol=1e-4
    )
    assert load_model(path.parent).name == path.parent.name
    twin = randomly_initialized(loaded.double(), seed=0)
    assert twin.n_parameters == model.num_parameters()


def test_a_text_is_read_by_the_tokenizer_of_the_file(made):
    path, _ = made
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = load_tokenizer(path)
    text = "The lighthouse it's </s> 12"
    ids_of = ours.tokenizer.encode(text, add_special_tokens=False).ids
    assert ids_of == theirs(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert ours.end_of_text == theirs.eos_token_id


@pytest.mark.parametrize("whole", ["file", "folder"])
def test_a_measurement_says_that_weights_were_dequantized(made, tmp_path, monkeypatch, whole):
    monkeypatch.chdir(tmp_path)
    path, _ = made
    (tmp_path / "text.txt").write_text("\n".join(tokenizer_folders.SENTENCES * 20))
    source = path if whole == "file" else path.parent
    result = tf.measure(source, text="text.txt", context=16, groups=1, min_count=1)
    assert result.header.measurement["dequantized_from"] == "tiny-q8.gguf"
    assert result.header.run == Subject.of(source).name == load_model(source).name


def test_what_is_no_gguf_or_lacks_a_package_is_one_line(made, tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"GGML")
    for source in (tmp_path, tmp_path / "small.gguf"):
        with pytest.raises(UserError, match=r"small\.gguf: its content is not that of a GGUF file"):
            check_model(source)
    (tmp_path / "small.gguf").write_bytes(b"GGUF but cut short")
    with pytest.raises(UserError, match=r"^\S+small\.gguf: transformers can't load this") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "other.gguf").touch()
    with pytest.raises(UserError, match="holds 2 GGUF files; give one of them"):
        load_model(tmp_path)
    with pytest.raises(UserError, match=r"none\.gguf: no such folder"):
        load_model("none.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package gguf; run `pip install gguf`"):
        check_model(made[0])
