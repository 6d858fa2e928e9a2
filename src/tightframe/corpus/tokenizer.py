"""Train, read and save tokenizers, and name tokens for people.

All are `tokenizers.Tokenizer`s. They write the same string in different ways ('Ġthe', '▁the'), so a
token is shown as the bytes that it adds to a text, here ' the'. A byte that is no whole character
is shown as `<0xE2>`. Several tokens are decoded together.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tightframe.corpus import hub
from tightframe.errors import UserError, printable

END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256  # a byte-level BPE begins with every byte, so that it can write any text
LARGEST = 2**22  # tokens; the library reserves memory for all of them before it reads a text

# What others call the token that ends a document. Only of a tokenizer.json with nothing beside it:
# the first one that is a special token of it is taken.
_END_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte, and names here do
_BYTES = re.compile(rf"(?:{_BYTE.pattern})+")
_SPACE = "\u0120"  # how a byte-level BPE writes a space
_BROKEN = re.compile("[\udc80-\udcff]")  # what decoding leaves of bytes that are no characters

# A byte-level BPE writes each byte as a letter: itself where it can be seen, otherwise the next
# one from U+0100 on.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


_LETTERS = {chr(byte): byte for byte in _SEEN} | {
    chr(0x100 + nth): byte for nth, byte in enumerate(sorted(set(range(256)) - set(_SEEN)))
}


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


def token_names(tokenizer: Tokenizer, n: int) -> list[str]:
    """Return a name for each id below `n`, no two alike: its text, with the spaces that it brings.

    Characters that cannot be seen are escaped, as Python does. Special tokens, and tokens whose
    text is another's, too, go by what the vocabulary calls them.
    """
    # Without a decoder tokens are words, and stand apart.
    texts = {} if tokenizer.decoder is None else token_bytes(tokenizer)
    pieces = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    pieces = {index: pieces.get(index, f"<{index}>") for index in range(n)}  # ids may have gaps
    names = [_seen(texts[i]) if texts.get(i) else printable(pieces[i]) for i in range(n)]
    # Of a letter and its byte, text is written with the letter; others are equals.
    for yields in ({i for i in range(n) if is_byte(pieces[i], tokenizer)}, set(range(n))):
        times = Counter(names)
        for index in yields:
            if times[names[index]] > 1:
                names[index] = printable(pieces[index])
    taken: set[str] = set()
    for index in range(n):
        while names[index] in taken:
            names[index] += f"<{index}>"
        taken.add(names[index])
    return names


def joined_names(names: Iterable[str]) -> str:
    """Return the text of tokens one after another, from their names: bytes become characters."""
    return _BYTES.sub(lambda run: _seen(_bytes_of(run[0])), "".join(names))


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Return the bytes that each token adds to a text that goes on; special ones have none."""
    decode = tokenizer.decoder.decode if tokenizer.decoder is not None else " ".join
    byte_level, ends = decode([_SPACE]) == " ", marks_ends(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    unknown = getattr(tokenizer.model, "unk_token", None)
    found: dict[int, bytes] = {}
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if token == unknown or (index in added and added[index].special):
            continue
        if is_byte(token, tokenizer):
            found[index] = _bytes_of(token)
        elif byte_level:
            found[index] = token.encode() if index in added else _byte_level(token)
        elif ends:
            found[index] = decode([token, "a"]).removesuffix("a").encode()
        else:
            # The bytes it adds inside a text: at the beginning some decoders drop a space.
            found[index] = decode(["a", token])[1:].encode()
    return found


def is_byte(token: str, tokenizer: Tokenizer) -> bool:
    """Tell whether a token is a byte that SentencePiece falls back on."""
    if tokenizer.decoder is None or not _BYTE.fullmatch(token):
        return False
    return bool(tokenizer.decoder.decode(["<0x41>"]) == "A")


def marks_ends(tokenizer: Tokenizer) -> bool:
    """Tell whether tokens mark the ends of words, not their beginnings."""
    return tokenizer.decoder is not None and tokenizer.decoder.decode(["a</w>", "a"]) == "a a"


def _byte_level(token: str) -> bytes:
    """Return the bytes that the letters of a byte-level token stand for."""
    if not set(token) <= _LETTERS.keys():  # not written so, as its decoder finds, too
        return token.encode()
    return bytes(_LETTERS[letter] for letter in token)


def _bytes_of(names: str) -> bytes:
    return bytes(int(byte, 16) for byte in _BYTE.findall(names))


def _seen(data: bytes) -> str:
    """Decode bytes; those that are no whole character are written as names have them."""
    text = data.decode("utf-8", errors="surrogateescape")
    return printable(_BROKEN.sub(lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text))
