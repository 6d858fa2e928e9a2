"""What a measurement computes and keeps, as its options, the text and the memory decide."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tightframe.corpus.shards import SPLITS, Split, TokenShards
from tightframe.errors import UserError
from tightframe.files import free_disk
from tightframe.geometry.labels import NEXT, LabelledBlocks, LabelSpec
from tightframe.geometry.measures import Measure, choose, extras_of
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.nearest import Extra
from tightframe.geometry.options import Labels, MeasureOptions, Precision, check_depth, layer_names
from tightframe.geometry.resampling import GROUPS, MIN_COUNT, smallest_min_count, usual_min_count
from tightframe.geometry.stream import BATCH_TOKENS, Projection, Stream
from tightframe.geometry.subject import SharedClasses, Subject
from tightframe.lm.hardware import free_memory
from tightframe.lm.interface import PRENORM
from tightframe.lm.load import Model

LARGE = 2**28  # bytes of a pass that are worth a line before it
# Numbers that a forward pass holds at once, per position and dimension, as measured on SmolLM2.
FORWARD = 24

# They are about the classifier alone, so an inner layer has none of them.
_OF_THE_HEAD = ("rank_pr_head", "rank_stable_head", "rank_entropy_head", "head_overlap_sq")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelRequest:
    """Request for one kind of labels, with every choice made."""

    options: MeasureOptions  # groups, minimum count and skipped positions are chosen
    labels: Labels
    layers: tuple[int, ...]  # the model's last is one of them
    measures: tuple[Measure, ...]
    compat: tuple[str, ...] = ()
    ood: str | None = None  # fingerprint of the out-of-distribution tokens
    shared_with: str | None = None  # fingerprint of the other model's tokens

    @property
    def key(self) -> dict[str, Any]:
        """Measurement key: everything that makes two values of one measure differ."""
        tokens = {"ood": self.ood, "shared_with": self.shared_with}
        return {"labels": self.labels, **self.options.key, **tokens}

    @property
    def min_count(self) -> int:
        """Minimum number of samples of a class."""
        return self.options.chosen_min_count

    @property
    def groups(self) -> int:
        """Number of groups that are kept apart."""
        return self.options.groups or 1

    @property
    def reading(self) -> LabelSpec:
        """Labels and skipped positions."""
        return reading_of(self.options, self.labels)

    @property
    def extras(self) -> tuple[Extra, ...]:
        """Additional statistics that the decisions must keep."""
        return extras_of(self.measures)

    def config(self, shared: SharedClasses | None = None) -> "PassConfig":
        """Return what has to be kept of the model's embeddings."""
        options = self.options
        return PassConfig(
            layers=self.layers,
            reading=self.reading,
            groups=self.groups,
            scatter=any(measure.needs_scatter for measure in self.measures),
            dimensions=any(measure.needs_dimensions for measure in self.measures),
            projection=None if options.project is None else Projection(options.project),
            precision=options.precision,
            batch_tokens=options.batch_tokens,
            shared=shared,
        )

    def of_layer(self, *, last: bool, dual: bool = True) -> tuple[Measure, ...]:
        """Return the measures that a layer has; `dual` ones compare with the classifier."""
        return tuple(
            measure
            for measure in self.measures
            # The classifier's choices are of next tokens; what it is alike is so at one layer.
            if not (measure.name.startswith("nc4_") and self.labels != "next")
            and (last or not measure.name.startswith(_OF_THE_HEAD))
            and (dual or not measure.name.startswith(("nc3_", "unc3_")))
        )


@dataclasses.dataclass(frozen=True)
class PassConfig:
    """Configuration of a pass: what is kept of the embeddings; names a state."""

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
        """Return the stream of labelled embeddings of a split."""
        beside = None if self.shared is None else self.shared.beside(split)
        groups = split.groups(self.groups, beside) if self.groups > 1 else None
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
        """Return the provenance of a state; states of different provenance are never merged."""
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


def reading_of(options: MeasureOptions, labels: Labels) -> LabelSpec:
    """Return the labels and the skipped positions of settled options."""
    return LabelSpec(labels, options.skip_positions or 0, bool(options.skip_special))


def usual_positions(subject: Subject, shards: TokenShards, *, compat: bool = False) -> LabelSpec:
    """Return which positions are left out where nothing else is asked for.

    In pretrained models the first position of a block and those whose input is a special token are
    attention sinks: a few of them decide the geometry of every inner layer. All positions count of
    a run, which was trained on these very blocks, and in the published tables.
    """
    if subject.run is not None or compat:
        return NEXT
    return LabelSpec(skip=min(1, shards.block - 2), skip_special=True)


def settle_positions(
    options: MeasureOptions, subject: Subject, shards: TokenShards
) -> MeasureOptions:
    """Choose the positions that are left out, where they were not given, by `usual_positions`."""
    usual = usual_positions(subject, shards, compat=bool(options.compat))
    skip, special = options.skip_positions, options.skip_special
    return dataclasses.replace(
        options,
        skip_positions=usual.skip if skip is None else skip,
        skip_special=usual.skip_special if special is None else special,
    )


def settle(
    options: MeasureOptions,
    shards: TokenShards,
    shared: SharedClasses | None,
    say: Callable[[str], None],
) -> tuple[MeasureOptions, tuple[int, ...]]:
    """Choose the groups and the minimum count that were not given, so that there are intervals.

    By default there are as many groups as the largest of `GROUPS` for which there are enough
    documents, or else blocks, and 1 if there are too few of both; the minimum count is what
    `usual_min_count` says of the classes, or 1.

    Args:
        options: What is requested, with the skipped positions settled.
        shards: The tokens.
        shared: The classes and positions to which the measurement is restricted.
        say: Takes a line on what is not possible.

    Returns:
        The settled options, and the smaller numbers of groups that may be used instead.
    """
    groups, min_count = options.groups, options.min_count
    if options.compat:  # the published tables are of every class
        groups, min_count = groups or 1, min_count or 1
    possible = _possible_groups(shards)
    if groups is None and possible[0] < GROUPS[0]:
        say(
            f"{possible[0]} groups for intervals: too few {_units(shards, possible[0])} for "
            f"{GROUPS[0]}"
            if possible[0] > 1
            else f"no intervals: {shards.path} is too short for {GROUPS[-1]} groups of "
            "blocks; more text or a smaller --context gives more blocks"
        )
    of_all = [one.name for one in choose(options.measures) if one.needs_every_class]
    of_all += ["--by-frequency"] if options.by_frequency else []
    if min_count is None and of_all:
        say(f"min_count 1, so that there are few intervals: {of_all[0]} is of every class")
        min_count = 1
    chosen = possible[0] if groups is None else groups
    if min_count == "auto":
        min_count = _smallest(options, shards, shared, chosen)
        say(f"min_count {min_count}: the smallest with enough classes in every resample")
    elif min_count is None or (chosen > 1 and not of_all):
        split = shards.split("train")
        kept_apart = chosen if chosen > 1 else possible[0]
        beside = None if shared is None else shared.beside(split)
        bounds = split.groups(kept_apart, beside) if kept_apart > 1 else None
        quota = None if shared is None else shared.quota(split)
        reading = reading_of(options, options.labels[0])
        enough = usual_min_count(
            LabelledBlocks(split, reading, bounds, quota).label_counts_by_group()
        )
        few = f"min_count {min_count or 1}, so that there are few intervals: "
        if enough is None and (groups or 2) > 1 and (min_count or 1) < MIN_COUNT:
            say(
                f"{few}classes with {MIN_COUNT} samples are less than half of the text; more text "
                "gives more"
            )
        elif enough is not None and min_count is not None and min_count < enough:
            say(f"{few}{enough} would do")
        min_count = min_count or enough or 1
    fewer = possible[1:] if groups is None else ()
    return dataclasses.replace(options, groups=chosen, min_count=min_count), fewer


def _smallest(
    options: MeasureOptions, shards: TokenShards, shared: SharedClasses | None, groups: int
) -> int:
    """Return the smallest count from which intervals of the requested measures have classes."""
    questions = [one.traits for one in choose(options.measures)]
    able = [one for one in questions if one.split == "train" and not one.why_none]
    sets = {(one.least_count, one.by_groups, one.counts_classes) for one in able}
    if groups == 1 or not sets:
        return 1
    split, least = shards.split("train"), [1]
    quota = None if shared is None else shared.quota(split)
    for labels in options.labels:
        reader = LabelledBlocks(split, reading_of(options, labels), split.groups(groups), quota)
        enough = smallest_min_count(reader.label_counts_by_group(), sets)
        if enough is None:
            raise UserError(
                f"min_count auto: at no count do enough classes of {shards.path} keep two samples "
                f"in every resample of {groups} groups; give more text, or fewer --groups"
            )
        least.append(enough)
    return max(least)


def _units(shards: TokenShards, n: int) -> str:
    """Return what groups of the splits are made of: documents, or blocks of them."""
    return " or ".join(sorted({shards.split(name).groups(n).unit for name in SPLITS}))


def _possible_groups(shards: TokenShards) -> tuple[int, ...]:
    """Return the numbers of `GROUPS` that both splits allow, of documents if possible; then 1."""

    def units(n: int) -> set[str]:
        try:
            return {shards.split(name).groups(n).unit for name in SPLITS}
        except UserError:
            return set()

    found = {n: units(n) for n in GROUPS}
    whole = [n for n in GROUPS if found[n] == {"documents"}]
    return *(whole or [n for n in GROUPS if found[n]]), 1


def parse_layers(spec: str, model: Model) -> tuple[int, ...]:
    """Return the layers of "all", or of a list like "0-3,prenorm"; the last is always one."""
    depth = model.depth
    if spec == "all":
        return (*range(depth), *([PRENORM] if _has_prenorm(model) else []), depth)
    check_depth(spec, depth)
    found = {depth}
    for name in layer_names(spec):
        if name == "prenorm":
            found.add(PRENORM)
        elif name.isdecimal():
            found.add(int(name))
    return tuple(sorted(found, key=lambda layer: (depth - 0.5) if layer == PRENORM else layer))


def _has_prenorm(model: Model) -> bool:
    """Tell whether a final norm makes the last layer, so that there is a stream before it."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.classifier.device)
    try:
        with torch.no_grad():
            model.embed_layers(token, [PRENORM])
    except UserError:
        return False
    return True


def fit(subject: Subject, shards: TokenShards, passes: Sequence[PassConfig]) -> bool:
    """Tell whether states of the training split take less than half of the memory and disk."""
    split = shards.split("train")
    needed = 2 * sum(_bytes(wanted.stream(subject, split), wanted) for wanted in passes)
    memory = free_memory(subject.model.classifier.device)
    return (memory is None or needed <= memory) and needed <= free_disk(subject.folder)


def _bytes(stream: Stream, wanted: PassConfig) -> int:
    dims = stream.dims(wanted.layers).values()
    return sum(ClassMoments.bytes(stream.n_rows, dim, wanted.scatter) for dim in dims)


def _bytes_of_pass(passes: Sequence[tuple[Stream, PassConfig]]) -> int:
    """Return the memory of states and of a forward pass whose inner layers are kept."""
    stream, wanted = passes[0]
    kept = 1 if len(wanted.layers) == 1 else stream.model.depth + 1
    numbers = stream.batch_blocks * stream.split.block * stream.model.classifier.shape[1]
    forward = stream.model.classifier.element_size() * numbers * (kept + FORWARD)
    return forward + sum(_bytes(*one) for one in passes)


def check_memory(
    passes: Sequence[tuple[Stream, PassConfig]], say: Callable[[str], None] | None
) -> None:
    """Say what a common pass will take before any of it is taken, and refuse what can't be had.

    Args:
        passes: Stream and configuration of each kind of labels.
        say: Takes a line where it is much.
    """
    stream, wanted = passes[0]
    device, n_layers = stream.model.classifier.device, len(wanted.layers)
    states, needed = sum(_bytes(*one) for one in passes), _bytes_of_pass(passes)
    layers = "1 layer" if n_layers == 1 else f"{n_layers} layers"
    groups = f" in {wanted.groups} groups" if wanted.groups > 1 else ""
    rows = "pairs of class and group" if wanted.groups > 1 else "classes"
    line = (
        f"{layers}{groups}: {needed / 1e9:,.2f} GB beside the model, of which {states / 1e9:,.2f} "
        f"GB are states of {sum(one.n_rows for one, _ in passes):,} {rows}"
    )
    free = free_memory(device)
    if free is not None and needed > free:
        raise UserError(
            f"{line}; on {device} {free / 1e9:,.2f} GB are free; {_advice(passes, free)}"
        )
    if say is not None and needed > LARGE:
        say(line)


def _advice(passes: Sequence[tuple[Stream, PassConfig]], free: int) -> str:
    """Return the smaller request that fits into the free memory."""
    stream, wanted = passes[0]
    tries: dict[str, dict[str, Any]] = {
        f"--groups {n}": {"groups": n} for n in (*GROUPS, 4, 2, 1) if n < wanted.groups
    }
    if len(wanted.layers) > 1:
        tries["--layers last"] = {"layers": (stream.model.depth,)}
        narrower = (n for n in (256, 128, 64) if n < min(stream.dims(wanted.layers).values()))
        tries |= {f"--project {n}": {"projection": Projection(n)} for n in narrower}
    for option, values in tries.items():
        smaller = []
        for of, config in passes:
            given = dataclasses.replace(config, **values)
            groups = of.split.groups(given.groups) if given.groups > 1 else None
            given_stream = dataclasses.replace(of, groups=groups, projection=given.projection)
            smaller.append((given_stream, given))
        if _bytes_of_pass(smaller) <= free:
            return f"{option} fits"
    return "neither fewer groups nor fewer layers fit, so try fewer --batch-tokens or --max-tokens"
