"""Two mergeable states: `ClassMoments` of labelled embeddings, `Decisions` of a classifier.

Both take batches in any order and partition and give the same result to 1e-10 relative; both are
merged in place and saved as one safetensors file. What a label means is not their concern.

Axes: N labelled positions, C classes, D embedding, U some of the classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from tightframe.errors import UserError
from tightframe.lm.interface import IGNORE
from tightframe.moments.nearest import Choices
from tightframe.moments.segments import Reducer, Segments, require_finite, squared_norms
from tightframe.moments.storage import load_state, save_state

MERGED = 4096  # classes merged at once; memory only


class ClassMoments:
    """Count, mean and spread of the embeddings of each class; float64, one pass, mergeable.

    Args:
        n_classes: Labels lie in [0, n_classes).
        dim: Length of an embedding.
        scatter: Also keep the pooled within-class scatter; 2 D^2 operations an embedding.
        label_counts: How many embeddings each class will have in the end; with them the
            class-balanced scatter is kept too, at the same price.
        device: Where the state lives; embeddings are moved there.

    Attributes:
        counts: Embeddings seen of each class.
        means: Their mean; 0 where there are none, so select classes by `seen`.
        spreads: Sum of squared distances to the class mean.
        scatter: Sum over all embeddings of the outer products of their deviations from the
            class mean; None if not kept.
        balanced_scatter: The same with weight 1 / label_counts, so that each class has weight
            1 in all; None if not kept. It is whole when `counts` equals `label_counts`.
        ignored: Positions that carried IGNORE instead of a label.
        provenance: JSON-able facts on model and tokens, saved with the state. States whose
            provenance differs are not merged.
    """

    def __init__(
        self,
        n_classes: int,
        dim: int,
        *,
        scatter: bool = False,
        label_counts: Int[Tensor, " C"] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_classes < 1 or dim < 1:
            raise ValueError(f"expected at least 1 class and 1 dimension, got {n_classes}, {dim}")
        if label_counts is not None and label_counts.shape != (n_classes,):
            raise ValueError(
                f"label_counts must have one number for each of {n_classes} classes, "
                f"got shape {tuple(label_counts.shape)}"
            )

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.counts: Int64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.int64, device=device)
        self.means: Float64[Tensor, "C D"] = zeros(n_classes, dim)
        self.spreads: Float64[Tensor, " C"] = zeros(n_classes)
        self.scatter: Float64[Tensor, "D D"] | None = zeros(dim, dim) if scatter else None
        self.balanced_scatter: Float64[Tensor, "D D"] | None = None
        self.label_counts: Int64[Tensor, " C"] | None = None
        if label_counts is not None:
            self.balanced_scatter = zeros(dim, dim)
            self.label_counts = label_counts.to(device=device, dtype=torch.int64, copy=True)
        self.ignored = 0
        self.provenance: dict[str, Any] = {}
        self._reducer = Reducer()

    @property
    def n_classes(self) -> int:
        """C, whether seen or not."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return self.means.shape[1]

    @property
    def n(self) -> int:
        """Embeddings seen, of all classes."""
        return int(self.counts.sum())

    @property
    def variances(self) -> Float64[Tensor, " C"]:
        """Mean squared distance to the class mean (divided by n, not n - 1); NaN where empty."""
        return self.spreads / self.counts

    def seen(self, min_count: int = 1) -> Bool[Tensor, " C"]:
        """Which classes have at least `min_count` embeddings, and so a mean."""
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        return self.counts >= min_count

    def global_mean(self, min_count: int = 1) -> Float64[Tensor, " D"]:
        """The mean of the class means, each seen class once, whatever its count."""
        return self.means[self.seen(min_count)].mean(0)

    @torch.no_grad()
    def update(self, embeddings: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> None:
        """Take a batch; it is refused whole, before anything changes, or taken whole.

        Args:
            embeddings: Of any float type, on any device; gradients are not followed.
            labels: Class of each; those that are IGNORE are left out, and counted.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(
                f"embeddings must have shape (N, {self.dim}), got {tuple(embeddings.shape)}"
            )
        if not embeddings.is_floating_point():
            raise TypeError(f"embeddings must be of a float type, got {embeddings.dtype}")
        device = self.means.device
        embeddings, labels = embeddings.detach().to(device), _as_labels(labels).to(device)
        n_ignored = _check_labels(labels, len(embeddings), self.n_classes)
        order = labels.argsort(stable=True)[n_ignored:]  # IGNORE sorts before every class
        require_finite(embeddings, labels, order)
        self._check_label_counts(labels[order])
        outer = self.scatter is not None or self.balanced_scatter is not None
        for part in self._reducer.segments(embeddings, labels, order, deviations=outer):
            self._join(part)
        self.ignored += n_ignored

    def merge(self, other: "ClassMoments") -> None:
        """Take over everything that `other` has seen; `other` stays as it is."""
        if (mine := self._shape()) != (theirs := other._shape()):
            raise ValueError(f"states of different shape: {mine} here, {theirs} there")
        _check_provenance(self.provenance, other.provenance)
        device = self.means.device
        if self.label_counts is not None and other.label_counts is not None:
            if not torch.equal(self.label_counts, other.label_counts.to(device)):
                raise ValueError("states with different label_counts: of different tokens?")
            if bool((self.counts + other.counts.to(device) > self.label_counts).any()):
                raise ValueError("together the states have seen more than label_counts says")
        for classes in other.counts.nonzero().flatten().split(MERGED):
            part = (x[classes].to(device) for x in (other.counts, other.means, other.spreads))
            self._join(Segments(classes.to(device), *part))
        if self.scatter is not None and other.scatter is not None:
            self.scatter += other.scatter.to(device)
        if self.balanced_scatter is not None and other.balanced_scatter is not None:
            self.balanced_scatter += other.balanced_scatter.to(device)
        self.ignored += other.ignored

    def save(self, path: Path | str) -> None:
        """Write the state to one safetensors file, whole or not at all."""
        names = ("counts", "means", "spreads", "scatter", "balanced_scatter", "label_counts")
        tensors = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        save_state(Path(path), "ClassMoments", tensors, [self.ignored, self.provenance])

    @classmethod
    def load(cls, path: Path | str) -> "ClassMoments":
        """A saved state; a damaged file, or one of another version, is a UserError."""
        tensors, (ignored, provenance) = load_state(Path(path), "ClassMoments")
        state = cls(*tensors["means"].shape)
        vars(state).update(tensors)
        state.ignored, state.provenance = ignored, provenance
        return state

    def _join(self, part: Segments) -> None:
        """Chan's formula: two groups are one, with a spread of its own between their means."""
        classes = part.classes
        before = self.counts[classes]
        means = self.means.index_select(0, classes)
        shift = part.means - means  # (U, D)
        share = part.counts.double() / (before + part.counts)  # (U,); int / int gives float32
        between = before * share  # (U,)
        self.means.index_copy_(0, classes, means.addcmul_(share[:, None], shift))
        self.spreads[classes] += part.spreads + between * squared_norms(shift)
        self.counts[classes] = before + part.counts
        if self.scatter is not None:
            _add_outer(self.scatter, shift, between)
            if part.deviations is not None:
                self.scatter.addmm_(part.deviations.T, part.deviations)
        if self.balanced_scatter is not None and self.label_counts is not None:
            weights = self.label_counts[classes].double().reciprocal_()  # (U,)
            _add_outer(self.balanced_scatter, shift, between * weights)
            if part.deviations is not None:
                _add_outer(self.balanced_scatter, part.deviations, weights[part.owners])

    def _shape(self) -> str:
        kept = ["scatter"] if self.scatter is not None else []
        kept += ["balanced scatter"] if self.balanced_scatter is not None else []
        return " with ".join([f"{self.n_classes} classes in {self.dim} dimensions", *kept])

    def _check_label_counts(self, labels: Int[Tensor, " N"]) -> None:
        if self.label_counts is None:
            return
        counts = self.counts + torch.bincount(labels, minlength=self.n_classes)
        beyond = (counts > self.label_counts).nonzero().flatten()
        if len(beyond):
            c = int(beyond[0])
            raise ValueError(
                f"class {c} now has {int(counts[c])} embeddings, but label_counts says "
                f"{int(self.label_counts[c])}; were they counted on the same tokens?"
            )


class Decisions:
    """What a classifier and the nearest class mean decide at labelled positions.

    Everything is kept by the class of the label, so that any subset or frequency bin of classes
    can be looked at later.

    Args:
        seen: The classes that have a mean (S): the candidates of the nearest-mean rule.

    Attributes:
        counts: Positions of each label, whether its class is seen or not.
        classifier_hits: Positions where the classifier's largest logit is the label's.
        nearest_hits: Positions where the nearest class mean is the label's.
        agreements: Positions where both decide the same, both among the seen classes; counted
            only where the label is seen (`nc4_rate`).
        agreements_full: The same where the classifier chooses among all ids, at all positions
            (`nc4_rate_fullv`).
        losses: Sum of the cross-entropies, nats.
        reevaluated: Decisions that were too close for float32 and were taken in float64.
        ignored, provenance: As in `ClassMoments`.
    """

    _SUMS = ("counts", "classifier_hits", "nearest_hits", "agreements", "agreements_full", "losses")

    def __init__(self, seen: Bool[Tensor, " C"]) -> None:
        n_classes = len(seen)
        self.seen = seen.cpu()
        self.counts: Int64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.int64)
        self.classifier_hits: Int64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.int64)
        self.nearest_hits: Int64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.int64)
        self.agreements: Int64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.int64)
        self.agreements_full: Int64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.int64)
        self.losses: Float64[Tensor, " C"] = torch.zeros(n_classes, dtype=torch.float64)
        self.reevaluated = 0
        self.ignored = 0
        self.provenance: dict[str, Any] = {}

    @property
    def n(self) -> int:
        """Labelled positions."""
        return int(self.counts.sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per token; NaN without positions."""
        return float(self.losses.sum()) / self.n if self.n else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of positions where the classifier is right, in [0, 1]; NaN without positions."""
        return int(self.classifier_hits.sum()) / self.n if self.n else float("nan")

    def update(self, labels: Int[Tensor, " N"], choices: Choices) -> None:
        """Take what was decided at some positions; labels follow the rule of `ClassMoments`."""
        n_classes = len(self.seen)
        labels = _as_labels(labels).cpu()
        n_ignored = _check_labels(labels, len(choices.losses), n_classes)
        kept = labels != IGNORE
        labels = labels[kept]
        nearest, among_seen, among_all = (
            ids.cpu()[kept]
            for ids in (choices.nearest, choices.classifier_seen, choices.classifier)
        )

        def count(where: Tensor) -> Tensor:
            return torch.bincount(labels[where], minlength=n_classes)

        losses = choices.losses.double().cpu()[kept]
        self.counts += torch.bincount(labels, minlength=n_classes)
        self.classifier_hits += count(among_all == labels)
        self.nearest_hits += count(nearest == labels)
        self.agreements += count((among_seen == nearest) & self.seen[labels])
        self.agreements_full += count(among_all == nearest)
        self.losses += torch.bincount(labels, losses, minlength=n_classes)
        self.reevaluated += choices.reevaluated
        self.ignored += n_ignored

    def merge(self, other: "Decisions") -> None:
        """Take over everything that `other` has seen; `other` stays as it is."""
        if len(self.seen) != len(other.seen):
            raise ValueError(
                f"states of different shape: {len(self.seen)} classes here, {len(other.seen)} there"
            )
        if not torch.equal(self.seen, other.seen):
            raise ValueError("states whose nearest-mean candidates differ: of different moments?")
        _check_provenance(self.provenance, other.provenance)
        for name in self._SUMS:
            getattr(self, name).add_(getattr(other, name))
        self.reevaluated += other.reevaluated
        self.ignored += other.ignored

    def save(self, path: Path | str) -> None:
        """Write the state to one safetensors file, whole or not at all."""
        tensors = {name: getattr(self, name) for name in ("seen", *self._SUMS)}
        facts = [self.reevaluated, self.ignored, self.provenance]
        save_state(Path(path), "Decisions", tensors, facts)

    @classmethod
    def load(cls, path: Path | str) -> "Decisions":
        """A saved state; a damaged file, or one of another version, is a UserError."""
        tensors, facts = load_state(Path(path), "Decisions")
        state = cls(tensors["seen"])
        vars(state).update(tensors)
        state.reevaluated, state.ignored, state.provenance = facts
        return state


def _as_labels(labels: Tensor) -> Tensor:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    return labels.long()


def _check_labels(labels: Tensor, n_rows: int, n_classes: int) -> int:
    """How many labels are IGNORE; ValueError where one is no class."""
    if labels.shape != (n_rows,):
        raise ValueError(f"expected {n_rows} labels, one a row, got shape {tuple(labels.shape)}")
    ignored = labels == IGNORE
    if bool((((labels < 0) & ~ignored) | (labels >= n_classes)).any()):
        rest = labels[~ignored]
        raise ValueError(
            f"labels must lie in [0, {n_classes}) or be {IGNORE}, got {int(rest.min())}.."
            f"{int(rest.max())}; was the model's vocabulary padded?"
        )
    return int(ignored.sum())


def _check_provenance(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise UserError(
                f"states that don't belong together: {key} is {mine.get(key)!r} here, "
                f"{theirs.get(key)!r} there"
            )


def _add_outer(
    total: Float64[Tensor, "D D"], rows: Float64[Tensor, "n D"], weights: Float64[Tensor, " n"]
) -> None:
    """Add the weighted outer products of some rows."""
    total.addmm_((rows * weights[:, None]).T, rows)
