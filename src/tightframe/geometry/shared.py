"""Classes that two models have in common, whatever their tokenizers: what makes them comparable.

Class means of other strings, or from other numbers of samples, are other things. Taken are the
strings that are one token in both, and, if matched, as many samples of each as both texts hold.

Axes: C classes.
"""

import dataclasses
import hashlib

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tightframe.corpus.labels import matched_counts, shared_classes
from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.geometry.labels import LabelledBlocks, LabelSpec

ALL = 2**62  # a quota that no text exhausts


@dataclasses.dataclass(frozen=True, eq=False)
class SharedClasses:
    """The classes of one model that another has, too."""

    subset: str  # what rows over them are called
    classes: Bool[Tensor, " C"]
    limits: Int64[Tensor, " C"]  # training positions that count, by class

    @classmethod
    def of(
        cls, shards: TokenShards, other: TokenShards, reading: LabelSpec, *, matched: bool
    ) -> "SharedClasses":
        """The classes of `shards` that `other` has, of one text by two tokenizers.

        Args:
            shards: Tokens of the model that is measured.
            other: The same text in the tokens of the other model.
            reading: What a label is, in both.
            matched: Take as many training positions of each class as both have; the first ones.
        """
        ids = shared_classes(shards.tokenizer, other.tokenizer)
        if len(ids[0]) < 2:
            raise UserError(
                f"{shards.path} and {other.path} have {len(ids[0])} tokens in common; expected two "
                "or more that stand for the same strings"
            )
        classes = torch.zeros(shards.vocab_size, dtype=torch.bool)
        classes[ids[0]] = True
        limits = torch.where(classes, ALL, 0)
        if matched:
            ours, theirs = (
                LabelledBlocks(s.split("train"), reading).label_counts() for s in (shards, other)
            )
            limits, _ = matched_counts(ours, theirs, ids)
        verb = "matched to" if matched else "shared with"
        return cls(f"{verb} {other.name}", classes, limits)

    def quota(self, split: Split) -> Int64[Tensor, " C"]:
        """How many positions of each class count in a split; in validation, all of its classes'."""
        return self.limits if split.name == "train" else torch.where(self.classes, ALL, 0)

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""
        return hashlib.sha256(self.limits.numpy().tobytes()).hexdigest()[:12]
