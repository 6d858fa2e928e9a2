r"""Decisions of a classifier and of the nearest class mean over a whole vocabulary.

.. math::

    a(h) = \arg\max_c \langle w_c, h \rangle + b_c \qquad
    z(h) = \arg\min_{c \in S} \lVert h - \mu_c \rVert
         = \arg\max_{c \in S} \langle m_c, h - \mu_G \rangle - \lVert m_c \rVert^2 / 2

where :math:`S` are the classes that have a mean, :math:`\mu_G` is the mean of these means, each
once, and :math:`m_c = \mu_c - \mu_G`. Both are the largest of scores over a table of rows, which
are swept in tiles that stay in the cache; the scores of a batch never exist together.

The decisions are those of float64. Tiles are float32; a decision whose margin is within their
error is decided again in float64, over all candidates. Scores that are the same to float64's
own error are a tie, and the smallest id wins, whatever the order in which a machine sums.

Two more rules are available on request: the mean at the smallest angle, seen from
:math:`\mu_G`, and the rule of the reference library, where a token without a mean has it at the
origin.

Axes: N positions, n positions of a chunk, V vocabulary, C classes (ids that can be labels, the
first of the vocabulary), K candidates, J candidates of a tile, D embedding.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from tightframe.geometry.argmax_tiles import TILE, LogSum, ScoreTable, Top, resolve

SCORES = 2**20  # scores held at once on a CPU: 4 MiB in float32
ACCELERATOR_SCORES = 2**26  # 256 MiB: large products keep a GPU busy

# What is decided only on request: how many classes the classifier puts before the nearest mean's;
# which mean is at the smallest angle; what the reference library decides.
Extra = Literal["ranks", "cosine", "library"]


class Choices(NamedTuple):
    """Decisions at some positions."""

    classifier: Int[Tensor, " N"]  # the largest logit, among all classes
    classifier_seen: Int[Tensor, " N"]  # the largest logit, among those with a mean
    nearest: Int[Tensor, " N"]  # the nearest class mean
    losses: Float64[Tensor, " N"]  # cross-entropy of the label over the whole vocabulary, nats
    reevaluated: int  # decisions that were too close for float32
    # Each of `Extra`, None where it was not requested:
    ranks: Int[Tensor, " N"] | None = None  # seen classes before the nearest mean's, 0 if none
    # The class mean at the smallest angle; -1 where no mean has a direction.
    cosine: Int[Tensor, " N"] | None = None
    # The largest logit among all rows of the classifier, padding too; and the nearest mean where
    # all of these that have none have it at the origin.
    library: tuple[Int[Tensor, " N"], Int[Tensor, " N"]] | None = None


class ArgmaxScorer:
    """Classifier and class means, laid out to be swept; call it with a batch.

    Args:
        classifier: One row per token. Ids from C up (padding of the vocabulary) take part in the
            loss as they do in the model, and are never chosen.
        bias: Added to the logits, if the model has one.
        means: Class means of the classes that have one, in the order of their ids.
        seen: The classes that have a mean; at least one.
        finish: What the model does to the logits last (a scale, a soft-cap): element by element
            and increasing, so that it changes the loss and no decision.
        extras: Further decisions. Ranks need a second sweep over the classifier for the
            positions where classifier and nearest mean decide otherwise, angles another sweep over
            the means; the library's rule costs next to nothing.
    """

    def __init__(
        self,
        classifier: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        means: Float64[Tensor, "K D"],
        seen: Bool[Tensor, " C"],
        *,
        finish: Callable[[Tensor], Tensor] | None = None,
        extras: Collection[Extra] = (),
    ) -> None:
        n_classes, device = len(seen), classifier.device
        if len(classifier) < n_classes or classifier.shape[1] != means.shape[1]:
            raise ValueError(
                f"a classifier {tuple(classifier.shape)} can't choose among {n_classes} classes in "
                f"{means.shape[1]} dimensions; is it of the same model?"
            )
        if not bool(seen.any()):
            raise ValueError("no class has a mean, so none is nearest; is min_count too high?")
        self._classifier, self._finish, self._extras = classifier.detach(), finish, extras
        self._bias = None if bias is None else bias.detach().double()
        means, seen = means.to(device), seen.to(device)
        dtype = torch.float32 if _keeps_float32(device) else torch.float64
        padding = torch.arange(n_classes, len(classifier), device=device)

        def table(ids: Int[Tensor, " K"]) -> ScoreTable:
            return ScoreTable(self._classifier, ids, dtype, offsets=self._bias)

        # First the classes that have a mean, then the others, if there are any.
        self._classes = [table(ids) for ids in (_ids(seen), _ids(~seen)) if len(ids)]
        self._padding = [table(padding)] if len(padding) else []
        self.buffers = _tiles(dtype, device)
        self._means = NearestMeans(
            means, seen, n_rows=len(classifier), extras=extras, buffers=self.buffers
        )

    @torch.no_grad()
    def __call__(self, embeddings: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> Choices:
        """Decide at every position; embeddings are finite, labels lie in [0, C)."""
        device, n = self._classifier.device, self.buffers.shape[1]
        embeddings, labels = embeddings.detach().to(device), labels.to(device)
        with torch.autocast(device.type, enabled=False):
            swept, of_means, losses = zip(
                *(
                    self._sweep(x.double(), y)
                    for x, y in zip(embeddings.split(n), labels.split(n), strict=True)
                ),
                strict=True,
            )
            tops = [Top.cat(parts) for parts in zip(*swept, strict=True)]
            tables, n_tables = [*self._classes, *self._padding], len(self._classes)
            among_seen, n_seen = resolve(embeddings, tables[:1], tops[:1])
            among_all, n_all = among_seen, 0
            if n_tables > 1:
                among_all, n_all = resolve(embeddings, self._classes, tops[:n_tables])
            nearest = self._means.resolve(embeddings, of_means)
            ranks, library, n_rows = None, None, 0
            if "ranks" in self._extras:
                ranks = self._rank(embeddings, among_seen, nearest.ids)
            if nearest.with_origin is not None:
                among_rows = among_all
                if self._padding:
                    among_rows, n_rows = resolve(embeddings, tables, tops)
                library = among_rows, nearest.with_origin
        reevaluated = n_seen + n_all + nearest.reevaluated + n_rows
        chosen = among_all, among_seen, nearest.ids, torch.cat(losses), reevaluated
        return Choices(*chosen, ranks, nearest.cosine, library)

    def _rank(
        self,
        embeddings: Float[Tensor, "N D"],
        among_seen: Int[Tensor, " N"],
        nearest: Int[Tensor, " N"],
    ) -> Int[Tensor, " N"]:
        """Count the seen classes that the classifier puts before the nearest mean's."""
        ranks = torch.zeros_like(nearest)
        apart = (among_seen != nearest).nonzero().flatten()
        for rows in apart.split(self.buffers.shape[1]) if len(apart) else ():
            buffers = self.buffers[:, : len(rows)]
            ahead = self._classes[0].ahead(embeddings[rows].double(), nearest[rows], buffers)
            # What it chose is before, even if a chain of ties hides it.
            ranks[rows] = ahead.clamp(min=1)
        return ranks

    def _sweep(
        self, embeddings: Float64[Tensor, "n D"], labels: Int[Tensor, " n"]
    ) -> tuple[list[Top], list[Top], Float64[Tensor, " n"]]:
        """Find the best of each table of rows and of means in tiles; compute the losses."""
        buffers = self.buffers[:, : len(embeddings)]
        total = LogSum(embeddings, buffers.dtype, self._finish)
        tables = [*self._classes, *self._padding]  # padding is for the losses, and the library
        tops = [table.sweep(embeddings, buffers, total) for table in tables]
        of_means = self._means.sweep(embeddings, buffers)
        logits = (embeddings * self._classifier[labels]).sum(1)  # (n,), of the labels
        if self._bias is not None:
            logits += self._bias[labels]
        logits = logits if self._finish is None else self._finish(logits)
        return tops, of_means, total.value() - logits


class Nearest(NamedTuple):
    """Decisions of class means alone."""

    ids: Int[Tensor, " N"]  # the nearest class mean
    reevaluated: int  # decisions that were too close for float32
    cosine: Int[Tensor, " N"] | None = None  # as in `Choices`
    with_origin: Int[Tensor, " N"] | None = None  # the second of `Choices.library`


class NearestMeans:
    """Class means laid out to be swept; call it with a batch. Arguments as in `ArgmaxScorer`.

    Args:
        means: Class means of the classes that have one, in the order of their ids.
        seen: The classes that have one; at least one.
        n_rows: Tokens of which the others have their mean at the origin, as the reference library
            has it; padding of the vocabulary is among them.
        extras: Further decisions: "cosine", "library".
        buffers: Memory for tiles that several share; its own by default.
    """

    def __init__(
        self,
        means: Float64[Tensor, "K D"],
        seen: Bool[Tensor, " C"],
        *,
        n_rows: int = 0,
        extras: Collection[Extra] = (),
        buffers: Float[Tensor, "2 n tile"] | None = None,
    ) -> None:
        device, dim = means.device, means.shape[1]
        dtype = torch.float32 if _keeps_float32(device) else torch.float64
        self._device, self._extras = device, extras
        self._buffers = _tiles(dtype, device) if buffers is None else buffers
        ids, centre = _ids(seen), means.mean(0)
        self._tables = [ScoreTable(means, ids, dtype, centre=centre, aligned=True)]
        self._origin: list[ScoreTable] = []
        self._angles: list[ScoreTable] = []
        others = _ids(~seen) if not bool(seen.all()) else torch.arange(len(seen), n_rows)
        if "library" in extras and len(others):
            # All of the others are one candidate, and the smallest id of equal ones wins.
            first, origin = others[:1].to(device), means.new_zeros(1, dim)
            self._origin = [ScoreTable(origin, first, dtype, centre=centre, aligned=True)]
        if "cosine" in extras and len(rows := _nonzero(means, centre)):
            self._angles = [
                ScoreTable(means[rows], ids[rows], dtype, centre=centre, unit=True, aligned=True)
            ]

    @torch.no_grad()
    def __call__(self, embeddings: Float[Tensor, "N D"]) -> Nearest:
        """Find the nearest class mean of each embedding."""
        buffers, embeddings = self._buffers, embeddings.detach().to(self._device)
        with torch.autocast(self._device.type, enabled=False):
            swept = [
                self.sweep(part.double(), buffers[:, : len(part)])
                for part in embeddings.split(buffers.shape[1])
            ]
            return self.resolve(embeddings, swept)

    def sweep(
        self, embeddings: Float64[Tensor, "n D"], buffers: Float[Tensor, "2 n tile"]
    ) -> list[Top]:
        """Find the best candidates of a chunk in tiles, for `resolve`."""
        tables = [*self._tables, *self._origin, *self._angles]
        return [table.sweep(embeddings, buffers) for table in tables]

    def resolve(self, embeddings: Float[Tensor, "N D"], swept: Sequence[list[Top]]) -> Nearest:
        """Decide as float64 does, from the sweeps of all chunks."""
        top, *others = (Top.cat(parts) for parts in zip(*swept, strict=True))
        ids, reevaluated = resolve(embeddings, self._tables, [top])
        cosine, with_origin = None, None
        if "library" in self._extras:
            with_origin = ids
            if self._origin:
                tables = [*self._tables, *self._origin]
                with_origin, n = resolve(embeddings, tables, [top, others[0]])
                reevaluated += n
        if "cosine" in self._extras:
            cosine = torch.full_like(ids, -1)
            if self._angles:
                cosine, n = resolve(embeddings, self._angles, others[-1:])
                reevaluated += n
        return Nearest(ids, reevaluated, cosine, with_origin)


def _nonzero(means: Float64[Tensor, "K D"], centre: Float64[Tensor, " D"]) -> Int[Tensor, " k"]:
    """Return the rows that are not the centre, as `ClassSet.nonzero` does."""
    eps, kept = torch.finfo(torch.float64).eps, []
    for rows in means.split(TILE):
        norms = torch.linalg.vector_norm(rows - centre, dim=1)
        scale = torch.linalg.vector_norm(rows, dim=1) + torch.linalg.vector_norm(centre)
        kept.append(norms > 4 * eps * scale)
    return _ids(torch.cat(kept))


def _tiles(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "2 n tile"]:
    """Return two buffers for all tiles: fresh memory costs more than the arithmetic on it."""
    rows = (SCORES if device.type == "cpu" else ACCELERATOR_SCORES) // TILE
    return torch.empty(2, rows, TILE, dtype=dtype, device=device)


def _ids(mask: Bool[Tensor, " C"]) -> Int[Tensor, " K"]:
    return mask.nonzero().flatten()


def _keeps_float32(device: torch.device) -> bool:
    """Return whether float32 products are made in float32, not in TF32 or bfloat16."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator).to(device)
    exact = left.double() @ right.double()
    return bool((left @ right - exact).norm() < 1e-6 * exact.norm())
