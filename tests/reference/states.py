"""States from dense numbers, and dense numbers from states."""

import torch

from tightframe.geometry.decisions import Decisions

NAMES = ("counts", "means", "within_ss")


def dense(moments):
    """Counts, means and within_ss of all classes of each group, (G, C, ...)."""
    return tuple(moments.rows.dense(name) for name in NAMES)


def decisions_of(seen, *, extras=(), **sums):
    """The decisions of these sums by class; those that are not given are 0."""
    decisions = Decisions(torch.as_tensor(seen), extras=extras)
    n_classes = len(decisions.seen)
    names = dict.fromkeys(decisions.rows.sorted(), torch.zeros(n_classes))
    values = {name: torch.as_tensor(sums.pop(name, zeros)) for name, zeros in names.items()}
    assert not sums
    decisions._add(torch.arange(n_classes), values)
    return decisions
