"""Every measure of collapse: name, function, formula, range, direction and source.

Formulas are in these terms: mu_c is the mean of class c, m_c = mu_c - mu_G is centred by the
unweighted global mean, n2_c = norm(m_c)^2, s2_c is the variance of the class, w_c its row of the
classifier, u_c = m_c / norm(m_c), d_ij = norm(mu_i - mu_j), A = sum_c m_c m_c^T, S = I - J/K with
J all ones (a simplex); i < j are pairs of classes, P of them; std has ddof 1, ln is natural, b_mean
and b_var are those of uniform points on the sphere. Each class has weight 1, whatever its count.

A name is base, exponent, aggregate, centring (`_unc`: not centred), estimator (`_db`: debiased
for the noise in the class means; classes with two samples or more). Any change of these is
another name.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tightframe.collapse import intervals, nc1, nc2, nc3, nc4, ranks
from tightframe.collapse import pairwise as over
from tightframe.collapse.pairwise import OfPairs
from tightframe.collapse.values import Geometry, Value
from tightframe.errors import UserError, nearest
from tightframe.moments.state import ClassMoments, Decisions

PAPYAN = "Papyan, Han & Donoho 2020, arXiv:2008.08186"
GALANTI = "Galanti, Gyorgy & Hutter 2021, arXiv:2112.15121"
LIU = "Liu et al. 2023, arXiv:2303.06484"
JIANG = "Jiang et al. 2023, arXiv:2310.05351"
WU = "Wu & Papyan 2024, arXiv:2405.17767"
ROY = "Roy & Vetterli 2007"
GARRIDO = "Garrido et al. 2022, arXiv:2210.02885"
AGRAWAL = "Agrawal et al. 2022"
SUPERPOSITION = "Liu, Liu & Gore 2025, arXiv:2505.10465"
LIBRARY = "reference library of Wu & Papyan 2024"
OURS = "tightframe"

# What rests on a few pairs of classes is not smooth in the documents.
NO_INTERVAL = {
    "least": "one pair decides the least distance",
    "nearest": "the nearest class is another one in each resample",
    "riesz": "a few of the nearest pairs decide it",
    "tail": "a few pairs decide the tail",
}

WELCH = "[max(0, (K-D)/(D(K-1))), 1]"  # the Welch bound


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of collapse; its name is never used again for another quantity."""

    name: str
    function: Callable[[Geometry], Value]
    formula: str
    range: str
    direction: str  # "low" or "high" is more collapsed; "-> x" where collapse has the value x
    source: str
    no_interval: str = ""  # why it can have no sound one

    @property
    def split(self) -> Literal["train", "val"]:
        """Where its numbers come from: class moments, or decisions."""
        return "val" if self.name.startswith(("nc4_", "ncc_")) else "train"

    @property
    def least_count(self) -> int:
        """Samples that a class needs at least: a variance that is debiased needs two."""
        return 2 if self.name.endswith("_db") else 1

    @property
    def needs_scatter(self) -> bool:
        """Whether it is undefined for moments without within-class scatter."""
        return self.name.startswith("nc1_pinv") or self.name.endswith("_within")

    @property
    def question(self) -> intervals.Question:
        """What there is to know for its interval."""
        why_none = self.no_interval
        if isinstance(self.function, OfPairs):
            why_none = why_none or NO_INTERVAL.get(self.function.aggregate, "")
        elif self.needs_scatter:
            why_none = why_none or "the scatter is not kept by group of documents"
        return intervals.Question(
            self.name, self.function, self.split, self.range, self.least_count, why_none
        )


# fmt: off
MEASURES: tuple[Measure, ...] = (
    # NC1: within-class variability; c_ij(p) = (s2_i + s2_j) / 2 / d_ij^(2p)
    Measure("nc1_cdnv", OfPairs("cdnv", "moments", over.mean),
            "mean_{i<j} c_ij(1)", "[0, inf)", "low", GALANTI),
    Measure("nc1_cdnv_std", OfPairs("cdnv", "moments", over.std),
            "std_{i<j} c_ij(1)", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_cov", OfPairs("cdnv", "moments", over.cov),
            "std / mean of c_ij(1)", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_mlog", OfPairs("cdnv", "logs", over.mean_log),
            "mean_{i<j} ln c_ij(1)", "real", "low", OURS),
    Measure("nc1_cdnv_med", OfPairs("cdnv", "median", over.median),
            "median_{i<j} c_ij(1)", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_tail01", OfPairs("cdnv", "tail", over.tail_share),
            "share of sum c_ij(1) in the largest 1 % of pairs", "[0.01, 1]", "low", OURS),
    Measure("nc1_cdnv_rom", nc1.cdnv_ratio_of_means,
            "mean (s2_i + s2_j) / 2 over mean d_ij^2", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_p2", OfPairs("cdnv_p2", "moments", over.mean),
            "mean_{i<j} c_ij(2)", "[0, inf)", "low", WU),
    Measure("nc1_cdnv_p2_sf", OfPairs("cdnv_p2", "moments", over.scale_free),
            "mean_{i<j} c_ij(2) x mean_c n2_c", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_p2_std", OfPairs("cdnv_p2", "moments", over.std),
            "std_{i<j} c_ij(2)", "[0, inf)", "low", WU),
    Measure("nc1_cdnv_p2_mlog", OfPairs("cdnv_p2", "logs", over.mean_log),
            "mean_{i<j} ln c_ij(2)", "real", "low", OURS),
    Measure("nc1_cdnv_p2_med", OfPairs("cdnv_p2", "median", over.median),
            "median_{i<j} c_ij(2)", "[0, inf)", "low", OURS),
    Measure("nc1_quotient", nc1.quotient,
            "mean_c s2_c / mean_c n2_c", "[0, inf)", "low", OURS),
    # NC1, debiased: s2_c with n_c - 1, d_ij^2 - v_i - v_j, v_c = s2_c / n_c
    Measure("nc1_cdnv_db", OfPairs("cdnv_db", "moments", over.mean),
            "mean_{i<j} c_ij(1), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_std_db", OfPairs("cdnv_db", "moments", over.std),
            "std_{i<j} c_ij(1), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_cov_db", OfPairs("cdnv_db", "moments", over.cov),
            "std / mean of c_ij(1), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_mlog_db", OfPairs("cdnv_db", "logs", over.mean_log),
            "mean_{i<j} ln c_ij(1), debiased", "real", "low", OURS),
    Measure("nc1_cdnv_med_db", OfPairs("cdnv_db", "median", over.median),
            "median_{i<j} c_ij(1), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_tail01_db", OfPairs("cdnv_db", "tail", over.tail_share),
            "share of sum c_ij(1) in the largest 1 % of pairs, debiased", "[0.01, 1]", "low", OURS),
    Measure("nc1_cdnv_rom_db", nc1.cdnv_ratio_of_means_debiased,
            "mean (s2_i + s2_j) / 2 over mean d_ij^2, debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_p2_db", OfPairs("cdnv_p2_db", "moments", over.mean),
            "mean_{i<j} c_ij(2), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_p2_sf_db", OfPairs("cdnv_p2_db", "moments", over.scale_free_debiased),
            "mean_{i<j} c_ij(2) x mean_c n2_c, debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_p2_std_db", OfPairs("cdnv_p2_db", "moments", over.std),
            "std_{i<j} c_ij(2), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_cdnv_p2_mlog_db", OfPairs("cdnv_p2_db", "logs", over.mean_log),
            "mean_{i<j} ln c_ij(2), debiased", "real", "low", OURS),
    Measure("nc1_cdnv_p2_med_db", OfPairs("cdnv_p2_db", "median", over.median),
            "median_{i<j} c_ij(2), debiased", "[0, inf)", "low", OURS),
    Measure("nc1_quotient_db", nc1.quotient_debiased,
            "mean_c s2_c / mean_c n2_c, debiased", "[0, inf)", "low", OURS),
    # NC1, weighted by tokens, and by the pseudo-inverse
    Measure("nc1_quotient_tok", nc1.quotient_tokens,
            "pooled variance / variance of the means over tokens", "[0, inf)", "low", LIBRARY),
    Measure("nc1_pinv", nc1.pinv_balanced,
            "tr(Sw pinv(A/K)) / K, Sw over classes", "[0, inf)", "low", PAPYAN),
    Measure("nc1_pinv_tok", nc1.pinv_tokens,
            "tr(Sw pinv(A/K)) / K, Sw over tokens", "[0, inf)", "low", PAPYAN),
    Measure("nc1_pinv_lib", nc1.pinv_library,
            "tr(Sw pinv(A/D)) / K, Sw over tokens", "[0, inf)", "low", LIBRARY),
    # NC2: equal norms
    Measure("nc2_equinorm_cov", nc2.norm_cov,
            "std / mean of norm(m_c)", "[0, inf)", "low", PAPYAN),
    Measure("nc2_equinorm_cov_sq", nc2.squared_norm_cov,
            "std / mean of norm(m_c)^2", "[0, inf)", "low", WU),
    Measure("nc2_equinorm_cov_log", nc2.log_norm_cov,
            "std / mean of ln norm(m_c)", "real", "-> 0", WU),
    Measure("nc2_equinorm_cov_logscl", nc2.scaled_log_norm_cov,
            "std / mean of ln(norm(m_c)^2 / sqrt(D))", "real", "-> 0", WU),
    Measure("nc2_equinorm_std_log", nc2.log_norm_std,
            "std of ln norm(m_c)", "[0, inf)", "low", OURS),
    # NC2: equal angles, distance to a simplex
    Measure("nc2_equiang_mean", nc2.cosine_mean,
            "mean_{i<j} <u_i, u_j>", "[-1/(K-1), 1]", "-> -1/(K-1)", PAPYAN),
    Measure("nc2_equiang_std", nc2.cosine_std,
            "std_{i<j} <u_i, u_j>", "[0, 1]", "low", PAPYAN),
    Measure("nc2_equiang_cov", nc2.cosine_cov,
            "std / mean of <u_i, u_j>", "real", "-> 0", WU),
    Measure("nc2_equiang_rmsdev", nc2.cosine_deviation,
            "sqrt(mean_{i<j} (<u_i, u_j> + 1/(K-1))^2)", "[0, K/(K-1)]", "low", OURS),
    Measure("nc2_equiang_nn", OfPairs("unit", "nearest", over.nearest_cosine),
            "mean_c max_{j != c} <u_c, u_j>", "[-1/(K-1), 1]", "low", JIANG),
    Measure("nc2_dot_mean", nc2.dot_mean,
            "mean_{i<j} <m_i, m_j> = -sum n2_c / (K(K-1))", "(-inf, 0]", "high", WU),
    Measure("nc2_dot_var", nc2.dot_variance,
            "var_{i<j} <m_i, m_j>, ddof 0", "[0, inf)", "low", WU),
    Measure("nc2_etf_error", nc2.etf_error,
            "normF(G / normF(G) - S / normF(S)), G_ij = <m_i, m_j>", "[0, sqrt 2]", "low", WU),
    Measure("nc2_cos_sq_mean", nc2.squared_cosine_mean,
            "mean_{i<j} <u_i, u_j>^2", WELCH, "low", OURS),
    Measure("nc2_cos_sq_excess", nc2.squared_cosine_excess,
            "D x mean_{i<j} <u_i, u_j>^2 - 1", "real", "-> 0", OURS),
    # GNC2: hyperspherical uniformity; l_ij = -ln norm(u_i - u_j), against uniform points
    Measure("gnc2_log_kernel_mean", OfPairs("unit", "logs", over.kernel_mean),
            "mean_{i<j} l_ij", "[-ln(2K/(K-1))/2, inf)", "low", LIU),
    Measure("gnc2_log_kernel_var", OfPairs("unit", "logs", over.kernel_variance),
            "var_{i<j} l_ij, ddof 0", "[0, inf)", "low", WU),
    Measure("gnc2_log_kernel_std", OfPairs("unit", "logs", over.kernel_std),
            "std_{i<j} l_ij", "[0, inf)", "low", WU),
    Measure("gnc2_log_kernel_cov", OfPairs("unit", "logs", over.kernel_cov),
            "std / mean of l_ij", "real", "-> 0", WU),
    Measure("gnc2_log_kernel_excess", OfPairs("unit", "logs", over.kernel_excess),
            "mean l_ij - b_mean(D)", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_var_ratio", OfPairs("unit", "logs", over.kernel_var_ratio),
            "var l_ij / b_var(D)", "[0, inf)", "-> 1", OURS),
    Measure("gnc2_log_kernel_z", OfPairs("unit", "logs", over.kernel_z),
            "(mean l_ij - b_mean(D)) / sqrt(b_var(D) / P)", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_excess_pr", OfPairs("unit", "logs", over.kernel_excess_in_rank),
            "mean l_ij - b_mean(rank_pr)", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_med", OfPairs("unit", "median", over.kernel_median),
            "median_{i<j} l_ij", "real", "low", OURS),
    Measure("gnc2_riesz_log", OfPairs("unit", "riesz", over.riesz),
            "ln mean_{i<j} norm(u_i - u_j)^-(D-2)", "real", "low", LIU),
    Measure("gnc2_min_dist", OfPairs("unit", "least", over.least_distance),
            "min_{i<j} norm(u_i - u_j)", "[0, 2]", "high", LIU),
    Measure("gnc2_dist_mean", OfPairs("unit", "roots", over.distance_mean),
            "mean_{i<j} norm(u_i - u_j)", "[0, 2]", "high", OURS),
    Measure("gnc2_dist_var", OfPairs("unit", "roots", over.distance_variance),
            "var_{i<j} norm(u_i - u_j), ddof 0", "[0, 1]", "low", OURS),
    # GNC2 of the means themselves, u_c = mu_c / norm(mu_c)
    Measure("gnc2_log_kernel_mean_unc", OfPairs("unit_unc", "logs", over.kernel_mean),
            "mean_{i<j} l_ij, not centred", "[-ln(2K/(K-1))/2, inf)", "low", WU),
    Measure("gnc2_log_kernel_var_unc", OfPairs("unit_unc", "logs", over.kernel_variance),
            "var_{i<j} l_ij, ddof 0, not centred", "[0, inf)", "low", WU),
    Measure("gnc2_log_kernel_std_unc", OfPairs("unit_unc", "logs", over.kernel_std),
            "std_{i<j} l_ij, not centred", "[0, inf)", "low", WU),
    Measure("gnc2_log_kernel_cov_unc", OfPairs("unit_unc", "logs", over.kernel_cov),
            "std / mean of l_ij, not centred", "real", "-> 0", WU),
    Measure("gnc2_log_kernel_excess_unc", OfPairs("unit_unc", "logs", over.kernel_excess),
            "mean l_ij - b_mean(D), not centred", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_var_ratio_unc", OfPairs("unit_unc", "logs", over.kernel_var_ratio),
            "var l_ij / b_var(D), not centred", "[0, inf)", "-> 1", OURS),
    Measure("gnc2_log_kernel_z_unc", OfPairs("unit_unc", "logs", over.kernel_z),
            "(mean l_ij - b_mean(D)) / sqrt(b_var(D) / P), not centred", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_med_unc", OfPairs("unit_unc", "median", over.kernel_median),
            "median_{i<j} l_ij, not centred", "real", "low", OURS),
    Measure("gnc2_riesz_log_unc", OfPairs("unit_unc", "riesz", over.riesz),
            "ln mean_{i<j} norm(u_i - u_j)^-(D-2), not centred", "real", "low", LIU),
    Measure("gnc2_min_dist_unc", OfPairs("unit_unc", "least", over.least_distance),
            "min_{i<j} norm(u_i - u_j), not centred", "[0, 2]", "high", LIU),
    Measure("gnc2_dist_mean_unc", OfPairs("unit_unc", "roots", over.distance_mean),
            "mean_{i<j} norm(u_i - u_j), not centred", "[0, 2]", "high", OURS),
    Measure("gnc2_dist_var_unc", OfPairs("unit_unc", "roots", over.distance_variance),
            "var_{i<j} norm(u_i - u_j), ddof 0, not centred", "[0, 1]", "low", OURS),
    # GNC2 of debiased cosines
    Measure("gnc2_log_kernel_mean_db", OfPairs("unit_db", "logs", over.kernel_mean),
            "mean_{i<j} l_ij, debiased", "real", "low", OURS),
    Measure("gnc2_log_kernel_var_db", OfPairs("unit_db", "logs", over.kernel_variance),
            "var_{i<j} l_ij, ddof 0, debiased", "[0, inf)", "low", OURS),
    Measure("gnc2_log_kernel_std_db", OfPairs("unit_db", "logs", over.kernel_std),
            "std_{i<j} l_ij, debiased", "[0, inf)", "low", OURS),
    Measure("gnc2_log_kernel_cov_db", OfPairs("unit_db", "logs", over.kernel_cov),
            "std / mean of l_ij, debiased", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_excess_db", OfPairs("unit_db", "logs", over.kernel_excess),
            "mean l_ij - b_mean(D), debiased", "real", "-> 0", OURS),
    Measure("gnc2_log_kernel_var_ratio_db", OfPairs("unit_db", "logs", over.kernel_var_ratio),
            "var l_ij / b_var(D), debiased", "[0, inf)", "-> 1", OURS),
    # NC3, UNC3: duality with the classifier
    Measure("nc3_cos_mean", nc3.cosine_mean,
            "mean_c cos(w_c, m_c)", "[-1, 1]", "high", WU),
    Measure("nc3_cos_wc_mean", nc3.centred_cosine_mean,
            "mean_c cos(w_c - mean w, m_c)", "[-1, 1]", "high", PAPYAN),
    Measure("nc3_dot_mean", nc3.dot_mean,
            "mean_c <w_c, m_c>", "real", "high", WU),
    Measure("nc3_dist_mean", nc3.distance_mean,
            "mean_c norm(w_c / norm(w_c) - u_c)", "[0, 2]", "low", WU),
    Measure("nc3_dist_var", nc3.distance_variance,
            "var_c norm(w_c / norm(w_c) - u_c), ddof 1", "[0, 2]", "low", WU),
    Measure("nc3_dual_error", nc3.dual_error,
            "normF(G / normF(G) - S / normF(S)), G_ij = <w_i, m_j>", "[0, 2]", "low", WU),
    Measure("nc3_frob", nc3.frobenius_distance,
            "normF(W / normF(W) - M / normF(M)), rows w_c and m_c", "[0, 2]", "low", PAPYAN),
    Measure("unc3_cos_cov", nc3.cosine_cov,
            "std / mean of cos(w_c, m_c)", "real", "-> 0", WU),
    Measure("unc3_cos_var", nc3.cosine_variance,
            "var_c cos(w_c, m_c), ddof 1", "[0, 1]", "low", WU),
    Measure("unc3_dot_var", nc3.dot_variance,
            "var_c <w_c, m_c>, ddof 1", "[0, inf)", "low", LIBRARY),
    # NC4: agreement with the nearest class mean; S the classes that have one
    Measure("nc4_hits", nc4.hits,
            "positions where both decide alike, both in S, labels in S", "[0, n]", "high", WU,
            "it is a count: see nc4_rate"),
    Measure("nc4_rate", nc4.rate,
            "nc4_hits / positions with a label in S", "[0, 1]", "high", WU),
    Measure("nc4_rate_fullv", nc4.rate_full,
            "share of all positions; the classifier chooses in V", "[0, 1]", "high", OURS),
    Measure("nc4_rate_macro", nc4.rate_macro,
            "mean over labels in S of their nc4_rate", "[0, 1]", "high", OURS,
            "labels that one group holds alone come and go"),
    Measure("ncc_accuracy", nc4.accuracy,
            "share of positions whose nearest class mean is the label's", "[0, 1]", "high", OURS),
    # Ranks, and overlap of the classifier's rows
    Measure("rank_pr", ranks.between_participation,
            "(tr A)^2 / normF(A)^2", "[1, min(D, K-1)]", "high", OURS),
    Measure("rank_stable", ranks.between_stable,
            "tr A / largest eigenvalue of A", "[1, min(D, K-1)]", "high", OURS),
    Measure("rank_entropy", ranks.between_entropy,
            "exp(-sum p ln p), p = eig(A) / tr A", "[1, min(D, K-1)]", "high", ROY),
    Measure("rank_entropy_sv", ranks.between_entropy_singular,
            "exp(-sum p ln p), p ~ sqrt(eig(A))", "[1, min(D, K-1)]", "high", GARRIDO),
    Measure("spectrum_slope", ranks.between_slope,
            "slope of ln eig_i(A) on ln i, i in [10, D/2]", "(-inf, 0]", "high", AGRAWAL),
    Measure("rank_pr_within", ranks.within_participation,
            "rank_pr of Sw over tokens", "[1, D]", "high", OURS),
    Measure("rank_stable_within", ranks.within_stable,
            "rank_stable of Sw over tokens", "[1, D]", "high", OURS),
    Measure("rank_entropy_within", ranks.within_entropy,
            "rank_entropy of Sw over tokens", "[1, D]", "high", ROY),
    Measure("rank_pr_head", ranks.head_participation,
            "rank_pr of sum_c w_c w_c^T", "[1, D]", "high", OURS),
    Measure("rank_stable_head", ranks.head_stable,
            "rank_stable of sum_c w_c w_c^T", "[1, D]", "high", OURS),
    Measure("rank_entropy_head", ranks.head_entropy,
            "rank_entropy of sum_c w_c w_c^T", "[1, D]", "high", ROY),
    Measure("head_overlap_sq", ranks.head_overlap,
            "mean_{i<j} cos(w_i, w_j)^2", WELCH, "low", SUPERPOSITION),
    Measure("head_overlap_sq_ctr", ranks.head_overlap_centred,
            "mean_{i<j} cos(w_i - mean w, w_j - mean w)^2", WELCH, "low", SUPERPOSITION),
)
# fmt: on

# What is computed unasked.
DEFAULT: tuple[str, ...] = (
    *("nc1_cdnv_p2", "nc1_cdnv_med_db", "nc1_cdnv_rom_db", "nc1_quotient"),
    *("nc2_equinorm_cov_log", "nc2_equinorm_std_log"),
    *("nc2_equiang_mean", "nc2_equiang_std", "nc2_equiang_cov", "nc2_etf_error", "rank_pr"),
    *("gnc2_log_kernel_mean", "gnc2_log_kernel_cov", "gnc2_log_kernel_cov_unc"),
    *("gnc2_log_kernel_excess", "gnc2_log_kernel_var_ratio"),
    *("nc3_cos_mean", "nc3_dual_error", "unc3_cos_cov", "unc3_cos_var", "unc3_dot_var"),
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

# Without units, without bias from rare classes, not decided by a few pairs.
ROBUST: tuple[str, ...] = (
    "nc1_cdnv_med_db",
    "gnc2_log_kernel_excess",
    "nc3_cos_mean",
    "unc3_cos_var",
    "nc4_rate_fullv",
)


def metrics(
    moments: ClassMoments,
    classifier: Float[Tensor, "V D"],
    decisions: Decisions | None = None,
    *,
    measures: Sequence[str] | None = None,
    min_count: int = 1,
) -> dict[str, Value]:
    """The geometry of class means beside their classifier: a value for each measure asked for.

    Args:
        moments: Of the training split; kept by group, its measures have intervals.
        classifier: The output matrix, a row a token; a bias plays no part but in `decisions`.
        decisions: Of the validation split; without them, NC4 is NaN. Kept by group likewise.
        measures: Names from `MEASURES`; "all" is all of them, None or none is `DEFAULT`.
        min_count: Embeddings that a class needs to take part. Measures in `_db` need 2 at least.
    """
    chosen = choose(measures)
    geometry = Geometry(moments, classifier, decisions, min_count=min_count)
    intervals.plan_pairs([measure.function for measure in chosen], geometry)
    values = {measure.name: measure.function(geometry) for measure in chosen}
    questions = [measure.question for measure in chosen]
    return intervals.with_intervals(values, questions, geometry, classifier)


def choose(names: Sequence[str] | None) -> tuple[Measure, ...]:
    """The measures of these names, in the order of `MEASURES`; a name that is none is refused."""
    known = {measure.name: measure for measure in MEASURES}
    names = [names] if isinstance(names, str) else names or DEFAULT
    if "all" in names:
        return MEASURES
    for name in names:
        if name not in known:
            hint = nearest(name, known) or "; `all` shows every one"
            raise UserError(f"unknown measure '{name}'{hint}")
    return tuple(measure for measure in MEASURES if measure.name in names)


def measure_table(names: Sequence[str] = ("all",)) -> str:
    """Measures as a Markdown table: the default ones in the README, all in docs/measures.md."""
    lines = ["| name | formula | range | direction | source |", "|---|---|---|---|---|"]
    lines += [
        f"| `{m.name}` | `{m.formula}` | {m.range} | {m.direction} | {m.source} |"
        for m in choose(names)
    ]
    return "\n".join(lines) + "\n"
