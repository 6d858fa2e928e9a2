"""Tokens of our own networks: sentences with a mask to ids and back, and the choice of the next.

A tokenizer is a byte-level BPE with six special tokens. The words before and after a mask are
encoded apart, and a run of words always as if a blank stood before it: words have the same ids
wherever they stand, and no piece ends in a blank, which a model would never have seen.

Axes: B rows, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from tightframe.corpus import tokenizer as tokenizers
from tightframe.errors import UserError
from tightframe.knowledge.facts import MASK

FILE = "tokenizer.json"


class SpecialTokens(NamedTuple):
    """Names of the tokens that stand for no text."""

    pad: str = "<|pad|>"
    bos: str = "<|bos|>"
    eos: str = "<|eos|>"
    mask: str = "<|mask|>"
    sep: str = "<|sep|>"  # after a prompt
    slot: str = "<|slot|>"  # where a token of the answer is read off


NAMES = SpecialTokens()


class ClozeTokenizer:
    """Tokenizer with the six special tokens.

    Args:
        tokenizer: Has every token of `names`.
        names: Names of the special tokens in it.
    """

    def __init__(self, tokenizer: Tokenizer, names: SpecialTokens = NAMES):
        tokenizer = tokenizers.prepared(tokenizer)  # "<|eos|>" in a text is text
        self.tokenizer = tokenizer
        ids = (self._id_of(name) for name in names)
        self.pad, self.bos, self.eos, self.mask, self.sep, self.slot = ids

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "ClozeTokenizer":
        """Train a tokenizer of so many tokens, special ones and the 256 bytes included.

        Args:
            texts: Each is split as `prompt` and `target` split it.
            vocab_size: Upper limit; few texts support fewer tokens.
        """
        learnt = (" " + text.strip() for text in texts)
        return cls(tokenizers.train_bpe(learnt, vocab_size, special_tokens=NAMES, at_most=True))

    @classmethod
    def extend(cls, tokenizer: Tokenizer, *, end_of_text: int | None) -> "ClozeTokenizer":
        """Add the special tokens that the tokenizer of a language model lacks, at its end.

        Args:
            tokenizer: Left unchanged.
            end_of_text: Id of its token between documents, which then begins and ends an example.
        """
        known = NAMES
        between = None if end_of_text is None else tokenizer.id_to_token(end_of_text)
        if between is not None:
            known = NAMES._replace(bos=between, eos=between)
        extended = Tokenizer.from_str(tokenizer.to_str())
        extended.add_special_tokens([n for n in known if extended.token_to_id(n) is None])
        return cls(extended, known)

    @classmethod
    def load(cls, folder: Path) -> "ClozeTokenizer":
        """Load a tokenizer that `save` wrote."""
        tokenizer = tokenizers.read(folder / FILE)
        if tokenizer.token_to_id(NAMES.bos) is not None:
            return cls(tokenizer)
        return cls.extend(tokenizer, end_of_text=tokenizers.end_of_text(tokenizer))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into a folder that is itself written whole."""
        tokenizers.save(self.tokenizer, folder / FILE)

    @property
    def vocab_size(self) -> int:
        """Number of ids: one more than the largest."""
        return tokenizers.vocab_size(self.tokenizer)

    def prompt(self, cloze: str) -> list[int]:
        """Encode a text, with or without a mask: BOS, the words, the mask as one id, SEP."""
        before, mask, after = cloze.partition(MASK)
        masked = [self.mask] if mask else []
        return [self.bos, *self.words(before), *masked, *self.rest(after), self.sep]

    def target(self, text: str) -> list[int]:
        """Encode an answer: the words, EOS."""
        return [*self.words(text), self.eos]

    def opening(self, text: str) -> list[int]:
        """Encode the beginning of a sentence that is to be continued: BOS, the words."""
        return [self.bos, *self.words(text)]

    def text(self, ids: Sequence[int]) -> str:
        """Decode the words of a target up to its EOS, without special tokens."""
        ids = list(ids)
        if self.eos in ids:
            ids = ids[: ids.index(self.eos)]
        words: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return words.strip()

    def _id_of(self, name: str) -> int:
        index = self.tokenizer.token_to_id(name)
        if index is None:
            raise UserError(f"the tokenizer has no token {name}; take one that `inject` has made")
        return index

    def words(self, text: str) -> list[int]:
        """Encode a run of words, wherever they stand."""
        text = text.strip()
        return self._encode(" " + text) if text else []

    def rest(self, text: str) -> list[int]:
        """Encode what follows a mask, where a comma stands without a blank."""
        return self._encode(text.rstrip())

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def next_tokens(
    logits: Float[Tensor, "B V"], generators: Sequence[np.random.Generator] | None
) -> Int[Tensor, " B"]:
    """Return the likeliest token of each row, or one drawn from its softmax (temperature 1).

    Args:
        logits: Scores of the next token.
        generators: One for each row, so that no answer depends on what else is asked; each gives
            one number. None: nothing is drawn.
    """
    if generators is None:
        return logits.argmax(-1)
    shares = logits.double().softmax(-1).cumsum(-1)  # (B, V); a token's share of [0, 1)
    numbers = torch.tensor([[one.random()] for one in generators], dtype=torch.float64)
    places = numbers.to(shares.device) * shares[:, -1:]  # the last one is 1 but for rounding
    return torch.searchsorted(shares, places, right=True).squeeze(1)
