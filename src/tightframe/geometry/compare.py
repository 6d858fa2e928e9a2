"""Compare the geometry of two models on one text: paired differences, and verdicts.

Both models see the same documents, which are divided into the same groups. What leaves a group out
leaves it out of both, so that what the choice of documents does to both cancels in the difference:
its interval is narrower than those of the two values suggest.

Models with other tokenizers are compared on the classes that both have, with as many samples of
each (`SharedClasses`).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.geometry import states
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.intervals import plain_values, resample, resample_positions
from tightframe.geometry.measures import check_measures
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.options import CompareModelsOptions, Labels, describe
from tightframe.geometry.passes import LabelRequest, settle_positions
from tightframe.geometry.resampling import FEWEST_DOCUMENTS, Interval, Resamples
from tightframe.geometry.results_files import RunContext
from tightframe.geometry.rows import classifier_at, header_of, loss_functions
from tightframe.geometry.stream import layer_name
from tightframe.geometry.study import ModelSource, Say, as_source, prepare
from tightframe.geometry.subject import Subject
from tightframe.geometry.values import Geometry
from tightframe.geometry.views import ROBUST, measure
from tightframe.lm.hardware import ProcessGroup, prepared
from tightframe.results import Header, ResultTable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# The robust view, ratios of means instead of a median, and the dimension of the class means.
DEFAULT = (*(panel.metric for panel in ROBUST.panels), "nc1_cdnv_rom_dbg", "rank_pr")
HIGHER, LOWER, NONE, OPEN = "higher", "lower", "no difference", "inconclusive"


@dataclasses.dataclass(frozen=True)
class ComparedRow:
    """One measure of both models: their values without bias, and the difference of b to a."""

    labels: str
    layer: str  # "last", "prenorm", or a number
    metric: str
    a: float
    b: float
    difference: float  # b - a
    low: float = math.nan  # 95 % interval of the difference, paired by groups of documents
    high: float = math.nan
    verdict: str = OPEN  # higher, lower, no difference, inconclusive
    n: int = 0  # classes, pairs or positions that were averaged
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(ResultTable):
    """Two models side by side: one row per kind of labels, layer and measure."""

    a: Header
    b: Header
    rows: tuple[ComparedRow, ...]
    margin: float  # share of a value below which a difference counts as none

    @property
    def one_line(self) -> str:
        """Models, text, and the number of measures that differ."""
        told = [row for row in self.rows if row.verdict in (HIGHER, LOWER)]
        return (
            f"{_named(self.b)} against {_named(self.a)} on {self.a.tokens['name']}: "
            f"{len(told)} of {len(self.rows)} measures differ"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per labels, layer and measure, with values, difference and verdict."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows])

    def summary(self) -> str:
        """Return the comparison for readers: a table, what the verdicts say, and reasons."""
        shown = self.to_pandas()[["labels", "layer", "metric", "a", "b", "difference"]]
        shown["95 % interval"] = [
            "-" if math.isnan(row.low) else f"[{row.low:.3g}, {row.high:.3g}]" for row in self.rows
        ]
        shown["b is"] = [_in_words(row) for row in self.rows]
        for name in ("labels", "layer"):
            if shown[name].nunique() == 1:
                shown = shown.drop(columns=name)
        table = shown.to_string(index=False, float_format="{:.3g}".format)
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            for reason in filter(None, row.reason.split("; ")):
                reasons.setdefault(reason, []).append(row.metric)
        notes = [
            f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()
        ]
        named = [f"a: {_named(self.a)}", f"b: {_named(self.b)}"]
        rule = (
            "An interval without 0 tells a difference; one with 0 tells none only if all of it is "
            f"within {self.margin:.0%} of the values. Each has an error rate of 5 % of its own."
        )
        return "\n".join([*named, "", table, "", *notes, *[""][: len(notes)], rule, self.one_line])

    def plot(self, *measures: str, ax: "Axes | None" = None) -> "Axes":
        """Draw the differences in percent of the values, with their intervals.

        Args:
            measures: Names; by default all.
            ax: Axes to draw on; new ones by default.
        """
        import matplotlib.pyplot as plt

        rows = [row for row in self.rows if not measures or row.metric in measures]
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 1 + 0.3 * len(rows)), layout="constrained")
        for place, row in enumerate(rows):
            unit = 100 / _size(row) if _size(row) else math.nan
            ax.plot([row.low * unit, row.high * unit], [place, place], color="C0")
            ax.plot([row.difference * unit], [place], "o", color="C0")
        several = len({(row.labels, row.layer) for row in rows}) > 1
        ax.set_yticks(
            range(len(rows)),
            [
                f"{row.metric}, {row.labels}, layer {row.layer}" if several else row.metric
                for row in rows
            ],
        )
        ax.invert_yaxis()
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_xlabel(f"{_named(self.b)} minus {_named(self.a)}, % of the values")
        return ax


def compare(a: ModelSource, b: ModelSource, /, **options: Any) -> ModelComparison:
    """Compare the geometry of two models on one text, with paired intervals of the differences.

    `a` and `b` are run directories, folders with a checkpoint or a Hugging Face model, names on
    the hub, or model objects. Both see the same documents in the same groups. Without a text,
    runs are compared on the tokens that they were trained on.
    """
    return compare_models(a, b, CompareModelsOptions(**options))


describe(compare, CompareModelsOptions)


def compare_models(
    a: ModelSource, b: ModelSource, options: CompareModelsOptions, say: Say = lambda line: None
) -> ModelComparison:
    """Compare two models as `compare` does.

    Args:
        a: Run directory, folder, name or object.
        b: The same.
        options: All options.
        say: Takes lines on what is going on.
    """
    check_measures(options.measures)
    with contextlib.ExitStack() as stack:
        alone = ProcessGroup()
        sources = [stack.enter_context(as_source(model, options, alone)) for model in (a, b)]
        contexts = _contexts(sources, options, say)
        headers: list[Header] = []
        rows: list[ComparedRow] = []
        for labels in options.labels:
            sides = [_resampled(context, labels) for context in contexts]
            headers = headers or [header for header, _ in sides]
            (_, of_a), (_, of_b) = sides
            both = [key for key in of_a if key in of_b]
            rows += [_compared(labels, *key, of_a[key], of_b[key], options.margin) for key in both]
    return ModelComparison(headers[0], headers[1], tuple(rows), options.margin)


def _contexts(
    sources: Sequence[tuple[Any, Any]], options: CompareModelsOptions, say: Say
) -> list[RunContext]:
    """Settle the options of both models, so that they see the same positions in the same groups."""
    subjects = [
        Subject.of(source, options, out, precision=options.precision) for source, out in sources
    ]
    shards = [subject.tokens(options, say) for subject in subjects]
    others: list[TokenShards | None] = list(reversed(shards))
    if _same_classes(*shards):
        others = [None, None]
        if shards[0].fingerprint != shards[1].fingerprint:
            raise UserError(
                f"{shards[0].path} and {shards[1].path}: hold different tokens of one tokenizer; "
                "give both models the same text (--text) or tokens (--tokens)"
            )
    sides = [
        options.of_model(own, other, default=DEFAULT)
        for own, other in zip(shards, others, strict=True)
    ]
    # Positions that either model leaves out are left out of both, before classes are counted.
    usual = [
        settle_positions(side, subject, own)
        for side, subject, own in zip(sides, subjects, shards, strict=True)
    ]
    positions: dict[str, Any] = {
        "skip_positions": max(side.skip_positions or 0 for side in usual),
        "skip_special": any(side.skip_special for side in usual),
    }
    contexts = [
        prepare(subject, dataclasses.replace(side, **positions), ProcessGroup(), quiet)[0]
        for subject, side, quiet in zip(subjects, sides, (say, _silent), strict=True)
    ]
    settled: dict[str, Any] = {
        "groups": min(context.options.groups or 1 for context in contexts),
        "min_count": max(context.options.min_count or 1 for context in contexts),
    }
    for context in contexts:
        shared = context.shared
        for split in SPLITS if shared else ():
            if shared and shared.beside(context.shards.split(split)) is None:
                raise UserError(
                    f"{shards[0].path} and {shards[1].path}: hold other documents in split "
                    f"'{split}'; give both models the same text (--text)"
                )
    if settled["groups"] < 2:
        raise UserError(
            f"{shards[0].path}: is too short for groups of documents, without which there are no "
            "intervals; give more text"
        )
    return [
        dataclasses.replace(context, options=dataclasses.replace(context.options, **settled))
        for context in contexts
    ]


def _silent(line: str) -> None:
    """Say nothing: what the other model's options lead to was said of the first."""


def _same_classes(first: TokenShards, second: TokenShards) -> bool:
    """Tell whether token ids mean the same in both."""
    digests = [shards.manifest["tokenizer"]["sha256"] for shards in (first, second)]
    if digests[0] == digests[1]:
        return True
    ours, theirs = (
        shards.tokenizer.get_vocab(with_added_tokens=True) for shards in (first, second)
    )
    return bool(ours == theirs)


def _resampled(
    context: RunContext, labels: Labels
) -> tuple[Header, dict[tuple[str, str], tuple[float, int, Resamples]]]:
    """Return the header of one model, and by layer and measure its value, number and resamples."""
    request = context.request(labels)
    subject, shards, model = context.subject, context.shards, context.subject.model
    config = request.config(context.shared)
    found: dict[tuple[str, str], tuple[float, int, Resamples]] = {}
    keep = context.options.keep_states
    with (
        exclusive(subject.states, what="model's states"),
        prepared(subject.threads),
    ):
        moments = states.moments(subject, shards, config, keep=keep, say=context.say)
        decided = states.decisions(
            subject,
            shards,
            config,
            moments,
            min_count=request.min_count,
            extras=request.extras,
            keep=keep,
        )
        for layer in request.layers:
            name = "last" if layer == model.depth else layer_name(layer)
            every = _of_layer(context, request, layer, moments[layer], decided[layer])
            found |= {(name, metric): each for metric, each in every}
    return header_of(subject, shards, request, moments[model.depth]), found


def _of_layer(
    context: RunContext,
    request: LabelRequest,
    layer: int,
    moments: ClassMoments,
    decisions: Decisions,
) -> Iterator[tuple[str, tuple[float, int, Resamples]]]:
    """Yield the value, the number of things averaged and the resamples of each measure."""
    model, shards = context.subject.model, context.shards
    last = layer == model.depth
    classifier, _ = classifier_at(model, layer, moments.dim, request.config(context.shared))
    chosen = request.of_layer(last=last, dual=classifier is not None)
    if classifier is None:
        classifier = torch.zeros(()).expand(moments.n_classes, moments.dim)  # of no measure left
    classes = None if context.shared is None else context.shared.classes
    geometry = Geometry(
        moments, classifier, decisions, min_count=request.min_count, classes=classes
    )
    traits = [one.traits for one in chosen]
    values = plain_values(traits, geometry)
    resampled = {one.name: found for one, found in resample(values, traits, geometry, classifier)}
    for one in traits:
        value = values[one.name]
        resamples = resampled.get(one.name, Resamples(refused=value.reason or "undefined"))
        yield one.name, (value.value, value.n, _enough(resamples, context, request, one.split))
    if last and request.labels == "next":
        per_token = context.shared is None
        for name, value_of in loss_functions(shards, whole=True).items():
            # Tokens of another tokenizer are other things to predict; bytes are not.
            if name in (("val_loss", "val_accuracy") if per_token else ("val_bits_per_byte",)):
                resamples = resample_positions(decisions, value_of)
                n = decisions.n + decisions.n_passed
                yield (
                    name,
                    (
                        value_of(decisions),
                        n,
                        _enough(resamples, context, request, "val"),
                    ),
                )


def _enough(
    resamples: Resamples, context: RunContext, request: LabelRequest, name: str
) -> Resamples:
    """Refuse resamples of too few documents, and of one text that two tokenizers cut apart."""
    split = context.shards.split(name)
    n, least = split.n_documents, FEWEST_DOCUMENTS[name]
    if split.groups(request.groups).unit == "documents":
        why = f"from {n} documents, and intervals are tested from {least} on" if n < least else ""
    else:
        why = "the tokenizers cut one document differently" if context.shared else ""
    return dataclasses.replace(resamples, refused=why) if why else resamples


def _compared(
    labels: str,
    layer: str,
    metric: str,
    a: tuple[float, int, Resamples],
    b: tuple[float, int, Resamples],
    margin: float,
) -> ComparedRow:
    """Return the row of a measure: both values, the paired interval, and what it tells."""
    (value_a, n, of_a), (value_b, _, of_b) = a, b
    values = value_a, value_b
    if of_a.refused or of_b.refused:
        found = Interval.none(of_a.refused or of_b.refused)
    else:
        differences = of_b.minus(of_a)
        every = (differences.full, *differences.without, *differences.halves)
        found = Interval(0.0, 0.0, 0.0) if not any(every) else differences.interval()
        centres = [one.interval().centre for one in (of_a, of_b)]
        if not math.isnan(found.low) and all(map(math.isfinite, centres)):
            values = centres[0], centres[1]
    row = ComparedRow(
        labels,
        layer,
        metric,
        *values,
        found.centre if not math.isnan(found.low) else values[1] - values[0],
        found.low,
        found.high,
        n=n,
        reason=found.reason,
    )
    return dataclasses.replace(row, verdict=_verdict(row, margin))


def _verdict(row: ComparedRow, margin: float) -> str:
    """Return what the interval of a difference tells of b."""
    if row.low > 0:
        return HIGHER
    if row.high < 0:
        return LOWER
    within = margin * _size(row)
    return NONE if -within <= row.low and row.high <= within else OPEN


def _size(row: ComparedRow) -> float:
    return (abs(row.a) + abs(row.b)) / 2


def _in_words(row: ComparedRow) -> str:
    """Return the verdict, with whether b is then the more collapsed one."""
    if row.verdict not in (HIGHER, LOWER) or row.metric.startswith("val_"):
        return row.verdict
    toward = {"low": LOWER, "high": HIGHER}.get(measure(row.metric).direction)
    if toward is None:
        return row.verdict
    return f"{row.verdict} ({'more' if toward == row.verdict else 'less'} collapsed)"


def _named(header: Header) -> str:
    return f"{header.run} at step {header.step}" if header.step else header.run
