"""Every measure of collapse: name, formula, range, direction and source.

Formulas are in these terms: mu_c is the mean of class c, m_c = mu_c - mu_G is centred by the
unweighted global mean, n2_c = norm(m_c)^2, s2_c is the variance of the class, w_c its row of the
classifier, u_c = m_c / norm(m_c), d_ij = norm(mu_i - mu_j), A = sum_c m_c m_c^T, S = I - J/K with
J all ones (a simplex); i < j are pairs of classes, P of them; std has ddof 1, ln is natural, b_mean
and b_var are those of uniform points on the sphere. Each class has weight 1, whatever its count.

A name is base, exponent, aggregate, centring (`_unc`: not centred; `_stdz`: each dimension over its
standard deviation; `_pc3`: without the 3 principal directions of A), estimator (`_db`: debiased for
the noise in the class means, as if samples were independent; classes with two samples or more;
`_dbg`: debiased by groups of documents, `geometry.noise`; classes of which no group holds more than
half), weight (`_fw`: a pair counts p_i p_j, the shares of its classes in all samples). Any change
of these is another name.

Importing this does not import torch. The functions are in `mean_families` and `model_families`.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from tightframe.geometry.intervals import MeasureTraits
    from tightframe.geometry.nearest import Extra
    from tightframe.geometry.pairs import Aggregate
    from tightframe.geometry.values import Geometry, Value

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

WELCH = "[max(0, (K-D)/(D(K-1))), 1]"  # the Welch bound
POSITIVE = "[0, inf)"
ESTIMATORS = {"db": "debiased", "dbg": "debiased by groups"}

# What the sweep over pairs has to reduce, for each statistic of them.
AGGREGATES = {
    **dict.fromkeys(("mean", "std", "cov", "scale_free"), "moments"),
    **{"mean_log": "mean_log", "median": "median", "tail": "tail", "tail001": "tail001"},
    **dict.fromkeys(("kernel_mean", "kernel_var", "kernel_std", "kernel_cov"), "logs"),
    **dict.fromkeys(("kernel_excess", "kernel_var_ratio", "kernel_z"), "logs"),
    **{"kernel_excess_pr": "logs", "kernel_med": "median", "riesz": "riesz", "min_dist": "least"},
    **{"dist_mean": "roots", "dist_var": "roots", "nearest_cosine": "nearest"},
}
# What rests on a few pairs of classes is not smooth in the documents.
_NO_INTERVAL = {
    "least": "one pair decides the least distance",
    "nearest": "the nearest class is another one in each resample",
    "riesz": "a few of the nearest pairs decide it",
    "tail": "a few pairs decide the tail",
    "tail001": "a few pairs decide the tail",
}
_EXTRAS: dict[str, "Extra"] = {
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


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of collapse; its name is never used again for another quantity."""

    name: str
    formula: str
    range: str
    # "low" or "high" is more collapsed; "-> x" where collapse has the value x; "-" says nothing
    # of collapse.
    direction: str
    source: str
    no_interval: str = ""  # why it can have no sound one
    # Of a measure over pairs: what is swept (`Geometry.quantity`), how, and what is read off.
    quantity: str = ""
    aggregate: str = ""
    statistic: str = ""

    @property
    def function(self) -> "Callable[[Geometry], Value]":
        """Function that computes the measure."""
        from tightframe.geometry import mean_families, model_families

        if self.quantity:
            aggregate = cast("Aggregate", self.aggregate)
            return mean_families.PairMeasure(self.quantity, aggregate, self.statistic)
        return model_families.FORMULAS[self.name]

    @property
    def split(self) -> Literal["train", "val"]:
        """Split that its numbers come from: class moments, or decisions."""
        return "val" if self.name.startswith(("nc4_", "ncc_")) else "train"

    @property
    def estimator(self) -> Literal["plain", "debiased", "debiased by groups"]:
        """Estimator of the noise in the class means that is subtracted, if any."""
        endings = self.name.split("_")
        if "dbg" in endings:
            return "debiased by groups"
        return "debiased" if "db" in endings else "plain"

    @property
    def least_count(self) -> int:
        """Minimum of samples per class: a variance that is debiased needs two."""
        return 1 if self.estimator == "plain" else 2

    @property
    def needs_scatter(self) -> bool:
        """True if it is undefined for moments without within-class scatter."""
        return self.name.startswith("nc1_pinv") or self.name.endswith(("_within", "_total"))

    @property
    def needs_dimensions(self) -> bool:
        """True if it is computed from the moments of dimensions."""
        return self.name.startswith("dim_") or self.name.endswith("_stdz")

    @property
    def needs_every_class(self) -> bool:
        """True if it is undefined where classes are left out for their small counts."""
        return self.needs_scatter or self.needs_dimensions

    @property
    def extra(self) -> "Extra | None":
        """Kind of decision that it needs besides those that are always made."""
        return _EXTRAS.get(self.name)

    @property
    def traits(self) -> "MeasureTraits":
        """Description of the measure for its interval."""
        from tightframe.geometry.intervals import MeasureTraits

        why_none = self.no_interval or _NO_INTERVAL.get(self.aggregate, "")
        if self.name.startswith("gnc2_log_kernel_med"):
            why_none = "the pairs at the median of angles are other ones in each resample"
        if self.needs_scatter:
            why_none = why_none or "the scatter is not kept by group of documents"
        if self.needs_dimensions:
            why_none = why_none or "the moments of dimensions are not kept by group of documents"
        return MeasureTraits(
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


def _over_pairs(
    name: str, quantity: str, statistic: str, formula: str, range: str, direction: str, source: str
) -> Measure:
    cell = (quantity, AGGREGATES[statistic], statistic)
    return Measure(name, formula, range, direction, source, "", *cell)


def _debiased(measure: Measure, **changes: Any) -> list[Measure]:
    """Return both twins of a measure from which the noise in the class means is subtracted."""
    twins = []
    for ending, words in ESTIMATORS.items():
        name, formula = f"{measure.name}_{ending}", f"{measure.formula}, {words}"
        quantity = f"{measure.quantity}_{ending}" if measure.quantity else ""
        new = {"name": name, "formula": formula, "quantity": quantity, "source": OURS}
        twins.append(dataclasses.replace(measure, **new, **changes))
    return twins


# fmt: off
def _class_distances() -> list[Measure]:
    """Return NC1 over pairs: c_ij(p) = (s2_i + s2_j) / 2 / d_ij^(2p), plain and then debiased."""
    cells = (  # ending, statistic, formula, range
        ("", "mean", "mean_{i<j} %s", POSITIVE),
        ("_sf", "scale_free", "mean_{i<j} %s x mean_c n2_c", POSITIVE),
        ("_std", "std", "std_{i<j} %s", POSITIVE),
        ("_cov", "cov", "std / mean of %s", POSITIVE),
        ("_mlog", "mean_log", "mean_{i<j} ln %s", "real"),
        ("_med", "median", "median_{i<j} %s", POSITIVE),
        ("_tail01", "tail", "share of sum %s in the largest 1 %% of pairs", "[0.01, 1]"),
        ("_tail001", "tail001", "share of sum %s in the largest 0.1 %% of pairs", "[0.001, 1]"),
    )
    sources = {"nc1_cdnv": GALANTI, "nc1_cdnv_p2": WU, "nc1_cdnv_p2_std": WU}

    def power(base: str, p: int, left_out: Collection[str]) -> list[Measure]:
        return [
            _over_pairs(f"nc1_{base}{ending}", base, statistic, formula % f"c_ij({p})", range,
                        "low", sources.get(f"nc1_{base}{ending}", OURS))
            for ending, statistic, formula, range in cells if ending not in left_out
        ]

    plain = [
        *power("cdnv", 1, left_out=["_sf"]),
        Measure("nc1_cdnv_rom", "mean (s2_i + s2_j) / 2 over mean d_ij^2", POSITIVE, "low", OURS),
        *power("cdnv_p2", 2, left_out=["_cov", "_tail01"]),
        Measure("nc1_quotient", "mean_c s2_c / mean_c n2_c", POSITIVE, "low", OURS),
    ]
    return plain + [twin for measure in plain for twin in _debiased(measure)]


def _uniformity() -> list[Measure]:
    """Return GNC2: l_ij = -ln norm(u_i - u_j) against uniform points, and other distances.

    Means are centred, then not centred (u_c = mu_c / norm(mu_c)); first plain, then debiased.
    """
    at_least = "[-ln(2K/(K-1))/2, inf)"
    cells = (  # name, statistic, formula, range, direction, source
        ("log_kernel_mean", "kernel_mean", "mean_{i<j} l_ij", at_least, "low", LIU),
        ("log_kernel_var", "kernel_var", "var_{i<j} l_ij, ddof 0", POSITIVE, "low", WU),
        ("log_kernel_std", "kernel_std", "std_{i<j} l_ij", POSITIVE, "low", WU),
        ("log_kernel_cov", "kernel_cov", "std / mean of l_ij", "real", "-> 0", WU),
        ("log_kernel_excess", "kernel_excess", "mean l_ij - b_mean(D)", "real", "-> 0", OURS),
        ("log_kernel_var_ratio", "kernel_var_ratio", "var l_ij / b_var(D)", POSITIVE, "-> 1", OURS),
        ("log_kernel_z", "kernel_z", "(mean l_ij - b_mean(D)) / sqrt(b_var(D) / P)", "real", "-> 0",
         OURS),
        ("log_kernel_excess_pr", "kernel_excess_pr", "mean l_ij - b_mean(rank_pr)", "real", "-> 0",
         OURS),
        ("log_kernel_med", "kernel_med", "median_{i<j} l_ij", "real", "low", OURS),
        ("riesz_log", "riesz", "ln mean_{i<j} norm(u_i - u_j)^-(D-2)", "real", "low", LIU),
        ("min_dist", "min_dist", "min_{i<j} norm(u_i - u_j)", "[0, 2]", "high", LIU),
        ("dist_mean", "dist_mean", "mean_{i<j} norm(u_i - u_j)", "[0, 2]", "high", OURS),
        ("dist_var", "dist_var", "var_{i<j} norm(u_i - u_j), ddof 0", "[0, 1]", "low", OURS),
    )
    centred = [_over_pairs(f"gnc2_{name}", "unit", *rest) for name, *rest in cells]
    uncentred = [
        _over_pairs(f"gnc2_{name}_unc", "unit_unc", statistic, f"{formula}, not centred", *rest)
        for name, statistic, formula, *rest in cells if name != "log_kernel_excess_pr"
    ]
    uncentred[0] = dataclasses.replace(uncentred[0], source=WU)
    plain = [*centred, *uncentred]
    without = ("kernel_z", "kernel_excess_pr")  # which debiased twins don't exist
    return plain + [
        twin
        for measure in plain
        if measure.statistic.startswith("kernel_") and measure.statistic not in without
        for twin in _debiased(measure, range=measure.range.replace(at_least, "real"))
    ]


def _views() -> list[Measure]:
    """Return NC2 and GNC2 of standardised means, and without the principal directions of A."""
    removed = [(f"pc{n}", f"{n} PC removed", f"D - {n}", MU) for n in (1, 3, 10)]
    found = []
    for view, words, dim, source in [("stdz", "standardised", "D", TIMKEY), *removed]:
        kernel = [
            _over_pairs(f"gnc2_log_kernel_mean_{view}", f"unit_{view}", "kernel_mean",
                        f"mean_{{i<j}} l_ij, {words}", "[-ln(2K/(K-1))/2, inf)", "low", source),
            _over_pairs(f"gnc2_log_kernel_excess_{view}", f"unit_{view}", "kernel_excess",
                        f"mean l_ij - b_mean({dim}), {words}", "real", "-> 0", source),
        ]
        found += [
            Measure(f"nc2_equiang_mean_{view}", f"mean_{{i<j}} <u_i, u_j>, {words}",
                    "[-1/(K-1), 1]", "-> -1/(K-1)", source),
            Measure(f"nc2_equiang_std_{view}", f"std_{{i<j}} <u_i, u_j>, {words}",
                    "[0, 1]", "low", source),
            # Of the logarithms no more than the mean is needed here, which is cheaper.
            *(dataclasses.replace(measure, aggregate="mean_log") for measure in kernel),
        ]
    return found


MEASURES: tuple[Measure, ...] = (
    # NC1: within-class variability
    *_class_distances(),
    # NC1, weighted by tokens, and by the pseudo-inverse
    Measure("nc1_cdnv_rom_fw", "mean (s2_i + s2_j) / 2 over mean d_ij^2, weighted", POSITIVE,
            "low", OURS),
    *(Measure(f"nc1_cdnv_rom_{ending}_fw",
              f"mean (s2_i + s2_j) / 2 over mean d_ij^2, {words}, weighted", POSITIVE, "low", OURS)
      for ending, words in ESTIMATORS.items()),
    Measure("nc1_quotient_tok", "pooled variance / variance of the means over tokens", POSITIVE,
            "low", LIBRARY),
    Measure("nc1_pinv", "tr(Sw pinv(A/K)) / K, Sw over classes", POSITIVE, "low", PAPYAN),
    Measure("nc1_pinv_tok", "tr(Sw pinv(A/K)) / K, Sw over tokens", POSITIVE, "low", PAPYAN),
    Measure("nc1_pinv_lib", "tr(Sw pinv(A/D)) / K, Sw over tokens", POSITIVE, "low", LIBRARY),
    # NC2: equal norms
    Measure("nc2_equinorm_cov", "std / mean of norm(m_c)", POSITIVE, "low", PAPYAN),
    Measure("nc2_equinorm_cov_sq", "std / mean of norm(m_c)^2", POSITIVE, "low", WU),
    Measure("nc2_equinorm_cov_log", "std / mean of ln norm(m_c)", "real", "-> 0", WU),
    Measure("nc2_equinorm_cov_logscl", "std / mean of ln(norm(m_c)^2 / sqrt(D))", "real", "-> 0",
            WU),
    Measure("nc2_equinorm_std_log", "std of ln norm(m_c)", POSITIVE, "low", OURS),
    # NC2: equal angles, distance to a simplex
    Measure("nc2_equiang_mean", "mean_{i<j} <u_i, u_j>", "[-1/(K-1), 1]", "-> -1/(K-1)", PAPYAN),
    Measure("nc2_equiang_std", "std_{i<j} <u_i, u_j>", "[0, 1]", "low", PAPYAN),
    Measure("nc2_equiang_cov", "std / mean of <u_i, u_j>", "real", "-> 0", WU),
    Measure("nc2_equiang_rmsdev", "sqrt(mean_{i<j} (<u_i, u_j> + 1/(K-1))^2)", "[0, K/(K-1)]",
            "low", OURS),
    _over_pairs("nc2_equiang_nn", "unit", "nearest_cosine", "mean_c max_{j != c} <u_c, u_j>",
                "[-1/(K-1), 1]", "low", JIANG),
    Measure("nc2_dot_mean", "mean_{i<j} <m_i, m_j> = -sum n2_c / (K(K-1))", "(-inf, 0]", "high",
            WU),
    Measure("nc2_dot_var", "var_{i<j} <m_i, m_j>, ddof 0", POSITIVE, "low", WU),
    Measure("nc2_etf_error", "normF(G / normF(G) - S / normF(S)), G_ij = <m_i, m_j>", "[0, sqrt 2]",
            "low", WU),
    Measure("nc2_cos_sq_mean", "mean_{i<j} <u_i, u_j>^2", WELCH, "low", OURS),
    Measure("nc2_cos_sq_excess", "D x mean_{i<j} <u_i, u_j>^2 - 1", "real", "-> 0", OURS),
    Measure("nc2_equiang_mean_fw", "mean_{i<j} <u_i, u_j>, weighted", "[-1, 1]", "low", OURS),
    Measure("nc2_equiang_std_fw", "std_{i<j} <u_i, u_j>, weighted, ddof 0", "[0, 1]", "low", OURS),
    Measure("nc2_cos_sq_mean_fw", "mean_{i<j} <u_i, u_j>^2, weighted", "[0, 1]", "low", OURS),
    Measure("nc2_cos_sq_excess_fw", "D x mean_{i<j} <u_i, u_j>^2 - 1, weighted", "real", "-> 0",
            OURS),
    *_views(),
    # GNC2: hyperspherical uniformity
    *_uniformity(),
    # NC3, UNC3: duality with the classifier
    Measure("nc3_cos_mean", "mean_c cos(w_c, m_c)", "[-1, 1]", "high", WU),
    *(Measure(f"nc3_cos_mean_{ending}",
              f"mean_c <w_c, m_c> / (norm(w_c) sqrt(n2_c)), n2_c {words}", "real", "high", OURS)
      for ending, words in ESTIMATORS.items()),
    Measure("nc3_cos_wc_mean", "mean_c cos(w_c - mean w, m_c)", "[-1, 1]", "high", PAPYAN),
    Measure("nc3_dot_mean", "mean_c <w_c, m_c>", "real", "high", WU),
    Measure("nc3_dist_mean", "mean_c norm(w_c / norm(w_c) - u_c)", "[0, 2]", "low", WU),
    Measure("nc3_dist_var", "var_c norm(w_c / norm(w_c) - u_c), ddof 1", "[0, 2]", "low", WU),
    Measure("nc3_dual_error", "normF(G / normF(G) - S / normF(S)), G_ij = <w_i, m_j>", "[0, 2]",
            "low", WU),
    Measure("nc3_frob", "normF(W / normF(W) - M / normF(M)), rows w_c and m_c", "[0, 2]", "low",
            PAPYAN),
    Measure("unc3_cos_cov", "std / mean of cos(w_c, m_c)", "real", "-> 0", WU),
    Measure("unc3_cos_var", "var_c cos(w_c, m_c), ddof 1", "[0, 1]", "low", WU),
    Measure("unc3_dot_var", "var_c <w_c, m_c>, ddof 1", POSITIVE, "low", LIBRARY),
    # NC4: agreement with the nearest class mean; S the classes that have one
    Measure("nc4_hits", "positions where both decide alike, both in S, labels in S", "[0, n]",
            "high", WU, "it is a count: see nc4_rate"),
    Measure("nc4_rate", "nc4_hits / positions with a label in S", "[0, 1]", "high", WU),
    Measure("nc4_rate_fullv", "share of all positions; the classifier chooses in V", "[0, 1]",
            "high", OURS),
    Measure("nc4_rate_lib", "share of all positions; all rows of W, means that are missing at 0",
            "[0, 1]", "high", LIBRARY),
    Measure("nc4_cos_rate",
            "nc4_rate with the c of the largest cos(h - mu_G, m_c) for the nearest mean", "[0, 1]",
            "high", OURS),
    Measure("nc4_rate_macro", "mean over labels in S of their nc4_rate", "[0, 1]", "high", OURS,
            "labels that one group holds alone come and go"),
    Measure("nc4_top5_head",
            "share of the positions of nc4_rate whose nearest mean is in the classifier's top 5",
            "[0, 1]", "high", OURS),
    Measure("ncc_accuracy",
            "share of all positions whose nearest class mean is the label's; at most the share "
            "whose label is in S", "[0, 1]", "high", OURS),
    # NC5: orthogonality to the mean embedding mu_ood of an out-of-distribution stream
    Measure("nc5_orthodev", "mean_c abs(cos(mu_c, mu_ood))", "[0, 1]", "low", AMMAR),
    Measure("nc5_orthodev_ctr", "mean_c abs(cos(m_c, mu_ood - mu_G))", "[0, 1]", "low", OURS),
    # Ranks, and overlap of the classifier's rows
    Measure("rank_pr", "(tr A)^2 / normF(A)^2", "[1, min(D, K-1)]", "high", OURS),
    Measure("rank_stable", "tr A / largest eigenvalue of A", "[1, min(D, K-1)]", "high", OURS),
    Measure("rank_entropy", "exp(-sum p ln p), p = eig(A) / tr A", "[1, min(D, K-1)]", "high", ROY),
    Measure("rank_entropy_sv", "exp(-sum p ln p), p ~ sqrt(eig(A))", "[1, min(D, K-1)]", "high",
            GARRIDO),
    Measure("spectrum_slope", "slope of ln eig_i(A) on ln i, i in [10, D/2]", "(-inf, 0]", "high",
            AGRAWAL),
    Measure("rank_pr_within", "rank_pr of Sw over tokens", "[1, D]", "high", OURS),
    Measure("rank_stable_within", "rank_stable of Sw over tokens", "[1, D]", "high", OURS),
    Measure("rank_entropy_within", "rank_entropy of Sw over tokens", "[1, D]", "high", ROY),
    Measure("rank_pr_total", "rank_pr of Sw + Sb over tokens", "[1, D]", "-", OURS),
    Measure("rank_stable_total", "rank_stable of Sw + Sb over tokens", "[1, D]", "-", OURS),
    Measure("rank_entropy_total", "rank_entropy of Sw + Sb over tokens", "[1, D]", "-", ROY),
    Measure("rank_entropy_sv_total", "rank_entropy_sv of Sw + Sb over tokens (RankMe, centred)",
            "[1, D]", "-", GARRIDO),
    Measure("spectrum_slope_total", "spectrum_slope of Sw + Sb over tokens (alpha-ReQ)",
            "(-inf, 0]", "-", AGRAWAL),
    Measure("rank_pr_head", "rank_pr of sum_c w_c w_c^T", "[1, D]", "high", OURS),
    Measure("rank_stable_head", "rank_stable of sum_c w_c w_c^T", "[1, D]", "high", OURS),
    Measure("rank_entropy_head", "rank_entropy of sum_c w_c w_c^T", "[1, D]", "high", ROY),
    Measure("head_overlap_sq", "mean_{i<j} cos(w_i, w_j)^2", WELCH, "low", SUPERPOSITION),
    Measure("head_overlap_sq_ctr", "mean_{i<j} cos(w_i - mean w, w_j - mean w)^2", WELCH, "low",
            SUPERPOSITION),
    Measure("head_overlap_sq_fw", "mean_{i<j} cos(w_i, w_j)^2, weighted", "[0, 1]", "low",
            SUPERPOSITION),
    # Dimensions of the embeddings; e_d = mean over embeddings of h_d^2
    Measure("dim_outliers", "dimensions with abs(mean - median) > 6 x 1.4826 MAD", "[0, D]", "-",
            KOVALEVA),
    Measure("dim_kurtosis_med", "median over dimensions of the kurtosis (normal: 3)", "[1, inf)",
            "-", OURS),
    Measure("dim_kurtosis_max", "max over dimensions of the kurtosis (normal: 3)", "[1, inf)", "-",
            OURS),
    Measure("dim_top01_share", "share of sum_d e_d in the largest 1 % of dimensions", "[0.01, 1]",
            "-", TIMKEY),
    Measure("dim_anisotropy", "mean cosine of two embeddings", "[-1/(N-1), 1]", "-", ETHAYARAJH),
)
# fmt: on
