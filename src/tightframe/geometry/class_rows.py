"""Columns of numbers with one row per class that occurs, or per pair of a group and a class.

A row has a place: the class, or `group * n_classes + class` where groups are kept apart. Memory
follows the text that was seen, not the vocabulary; a dense view is made when it is asked for.

Axes: U rows, k places asked for, C classes, G groups.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tightframe.geometry.segments import squared_norms


class ClassRows:
    """Rows by place, in the order in which their places were added.

    Args:
        n_classes: Classes lie in [0, n_classes).
        columns: An empty tensor of each column's type, device and shape: `(0, ...)`.
        groups: Number of groups.

    Attributes:
        places: Places that have a row, ascending.
        slots: Index of the row of each of them.
    """

    def __init__(self, n_classes: int, columns: Mapping[str, Tensor], *, groups: int = 1) -> None:
        self.n_classes, self.n_groups = n_classes, groups
        self._columns = dict(columns)  # longer than the rows that are used, so that some can come
        self.places: Int64[Tensor, " U"] = torch.zeros(
            0, dtype=torch.int64, device=next(iter(columns.values())).device
        )
        self.slots: Int64[Tensor, " U"] = self.places

    @classmethod
    def of(
        cls, n_classes: int, places: Int64[Tensor, " U"], columns: Mapping[str, Tensor], groups: int
    ) -> "ClassRows":
        """Return rows that hold these columns, for places in ascending order."""
        ends = places[:1].tolist() + places[-1:].tolist()
        if not bool((places.diff() > 0).all()) or any(
            not 0 <= place < groups * n_classes for place in ends
        ):
            raise ValueError(
                f"places of rows must ascend within [0, {groups} * {n_classes}), but don't"
            )
        rows = cls(n_classes, columns, groups=groups)
        rows.places, rows.slots = places, torch.arange(len(places), device=places.device)
        return rows

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, name: str) -> Tensor:
        """Return a column by slot; it may be written to."""
        return self._columns[name][: len(self)]

    def sorted(self) -> dict[str, Tensor]:
        """Return all columns in the order of `places`."""
        return {name: self[name][self.slots] for name in self._columns}

    def reserve(self, n: int) -> None:
        """Make room for n rows in all, so that adding them copies nothing; memory only."""
        with torch.inference_mode(False):  # so that a later batch may come outside of it
            for name, column in self._columns.items():
                if n > len(column):
                    # Pages that nobody has written to are not taken from a CPU's memory.
                    self._columns[name] = column.new_empty(n, *column.shape[1:])
                    self._columns[name][: len(self)] = column[: len(self)]

    def add(self, places: Int64[Tensor, " k"]) -> None:
        """Add rows of zeros for those of some distinct places that have none."""
        new = places[~self._find(places)[1]]
        if not len(new):
            return
        n, total = len(self), len(self) + len(new)
        if total > len(next(iter(self._columns.values()))):
            self.reserve(max(total, 2 * n))
        for column in self._columns.values():
            column[n:total] = 0
        order = torch.cat([self.places, new]).argsort()
        slots = torch.arange(n, total, device=new.device)
        self.places = torch.cat([self.places, new])[order]
        self.slots = torch.cat([self.slots, slots])[order]

    def slots_of(self, places: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """Return the slots of places that all have a row."""
        return self.slots[torch.searchsorted(self.places, places)]

    def take(self, name: str, places: Int64[Tensor, " k"]) -> Tensor:
        """Return the rows of some places; zeros for those that have none."""
        slots, known = self._find(places)
        column = self[name]
        taken = column.new_zeros(len(places), *column.shape[1:])
        taken[known] = column[slots[known]]
        return taken

    def take_all(self, places: Int64[Tensor, " k"]) -> dict[str, Tensor]:
        """Return every column of some places by name, as `take` does."""
        return {name: self.take(name, places) for name in self._columns}

    def of_group(
        self, group: int, among: Bool[Tensor, " C"] | None = None
    ) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """Return the classes of a group in ascending order, and their slots."""
        ends = torch.tensor([group, group + 1], device=self.places.device) * self.n_classes
        first, end = torch.searchsorted(self.places, ends).tolist()
        classes, slots = self.places[first:end] - group * self.n_classes, self.slots[first:end]
        if among is not None:
            kept = among[classes]
            classes, slots = classes[kept], slots[kept]
        return classes, slots

    def dense(self, name: str) -> Tensor:
        """Return a column (G, C, ...) with zeros for places that have no row."""
        column = self[name]
        out = column.new_zeros(self.n_groups * self.n_classes, *column.shape[1:])
        out[self.places] = column[self.slots]
        return out.view(self.n_groups, self.n_classes, *column.shape[1:])

    def total(self, name: str) -> Tensor:
        """Return the sum of a column of numbers over the groups, by class (C)."""
        column = self[name]
        out = column.new_zeros(self.n_classes)
        return out.index_add_(0, self.places % self.n_classes, column[self.slots])

    def _find(self, places: Int64[Tensor, " k"]) -> tuple[Int64[Tensor, " k"], Bool[Tensor, " k"]]:
        """Return the slots of places, and which of them have a row."""
        if not len(self):
            return places, torch.zeros_like(places, dtype=torch.bool)
        at = torch.searchsorted(self.places, places).clamp_(max=len(self) - 1)
        return self.slots[at], self.places[at] == places


def joined_groups(
    rows: ClassRows, groups: Iterable[int], among: Bool[Tensor, " C"] | None = None
) -> ClassRows:
    """Return counts, means and within_ss of some groups together, by class.

    Args:
        rows: Those of each group.
        groups: Which of them are joined.
        among: Classes to join; all by default.
    """
    columns = {name: rows[name][:0] for name in ("counts", "means", "within_ss")}
    total = ClassRows(rows.n_classes, columns)
    parts = [rows.of_group(group, among) for group in groups]  # classes and slots
    if not parts:
        return total
    total.add(torch.cat([classes for classes, _ in parts]).unique())
    places = [(total.slots_of(classes), slots) for classes, slots in parts]
    counts, means, within_ss = (total[name] for name in columns)
    # Seen from the mean of a group that has the class, equal embeddings have no spread.
    origins = torch.zeros_like(means)
    for at, slots in places:
        first = counts[at] == 0
        origins[at[first]] = rows["means"][slots[first]]
        counts[at] += rows["counts"][slots]
    for at, slots in places:
        shifts = rows["means"][slots] - origins[at]  # (k, D)
        means.index_add_(0, at, shifts.mul_(rows["counts"][slots, None]))
    means.div_(counts[:, None]).add_(origins)
    for at, slots in places:
        between = squared_norms(rows["means"][slots] - means[at])
        within_ss[at] += rows["within_ss"][slots] + rows["counts"][slots] * between
    return total
