"""Texts as vectors by an encoder of transformers: pooled as its own files say, each text alone."""

import json

import numpy as np
import pytest
import torch
import transformers

from themed_examples import outside_facts, themed_facts
from tightframe.errors import UserError
from tightframe.knowledge.clusters import semantic_clusters
from tightframe.knowledge.embedders import load_encoder, model_embeddings, pooling_of
from tiny_encoders import as_sentence_transformer, save_encoder, word_tokenizer

TEXTS = [
    "the river alder floods the stone bridge and the old mill every spring",
    "a choir sang",
    "the painter mabel sold a watercolour",
    "river",
]


def states_of(folder, text):
    """Last hidden states of one text alone, without any padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
@pytest.mark.parametrize("way", ["mean_tokens", "cls_token"])
def test_an_embedding_is_what_one_text_alone_pools_to(tmp_path, kind, way):
    folder = as_sentence_transformer(save_encoder(tmp_path / "m", TEXTS, kind), way)
    for text, embedding in zip(TEXTS, model_embeddings(TEXTS, str(folder)), strict=True):
        states = states_of(folder, text)
        pooled = states.mean(axis=0) if way == "mean_tokens" else states[0]
        expected = pooled / np.linalg.norm(pooled)
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-6)


def test_batches_and_their_padding_change_nothing(tmp_path):
    folder = str(save_encoder(tmp_path / "m", TEXTS))
    whole = model_embeddings(TEXTS, folder)
    for size in (1, 2, 3):
        np.testing.assert_allclose(model_embeddings(TEXTS, folder, size=size), whole, atol=1e-6)
    np.testing.assert_allclose(model_embeddings(TEXTS[::-1], folder), whole[::-1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-12)
    assert whole.dtype == np.float64
    # A mean over padding too would have shown: the texts differ in length, and in direction.
    assert np.abs(whole @ whole.T - np.eye(4)).min(initial=1, where=~np.eye(4, dtype=bool)) < 0.999


def test_a_model_that_does_not_say_how_is_pooled_by_the_mean(tmp_path):
    folder = save_encoder(tmp_path / "m", TEXTS)
    assert pooling_of(str(folder)) == "mean"
    as_sentence_transformer(folder, "cls_token", kinds=("Transformer", "Pooling", "Normalize"))
    assert pooling_of(str(folder)) == "cls"
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    assert pooling_of(str(folder)) == "mean"


@pytest.mark.parametrize(
    ("ways", "kinds", "message"),
    [
        (["max_tokens"], ("Transformer", "Pooling"), "pools tokens by max; expected mean or cls"),
        (["mean_tokens", "max_tokens"], ("Transformer", "Pooling"), "by mean and max"),
        (["mean_tokens"], ("Transformer", "Pooling", "Dense"), "made of Transformer, Pooling, De"),
    ],
)
def test_what_would_be_pooled_otherwise_is_refused(tmp_path, ways, kinds, message):
    folder = as_sentence_transformer(save_encoder(tmp_path / "m", TEXTS), *ways, kinds=kinds)
    with pytest.raises(UserError, match=f"embedder .*{message}"):
        model_embeddings(TEXTS, str(folder))


def test_a_prompt_that_would_stand_before_each_text_is_refused(tmp_path):
    folder = as_sentence_transformer(save_encoder(tmp_path / "m", TEXTS), "mean_tokens")
    (folder / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    with pytest.raises(UserError, match="puts a prompt before each text"):
        pooling_of(str(folder))


def test_facts_are_divided_by_a_model_s_embeddings(tmp_path):
    facts, _ = themed_facts()
    folder = str(save_encoder(tmp_path / "m", [fact.fact for fact in facts], hidden_size=4))
    clusters = semantic_clusters(facts, 2, embedder=folder)
    assert clusters.settings == {"embedder": folder, "seed": 0}
    assert sum(clusters.sizes) == 36
    other = semantic_clusters(facts, 2)
    assert clusters.silhouette != other.silhouette


@pytest.mark.parametrize(("kind", "longest"), [("bert", 8), ("roberta", 7)])
def test_a_text_that_is_too_long_is_named_not_cut(tmp_path, kind, longest):
    # RoBERTa's positions begin behind that of the padding, 0 here.
    folder = str(save_encoder(tmp_path / "m", TEXTS, kind, positions=8))
    assert load_encoder(folder).longest == longest
    fits = " ".join(["river"] * (longest - 2))
    assert model_embeddings([fits], folder).shape == (1, 32)
    with pytest.raises(UserError, match=rf"at most {longest} tokens, but a text has {longest + 1}"):
        model_embeddings([f"{fits} river"], folder)


def test_a_model_that_is_none_is_one_line(tmp_path, monkeypatch):
    facts = outside_facts(3)
    with pytest.raises(UserError, match=r"embedder \./nowhere: no such folder"):
        semantic_clusters(facts, 2, embedder="./nowhere")
    with pytest.raises(UserError, match="holds no config"):
        semantic_clusters(facts, 2, embedder=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(UserError, match="can't load this as an encoder of texts") as refused:
        semantic_clusters(facts, 2, embedder=str(tmp_path))
    assert "\n" not in str(refused.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="embedder no/such-model"):
        semantic_clusters(facts, 2, embedder="no/such-model")


def test_an_encoder_decoder_a_tokenizer_without_padding_and_missing_tensors_are_refused(tmp_path):
    tokenizer = word_tokenizer(TEXTS)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match=r"is an encoder-decoder \(T5Model\)"):
        load_encoder(str(tmp_path / "t5"))
    folder = save_encoder(tmp_path / "m", TEXTS)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"lacks 16 of the encoder's tensors, first .*layer\.2"):
        load_encoder(str(folder))
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="its tokenizer has no padding token"):
        load_encoder(str(folder))
