"""Tokens become a Batch: what each position sees and what it predicts.

Axes: B rows, T tokens of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tightframe.lm.interface import IGNORE, Batch


class Example(NamedTuple):
    """A row of a batch before it is padded; already shifted, as `Batch`."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]  # as long as the inputs; IGNORE where nothing is predicted
    prefix: int = 0  # positions that every query may see
    source: tuple[int, ...] = ()  # the encoder's inputs, where there is an encoder


def next_token(tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Batch:
    """Every position predicts the token after it; a causal batch of T - 1 positions.

    Args:
        tokens: Token ids, whatever they are beyond the length.
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
    """A prompt that is read and a target that is predicted after it, token by token.

    Args:
        prompt: At least one token; its last position predicts the first of the target.
        target: At least one token.
        bidirectional: Whether the positions of the prompt see each other both ways (a prefix LM).
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
    """A prompt and slots that are all read both ways; each slot predicts its token of the target.

    Args:
        prompt: What is read.
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
    """A source for the encoder, and a target that the decoder predicts token by token.

    Args:
        source: What the encoder reads, both ways.
        target: At least one token.
        start: What the decoder is given before the first token of the target.
    """
    if not source or not target:
        raise ValueError(f"expected tokens, got {len(source)} of source, {len(target)} of target")
    return Example(inputs=(start, *target[:-1]), targets=tuple(target), source=tuple(source))


def collate(examples: Sequence[Example], *, pad: int) -> Batch:
    """Examples as one batch, padded on the right; padding has no targets.

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
    )


def _padded(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "B T"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
