"""From a model and tokens to a results file: a pass over each split, then all measures."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tightframe.collapse import states
from tightframe.collapse.asked import Asked, settle, settle_positions
from tightframe.collapse.checks import check_numbers, share_of
from tightframe.collapse.rows import (
    header_of,
    least_count,
    losses,
    published,
    row_of,
    rows_of_layer,
)
from tightframe.collapse.shared import SharedClasses
from tightframe.collapse.subject import Model, Subject, Text
from tightframe.corpus.tokens import SPLITS, TokenShards
from tightframe.errors import UserError
from tightframe.files import exclusive, fingerprint
from tightframe.lm.hardware import prepared
from tightframe.moments import stream
from tightframe.moments.distributed import World, join_world, leave_world, wait
from tightframe.moments.reading import Labels, Reader
from tightframe.moments.state import ClassMoments
from tightframe.results import Header, Row, read_rows, write_rows

Progress = Callable[[str, float | None, int], None]
"""Called as work goes on: the stage, the share of it that is done (None where unknown), and the
tokens gone through so far."""

Key = tuple[int, str, str, int]  # layer, subset, metric, minimum count


@dataclasses.dataclass(frozen=True)
class How:
    """What the work takes and says, and what changes no result; see `measure_run`."""

    world: World
    keep_states: bool
    batch_tokens: int
    progress: Progress | None
    say: Callable[[str], None] | None
    ood: TokenShards | None = None
    shared: SharedClasses | None = None

    def stage(self, name: str, shards: TokenShards) -> stream.Progress | None:
        """Where a pass reports to."""
        if (progress := self.progress) is None:
            return None
        return lambda done, total: progress(name, done / total, done * shards.block)


def measure_run(
    model: str | Path | Model,
    tokens: TokenShards | Text | str | Path | None = None,
    *,
    step: int | None = None,
    layers: str = "last",
    labels: Labels = "next",
    min_count: int | None = None,
    measures: Sequence[str] | None = None,
    groups: int | None = None,
    by_frequency: bool = False,
    skip_positions: int | None = None,
    skip_special: bool | None = None,
    project: int | None = None,
    precision: stream.Precision = "fp32",
    random_weights: int | None = None,
    ood: TokenShards | str | Path | None = None,
    compat: Sequence[str] = (),
    shared_with: TokenShards | str | Path | None = None,
    matched: bool = False,
    trust_remote_code: bool = False,
    keep_states: bool = True,
    batch_tokens: int = stream.BATCH_TOKENS,
    out: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Measure the geometry of a model: one pass over training tokens, one over validation.

    What was measured before, of this checkpoint on these tokens, is not measured again; a pass
    that was cut short goes on where it was. Under `torchrun` the processes share the passes.

    Args:
        model: A run directory, a checkpoint or Hugging Face folder, a hub name, or a model.
        tokens: Token shards, or their folder; or a text, which the model's own tokenizer makes
            into tokens. A run knows its own.
        step: The checkpoint of a run; the last by default.
        layers: "last" (what the classifier multiplies, after the final norm), "all", or numbers
            and names separated by commas: 0 is the input embedding, i the stream after block i,
            "prenorm" the stream before the final norm. The last is always measured.
        labels: What a class is: the "next" token, the "current" one, or next tokens "shuffled".
        min_count: Embeddings that a class needs to take part, and to be a nearest class mean. By
            default 20, or as many more as intervals need; 1 where that leaves too little.
        measures: Names from `MEASURES`; "all" is all of them, None is `DEFAULT`.
        groups: Groups of documents that are kept apart, for intervals; 1 is none. By default 20,
            or as many as the text and the memory allow.
        by_frequency: Every measure also over the classes of each frequency stratum.
        skip_positions: First positions of each block that are left out. By default 1, since it is
            an attention sink in many models; 0 of a run, and with `compat`.
        skip_special: Leave out positions whose input is a special token, such as the end of a
            text, which are sinks, too. By default they are left out, but not of a run, and not
            with `compat`.
        project: Dimensions to which every layer but the last is projected at random.
        precision: Of the forward passes. For "fp32" weights that are stored in 16 bits are widened
            (twice their memory), but those of a model that is given as such; "bf16" takes weights
            as they are.
        random_weights: Measure a twin instead: the same architecture with weights drawn anew
            from this seed. Its results go to the folder `random-SEED` beside the model's.
        ood: Tokens of another kind of text, whose training split NC5 compares with.
        compat: "lc-2024-05", "lc-2024-10": also the columns of these published tables, as rows
            `compat05.<column>` and `compat10.<column>`.
        shared_with: The same text in the tokens of another model: only classes that are one
            token in both take part, and rows have them as their subset.
        matched: Of these, take as many training positions of each as both have.
        trust_remote_code: Run Python code that comes with a Hugging Face model.
        keep_states: Leave the class moments on disk: further measures need no pass then.
        batch_tokens: Tokens of a forward pass; memory, and the rounding of the forward pass.
        out: Folder that takes `results/` and `states/`; a run has its own.
        progress: Called as the passes go on.
        say: Takes lines on what is going on.

    Returns:
        The results file, `results/step-N-<hash>.jsonl`; the hash is of tokens and settings. If
        nothing was left to measure, an earlier one.
    """
    check_numbers(batch_tokens=batch_tokens)
    others, twin = (
        TokenShards.open(given) if isinstance(given, str | Path) else given
        for given in (ood, shared_with)
    )
    if matched and twin is None:
        raise UserError("matched: say with shared_with to which tokens")
    asked = Asked.of(
        measures,
        layers=layers,
        labels=labels,
        min_count=1 if min_count is None else min_count,
        groups=1 if groups is None else groups,
        by_frequency=by_frequency,
        skip_positions=skip_positions or 0,
        project=project,
        precision=precision,
        ood=None if others is None else others.fingerprint,
        compat=tuple(compat),
        shared_with=None if twin is None else twin.fingerprint,
        matched=matched,
    )
    subject = Subject.of(
        model,
        step,
        out,
        random_weights=random_weights,
        trust_remote_code=trust_remote_code,
        precision=precision,
    )
    shards = subject.tokens(tokens, progress)
    if say is not None and isinstance(tokens, Text):
        for note in shards.notes:
            say(note)
    asked = settle_positions(
        asked, subject, shards, skip_positions=skip_positions, skip_special=skip_special
    )
    shared = None
    if twin is not None:
        shared = SharedClasses.of(shards, twin, asked.reading, matched=matched)
    asked, fewer = settle(
        asked, shards, groups=groups, min_count=min_count, shared=shared, say=say or _silent
    )
    _check_classes(shards, asked)
    world = join_world()
    try:
        how = How(world, keep_states, batch_tokens, progress, say, others, shared)
        return _measured(subject, shards, asked, how, fewer if world.size == 1 else ())
    finally:
        leave_world()


def measure_part(
    model: str | Path | Model,
    tokens: TokenShards | Text | str | Path | None,
    part: str,
    *,
    step: int | None = None,
    random_weights: int | None = None,
    trust_remote_code: bool = False,
    batch_tokens: int = stream.BATCH_TOKENS,
    out: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    **asked: Any,
) -> list[Path]:
    """One share of the training pass, "i/n": a state file a layer, for `merge_states`.

    All other arguments are those of `measure_run`, as the whole will be asked for.
    """
    i, n = share_of(part)
    check_numbers(batch_tokens=batch_tokens)
    free = {name: asked.pop(name, None) for name in ("groups", "min_count")}
    positions = {name: asked.pop(name, None) for name in ("skip_positions", "skip_special")}
    given = {name: value for name, value in free.items() if value is not None}
    whole = Asked.of(asked.pop("measures", None), **asked, **given)
    subject = Subject.of(
        model,
        step,
        out,
        random_weights=random_weights,
        trust_remote_code=trust_remote_code,
        precision=whole.precision,
    )
    shards = subject.tokens(tokens, progress)
    whole = settle_positions(whole, subject, shards, **positions)
    whole, _ = settle(whole, shards, **free, shared=None, say=say or _silent)
    _check_classes(shards, whole)
    with prepared(subject.threads):
        wanted = whole.a_pass(subject.model, batch_tokens)
        how = How(World(i - 1, n), True, batch_tokens, progress, say)
        shown = how.stage(f"training split, part {i} of {n}", shards)
        return states.part(subject, shards, wanted, how.world, progress=shown, say=say)


def _measured(
    subject: Subject, shards: TokenShards, asked: Asked, how: How, fewer: tuple[int, ...]
) -> Path:
    """Measure what is not measured yet; `fewer` groups may be taken where memory is short."""
    digest = fingerprint([subject.name, subject.weights, shards.fingerprint, asked.settings])
    path = subject.folder / "results" / f"step-{subject.step}-{digest}.jsonl"
    if path.exists():
        return path
    earlier = _earlier(subject, shards, asked)
    if (found := _nothing_left(earlier, asked)) is not None:
        return found
    wanted = asked.a_pass(subject.model, how.batch_tokens, how.shared)
    if fewer and not states.fit(subject, shards, wanted):
        if how.say is not None:
            how.say(f"{fewer[0]} groups instead of {asked.groups}, to take half of what is free")
        asked = dataclasses.replace(asked, groups=fewer[0])
        return _measured(subject, shards, asked, how, fewer[1:])
    with contextlib.ExitStack() as stack:
        if how.world.rank == 0:
            stack.enter_context(exclusive(subject.folder / "states", what="model's states"))
        stack.enter_context(prepared(subject.threads))
        header, rows = _measure(subject, shards, asked, how)
    new = [row for row in rows if _key(row) not in earlier]
    if how.world.rank == 0 and new:
        write_rows(path, header, new)
    wait(how.world)
    return path if new or not rows else earlier[_key(rows[0])]


def _measure(
    subject: Subject, shards: TokenShards, asked: Asked, how: How
) -> tuple[Header, list[Row]]:
    """The two passes and all that is made of them."""
    model, wanted = subject.model, asked.a_pass(subject.model, how.batch_tokens, how.shared)
    moments = states.moments(
        subject,
        shards,
        wanted,
        world=how.world,
        keep=how.keep_states,
        progress=how.stage("training split", shards),
        say=how.say,
    )
    decisions = states.decisions(
        subject,
        shards,
        wanted,
        moments,
        min_count=asked.min_count,
        extras=asked.extras,
        world=how.world,
        keep=how.keep_states,
        progress=how.stage("validation split", shards),
    )
    last = model.depth
    header = header_of(subject, shards, asked, moments[last])
    header.measurement["weights"] = subject.weights  # the name may be another model's, too
    header.measurement["sinks"] = _sinks(moments)
    if how.world.rank > 0:
        return header, []
    rows = []
    others = _ood(model, asked, wanted, how)
    for place, (layer, state) in enumerate(moments.items()):
        if how.progress is not None:
            how.progress(f"measures of layer {stream.layer_name(layer)}", place / len(moments), 0)
        ood = others.get(layer)
        rows += rows_of_layer(header, asked, wanted, model, layer, state, decisions[layer], ood)
    rows += published(header, asked, model, moments[last], decisions[last])
    if asked.labels == "next":
        subset = "all" if how.shared is None else how.shared.subset
        found = losses(decisions[last], shards, whole=how.shared is None)
        rows += [row_of(header, asked, last, "val", subset, 1, *each) for each in found]
    if asked.groups > 1:
        units = {split: shards.split(split).groups(asked.groups).unit for split in SPLITS}
        rows = [
            dataclasses.replace(row, resampled=units[row.split]) if row.resampled else row
            for row in rows
        ]
    return header, rows


def _sinks(moments: Mapping[int, ClassMoments]) -> str | None:
    """Return a sentence on layers where a few positions outweigh all others, if there are any."""
    found = {layer: sinks for layer, state in moments.items() if (sinks := state.norms.sinks())}
    if not found:
        return None
    layers = ", ".join(map(stream.layer_name, found))
    far = max(found.values(), key=lambda sinks: sinks.times)
    return (
        f"attention sinks: at layer{'s' * (len(found) > 1)} {layers} a few positions (up to "
        f"{max(sinks.share for sinks in found.values()):.2%}) have norms up to {far.times:.0f} "
        "times the median and outweigh all others, so that measures there are of them; "
        "--skip-positions and --skip-special leave such positions out"
    )


def _ood(model: Model, asked: Asked, wanted: states.Pass, how: How) -> dict[int, ClassMoments]:
    """Moments of another kind of text, by layer; every process makes them, they need be few."""
    if how.ood is None:
        return {}
    text = stream.Stream(
        model,
        how.ood.split("train"),
        asked.reading,
        projection=wanted.projection,
        precision=asked.precision,
        batch_tokens=how.batch_tokens,
    )
    moments = stream.new_moments(text, wanted.layers)
    stream.collect(text, moments, progress=how.stage("out-of-distribution text", how.ood))
    return moments


def _check_classes(shards: TokenShards, asked: Asked) -> None:
    """Refuse tokens with too few classes for pairs, or documents for groups, before a pass."""
    for split in SPLITS:
        shards.split(split).groups(asked.groups)
    reader = Reader(shards.split("train"), asked.reading)
    most = reader.label_counts().sort(descending=True).values[:2]
    if len(most) < 2 or int(most[-1]) < asked.min_count:
        raise UserError(
            f"min_count is {asked.min_count}; expected 1 to {int(most[-1]):,}, so that at least "
            f"two classes of {shards.path} take part"
        )


def _earlier(subject: Subject, shards: TokenShards, asked: Asked) -> dict[Key, Path]:
    """What other files of this checkpoint and these tokens hold, measured in the same way."""
    found: dict[Key, Path] = {}
    for path in sorted((subject.folder / "results").glob(f"step-{subject.step}-*.jsonl")):
        header, rows = read_rows(path)
        same = header.run == subject.name
        if same and header.measurement.get("weights", subject.weights) != subject.weights:
            raise UserError(
                f"{path}: is of other weights that go by the name {subject.name} at step "
                f"{subject.step}; say with `out` where this model's results should go, or rename "
                "its folder, so that one report can show both"
            )
        same &= header.tokens.get("fingerprint") == shards.fingerprint
        other = {name for name, value in asked.way.items() if header.measurement.get(name) != value}
        if same and not other - {"project"}:
            # The last layer is never projected, so its rows are the same either way.
            depth = subject.model.depth
            found |= {_key(row): path for row in rows if not other or row.layer == depth}
    return found


def _nothing_left(earlier: Mapping[Key, Path], asked: Asked) -> Path | None:
    """The file that holds the first measure, where every one was measured at the last layer."""
    if asked.layers != "last" or asked.by_frequency or asked.compat:
        return None
    held = {
        (metric, least): path
        for (_, subset, metric, least), path in earlier.items()
        if subset == "all"
    }
    wanted = [(one.name, least_count(one, asked.min_count)) for one in asked.of_layer(last=True)]
    return held[wanted[0]] if all(each in held for each in wanted) else None


def _silent(line: str) -> None:
    """Say nothing."""


def _key(row: Row) -> Key:
    return row.layer, row.subset, row.metric, row.min_count
