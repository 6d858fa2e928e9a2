"""Train, read and save tokenizers; all are `tokenizers.Tokenizer`s."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tightframe.corpus import hub
from tightframe.errors import UserError

END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256  # a byte-level BPE begins with every byte, so that it can write any text
LARGEST = 2**22  # tokens; the library reserves memory for all of them before it reads a text

# What others call the token that ends a document. Only of a tokenizer.json with nothing beside it:
# the first one that is a special token of it is taken.
_END_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")


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
    check_vocab_size(vocab_size, special_tokens=special_tokens)
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
    return prepared(tokenizer)


def check_vocab_size(vocab_size: int, *, special_tokens: Sequence[str] = (END_OF_TEXT,)) -> None:
    """Refuse a vocabulary that has no room for every byte, or that is too large to train."""
    smallest = N_BYTES + len(special_tokens)
    if vocab_size < smallest:
        special = "end-of-text" if tuple(special_tokens) == (END_OF_TEXT,) else "special tokens"
        raise UserError(
            f"a vocabulary of {vocab_size:,} is too small; "
            f"the smallest is {smallest}: the bytes and {special}"
        )
    if vocab_size > LARGEST:
        raise UserError(f"a vocabulary of {vocab_size:,} is too large; the largest is {LARGEST:,}")


def word_level(words: Sequence[str]) -> Tokenizer:
    """Make a tokenizer of one token per word: ids in the order of `words`, split at white space.

    There is no token for an unknown word: encoding one raises.
    """
    ids = {word: index for index, word in enumerate(words)}
    if len(ids) != len(words):
        raise ValueError(f"{len(words)} words, but {len(ids)} distinct ones")
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if END_OF_TEXT in ids:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    return prepared(tokenizer)


def read(path: Path) -> Tokenizer:
    """Read a tokenizer.json as it is, whatever lies beside it, prepared as `prepared` does."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{path}: not a tokenizer.json, or damaged ({hub.reason(error)})") from None
    return prepared(tokenizer)


def prepared(tokenizer: Tokenizer) -> Tokenizer:
    """Let a tokenizer read text as text: nothing cut off or added, special tokens not read from it.

    Truncation and padding that its file may ask for are switched off. A text that spells a special
    token stays text, as in transformers with `split_special_tokens`.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`; for a folder that is itself written whole."""
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """Return the id of the special token that ends a document by its usual names, or None."""
    ids = special_ids(tokenizer)
    named = (tokenizer.token_to_id(name) for name in _END_NAMES)
    return next((index for index in named if index in ids), None)


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of special tokens, which no text stands for; the unknown token is none."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    if isinstance(tokenizer.model, models.Unigram):  # doesn't tell it
        index = json.loads(tokenizer.to_str())["model"]["unk_id"]
        unknown = None if index is None else tokenizer.id_to_token(index)
    added = tokenizer.get_added_tokens_decoder().items()
    return frozenset(i for i, token in added if token.special and token.content != unknown)


def vocab_size(tokenizer: Tokenizer) -> int:
    """Return one more than the largest id: ids may have gaps, a classifier has a row for each."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
