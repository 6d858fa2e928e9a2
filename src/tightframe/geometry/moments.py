"""Count, mean and within-class sum of squares of labelled embeddings: a mergeable state.

Batches may come in any order and partition: the result is the same to 1e-10 relative. States merge
in place, and may be kept by group of documents, so that intervals can be had by leaving groups out.

Axes: N labelled positions, C classes, D embedding, G groups, U some of the classes.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from tightframe.formats import Count, TensorFormat
from tightframe.geometry.dimensions import DimensionMoments, NormHistogram
from tightframe.geometry.ledger import (
    Array,
    GroupIds,
    Ledger,
    Spans,
    as_labels,
    as_tensor,
    check_label_counts,
    check_labels,
    check_provenance,
    grouped_labels,
    kept_groups,
    unpacking,
)
from tightframe.geometry.segments import Reducer, Segments, add_outer, require_finite, squared_norms
from tightframe.lm.interface import IGNORE

MERGED = 4096  # classes merged at once; memory only
FORMAT: TensorFormat[tuple[int, Spans, dict[str, Any]]] = TensorFormat(
    "ClassMoments",
    tuple[Count, Spans, dict[str, Any]],
    {
        **{"counts": "count *G C", "means": "float64 *G C D", "within_ss": "float64 *G C"},
        **{"scatter": "float64 D D | None", "balanced_scatter": "float64 D D | None"},
        **{"label_counts": "count C | None", "norms": "count bins"},
        **{"dimensions.counts": "count 2 | None", "dimensions.*": "float64 D"},
    },
    remedy="measure again",
)


class ClassMoments:
    """Count, mean and sum of squares of the embeddings of each class, in float64.

    Batches are added in one pass, and states merged, in any order:

    >>> import numpy as np
    >>> moments = ClassMoments(n_classes=3, dim=2)
    >>> moments.update(np.array([[0.0, 1.0], [4.0, 1.0], [5.0, 5.0]]), np.array([0, 0, 2]))
    >>> moments.counts, moments.means[0]
    (tensor([2, 0, 1]), tensor([2., 1.], dtype=torch.float64))
    >>> moments.variances
    tensor([4., nan, 0.], dtype=torch.float64)

    Args:
        n_classes: Labels lie in [0, n_classes).
        dim: Length of an embedding.
        groups: Number of groups of embeddings (documents, as a rule); `without` leaves some out.
        scatter: Also keep the pooled within-class scatter; 2 D^2 operations for each embedding.
        label_counts: Final number of embeddings of each class; keeps the class-balanced scatter.
        dimensions: Also keep the moments of each dimension, whatever the labels.
        device: Where the state lives, in `ClassMoments.bytes`; embeddings are moved there.

    Attributes:
        n_groups: Number of groups.
        dimensions: Moments of each dimension over all embeddings; None if not kept.
        norms: Histogram of the norms of all embeddings.
        ignored: Number of positions that carried IGNORE instead of a label.
        ledger: The blocks of a split that were seen, where the embeddings come from one.
        provenance: JSON-able facts on model and tokens; only states of equal ones are merged.
    """

    def __init__(
        self,
        n_classes: int,
        dim: int,
        *,
        groups: int = 1,
        scatter: bool = False,
        label_counts: Int[Tensor, " C"] | None = None,
        dimensions: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_classes < 1 or dim < 1:
            raise ValueError(f"expected at least 1 class and 1 dimension, got {n_classes}, {dim}")
        if groups < 1:
            raise ValueError(f"expected at least 1 group, got {groups}")
        if label_counts is not None and label_counts.shape != (n_classes,):
            shape = tuple(label_counts.shape)
            raise ValueError(
                f"label_counts must count each of {n_classes} classes, got shape {shape}"
            )
        self.label_counts: Int64[Tensor, " C"] | None = None
        if label_counts is not None:
            self.label_counts = label_counts.to(device=device, dtype=torch.int64, copy=True)
        self.n_groups = groups
        self.dimensions = DimensionMoments(dim, device=device) if dimensions else None
        self.norms = NormHistogram(device=device)
        self.ignored = 0
        self.ledger = Ledger()
        self.provenance: dict[str, Any] = {}
        self._reducer = Reducer()
        self._size = (n_classes, dim)
        self._table: ClassMoments | None = None  # a class for each group and class
        if groups > 1:
            repeated = None if self.label_counts is None else self.label_counts.repeat(groups)
            self._table = ClassMoments(
                groups * n_classes, dim, scatter=scatter, label_counts=repeated, device=device
            )
            return  # what follows is then computed from the table when it is needed
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n_classes, dtype=torch.int64, device=device)
        self.means, self.within_ss = zeros(n_classes, dim), zeros(n_classes)
        self.scatter = zeros(dim, dim) if scatter else None
        self.balanced_scatter = zeros(dim, dim) if self.label_counts is not None else None

    @staticmethod
    def bytes(n_classes: int, dim: int, groups: int = 1, scatter: bool = False) -> int:
        """Return the memory of a state in bytes; `scatter` counts both kinds, not kept by group."""
        return 8 * (groups * n_classes * (dim + 2) + (2 * dim * dim if scatter else 0))

    @cached_property
    def counts(self) -> Int64[Tensor, " C"]:
        """Embeddings seen of each class, of all groups together."""
        return self._rows.counts.view(self.n_groups, -1).sum(0)

    @cached_property
    def means(self) -> Float64[Tensor, "C D"]:
        """Mean of the embeddings of each class; 0 where there are none: select them by `seen`."""
        return self._all.means

    @cached_property
    def within_ss(self) -> Float64[Tensor, " C"]:
        """Sum of squared distances of the embeddings of each class to their mean."""
        return self._all.within_ss

    @cached_property
    def scatter(self) -> Float64[Tensor, "D D"] | None:
        """Summed outer products of all deviations from the class means; None if not kept."""
        return self._with_groups(self._rows.scatter, torch.ones_like(self.counts).double())

    @cached_property
    def balanced_scatter(self) -> Float64[Tensor, "D D"] | None:
        """Scatter with weight 1 / label_counts, so that each class has weight 1 in all.

        It is None if not kept, and whole when `counts` equals `label_counts`.
        """
        if self.label_counts is None:
            return None
        weights = self.label_counts.clamp(min=1).double().reciprocal()
        return self._with_groups(self._rows.balanced_scatter, weights)

    @property
    def counts_by_group(self) -> Int64[Tensor, "G C"]:
        """Embeddings seen of each class in each group."""
        return self._rows.counts.view(self.n_groups, -1)

    @property
    def means_by_group(self) -> Float64[Tensor, "G C D"]:
        """Mean of each class in each group; 0 where a group has none of it."""
        return self._rows.means.view(self.n_groups, *self._size)

    @property
    def within_ss_by_group(self) -> Float64[Tensor, "G C"]:
        """Sum of squared distances to the mean of the class in the group."""
        return self._rows.within_ss.view(self.n_groups, -1)

    @property
    def n_classes(self) -> int:
        """Number of classes C, whether seen or not."""
        return self._size[0]

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return self._size[1]

    @property
    def n(self) -> int:
        """Number of embeddings seen, of all classes."""
        return int(self.counts.sum())

    @property
    def variances(self) -> Float64[Tensor, " C"]:
        """Mean squared distance to the class mean (divided by n, not n - 1); NaN where empty."""
        return self.within_ss / self.counts

    def seen(self, min_count: int = 1) -> Bool[Tensor, " C"]:
        """Return which classes have at least `min_count` embeddings, and so a mean."""
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        return self.counts >= min_count

    def global_mean(self, min_count: int = 1) -> Float64[Tensor, " D"]:
        """Return the mean of the class means, each seen class once, whatever its count."""
        return self.means[self.seen(min_count)].mean(0)

    @torch.no_grad()
    def update(self, embeddings: Array, labels: Array, groups: GroupIds = None) -> None:
        """Add a batch; it is refused whole, before anything changes, or taken whole.

        Args:
            embeddings: Tensor or NumPy array (N, D) of any float type, on any device; gradients
                are not followed.
            labels: Class of each (N,), integers; those that are IGNORE are left out, and counted.
            groups: The group of each, or of all of them; needed if the state has several.
        """
        embeddings = as_tensor(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(
                f"embeddings must have shape (N, {self.dim}), got {tuple(embeddings.shape)}"
            )
        if not embeddings.is_floating_point():
            raise TypeError(f"embeddings must be of a float type, got {embeddings.dtype}")
        rows = self._rows
        device = rows.means.device
        embeddings, labels = embeddings.detach().to(device), as_labels(labels).to(device)
        n_ignored = check_labels(labels, len(embeddings), self.n_classes)
        places = grouped_labels(labels, groups, self.n_classes, self.n_groups)
        order = places.argsort(stable=True)[n_ignored:]  # IGNORE sorts before every class
        require_finite(embeddings, labels, order)
        if self.label_counts is not None:
            check_label_counts(self.counts, labels[order], self.label_counts)
        outer = rows.scatter is not None or rows.balanced_scatter is not None
        for part in self._reducer.segments(embeddings, places, order, deviations=outer):
            rows._join(part)
        labelled = embeddings[labels != IGNORE] if n_ignored else embeddings
        if self.dimensions is not None:
            self.dimensions.update(labelled)
        self.norms.update(labelled)
        self.ignored += n_ignored
        self._forget()

    def merge(self, other: "ClassMoments") -> None:
        """Add everything that `other` has seen, in place; `other` stays as it is."""
        if (mine := self._shape()) != (theirs := other._shape()):
            raise ValueError(f"states of different shape: {mine} here, {theirs} there")
        check_provenance(self.provenance, other.provenance)
        ledger = self.ledger.joined(other.ledger)
        rows, others, device = self._rows, other._rows, self._rows.means.device
        if self.label_counts is not None and other.label_counts is not None:
            if not torch.equal(self.label_counts, other.label_counts.to(device)):
                raise ValueError("states with different label_counts: of different tokens?")
            if bool((self.counts + other.counts.to(device) > self.label_counts).any()):
                raise ValueError("together the states have seen more than label_counts says")
        for classes in others.counts.nonzero().flatten().split(MERGED):
            part = (x[classes].to(device) for x in (others.counts, others.means, others.within_ss))
            rows._join(Segments(classes.to(device), *part))
        for name in ("scatter", "balanced_scatter"):
            if (own := getattr(rows, name)) is not None:
                own += getattr(others, name).to(device)
        if self.dimensions is not None and other.dimensions is not None:
            self.dimensions.merge(other.dimensions)
        self.norms.counts += other.norms.counts.to(device)
        self.ignored += other.ignored
        self.ledger = ledger
        self._forget()

    @torch.no_grad()
    def without(self, *groups: int) -> "ClassMoments":
        """Return the state as if some groups had not been seen; it has no groups of its own.

        It has no scatter, which is not kept by group, and nothing `ignored`.
        """
        kept = torch.tensor(kept_groups(groups, self.n_groups), device=self._rows.means.device)
        counts, means, within_ss = self._by_group
        state = ClassMoments(*self._size, device=means.device)
        state.provenance = dict(self.provenance)
        if len(kept) == 0:
            return state
        state.counts = counts[kept].sum(0)
        # Seen from the mean of a group that has the class, equal embeddings have no spread.
        first = kept[(counts[kept] > 0).to(torch.uint8).argmax(0)]  # (C,)
        origins = means[first, torch.arange(self.n_classes, device=means.device)]  # (C, D)
        for group in kept.tolist():
            state.means.addcmul_(counts[group].double()[:, None], means[group] - origins)
        state.means.div_(state.counts.clamp(min=1)[:, None]).add_(origins)
        for group in kept.tolist():
            between = counts[group] * squared_norms(means[group] - state.means)
            state.within_ss += within_ss[group] + between
        return state

    def pack(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return the whole state as tensors and JSON-able facts, for `unpack`."""
        rows = self._rows
        tensors = {"counts": rows.counts, "means": rows.means, "within_ss": rows.within_ss}
        if self.n_groups > 1:
            tensors = dict(zip(tensors, self._by_group, strict=True))  # (G, C, ...)
        tensors["norms"] = self.norms.counts
        optional = {"scatter": rows.scatter, "balanced_scatter": rows.balanced_scatter}
        optional["label_counts"] = self.label_counts
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        if self.dimensions is not None:
            tensors |= {f"dimensions.{k}": v for k, v in self.dimensions.tensors().items()}
        return tensors, [self.ignored, self.ledger.spans, self.provenance]

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], facts: Sequence[Any]) -> "ClassMoments":
        """Return the state that was packed, on the tensors' device."""
        *groups, n_classes, dim = tensors["means"].shape
        state = cls(
            n_classes,
            dim,
            groups=groups[0] if groups else 1,
            scatter="scatter" in tensors,
            label_counts=tensors.get("label_counts"),
            device=tensors["means"].device,
        )
        rows = state._rows
        for name in ("counts", "means", "within_ss"):
            setattr(rows, name, tensors[name].flatten(0, 1) if groups else tensors[name])
        for name in tensors.keys() & {"scatter", "balanced_scatter"}:
            setattr(rows, name, tensors[name])
        prefix = "dimensions."
        if own := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:
            state.dimensions = DimensionMoments.from_tensors(own)
        if "norms" in tensors:  # not of means that no stream of embeddings gave
            state.norms.counts = tensors["norms"]
        state.ignored, spans, state.provenance = facts
        state.ledger = Ledger(spans)
        return state

    def save(self, path: Path | str) -> None:
        """Write the state to one safetensors file, whole or not at all."""
        FORMAT.write(Path(path), *self.pack())

    @classmethod
    def load(cls, path: Path | str, *, device: torch.device | str = "cpu") -> "ClassMoments":
        """Load a saved state; refuse a damaged file, or one of another version."""
        tensors, facts = FORMAT.read(Path(path))
        with unpacking(Path(path)):
            return cls.unpack({name: x.to(device) for name, x in tensors.items()}, facts)

    @property
    def _rows(self) -> "ClassMoments":
        """State without groups that takes the batches: one class per group and class."""
        return self if self._table is None else self._table

    @property
    def _by_group(self) -> tuple[Int64[Tensor, "G C"], Float64[Tensor, "G C D"], Tensor]:
        return self.counts_by_group, self.means_by_group, self.within_ss_by_group

    @cached_property
    def _all(self) -> "ClassMoments":
        return self.without()

    def _with_groups(
        self, within: Float64[Tensor, "D D"] | None, weights: Float64[Tensor, " C"]
    ) -> Float64[Tensor, "D D"] | None:
        """Add what the means of the groups contribute to a scatter within the groups."""
        if within is None:
            return None
        total = within.clone()
        for counts, means, _ in zip(*self._by_group, strict=True):
            add_outer(total, means - self.means, counts * weights)
        return total

    def _forget(self) -> None:
        """Drop what was computed from all groups together, as it is outdated."""
        if self._table is not None:
            for name in ("counts", "means", "within_ss", "scatter", "balanced_scatter", "_all"):
                vars(self).pop(name, None)

    def _join(self, part: Segments) -> None:
        """Merge segments by Chan's formula, which adds the sum of squares between their means."""
        classes = part.classes
        before = self.counts[classes]
        means = self.means.index_select(0, classes)
        shift = part.means - means  # (U, D)
        share = part.counts.double() / (before + part.counts)  # (U,); int / int gives float32
        between = before * share  # (U,)
        self.means.index_copy_(0, classes, means.addcmul_(share[:, None], shift))
        self.within_ss[classes] += part.within_ss + between * squared_norms(shift)
        self.counts[classes] = before + part.counts
        if self.scatter is not None:
            add_outer(self.scatter, shift, between)
            if part.deviations is not None:
                self.scatter.addmm_(part.deviations.T, part.deviations)
        if self.balanced_scatter is not None and self.label_counts is not None:
            weights = self.label_counts[classes].double().reciprocal_()  # (U,)
            add_outer(self.balanced_scatter, shift, between * weights)
            if part.deviations is not None:
                add_outer(self.balanced_scatter, part.deviations, weights[part.owners])

    def _shape(self) -> str:
        kept = ["scatter"] if self._rows.scatter is not None else []
        kept += ["balanced scatter"] if self.label_counts is not None else []
        kept += ["moments of dimensions"] if self.dimensions is not None else []
        groups = f" in {self.n_groups} groups" if self.n_groups > 1 else ""
        size = f"{self.n_classes} classes in {self.dim} dimensions{groups}"
        return " with ".join([size, *kept])
