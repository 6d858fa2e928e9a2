"""Every measure of a model against its table: name, function, formula, range, direction, source.

Formulas are in these terms: L are the model's logits (what its softmax takes), rows the table's
tokens, each column centred over them; W and H are classifier and embeddings, a row a token and a
row a context; W_c is W with every column centred over tokens; L_in, L_mm, P_F and P_perp are those
of `soft_labels` and `solve_svm`; S~ is the centred support; G(A) = A A^T; cos is over all entries;
ssim is the structural similarity of two matrices of cosines.

A name is `ntp`, quantity, aggregate, and what the model is compared with: L_mm if nothing is said,
`_proxy` S~, `_shuffled` the mean over proxies of supports of the same sizes drawn at random (what a
cosine is worth by itself). Any change of these is another name.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from tightframe.ntp import alignment as of
from tightframe.ntp.compared import Compared, Reference, Value

THRAMPOULIDIS = "Thrampoulidis 2024, arXiv:2402.18551"
ZHAO = "Zhao et al. 2024, arXiv:2408.15417"
OURS = "tightframe"


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of a model beside its table; its name is never used for another quantity."""

    name: str
    function: Callable[[Compared], Value]
    formula: str
    range: str
    # "low", "high" or "-> x": where training goes if the theory holds; "-" says nothing of it.
    direction: str
    source: str

    @property
    def reference(self) -> Reference | None:
        """What it compares with; None if the table alone."""
        if not isinstance(self.function, partial) or "reference" not in self.function.keywords:
            return None
        found: Reference = self.function.keywords["reference"]
        return found

    @property
    def least_count(self) -> int:
        """Contexts that a support needs to take part."""
        return 2 if "collapse" in self.name or "support" in self.name else 1


def _with(function: Callable[..., Value], reference: Reference, **more: object) -> partial[Value]:
    return partial(function, reference=reference, **more)


def _far(cosine: Callable[[Compared, Reference], Value], reference: Reference) -> partial[Value]:
    return partial(of.distance_of, reference=reference, cosine=cosine)


# fmt: off
MEASURES: tuple[Measure, ...] = (
    # Loss and norms
    Measure("ntp_excess", of.excess,
            "CE(L) - H, softmax over the table's tokens", "[0, inf)", "low", ZHAO),
    Measure("ntp_outside", of.outside,
            "-sum_j pi_j ln (share of the table's tokens)", "[0, inf)", "low", OURS),
    Measure("ntp_norm_logits", of.norm_logits, "|L|", "[0, inf)", "-> inf", ZHAO),
    Measure("ntp_norm_rest", of.norm_rest, "|P_perp(L)|", "[0, inf)", "-> inf", OURS),
    Measure("ntp_norm_finite", of.norm_finite, "|L_in|", "[0, inf)", "-", ZHAO),
    Measure("ntp_norm_classifier", of.norm_classifier, "|W|", "[0, inf)", "-> inf", ZHAO),
    Measure("ntp_norm_embeddings", of.norm_embeddings, "|H|", "[0, inf)", "-> inf", ZHAO),
    # In the support
    Measure("ntp_finite_error", of.finite_error, "|P_F(L) - L_in|", "[0, inf)", "low", ZHAO),
    Measure("ntp_finite_error_rel", of.finite_error_relative,
            "|P_F(L) - L_in| / |L_in|", "[0, inf)", "low", OURS),
    Measure("ntp_finite_cos", of.finite_cosine, "cos(P_F(L), L_in)", "[-1, 1]", "high", OURS),
    Measure("ntp_spread_mean", of.spread_mean,
            "mean over |S_j| > 1 of max_{z,z' in S_j} |L_zj - L_z'j - ln(P_zj/P_z'j)|",
            "[0, inf)", "low",
            THRAMPOULIDIS),
    Measure("ntp_spread_max", of.spread_max,
            "max_j of the same", "[0, inf)", "low", THRAMPOULIDIS),
    # Off the support
    Measure("ntp_margin_mean", of.margin_mean,
            "mean_j min_{z in S_j, v not in S_j} L_zj - L_vj", "real", "-> inf", THRAMPOULIDIS),
    Measure("ntp_margin_min", of.margin_min, "min_j of the same", "real", "-> inf", THRAMPOULIDIS),
    Measure("ntp_margin_positive", of.margin_positive,
            "share of contexts where it is positive", "[0, 1]", "-> 1", OURS),
    Measure("ntp_norm_margin", of.norm_margin, "min_j of the same / |L|", "real", "high", OURS),
    # Direction of the logits
    Measure("ntp_logits_cos", _with(of.logits_cosine, "solution"),
            "cos(L, L_mm)", "[-1, 1]", "high", ZHAO),
    Measure("ntp_logits_dist", _far(of.logits_cosine, "solution"),
            "|L/|L| - L_mm/|L_mm||", "[0, 2]", "low", ZHAO),
    Measure("ntp_less_finite_cos", _with(of.less_finite_cosine, "solution"),
            "cos(L - L_in, L_mm)", "[-1, 1]", "high", ZHAO),
    Measure("ntp_less_finite_dist", _far(of.less_finite_cosine, "solution"),
            "distance of L - L_in and L_mm, each over its norm", "[0, 2]", "low", ZHAO),
    Measure("ntp_rest_cos", _with(of.rest_cosine, "solution"),
            "cos(P_perp(L), L_mm)", "[-1, 1]", "high", OURS),
    Measure("ntp_rest_dist", _far(of.rest_cosine, "solution"),
            "distance of P_perp(L) and L_mm, each over its norm", "[0, 2]", "low", OURS),
    Measure("ntp_rest_scale", _with(of.rest_scale, "solution"),
            "R = <P_perp(L), L_mm> / |L_mm|^2", "real", "-> inf", OURS),
    Measure("ntp_logits_cos_proxy", _with(of.logits_cosine, "proxy"),
            "cos(L, S~)", "[-1, 1]", "high", ZHAO),
    Measure("ntp_logits_dist_proxy", _far(of.logits_cosine, "proxy"),
            "|L/|L| - S~/|S~||", "[0, 2]", "low", ZHAO),
    Measure("ntp_less_finite_cos_proxy", _with(of.less_finite_cosine, "proxy"),
            "cos(L - L_in, S~)", "[-1, 1]", "high", ZHAO),
    Measure("ntp_less_finite_dist_proxy", _far(of.less_finite_cosine, "proxy"),
            "distance of L - L_in and S~, each over its norm", "[0, 2]", "low", ZHAO),
    Measure("ntp_rest_cos_proxy", _with(of.rest_cosine, "proxy"),
            "cos(P_perp(L), S~)", "[-1, 1]", "high", OURS),
    Measure("ntp_rest_dist_proxy", _far(of.rest_cosine, "proxy"),
            "distance of P_perp(L) and S~, each over its norm", "[0, 2]", "low", OURS),
    Measure("ntp_logits_cos_shuffled", _with(of.logits_cosine, "shuffled"),
            "cos(L, S~ of a random support)", "[-1, 1]", "-", OURS),
    Measure("ntp_rest_cos_shuffled", _with(of.rest_cosine, "shuffled"),
            "cos(P_perp(L), S~ of a random support)", "[-1, 1]", "-", OURS),
    # Gram of the classifier
    Measure("ntp_gram_classifier_cos", _with(of.gram, "solution", side="classifier"),
            "cos(G(W_c), G(W_mm))", "[0, 1]", "high", ZHAO),
    Measure("ntp_gram_classifier_dist", _with(of.gram_far, "solution", side="classifier"),
            "distance of G(W_c) and G(W_mm), each over its norm", "[0, sqrt 2]", "low", ZHAO),
    Measure("ntp_gram_classifier_cos_unc", _with(of.gram_uncentred, "solution"),
            "cos(G(W), G(W_mm))", "[0, 1]", "high", ZHAO),
    Measure("ntp_ssim_classifier", _with(of.similarity, "solution", side="classifier"),
            "ssim of the rows of W_c and W_mm", "[-1, 1]", "high", ZHAO),
    Measure("ntp_gram_classifier_cos_proxy", _with(of.gram, "proxy", side="classifier"),
            "cos(G(W_c), G(W of S~))", "[0, 1]", "high", ZHAO),
    Measure("ntp_gram_classifier_dist_proxy", _with(of.gram_far, "proxy", side="classifier"),
            "distance of G(W_c) and G(W of S~), each over its norm", "[0, sqrt 2]", "low", ZHAO),
    Measure("ntp_ssim_classifier_proxy", _with(of.similarity, "proxy", side="classifier"),
            "ssim of the rows of W_c and W of S~", "[-1, 1]", "high", ZHAO),
    Measure("ntp_gram_classifier_cos_shuffled", _with(of.gram, "shuffled", side="classifier"),
            "cos(G(W_c), G(W of a random support))", "[0, 1]", "-", OURS),
    Measure("ntp_ssim_classifier_shuffled", _with(of.similarity, "shuffled", side="classifier"),
            "ssim of the rows of W_c and W of a random support", "[-1, 1]", "-", OURS),
    # Gram of the embeddings
    Measure("ntp_gram_embeddings_cos", _with(of.gram, "solution", side="embeddings"),
            "cos(G(H), G(H_mm))", "[0, 1]", "high", ZHAO),
    Measure("ntp_gram_embeddings_dist", _with(of.gram_far, "solution", side="embeddings"),
            "distance of G(H) and G(H_mm), each over its norm", "[0, sqrt 2]", "low", ZHAO),
    Measure("ntp_ssim_embeddings", _with(of.similarity, "solution", side="embeddings"),
            "ssim of the rows of H and H_mm", "[-1, 1]", "high", ZHAO),
    Measure("ntp_gram_embeddings_cos_proxy", _with(of.gram, "proxy", side="embeddings"),
            "cos(G(H), G(H of S~))", "[0, 1]", "high", ZHAO),
    Measure("ntp_gram_embeddings_dist_proxy", _with(of.gram_far, "proxy", side="embeddings"),
            "distance of G(H) and G(H of S~), each over its norm", "[0, sqrt 2]", "low", ZHAO),
    Measure("ntp_ssim_embeddings_proxy", _with(of.similarity, "proxy", side="embeddings"),
            "ssim of the rows of H and H of S~", "[-1, 1]", "high", ZHAO),
    Measure("ntp_gram_embeddings_cos_shuffled", _with(of.gram, "shuffled", side="embeddings"),
            "cos(G(H), G(H of a random support))", "[0, 1]", "-", OURS),
    Measure("ntp_ssim_embeddings_shuffled", _with(of.similarity, "shuffled", side="embeddings"),
            "ssim of the rows of H and H of a random support", "[-1, 1]", "-", OURS),
    # Subspace collapse: supports of two contexts or more
    Measure("ntp_support_groups", of.groups, "how many", "[0, inf)", "-", OURS),
    Measure("ntp_collapse_cos_embeddings", partial(of.within_mean, what=of.of_embeddings),
            "mean cos(h_j, h_j'), S_j = S_j'", "[-1, 1]", "-> 1", ZHAO),
    Measure("ntp_collapse_cos_min_embeddings", partial(of.within_min, what=of.of_embeddings),
            "least of the same", "[-1, 1]", "-> 1", ZHAO),
    Measure("ntp_collapse_cos_between_embeddings", partial(of.between, what=of.of_embeddings),
            "mean cos(h_j, h_j'), S_j != S_j'", "[-1, 1]", "-", ZHAO),
    Measure("ntp_nc1_support_embeddings", partial(of.nc1_support, what=of.of_embeddings),
            "sum_j |h_j - mean of its support|^2 / sum_j |h_j - mean|^2", "[0, 1]", "low", ZHAO),
    Measure("ntp_collapse_cos_rest", partial(of.within_mean, what=of.of_rest),
            "the first of columns of P_perp(L)", "[-1, 1]", "-> 1", ZHAO),
    Measure("ntp_collapse_cos_min_rest", partial(of.within_min, what=of.of_rest),
            "the second of them", "[-1, 1]", "-> 1", ZHAO),
    Measure("ntp_collapse_cos_between_rest", partial(of.between, what=of.of_rest),
            "the third of them", "[-1, 1]", "-", ZHAO),
    Measure("ntp_nc1_support_rest", partial(of.nc1_support, what=of.of_rest),
            "the fourth of them", "[0, 1]", "low", ZHAO),
)
# fmt: on


def measure_table() -> str:
    """Every measure as a Markdown table, as docs/measures.md has it."""
    lines = ["| name | formula | range | direction | source |", "|" + "---|" * 5]
    for m in MEASURES:
        formula = m.formula.replace("|", "\\|")  # a bar would end the cell
        lines.append(f"| `{m.name}` | `{formula}` | {m.range} | {m.direction} | {m.source} |")
    return "\n".join(lines) + "\n"
