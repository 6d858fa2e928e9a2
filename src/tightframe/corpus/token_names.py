"""What tokens are called where people see them, and the text that several of them are together.

Tokenizers write the same string in other ways ('Ġthe', '▁the'), so a token is called by the bytes
that it adds to a text, here ' the'. A byte that is no whole character is `<0xE2>`.
"""

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer

from tightframe.errors import printable

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
            # What it adds to a text that goes on: at the beginning some decoders drop a space.
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
    """The bytes that the letters of a byte-level token stand for."""
    if not set(token) <= _LETTERS.keys():  # not written so, as its decoder finds, too
        return token.encode()
    return bytes(_LETTERS[letter] for letter in token)


def _bytes_of(names: str) -> bytes:
    return bytes(int(byte, 16) for byte in _BYTE.findall(names))


def _seen(data: bytes) -> str:
    """Decode bytes; those that are no whole character are written as names have them."""
    text = data.decode("utf-8", errors="surrogateescape")
    return printable(_BROKEN.sub(lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text))
