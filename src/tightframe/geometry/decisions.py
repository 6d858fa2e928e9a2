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
from tightframe.formats import Count, Positive, TensorFormat
from tightframe.geometry.class_rows import ClassRows
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

FORMAT: TensorFormat[tuple[int, int, int, Spans, dict[str, Any]]] = TensorFormat(
    "Decisions",
    tuple[Positive, Count, Count, Spans, dict[str, Any]],
    {
        **{"seen": "bool C", "passed": "float64 G 3", "places": "count U"},
        **{"losses": "float64 U", "*": "count U"},
    },
    remedy="measure again",
    revision=2,
)


class _Sums:
    """Dense view by class id of what `Decisions` count, or None if they don't."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, decisions: "Decisions", owner: type) -> Any:
        kept = self._name in decisions._kept
        return decisions.rows.total(self._name) if kept else None


class Decisions:
    """Decisions of a classifier and of the nearest class mean at labelled positions.

    Everything is kept by the class of the label, so that any subset or frequency bin of classes
    can be selected later. Only labels that occur are stored, and with groups only the pairs of
    group and label that do; the sums by class id are made on request.

    Args:
        seen: The classes that have a mean (S): the candidates of the nearest-mean rule.
        groups: Number of groups of positions, of which `without` leaves some out.
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
        ignored, ledger, provenance, n_groups: As in `ClassMoments`.
    """

    counts, losses, classifier_hits, nearest_hits = (_Sums() for _ in range(4))
    agreements, agreements_full, agreements_top5 = (_Sums() for _ in range(3))
    agreements_cosine, agreements_library = _Sums(), _Sums()

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
        self.seen = seen.cpu()
        self._kept = self._SUMS + tuple(self._EXTRAS[extra] for extra in sorted(extras))
        types = {name: torch.float64 if name == "losses" else torch.int64 for name in self._kept}
        columns = {name: torch.zeros(0, dtype=dtype) for name, dtype in types.items()}
        self.rows = ClassRows(len(seen), columns, groups=groups)
        self.passed: Float64[Tensor, "G 3"] = torch.zeros(groups, 3, dtype=torch.float64)
        self.reevaluated = 0
        self.ignored = 0
        self.ledger = Ledger()
        self.provenance: dict[str, Any] = {}
        self.n_groups = groups

    @property
    def extras(self) -> tuple[Extra, ...]:
        """Kinds of decision that are kept besides those that always are."""
        return tuple(extra for extra, name in self._EXTRAS.items() if name in self._kept)

    @property
    def counts_by_group(self) -> Int64[Tensor, "G C"]:
        """Positions of each label in each group."""
        return self.rows.dense("counts")

    @property
    def n(self) -> int:
        """Number of labelled positions."""
        return int(self.rows["counts"].sum())

    @property
    def n_passed(self) -> int:
        """Number of positions that are predicted but not counted."""
        return int(self.passed[:, 0].sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats over all predicted positions, counted or not, or NaN."""
        return self._mean(float(self.rows["losses"].sum()) + float(self.passed[:, 2].sum()))

    @property
    def accuracy(self) -> float:
        """Share of all predicted positions where the classifier is right, or NaN without any."""
        return self._mean(int(self.rows["classifier_hits"].sum()) + float(self.passed[:, 1].sum()))

    def _mean(self, total: float) -> float:
        return total / n if (n := self.n + self.n_passed) else float("nan")

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
        if missing := [name for name in self._kept if name not in added]:
            raise ValueError(f"choices hold no {missing[0]}; make them with its extra")
        self._add(places, added)
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
        here = torch.isin(self.rows.places // len(self.seen), torch.tensor(kept))
        places, slots = self.rows.places[here], self.rows.slots[here]
        state._add(places % len(self.seen), {name: self.rows[name][slots] for name in self._kept})
        state.passed = self.passed[kept].sum(0, keepdim=True)
        state.provenance = dict(self.provenance)
        return state

    def merge(self, other: "Decisions") -> None:
        """Add everything that `other` has seen, in place; `other` stays as it is."""
        mine, theirs = (f"{len(x.seen)} classes, {x.n_groups} groups" for x in (self, other))
        if mine != theirs:
            raise ValueError(f"states of different shape: {mine} here, {theirs} there")
        if not torch.equal(self.seen, other.seen):
            raise ValueError("states whose nearest-mean candidates differ: of different moments?")
        if self.extras != other.extras:
            raise ValueError(f"different extras: {self.extras} here, {other.extras} there")
        check_provenance(self.provenance, other.provenance)
        self.ledger = self.ledger.joined(other.ledger)
        self._add(other.rows.places, other.rows.sorted())
        self.passed += other.passed
        self.reevaluated += other.reevaluated
        self.ignored += other.ignored

    def pack(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return the whole state as tensors and JSON-able facts, for `unpack`."""
        tensors = {"seen": self.seen, "passed": self.passed, "places": self.rows.places}
        facts = [self.n_groups, self.reevaluated, self.ignored, self.ledger.spans, self.provenance]
        return tensors | self.rows.sorted(), facts

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], facts: Sequence[Any]) -> "Decisions":
        """Return the state that was packed."""
        groups, reevaluated, ignored, spans, provenance = facts
        extras = [extra for extra, name in cls._EXTRAS.items() if name in tensors]
        state = cls(tensors["seen"], groups, extras)
        columns = {name: tensors[name] for name in state._kept}
        state.rows = ClassRows.of(len(state.seen), tensors["places"], columns, groups)
        state.passed, state.ledger = tensors["passed"], Ledger(spans)
        state.reevaluated, state.ignored, state.provenance = reevaluated, ignored, provenance
        return state

    def _add(self, places: Int64[Tensor, " n"], values: Mapping[str, Tensor]) -> None:
        """Add numbers to the sums of places, which may be repeated."""
        self.rows.add(places.unique())
        slots = self.rows.slots_of(places)
        for name in self._kept:
            sums = self.rows[name]
            sums.index_add_(0, slots, values[name].to(sums.dtype))

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

    The classifier's decisions, losses and hits are of the last layer, the nearest class means of
    each layer. Positions without a label count in loss and hits. Arguments as in `class_decisions`.

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
        device = model.classifier.device
        self.decisions = {
            layer: Decisions(
                state.seen(min_count),
                stream.n_groups,
                # What comes before the nearest mean is known at the last layer only.
                [extra for extra in extras if extra != "ranks" or layer == last],
            )
            for layer, state in moments.items()
        }
        seen = {layer: one.seen.to(device) for layer, one in self.decisions.items()}
        means = {
            layer: state.of_classes(seen[layer].to(state.device).nonzero().flatten()).means
            for layer, state in moments.items()
        }
        with measuring(model):
            self._chooser = ArgmaxScorer(
                model.classifier,
                model.bias,
                means[last].to(device),
                seen[last],
                finish=getattr(model, "finish", None),
                extras=extras,
            )
            self._nearest = {
                layer: NearestMeans(
                    means[layer].to(device),
                    seen[layer],
                    n_rows=len(model.classifier),
                    extras=extras,
                    buffers=self._chooser.buffers,
                )
                for layer in moments
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
        del part  # while the next one is made


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
        groups, reading, precision, batch_tokens, progress: As in `stream.class_moments`.
    """
    parts = split.groups(groups) if groups > 1 else None
    stream = Stream(model, split, reading, parts, None, precision, batch_tokens)
    decisions = DecisionPass(stream, {model.depth: moments}, min_count=min_count, extras=extras)
    accumulate_decisions([decisions], progress=progress)
    return decisions.decisions[model.depth]
