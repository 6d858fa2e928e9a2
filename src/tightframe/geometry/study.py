"""From a model and tokens to a results file: a pass over each split, then all measures."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.errors import UserError
from tightframe.files import exclusive, fingerprint
from tightframe.geometry import states, stream
from tightframe.geometry.answers import earlier_rows, key_of, nothing_left
from tightframe.geometry.asked import Asked, settle, settle_positions
from tightframe.geometry.checks import check_numbers, share_of
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.distributed import (
    ProcessGroup,
    barrier,
    join_process_group,
    leave_process_group,
)
from tightframe.geometry.labels import LabelledBlocks, Labels
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.passes import Pass, fit
from tightframe.geometry.rows import (
    header_of,
    losses,
    published,
    row_of,
    rows_of_layer,
    sinks,
    with_documents,
)
from tightframe.geometry.shared import SharedClasses
from tightframe.geometry.subject import Model, Subject, Text
from tightframe.lm.hardware import prepared
from tightframe.results import Header, Row, write_rows

Progress = Callable[[str, float | None, int], None]
"""Called as work goes on: the stage, the share of it that is done (None where unknown), and the
tokens gone through so far."""


@dataclasses.dataclass(frozen=True)
class How:
    """What the work takes and says, and what changes no result; see `measure_run`."""

    world: ProcessGroup
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
    also: Sequence[Labels] = (),
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
        also: Other labels, which the same forward passes serve. Their rows lie in files of their
            own beside the returned one; `answers` finds them.
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
    shards = subject.tokens(tokens, progress, say)
    asked = settle_positions(
        asked, subject, shards, skip_positions=skip_positions, skip_special=skip_special
    )
    shared = None
    if twin is not None:
        shared = SharedClasses.of(shards, twin, asked.reading, matched=matched)
    asked, fewer = settle(
        asked, shards, groups=groups, min_count=min_count, shared=shared, say=say or _silent
    )
    every = [asked, *(dataclasses.replace(asked, labels=name, compat=()) for name in also)]
    for each in every:
        _check_classes(shards, each)
    world = join_process_group()
    try:
        how = How(world, keep_states, batch_tokens, progress, say, others, shared)
        return _measured(subject, shards, every, how, fewer if world.size == 1 else ())
    finally:
        leave_process_group()


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
    shards = subject.tokens(tokens, progress, say)
    whole = settle_positions(whole, subject, shards, **positions)
    whole, _ = settle(whole, shards, **free, shared=None, say=say or _silent)
    _check_classes(shards, whole)
    with prepared(subject.threads):
        wanted = whole.a_pass(subject.model, batch_tokens)
        how = How(ProcessGroup(i - 1, n), True, batch_tokens, progress, say)
        shown = how.stage(f"training split, part {i} of {n}", shards)
        return states.part(subject, shards, wanted, how.world, progress=shown, say=say)


def _measured(
    subject: Subject,
    shards: TokenShards,
    every: Sequence[Asked],
    how: How,
    fewer: tuple[int, ...],
) -> Path:
    """Measure what is not measured yet; `fewer` groups may be taken where memory is short.

    Args:
        every: What is asked for, by labels; the file of the first is returned.
    """
    paths = [_path(subject, shards, asked) for asked in every]
    earlier = [earlier_rows(subject, shards, asked) for asked in every]
    found = [
        path if path.exists() else nothing_left(before, asked)
        for path, before, asked in zip(paths, earlier, every, strict=True)
    ]
    left = [place for place, path in enumerate(found) if path is None]
    passes = [every[place].a_pass(subject.model, how.batch_tokens, how.shared) for place in left]
    if fewer and left and not fit(subject, shards, passes):
        if how.say is not None:
            how.say(f"{fewer[0]} groups instead of {every[0].groups}, to take half of what is free")
        every = [dataclasses.replace(asked, groups=fewer[0]) for asked in every]
        return _measured(subject, shards, every, how, fewer[1:])
    made: list[tuple[Header, list[Row]]] = []
    with contextlib.ExitStack() as stack:
        if how.world.rank == 0 and left:
            stack.enter_context(exclusive(subject.folder / "states", what="model's states"))
        stack.enter_context(prepared(subject.threads))
        if left:
            wanted = [every[place] for place in left]
            made = _measure(subject, shards, wanted, passes, how)
    for place, (header, rows) in zip(left, made, strict=True):
        new = [row for row in rows if key_of(row) not in earlier[place]]
        if how.world.rank == 0 and new:
            write_rows(paths[place], header, new)
        found[place] = paths[place] if new or not rows else earlier[place][key_of(rows[0])]
    barrier(how.world)
    assert found[0] is not None
    return found[0]


def _path(subject: Subject, shards: TokenShards, asked: Asked) -> Path:
    digest = fingerprint([subject.name, subject.weights, shards.fingerprint, asked.settings])
    return subject.folder / "results" / f"step-{subject.step}-{digest}.jsonl"


def _measure(
    subject: Subject,
    shards: TokenShards,
    every: Sequence[Asked],
    passes: Sequence[Pass],
    how: How,
) -> list[tuple[Header, list[Row]]]:
    """Make the two passes and return header and rows for each of the labels."""
    moments = [
        states.moments(
            subject,
            shards,
            wanted,
            also=passes[place + 1 :],
            world=how.world,
            keep=how.keep_states,
            progress=how.stage("training split", shards),
            say=how.say,
        )
        for place, wanted in enumerate(passes)
    ]
    each = [
        (wanted, made, asked.min_count)
        for wanted, made, asked in zip(passes, moments, every, strict=True)
    ]
    decisions = [
        states.decisions(
            subject,
            shards,
            wanted,
            made,
            also=each[place + 1 :],
            min_count=least,
            extras=every[0].extras,
            world=how.world,
            keep=how.keep_states,
            progress=how.stage("validation split", shards),
        )
        for place, (wanted, made, least) in enumerate(each)
    ]
    return [
        _rows(subject, shards, asked, wanted, made, decided, how)
        for asked, wanted, made, decided in zip(every, passes, moments, decisions, strict=True)
    ]


def _rows(
    subject: Subject,
    shards: TokenShards,
    asked: Asked,
    wanted: Pass,
    moments: Mapping[int, ClassMoments],
    decisions: Mapping[int, Decisions],
    how: How,
) -> tuple[Header, list[Row]]:
    """Return all measures of the states of one labelling, and what they were made from."""
    model = subject.model
    last = model.depth
    header = header_of(subject, shards, asked, moments[last])
    header.measurement["weights"] = subject.weights  # the name may be another model's, too
    header.measurement["sinks"] = sinks(moments)
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
    return header, with_documents(rows, shards, asked.groups)


def _ood(model: Model, asked: Asked, wanted: Pass, how: How) -> dict[int, ClassMoments]:
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
    stream.accumulate_moments(
        text, moments, progress=how.stage("out-of-distribution text", how.ood)
    )
    return moments


def _check_classes(shards: TokenShards, asked: Asked) -> None:
    """Refuse tokens with too few classes for pairs, or documents for groups, before a pass."""
    for split in SPLITS:
        shards.split(split).groups(asked.groups)
    reader = LabelledBlocks(shards.split("train"), asked.reading)
    most = reader.label_counts().sort(descending=True).values[:2]
    if len(most) < 2 or int(most[-1]) < asked.min_count:
        raise UserError(
            f"min_count is {asked.min_count}; expected 1 to {int(most[-1]):,}, so that at least "
            f"two classes of {shards.path} take part"
        )


def _silent(line: str) -> None:
    """Say nothing."""
