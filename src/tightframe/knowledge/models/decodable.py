"""What a network of ours has to tell to be asked something."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tightframe.knowledge.models.arms import Layout
from tightframe.knowledge.models.exchanges import Objective
from tightframe.lm.interface import LanguageModel


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
