"""States on disk, a file a layer: found, gone on with where a pass was cut short, or made.

A file's ledger says how much of the split it has seen. It is written as the pass goes on, so the
same command goes on from the last writing; on one process the finished file has the same bits,
however often it was cut short. The share of one of several processes is a file of its own, beside
the whole one, until all are merged.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tightframe.collapse.shared import SharedClasses
from tightframe.collapse.subject import Subject
from tightframe.corpus.tokens import Split, TokenShards
from tightframe.errors import UserError
from tightframe.files import fingerprint, free_disk
from tightframe.formats import kind_of
from tightframe.lm.hardware import free_memory
from tightframe.moments.distributed import World, share, sum_states, wait
from tightframe.moments.ledger import Ledger, Span
from tightframe.moments.nearest import Extra
from tightframe.moments.projection import Projection
from tightframe.moments.reading import NEXT, Reading
from tightframe.moments.state import FORMAT as STATE_FORMAT
from tightframe.moments.state import ClassMoments, Decisions
from tightframe.moments.stream import (
    BATCH_TOKENS,
    Precision,
    Progress,
    Stream,
    collect,
    layer_name,
    new_moments,
    tally,
)

SAVE_EVERY = 60.0  # seconds of a pass between two writings; more where a writing takes long
LARGE = 2**28  # bytes of states that are worth a line before the pass

ALONE = World()


@dataclasses.dataclass(frozen=True)
class Pass:
    """What is kept of a model's embeddings; with model and tokens, it names a state."""

    layers: tuple[int, ...]  # the model's last is one of them
    reading: Reading = NEXT
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


def moments(
    subject: Subject,
    shards: TokenShards,
    wanted: Pass,
    *,
    world: World = ALONE,
    keep: bool = True,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[int, ClassMoments]:
    """Class moments of the training split, by layer.

    Args:
        subject: The model, and the folder that takes `states/`.
        shards: The tokens.
        wanted: What is kept.
        world: The processes that share the work; all of them end with the same states.
        keep: Leave the finished states on disk; those of a pass cut short stay in any case.
        progress: Called as the pass goes on.
        say: Takes a line on memory, where it is much, before the pass starts.
    """
    split = shards.split("train")
    stream = wanted.stream(subject, split)
    provenance = {layer: wanted.provenance(subject, split, layer) for layer in wanted.layers}
    paths = {layer: _path(subject, facts) for layer, facts in provenance.items()}
    earlier = {
        layer: _earlier(path, provenance[layer], stream) or _richer(path, provenance[layer], stream)
        for layer, path in paths.items()
    }
    left = _missing(earlier, split.n_blocks)
    if left:
        _check_memory(stream, wanted, say)
        made = _new(stream, wanted, provenance)
        if world.size == 1:
            states = {layer: earlier[layer] or made[layer] for layer in made}
            collect(stream, states, progress=progress, after=_Saver(states, paths))
        else:
            states = _shared(stream, made, earlier, paths, left, world, progress)
    else:
        states = {layer: state for layer, state in earlier.items() if state is not None}
    assert not _missing(states, split.n_blocks), "the pass missed some of the blocks"
    if world.rank == 0:
        for layer, path in paths.items():
            if keep and left:
                states[layer].save(path)
            elif not keep:
                path.unlink(missing_ok=True)
            for piece in _pieces(path):
                piece.unlink()
    wait(world)
    return states


def part(
    subject: Subject,
    shards: TokenShards,
    wanted: Pass,
    world: World,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """The share of one process, made anywhere: files for `tightframe merge`. Arguments as above."""
    split = shards.split("train")
    stream = wanted.stream(subject, split)
    provenance = {layer: wanted.provenance(subject, split, layer) for layer in wanted.layers}
    paths = {layer: _piece(_path(subject, facts), world) for layer, facts in provenance.items()}
    _check_memory(stream, wanted, say)
    made = _new(stream, wanted, provenance)
    states = {
        layer: _load(path, provenance[layer], stream) or made[layer]
        for layer, path in paths.items()
    }
    spans = share([(0, split.n_blocks)], world, multiple=stream.batch_blocks)
    saver = _Saver(states, paths)
    collect(stream, states, spans=spans, progress=progress, after=saver)
    saver.write()
    return list(paths.values())


def decisions(
    subject: Subject,
    shards: TokenShards,
    wanted: Pass,
    means: Mapping[int, ClassMoments],
    *,
    min_count: int,
    extras: Collection[Extra] = (),
    world: World = ALONE,
    keep: bool = True,
    progress: Progress | None = None,
) -> dict[int, Decisions]:
    """What is decided on the validation split, by layer; arguments as in `moments`."""
    split, train = shards.split("val"), shards.split("train")
    # What else was kept of the embeddings changes no decision.
    wanted = dataclasses.replace(wanted, scatter=False, dimensions=False)
    provenance = {
        layer: wanted.provenance(subject, split, layer)
        | {"means": wanted.provenance(subject, train, layer)}
        | {"min_count": min_count, "ranks": "ranks" in extras}
        | {extra: True for extra in extras if extra != "ranks"}
        for layer in means
    }
    paths = {layer: _path(subject, facts, "-val") for layer, facts in provenance.items()}
    if all(path.exists() for path in paths.values()):
        return {layer: Decisions.load(path) for layer, path in paths.items()}
    stream = wanted.stream(subject, split)
    found = tally(
        stream,
        means,
        min_count=min_count,
        extras=extras,
        spans=share([(0, split.n_blocks)], world, multiple=stream.batch_blocks),
        progress=progress,
    )
    total = {layer: sum_states(state, world) for layer, state in found.items()}
    for layer, state in total.items():
        state.provenance = provenance[layer]
        if keep and world.rank == 0:
            state.save(paths[layer])
    wait(world)
    return total


def _shared(
    stream: Stream,
    made: dict[int, ClassMoments],
    earlier: Mapping[int, ClassMoments | None],
    paths: Mapping[int, Path],
    left: list[Span],
    world: World,
    progress: Progress | None,
) -> dict[int, ClassMoments]:
    """What is left of a pass, by several processes; and what there was before."""
    wait(world)  # everybody has read what there is
    if world.rank == 0:
        _tidy(earlier, paths)
    wait(world)
    pieces = {layer: _piece(path, world) for layer, path in paths.items()}
    spans = share(left, world, multiple=stream.batch_blocks)
    collect(stream, made, spans=spans, progress=progress, after=_Saver(made, pieces))
    states = {layer: sum_states(state, world) for layer, state in made.items()}
    for layer, state in states.items():
        if (before := earlier[layer]) is not None:
            state.merge(before)
    return states


class _Saver:
    """Called after each batch: writes all states when it is time."""

    def __init__(self, states: Mapping[int, ClassMoments], paths: Mapping[int, Path]) -> None:
        self._states, self._paths = states, paths
        self._due = time.monotonic() + SAVE_EVERY

    def __call__(self) -> None:
        if (start := time.monotonic()) >= self._due:
            self.write()
            end = time.monotonic()
            self._due = end + max(SAVE_EVERY, 20 * (end - start))  # at most 5 % of the time

    def write(self) -> None:
        for layer, path in self._paths.items():
            self._states[layer].save(path)


def _path(subject: Subject, provenance: dict[str, Any], split: str = "") -> Path:
    stem = f"step-{subject.step}-layer-{layer_name(provenance['layer'])}{split}"
    return subject.folder / "states" / f"{stem}-{fingerprint(provenance)}.safetensors"


def _piece(path: Path, world: World) -> Path:
    return path.with_name(f"{path.stem}.part-{world.rank + 1}-of-{world.size}.safetensors")


def _pieces(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.part-*-of-*.safetensors"))


def _new(
    stream: Stream, wanted: Pass, provenance: Mapping[int, dict[str, Any]]
) -> dict[int, ClassMoments]:
    states = new_moments(
        stream, wanted.layers, scatter=wanted.scatter, dimensions=wanted.dimensions
    )
    for layer, state in states.items():
        state.provenance = provenance[layer]
    return states


def _earlier(path: Path, provenance: dict[str, Any], stream: Stream) -> ClassMoments | None:
    """All that earlier passes have left of a state: the file and its pieces, merged."""
    state: ClassMoments | None = None
    for file in (path, *_pieces(path)):
        if (found := _load(file, provenance, stream)) is None:
            continue
        if state is None:
            state = found
        elif not all(state.ledger.covers(*span) for span in found.ledger.spans):
            state.merge(found)  # not one of pieces that were merged already
    return state


def _richer(path: Path, provenance: dict[str, Any], stream: Stream) -> ClassMoments | None:
    """A finished state of the same pass that holds more than is asked for, if there is one."""
    extras = ("scatter", "dimensions")
    for file in sorted(path.parent.glob(f"{path.name.rpartition('-')[0]}-*.safetensors")):
        if ".part-" in file.name or kind_of(file) != STATE_FORMAT.kind:
            continue
        found = STATE_FORMAT.read_facts(file)[-1]
        rest = all(found.get(key) == provenance[key] for key in provenance.keys() - set(extras))
        if rest and all(found.get(key) or not provenance[key] for key in extras):
            state = ClassMoments.load(file, device=stream.model.classifier.device)
            if state.ledger.covers(0, stream.split.n_blocks):
                return state
    return None


def _load(path: Path, provenance: dict[str, Any], stream: Stream) -> ClassMoments | None:
    """The state of a file, None if there is none; one that is of something else is refused."""
    if not path.exists():
        return None
    state = ClassMoments.load(path, device=stream.model.classifier.device)
    for key, value in provenance.items():
        if (found := state.provenance.get(key)) != value:
            raise UserError(
                f"{path}: is of another {key} ({found!r}, expected {value!r}); "
                "remove it, or measure into another folder"
            )
    return state


def _tidy(states: Mapping[int, ClassMoments | None], paths: Mapping[int, Path]) -> None:
    """Make earlier pieces part of the file, before new ones of the same names are written."""
    for layer, path in paths.items():
        state, pieces = states[layer], _pieces(path)
        if state is not None and pieces:
            state.save(path)
            for piece in pieces:
                piece.unlink()


def _missing(states: Mapping[int, ClassMoments | None], n_blocks: int) -> list[Span]:
    """Blocks that some layer has not seen."""
    missing = Ledger()
    for state in states.values():
        gaps = [(0, n_blocks)] if state is None else state.ledger.missing(n_blocks)
        for first, end in gaps:
            for a, b in missing.missing(n_blocks):
                if max(a, first) < min(b, end):
                    missing.add(max(a, first), min(b, end))
    return missing.spans


def fit(subject: Subject, shards: TokenShards, wanted: Pass) -> bool:
    """Tell whether states of the training split take less than half of the memory and disk."""
    stream = wanted.stream(subject, shards.split("train"))
    needed = 2 * _bytes(stream, wanted)
    memory = free_memory(stream.model.classifier.device)
    return (memory is None or needed <= memory) and needed <= free_disk(subject.folder)


def _bytes(stream: Stream, wanted: Pass) -> int:
    n_classes, dims = stream.n_classes, stream.dims(wanted.layers).values()
    groups, scatter = wanted.groups, wanted.scatter
    return sum(ClassMoments.bytes(n_classes, dim, groups, scatter) for dim in dims)


def _check_memory(stream: Stream, wanted: Pass, say: Callable[[str], None] | None) -> None:
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
