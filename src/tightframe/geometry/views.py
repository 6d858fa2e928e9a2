"""The two views of a sweep: which measures stand on which panels, and their plain meaning.

The published view has the forms of the paper's tables and figures (Wu & Papyan 2024, arXiv:
2405.17767); the robust view has forms that are free of units and not decided by a few pairs of
classes, and without the bias of small counts where there is such a form: `best_form` says which one
results have, here and nowhere else. Formulas, ranges, directions and sources are those of
`geometry.MEASURES`.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tightframe.geometry.measures import MEASURES, Measure
from tightframe.results import Row

if TYPE_CHECKING:
    import pandas as pd

NEAR_UNIGRAM = 0.03  # share of the unigram entropy within which a loss is close to it

NO_DEBIASED = (
    "There is no form of it without the noise of the class means, which moves it: compare it at "
    "equal counts only."
)
# What is added to a robust panel, by the estimator of the form that it shows.
_ESTIMATED = {
    "debiased by groups": "corrected for what the choice of documents adds to the class means.",
    "debiased": "corrected for the noise in the means of rare tokens, as if the positions of a "
    "document did not depend on each other.",
    "plain": "in these results not corrected for the noise in the means of rare tokens: measure "
    "again.",
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One measure against validation loss."""

    metric: str  # name of a Measure
    family: str  # what the literature calls it
    title: str
    meaning: str  # for somebody who has not read the paper
    others: tuple[str, ...] = ()  # forms that stand here where results have more of them

    @property
    def forms(self) -> tuple[str, ...]:
        """Names of the measures that may stand here, the best first."""
        return (self.metric, *self.others)

    def of(self, measured: Mapping[str, int]) -> "Panel":
        """Return the panel with the form that results have, and what that is corrected for."""
        if not self.others:
            return self
        metric = max(self.forms, key=lambda name: measured.get(name, 0))  # of equals, the first
        meaning = f"{self.meaning} {_ESTIMATED[measure(metric).estimator].capitalize()}"
        return dataclasses.replace(self, metric=metric, meaning=meaning, others=())


@dataclasses.dataclass(frozen=True)
class View:
    """Panels that are drawn together: the four of the published Figure 1, then NC2 and NC3.

    All views have as many panels: a place on the page shows one of each, whichever is chosen.
    """

    name: str
    main: tuple[Panel, ...]
    more: tuple[Panel, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in the order in which they are shown."""
        return self.main + self.more

    def of(self, measured: Mapping[str, int]) -> "View":
        """Return the view with the forms that results have."""
        main, more = (tuple(one.of(measured) for one in part) for part in (self.main, self.more))
        return View(self.name, main, more)


_DUALITY = Panel(
    "nc3_cos_mean",
    "NC3",
    "Self-duality",
    "Whether a token's class mean points the way of the token's row of the classifier: the cosine "
    "between the two, averaged over tokens. 1 is the same direction.",
)

PUBLISHED = View(
    "published",
    main=(
        Panel(
            "nc1_cdnv_p2",
            "NC1",
            "Within-class variability",
            "How far the embeddings that precede the same token scatter around their mean, "
            "compared with how far apart the means of two tokens lie; averaged over pairs of "
            "tokens. As published, the distance counts with its fourth power: the number has a "
            "unit, a few close pairs can decide it, and it moves with the number of samples. Where "
            "it disagrees with the robust form, believe that one.",
        ),
        Panel(
            "gnc2_log_kernel_cov_unc",
            "GNC2",
            "Hyperspherical uniformity",
            "How evenly the directions of the class means fill the sphere: how much the "
            "logarithmic repulsion varies from pair to pair, divided by its average. Equal "
            "spacing gives 0. As published, the means are not centred.",
        ),
        Panel(
            "unc3_cos_cov",
            "UNC3",
            "Uniform duality",
            "Whether all tokens are equally well aligned with their rows of the classifier, "
            "however well that is: the spread of the cosines of NC3 divided by their average.",
        ),
        Panel(
            "nc4_rate",
            "NC4",
            "Nearest-mean agreement",
            "How often the classifier chooses the token whose class mean is nearest to the "
            "embedding, on validation text; both choose among the tokens seen in training.",
        ),
    ),
    more=(
        Panel(
            "nc2_equinorm_cov_log",
            "NC2",
            "Equal norms",
            "Whether all class means are equally long: the spread of their log lengths divided by "
            "the average log length. 0 is equal. It changes with the unit of length.",
        ),
        Panel(
            "nc2_equiang_cov",
            "NC2",
            "Equal angles",
            "Whether all pairs of class means stand at the same angle: the spread of the cosines "
            "divided by their average. The average is close to 0, so it decides the number.",
        ),
        _DUALITY,
    ),
)

ROBUST = View(
    "robust",
    main=(
        Panel(
            "nc1_cdnv_med_dbg",
            "NC1",
            "Within-class variability",
            "Scatter within a class compared with the squared distance between classes, the median "
            "over pairs of tokens.",
            ("nc1_cdnv_med_db",),
        ),
        Panel(
            "gnc2_log_kernel_excess_dbg",
            "GNC2",
            "Hyperspherical uniformity",
            "How much more the directions of the class means crowd together than points thrown on "
            "the sphere at random: their average logarithmic repulsion minus the random one. "
            "0 is as even as random; it can be compared across widths.",
            ("gnc2_log_kernel_excess_db", "gnc2_log_kernel_excess"),
        ),
        Panel(
            "unc3_cos_var",
            "UNC3",
            "Uniform duality",
            "Whether all tokens are equally well aligned with their rows of the classifier: the "
            f"variance of the cosines of NC3. {NO_DEBIASED}",
        ),
        Panel(
            "nc4_rate_fullv",
            "NC4",
            "Nearest-mean agreement",
            "How often the classifier, choosing among the whole vocabulary as it does when it "
            "writes, chooses the token whose class mean is nearest; on validation text.",
        ),
    ),
    more=(
        Panel(
            "nc2_equinorm_std_log",
            "NC2",
            "Equal norms",
            "Whether all class means are equally long: the spread of their log lengths. 0 is "
            f"equal; no unit. {NO_DEBIASED}",
        ),
        Panel(
            "nc2_equiang_std",
            "NC2",
            "Equal angles",
            "Whether all pairs of class means stand at the same angle: the spread of the cosines. "
            f"0 is one angle for all. {NO_DEBIASED}",
        ),
        dataclasses.replace(
            _DUALITY,
            metric="nc3_cos_mean_dbg",
            others=("nc3_cos_mean_db", "nc3_cos_mean"),
        ),
    ),
)

VIEWS = (PUBLISHED, ROBUST)
# Against the step the loss stands beside the measures of either view; it is none itself.
LOSS = Panel(
    "val_loss",
    "Loss",
    "Validation loss",
    "How badly the model predicts the next token of new text.",
)


def views_of(table: "pd.DataFrame") -> tuple[View, ...]:
    """Return the views with the forms that most checkpoints of a table have, a column a metric."""
    counts = {str(name): int(n) for name, n in table.count().items()}
    return tuple(view.of(counts) for view in VIEWS)


def best_form(metric: str, measured: Mapping[str, int]) -> str:
    """Return the form of a measure that the robust view shows of results; itself if it has none.

    Args:
        metric: Any of the forms of a panel.
        measured: How many values there are of each metric.
    """
    panels = [panel for panel in ROBUST.panels if metric in panel.forms]
    return panels[0].of(measured).metric if panels else metric


def counted(rows: Iterable[Row]) -> Mapping[str, int]:
    """Return how many values there are of each metric."""
    return Counter(row.metric for row in rows if not math.isnan(row.value))


def measure(metric: str) -> Measure:
    """Return the definition of a metric."""
    return next(measure for measure in MEASURES if measure.name == metric)


def top(metric: str) -> float | None:
    """Return the largest value that a share or a cosine can have; None for what has no such end."""
    return 1.0 if metric != LOSS.metric and measure(metric).range.endswith(", 1]") else None


def arrow(metric: str, *, upright: bool = False) -> str:
    """Return the label of an axis that points towards collapse, or names the value at collapse."""
    if metric == LOSS.metric:
        return "nats per token"
    direction = measure(metric).direction
    low, high = "\N{LEFTWARDS ARROW}\N{RIGHTWARDS ARROW}"
    if upright:
        low, high = "\N{DOWNWARDS ARROW}\N{UPWARDS ARROW}"
    words = {"low": f"{low} more collapsed", "high": f"more collapsed {high}"}
    return words.get(direction, f"{direction.removeprefix('-> ')} when collapsed")


def is_near_unigram(loss: float, entropy: float) -> bool:
    """Tell whether a model predicts hardly better than the frequencies of the tokens do.

    Args:
        loss: Its validation loss, in nats per token.
        entropy: Entropy of the tokens' frequencies, in nats; NaN where it is not known.
    """
    return loss >= (1 - NEAR_UNIGRAM) * entropy
