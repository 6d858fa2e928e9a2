"""Sentences with a mask to token ids and back, for our own networks.

A tokenizer is a byte-level BPE with six special tokens. The words before and after a mask are
encoded apart, and a run of words always as if a blank stood before it: words have the same ids
wherever they stand, and no piece ends in a blank, which a model would never have seen.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from tightframe.corpus import tokenizer as tokenizers
from tightframe.errors import UserError
from tightframe.knowledge.facts import MASK

FILE = "tokenizer.json"


class SpecialTokens(NamedTuple):
    """What the tokens that are no text are called."""

    pad: str = "<|pad|>"
    bos: str = "<|bos|>"
    eos: str = "<|eos|>"
    mask: str = "<|mask|>"
    sep: str = "<|sep|>"  # after a prompt
    slot: str = "<|slot|>"  # where a token of the answer is read off


NAMES = SpecialTokens()


class Coder:
    """A tokenizer with the six special tokens.

    Args:
        tokenizer: Knows every token of `NAMES`.
        names: What they are called in it.
    """

    def __init__(self, tokenizer: Tokenizer, names: SpecialTokens = NAMES):
        tokenizer = tokenizers.prepared(tokenizer)  # "<|eos|>" in a text is text
        self.tokenizer = tokenizer
        ids = (self._id_of(name) for name in names)
        self.pad, self.bos, self.eos, self.mask, self.sep, self.slot = ids

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Coder":
        """A new tokenizer of so many tokens, special ones and the 256 bytes included.

        Args:
            texts: Each is learnt as `prompt` and `target` see it.
            vocab_size: Tokens; few texts support fewer, and then there are fewer.
        """
        learnt = (" " + text.strip() for text in texts)
        return cls(tokenizers.train_bpe(learnt, vocab_size, special_tokens=NAMES, at_most=True))

    @classmethod
    def extend(cls, tokenizer: Tokenizer, *, end_of_text: int | None) -> "Coder":
        """The tokenizer of a language model, with what it lacks as new tokens at the end.

        Args:
            tokenizer: Is left as it is.
            end_of_text: Its token between documents, which then begins and ends an example.
        """
        known = NAMES
        between = None if end_of_text is None else tokenizer.id_to_token(end_of_text)
        if between is not None:
            known = NAMES._replace(bos=between, eos=between)
        extended = Tokenizer.from_str(tokenizer.to_str())
        extended.add_special_tokens([n for n in known if extended.token_to_id(n) is None])
        return cls(extended, known)

    @classmethod
    def load(cls, folder: Path) -> "Coder":
        """The inverse of `save`."""
        tokenizer = tokenizers.read(folder / FILE)
        if tokenizer.token_to_id(NAMES.bos) is not None:
            return cls(tokenizer)
        return cls.extend(tokenizer, end_of_text=tokenizers.end_of_text(tokenizer))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into a folder that is itself written whole."""
        tokenizers.save(self.tokenizer, folder / FILE)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return tokenizers.vocab_size(self.tokenizer)

    def prompt(self, cloze: str) -> list[int]:
        """BOS, the words with the mask as one id, SEP; a text without a mask is taken as it is."""
        before, mask, after = cloze.partition(MASK)
        masked = [self.mask] if mask else []
        return [self.bos, *self._words(before), *masked, *self._rest(after), self.sep]

    def target(self, text: str) -> list[int]:
        """The words, EOS."""
        return [*self._words(text), self.eos]

    def opening(self, text: str) -> list[int]:
        """BOS, the words: what a model that reads on is given."""
        return [self.bos, *self._words(text)]

    def text(self, ids: Sequence[int]) -> str:
        """The words of a target, up to its EOS; special tokens are left out."""
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

    def _words(self, text: str) -> list[int]:
        text = text.strip()
        return self._encode(" " + text) if text else []

    def _rest(self, text: str) -> list[int]:
        """What follows a mask: a comma there stands without a blank."""
        return self._encode(text.rstrip())

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids
