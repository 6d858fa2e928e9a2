"""What a pass keeps of a model's embeddings, and the memory that it takes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.files import free_disk
from tightframe.geometry.labels import NEXT, LabelSpec
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.shared import SharedClasses
from tightframe.geometry.stream import BATCH_TOKENS, Precision, Projection, Stream
from tightframe.geometry.subject import Subject
from tightframe.lm.hardware import free_memory

LARGE = 2**28  # bytes of states that are worth a line before the pass


@dataclasses.dataclass(frozen=True)
class Pass:
    """What is kept of a model's embeddings; with model and tokens, it names a state."""

    layers: tuple[int, ...]  # the model's last is one of them
    reading: LabelSpec = NEXT
    groups: int = 1
    scatter: bool = False
    dimensions: bool = False
    projection: Projection | None = None
    precision: Precision = "fp32"
    batch_tokens: int = BATCH_TOKENS  # names no state
    shared: SharedClasses | None = None

    def stream(self, subject: Subject, split: Split) -> Stream:
        """The labelled embeddings of a split."""
        groups = split.groups(self.groups) if self.groups > 1 else None
        return Stream(
            subject.model,
            split,
            self.reading,
            groups,
            self.projection,
            self.precision,
            self.batch_tokens,
            None if self.shared is None else self.shared.quota(split),
        )

    def provenance(self, subject: Subject, split: Split, layer: int) -> dict[str, Any]:
        """What a state is of; two that differ in it are never merged."""
        projection = None if layer == subject.model.depth else self.projection
        return {
            "model": subject.name,
            "step": subject.step,
            "weights": subject.weights,
            "tokens": split.fingerprint,
            "layer": layer,
            "reading": dataclasses.asdict(self.reading),
            "groups": self.groups,
            "scatter": self.scatter,
            "dimensions": self.dimensions,
            "projection": None if projection is None else dataclasses.asdict(projection),
            "precision": self.precision,
            # The name that older files have.
            "common": None if self.shared is None else self.shared.fingerprint,
        }


def fit(subject: Subject, shards: TokenShards, passes: Sequence[Pass]) -> bool:
    """Tell whether states of the training split take less than half of the memory and disk."""
    split = shards.split("train")
    needed = 2 * sum(_bytes(wanted.stream(subject, split), wanted) for wanted in passes)
    memory = free_memory(subject.model.classifier.device)
    return (memory is None or needed <= memory) and needed <= free_disk(subject.folder)


def _bytes(stream: Stream, wanted: Pass) -> int:
    n_classes, dims = stream.n_classes, stream.dims(wanted.layers).values()
    groups, scatter = wanted.groups, wanted.scatter
    return sum(ClassMoments.bytes(n_classes, dim, groups, scatter) for dim in dims)


def check_memory(stream: Stream, wanted: Pass, say: Callable[[str], None] | None) -> None:
    """Say what the states will take before any of it is taken, and refuse what can't be had."""
    device = stream.model.classifier.device
    n_classes, n_layers = stream.n_classes, len(wanted.layers)
    needed = _bytes(stream, wanted)
    layers = "1 layer" if n_layers == 1 else f"{n_layers} layers"
    groups = f", {wanted.groups} groups" if wanted.groups > 1 else ""
    line = f"states of {layers}{groups}, {n_classes:,} classes: {needed / 1e9:,.2f} GB"
    free = free_memory(device)
    if free is not None and needed > free:
        raise UserError(
            f"{line} on {device}, where {free / 1e9:,.2f} GB are free; "
            "take fewer layers or groups, or --project 256"
        )
    if say is not None and needed > LARGE:
        say(line)
