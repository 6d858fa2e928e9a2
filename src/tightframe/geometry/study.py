"""From a model and a text to a `Measurement`: a pass over each split, then all measures.

A checkpoint has one results file for each measurement key (labels, and all options that change
numbers). The file is replaced whole by the union of what it held and what was computed; what it
holds is never computed again.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from torch import nn

from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.geometry import states, stream
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.labels import LabelledBlocks
from tightframe.geometry.measurement import Measurement, RowKey, key_of
from tightframe.geometry.measures import check_measures
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.options import Labels, MeasureOptions, PassOptions, describe, share_of
from tightframe.geometry.passes import (
    LabelRequest,
    PassConfig,
    fit,
    reading_of,
    settle,
    settle_positions,
)
from tightframe.geometry.results_files import (
    Labelling,
    RunContext,
    control_values,
    refuse_other_weights,
    requested_rows,
)
from tightframe.geometry.rows import (
    header_of,
    losses,
    published,
    row_of,
    rows_of_layer,
    sinks,
    with_documents,
)
from tightframe.geometry.subject import SharedClasses, Subject
from tightframe.lm.frozen import left_as_found, unwrapped
from tightframe.lm.hardware import ProcessGroup, barrier, prepared, process_group
from tightframe.lm.load import as_language_model
from tightframe.progress import tell
from tightframe.results import Header, Row
from tightframe.tracking import track, tracked_rows, tracker

P = ParamSpec("P")
R = TypeVar("R")
ModelSource: TypeAlias = str | Path | nn.Module
Say: TypeAlias = Callable[[str], None]


def takes(
    options: Callable[P, PassOptions],
) -> Callable[[Callable[..., R]], Callable[Concatenate[ModelSource, P], R]]:
    """Give a function of a model the keyword arguments of the options, also for type checkers."""

    def described(function: Callable[..., R]) -> Callable[Concatenate[ModelSource, P], R]:
        assert isinstance(options, type)
        describe(function, options)
        return function

    return described


@takes(MeasureOptions)
def measure(model: ModelSource, /, **options: Any) -> Measurement:
    """Measure the geometry of a model's class means: one pass over training, one over validation.

    Results go to `runs/NAME/results`, or into the run directory; what was computed before is read
    from there. A model that is given as an object, without `out`, leaves nothing on disk: save the
    returned `Measurement`. A pass that is cut short resumes where it was when the same call is
    made again. Under `torchrun` the processes share the passes.

    `model` is a run directory, a folder with a checkpoint or a Hugging Face model, a name on the
    hub, or a model object (tightframe's or a causal language model of transformers; a text also
    needs its `tokenizer`).
    """
    return measure_model(model, MeasureOptions(**options))


def measure_model(
    model: ModelSource, options: MeasureOptions, say: Say = lambda line: None
) -> Measurement:
    """Measure a model as `measure` does.

    Args:
        model: Run directory, folder, name or object.
        options: All options.
        say: Takes lines on what is going on.
    """
    with process_group() as world, as_source(model, options, world) as (source, out):
        subject = _subject(source, options, out)
        return measure_subject(subject, options, world, say, on_disk=out == options.out)


def measure_subject(
    subject: Subject,
    options: MeasureOptions,
    world: ProcessGroup,
    say: Say,
    *,
    on_disk: bool = True,
) -> Measurement:
    """Measure a model with a folder; its results files are named if they stay `on_disk`."""
    context, fewer = prepare(subject, options, world, say)
    with tracker(options.track, subject.folder):
        labellings = _computed(context, fewer if world.size == 1 else ())
        measurement = _measurement(context, labellings, on_disk=on_disk)
        header = measurement.header
        track(tracked_rows(measurement.rows, header.model["depth"]), header.step)
    return measurement


def measure_part(
    model: ModelSource, part: str, options: MeasureOptions, say: Say = lambda line: None
) -> list[Path]:
    """Compute one share of the training pass, "i/n": one state file per layer for `merge_states`.

    The options are those of the whole measurement.
    """
    i, n = share_of(part)
    with as_source(model, options, ProcessGroup()) as (source, out):
        share = ProcessGroup(i - 1, n)
        context, _ = prepare(_subject(source, options, out), options, share, say)
        request = context.request(context.options.labels[0])
        with prepared(context.subject.threads):
            return states.part(
                context.subject,
                context.shards,
                request.config(context.shared),
                context.world,
                say=say,
            )


@contextlib.contextmanager
def as_source(
    model: ModelSource, options: PassOptions, world: ProcessGroup
) -> Iterator[tuple[Any, str | Path | None]]:
    """Yield a path or a LanguageModel, and the folder of its results, which may be temporary."""
    if isinstance(model, str | Path):
        yield model, options.out
        return
    name = Path(getattr(model, "name_or_path", "") or type(model).__name__).name
    with contextlib.ExitStack() as stack:
        stack.enter_context(left_as_found(inner := unwrapped(model)))
        source = as_language_model(inner, name=name)
        out = options.out
        if out is None:
            if world.size > 1:
                raise UserError(f"{source.name}: several processes need a common folder; give out")
            out = stack.enter_context(tempfile.TemporaryDirectory())
        yield source, out


def _subject(source: Any, options: MeasureOptions, out: str | Path | None) -> Subject:
    weights, precision = options.random_weights, options.precision
    return Subject.of(source, options, out, random_weights=weights, precision=precision)


def prepare(
    subject: Subject, options: MeasureOptions, world: ProcessGroup, say: Say
) -> tuple[RunContext, tuple[int, ...]]:
    """Settle the options; also return the smaller numbers of groups that may be used instead."""
    check_measures(options.measures)
    ood, twin = (
        TokenShards.open(given) if isinstance(given, str | Path) else given
        for given in (options.ood, options.shared_with)
    )
    shards = subject.tokens(options, say)
    options = settle_positions(options, subject, shards)
    shared = None
    if twin is not None:
        reading = reading_of(options, options.labels[0])
        shared = SharedClasses.of(shards, twin, reading, matched=options.matched)
    options, fewer = settle(options, shards, shared, say)
    for labels in options.labels:
        _check_classes(shards, options, labels)
    return RunContext(subject, shards, options, ood, twin, shared, world, say), fewer


def _computed(context: RunContext, fewer: Sequence[int]) -> list[Labelling]:
    """Compute what the results files lack; `fewer` groups may be used where memory is short."""
    refuse_other_weights(context.subject)
    labellings = [Labelling(context, labels) for labels in context.options.labels]
    left = [one for one in labellings if one.missing is not None]
    if not left:
        return labellings
    configs = _configs(context, left)
    if fewer and not fit(context.subject, context.shards, configs):
        groups = context.options.groups
        context.say(f"{fewer[0]} groups instead of {groups}, to take half of what is free")
        options = dataclasses.replace(context.options, groups=fewer[0])
        return _computed(dataclasses.replace(context, options=options), fewer[1:])
    with contextlib.ExitStack() as stack:
        if context.world.rank == 0:
            stack.enter_context(exclusive(context.subject.states, what="model's states"))
        stack.enter_context(prepared(context.subject.threads))
        made = _passes(context, left, configs)
        for one, (header, rows) in zip(left, made, strict=True):
            if context.world.rank == 0:
                one.add(header, rows)
        barrier(context.world)
    for one in left:
        one.read()
    return labellings


def _configs(context: RunContext, left: Sequence[Labelling]) -> list[PassConfig]:
    """Return what the common passes keep for each kind of labels: all that any of them lacks."""
    requests = [one.missing for one in left if one.missing is not None]
    layers = {layer for request in requests for layer in request.layers}
    measures = {one.name: one for request in requests for one in request.measures}
    return [
        dataclasses.replace(
            request,
            layers=tuple(layer for layer in one.request.layers if layer in layers),
            measures=tuple(measures.values()),
        ).config(context.shared)
        for one, request in zip(left, requests, strict=True)
    ]


def _passes(
    context: RunContext, left: Sequence[Labelling], configs: Sequence[PassConfig]
) -> list[tuple[Header, list[Row]]]:
    """Make the two passes and return header and rows for each kind of labels."""
    subject, shards, world = context.subject, context.shards, context.world
    keep = context.options.keep_states
    moments = [
        states.moments(
            subject,
            shards,
            config,
            also=configs[place + 1 :],
            world=world,
            keep=keep,
            say=context.say,
        )
        for place, config in enumerate(configs)
    ]
    requests = [one.missing for one in left if one.missing is not None]
    extras = sorted({extra for request in requests for extra in request.extras})
    each = [
        (config, made, request.min_count)
        for config, made, request in zip(configs, moments, requests, strict=True)
    ]
    decisions = [
        states.decisions(
            subject,
            shards,
            config,
            made,
            also=each[place + 1 :],
            min_count=least,
            extras=extras,
            world=world,
            keep=keep,
        )
        for place, (config, made, least) in enumerate(each)
    ]
    return [
        _rows(context, request, config, made, decided)
        for request, config, made, decided in zip(
            requests, configs, moments, decisions, strict=True
        )
    ]


def _rows(
    context: RunContext,
    request: LabelRequest,
    config: PassConfig,
    moments: Mapping[int, ClassMoments],
    decisions: Mapping[int, Decisions],
) -> tuple[Header, list[Row]]:
    """Return all measures of the states of one kind of labels, and what they were made from."""
    subject, shards, model = context.subject, context.shards, context.subject.model
    last = model.depth
    header = header_of(subject, shards, request, moments[last])
    header.measurement["weights"] = subject.weights  # the name may be another model's, too
    header.measurement["sinks"] = sinks(moments)
    if context.world.rank > 0:
        return header, []
    rows = []
    others = _ood(context, request, config)
    for place, layer in enumerate(request.layers):
        tell(f"measures of layer {stream.layer_name(layer)}", place / len(request.layers))
        ood = others.get(layer)
        state, decided = moments[layer], decisions[layer]
        rows += rows_of_layer(header, request, config, model, layer, state, decided, ood)
    rows += published(header, request, model, moments[last], decisions[last])
    if request.labels == "next":
        found = losses(decisions[last], shards, whole=context.shared is None)
        rows += [row_of(header, request, last, "val", context.whole, 1, *each) for each in found]
    return header, with_documents(rows, shards, request.groups)


def _ood(context: RunContext, request: LabelRequest, config: PassConfig) -> dict[int, ClassMoments]:
    """Return the moments of another kind of text, by layer; every process computes them."""
    if context.ood is None:
        return {}
    split = context.ood.split("train")
    text = stream.Stream(
        context.subject.model,
        split,
        request.reading,
        projection=config.projection,
        precision=config.precision,
        batch_tokens=config.batch_tokens,
    )
    moments = stream.new_moments(text, config.layers)
    shown = states.stage("out-of-distribution text", split)
    stream.accumulate_moments(text, moments, progress=shown)
    return moments


def _check_classes(shards: TokenShards, options: MeasureOptions, labels: Labels) -> None:
    """Refuse tokens with too few classes for pairs, or documents for groups, before a pass."""
    for split in SPLITS:
        shards.split(split).groups(options.groups or 1)
    reader = LabelledBlocks(shards.split("train"), reading_of(options, labels))
    most = reader.label_counts().sort(descending=True).values[:2]
    if len(most) < 2 or int(most[-1]) < options.chosen_min_count:
        raise UserError(
            f"min_count is {options.min_count}; expected 1 to {int(most[-1]):,}, so that at least "
            f"two classes of {shards.path} take part"
        )


def _measurement(
    context: RunContext, labellings: Sequence[Labelling], *, on_disk: bool
) -> Measurement:
    """Return what was requested of the rows that the results files hold."""
    rows: list[Row] = []
    headers: dict[str, Header] = {}
    random: dict[RowKey, float] = {}
    for one in labellings:
        if one.header is None:  # another process wrote it to a folder of its own
            continue
        headers[one.request.labels] = one.header
        rows += requested_rows(one.rows, one.request)
        random |= control_values(one)
    return Measurement(
        headers,
        tuple(rows),
        paths={one.request.labels: one.path for one in labellings} if on_disk else {},
        random={key_of(row): random[key_of(row)] for row in rows if key_of(row) in random},
        chosen=bool(context.options.measures),
        n_computed=sum(one.n_computed for one in labellings),
    )
