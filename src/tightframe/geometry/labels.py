"""What labels and groups may be, and what belongs together: one rule for both states.

Axes: N labelled positions, C classes, G groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from tightframe.errors import UserError
from tightframe.lm.interface import IGNORE

Groups: TypeAlias = int | Int[Tensor, " N"] | None
"""The group of each position, or of all of them; None is 0, where there is one group only."""


def as_labels(labels: Int[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """Labels as int64; what is no integer is refused."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    return labels.long()


def check_labels(labels: Int64[Tensor, " N"], n_rows: int, n_classes: int) -> int:
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


def check_label_counts(
    before: Int64[Tensor, " C"], labels: Int64[Tensor, " N"], limits: Int64[Tensor, " C"]
) -> None:
    """Refuse labels of which a class would have more than it will have in the end."""
    counts = before + torch.bincount(labels, minlength=len(before))
    beyond = (counts > limits).nonzero().flatten()
    if len(beyond):
        c = int(beyond[0])
        raise ValueError(
            f"class {c} now has {int(counts[c])} embeddings, but label_counts says "
            f"{int(limits[c])}; were they counted on the same tokens?"
        )


def grouped_labels(
    labels: Int64[Tensor, " N"], groups: Groups, n_classes: int, n_groups: int
) -> Int64[Tensor, " N"]:
    """The place of each position in a table of groups times classes; IGNORE stays IGNORE."""
    if groups is None:
        if n_groups > 1:
            raise ValueError(f"say to which of the {n_groups} groups the positions belong")
        return labels
    if isinstance(groups, int):
        groups = torch.full_like(labels, groups)
    if groups.shape != labels.shape:
        raise ValueError(
            f"expected {len(labels)} groups, one a label, got shape {tuple(groups.shape)}"
        )
    groups, ignored = as_labels(groups).to(labels.device), labels == IGNORE
    taken = groups[~ignored]
    if len(taken) and (int(taken.min()) < 0 or int(taken.max()) >= n_groups):
        raise ValueError(
            f"groups must lie in [0, {n_groups}), got {int(taken.min())}..{int(taken.max())}"
        )
    return (groups * n_classes + labels).masked_fill_(ignored, IGNORE)


def kept_groups(left_out: Sequence[int], n_groups: int) -> list[int]:
    """The groups but for those that are left out."""
    if n_groups == 1:
        raise ValueError("the state holds no groups; make it with `groups` to leave one out")
    if bad := [group for group in left_out if not 0 <= group < n_groups]:
        raise ValueError(f"groups lie in [0, {n_groups}), got {bad[0]}")
    return [group for group in range(n_groups) if group not in left_out]


def check_provenance(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse states whose provenance differs."""
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise UserError(
                f"states that don't belong together: {key} is {mine.get(key)!r} here, "
                f"{theirs.get(key)!r} there"
            )
