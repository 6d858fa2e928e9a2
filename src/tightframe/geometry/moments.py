"""Count, mean and within-class sum of squares of labelled embeddings: a mergeable state.

Batches may come in any order and partition: the result is the same to 1e-10 relative. States merge
in place, and may be kept by group of documents, so that intervals can be had by leaving groups out.

Axes: N labelled positions, C classes, D embedding, G groups, U some of the classes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from tightframe.formats import Count, Positive, TensorFormat
from tightframe.geometry.class_rows import ClassRows, joined_groups
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
FORMAT: TensorFormat[tuple[int, int, int, Spans, dict[str, Any]]] = TensorFormat(
    "ClassMoments",
    tuple[Positive, Positive, Count, Spans, dict[str, Any]],
    {
        **{"places": "count U", "counts": "count U", "means": "float64 U D"},
        **{"within_ss": "float64 U", "scatter": "float64 D D | None"},
        **{"balanced_scatter": "float64 D D | None", "label_counts": "count C | None"},
        **{"norms": "count bins", "dimensions.counts": "count 2 | None"},
        **{"dimensions.*": "float64 D"},
    },
    remedy="measure again",
    revision=2,
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

    Only classes that occur are stored, and with groups only the pairs of group and class that do.
    Views by class id (`counts`, `means`, ...) are made on request: read them, don't write to them.
    `of_classes` gives some classes without a view of all.

    Args:
        n_classes: Labels lie in [0, n_classes).
        dim: Length of an embedding.
        groups: Number of groups of embeddings (documents, as a rule); `without` leaves some out.
        scatter: Also keep the pooled within-class scatter; 2 D^2 operations for each embedding.
        label_counts: Final number of embeddings of each class; keeps the class-balanced scatter.
        dimensions: Also keep the moments of each dimension, whatever the labels.
        device: Where the state lives, in `ClassMoments.bytes`; embeddings are moved there.

    Attributes:
        n_classes, dim, n_groups: As given.
        dimensions: Moments of each dimension over all embeddings; None if not kept.
        norms: Histogram of the norms of all embeddings.
        ignored: Number of positions that carried IGNORE instead of a label.
        ledger: The blocks of a split that were seen, where the embeddings come from one.
        provenance: JSON-able facts on model and tokens; only states of equal ones are merged.
        reducer: Buffers of an update; several states may share them.
        rows: Count, mean and within_ss of each class of each group that occurs.
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
        self.n_classes, self.dim, self.n_groups = n_classes, dim, groups
        self.dimensions = DimensionMoments(dim, device=device) if dimensions else None
        self.norms = NormHistogram(device=device)
        self.ignored = 0
        self.ledger = Ledger()
        self.provenance: dict[str, Any] = {}
        self.reducer = Reducer()
        self._views: dict[str, Tensor] = {}  # dense ones, until the next update
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        counts = torch.zeros(0, dtype=torch.int64, device=device)
        columns = {"counts": counts, "means": zeros(0, dim), "within_ss": zeros(0)}
        self.rows = ClassRows(n_classes, columns, groups=groups)
        # Around the class means of each group.
        self._scatter = zeros(dim, dim) if scatter else None
        self._balanced = zeros(dim, dim) if self.label_counts is not None else None

    @classmethod
    def from_dense(
        cls,
        counts: Int64[Tensor, "*G C"],
        means: Float64[Tensor, "*G C D"],
        within_ss: Float64[Tensor, "*G C"] | None = None,
    ) -> "ClassMoments":
        """Return the state of these numbers of each class; without a spread it is 0."""
        *groups, n_classes, dim = means.shape
        state = cls(n_classes, dim, groups=groups[0] if groups else 1, device=means.device)
        places = counts.flatten().nonzero().flatten()
        spreads = torch.zeros_like(counts, dtype=torch.float64) if within_ss is None else within_ss
        columns = {"counts": counts.flatten()[places], "within_ss": spreads.flatten()[places]}
        columns["means"] = means.reshape(-1, dim)[places]
        state.rows = ClassRows.of(n_classes, places, columns, state.n_groups)
        return state

    @staticmethod
    def bytes(n_rows: int, dim: int, scatter: bool = False) -> int:
        """Return the memory of so many rows; `scatter` counts both kinds, not kept by group."""
        return 8 * (n_rows * (dim + 4) + (2 * dim * dim if scatter else 0))

    @property
    def counts(self) -> Int64[Tensor, " C"]:
        """Embeddings seen of each class, of all groups together."""
        return self._view("counts", lambda: self.rows.total("counts"))

    @property
    def means(self) -> Float64[Tensor, "C D"]:
        """Mean of the embeddings of each class; 0 where there are none: select them by `seen`."""
        return self._view("means", lambda: self._together().dense("means")[0])

    @property
    def within_ss(self) -> Float64[Tensor, " C"]:
        """Sum of squared distances of the embeddings of each class to their mean."""
        return self._view("within_ss", lambda: self._together().dense("within_ss")[0])

    @property
    def scatter(self) -> Float64[Tensor, "D D"] | None:
        """Summed outer products of all deviations from the class means; None if not kept."""
        if (within := self._scatter) is None or self.n_groups == 1:
            return within
        return self._view("scatter", lambda: self._with_groups(within, None))

    @property
    def balanced_scatter(self) -> Float64[Tensor, "D D"] | None:
        """Scatter with weight 1 / label_counts, so that each class has weight 1 in all.

        It is None if not kept, and whole when `counts` equals `label_counts`.
        """
        if (within := self._balanced) is None or self.n_groups == 1:
            return within
        return self._view("balanced", lambda: self._with_groups(within, self.label_counts))

    @property
    def counts_by_group(self) -> Int64[Tensor, "G C"]:
        """Embeddings seen of each class in each group."""
        return self._view("counts_by_group", lambda: self.rows.dense("counts"))

    def of_classes(self, classes: Int64[Tensor, " k"]) -> Segments:
        """Return count, mean and within_ss of some classes; zeros where none was seen."""
        among = torch.zeros(self.n_classes, dtype=torch.bool, device=classes.device)
        among[classes] = True
        return Segments(classes, **self._together(among).take_all(classes))

    def of_group(self, group: int, classes: Int64[Tensor, " k"]) -> Segments:
        """Return count, mean and within_ss of some classes in a group; zeros where it has none."""
        return Segments(classes, **self.rows.take_all(group * self.n_classes + classes))

    @property
    def device(self) -> torch.device:
        """Device that the state lives on."""
        return self.rows.places.device

    @property
    def n(self) -> int:
        """Number of embeddings seen, of all classes."""
        return int(self.rows["counts"].sum())

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
        return self.of_classes(self.seen(min_count).nonzero().flatten()).means.mean(0)

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
        device = self.device
        embeddings, labels = embeddings.detach().to(device), as_labels(labels).to(device)
        n_ignored = check_labels(labels, len(embeddings), self.n_classes)
        places = grouped_labels(labels, groups, self.n_classes, self.n_groups)
        order = places.argsort(stable=True)[n_ignored:]  # IGNORE sorts before every class
        require_finite(embeddings, labels, order)
        if self.label_counts is not None:
            check_label_counts(self.counts, labels[order], self.label_counts)
        outer = self._scatter is not None or self._balanced is not None
        self.rows.add(places[order].unique_consecutive())
        for part in self.reducer.segments(embeddings, places, order, deviations=outer):
            self._join(part)
        labelled = embeddings[labels != IGNORE] if n_ignored else embeddings
        if self.dimensions is not None:
            self.dimensions.update(labelled)
        self.norms.update(labelled)
        self.ignored += n_ignored
        self._views.clear()

    def merge(self, other: "ClassMoments") -> None:
        """Add everything that `other` has seen, in place; `other` stays as it is."""
        if (mine := self._shape()) != (theirs := other._shape()):
            raise ValueError(f"states of different shape: {mine} here, {theirs} there")
        check_provenance(self.provenance, other.provenance)
        ledger = self.ledger.joined(other.ledger)
        others, device = other.rows, self.device
        if self.label_counts is not None and other.label_counts is not None:
            if not torch.equal(self.label_counts, other.label_counts.to(device)):
                raise ValueError("states with different label_counts: of different tokens?")
            if bool((self.counts + other.counts.to(device) > self.label_counts).any()):
                raise ValueError("together the states have seen more than label_counts says")
        self.rows.add(others.places.to(device))
        for places in others.places.split(MERGED):
            part = {name: x.to(device) for name, x in others.take_all(places).items()}
            self._join(Segments(places.to(device), **part))
        if self._scatter is not None and other._scatter is not None:
            self._scatter += other._scatter.to(device)
        if self._balanced is not None and other._balanced is not None:
            self._balanced += other._balanced.to(device)
        if self.dimensions is not None and other.dimensions is not None:
            self.dimensions.merge(other.dimensions)
        self.norms.counts += other.norms.counts.to(device)
        self.ignored += other.ignored
        self.ledger = ledger
        self._views.clear()

    @torch.no_grad()
    def without(self, *groups: int, among: Bool[Tensor, " C"] | None = None) -> "ClassMoments":
        """Return the state as if some groups had not been seen; it has no groups of its own.

        It has no scatter, which is not kept by group, and nothing `ignored`. It has only the
        classes in `among`, where that is given.
        """
        kept = kept_groups(groups, self.n_groups)
        state = ClassMoments(self.n_classes, self.dim, device=self.device)
        state.provenance = dict(self.provenance)
        state.rows = joined_groups(self.rows, kept, among)
        return state

    def pack(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return the whole state as tensors and JSON-able facts, for `unpack`."""
        tensors = {"places": self.rows.places, **self.rows.sorted(), "norms": self.norms.counts}
        optional = {"scatter": self._scatter, "balanced_scatter": self._balanced}
        optional["label_counts"] = self.label_counts
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        if self.dimensions is not None:
            tensors |= {f"dimensions.{k}": v for k, v in self.dimensions.tensors().items()}
        size = [self.n_classes, self.n_groups]
        return tensors, [*size, self.ignored, self.ledger.spans, self.provenance]

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], facts: Sequence[Any]) -> "ClassMoments":
        """Return the state that was packed, on the tensors' device."""
        n_classes, groups, ignored, spans, provenance = facts
        state = cls(
            n_classes,
            tensors["means"].shape[1],
            groups=groups,
            label_counts=tensors.get("label_counts"),
            device=tensors["means"].device,
        )
        columns = {name: tensors[name] for name in ("counts", "means", "within_ss")}
        state.rows = ClassRows.of(n_classes, tensors["places"], columns, groups)
        state._scatter = tensors.get("scatter")
        state._balanced = tensors.get("balanced_scatter")
        prefix = "dimensions."
        if own := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:
            state.dimensions = DimensionMoments.from_tensors(own)
        state.norms.counts = tensors["norms"]
        state.ignored, state.provenance = ignored, provenance
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

    def _together(self, among: Bool[Tensor, " C"] | None = None) -> ClassRows:
        """Return the rows of all groups together, at least of the classes in `among`."""
        every = range(self.n_groups)
        return self.rows if self.n_groups == 1 else joined_groups(self.rows, every, among)

    def _view(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self._views:
            self._views[name] = make()
        return self._views[name]

    @torch.no_grad()
    def _with_groups(
        self, within: Float64[Tensor, "D D"], label_counts: Int64[Tensor, " C"] | None
    ) -> Float64[Tensor, "D D"]:
        """Add what the means of the groups contribute to a scatter within the groups."""
        total, together = within.clone(), self._together()
        for group in range(self.n_groups):
            classes, slots = self.rows.of_group(group)
            weights = self.rows["counts"][slots].double()
            if label_counts is not None:
                weights /= label_counts[classes]
            means = self.rows["means"][slots]
            add_outer(total, means - together.take("means", classes), weights)
        return total

    def _join(self, part: Segments) -> None:
        """Merge segments by Chan's formula, which adds the sum of squares between their means."""
        slots = self.rows.slots_of(part.classes)
        counts, all_means, within_ss = (self.rows[x] for x in ("counts", "means", "within_ss"))
        before = counts[slots]
        means = all_means.index_select(0, slots)
        shift = part.means - means  # (U, D)
        share = part.counts.double() / (before + part.counts)  # (U,); int / int gives float32
        between = before * share  # (U,)
        all_means.index_copy_(0, slots, means.addcmul_(share[:, None], shift))
        within_ss[slots] += part.within_ss + between * squared_norms(shift)
        counts[slots] = before + part.counts
        if self._scatter is not None:
            add_outer(self._scatter, shift, between)
            if part.deviations is not None:
                self._scatter.addmm_(part.deviations.T, part.deviations)
        if self._balanced is not None and self.label_counts is not None:
            classes = part.classes % self.n_classes
            weights = self.label_counts[classes].double().reciprocal_()  # (U,)
            add_outer(self._balanced, shift, between * weights)
            if part.deviations is not None:
                add_outer(self._balanced, part.deviations, weights[part.owners])

    def _shape(self) -> str:
        kept = ["scatter"] if self._scatter is not None else []
        kept += ["balanced scatter"] if self.label_counts is not None else []
        kept += ["moments of dimensions"] if self.dimensions is not None else []
        groups = f" in {self.n_groups} groups" if self.n_groups > 1 else ""
        size = f"{self.n_classes} classes in {self.dim} dimensions{groups}"
        return " with ".join([size, *kept])
