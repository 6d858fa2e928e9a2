"""From moments to measures: which of the catalogue to compute, and their values.

Importing this costs no import of torch, so that a wrong name is refused at once.

Axes: C classes of the moments, V vocabulary, D embedding.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tightframe.errors import UserError, nearest
from tightframe.geometry.catalogue import MEASURES, Measure

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from tightframe.geometry.decisions import Decisions
    from tightframe.geometry.moments import ClassMoments
    from tightframe.geometry.nearest import Extra
    from tightframe.geometry.values import Value

__all__ = [
    "DEFAULT",
    "MEASURES",
    "PUBLISHED",
    "ROBUST",
    "Measure",
    "check_measures",
    "choose",
    "extras_of",
    "measure_names",
    "measure_table",
    "metrics",
]

# What is computed by default.
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
    *("nc1_cdnv_p2", "nc2_equinorm_cov_log", "nc2_equiang_cov", "gnc2_log_kernel_cov_unc"),
    *("nc3_cos_mean", "unc3_cos_cov", "nc4_rate"),
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
    moments: "ClassMoments",
    classifier: "Float[Tensor, 'V D']",
    decisions: "Decisions | None" = None,
    *,
    measures: Sequence[str] | None = None,
    min_count: int = 1,
    classes: "Bool[Tensor, ' C'] | None" = None,
    ood: "ClassMoments | None" = None,
) -> "dict[str, Value]":
    """Compute the geometry of class means beside their classifier: a value for each measure.

    Args:
        moments: Of the training split; kept by group, its measures have intervals.
        classifier: The output matrix, one row per token; a bias matters in `decisions` only.
        decisions: Of the validation split; without them, NC4 is NaN. Kept by group likewise.
        measures: Names from `MEASURES`; "all" is all of them, None or none is `DEFAULT`.
        min_count: Minimum number of embeddings per class. Measures in `_db` need 2 at least.
        classes: The only ones to look at, e.g. one of `strata`; they are seen from a global mean
            of their own, and decisions are those at positions whose label is one of them.
        ood: Moments of another stream through the same model; without them, NC5 is NaN.
    """
    from tightframe.geometry import intervals
    from tightframe.geometry.values import Geometry

    geometry = Geometry(
        moments, classifier, decisions, min_count=min_count, classes=classes, ood=ood
    )
    traits = [measure.traits for measure in choose(measures)]
    values = intervals.plain_values(traits, geometry)
    return intervals.with_intervals(values, traits, geometry, classifier)


def choose(names: Sequence[str] | None) -> tuple[Measure, ...]:
    """Return the measures of these names, in the order of `MEASURES`; refuse unknown names."""
    names = [names] if isinstance(names, str) else names or DEFAULT
    check_measures(names)
    if "all" in names:
        return MEASURES
    return tuple(measure for measure in MEASURES if measure.name in names)


def check_measures(names: Collection[str]) -> None:
    """Refuse a name that is not that of a measure."""
    known = measure_names()
    for name in names:
        if name != "all" and name not in known:
            begun = [other for other in known if other.startswith(f"{name}_")]
            family = f"; did you mean {', '.join(begun[:3])}?" if begun else ""
            hint = family or nearest(name, known) or "; `all` shows every one"
            raise UserError(f"unknown measure '{name}'{hint}")


def measure_names() -> tuple[str, ...]:
    """Return the names of all measures, in order."""
    return tuple(measure.name for measure in MEASURES)


def extras_of(measures: Sequence[Measure]) -> "tuple[Extra, ...]":
    """Return what these measures need of decisions besides what is always decided."""
    return tuple(sorted({measure.extra for measure in measures if measure.extra}))


def measure_table(names: Sequence[str] = ("all",)) -> str:
    """Return measures as a Markdown table: the default ones in the README, all in the docs."""
    lines = ["| name | formula | estimator | range | direction | source |", "|" + "---|" * 6]
    lines += [
        f"| `{m.name}` | `{m.formula}` | {m.estimator} | {m.range} | {m.direction} | {m.source} |"
        for m in choose(names)
    ]
    return "\n".join(lines) + "\n"
