"""A model on the contexts of a table: its logits context by context, and groups of equal support.

Logits, their finite component and predicted logits are made in blocks of contexts and never held
whole; only a few numbers are kept for each context.

Axes: V tokens, M contexts, D embedding, B contexts of a block, N contexts that take part, K length
of a vector, r rank of predicted logits.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from tightframe.geometry.moments import ClassMoments
from tightframe.ntp.prediction import Prediction
from tightframe.ntp.similarity import unit_rows
from tightframe.ntp.soft_labels import (
    SoftLabels,
    excess,
    finite_component,
    project_in_support,
    project_off_support,
)
from tightframe.ntp.support import EqualColumns

Reference = Literal["solution", "proxy", "shuffled"]
"""Logits to compare a model with: L_mm, the centred support, the centred random supports."""

Side = Literal["classifier", "embeddings"]

Logits = Callable[[Int[np.ndarray, " B"]], Float[np.ndarray, "V B"]]
"""Function that returns the logits of some contexts, each column centred over tokens."""

Vectors = Callable[[Int[np.ndarray, " B"]], Float[np.ndarray, "B K"]]
"""Function that returns the vectors of some contexts, one per row."""

BLOCK = 4_000_000  # entries of a block of logits; memory only
ROUNDING = 1e-10  # predicted rows this much shorter than the longest have no direction
LARGEST_GROUP = 2048  # contexts of a group that take part, drawn at random; pairs are its square


class ModelOnTable:
    """A model beside its table and the predictions from the table; shared results are cached.

    Args:
        classifier: One row per token; with a bias as its last column, if there is one.
        embeddings: One row per context; with a last column of ones, if there is a bias.
        labels: Soft labels of the table.
        solution: Prediction from L_mm.
        proxy: Prediction from the centred support.
        shuffled: Predictions from random supports of the same sizes.
        finish: Function that the model applies to its logits last.
        outside: Share of other tokens, see `Embedded.outside`.
    """

    def __init__(
        self,
        classifier: Float[np.ndarray, "V D"],
        embeddings: Float[np.ndarray, "M D"],
        labels: SoftLabels,
        *,
        solution: Prediction | None = None,
        proxy: Prediction | None = None,
        shuffled: Sequence[Prediction] = (),
        finish: Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None = None,
        outside: Float[np.ndarray, " M"] | None = None,
    ) -> None:
        self.classifier = classifier
        self.embeddings = embeddings
        self.labels = labels
        self.finish = finish
        self.outside = outside
        self.references: dict[Reference, tuple[Prediction, ...]] = {
            "solution": () if solution is None else (solution,),
            "proxy": () if proxy is None else (proxy,),
            "shuffled": tuple(shuffled),
        }

    def logits(self, contexts: Int[np.ndarray, " B"]) -> Float[np.ndarray, "V B"]:
        """Return the model's logits after some contexts, each column centred over tokens."""
        rows = self.embeddings[contexts] @ self.classifier.T  # (B, V)
        if self.finish is not None:
            rows = self.finish(rows)
        with np.errstate(invalid="ignore"):  # `by_context` refuses what is not finite, by its place
            columns: Float[np.ndarray, "V B"] = (rows - rows.mean(axis=1, keepdims=True)).T
        return columns

    @cached_property
    def contexts(self) -> "ByContext":
        """Numbers per context, against every reference."""
        named = {
            f"{reference} {i}": prediction
            for reference, predictions in self.references.items()
            for i, prediction in enumerate(predictions)
        }
        return by_context(self.logits, self.labels, named)

    def against(self, reference: Reference) -> list["Against"]:
        """Return the inner products with each prediction of a reference."""
        return [
            self.contexts.against[f"{reference} {i}"]
            for i in range(len(self.references[reference]))
        ]

    @cached_property
    def groups(self) -> "SupportGroups":
        """DistinctSupport of contexts with equal supports."""
        return support_groups(self.labels)

    @cached_property
    def embedding_collapse(self) -> "SupportCollapse":
        """Subspace collapse of the embeddings."""
        return support_collapse(lambda contexts: self.embeddings[contexts], self.groups)

    @cached_property
    def off_support_collapse(self) -> "SupportCollapse":
        """Subspace collapse of the off-support component of the logits."""
        labels = self.labels

        def off_support(contexts: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B V"]:
            support = labels.support[:, contexts].toarray()
            return np.ascontiguousarray(project_off_support(self.logits(contexts), support).T)

        return support_collapse(off_support, self.groups, block=max(1, BLOCK // labels.vocab_size))

    @cached_property
    def centred_classifier(self) -> Float[np.ndarray, "V D"]:
        """Classifier with each column centred over tokens, which changes no softmax."""
        centred: Float[np.ndarray, "V D"] = self.classifier - self.classifier.mean(axis=0)
        return centred

    def rows(self, side: Side) -> Float[np.ndarray, "N D"]:
        """Return the model's rows whose Gram matrix is compared."""
        return self.centred_classifier if side == "classifier" else self.embeddings

    def directions(
        self, side: Side, prediction: Prediction
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n r"], int]:
        """Return unit rows of model and prediction where both have one, and how many do not."""
        ours, nonzero = unit_rows(self.rows(side), rounding=ROUNDING)
        theirs, predicted_nonzero = unit_rows(predicted_rows(side, prediction), rounding=ROUNDING)
        both = nonzero & predicted_nonzero
        return ours[both], theirs[both], int((~both).sum())


def predicted_rows(side: Side, prediction: Prediction) -> Float[np.ndarray, "N r"]:
    """Return rows whose Gram matrix is the predicted one, up to its norm."""
    return prediction.classifier if side == "classifier" else prediction.embeddings


@dataclasses.dataclass(frozen=True, eq=False)
class Against:
    """Inner products of logits and predicted logits per context, and squared predicted norms."""

    logits: Float[np.ndarray, " M"]
    off_support: Float[np.ndarray, " M"]  # of the off-support component of the logits
    finite: Float[np.ndarray, " M"]  # of L_in
    squared: Float[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True, eq=False)
class ByContext:
    """Numbers of each context; `squared_*` are squared norms of its column.

    Attributes:
        excess: CE(L) - H of all contexts together, in nats.
        squared_logits: Squared norm of the logits, centred over tokens.
        squared_off_support: Squared norm of the off-support component P_perp of the logits.
        squared_within: Squared norm of the in-support component P_F of the logits.
        squared_finite: Squared norm of L_in.
        squared_error: Squared norm of P_F(L) - L_in.
        within_dot_finite: <P_F(L), L_in>.
        max_error: Largest error of a difference of logits in the support, with log P as the truth.
        margin: Smallest logit in the support minus the largest off it; infinite where no token is
            off the support.
        against: Inner products by the name of the prediction.
    """

    excess: float
    squared_logits: Float[np.ndarray, " M"]
    squared_off_support: Float[np.ndarray, " M"]
    squared_within: Float[np.ndarray, " M"]
    squared_finite: Float[np.ndarray, " M"]
    squared_error: Float[np.ndarray, " M"]
    within_dot_finite: Float[np.ndarray, " M"]
    max_error: Float[np.ndarray, " M"]
    margin: Float[np.ndarray, " M"]
    against: dict[str, Against]


def by_context(
    logits: Logits,
    labels: SoftLabels,
    predictions: Mapping[str, Prediction],
    *,
    block: int = BLOCK,
) -> ByContext:
    """Compute the numbers of each context in one pass over blocks of contexts.

    Args:
        logits: Function that returns the model's logits.
        labels: Soft labels of the contexts.
        predictions: Logits to compare the model's with.
        block: Entries of a block of logits; memory only, never the result.

    Raises:
        ValueError: A logit is not finite; the message names token and context.
    """
    n = labels.n_contexts
    names = [field.name for field in dataclasses.fields(ByContext)][1:-1]
    columns = {name: np.empty(n) for name in names}
    against = {name: Against(*(np.empty(n) for _ in range(4))) for name in predictions}
    total = 0.0
    size = max(1, block // labels.vocab_size)
    for contexts in np.split(np.arange(n), range(size, n, size)):
        made = logits(contexts)
        _check_finite(made, contexts)
        weights = labels.weights[contexts]
        share = float(weights.sum())
        part = SoftLabels(labels.probabilities[:, contexts], weights / share)
        total += share * excess(made, part)
        support = part.matrix
        within, off_support = project_in_support(made, support), project_off_support(made, support)
        finite = finite_component(part).toarray()
        error = within - finite
        numbers = {
            "squared_logits": _dots(made, made),
            "squared_off_support": _dots(off_support, off_support),
            "squared_within": _dots(within, within),
            "squared_finite": _dots(finite, finite),
            "squared_error": _dots(error, error),
            "within_dot_finite": _dots(within, finite),
            # Off the support the error is 0, in it its mean is 0: its range is that in the support.
            "max_error": error.max(axis=0) - error.min(axis=0),
            "margin": made.min(axis=0, where=support, initial=np.inf)
            - made.max(axis=0, where=~support, initial=-np.inf),
        }
        for name, column in numbers.items():
            columns[name][contexts] = column
        for name, prediction in predictions.items():
            predicted = prediction.classifier @ prediction.embeddings[contexts].T  # (V, B)
            products = against[name]
            products.logits[contexts] = _dots(made, predicted)
            products.off_support[contexts] = _dots(off_support, predicted)
            products.finite[contexts] = _dots(finite, predicted)
            products.squared[contexts] = _dots(predicted, predicted)
    return ByContext(excess=total, **columns, against=against)


def _dots(a: Float[np.ndarray, "V B"], b: Float[np.ndarray, "V B"]) -> Float[np.ndarray, " B"]:
    products: Float[np.ndarray, " B"] = np.einsum("vb,vb->b", a, b)
    return products


def _check_finite(logits: Float[np.ndarray, "V B"], contexts: Int[np.ndarray, " B"]) -> None:
    if not np.isfinite(logits).all():
        token, place = np.argwhere(~np.isfinite(logits))[0]
        raise ValueError(
            f"logits: {logits[token, place]} for token {token}, context {contexts[place]}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SupportGroups:
    """Groups of two or more contexts with the same support.

    Attributes:
        members: The contexts of each group, ascending.
        n_alone: Number of contexts whose support no other context has.
        n_left: Number of contexts beyond `LARGEST_GROUP` of their group.
    """

    members: tuple[Int[np.ndarray, " _"], ...]
    n_alone: int
    n_left: int

    @property
    def n_contexts(self) -> int:
        """Number N of contexts that take part."""
        return sum(map(len, self.members))

    @property
    def excluded(self) -> int:
        """Number of contexts that do not take part."""
        return self.n_alone + self.n_left


@dataclasses.dataclass(frozen=True)
class SupportCollapse:
    """Collapse of the vectors of contexts with equal supports; NaN where there is no such pair.

    Attributes:
        within: Mean cosine of pairs in the same group.
        within_min: Smallest cosine of such a pair.
        between: Mean cosine of pairs in different groups.
        nc1: Sum of squares around group means over the sum of squares around the overall mean.
        n_within: Number of pairs in the same group.
        n_between: Number of pairs in different groups.
        n_zero: Number of zero vectors; they are in no pair.
    """

    within: float
    within_min: float
    between: float
    nc1: float
    n_within: int
    n_between: int
    n_zero: int


def support_groups(
    labels: SoftLabels, *, most: int = LARGEST_GROUP, seed: int = 0
) -> SupportGroups:
    """Group contexts by support; from a group larger than `most`, that many are drawn by `seed`."""
    equal = EqualColumns.of(labels.support)
    in_order = np.argsort(equal.members, kind="stable")
    generator = np.random.default_rng(seed)
    members, n_left = [], 0
    for group in np.split(in_order, np.cumsum(equal.counts)[:-1]):
        if len(group) > most:
            n_left += len(group) - most
            group = np.sort(generator.choice(group, most, replace=False))
        if len(group) > 1:
            members.append(group)
    return SupportGroups(tuple(members), int((equal.counts == 1).sum()), n_left)


def support_collapse(
    vectors: Vectors, groups: SupportGroups, *, block: int = 4096
) -> SupportCollapse:
    """Compute cosines within and between groups, and NC1 with supports as labels.

    Args:
        vectors: Function that returns the vectors of contexts.
        groups: Contexts of equal support.
        block: Contexts whose vectors are held at once, or those of the largest group; memory only.
    """
    total: ClassMoments | None = None
    sum_of_units, within_ss = np.zeros(0), 0.0
    n_pairs, sum_of_cosines, smallest = 0, 0.0, math.inf
    n_nonzero, n_zero, squares, n_same_group = 0, 0, 0.0, 0
    for part in _parts(groups.members, block):
        rows = vectors(np.concatenate(part))  # (B, K)
        sizes = np.array([len(group) for group in part])
        owners = np.repeat(np.arange(len(part)), sizes)
        own = ClassMoments(len(part), rows.shape[1])
        own.update(torch.from_numpy(rows), torch.from_numpy(owners))
        within_ss += float(own.within_ss.sum())
        total = total or ClassMoments(1, rows.shape[1])
        total.update(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64))
        units, nonzero = unit_rows(rows)
        n_zero += int((~nonzero).sum())
        sum_of_units = sum_of_units + units.sum(axis=0) if sum_of_units.size else units.sum(axis=0)
        for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
            unit = units[start : start + size][nonzero[start : start + size]]  # (n, K)
            n = len(unit)
            n_nonzero, n_same_group = n_nonzero + n, n_same_group + n * n
            squares += float(np.square(unit.sum(axis=0)).sum())
            if n > 1:
                cosines = (unit @ unit.T)[np.triu_indices(n, 1)]
                n_pairs += len(cosines)
                sum_of_cosines += float(cosines.sum())
                smallest = min(smallest, float(cosines.min()))
    if total is None:
        return SupportCollapse(math.nan, math.nan, math.nan, math.nan, 0, 0, 0)
    # Ordered pairs in different groups: all of them, less those in the same group.
    n_between = n_nonzero**2 - n_same_group
    between = float(np.square(sum_of_units).sum()) - squares
    total_ss = float(total.within_ss[0])
    return SupportCollapse(
        within=sum_of_cosines / n_pairs if n_pairs else math.nan,
        within_min=smallest if n_pairs else math.nan,
        between=between / n_between if n_between else math.nan,
        nc1=within_ss / total_ss if total_ss > 0 else math.nan,
        n_within=n_pairs,
        n_between=n_between // 2,
        n_zero=n_zero,
    )


def _parts(
    members: Sequence[Int[np.ndarray, " _"]], block: int
) -> Iterator[list[Int[np.ndarray, " _"]]]:
    """Yield lists of whole groups, as many as `block` contexts hold, at least one."""
    part: list[Int[np.ndarray, " _"]] = []
    held = 0
    for group in members:
        if part and held + len(group) > block:
            yield part
            part, held = [], 0
        part.append(group)
        held += len(group)
    if part:
        yield part
