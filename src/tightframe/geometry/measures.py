"""From moments to measures: which of the catalogue to compute, and computing them."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from tightframe.geometry import intervals
from tightframe.geometry.catalogue import MEASURES
from tightframe.geometry.checks import check_measures
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.definition import Measure
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.nearest import Extra
from tightframe.geometry.values import Geometry, Value

__all__ = [
    "DEFAULT",
    "MEASURES",
    "PUBLISHED",
    "ROBUST",
    "Measure",
    "choose",
    "extras_of",
    "measure_table",
    "metrics",
]

# What is computed unasked.
DEFAULT: tuple[str, ...] = (
    *("nc1_cdnv_p2", "nc1_cdnv_med_db", "nc1_cdnv_med_dbg"),
    *("nc1_cdnv_rom_db", "nc1_cdnv_rom_dbg", "nc1_quotient"),
    *("nc2_equinorm_cov_log", "nc2_equinorm_std_log"),
    *("nc2_equiang_mean", "nc2_equiang_std", "nc2_equiang_cov", "nc2_etf_error", "rank_pr"),
    *("gnc2_log_kernel_mean", "gnc2_log_kernel_cov", "gnc2_log_kernel_cov_unc"),
    *("gnc2_log_kernel_excess", "gnc2_log_kernel_var_ratio"),
    *("gnc2_log_kernel_excess_db", "gnc2_log_kernel_excess_dbg"),
    *("nc3_cos_mean", "nc3_cos_mean_db", "nc3_cos_mean_dbg"),
    *("nc3_dual_error", "unc3_cos_cov", "unc3_cos_var", "unc3_dot_var"),
    *("nc4_rate", "nc4_rate_fullv", "ncc_accuracy"),
)

# Table 1 of Wu & Papyan 2024 in its order, with the share of hits for their number.
PUBLISHED: tuple[str, ...] = (
    "nc1_cdnv_p2",
    "nc2_equinorm_cov_log",
    "nc2_equiang_cov",
    "gnc2_log_kernel_cov_unc",
    "nc3_cos_mean",
    "unc3_cos_cov",
    "nc4_rate",
)

# Without units, not decided by a few pairs, without bias from rare classes where there is such a
# form: by groups of documents where they are kept apart, else as if samples were independent.
ROBUST: tuple[str, ...] = (
    *("nc1_cdnv_med_dbg", "nc1_cdnv_med_db"),
    *("gnc2_log_kernel_excess_dbg", "gnc2_log_kernel_excess_db"),
    *("nc3_cos_mean_dbg", "nc3_cos_mean_db"),
    *("unc3_cos_var", "nc4_rate_fullv"),
)


def metrics(
    moments: ClassMoments,
    classifier: Float[Tensor, "V D"],
    decisions: Decisions | None = None,
    *,
    measures: Sequence[str] | None = None,
    min_count: int = 1,
    classes: Bool[Tensor, " C"] | None = None,
    ood: ClassMoments | None = None,
) -> dict[str, Value]:
    """The geometry of class means beside their classifier: a value for each measure asked for.

    Args:
        moments: Of the training split; kept by group, its measures have intervals.
        classifier: The output matrix, a row a token; a bias plays no part but in `decisions`.
        decisions: Of the validation split; without them, NC4 is NaN. Kept by group likewise.
        measures: Names from `MEASURES`; "all" is all of them, None or none is `DEFAULT`.
        min_count: Embeddings that a class needs to take part. Measures in `_db` need 2 at least.
        classes: The only ones to look at, e.g. one of `strata`; they are seen from a global mean
            of their own, and decisions are those at positions whose label is one of them.
        ood: Moments of another stream through the same model; without them, NC5 is NaN.
    """
    chosen = choose(measures)
    geometry = Geometry(
        moments, classifier, decisions, min_count=min_count, classes=classes, ood=ood
    )
    intervals.plan_pairs([measure.function for measure in chosen], geometry)
    values = {measure.name: measure.function(geometry) for measure in chosen}
    questions = [measure.question for measure in chosen]
    return intervals.with_intervals(values, questions, geometry, classifier)


def choose(names: Sequence[str] | None) -> tuple[Measure, ...]:
    """The measures of these names, in the order of `MEASURES`; a name that is none is refused."""
    known = [measure.name for measure in MEASURES]
    names = [names] if isinstance(names, str) else names or DEFAULT
    if "all" in names:
        return MEASURES
    check_measures(names, known)
    return tuple(measure for measure in MEASURES if measure.name in names)


def extras_of(measures: Sequence[Measure]) -> tuple[Extra, ...]:
    """What decisions must tell for these besides what they always do."""
    return tuple(sorted({measure.extra for measure in measures if measure.extra}))


def measure_table(names: Sequence[str] = ("all",)) -> str:
    """Measures as a Markdown table: the default ones in the README, all in docs/measures.md."""
    lines = ["| name | formula | estimator | range | direction | source |", "|" + "---|" * 6]
    lines += [
        f"| `{m.name}` | `{m.formula}` | {m.estimator} | {m.range} | {m.direction} | {m.source} |"
        for m in choose(names)
    ]
    return "\n".join(lines) + "\n"
