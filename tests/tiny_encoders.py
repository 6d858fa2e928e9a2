"""Tiny encoders of transformers, of random weights, with a tokenizer of the words in use."""

import json
import re
from pathlib import Path

import tokenizers
import torch
import transformers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def save_encoder(folder: Path, texts, kind="bert", positions=40, seed=0, **settings) -> Path:
    """A folder as `save_pretrained` leaves it, of a model without any head."""
    tokenizer = word_tokenizer(texts)
    config = {
        "bert": transformers.BertConfig,
        "roberta": transformers.RobertaConfig,
        "deberta-v2": transformers.DebertaV2Config,
    }[kind](vocab_size=len(tokenizer), max_position_embeddings=positions, **SIZES | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_config(config)
        for parameter in model.parameters():  # large enough for everything to matter
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_tokenizer(texts):
    """Lower-cased words, between [CLS] and [SEP]."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = {word: place for place, word in enumerate((*SPECIAL, *words))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def as_sentence_transformer(folder: Path, *ways: str, kinds=("Transformer", "Pooling")) -> Path:
    """Add the files that say how sentence-transformers pools the tokens."""
    paths = ("", "1_Pooling", "2_Other")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    known = ("cls_token", "mean_tokens", "max_tokens")
    pooling = {f"pooling_mode_{way}": way in ways for way in known}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
