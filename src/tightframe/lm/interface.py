"""The two waists between tokens, models and measures: `Batch` and `LanguageModel`.

Axes: B rows, T positions, D embedding, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tightframe.errors import UserError

IGNORE = -100  # the target where nothing is predicted
PRENORM = -1  # the layer after the last block and before the final norm


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs and what each position predicts; already shifted.

    Key j is visible to query i if `j < length` and (`j <= i` or `j < prefix`): prefix 0 is
    causal, prefix T bidirectional. Next-token prediction, masked spans, prompt-and-span, prefix
    and encoder-decoder models differ only in how a Batch is made.
    """

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]  # IGNORE where nothing is predicted
    lengths: Int[Tensor, " B"]  # real positions of each row; what follows is padding
    prefix: Int[Tensor, " B"]  # positions that every query of the row may see
    source: "Batch | None" = None  # the encoder's batch, where there is an encoder

    @classmethod
    def causal(cls, inputs: Int[Tensor, "B T"]) -> "Batch":
        """A plain tensor of ids as a causal batch without targets."""
        rows = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        return cls(inputs, torch.full_like(inputs, IGNORE), rows, torch.zeros_like(rows))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.inputs.to(device),
            self.targets.to(device),
            self.lengths.to(device),
            self.prefix.to(device),
            self.source and self.source.to(device),
        )


@runtime_checkable
class LanguageModel(Protocol):
    """What every study measures: embeddings and the classifier that multiplies them.

    `head(embed(x))` equals the model's logits for every supported architecture. A model that
    scales or caps its logits also has `finish(logits)`, which does so element by element, in the
    order of the logits and to a new tensor: logits can then be made in tiles.

    Layers have numbers: 0 is what goes into the first block, i the residual stream after block i,
    and `depth` what `embed` gives, after the last block and the final norm. The stream between
    these two is `PRENORM`.
    """

    name: str

    @property
    def depth(self) -> int:
        """The number of blocks, and of the layer that the classifier multiplies."""
        ...

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, a row a token."""
        ...

    @property
    def bias(self) -> Float[Tensor, " V"] | None:
        """Added to the logits, if the model has one."""
        ...

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The vectors that the classifier multiplies, after the final norm."""
        ...

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """The embeddings at some layers, in the order asked for, from one forward pass."""
        ...

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Logits, with bias, scale and soft-cap as the model has them."""
        ...


def check_positions(n: int, known: int | None, *, name: str) -> None:
    """Refuse rows of `n` positions where the model `name` knows fewer; None is any number."""
    if known is not None and n > known:
        raise UserError(
            f"rows of {n} positions are longer than the {known} of model {name}; cut the text "
            "into shorter blocks"
        )


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Refuse layers that a model of this depth has not."""
    if not all(0 <= layer <= depth or layer == PRENORM for layer in layers):
        raise ValueError(
            f"layers must lie in [0, {depth}] or be PRENORM ({PRENORM}), got {list(layers)}"
        )
