"""Tiny tokenizers of many classes and settings, saved in folders as models of the hub have them.

They are trained here, on a few sentences; what differs is the algorithm, the class that is named,
and what the files beside tokenizer.json say.
"""

import functools
import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SENTENCES = [
    "The lighthouse of Orrin was painted blue by a blind sailor.",
    "the village moved its church twice in one year, it's said",
    "a goat named Pepper once won the bicycle race",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _saved(special, model, trainer, **parts):
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.train_from_iterator(SENTENCES * 3, trainer)
    return made, special


def _byte_level():
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = {"pre_tokenizer": byte_level, "decoder": decoders.ByteLevel()}
    return _saved(special, models.BPE(), trainer, **parts)


def _metaspace(byte_fallback=True):
    """SentencePiece's BPE with bytes to fall back on, as Llama and Gemma have it."""
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[*special, *BYTES], show_progress=False
    )
    bpe = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback)
    made, _ = _saved(special, bpe, trainer, pre_tokenizer=pre_tokenizers.Metaspace())
    content = json.loads(made.to_str())  # the bytes are tokens of text
    content["added_tokens"] = [a for a in content["added_tokens"] if a["content"] in special]
    made = Tokenizer.from_str(json.dumps(content))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    blanks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*blanks, decoders.Strip(" ", 1, 0)])
    return made, special


def _unigram():
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    parts = {"pre_tokenizer": pre_tokenizers.Metaspace(), "decoder": decoders.Metaspace()}
    return _saved(special, models.Unigram(), trainer, **parts)


def _word_piece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    parts = {
        "normalizer": normalizers.BertNormalizer(),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "decoder": decoders.WordPiece(),
    }
    made, _ = _saved(special, models.WordPiece(unk_token="[UNK]"), trainer, **parts)
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made, special


def _words():
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    parts = {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()}
    return _saved(special, models.WordLevel(unk_token="<unk>"), trainer, **parts)


KINDS = {
    "byte-level": _byte_level,
    "metaspace": _metaspace,
    "without-bytes": functools.partial(_metaspace, byte_fallback=False),
    "unigram": _unigram,
    "word-piece": _word_piece,
    "words": _words,
}
TEMPLATES = {
    "begins": "<s> $A",
    "ends": "$A </s>",
    "both": "<s> $A </s>",
}


@functools.cache
def trained(kind):
    """A tokenizer of this kind as JSON, and its special tokens."""
    made, special = KINDS[kind]()
    return made.to_str(), special


def write_folder(folder, kind, *, template=None, config=None, added=(), **settings):
    """Write tokenizer.json, tokenizer_config.json and config.json.

    Args:
        folder: Is made.
        kind: One of `KINDS`.
        template: One of `TEMPLATES`: what tokenizer.json puts around a text.
        config: Of the model.
        added: Added tokens of tokenizer.json that are no special ones.
        settings: Of tokenizer_config.json; none writes no such file.
    """
    content, special = trained(kind)
    made = Tokenizer.from_str(content)
    ids = [(token, made.token_to_id(token)) for token in special]
    if template is not None:
        made.post_processor = processors.TemplateProcessing(
            single=TEMPLATES[template], special_tokens=[t for t in ids if t[0] in ("<s>", "</s>")]
        )
    made.add_tokens([AddedToken(token, normalized=False) for token in added])
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
