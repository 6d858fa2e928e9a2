"""Decisions of a classifier and of the nearest class mean, counted class by class.

Axes: N labelled positions, C classes, G groups, D embedding.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from tightframe.corpus.shards import Split
from tightframe.formats import Count, TensorFormat
from tightframe.geometry.labels import NEXT, LabelSpec
from tightframe.geometry.ledger import (
    Array,
    GroupIds,
    Ledger,
    Span,
    Spans,
    as_labels,
    check_labels,
    check_provenance,
    grouped_labels,
    kept_groups,
    unpacking,
)
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.nearest import ArgmaxScorer, Choices, Extra, NearestMeans
from tightframe.geometry.segments import require_finite
from tightframe.geometry.stream import BATCH_TOKENS, Part, Precision, Progress, Stream
from tightframe.lm.interface import IGNORE, LanguageModel
from tightframe.lm.loss import measuring

FORMAT: TensorFormat[tuple[int, int, Spans, dict[str, Any]]] = TensorFormat(
    "Decisions",
    tuple[Count, Count, Spans, dict[str, Any]],
    {
        **{"seen": "bool C", "passed": "float64 P 3"},
        **{"losses": "float64 C", "losses_by_group": "float64 G C | None"},
        **{"*_by_group": "count G C", "counts": "count C", "*": "count C"},
    },
    remedy="measure again",
)


class Decisions:
    """Decisions of a classifier and of the nearest class mean at labelled positions.

    Everything is kept by the class of the label, so that any subset or frequency bin of classes
    can be selected later.

    Args:
        seen: The classes that have a mean (S): the candidates of the nearest-mean rule.
        groups: Number of groups of positions, of which `without` leaves some out: 48 bytes per
            class and group, and 8 for each of `extras`.
        extras: Further kinds of decision; the agreements of others are None.

    Attributes:
        counts: Positions of each label, whether its class is seen or not.
        classifier_hits: Positions where the classifier's largest logit is the label's.
        nearest_hits: Positions where the nearest class mean is the label's.
        agreements: Positions where both decide the same, both among the seen classes; counted
            only where the label is seen (`nc4_rate`).
        agreements_full: Positions where both decide the same if the classifier chooses among all
            ids (`nc4_rate_fullv`).
        agreements_top5: Positions with a seen label where the classifier puts fewer than five
            seen classes before the nearest mean's ("ranks").
        agreements_cosine: As `agreements`, with the mean at the smallest angle ("cosine").
        agreements_library: Positions where both decide the same by the reference library's rule,
            which knows of all rows and puts missing means at the origin ("library").
        losses: Sum of the cross-entropies, nats.
        passed: By group, the number, classifier's hits and sum of cross-entropies of positions
            that are predicted but not counted, such as attention sinks.
        reevaluated: Decisions that were too close for float32 and were made in float64.
        ignored, ledger, provenance: As in `ClassMoments`.
        n_groups: Number of groups.
    """

    counts: Int64[Tensor, " C"]
    classifier_hits: Int64[Tensor, " C"]
    nearest_hits: Int64[Tensor, " C"]
    agreements: Int64[Tensor, " C"]
    agreements_full: Int64[Tensor, " C"]
    agreements_top5: Int64[Tensor, " C"] | None = None
    agreements_cosine: Int64[Tensor, " C"] | None = None
    agreements_library: Int64[Tensor, " C"] | None = None
    losses: Float64[Tensor, " C"]

    _SUMS = ("counts", "classifier_hits", "nearest_hits", "agreements", "agreements_full", "losses")
    _EXTRAS: ClassVar[dict[Extra, str]] = {
        "ranks": "agreements_top5",
        "cosine": "agreements_cosine",
        "library": "agreements_library",
    }

    def __init__(
        self, seen: Bool[Tensor, " C"], groups: int = 1, extras: Collection[Extra] = ()
    ) -> None:
        if groups < 1:
            raise ValueError(f"expected at least 1 group, got {groups}")
        n_classes = len(seen)
        self.seen = seen.cpu()
        self._kept = self._SUMS + tuple(self._EXTRAS[extra] for extra in sorted(extras))
        for name in self._kept:
            dtype = torch.float64 if name == "losses" else torch.int64
            setattr(self, name, torch.zeros(n_classes, dtype=dtype))
        self.passed: Float64[Tensor, "G 3"] = torch.zeros(groups, 3, dtype=torch.float64)
        self.reevaluated = 0
        self.ignored = 0
        self.ledger = Ledger()
        self.provenance: dict[str, Any] = {}
        self.n_groups = groups
        self._by_group: dict[str, Tensor] = {  # sums (G, C), where there are groups
            name: torch.zeros(groups, n_classes, dtype=getattr(self, name).dtype)
            for name in (self._kept if groups > 1 else ())
        }

    @property
    def extras(self) -> tuple[Extra, ...]:
        """Kinds of decision that are kept besides those that always are."""
        return tuple(extra for extra, name in self._EXTRAS.items() if name in self._kept)

    @property
    def counts_by_group(self) -> Int64[Tensor, "G C"]:
        """Positions of each label in each group."""
        return self._by_group.get("counts", self.counts[None])

    @property
    def n(self) -> int:
        """Number of labelled positions."""
        return int(self.counts.sum())

    @property
    def n_passed(self) -> int:
        """Number of positions that are predicted but not counted."""
        return int(self.passed[:, 0].sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats over all predicted positions, counted or not, or NaN."""
        return self._mean(float(self.losses.sum()) + float(self.passed[:, 2].sum()))

    @property
    def accuracy(self) -> float:
        """Share of all predicted positions where the classifier is right, or NaN without any."""
        return self._mean(int(self.classifier_hits.sum()) + float(self.passed[:, 1].sum()))

    def _mean(self, total: float) -> float:
        n = self.n + self.n_passed
        return total / n if n else float("nan")

    def update(self, labels: Array, choices: Choices, groups: GroupIds = None) -> None:
        """Add the decisions at some positions; labels follow the rule of `ClassMoments`."""
        n_classes = len(self.seen)
        labels = as_labels(labels).cpu()
        n_ignored = check_labels(labels, len(choices.losses), n_classes)
        places = grouped_labels(labels, groups, n_classes, self.n_groups)
        kept = labels != IGNORE
        labels, places = labels[kept], places[kept]
        nearest, among_seen, among_all = (
            ids.cpu()[kept]
            for ids in (choices.nearest, choices.classifier_seen, choices.classifier)
        )
        added = {
            "counts": torch.ones_like(labels),
            "classifier_hits": among_all == labels,
            "nearest_hits": nearest == labels,
            "agreements": (among_seen == nearest) & self.seen[labels],
            "agreements_full": among_all == nearest,
            "losses": choices.losses.cpu()[kept],
        }
        if choices.ranks is not None:
            added["agreements_top5"] = (choices.ranks.cpu()[kept] < 5) & self.seen[labels]
        if choices.cosine is not None:
            same = among_seen == choices.cosine.cpu()[kept]
            added["agreements_cosine"] = same & self.seen[labels]
        if choices.library is not None:
            one, other = (ids.cpu()[kept] for ids in choices.library)
            added["agreements_library"] = one == other
        for name in self._kept:
            if name not in added:
                raise ValueError(f"choices hold no {name}; make them with its extra")
            total: Tensor = getattr(self, name)
            values = added[name].to(total.dtype)
            total.index_add_(0, labels, values)
            if self._by_group:
                self._by_group[name].view(-1).index_add_(0, places, values)
        self.reevaluated += choices.reevaluated
        self.ignored += n_ignored

    def pass_over(
        self, targets: Int[Tensor, " N"], choices: Choices, groups: GroupIds = None
    ) -> None:
        """Add loss and hits of positions that are predicted but not counted."""
        targets, n_classes = as_labels(targets).cpu(), len(self.seen)
        places = grouped_labels(targets, groups, n_classes, self.n_groups) // n_classes
        hits = choices.classifier.cpu() == targets
        values = torch.stack([torch.ones(len(hits)), hits, choices.losses.cpu()], dim=1)
        self.passed.index_add_(0, places, values.double())

    def without(self, *groups: int) -> "Decisions":
        """Return the state as if some groups had not been seen; none is `reevaluated`."""
        kept = kept_groups(groups, self.n_groups)
        state = Decisions(self.seen, extras=self.extras)
        for name, sums in self._by_group.items():
            setattr(state, name, sums[kept].sum(0))
        state.passed = self.passed[kept].sum(0, keepdim=True)
        state.provenance = dict(self.provenance)
        return state

    def merge(self, other: "Decisions") -> None:
        """Add everything that `other` has seen, in place; `other` stays as it is."""
        sizes = [(len(self.seen), len(other.seen), "classes")]
        for mine, theirs, things in [*sizes, (self.n_groups, other.n_groups, "groups")]:
            if mine != theirs:
                raise ValueError(f"states of different shape: {mine} {things} here, {theirs} there")
        if not torch.equal(self.seen, other.seen):
            raise ValueError("states whose nearest-mean candidates differ: of different moments?")
        if self.extras != other.extras:
            raise ValueError(
                f"states with different extras: {self.extras} here, {other.extras} there"
            )
        check_provenance(self.provenance, other.provenance)
        self.ledger = self.ledger.joined(other.ledger)
        for name in self._kept:
            getattr(self, name).add_(getattr(other, name))
        for name, sums in self._by_group.items():
            sums.add_(other._by_group[name])
        self.passed += other.passed
        self.reevaluated += other.reevaluated
        self.ignored += other.ignored

    def pack(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return the whole state as tensors and JSON-able facts, for `unpack`."""
        tensors = {name: getattr(self, name) for name in ("seen", "passed", *self._kept)}
        tensors |= {f"{name}_by_group": sums for name, sums in self._by_group.items()}
        return tensors, [self.reevaluated, self.ignored, self.ledger.spans, self.provenance]

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], facts: Sequence[Any]) -> "Decisions":
        """Return the state that was packed."""
        counts = tensors.get("counts_by_group")
        extras = [extra for extra, name in cls._EXTRAS.items() if name in tensors]
        state = cls(tensors["seen"], 1 if counts is None else len(counts), extras)
        for name in state._kept:
            setattr(state, name, tensors[name])
        state._by_group = {name: tensors[f"{name}_by_group"] for name in state._by_group}
        state.passed = tensors["passed"]
        state.reevaluated, state.ignored, spans, state.provenance = facts
        state.ledger = Ledger(spans)
        return state

    def save(self, path: Path | str) -> None:
        """Write the state to one safetensors file, whole or not at all."""
        FORMAT.write(Path(path), *self.pack())

    @classmethod
    def load(cls, path: Path | str) -> "Decisions":
        """Load a saved state; refuse a damaged file, or one of another version."""
        with unpacking(Path(path)):
            return cls.unpack(*FORMAT.read(Path(path)))


class DecisionPass:
    """Decisions of one stream, by layer, accumulated part by part.

    The classifier's decisions, losses and hits are those of the last layer; the nearest class
    mean is that of each layer. Loss and hits also count positions without a label, so that the
    loss is that of all predicted positions. Arguments as in `class_decisions`.

    Attributes:
        stream: Gives the labelled embeddings.
        decisions: Decisions so far, by layer.
    """

    def __init__(
        self,
        stream: Stream,
        moments: Mapping[int, ClassMoments],
        *,
        min_count: int = 1,
        extras: Collection[Extra] = (),
    ) -> None:
        model = stream.model
        for layer, dim in stream.dims(list(moments)).items():
            state = moments[layer]
            if state.dim != dim or state.n_classes != stream.n_classes:
                raise ValueError(
                    f"moments of {state.n_classes} classes in {state.dim} dimensions, but the "
                    f"tokens have {stream.n_classes} and the model {dim}"
                )
        last = model.depth
        self.stream = stream
        self.decisions = {
            layer: Decisions(
                state.seen(min_count),
                stream.n_groups,
                # What comes before the nearest mean is known at the last layer only.
                [extra for extra in extras if extra != "ranks" or layer == last],
            )
            for layer, state in moments.items()
        }
        with measuring(model):
            self._chooser = ArgmaxScorer(
                model.classifier,
                model.bias,
                moments[last].means,
                self.decisions[last].seen,
                finish=getattr(model, "finish", None),
                extras=extras,
            )
            device = model.classifier.device
            self._nearest = {
                layer: NearestMeans(
                    state.means.to(device),
                    self.decisions[layer].seen.to(device),
                    n_rows=len(model.classifier),
                    extras=extras,
                )
                for layer, state in moments.items()
                if layer != last
            }

    def update(self, part: Part) -> None:
        """Add the decisions at the positions of some blocks, labelled as the stream labels them."""
        last = self.stream.model.depth
        kept = (part.labels != IGNORE).nonzero().flatten()
        labels, targets = part.labels[kept], part.targets[kept]
        groups = None if part.groups is None else part.groups[kept.cpu()]
        for layer, embeddings in part.embeddings.items():
            with self.stream.naming(part, layer):
                require_finite(embeddings, part.labels, kept)
        choices = self._chooser(part.embeddings[last][kept], targets)
        self.decisions[last].update(labels, choices, groups)
        for layer, choose in self._nearest.items():
            own = choose(part.embeddings[layer][kept])
            here = choices._replace(
                nearest=own.ids, reevaluated=own.reevaluated, ranks=None, cosine=own.cosine
            )
            if choices.library is not None and own.with_origin is not None:
                here = here._replace(library=(choices.library[0], own.with_origin))
            self.decisions[layer].update(labels, here, groups)
        if len(passed := (part.passed != IGNORE).nonzero().flatten()):
            with self.stream.naming(part, last):
                require_finite(part.embeddings[last], part.passed, passed)
            targets = part.passed[passed]
            groups = None if part.groups is None else part.groups[passed.cpu()]
            choices = self._chooser(part.embeddings[last][passed], targets)
            self.decisions[last].pass_over(targets, choices, groups)
        for accumulated in self.decisions.values():
            accumulated.ledger.source = self.stream.split.fingerprint
            accumulated.ledger.add(part.first, part.end)


def accumulate_decisions(
    passes: Sequence[DecisionPass],
    *,
    spans: Sequence[Span] | None = None,
    progress: Progress | None = None,
) -> None:
    """Accumulate a split in passes over the same model and layers, with one forward pass."""
    stream = passes[0].stream
    wanted = [(0, stream.split.n_blocks)] if spans is None else spans
    for part in stream.parts(list(passes[0].decisions), wanted, progress):
        for each in passes:
            each.update(part if each.stream is stream else each.stream.relabelled(part))


def class_decisions(
    model: LanguageModel,
    split: Split,
    moments: ClassMoments,
    *,
    min_count: int = 1,
    groups: int = 1,
    reading: LabelSpec = NEXT,
    extras: Collection[Extra] = (),
    precision: Precision = "fp32",
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Decisions:
    """Compute the loss and the decisions of classifier and nearest class mean in one pass.

    Args:
        model: The model that the moments are of.
        split: Usually the validation split.
        moments: Class means, of the training split.
        min_count: Embeddings that a class needs for its mean to be a candidate.
        extras: Further kinds of decision, see `nearest.Extra`.
        groups, reading, precision, batch_tokens, progress: As in `stream.measure`; the decisions
            are those of float64 for the embeddings of the forward pass.
    """
    parts = split.groups(groups) if groups > 1 else None
    stream = Stream(model, split, reading, parts, None, precision, batch_tokens)
    decisions = DecisionPass(stream, {model.depth: moments}, min_count=min_count, extras=extras)
    accumulate_decisions([decisions], progress=progress)
    return decisions.decisions[model.depth]
