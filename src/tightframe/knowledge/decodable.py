"""What a network must offer to be asked something, and which token it says next.

A token is the likeliest one, or one drawn as published for causal models.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tightframe.knowledge.exchanges import Layout, Objective
from tightframe.lm.interface import LanguageModel


def next_tokens(
    logits: Float[Tensor, "B V"], draws: Sequence[np.random.Generator] | None
) -> Int[Tensor, " B"]:
    """The likeliest token of each row, or one drawn from the row's softmax (temperature 1).

    Args:
        logits: Of the next token.
        draws: A generator of each row's own, so that no answer depends on what else is asked; each
            gives one number. None: nothing is drawn.
    """
    if draws is None:
        return logits.argmax(-1)
    shares = logits.double().softmax(-1).cumsum(-1)  # (B, V); a token's share of [0, 1)
    numbers = torch.tensor([[one.random()] for one in draws], dtype=torch.float64)
    places = numbers.to(shares.device) * shares[:, -1:]  # the last one is 1 but for rounding
    return torch.searchsorted(shares, places, right=True).squeeze(1)


@runtime_checkable
class Reader(LanguageModel, Protocol):
    """A language model that knows so many positions."""

    @property
    def positions(self) -> int:
        """The longest row, of an encoder as of a decoder."""
        ...


@runtime_checkable
class Tokens(Protocol):
    """Texts to token ids and back."""

    @property
    def pad(self) -> int:
        """Stands in padding."""
        ...

    @property
    def bos(self) -> int:
        """Begins what is read."""
        ...

    @property
    def eos(self) -> int:
        """Ends what is said."""
        ...

    @property
    def slot(self) -> int:
        """Stands where a word is to be said."""
        ...

    def prompt(self, cloze: str) -> list[int]:
        """A sentence with one MASK, from BOS to SEP."""
        ...

    def target(self, text: str) -> list[int]:
        """An answer, with EOS after it."""
        ...

    def opening(self, text: str) -> list[int]:
        """The beginning of a sentence, with BOS before it."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say, special ones left out."""
        ...


@runtime_checkable
class Decodable(Protocol):
    """A network, how it reads, and what it was trained to say."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    @property
    def model(self) -> Reader:
        """What is asked."""
        ...

    @property
    def coder(self) -> Tokens:
        """Its tokens."""
        ...

    @property
    def layout(self) -> Layout:
        """Where prompt and answer stand."""
        ...

    @property
    def objective(self) -> Objective:
        """`ntp` continues sentences; any other fills masks."""
        ...

    @property
    def n_slots(self) -> int:
        """Slots after a prompt; read where the layout has some."""
        ...
