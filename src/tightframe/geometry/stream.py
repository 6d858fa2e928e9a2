"""One forward pass over a split of tokens, into states; no more than a batch of embeddings lives.

Layers are numbered as in `lm.interface`: the last is what the classifier multiplies, and is always
among those requested.

Axes: B rows of a batch, T positions, N positions of a batch in one row, D embedding, P projected.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tightframe.corpus.shards import Groups, Split
from tightframe.errors import UserError
from tightframe.geometry.labels import NEXT, LabelledBlocks, LabelSpec
from tightframe.geometry.ledger import Span
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.segments import NonFiniteError, Reducer
from tightframe.lm.interface import PRENORM, LanguageModel
from tightframe.lm.loss import measuring


@dataclasses.dataclass(frozen=True)
class Projection:
    r"""Random projection from D to P dimensions by normal numbers of variance 1/P.

    Squared distances and inner products keep their expectation; that of a pair has a relative
    standard deviation of :math:`\sqrt{2/P}` (Johnson & Lindenstrauss 1984), and what is averaged
    over many pairs far less. Ranks and spectra are those of the P dimensions.
    """

    dim: int  # P
    seed: int = 0

    def matrix(self, source_dim: int) -> Float[Tensor, "D P"]:
        """Return the matrix; the same for the same seed and dimensions, on any machine."""
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(source_dim, self.dim, generator=generator, dtype=torch.float64)
        scaled: Tensor = matrix / self.dim**0.5
        return scaled.float()


Precision = Literal["fp32", "bf16"]  # bf16: the forward pass under autocast
Progress = Callable[[int, int], None]  # called with the number of blocks that are done, and of all

BATCH_TOKENS = 8192  # tokens of a forward pass; memory only, but for its rounding


class Part(NamedTuple):
    """Embeddings and labels of the positions of some consecutive blocks."""

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
        split: Blocks of tokens.
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
        """Number of groups of a state."""
        return 1 if self.groups is None else len(self.groups.bounds) - 1

    @property
    def n_classes(self) -> int:
        """Number of ids that may be labels; a tokenizer may have more than the model has rows."""
        return min(self.split.vocab_size, len(self.model.classifier))

    @cached_property
    def n_rows(self) -> int:
        """Number of classes that occur as labels, or of pairs of a group and a class that do."""
        reader = LabelledBlocks(self.split, self.reading, self.groups, self.quota)
        counts = reader.label_counts() if self.groups is None else reader.label_counts_by_group()
        return int((counts > 0).sum())

    @property
    def batch_blocks(self) -> int:
        """Number of blocks of a batch; batches begin at multiples of it."""
        return max(1, self.batch_tokens // self.split.block)

    def dims(self, layers: Sequence[int]) -> dict[int, int]:
        """Return the length of the vectors that each layer gives, projected or not."""
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
        """Yield the positions of the blocks in `spans`, in order.

        Batches begin at the same blocks whatever the spans are, so that a resumed pass is the
        same pass.
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
                del found, embeddings, x  # or two batches of all layers would live at once
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
        """Name the place in the split of an embedding that is not finite; rows begin at start."""
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
    """Accumulate the blocks of `spans` in the moments of each layer; skip those seen already.

    Args:
        stream: Where the embeddings come from.
        states: By layer; each may have seen other blocks.
        also: Streams with other labels of the same model and split, and their states: there is
            one forward pass for all.
        spans: Blocks to accumulate; all by default.
        progress: Called after each batch.
        after: Called after each batch, when the states are whole.
    """
    wanted = [(0, stream.split.n_blocks)] if spans is None else spans
    takers = [(stream, states), *also]
    every = [state for _, layers in takers for state in layers.values()]
    left = sorted({gap for state in every for gap in _gaps(state, wanted)})
    positions = stream.split.block - 1
    for state in every:
        state.ledger.source = state.ledger.source or stream.split.fingerprint
    for embedded in stream.parts(list(states), _union(left), progress):
        for labelled, layers in takers:
            part = embedded if labelled is stream else labelled.relabelled(embedded)
            for layer, state in layers.items():
                for first, end in _gaps(state, [(part.first, part.end)]):
                    here = slice((first - part.first) * positions, (end - part.first) * positions)
                    groups = None if part.groups is None else part.groups[here]
                    with stream.naming(part, layer, here.start):
                        state.update(part.embeddings[layer][here], part.labels[here], groups)
                    state.ledger.add(first, end)
        del embedded, part  # `stream.parts` makes the next ones while these names would hold them
        if after is not None:
            after()


def class_moments(
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
    """Compute the moments of the embeddings by next token, in one pass.

    Args:
        model: Any language model; it stays on its device.
        split: Usually the training split.
        groups: Groups of documents that are kept apart; intervals are made of them.
        reading: Another label than the next token, or positions to leave out.
        scatter: Also keep the pooled and the class-balanced within-class scatter; 4 D^2 more
            operations per token.
        dimensions: Also keep the moments of each dimension.
        precision: Of the forward pass; the state is float64 in any case.
        batch_tokens: Tokens held at once; memory only.
        device: Where the state lives, 8 (D + 4) bytes per class that occurs in a group; the
            model's own by default.
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
    """Return empty moments for each layer of a stream."""
    counts = None
    if scatter:
        reader = LabelledBlocks(stream.split, stream.reading, quota=stream.quota)
        counts = reader.label_counts()[: stream.n_classes]
    states = {
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
    reducer = Reducer()
    for state in states.values():
        state.reducer = reducer
        state.rows.reserve(stream.n_rows)
    return states


def layer_name(layer: int) -> str:
    """Return the name of a layer on the command line."""
    return "prenorm" if layer == PRENORM else str(layer)


def _batches(span: Span, step: int) -> Iterator[Span]:
    """Split a span into batches that begin at multiples of `step`."""
    first, end = span
    while first < end:
        stop = min((first // step + 1) * step, end)
        yield first, stop
        first = stop


def _gaps(state: ClassMoments, wanted: Sequence[Span]) -> list[Span]:
    """Return the wanted blocks that a state has not seen."""
    last = max((end for _, end in wanted), default=0)
    return [
        (max(a, first), min(b, end))
        for a, b in state.ledger.missing(last)
        for first, end in wanted
        if max(a, first) < min(b, end)
    ]


def _union(spans: Sequence[Span]) -> list[Span]:
    """Join overlapping spans, which are in increasing order."""
    joined: list[Span] = []
    for first, end in spans:
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((first, end))
    return joined
