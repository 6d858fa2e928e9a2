"""The two waists between tokens, models and measures: `Batch`, how it is made, `LanguageModel`.

Axes: B rows, T positions, D embedding, V vocabulary.

Axes: B rows, T tokens of a row.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.results import PRENORM as PRENORM

IGNORE = -100  # the target where nothing is predicted


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of inputs and what each position predicts, already shifted.

    Key j is visible to query i if `j < length` and (`j <= i` or `j < prefix`): prefix 0 is
    causal, prefix T bidirectional. Next-token prediction, masked spans, prompt-and-span, prefix
    and encoder-decoder models differ only in how a Batch is made.
    """

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]  # IGNORE where nothing is predicted
    lengths: Int[Tensor, " B"]  # real positions of each row; what follows is padding
    prefix: Int[Tensor, " B"]  # positions that every query of the row may see
    source: "Batch | None" = None  # the encoder's batch, where there is an encoder
    weights: Float[Tensor, "B T"] | None = None  # factors of the targets' losses; None: all 1

    @property
    def n_learnt(self) -> int:
        """Number of positions whose loss counts."""
        counted = self.targets != IGNORE if self.weights is None else self.weights > 0
        return int(counted.sum())

    @property
    def counted(self) -> tuple[Bool[Tensor, "B T"], Float[Tensor, " n"] | None]:
        """Positions whose loss counts, and factors that make their mean that of all labelled ones.

        All labelled positions, with factor 0, where none of them counts.
        """
        labelled = self.targets != IGNORE
        if self.weights is None:
            return labelled, None
        counted = self.weights > 0
        counted = counted if bool(counted.any()) else labelled
        return counted, self.weights[counted] * (counted.sum() / labelled.sum())

    @classmethod
    def causal(cls, inputs: Int[Tensor, "B T"]) -> "Batch":
        """Make a causal batch without targets of a plain tensor of ids."""
        rows = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        return cls(inputs, torch.full_like(inputs, IGNORE), rows, torch.zeros_like(rows))

    def share(self, rank: int, size: int) -> "Batch":
        """Return every `size`-th row from row `rank` on."""
        return Batch(
            self.inputs[rank::size],
            self.targets[rank::size],
            self.lengths[rank::size],
            self.prefix[rank::size],
            self.source and self.source.share(rank, size),
            None if self.weights is None else self.weights[rank::size],
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Return this batch on another device."""
        return Batch(
            self.inputs.to(device),
            self.targets.to(device),
            self.lengths.to(device),
            self.prefix.to(device),
            self.source and self.source.to(device),
            None if self.weights is None else self.weights.to(device),
        )


@runtime_checkable
class LanguageModel(Protocol):
    """A model that any study can measure: embeddings and the classifier that multiplies them.

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
        """The output matrix, one row per token."""
        ...

    @property
    def bias(self) -> Float[Tensor, " V"] | None:
        """The bias that is added to the logits, if the model has one."""
        ...

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the vectors that the classifier multiplies, after the final norm."""
        ...

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """Return the embeddings at some layers, in their order, from one forward pass."""
        ...

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits, with bias, scale and soft-cap as the model has them."""
        ...


@runtime_checkable
class TrainingTask(Protocol):
    """A model, its batches and its schedule: everything is a function of the step."""

    @property
    def module(self) -> nn.Module:
        """The model, whose parameters that require gradients are trained."""
        ...

    @property
    def steps(self) -> int:
        """Number of optimizer updates of the whole run."""
        ...

    @property
    def checkpoints(self) -> frozenset[int]:
        """Steps after which the model is kept; the last step is one of them."""
        ...

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the update that follows `step` updates."""
        ...

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield the batch of each update that follows `step` updates, to the end of the run."""
        ...

    def loss(self, batch: Batch, step: int) -> Float[Tensor, ""]:
        """Return the mean loss in nats, with any regularizer; `step` counts this update."""
        ...

    def keep(self, folder: Path) -> dict[str, Any]:
        """Write a checkpoint folder; what the log is to say of it."""
        ...

    def place(self, step: int) -> dict[str, Any]:
        """Return what a record says of its place besides step and tokens."""
        ...

    def examine(self, step: int) -> dict[str, Any]:
        """Return what is to be logged of a step, if anything; if `ended`, it is the last."""
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


class Example(NamedTuple):
    """A row of a batch before it is padded; already shifted, as `Batch`."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]  # as long as the inputs; IGNORE where nothing is predicted
    prefix: int = 0  # positions that every query may see
    source: tuple[int, ...] = ()  # the encoder's inputs, where there is an encoder
    weights: tuple[float, ...] = ()  # of the targets, where they differ


def next_token(tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Batch:
    """Make a causal batch of T - 1 positions, each of which predicts the token after it.

    Args:
        tokens: Token ids; those beyond the length don't matter.
        lengths: Real tokens of each row. A row of n tokens has n - 1 labels.
    """
    if tokens.shape[1] < 2:
        raise ValueError(f"expected rows of at least 2 tokens, got {tokens.shape[1]}")
    n_positions = tokens.shape[1] - 1
    place = torch.arange(1, n_positions + 1, device=tokens.device)
    targets = tokens[:, 1:].masked_fill(place >= lengths[:, None], IGNORE)
    return Batch(
        inputs=tokens[:, :-1],
        targets=targets,
        lengths=lengths.clamp(max=n_positions),
        prefix=torch.zeros_like(lengths),
    )


def continued(prompt: Sequence[int], target: Sequence[int], *, bidirectional: bool) -> Example:
    """Make an example of a prompt and a target that is predicted after it, token by token.

    Args:
        prompt: At least one token; its last position predicts the first of the target.
        target: At least one token.
        bidirectional: Let the positions of the prompt see each other both ways (a prefix LM).
    """
    if not prompt or not target:
        raise ValueError(f"expected tokens, got {len(prompt)} of prompt, {len(target)} of target")
    return Example(
        inputs=(*prompt, *target[:-1]),
        targets=(*[IGNORE] * (len(prompt) - 1), *target),
        prefix=len(prompt) if bidirectional else 0,
    )


def slotted(
    prompt: Sequence[int], target: Sequence[int], *, slot: int, n_slots: int, end: int
) -> Example:
    """Make an example of a prompt and slots, read both ways; each slot predicts its token.

    Args:
        prompt: Tokens that are read.
        target: At most `n_slots` tokens; slots that are left over predict `end`.
        slot: The token that stands in every slot.
        n_slots: Positions after the prompt.
        end: The token after the last one of the target.
    """
    if not 0 < len(target) <= n_slots:
        raise ValueError(f"expected a target of 1 to {n_slots} tokens, got {len(target)}")
    return Example(
        inputs=(*prompt, *[slot] * n_slots),
        targets=(*[IGNORE] * len(prompt), *target, *[end] * (n_slots - len(target))),
        prefix=len(prompt) + n_slots,
    )


def translated(source: Sequence[int], target: Sequence[int], *, start: int) -> Example:
    """Make an example of a source for the encoder and a target for the decoder.

    Args:
        source: Tokens that the encoder reads, both ways.
        target: At least one token.
        start: Token that the decoder is given before the first token of the target.
    """
    if not source or not target:
        raise ValueError(f"expected tokens, got {len(source)} of source, {len(target)} of target")
    return Example(inputs=(start, *target[:-1]), targets=tuple(target), source=tuple(source))


def collate(examples: Sequence[Example], *, pad: int) -> Batch:
    """Join examples to one batch, padded on the right; padding has no targets.

    Args:
        examples: At least one; all with a source, or none.
        pad: The id that stands in padding, of inputs and of sources.
    """
    if not examples:
        raise ValueError("expected examples, got none")
    n_sources = sum(bool(one.source) for one in examples)
    if n_sources not in (0, len(examples)):
        raise ValueError(f"{n_sources} of {len(examples)} examples have a source; all or none must")
    source = None
    if n_sources:
        read = [Example(one.source, (IGNORE,) * len(one.source)) for one in examples]
        source = collate([one._replace(prefix=len(one.inputs)) for one in read], pad=pad)
    return Batch(
        inputs=_padded([one.inputs for one in examples], pad),
        targets=_padded([one.targets for one in examples], IGNORE),
        lengths=torch.tensor([len(one.inputs) for one in examples]),
        prefix=torch.tensor([one.prefix for one in examples]),
        source=source,
        weights=_padded([one.weights for one in examples], 0.0) if examples[0].weights else None,
    )


def _padded(rows: Sequence[Sequence[int | float]], value: int | float) -> Shaped[Tensor, "B T"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
