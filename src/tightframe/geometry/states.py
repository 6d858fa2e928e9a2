"""States on disk, one file per layer: found, resumed where a pass was cut short, made or merged.

A file's ledger says how much of the split it has seen. It is written as the pass goes on, so the
same command resumes from the last writing; on one process the finished file has the same bits,
however often it was cut short. The share of one of several processes is a file of its own, beside
the whole one, until all are merged.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.files import fingerprint
from tightframe.formats import kind_of
from tightframe.geometry.checks import check_pieces
from tightframe.geometry.decisions import DecisionPass, Decisions, accumulate_decisions
from tightframe.geometry.distributed import merge_across_processes, own_share
from tightframe.geometry.ledger import Ledger, Span
from tightframe.geometry.moments import FORMAT as STATE_FORMAT
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.nearest import Extra
from tightframe.geometry.passes import PassConfig, check_memory
from tightframe.geometry.stream import Progress, Stream, accumulate_moments, layer_name, new_moments
from tightframe.geometry.subject import Subject
from tightframe.lm.hardware import ALONE, ProcessGroup, barrier
from tightframe.progress import tell

SAVE_EVERY = 60.0  # seconds of a pass between two writings; more where a writing takes long


def moments(
    subject: Subject,
    shards: TokenShards,
    wanted: PassConfig,
    *,
    also: Sequence[PassConfig] = (),
    world: ProcessGroup = ALONE,
    keep: bool = True,
    say: Callable[[str], None] | None = None,
) -> dict[int, ClassMoments]:
    """Class moments of the training split, by layer.

    Args:
        subject: The model, and the folder that takes `states/`.
        shards: The tokens.
        wanted: What is kept.
        also: The same of other labels. What is missing of them comes from the same forward pass, if
            one is made by one process, and is left on disk.
        world: The processes that share the work; all of them end with the same states.
        keep: Leave the finished states on disk; those of a pass cut short stay in any case.
        say: Takes a line on memory, where it is much, before the pass starts.
    """
    split = shards.split("train")
    stream, provenance, paths, earlier = _known(subject, split, wanted)
    left = _missing(earlier, split.n_blocks)
    if left:
        beside = [(other, *_known(subject, split, other)) for other in also if world.size == 1]
        check_memory([(stream, wanted), *((its, other) for other, its, *_ in beside)], say)
        made = _new(stream, wanted, provenance)
        if world.size == 1:
            states = {layer: earlier[layer] or made[layer] for layer in made}
            files = {paths[layer]: states[layer] for layer in _unfinished(earlier, split)}
            others = []
            for other, its, facts, places, before in beside:
                new = _new(its, other, facts)
                others.append((its, {layer: before[layer] or new[layer] for layer in new}))
                its_own = others[-1][1]
                files |= {places[layer]: its_own[layer] for layer in _unfinished(before, split)}
            saver = _Saver(files)
            accumulate_moments(
                stream, states, also=others, progress=stage("training split", split), after=saver
            )
            if keep or also:
                saver.write()
        else:
            states = _shared(stream, made, earlier, paths, left, world)
    else:
        states = {layer: state for layer, state in earlier.items() if state is not None}
    assert not _missing(states, split.n_blocks), "the pass missed some of the blocks"
    if world.rank == 0:
        for layer, path in paths.items():
            if not keep:
                path.unlink(missing_ok=True)
            elif left and world.size > 1:
                states[layer].save(path)
            for piece in _pieces(path):
                piece.unlink()
    barrier(world)
    return states


def _known(
    subject: Subject, split: Split, wanted: PassConfig
) -> tuple[Stream, dict[int, dict[str, Any]], dict[int, Path], dict[int, ClassMoments | None]]:
    """Return the stream of a pass and, by layer, what a state is of, its file and what it holds."""
    stream = wanted.stream(subject, split)
    provenance = {layer: wanted.provenance(subject, split, layer) for layer in wanted.layers}
    paths = {layer: _path(subject, facts) for layer, facts in provenance.items()}
    earlier = {
        layer: _earlier(path, provenance[layer], stream) or _richer(path, provenance[layer], stream)
        for layer, path in paths.items()
    }
    return stream, provenance, paths, earlier


def part(
    subject: Subject,
    shards: TokenShards,
    wanted: PassConfig,
    world: ProcessGroup,
    *,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the share of one process, made anywhere: files for `tightframe merge`."""
    split = shards.split("train")
    stream = wanted.stream(subject, split)
    provenance = {layer: wanted.provenance(subject, split, layer) for layer in wanted.layers}
    paths = {layer: _piece(_path(subject, facts), world) for layer, facts in provenance.items()}
    check_memory([(stream, wanted)], say)
    made = _new(stream, wanted, provenance)
    states = {
        layer: _load(path, provenance[layer], stream) or made[layer]
        for layer, path in paths.items()
    }
    spans = own_share([(0, split.n_blocks)], world, multiple=stream.batch_blocks)
    saver = _Saver({path: states[layer] for layer, path in paths.items()})
    shown = stage(f"training split, part {world.rank + 1} of {world.size}", split)
    accumulate_moments(stream, states, spans=spans, progress=shown, after=saver)
    saver.write()
    return list(paths.values())


def decisions(
    subject: Subject,
    shards: TokenShards,
    wanted: PassConfig,
    means: Mapping[int, ClassMoments],
    *,
    also: Sequence[tuple[PassConfig, Mapping[int, ClassMoments], int]] = (),
    min_count: int,
    extras: Collection[Extra] = (),
    world: ProcessGroup = ALONE,
    keep: bool = True,
) -> dict[int, Decisions]:
    """Return the decisions on the validation split, by layer; arguments as in `moments`.

    In `also` are the moments of other labels and their minimum counts beside what was kept.
    """
    split = shards.split("val")
    every = [
        (each, moments, least, _decided(subject, shards, each, least, extras))
        for each, moments, least in ((wanted, means, min_count), *also)
    ]
    paths = {layer: _path(subject, facts, "-val") for layer, facts in every[0][3].items()}
    if all(path.exists() for path in paths.values()):
        found = {layer: Decisions.load(path) for layer, path in paths.items()}
        for path in paths.values() if not keep and world.rank == 0 else ():
            path.unlink()
        return found
    tallies = [
        DecisionPass(each.stream(subject, split), moments, min_count=least, extras=extras)
        for each, moments, least, _ in every
    ]
    spans = own_share([(0, split.n_blocks)], world, multiple=tallies[0].stream.batch_blocks)
    accumulate_decisions(tallies, spans=spans, progress=stage("validation split", split))
    for one, (*_, provenance) in zip(tallies, every, strict=True):
        for layer, state in one.decisions.items():
            one.decisions[layer] = total = merge_across_processes(state, world)
            total.provenance = provenance[layer]
            if (keep or one is not tallies[0]) and world.rank == 0:
                total.save(_path(subject, provenance[layer], "-val"))
    barrier(world)
    return tallies[0].decisions


def _decided(
    subject: Subject,
    shards: TokenShards,
    wanted: PassConfig,
    min_count: int,
    extras: Collection[Extra],
) -> dict[int, dict[str, Any]]:
    """Return what the decisions are of, by layer."""
    # What else was kept of the embeddings changes no decision.
    plain = dataclasses.replace(wanted, scatter=False, dimensions=False)
    return {
        layer: plain.provenance(subject, shards.split("val"), layer)
        | {"means": plain.provenance(subject, shards.split("train"), layer)}
        | {"min_count": min_count, "ranks": "ranks" in extras}
        | {extra: True for extra in extras if extra != "ranks"}
        for layer in wanted.layers
    }


def _shared(
    stream: Stream,
    made: dict[int, ClassMoments],
    earlier: Mapping[int, ClassMoments | None],
    paths: Mapping[int, Path],
    left: list[Span],
    world: ProcessGroup,
) -> dict[int, ClassMoments]:
    """Return what is left of a pass by several processes, and what existed before."""
    barrier(world)  # everybody has read what there is
    if world.rank == 0:
        _tidy(earlier, paths)
    barrier(world)
    pieces = {_piece(path, world): made[layer] for layer, path in paths.items()}
    spans = own_share(left, world, multiple=stream.batch_blocks)
    shown = stage("training split", stream.split)
    accumulate_moments(stream, made, spans=spans, progress=shown, after=_Saver(pieces))
    states = {layer: merge_across_processes(state, world) for layer, state in made.items()}
    for layer, state in states.items():
        if (before := earlier[layer]) is not None:
            state.merge(before)
    return states


def stage(name: str, split: Split) -> Progress:
    """Return what shows how far a pass has come."""
    return lambda done, total: tell(name, done / total, done * split.block)


class _Saver:
    """Called after each batch: writes all states to their files when it is time."""

    def __init__(self, states: Mapping[Path, ClassMoments]) -> None:
        self._states = states
        self._due = time.monotonic() + SAVE_EVERY

    def __call__(self) -> None:
        if (start := time.monotonic()) >= self._due:
            self.write()
            end = time.monotonic()
            self._due = end + max(SAVE_EVERY, 20 * (end - start))  # at most 5 % of the time

    def write(self) -> None:
        for path, state in self._states.items():
            state.save(path)


def _path(subject: Subject, provenance: dict[str, Any], split: str = "") -> Path:
    stem = f"step-{subject.step}-layer-{layer_name(provenance['layer'])}{split}"
    return subject.states / f"{stem}-{fingerprint(provenance)}.safetensors"


def _piece(path: Path, world: ProcessGroup) -> Path:
    return path.with_name(f"{path.stem}.part-{world.rank + 1}-of-{world.size}.safetensors")


def _pieces(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.part-*-of-*.safetensors"))


def _new(
    stream: Stream, wanted: PassConfig, provenance: Mapping[int, dict[str, Any]]
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
    """Return a finished state of the same pass that holds more than requested, or None."""
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
    """Load the state of a file, or None without one; refuse a state of something else."""
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


def _unfinished(states: Mapping[int, ClassMoments | None], split: Split) -> list[int]:
    return [layer for layer, state in states.items() if _missing({layer: state}, split.n_blocks)]


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


State = ClassMoments | Decisions
KINDS: dict[str, type[State]] = {"ClassMoments": ClassMoments, "Decisions": Decisions}


def merge_states(paths: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, State]:
    """Merge state files; those of another model, layer or text, or that overlap, are refused.

    Args:
        paths: The pieces, at least one.
        out: The new file. By default the name that the whole state would have, beside the first
            piece: `tightframe measure` finds it there, and goes on if blocks are missing.
    """
    files, out, kind = check_pieces(paths, out)
    total: Any = KINDS[kind].load(files[0])
    for file in files[1:]:
        try:
            total.merge(type(total).load(file))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except ValueError as error:  # another shape, or more than there can be
            raise UserError(f"{file}: {error}; it is of another model or text") from None
    total.save(out)
    return out, total
