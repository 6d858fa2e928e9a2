"""What is asked of a measurement: with model and tokens, it names a results file."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.errors import UserError
from tightframe.geometry.checks import check_compat, check_depth, check_numbers, layer_names
from tightframe.geometry.labels import NEXT, LabelledBlocks, Labels, LabelSpec
from tightframe.geometry.measures import Measure, choose, extras_of
from tightframe.geometry.nearest import Extra
from tightframe.geometry.passes import Pass
from tightframe.geometry.resampling import GROUPS, MIN_COUNT, usual_min_count
from tightframe.geometry.shared import SharedClasses
from tightframe.geometry.stream import Precision, Projection
from tightframe.geometry.subject import Model, Subject
from tightframe.lm.interface import PRENORM

# They are about the classifier alone, so an inner layer has none of them.
_OF_THE_HEAD = ("rank_pr_head", "rank_stable_head", "rank_entropy_head", "head_overlap_sq")


@dataclasses.dataclass(frozen=True)
class Asked:
    """The measures, by name, and what they are measured on; see `measure_run` for each."""

    measures: tuple[str, ...]
    layers: str = "last"
    labels: Labels = "next"
    min_count: int = 1
    groups: int = 1
    by_frequency: bool = False
    skip_positions: int = 0
    skip_special: bool = False
    project: int | None = None
    precision: Precision = "fp32"
    ood: str | None = None  # fingerprint of the out-of-distribution tokens
    compat: tuple[str, ...] = ()
    shared_with: str | None = None  # fingerprint of the other model's tokens
    matched: bool = False

    def __post_init__(self) -> None:
        check_numbers(min_count=self.min_count, groups=self.groups, project=self.project)
        check_numbers(least=0, skip_positions=self.skip_positions)
        check_compat(self.compat, min_count=self.min_count, labels=self.labels)

    @classmethod
    def of(cls, measures: Sequence[str] | None, **settings: Any) -> "Asked":
        """With measures as `choose` takes them."""
        return cls(tuple(measure.name for measure in choose(measures)), **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """As the header of the results tells them."""
        listed = {"measures": list(self.measures), "compat": list(self.compat)}
        return dataclasses.asdict(self) | listed

    @property
    def way(self) -> dict[str, Any]:
        """What makes two values of one measure, layer, subset and minimum count different."""
        names = ["labels", "groups", "skip_positions", "skip_special", "project", "precision"]
        names += ["ood", "shared_with", "matched"]
        return {name: getattr(self, name) for name in names}

    @property
    def reading(self) -> LabelSpec:
        """How positions are read."""
        return LabelSpec(self.labels, self.skip_positions, self.skip_special)

    def a_pass(self, model: Model, batch_tokens: int, shared: SharedClasses | None = None) -> Pass:
        """What has to be kept of the model's embeddings."""
        return Pass(
            layers=parse_layers(self.layers, model),
            reading=self.reading,
            groups=self.groups,
            scatter=any(measure.needs_scatter for measure in choose(self.measures)),
            dimensions=any(measure.needs_dimensions for measure in choose(self.measures)),
            projection=None if self.project is None else Projection(self.project),
            precision=self.precision,
            batch_tokens=batch_tokens,
            shared=shared,
        )

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What decisions must tell besides what they always do."""
        return extras_of(choose(self.measures))

    def of_layer(self, *, last: bool, dual: bool = True) -> tuple[Measure, ...]:
        """The measures that say something of a layer; `dual` ones compare with the classifier."""
        return tuple(
            measure
            for measure in choose(self.measures)
            # The classifier's choices are of next tokens; what it is alike is so at one layer.
            if not (measure.name.startswith("nc4_") and self.labels != "next")
            and (last or not measure.name.startswith(_OF_THE_HEAD))
            and (dual or not measure.name.startswith(("nc3_", "unc3_")))
        )


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
    asked: Asked,
    subject: Subject,
    shards: TokenShards,
    *,
    skip_positions: int | None,
    skip_special: bool | None,
) -> Asked:
    """Choose which positions are left out, where it was not given, by `usual_positions`."""
    usual = usual_positions(subject, shards, compat=bool(asked.compat))
    return dataclasses.replace(
        asked,
        skip_positions=usual.skip if skip_positions is None else skip_positions,
        skip_special=usual.skip_special if skip_special is None else skip_special,
    )


def settle(
    asked: Asked,
    shards: TokenShards,
    *,
    groups: int | None,
    min_count: int | None,
    shared: SharedClasses | None,
    say: Callable[[str], None],
) -> tuple[Asked, tuple[int, ...]]:
    """Choose the groups and the minimum count that were not given, so that there are intervals.

    Args:
        asked: What is asked for otherwise.
        shards: The tokens.
        groups: As given. By default, the largest of `GROUPS` for which there are enough
            documents, or else blocks; 1 if there are too few of both.
        min_count: As given. By default, what `usual_min_count` says of the classes, or 1.
        shared: The classes and positions to which the measurement is restricted.
        say: Takes a line on what could not be had.

    Returns:
        What is asked for, and the smaller numbers of groups that may be taken instead.
    """
    if asked.compat:  # the published tables are of every class
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
    of_all = [one.name for one in choose(asked.measures) if one.needs_every_class]
    of_all += ["--by-frequency"] if asked.by_frequency else []
    if min_count is None and of_all:
        say(f"min_count 1, so that there are few intervals: {of_all[0]} is of every class")
        min_count = 1
    chosen = possible[0] if groups is None else groups
    if min_count is None or (chosen > 1 and not of_all):
        split = shards.split("train")
        kept_apart = chosen if chosen > 1 else possible[0]
        bounds = split.groups(kept_apart) if kept_apart > 1 else None
        quota = None if shared is None else shared.quota(split)
        enough = usual_min_count(
            LabelledBlocks(split, asked.reading, bounds, quota).label_counts_by_group()
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
    return dataclasses.replace(asked, groups=chosen, min_count=min_count), fewer


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
    """Whether a final norm makes the last layer, so that there is a stream before it."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.classifier.device)
    try:
        with torch.no_grad():
            model.embed_layers(token, [PRENORM])
    except UserError:
        return False
    return True
