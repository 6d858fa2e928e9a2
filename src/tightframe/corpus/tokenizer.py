"""Tokenizers: train one, take one of others, save it. All are `tokenizers.Tokenizer` objects."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tightframe.corpus import hub
from tightframe.errors import UserError

END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256  # a byte-level BPE begins with every byte, so that it can write any text

# What others call the token that ends a document; the first one that a tokenizer knows is taken.
_END_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    at_most: bool = False,
) -> Tokenizer:
    """Train a byte-level BPE, as GPT-2's but of any size; id 0 is end-of-text.

    Args:
        texts: Training texts, read once, one after the other.
        vocab_size: Tokens, special ones and the 256 bytes included.
        special_tokens: Tokens that are no text; they take the first ids.
        at_most: Take fewer tokens from a text that does not support so many, instead of refusing.
    """
    smallest = N_BYTES + len(special_tokens)
    if vocab_size < smallest:
        special = "end-of-text" if tuple(special_tokens) == (END_OF_TEXT,) else "special tokens"
        raise UserError(
            f"a vocabulary of {vocab_size:,} is too small; "
            f"the smallest is {smallest}: the bytes and {special}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    largest = tokenizer.get_vocab_size()
    if largest < vocab_size and not at_most:
        raise UserError(
            f"a vocabulary of {vocab_size:,} is larger than this text supports; "
            f"the largest possible is {largest:,}"
        )
    return tokenizer


def word_level(words: Sequence[str]) -> Tokenizer:
    """One word, one token: ids in the order of `words`, text split at white space.

    There is no token for an unknown word: encoding one raises.
    """
    ids = {word: index for index, word in enumerate(words)}
    if len(ids) != len(words):
        raise ValueError(f"{len(words)} words, but {len(ids)} distinct ones")
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if END_OF_TEXT in ids:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    return tokenizer


def load(tokenizer: str | Path) -> Tokenizer:
    """A `tokenizer.json`, a folder that holds one, or the name of a Hugging Face tokenizer.

    Older forms (vocabulary and merges, a SentencePiece model) are converted by `transformers`.
    Truncation and padding that the file may ask for are switched off: nothing is lost or added.
    """
    loaded = _read(tokenizer)
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`; for a folder that is itself written whole."""
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """Id of the token that ends a document, by its usual names; None where there is none."""
    ids = (tokenizer.token_to_id(name) for name in _END_NAMES)
    return next((index for index in ids if index is not None), None)


def vocab_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: ids may have gaps, a classifier has a row for each."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _read(tokenizer: str | Path) -> Tokenizer:
    path = Path(tokenizer)
    if path.is_dir():
        path = path / "tokenizer.json"
        if not path.exists() and (path.parent / "tokenizer_config.json").exists():
            return _converted(str(path.parent))
        if not path.exists():
            raise UserError(f"{path.parent}: holds no tokenizer.json; expected a fast tokenizer")
    if path.exists():
        return _read_file(path)
    if isinstance(tokenizer, Path) or not _HUB_NAME.fullmatch(tokenizer) or path.suffix == ".json":
        raise UserError(
            f"{tokenizer}: no such tokenizer; expected a tokenizer.json, a folder with one, "
            "or the name of a Hugging Face tokenizer"
        )
    return _fetch(tokenizer)


def _read_file(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{path}: not a tokenizer.json, or damaged ({hub.reason(error)})") from None


def _fetch(name: str) -> Tokenizer:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    silent = hub.unreachable()  # then what was fetched before has to do
    try:
        with hub.quiet():
            path = hf_hub_download(name, "tokenizer.json", local_files_only=silent)
        return Tokenizer.from_file(path)
    except Exception as error:  # whatever the network, the hub or the file may raise
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return _converted(name)  # the model is there, but has no tokenizer.json
        why = (
            "does not answer" if silent else f"gave no tokenizer of this name ({hub.reason(error)})"
        )
        raise UserError(f"{name}: no such file, and the Hugging Face hub {why}") from None


def _converted(name: str) -> Tokenizer:
    """The tokenizer of a model that has no tokenizer.json; code of the model's own is not run."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(
            f"{name}: has no tokenizer.json, and converting what it has needs the package "
            "transformers; pip install 'tightframe[hf]'"
        ) from None
    try:
        with hub.quiet():
            found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return Tokenizer.from_str(found.backend_tokenizer.to_str())
    except Exception as error:  # whatever the network, the hub or the files may raise
        raise UserError(
            f"{name}: has no tokenizer.json, and what it has could not be converted "
            f"({hub.reason(error)})"
        ) from None
