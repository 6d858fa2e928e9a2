"""The two views of a sweep: which measures stand on which panels, and their plain meaning.

The published view has the forms of the paper's tables and figures (Wu & Papyan 2024, arXiv:
2405.17767); the robust view has forms that are free of units and not decided by a few pairs of
classes, NC1 without the bias of small counts. Formulas, ranges, directions and sources are those
of `collapse.MEASURES`.
"""

import dataclasses

from tightframe.collapse.measures import MEASURES, Measure


@dataclasses.dataclass(frozen=True)
class Panel:
    """One measure against validation loss."""

    metric: str  # name of a Measure
    family: str  # what the literature calls it
    title: str
    meaning: str  # for somebody who has not read the paper


@dataclasses.dataclass(frozen=True)
class View:
    """What is drawn together: the four panels of the published Figure 1, then NC2 and NC3.

    All views have as many panels: a place on the page shows one of each, whichever is chosen.
    """

    name: str
    main: tuple[Panel, ...]
    more: tuple[Panel, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in the order in which they are shown."""
        return self.main + self.more


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
            "nc1_cdnv_med_db",
            "NC1",
            "Within-class variability",
            "Scatter within a class compared with the squared distance between classes, the median "
            "over pairs of tokens, corrected for the noise in the means of rare tokens.",
        ),
        Panel(
            "gnc2_log_kernel_excess",
            "GNC2",
            "Hyperspherical uniformity",
            "How much more the directions of the class means crowd together than points thrown on "
            "the sphere at random: their average logarithmic repulsion minus the random one. "
            "0 is as even as random; it can be compared across widths.",
        ),
        Panel(
            "unc3_cos_var",
            "UNC3",
            "Uniform duality",
            "Whether all tokens are equally well aligned with their rows of the classifier: the "
            "variance of the cosines of NC3.",
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
            "equal; no unit.",
        ),
        Panel(
            "nc2_equiang_std",
            "NC2",
            "Equal angles",
            "Whether all pairs of class means stand at the same angle: the spread of the cosines. "
            "0 is one angle for all.",
        ),
        _DUALITY,
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


def measure(metric: str) -> Measure:
    """The definition of a metric."""
    return next(measure for measure in MEASURES if measure.name == metric)


def top(metric: str) -> float | None:
    """Return the largest value that a share or a cosine can have; None for what has no such end."""
    return 1.0 if metric != LOSS.metric and measure(metric).range.endswith(", 1]") else None


def arrow(metric: str, *, upright: bool = False) -> str:
    """Say which way along its axis a measure is more collapsed, or where it is when all is."""
    if metric == LOSS.metric:
        return "nats per token"
    direction = measure(metric).direction
    low, high = "\N{LEFTWARDS ARROW}\N{RIGHTWARDS ARROW}"
    if upright:
        low, high = "\N{DOWNWARDS ARROW}\N{UPWARDS ARROW}"
    words = {"low": f"{low} more collapsed", "high": f"more collapsed {high}"}
    return words.get(direction, f"{direction.removeprefix('-> ')} when collapsed")
