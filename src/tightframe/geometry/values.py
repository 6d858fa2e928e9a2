"""The argument of every measure (`Geometry`) and its result (`Value`).

Axes: C classes of the moments, K selected ones, V vocabulary, D embedding.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tightframe.geometry import tiles
from tightframe.geometry.closed_forms import ClassSet, select, standardised, without_principal
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.dimensions import DimensionMoments
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.noise import GroupNoise, group_noise, told_by_groups
from tightframe.geometry.pairs import Aggregate, Cdnv, PairSummary, Quantity, UnitDistance, sweep

# Views of class means besides the plain one: each dimension over its standard deviation,
# and without the first principal directions of the between-class scatter.
VIEWS = ("stdz", "pc1", "pc3", "pc10")
# How names end, of quantities and of measures: debiased for independent samples, and by groups.
INDEPENDENT, BY_GROUPS = ESTIMATORS = ("db", "dbg")
NO_GROUPS = "needs groups of documents: --groups 20"
RULED = "of which one group holds more than half"


@dataclasses.dataclass(frozen=True, repr=False)
class Value:
    """One number, with how much was averaged and left out.

    `n` and `excluded` count the same things (classes, pairs of classes, positions), and add up to
    all that were observed. What is undefined is NaN with n = 0 and says so in `reason`.
    """

    value: float
    n: int
    excluded: int
    reason: str = ""  # why things were left out, or what to beware of
    low: float = math.nan  # 95 % interval, where there is one
    high: float = math.nan
    centre: float = math.nan  # the estimate that the interval is of
    resampled: str = ""  # what the interval resamples

    @property
    def text(self) -> str:
        """Value, or the centre of its interval, with the interval: "0.713 [0.702, 0.724]"."""
        if math.isnan(self.low):
            return f"{self.value:.3g}"
        return f"{self.centre:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def __repr__(self) -> str:
        return f"Value({self.text}, n={self.n:,})"

    def __float__(self) -> float:
        return self.value


class Geometry:
    """Class moments beside the classifier, and what several measures share: made once, lazily.

    Args:
        moments: Of the training split.
        classifier: One row per token; only the rows of selected classes are used.
        decisions: Of the validation split; without them, NC4 is undefined.
        min_count: Minimum number of embeddings per class.
        classes: The only ones to look at, seen from a global mean of their own; all by default.
        ood: Moments of an out-of-distribution stream through the same model, for NC5.
        noise: Of the class means, where it is known from more groups than `moments` hold; by
            default it is estimated from theirs.
    """

    def __init__(
        self,
        moments: ClassMoments,
        classifier: Float[Tensor, "V D"],
        decisions: Decisions | None = None,
        *,
        min_count: int = 1,
        classes: Bool[Tensor, " C"] | None = None,
        ood: ClassMoments | None = None,
        noise: GroupNoise | None = None,
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
        if ood is not None and ood.dim != moments.dim:
            raise ValueError(
                f"out-of-distribution embeddings have {ood.dim} dimensions, the others "
                f"{moments.dim}; are they of another model?"
            )
        if classes is None:
            classes = torch.ones(moments.n_classes, dtype=torch.bool)
        if classes.shape != (moments.n_classes,):
            raise ValueError(
                f"classes must say yes or no for each of {moments.n_classes} classes, got shape "
                f"{tuple(classes.shape)}"
            )
        self.moments = moments
        self.decisions = decisions
        self.ood = ood
        self.min_count = min_count
        self.class_mask: Bool[Tensor, " C"] = classes.cpu()
        has_group_noise = torch.zeros_like(moments.counts, dtype=torch.bool)
        if noise is not None:
            has_group_noise[noise.ids] = True
        elif moments.n_groups > 1:
            has_group_noise = told_by_groups(moments.counts_by_group)
        self.classes: ClassSet = select(
            moments, min_count=min_count, classes=classes, first=has_group_noise
        )
        self.has_group_noise: Bool[Tensor, " C"] = has_group_noise
        self._given_noise = noise
        self.n_observed = int(((moments.counts > 0).cpu() & self.class_mask).sum())
        self._all_rows = classifier.detach()
        self._views: dict[str, tuple[ClassSet | None, str]] = {}
        self._planned: dict[str, set[Aggregate]] = {}
        self._pairs: dict[str, PairSummary] = {}

    @cached_property
    def noise(self) -> GroupNoise | None:
        """Noise of class means from sampling whole documents; None without groups of them."""
        ids = self.classes.ids[self.has_group_noise[self.classes.ids]]  # they come first
        if self._given_noise is not None:
            return self._given_noise.of(ids)
        return group_noise(self.moments, ids) if self.moments.n_groups > 1 else None

    @cached_property
    def _grouped(self) -> ClassSet | None:
        return None if self.noise is None else self.classes.grouped(self.noise)

    def class_set(self, estimator: str) -> tuple[ClassSet | None, str]:
        """Return the classes whose noise an estimator (a name's ending) tells, or why not.

        Without an estimator, these are all selected classes.
        """
        if not estimator:
            return self.classes, ""
        if estimator == INDEPENDENT:
            return self.classes.with_two_samples, ""
        return self._grouped, "" if self._grouped is not None else NO_GROUPS

    @cached_property
    def classifier(self) -> Float64[Tensor, "K D"]:
        """Rows of the selected classes, not centred."""
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
        defined = self.classes.nonzero & (norms > 0)
        return self.dots[defined] / (norms[defined] * self.classes.norms[defined])

    def within(self, *, balanced: bool = False) -> tuple[Float64[Tensor, "D D"] | None, str]:
        """Return the covariance within the selected classes, or None and why there is none.

        Each sample has equal weight, or with `balanced` each class.
        """
        classes, moments = self.classes, self.moments
        scatter = moments.balanced_scatter if balanced else moments.scatter
        if scatter is None:
            kind = "class-balanced" if balanced else "pooled"
            return None, f"the moments hold no {kind} scatter; measure with it"
        final = moments.label_counts
        if balanced and (final is None or not torch.equal(moments.counts, final)):
            return None, "the moments have not seen all samples of label_counts"
        rest = torch.ones_like(moments.counts, dtype=torch.bool)
        rest[classes.ids] = False
        if bool((moments.within_ss[rest] > 0).any()):
            return None, "the scatter holds classes that are left out"
        if classes.k == 0:
            return None, "no classes"
        return scatter / (classes.k if balanced else classes.counts.sum()), ""

    @cached_property
    def dimensions(self) -> tuple[DimensionMoments | None, str]:
        """Moments of the dimensions over the selected classes, or None and why there are none."""
        dimensions: DimensionMoments | None = self.moments.dimensions
        if dimensions is None:
            return None, "the moments hold none of dimensions; measure with them"
        if dimensions.n != int(self.classes.counts.sum()):
            return None, "the moments of dimensions hold classes that are left out"
        return dimensions, ""

    def view(self, name: str) -> tuple[ClassSet | None, str]:
        """Return the classes in another view (a name of `VIEWS`), or None and why not."""
        if name and name not in self._views:
            self._views[name] = self._viewed(name)
        return self._views[name] if name else (self.classes, "")

    def _viewed(self, name: str) -> tuple[ClassSet | None, str]:
        if name.startswith("pc"):
            return without_principal(self.classes, int(name[2:])), ""
        dimensions, reason = self.dimensions
        if dimensions is None:
            return None, reason
        return standardised(self.classes, dimensions.variances.to(self.classes.means)), ""

    def plan(self, quantity: str, aggregate: Aggregate) -> None:
        """Announce what `pairs` will be asked for, so that one sweep serves all measures."""
        if estimator_of(quantity) == BY_GROUPS and self._grouped is None:
            return
        self._planned.setdefault(quantity, set()).add(aggregate)

    def pairs(self, quantity: str, aggregate: Aggregate) -> PairSummary:
        """Return a quantity's statistics; the first call sweeps for all planned of its view."""
        if quantity not in self._pairs or aggregate not in self._planned[quantity]:
            self.plan(quantity, aggregate)
            mine = [name for name in self._planned if swept_with(name) == swept_with(quantity)]
            classes, reason = self.view(swept_with(quantity))
            assert classes is not None, reason
            rotated = any(view_of(name).startswith("pc") for name in mine)
            axes = classes.principal_means if rotated else None
            with tiles.apart(classes.means.device):
                requests = {name: (self.quantity(name), self._planned[name]) for name in mine}
            self._pairs |= sweep(classes.means, requests, rotated=axes)
        return self._pairs[quantity]

    def quantity(self, name: str) -> Quantity:
        """Return the quantity of a name; debiased ones are of the first classes only."""
        classes, reason = self.view(view_of(name))
        assert classes is not None, reason
        here = torch.zeros_like(classes.global_mean)
        if name.removesuffix(f"_{view_of(name)}") == "unit":
            norms = classes.norms.where(classes.nonzero, math.nan)
            return UnitDistance(norms, here)
        if name == "unit_unc":
            norms = classes.raw_norms.where(classes.raw_norms > 0, math.nan)
            return UnitDistance(norms, -classes.global_mean)
        if not (estimator := estimator_of(name)):
            return Cdnv(classes.variances, 2 if "_p2" in name else 1)
        first, reason = self.class_set(estimator)
        assert first is not None, reason
        noise, joint = first.noise, None if first.by_groups is None else first.by_groups.joint
        base = name.removesuffix(f"_{estimator}")
        if not base.startswith("unit"):
            power = 2 if "_p2" in name else 1
            return Cdnv(first.unbiased_variances, power, noise, joint)
        squared = first.debiased_squared_norms
        if base == "unit_unc":
            here, squared = -classes.global_mean, first.raw_norms.square() - noise
        norms = squared.where(squared > 0, math.nan).sqrt()
        return UnitDistance(norms, here, noise, joint)

    def undefined(self, reason: str, *, pairs: bool = False) -> Value:
        """Return an undefined value over the classes, or their pairs, and why."""
        n = self.n_observed
        return Value(math.nan, 0, n * (n - 1) // 2 if pairs else n, reason)

    def of_classes(
        self,
        value: float,
        n: int,
        *,
        classes: ClassSet | None = None,
        why: str = "",
        note: str = "",
    ) -> Value:
        """Return a value over n classes; `why` is what the others of the set lack."""
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
        """Return a value over n pairs of classes; `left` counts the others by reason."""
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
        enough = classes.k if classes.by_groups is None else self.classes.with_two_samples.k
        fewer = f"classes with fewer than {least} samples"
        ruled = {f"classes {RULED}": enough - classes.k}
        left = {fewer: self.n_observed - enough, **ruled, **left}
        reasons = [f"{why}: {count} left out" for why, count in left.items() if count]
        if math.isnan(value):
            n = 0
            note = note or f"undefined for {classes.k} classes in {classes.dim} dimensions"
        return Value(value, n, observed - n, "; ".join([*reasons, *([note] if note else [])]))


def view_of(quantity: str) -> str:
    """Return which of `VIEWS` a quantity of `Geometry.quantity` is in; "" is the plain one."""
    last = quantity.rpartition("_")[2]
    return last if last in VIEWS else ""


def estimator_of(quantity: str) -> str:
    """Return the estimator of a quantity: one of `ESTIMATORS`, or "" if it is not debiased."""
    last = quantity.rpartition("_")[2]
    return last if last in ESTIMATORS else ""


def swept_with(quantity: str) -> str:
    """Return the view whose sweep serves a quantity.

    Those in "pc" are made of the first principal dimensions of the plain one.
    """
    view = view_of(quantity)
    return "" if view.startswith("pc") else view


def std(values: Float64[Tensor, " N"]) -> float:
    """Return the standard deviation (ddof 1); NaN for fewer than two values."""
    return float(values.std()) if len(values) > 1 else math.nan


def coefficient(numerator: float, denominator: float) -> float:
    """Return a quotient, e.g. the coefficient of variation std / mean; NaN if it is x / 0."""
    return numerator / denominator if denominator else math.nan


def note_near_zero(mean: float, spread: float) -> str:
    """Return a note where the mean is so near 0 that it decides a coefficient of variation."""
    return (
        "the mean is within a tenth of the std of 0: read both" if abs(mean) < spread / 10 else ""
    )
