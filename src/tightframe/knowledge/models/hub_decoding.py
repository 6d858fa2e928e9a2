"""Decoding of rows of one length, with the model's own cache.

`generate` is not used: it takes penalties and sampling from files that come with a model.

Axes: B rows, T positions.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tightframe.knowledge.models.exchanges import Draws
from tightframe.knowledge.models.sampling import next_tokens

# New tokens and the cache so far (None at first: all tokens are new) -> logits after the last
# token, and the cache (None from a model without one, which is then given all tokens each time).
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Continued(NamedTuple):
    """What a model went on with."""

    ids: tuple[int, ...]  # without the end
    finish: Literal["end", "length"]


def continued_rows(
    step: Step,
    first: Int[Tensor, "B T"],
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    draws: Draws | None = None,
) -> list[Continued]:
    """The next token, again and again, until every row has come to an end.

    Args:
        step: A forward pass.
        first: What is given; no padding.
        ends: Tokens that end a row.
        max_new_tokens: After which a row is left unfinished.
        draws: A generator a row to draw its tokens with; None: the likeliest ones.
    """
    ids, cache = first, None
    stop = torch.tensor(ends, device=first.device)
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for _ in range(max_new_tokens):
        logits, cache = step(ids if cache is None else ids[:, -1:], cache)
        said = next_tokens(logits, draws)
        ids = torch.cat([ids, said[:, None]], 1)
        ended |= torch.isin(said, stop)
        if bool(ended.all()):
            break
    return [_until_end(row, frozenset(ends)) for row in ids[:, first.shape[1] :].tolist()]


def _until_end(ids: Sequence[int], ends: frozenset[int]) -> Continued:
    for place, token in enumerate(ids):
        if token in ends:
            return Continued(tuple(ids[:place]), "end")
    return Continued(tuple(ids), "length")
