"""What defines a measure, and where the definitions come from."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal

from tightframe.geometry.intervals import Question
from tightframe.geometry.nearest import Extra
from tightframe.geometry.pairwise import OfPairs
from tightframe.geometry.values import BY_GROUPS, INDEPENDENT, Geometry, Value

PAPYAN = "Papyan, Han & Donoho 2020, arXiv:2008.08186"
GALANTI = "Galanti, Gyorgy & Hutter 2021, arXiv:2112.15121"
LIU = "Liu et al. 2023, arXiv:2303.06484"
JIANG = "Jiang et al. 2023, arXiv:2310.05351"
WU = "Wu & Papyan 2024, arXiv:2405.17767"
ROY = "Roy & Vetterli 2007"
GARRIDO = "Garrido et al. 2022, arXiv:2210.02885"
AGRAWAL = "Agrawal et al. 2022"
SUPERPOSITION = "Liu, Liu & Gore 2025, arXiv:2505.10465"
MU = "Mu, Bhat & Viswanath 2018, arXiv:1702.01417"  # principal directions removed
AMMAR = "Ammar et al. 2024, arXiv:2310.06823"
ETHAYARAJH = "Ethayarajh 2019, arXiv:1909.00512"
KOVALEVA = "after Kovaleva et al. 2021, arXiv:2105.06990"
TIMKEY = "Timkey & van Schijndel 2021, arXiv:2109.04404"
LIBRARY = "reference library of Wu & Papyan 2024"
OURS = "tightframe"

# What rests on a few pairs of classes is not smooth in the documents.
NO_INTERVAL = {
    "least": "one pair decides the least distance",
    "nearest": "the nearest class is another one in each resample",
    "riesz": "a few of the nearest pairs decide it",
    "tail": "a few pairs decide the tail",
    "tail001": "a few pairs decide the tail",
}

_EXTRAS: dict[str, Extra] = {
    "nc4_top5_head": "ranks",
    "nc4_cos_rate": "cosine",
    "nc4_rate_lib": "library",
}

# Measures that would be others of a sample of the classes.
_OF_THE_NUMBER = (
    *("nc2_equiang_mean", "nc2_equiang_cov", "nc2_equiang_rmsdev", "nc2_equiang_nn"),
    *("nc2_dot_mean", "nc2_etf_error", "nc3_dual_error", "gnc2_log_kernel_z"),
    *("gnc2_log_kernel_excess_pr", "gnc2_riesz_log", "gnc2_min_dist", "rank_", "spectrum_"),
)

WELCH = "[max(0, (K-D)/(D(K-1))), 1]"  # the Welch bound


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of collapse; its name is never used again for another quantity."""

    name: str
    function: Callable[[Geometry], Value]
    formula: str
    range: str
    # "low" or "high" is more collapsed; "-> x" where collapse has the value x; "-" says nothing
    # of collapse.
    direction: str
    source: str
    no_interval: str = ""  # why it can have no sound one

    @property
    def split(self) -> Literal["train", "val"]:
        """Where its numbers come from: class moments, or decisions."""
        return "val" if self.name.startswith(("nc4_", "ncc_")) else "train"

    @property
    def estimator(self) -> Literal["plain", "debiased", "debiased by groups"]:
        """Whether the noise in the class means is subtracted, and what tells it."""
        endings = self.name.split("_")
        if BY_GROUPS in endings:
            return "debiased by groups"
        return "debiased" if INDEPENDENT in endings else "plain"

    @property
    def least_count(self) -> int:
        """Samples that a class needs at least: a variance that is debiased needs two."""
        return 1 if self.estimator == "plain" else 2

    def by_groups(self) -> "Measure":
        """Return the twin of a debiased measure whose noise is estimated from group means."""
        assert self.estimator == "debiased", self.name
        endings = [BY_GROUPS if x == INDEPENDENT else x for x in self.name.split("_")]
        function: Callable[[Geometry], Value]
        if isinstance(self.function, OfPairs):
            quantity = f"{self.function.quantity.removesuffix(INDEPENDENT)}{BY_GROUPS}"
            function = dataclasses.replace(self.function, quantity=quantity)
        else:
            assert isinstance(self.function, partial), self.name
            function = partial(self.function.func, estimator=BY_GROUPS)
        formula = self.formula.replace("debiased", "debiased by groups")
        return dataclasses.replace(self, name="_".join(endings), function=function, formula=formula)

    @property
    def needs_scatter(self) -> bool:
        """Whether it is undefined for moments without within-class scatter."""
        return self.name.startswith("nc1_pinv") or self.name.endswith(("_within", "_total"))

    @property
    def needs_dimensions(self) -> bool:
        """Whether it is read off the moments of dimensions."""
        return self.name.startswith("dim_") or self.name.endswith("_stdz")

    @property
    def needs_every_class(self) -> bool:
        """Whether it is undefined where classes are left out for their small counts."""
        return self.needs_scatter or self.needs_dimensions

    @property
    def extra(self) -> Extra | None:
        """What decisions must tell for it besides what they always do."""
        return _EXTRAS.get(self.name)

    @property
    def question(self) -> Question:
        """What there is to know for its interval."""
        why_none = self.no_interval
        if isinstance(self.function, OfPairs):
            why_none = why_none or NO_INTERVAL.get(self.function.aggregate, "")
        if self.name.startswith("gnc2_log_kernel_med"):
            why_none = "the pairs at the median of angles are other ones in each resample"
        if self.needs_scatter:
            why_none = why_none or "the scatter is not kept by group of documents"
        if self.needs_dimensions:
            why_none = why_none or "the moments of dimensions are not kept by group of documents"
        return Question(
            self.name,
            self.function,
            self.split,
            self.range,
            self.least_count,
            why_none,
            by_groups=self.estimator == "debiased by groups",
            counts_classes=self.name.startswith(_OF_THE_NUMBER),
            of_variances=self.name.startswith("nc1_"),
        )
