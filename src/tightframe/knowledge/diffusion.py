r"""How a masked diffusion model answers, and how likely it finds an answer.

The loss of masked diffusion bounds -log p: over all masks M of L tokens,

.. math:: E = \sum_M \frac{(|M|-1)!\,(L-|M|)!}{L!} \sum_{i \in M} -\log p(x_i | x_{\setminus M}),

which is the mean over all orders in which the tokens can be revealed one by one.

Axes: L tokens of an answer, n labelled positions of an example.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tightframe.knowledge.layouts import batches_of_rows, in_place
from tightframe.lm.interface import IGNORE, Example, collate
from tightframe.lm.transformer import Embedder

EXACT = 4  # tokens up to which the bound takes all masks; longer answers: one of each size


class Predictions(NamedTuple):
    """Log-probabilities, in nats, at the labelled positions of an example."""

    target: Float[Tensor, " n"]
    largest: Float[Tensor, " n"]
    likeliest: Int[Tensor, " n"]  # the token of the largest


def masks_of(length: int, *, steps: int = 0) -> list[tuple[tuple[int, ...], float]]:
    """Return hidden places and weights whose weighted log-probabilities sum to the bound.

    Args:
        length: Number of tokens, L.
        steps: 1: all tokens are predicted at once. 0: the bound; exact for at most `EXACT` tokens,
            else with one mask of each size (t fixed at 1/L, 2/L, ..., 1), the same in every call.
    """
    if steps == 1:
        return [(tuple(range(length)), 1.0)]
    found: list[tuple[tuple[int, ...], float]] = []
    generator = np.random.default_rng(length)
    for size in range(1, length + 1):
        if length <= EXACT:
            sets = list(itertools.combinations(range(length), size))
        else:
            sets = [tuple(sorted(generator.permutation(length)[:size].tolist()))]
        found += [(one, 1 / (size * len(sets))) for one in sets]
    return found


@dataclasses.dataclass(frozen=True)
class MaskedDiffusion:
    """A network that predicts masked tokens in their place, as it is asked."""

    model: Embedder
    mask: int  # id of the token that hides another
    pad: int  # id of the token in padding
    steps: int = 0  # passes in which an answer is filled; 0: as many as it has tokens

    @torch.no_grad()
    def fill(self, prompts: Sequence[list[int]], longest: int) -> list[list[int]]:
        """Return the tokens that a diffusion network puts at the mask of each prompt.

        The number of tokens is the one at which the likeliest tokens, all predicted at once, have
        the largest mean log-probability. Then the surest tokens are filled in first, in as many
        passes as there are tokens or `steps`.

        Args:
            prompts: Each with one mask.
            longest: Maximum number of tokens of an answer.
        """
        mask = self.mask
        tried = [(i, n) for i in range(len(prompts)) for n in range(1, longest + 1)]
        blank = [in_place(prompts[i], [mask] * n, mask=mask) for i, n in tried]
        best: dict[int, tuple[float, Example]] = {}
        for (i, _), example, found in zip(tried, blank, self.predictions(blank), strict=True):
            sure = float(found.largest.mean())
            if i not in best or sure > best[i][0]:
                best[i] = sure, example
        chosen = [best[i][1] for i in range(len(prompts))]
        rows = [[*one.inputs] for one in chosen]
        places = [[i for i, target in enumerate(one.targets) if target != IGNORE] for one in chosen]
        passes = [min(self.steps or len(own), len(own)) for own in places]
        hidden = [[*own] for own in places]
        for done in range(max(passes, default=0)):
            left = [i for i, own in enumerate(hidden) if own]
            asked = [_hiding(chosen[i], rows[i], hidden[i], mask) for i in left]
            for i, found in zip(left, self.predictions(asked), strict=True):
                n = math.ceil(len(hidden[i]) / (passes[i] - done))
                surest = found.largest.argsort(descending=True, stable=True)[:n].tolist()
                for k in surest:
                    rows[i][hidden[i][k]] = int(found.likeliest[k])
                hidden[i] = [place for k, place in enumerate(hidden[i]) if k not in surest]
        return [[row[i] for i in own] for row, own in zip(rows, places, strict=True)]

    @torch.no_grad()
    def bounds(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[float]:
        """Return the bound on the log-probability of each answer at its prompt's mask, nats."""
        mask = self.mask
        rows, weights, counts = list[Example](), list[float](), list[int]()
        for prompt, answer in zip(prompts, answers, strict=True):
            blank, first = in_place(prompt, answer, mask=mask), prompt.index(mask)
            inputs = [*prompt[:first], *answer, *prompt[first + 1 :]]
            sets = masks_of(len(answer), steps=self.steps)
            rows += [_hiding(blank, inputs, [first + i for i in own], mask) for own, _ in sets]
            weights += [weight for _, weight in sets]
            counts.append(len(sets))
        summed = (
            weight * float(found.target.sum())
            for weight, found in zip(weights, self.predictions(rows), strict=True)
        )
        return [sum(itertools.islice(summed, n)) for n in counts]

    def predictions(self, examples: Sequence[Example]) -> list[Predictions]:
        """Return what is predicted at the labelled positions of each example."""
        device, found = self.model.classifier.device, dict[int, Predictions]()
        for rows in batches_of_rows([len(one.inputs) for one in examples], "answers"):
            batch = collate([examples[row] for row in rows], pad=self.pad).to(device)
            labelled = batch.targets != IGNORE
            logits = self.model.head(self.model.embed_at(batch, labelled)).float()
            values = logits.log_softmax(-1)
            targets = values.gather(1, batch.targets[labelled][:, None]).squeeze(1)
            counts = labelled.sum(1).tolist()
            parts = (each.cpu().split(counts) for each in (targets, *values.max(1)))
            found |= {row: Predictions(*own) for row, *own in zip(rows, *parts, strict=True)}
        return [found[row] for row in range(len(examples))]


def _hiding(blank: Example, inputs: Sequence[int], places: Sequence[int], mask: int) -> Example:
    """Return an example with these inputs, hidden and predicted at some places only."""
    hidden = {*places}
    return blank._replace(
        inputs=tuple(mask if i in hidden else token for i, token in enumerate(inputs)),
        targets=tuple(t if i in hidden else IGNORE for i, t in enumerate(blank.targets)),
    )
