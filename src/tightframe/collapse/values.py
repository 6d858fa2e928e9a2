"""What a measure is a function of (`Geometry`) and what it gives (`Value`).

Axes: C classes of the moments, K selected ones, V vocabulary, D embedding.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tightframe.moments.geometry import ClassSet, select
from tightframe.moments.pairs import Aggregate, Cdnv, PairSummary, Quantity, UnitDistance, sweep
from tightframe.moments.state import ClassMoments, Decisions


@dataclasses.dataclass(frozen=True)
class Value:
    """One number, with what was averaged and what was not.

    `n` and `excluded` count the same things (classes, pairs of classes, positions), and add up to
    all that were observed. What is undefined is NaN with n = 0 and says so in `reason`.
    """

    value: float
    n: int
    excluded: int
    reason: str = ""  # why things were left out, or what to beware of
    low: float = math.nan  # 95 % interval, where there is one
    high: float = math.nan
    resampled: str = ""  # what the interval resamples


class Geometry:
    """Class moments beside the classifier, and what several measures share: made once, lazily.

    Args:
        moments: Of the training split.
        classifier: A row a token; only the rows of selected classes are used.
        decisions: Of the validation split; without them, what they decide is undefined.
        min_count: Embeddings that a class needs to take part.
    """

    def __init__(
        self,
        moments: ClassMoments,
        classifier: Float[Tensor, "V D"],
        decisions: Decisions | None = None,
        *,
        min_count: int = 1,
    ) -> None:
        if classifier.shape[0] < moments.n_classes or classifier.shape[1] != moments.dim:
            raise ValueError(
                f"classifier has shape {tuple(classifier.shape)}, expected at least "
                f"{moments.n_classes} rows of {moments.dim}; is it of another model?"
            )
        if decisions is not None and len(decisions.seen) != moments.n_classes:
            raise ValueError(
                f"decisions are about {len(decisions.seen)} classes, moments about "
                f"{moments.n_classes}; are they of another model?"
            )
        self.moments = moments
        self.decisions = decisions
        self.min_count = min_count
        self.classes: ClassSet = select(moments, min_count=min_count)
        self.n_observed = int((moments.counts > 0).sum())
        self._all_rows = classifier.detach()
        self._planned: dict[str, set[Aggregate]] = {}
        self._pairs: dict[str, PairSummary] = {}

    @cached_property
    def classifier(self) -> Float64[Tensor, "K D"]:
        """The rows of the selected classes, not centred."""
        ids = self.classes.ids.to(self._all_rows.device)
        return self._all_rows[ids].to(self.classes.means)

    @cached_property
    def dots(self) -> Float64[Tensor, " K"]:
        """Inner product of each class's row of the classifier with its centred mean."""
        return (self.classifier * self.classes.means).sum(1)

    @cached_property
    def cosines(self) -> Float64[Tensor, " k"]:
        """Cosine of each row with its centred mean, of the classes where both have a direction."""
        norms = self.classifier.square().sum(1).sqrt()
        defined = self.classes.directed & (norms > 0)
        return self.dots[defined] / (norms[defined] * self.classes.norms[defined])

    def within(self, *, balanced: bool = False) -> tuple[Float64[Tensor, "D D"] | None, str]:
        """Covariance within the selected classes, or None and why there is none.

        Each sample has equal weight, or with `balanced` each class.
        """
        classes, moments = self.classes, self.moments
        scatter = moments.balanced_scatter if balanced else moments.scatter
        if scatter is None:
            kind = "class-balanced" if balanced else "pooled"
            return None, f"the moments hold no {kind} scatter; measure with it"
        told = moments.label_counts
        if balanced and (told is None or not torch.equal(moments.counts, told)):
            return None, "the moments have not seen all samples that they were told of"
        if bool((moments.spreads[moments.counts < self.min_count] > 0).any()):
            return None, f"the scatter holds classes with fewer than {self.min_count} samples"
        if classes.k == 0:
            return None, "no classes"
        return scatter / (classes.k if balanced else classes.counts.sum()), ""

    def plan(self, quantity: str, aggregate: Aggregate) -> None:
        """Say what will be asked of `pairs`, so that one sweep serves all measures."""
        self._planned.setdefault(quantity, set()).add(aggregate)

    def pairs(self, quantity: str, aggregate: Aggregate) -> PairSummary:
        """A quantity's reductions; the first call sweeps for all that were planned."""
        if quantity not in self._pairs or aggregate not in self._planned[quantity]:
            self.plan(quantity, aggregate)
            requests = {name: (self.quantity(name), kinds) for name, kinds in self._planned.items()}
            self._pairs = sweep(self.classes.means, requests)
        return self._pairs[quantity]

    def quantity(self, name: str) -> Quantity:
        """What `name` says of a pair of classes; those in `_db` are about `classes.repeated`."""
        classes = self.classes
        repeated = classes.repeated
        here = torch.zeros_like(classes.global_mean)
        if name == "unit":
            norms = classes.norms.where(classes.directed, math.nan)
            return UnitDistance(norms, here)
        if name == "unit_unc":
            norms = classes.raw_norms.where(classes.raw_norms > 0, math.nan)
            return UnitDistance(norms, -classes.global_mean)
        if name == "unit_db":
            squared = repeated.debiased_squared_norms
            norms = squared.where(squared > 0, math.nan).sqrt()
            return UnitDistance(norms, here, repeated.noise)
        power = 2 if "_p2" in name else 1
        if name.endswith("_db"):
            return Cdnv(repeated.unbiased_variances, power, repeated.noise)
        return Cdnv(classes.variances, power)

    def undefined(self, reason: str) -> Value:
        """No value over the classes, and why."""
        return Value(math.nan, 0, self.n_observed, reason)

    def of_classes(
        self,
        value: float,
        n: int,
        *,
        classes: ClassSet | None = None,
        why: str = "",
        note: str = "",
    ) -> Value:
        """A value over n classes; `why` is what the others of the set lack."""
        classes = classes or self.classes
        left = {f"classes {why}": classes.k - n}
        return self._value(value, n, self.n_observed, classes, left, note)

    def of_pairs(
        self,
        value: float,
        n: int,
        *,
        classes: ClassSet | None = None,
        left: Mapping[str, int] | None = None,
        note: str = "",
    ) -> Value:
        """A value over n pairs of classes; `left` counts the others of the set by reason."""
        observed = self.n_observed * (self.n_observed - 1) // 2
        left = {f"pairs {why}": count for why, count in (left or {}).items()}
        return self._value(value, n, observed, classes or self.classes, left, note)

    def _value(
        self,
        value: float,
        n: int,
        observed: int,
        classes: ClassSet,
        left: Mapping[str, int],
        note: str,
    ) -> Value:
        least = self.min_count if classes is self.classes else max(2, self.min_count)
        left = {f"classes with fewer than {least} samples": self.n_observed - classes.k, **left}
        reasons = [f"{why}: {count} left out" for why, count in left.items() if count]
        if math.isnan(value):
            n = 0
            note = note or f"undefined for {classes.k} classes in {classes.dim} dimensions"
        return Value(value, n, observed - n, "; ".join([*reasons, *([note] if note else [])]))


def std(values: Float64[Tensor, " N"]) -> float:
    """Standard deviation (ddof 1); NaN for fewer than two values."""
    return float(values.std()) if len(values) > 1 else math.nan


def coefficient(numerator: float, denominator: float) -> float:
    """Their quotient, e.g. the coefficient of variation std / mean; NaN if that is x / 0."""
    return numerator / denominator if denominator else math.nan


def note_near_zero(mean: float, spread: float) -> str:
    """What to beware of where the mean is so near 0 that it rules a coefficient of variation."""
    return (
        "the mean is within a tenth of the std of 0: read both" if abs(mean) < spread / 10 else ""
    )
