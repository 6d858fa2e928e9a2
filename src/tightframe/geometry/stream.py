"""One forward pass over a split of tokens, into states; no more than a batch of embeddings lives.

Layers are numbered as in `lm.interface`: the last is what the classifier multiplies, and is always
among those requested.

Axes: B rows of a batch, T positions, N positions of a batch in one row, C classes, D embedding,
P projected.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from tightframe.corpus.shards import Groups, Split
from tightframe.corpus.shared_vocabulary import Capped
from tightframe.corpus.shuffle import ShuffledLabels
from tightframe.errors import UserError
from tightframe.geometry.ledger import Span
from tightframe.geometry.moments import ClassMoments, NonFiniteError
from tightframe.lm.interface import IGNORE, PRENORM, Batch, LanguageModel, next_token
from tightframe.lm.loss import measuring


@dataclasses.dataclass(frozen=True)
class Projection:
    r"""From D to P dimensions by independent normal numbers of variance 1/P.

    Squared distances and inner products keep their expectation; that of a pair has a relative
    standard deviation of :math:`\sqrt{2/P}` (Johnson & Lindenstrauss 1984), and what is averaged
    over many pairs far less. Ranks and spectra are those of the P dimensions.
    """

    dim: int  # P
    seed: int = 0

    def matrix(self, source_dim: int) -> Float[Tensor, "D P"]:
        """The same for the same seed and dimensions, on any machine."""
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(source_dim, self.dim, generator=generator, dtype=torch.float64)
        scaled: Tensor = matrix / self.dim**0.5
        return scaled.float()


Labels = Literal["next", "current", "shuffled"]

_COUNTED = 2**20  # tokens read at once where labels are only counted; memory only


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """What a class is, and which positions of a block count.

    Args:
        labels: "next", the token that a position predicts; "current", the token that stands
            there; "shuffled", the next tokens of all positions in a random order: a null, in
            which embeddings and labels have nothing to do with each other.
        skip: First positions of each block that have no label. In many models they are attention
            sinks, whose embeddings are unlike all others.
        skip_special: Leave out the positions whose input is a special token of the split's
            tokenizer, such as the end of a text: these are attention sinks, too.
        seed: Of the order of "shuffled".
    """

    labels: Labels = "next"
    skip: int = 0
    skip_special: bool = False
    seed: int = 0


NEXT = LabelSpec()


class Rows(NamedTuple):
    """Some blocks, read."""

    batch: Batch  # its targets are the next tokens, IGNORE at positions that don't count
    labels: Int64[Tensor, "B T"]  # classes, IGNORE at the same positions
    # If labels are next tokens, those at the positions that don't count; else IGNORE everywhere.
    passed: Int64[Tensor, "B T"]
    groups: Int64[Tensor, "B T"] | None  # group of each position, where groups are kept


class LabelledBlocks:
    """A split as a reading sees it.

    Args:
        split: Where the tokens are.
        reading: How they are read.
        groups: Stretches of the split that are kept apart; None keeps none.
        quota: How many positions of each class count, the first ones; None is all of them.
    """

    def __init__(
        self,
        split: Split,
        reading: LabelSpec,
        groups: Groups | None = None,
        quota: Int[Tensor, " C"] | None = None,
    ) -> None:
        if not 0 <= reading.skip < split.block - 1:
            raise UserError(
                f"skip is {reading.skip}, but blocks of {split.block} tokens have "
                f"{split.block - 1} positions; leave at least one"
            )
        self.split = split
        self.reading = reading
        self._bounds = None if groups is None else groups.bounds
        self._special = torch.tensor(split.special if reading.skip_special else ())
        shuffled = reading.labels == "shuffled"
        self._shuffled = ShuffledLabels(split, reading.seed) if shuffled else None
        self._quota = quota
        self._capped = None if quota is None else Capped(quota)
        self._next = 0  # the block that `_capped` has come to

    def rows(self, indices: range) -> Rows:
        """Some consecutive blocks."""
        batch, labels, passed = self._labelled(indices)
        if self._quota is not None and self._capped is not None:
            if self._next != indices.start:  # begin in the midst: what was before counts, too
                before = self._counts(0, indices.start)
                self._capped = Capped((self._quota - before).clamp(min=0))
            taken = self._capped.take(labels.flatten()).view(labels.shape)
            self._next = indices.stop
            labels = labels.where(taken, IGNORE)
            batch = dataclasses.replace(batch, targets=batch.targets.where(taken, IGNORE))
            passed = torch.full_like(passed, IGNORE)  # the loss, too, is of these classes alone
        return Rows(batch, labels, passed, self._groups(indices, labels.shape[1]))

    def label_counts(self) -> Int64[Tensor, " C"]:
        """How often each class is the label of a position that counts."""
        counts = self._counts(0, self.split.n_blocks)
        return counts if self._quota is None else torch.minimum(counts, self._quota)

    def label_counts_by_group(self) -> Int64[Tensor, "G C"]:
        """Count how often each class is the label of a position that counts, in each group."""
        n_groups = 1 if self._bounds is None else len(self._bounds) - 1
        counts = torch.zeros(n_groups * self.split.vocab_size, dtype=torch.int64)
        step = max(1, _COUNTED // self.split.block)
        for first in range(0, self.split.n_blocks, step):
            rows = self.rows(range(first, min(first + step, self.split.n_blocks)))
            places = rows.labels
            if rows.groups is not None:
                places = places + rows.groups * self.split.vocab_size
            places = places[rows.labels != IGNORE]
            counts += torch.bincount(places, minlength=len(counts))
        return counts.view(n_groups, -1)

    def _labelled(self, indices: range) -> tuple[Batch, Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
        """A batch, its labels and the next tokens of the other positions, without any quota."""
        tokens, lengths = self.split.rows(indices)
        batch = next_token(tokens, lengths)
        every = batch.targets.clone()
        batch.targets[:, : self.reading.skip] = IGNORE
        if self.reading.skip_special:
            batch.targets.masked_fill_(torch.isin(batch.inputs, self._special), IGNORE)
        if self.reading.labels == "next":
            labels = batch.targets
        elif self._shuffled is None:
            labels = batch.inputs.clone()
        else:
            labels = self._shuffled.rows(indices)
        counts = batch.targets != IGNORE
        passed = ~counts if self.reading.labels == "next" else torch.zeros_like(counts)
        return batch, labels.where(counts, IGNORE), every.where(passed, IGNORE)

    def _counts(self, start: int, stop: int) -> Int64[Tensor, " C"]:
        """Labels of blocks start, ..., stop - 1, without any quota."""
        plain = self.reading.labels == "next" and not self.reading.skip
        if plain and not self.reading.skip_special and (start, stop) == (0, self.split.n_blocks):
            return self.split.label_counts()
        counts = torch.zeros(self.split.vocab_size, dtype=torch.int64)
        step = max(1, _COUNTED // self.split.block)
        for first in range(start, stop, step):
            _, labels, _ = self._labelled(range(first, min(first + step, stop)))
            counts += torch.bincount(labels[labels != IGNORE], minlength=len(counts))
        return counts

    def _groups(self, indices: range, positions: int) -> Int[Tensor, "B T"] | None:
        if self._bounds is None:
            return None
        starts = torch.arange(indices.start, indices.stop) * self.split.block
        places = starts[:, None] + torch.arange(1, positions + 1)  # (B, T), of the next tokens
        return torch.searchsorted(self._bounds, places, right=True) - 1


Precision = Literal["fp32", "bf16"]  # bf16: the forward pass under autocast
Progress = Callable[[int, int], None]  # takes the blocks that are done, and all

BATCH_TOKENS = 8192  # tokens of a forward pass; memory only, but for its rounding


class Part(NamedTuple):
    """The positions of some consecutive blocks."""

    first: int  # blocks first, ..., end - 1
    end: int
    embeddings: dict[int, Float[Tensor, "N D"]]  # by layer
    labels: Int64[Tensor, " N"]  # classes, IGNORE at positions that don't count
    targets: Int64[Tensor, " N"]  # next tokens, IGNORE at the same positions
    passed: Int64[Tensor, " N"]  # as in `reading.Rows`
    groups: Int64[Tensor, " N"] | None


@dataclasses.dataclass(frozen=True)
class Stream:
    """Labelled embeddings of a model over a split, batch by batch.

    Args:
        model: Any language model; it stays on its device.
        split: What it reads.
        reading: What a label is, and which positions have one.
        groups: Stretches of the split that states keep apart.
        projection: Of every layer but the last.
        precision: Of the forward pass; what is made of it is float64 in any case.
        batch_tokens: Tokens held at once; memory only.
        quota: How many positions of each class count; all by default.
    """

    model: LanguageModel
    split: Split
    reading: LabelSpec = NEXT
    groups: Groups | None = None
    projection: Projection | None = None
    precision: Precision = "fp32"
    batch_tokens: int = BATCH_TOKENS
    quota: Int64[Tensor, " C"] | None = None

    @property
    def n_groups(self) -> int:
        """How many groups states have."""
        return 1 if self.groups is None else len(self.groups.bounds) - 1

    @property
    def n_classes(self) -> int:
        """Number of ids that may be labels; a tokenizer may have more than the model has rows."""
        return min(self.split.vocab_size, len(self.model.classifier))

    @property
    def batch_blocks(self) -> int:
        """Blocks of a batch; batches begin at multiples of it."""
        return max(1, self.batch_tokens // self.split.block)

    def dims(self, layers: Sequence[int]) -> dict[int, int]:
        """Length of the vectors that each layer gives, projected or not."""
        n_tokens, dim = self.model.classifier.shape
        if n_tokens < self.split.vocab_size and n_tokens <= (largest := self.split.largest_id):
            raise UserError(
                f"model {self.model.name} knows {n_tokens} tokens, but the corpus has token "
                f"{largest}; measure it on tokens made by its own tokenizer"
            )
        inner = [layer for layer in layers if layer != self.model.depth]
        if not inner or self.projection is not None:
            narrow = dim if self.projection is None else self.projection.dim
            return {layer: narrow if layer in inner else dim for layer in layers}
        probe = self.split.rows([0])[0][:, :1].to(self.model.classifier.device)
        with measuring(self.model), torch.no_grad():
            found = self.model.embed_layers(probe, inner)
        return dict.fromkeys(layers, dim) | {
            layer: x.shape[-1] for layer, x in zip(inner, found, strict=True)
        }

    def parts(
        self, layers: Sequence[int], spans: Iterable[Span], progress: Progress | None = None
    ) -> Iterator[Part]:
        """The positions of the blocks in `spans`, in order; batches begin at the same blocks
        whatever the spans are, so that a pass that goes on later is the same pass.
        """
        model, split = self.model, self.split
        device = model.classifier.device
        matrices: dict[int, Tensor] = {}
        batches = [batch for span in spans for batch in _batches(span, self.batch_blocks)]
        done = split.n_blocks - sum(end - first for first, end in batches)
        with measuring(model):
            for first, end in batches:
                rows = self._reader.rows(range(first, end))
                batch = rows.batch.to(device)
                autocast = torch.autocast(
                    device.type, torch.bfloat16, enabled=self.precision == "bf16"
                )
                # Not inference mode: what a model keeps of a forward pass, such as a table of
                # rotary angles, may be needed by its training later.
                with torch.no_grad(), autocast:
                    if list(layers) == [model.depth]:
                        found = [model.embed(batch)]  # (B, T, D)
                    else:
                        found = model.embed_layers(batch, layers)
                embeddings = {}
                for layer, x in zip(layers, found, strict=True):
                    if self.projection is not None and layer != model.depth:
                        dim = x.shape[-1]
                        if dim not in matrices:
                            matrices[dim] = self.projection.matrix(dim).to(device)
                        x = x.float() @ matrices[dim]
                    embeddings[layer] = x.flatten(0, 1)
                groups = None if rows.groups is None else rows.groups.flatten()
                labels, passed = (x.to(device).flatten() for x in (rows.labels, rows.passed))
                targets = batch.targets.flatten()
                yield Part(first, end, embeddings, labels, targets, passed, groups)
                done += end - first
                if progress is not None:
                    progress(done, split.n_blocks)

    def relabelled(self, part: Part) -> Part:
        """Return a part of another stream over the same blocks, with the labels of this one."""
        rows = self._reader.rows(range(part.first, part.end))
        groups = None if rows.groups is None else rows.groups.flatten()
        labels, targets, passed = (
            x.to(part.labels.device).flatten()
            for x in (rows.labels, rows.batch.targets, rows.passed)
        )
        return Part(part.first, part.end, part.embeddings, labels, targets, passed, groups)

    @cached_property
    def _reader(self) -> LabelledBlocks:
        return LabelledBlocks(self.split, self.reading, self.groups, self.quota)

    @contextlib.contextmanager
    def naming(self, part: Part, layer: int, start: int = 0) -> Iterator[None]:
        """Say of an embedding that is not finite where in the split it is; rows begin at start."""
        try:
            yield
        except NonFiniteError as error:
            row, position = divmod(start + error.position, self.split.block - 1)
            where = "" if layer == self.model.depth else f" at layer {layer_name(layer)}"
            raise UserError(
                f"model {self.model.name}: the embedding{where} of block {part.first + row}, "
                f"position {position} of split '{self.split.name}' is not finite; "
                "did training diverge, or float16 overflow?"
            ) from None


def accumulate_moments(
    stream: Stream,
    states: Mapping[int, ClassMoments],
    *,
    also: Sequence[tuple[Stream, Mapping[int, ClassMoments]]] = (),
    spans: Sequence[Span] | None = None,
    progress: Progress | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    """Take the blocks of `spans` into the moments of each layer; those seen already stay out.

    Args:
        stream: Where the embeddings come from.
        states: By layer; each may have seen other blocks.
        also: Other labels of the same model and split, and their states, which take the same
            embeddings: there is one forward pass for all.
        spans: Blocks to take; all by default.
        progress: Called after each batch.
        after: Called after each batch, when the states are whole.
    """
    wanted = [(0, stream.split.n_blocks)] if spans is None else spans
    takers = [(stream, states), *also]
    every = [state for _, taken in takers for state in taken.values()]
    left = sorted({gap for state in every for gap in _gaps(state, wanted)})
    positions = stream.split.block - 1
    for state in every:
        state.ledger.source = state.ledger.source or stream.split.fingerprint
    for embedded in stream.parts(list(states), _union(left), progress):
        for taker, taken in takers:
            part = embedded if taker is stream else taker.relabelled(embedded)
            for layer, state in taken.items():
                for first, end in _gaps(state, [(part.first, part.end)]):
                    here = slice((first - part.first) * positions, (end - part.first) * positions)
                    groups = None if part.groups is None else part.groups[here]
                    with stream.naming(part, layer, here.start):
                        state.update(part.embeddings[layer][here], part.labels[here], groups)
                    state.ledger.add(first, end)
        if after is not None:
            after()


def measure(
    model: LanguageModel,
    split: Split,
    *,
    groups: int = 1,
    reading: LabelSpec = NEXT,
    scatter: bool = False,
    dimensions: bool = False,
    precision: Precision = "fp32",
    batch_tokens: int = BATCH_TOKENS,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> ClassMoments:
    """Moments of the embeddings by next token, in one pass.

    Args:
        model: Any language model; it stays on its device.
        split: Usually the training split.
        groups: Groups of documents that are kept apart; intervals are made of them.
        reading: Another label than the next token, or positions to leave out.
        scatter: Also keep the pooled and the class-balanced within-class scatter; 4 D^2 more
            operations a token.
        dimensions: Also keep the moments of each dimension.
        precision: Of the forward pass; the state is float64 in any case.
        batch_tokens: Tokens held at once; memory only.
        device: Where the state lives, 8 (D + 2) bytes a class and group; the model's own by
            default.
        progress: Called after each batch.
    """
    parts = split.groups(groups) if groups > 1 else None
    stream = Stream(model, split, reading, parts, None, precision, batch_tokens)
    moments = new_moments(
        stream, [model.depth], scatter=scatter, dimensions=dimensions, device=device
    )
    accumulate_moments(stream, moments, progress=progress)
    return moments[model.depth]


def new_moments(
    stream: Stream,
    layers: Sequence[int],
    *,
    scatter: bool = False,
    dimensions: bool = False,
    device: torch.device | str | None = None,
) -> dict[int, ClassMoments]:
    """Empty moments for each layer of a stream."""
    counts = None
    if scatter:
        reader = LabelledBlocks(stream.split, stream.reading, quota=stream.quota)
        counts = reader.label_counts()[: stream.n_classes]
    return {
        layer: ClassMoments(
            stream.n_classes,
            dim,
            groups=stream.n_groups,
            scatter=scatter,
            label_counts=counts,
            dimensions=dimensions,
            device=stream.model.classifier.device if device is None else device,
        )
        for layer, dim in stream.dims(layers).items()
    }


def layer_name(layer: int) -> str:
    """As the command line spells it."""
    return "prenorm" if layer == PRENORM else str(layer)


def _batches(span: Span, step: int) -> Iterator[Span]:
    """Blocks that go through the model at once: from multiples of `step`, cut to the span."""
    first, end = span
    while first < end:
        stop = min((first // step + 1) * step, end)
        yield first, stop
        first = stop


def _gaps(state: ClassMoments, wanted: Sequence[Span]) -> list[Span]:
    """What a state lacks of the wanted blocks."""
    last = max((end for _, end in wanted), default=0)
    return [
        (max(a, first), min(b, end))
        for a, b in state.ledger.missing(last)
        for first, end in wanted
        if max(a, first) < min(b, end)
    ]


def _union(spans: Sequence[Span]) -> list[Span]:
    """Overlapping spans, in increasing order, as disjoint ones."""
    joined: list[Span] = []
    for first, end in spans:
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((first, end))
    return joined
