r"""What a classifier decides, and what the nearest class mean decides, over a whole vocabulary.

.. math::

    a(h) = \arg\max_c \langle w_c, h \rangle + b_c \qquad
    z(h) = \arg\min_{c \in S} \lVert h - \mu_c \rVert
         = \arg\max_{c \in S} \langle m_c, h - \mu_G \rangle - \lVert m_c \rVert^2 / 2

where :math:`S` are the classes that have a mean, :math:`\mu_G` is the mean of these means, each
once, and :math:`m_c = \mu_c - \mu_G`. Both are the largest of scores over a table of rows, which
are swept in tiles that stay in the cache; the scores of a batch never exist together.

The decisions are those of float64. Tiles are float32; a decision whose margin is within their
error is taken again in float64, over all candidates. Scores that are the same to float64's
own error are a tie, and the smallest id wins, whatever the order in which a machine sums.

Axes: N positions, n positions of a chunk, V vocabulary, C classes (ids that can be labels, the
first of the vocabulary), K candidates, J candidates of a tile, D embedding.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from tightframe.moments.candidates import TILE, LogSum, Table, Top, resolve

SCORES = 2**20  # scores held at once on a CPU: 4 MiB in float32
ACCELERATOR_SCORES = 2**26  # 256 MiB: large products keep a GPU busy


class Choices(NamedTuple):
    """What was decided at some positions."""

    classifier: Int[Tensor, " N"]  # the largest logit, among all classes
    classifier_seen: Int[Tensor, " N"]  # the largest logit, among those with a mean
    nearest: Int[Tensor, " N"]  # the nearest class mean
    losses: Float64[Tensor, " N"]  # cross-entropy of the label over the whole vocabulary, nats
    reevaluated: int  # decisions that were too close for float32
    # How many classes with a mean the classifier puts before the nearest mean's, if asked for.
    ranks: Int[Tensor, " N"] | None = None


class Chooser:
    """Classifier and class means, laid out to be swept; call it with a batch.

    Args:
        classifier: A row a token. Ids from C up (padding of the vocabulary) take part in the
            loss as they do in the model, and are never chosen.
        bias: Added to the logits, if the model has one.
        means: Class means.
        seen: The classes that have a mean; at least one.
        finish: What the model does to the logits last (a scale, a soft-cap): element by element
            and increasing, so that it changes the loss and no decision.
        ranks: Also count the classes before the nearest mean's; a second sweep over the
            classifier, for the positions where the two decide otherwise.
    """

    def __init__(
        self,
        classifier: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        means: Float64[Tensor, "C D"],
        seen: Bool[Tensor, " C"],
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        ranks: bool = False,
    ) -> None:
        n_classes, device = len(means), classifier.device
        if len(classifier) < n_classes or classifier.shape[1] != means.shape[1]:
            raise ValueError(
                f"a classifier {tuple(classifier.shape)} can't choose among classes with means "
                f"{tuple(means.shape)}; is it of the same model?"
            )
        if not bool(seen.any()):
            raise ValueError("no class has a mean, so none is nearest; is min_count too high?")
        self._classifier, self._finish, self._ranks = classifier.detach(), finish, ranks
        self._bias = None if bias is None else bias.detach().double()
        means, seen = means.to(device), seen.to(device)
        dtype = torch.float32 if _keeps_float32(device) else torch.float64
        padding = torch.arange(n_classes, len(classifier), device=device)

        def table(ids: Int[Tensor, " K"]) -> Table:
            return Table(self._classifier, ids, dtype, offsets=self._bias)

        # First the classes that have a mean, then the others, if there are any.
        self._classes = [table(ids) for ids in (_ids(seen), _ids(~seen)) if len(ids)]
        self._padding = [table(padding)] if len(padding) else []
        self._means = Table(means, _ids(seen), dtype, centre=means[seen].mean(0))
        self._buffers = _tiles(dtype, device)

    @torch.no_grad()
    def __call__(self, embeddings: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> Choices:
        """Decide at every position; embeddings are finite, labels lie in [0, C)."""
        device, n = self._classifier.device, self._buffers.shape[1]
        embeddings, labels = embeddings.detach().to(device), labels.to(device)
        with torch.autocast(device.type, enabled=False):
            swept, losses = zip(
                *(
                    self._sweep(x.double(), y)
                    for x, y in zip(embeddings.split(n), labels.split(n), strict=True)
                ),
                strict=True,
            )
            *tops, top = (Top.cat(parts) for parts in zip(*swept, strict=True))
            among_seen, n_seen = resolve(embeddings, self._classes[:1], tops[:1])
            among_all, n_all = among_seen, 0
            if len(tops) > 1:
                among_all, n_all = resolve(embeddings, self._classes, tops)
            nearest, n_nearest = resolve(embeddings, [self._means], [top])
            ranks = self._rank(embeddings, among_seen, nearest) if self._ranks else None
        reevaluated = n_seen + n_all + n_nearest
        return Choices(among_all, among_seen, nearest, torch.cat(losses), reevaluated, ranks)

    def _rank(
        self,
        embeddings: Float[Tensor, "N D"],
        among_seen: Int[Tensor, " N"],
        nearest: Int[Tensor, " N"],
    ) -> Int[Tensor, " N"]:
        """How many seen classes the classifier puts before the nearest mean's: 0 if it agrees."""
        ranks = torch.zeros_like(nearest)
        apart = (among_seen != nearest).nonzero().flatten()
        for rows in apart.split(self._buffers.shape[1]) if len(apart) else ():
            buffers = self._buffers[:, : len(rows)]
            ahead = self._classes[0].ahead(embeddings[rows].double(), nearest[rows], buffers)
            # What it chose is before, even if a chain of ties hides it.
            ranks[rows] = ahead.clamp(min=1)
        return ranks

    def _sweep(
        self, embeddings: Float64[Tensor, "n D"], labels: Int[Tensor, " n"]
    ) -> tuple[list[Top], Float64[Tensor, " n"]]:
        """The best of each table of classes and of the means, as tiles see it; and the losses."""
        buffers = self._buffers[:, : len(embeddings)]
        total = LogSum(embeddings, buffers.dtype, self._finish)
        tops = [table.sweep(embeddings, buffers, total) for table in self._classes]
        for table in self._padding:  # for the losses only
            table.sweep(embeddings, buffers, total)
        tops.append(self._means.sweep(embeddings, buffers))
        logits = (embeddings * self._classifier[labels]).sum(1)  # (n,), of the labels
        if self._bias is not None:
            logits += self._bias[labels]
        return tops, total.value() - (logits if self._finish is None else self._finish(logits))


class NearestMeans:
    """Class means alone, laid out to be swept; call it with a batch. Arguments as in `Chooser`."""

    def __init__(self, means: Float64[Tensor, "C D"], seen: Bool[Tensor, " C"]) -> None:
        dtype = torch.float32 if _keeps_float32(means.device) else torch.float64
        self._means = Table(means, _ids(seen), dtype, centre=means[seen].mean(0))
        self._buffers = _tiles(dtype, means.device)

    @torch.no_grad()
    def __call__(self, embeddings: Float[Tensor, "N D"]) -> tuple[Int[Tensor, " N"], int]:
        """The nearest class mean of each, and how many were too close for float32."""
        embeddings = embeddings.detach().to(self._buffers.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            tops = [
                self._means.sweep(part.double(), self._buffers[:, : len(part)])
                for part in embeddings.split(self._buffers.shape[1])
            ]
            return resolve(embeddings, [self._means], [Top.cat(tops)])


def _tiles(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "2 n tile"]:
    """Fresh memory costs more than the arithmetic on it: two buffers serve all tiles."""
    rows = (SCORES if device.type == "cpu" else ACCELERATOR_SCORES) // TILE
    return torch.empty(2, rows, TILE, dtype=dtype, device=device)


def _ids(mask: Bool[Tensor, " C"]) -> Int[Tensor, " K"]:
    return mask.nonzero().flatten()


def _keeps_float32(device: torch.device) -> bool:
    """Whether products of float32 are made in float32, not in TF32 or bfloat16 as they may be."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator).to(device)
    exact = left.double() @ right.double()
    return bool((left @ right - exact).norm() < 1e-6 * exact.norm())
