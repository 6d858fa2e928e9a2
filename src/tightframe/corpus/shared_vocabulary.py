"""What tokens say: their bytes and names, and the classes that two tokenizers share.

Tokenizers write the same string in different ways ('Ġthe', '▁the'), so a token is shown, and
compared, as the bytes that it adds to a text, here ' the'. A byte that is no whole character is
shown as `<0xE2>`. Several tokens are decoded together.

Axes: n shared classes, A and B ids of either vocabulary, N positions.
"""

import re
from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Int, Int64
from tokenizers import Tokenizer
from torch import Tensor

from tightframe.errors import UserError, printable


def shared_classes(a: Tokenizer, b: Tokenizer) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Return the ids in `a` and in `b` of strings that are one token in both, ordered by bytes.

    Special tokens are left out: an end of text is no string. Tokenizers that lower their text
    before they cut it have only lower-case strings, and a ' the' of theirs stands for ' The', too.
    """
    ids_a, ids_b = _ids(a), _ids(b)
    strings = sorted(ids_a.keys() & ids_b.keys())
    shared = [[ids[string] for string in strings] for ids in (ids_a, ids_b)]
    return torch.tensor(shared[0], dtype=torch.int64), torch.tensor(shared[1], dtype=torch.int64)


def matched_counts(
    counts_a: Int[Tensor, " A"],
    counts_b: Int[Tensor, " B"],
    shared: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
) -> tuple[Int64[Tensor, " A"], Int64[Tensor, " B"]]:
    """Return the smaller of two splits' counts of each class; 0 where it is not shared.

    Args:
        counts_a: Labels of each class in the one split.
        counts_b: The same in the other.
        shared: Ids of the shared classes in either, see `shared_classes`.

    Returns:
        The same numbers by the ids of either, to be taken by `Capped`.
    """
    fewer = torch.minimum(counts_a[shared[0]], counts_b[shared[1]]).long()
    matched_a = torch.zeros(len(counts_a), dtype=torch.int64)
    matched_b = torch.zeros(len(counts_b), dtype=torch.int64)
    matched_a[shared[0]] = fewer
    matched_b[shared[1]] = fewer
    return matched_a, matched_b


class Capped:
    """A quota of samples per class, filled in the order of the stream.

    What is taken does not depend on how the stream is cut into batches. After a restart, a new
    one with the quota less what was taken before goes on.

    Attributes:
        remaining: Samples of each class that are still to be taken.
    """

    def __init__(self, quota: Int[Tensor, " C"]) -> None:
        self.remaining = quota.long().clone()

    def take(self, labels: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Return which of the next positions are taken; those with a negative label never are."""
        taken = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        order = labels.argsort(stable=True)  # positions of a class stand together, in order
        order = order[labels[order] >= 0]
        classes, counts = labels[order].unique_consecutive(return_counts=True)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        nth = torch.arange(len(order), device=labels.device) - first  # of its class in this batch
        taken[order] = nth < self.remaining[labels[order]]
        self.remaining[classes] -= torch.minimum(counts, self.remaining[classes])
        return taken


def _ids(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the id of each string that is one token, by its bytes."""
    if marks_ends(tokenizer):
        raise UserError(
            "a tokenizer that marks the ends of words shares no strings with one that marks their "
            "beginnings; compare its model by bits per byte only"
        )
    ids: dict[bytes, int] = {}
    bytes_only: dict[bytes, int] = {}
    for index, string in sorted(token_bytes(tokenizer).items()):
        # Where a letter is a token and its byte is one, too, text is written with the letter.
        byte = is_byte(str(tokenizer.id_to_token(index)), tokenizer)
        (bytes_only if byte else ids).setdefault(string, index)
    return bytes_only | ids


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
