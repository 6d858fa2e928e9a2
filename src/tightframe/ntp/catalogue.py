"""Every measure of a model against its table: name, function, formula, range, direction, source.

Formulas are in these terms: L are the model's logits (what its softmax takes), rows the table's
tokens, each column centred over them; W and H are classifier and embeddings, one row per token and
one row per context; W_c is W with every column centred over tokens; L_in, L_mm, P_F and P_perp are
those of `soft_labels` and `solve_svm`; S~ is the centred support; G(A) = A A^T; cos is over all
entries; ssim is the structural similarity of two matrices of cosines.

A name is `ntp`, quantity, aggregate, and the reference: L_mm if nothing is said, `_proxy` S~,
`_shuffled` the mean over proxies of random supports of the same sizes (what a cosine is worth by
itself). Any change of these is another name.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from tightframe.geometry.values import Value
from tightframe.ntp.model_on_table import (
    Against,
    ModelOnTable,
    Reference,
    Side,
    SupportCollapse,
    predicted_rows,
)
from tightframe.ntp.similarity import (
    distance,
    gram_cosine,
    gram_distance,
    gram_structural_similarity,
    quotient,
)

THRAMPOULIDIS = "Thrampoulidis 2024, arXiv:2402.18551"
ZHAO = "Zhao et al. 2024, arXiv:2408.15417"
OURS = "tightframe"
NO_GROUP = "no two contexts have one support"


@dataclasses.dataclass(frozen=True)
class TheoryMeasure:
    """A measure of a model beside its table; its name is never used for another quantity."""

    name: str
    function: Callable[[ModelOnTable], Value]
    formula: str
    range: str
    # "low", "high" or "-> x": where training goes if the theory holds; "-" says nothing of it.
    direction: str
    source: str
    reference: Reference | None = None  # what the model is compared with; None for the table alone

    @property
    def min_count(self) -> int:
        """Number of contexts that a support needs to take part."""
        return 2 if "collapse" in self.name or "support" in self.name else 1


def excess(model: ModelOnTable) -> Value:
    """Return CE - H over the table's tokens."""
    return Value(model.contexts.excess, model.labels.n_contexts, 0)


def outside(model: ModelOnTable) -> Value:
    """Return what the tokens that the table leaves out add to the loss."""
    n = model.labels.n_contexts
    if model.outside is None:
        return Value(math.nan, 0, n, "only a model read by `collect` knows it")
    return Value(float(model.labels.weights @ model.outside), n, 0)


def norm(model: ModelOnTable, *, of: str) -> Value:
    """Return the Frobenius norm of a component of the logits, from the norms of its columns."""
    return Value(_norm(getattr(model.contexts, f"squared_{of}")), model.labels.n_contexts, 0)


def norm_rows(model: ModelOnTable, *, side: Side) -> Value:
    """Return the Frobenius norm of the classifier (not centred) or of the embeddings."""
    rows = getattr(model, side)
    return Value(float(np.linalg.norm(rows)), len(rows), 0)


def finite_error_relative(model: ModelOnTable) -> Value:
    """Return |P_F(L) - L_in| / |L_in|."""
    scale = _norm(model.contexts.squared_finite)
    if scale == 0:
        return _no_finite(model)
    return Value(_norm(model.contexts.squared_error) / scale, model.labels.n_contexts, 0)


def finite_cosine(model: ModelOnTable) -> Value:
    """Return cos(P_F(L), L_in)."""
    sums = model.contexts
    if not sums.squared_finite.any():
        return _no_finite(model)
    value = quotient(
        float(sums.within_dot_finite.sum()),
        float(sums.squared_within.sum()),
        float(sums.squared_finite.sum()),
    )
    return Value(value, model.labels.n_contexts, 0)


def in_support_error(model: ModelOnTable, *, reduce: Callable[[np.ndarray], float]) -> Value:
    """Reduce, over contexts, the largest error of a difference of logits in the support."""
    several = model.labels.support_sizes > 1  # a support of one token has no differences
    n, excluded = int(several.sum()), int((~several).sum())
    if not n:
        return Value(math.nan, 0, excluded, "every context is one-hot")
    reason = f"{excluded} contexts are one-hot" if excluded else ""
    return Value(float(reduce(model.contexts.max_error[several])), n, excluded, reason)


def margin(model: ModelOnTable, *, reduce: Callable[[np.ndarray], float]) -> Value:
    """Reduce, over contexts, the smallest in-support logit minus the largest off-support one."""
    margins = model.contexts.margin
    finite = np.isfinite(margins)
    n, excluded = int(finite.sum()), int((~finite).sum())
    if not n:
        return Value(math.nan, 0, excluded, "all tokens follow every context")
    reason = f"all tokens follow {excluded} contexts" if excluded else ""
    return Value(float(reduce(margins[finite])), n, excluded, reason)


def norm_margin(model: ModelOnTable) -> Value:
    """Return the smallest margin over |L|."""
    scale = _norm(model.contexts.squared_logits)
    return margin(model, reduce=lambda found: float(found.min()) / scale if scale else math.nan)


def logits_cosine(model: ModelOnTable, reference: Reference) -> Value:
    """Return cos(L, predicted logits)."""
    squared = float(model.contexts.squared_logits.sum())
    return _mean_against(model, reference, lambda one: _cosine(one.logits, squared, one))


def less_finite_cosine(model: ModelOnTable, reference: Reference) -> Value:
    """Return cos(L - L_in, predicted logits)."""
    squared = float((model.contexts.squared_error + model.contexts.squared_off_support).sum())
    return _mean_against(
        model, reference, lambda one: _cosine(one.logits - one.finite, squared, one)
    )


def off_support_cosine(model: ModelOnTable, reference: Reference) -> Value:
    """Return cos(P_perp(L), predicted logits)."""
    squared = float(model.contexts.squared_off_support.sum())
    return _mean_against(model, reference, lambda one: _cosine(one.off_support, squared, one))


def off_support_scale(model: ModelOnTable, reference: Reference) -> Value:
    """Return <P_perp(L), L_mm> / |L_mm|^2, the R of L ~ L_in + R L_mm."""
    return _mean_against(
        model, reference, lambda one: float(one.off_support.sum() / one.squared.sum())
    )


def distance_of(
    model: ModelOnTable,
    reference: Reference,
    *,
    cosine: Callable[[ModelOnTable, Reference], Value],
) -> Value:
    """Return || A/|A| - B/|B| || for the two matrices of a cosine."""
    found = cosine(model, reference)
    return dataclasses.replace(found, value=distance(found.value))


def gram(model: ModelOnTable, reference: Reference, *, side: Side, distant: bool = False) -> Value:
    """Return the cosine or the distance of the model's Gram matrix and the predicted one."""
    rows, compare = model.rows(side), gram_distance if distant else gram_cosine
    predicted = (predicted_rows(side, each) for each in model.references[reference])
    return _summary([compare(rows, theirs) for theirs in predicted], reference, len(rows))


def gram_uncentred(model: ModelOnTable, reference: Reference) -> Value:
    """Return the cosine of W W^T, not centred, and the predicted Gram matrix."""
    predicted = (each.classifier for each in model.references[reference])
    values = [gram_cosine(model.classifier, theirs) for theirs in predicted]
    return _summary(values, reference, model.labels.vocab_size)


def similarity(model: ModelOnTable, reference: Reference, *, side: Side) -> Value:
    """Return the structural similarity of the two matrices of cosines, without zero rows."""
    values, left_out = [], 0
    for prediction in model.references[reference]:
        ours, theirs, excluded = model.directions(side, prediction)
        values.append(gram_structural_similarity(ours, theirs) if len(ours) else math.nan)
        left_out = max(left_out, excluded)
    found = _summary(values, reference, len(model.rows(side)) - left_out)
    if not left_out:
        return found
    reason = "; ".join(part for part in (found.reason, f"{left_out} have no direction") if part)
    return Value(found.value, found.n, left_out, reason)


def groups(model: ModelOnTable) -> Value:
    """Return the number of supports that two contexts or more have."""
    found = model.groups
    reason = f"{found.n_left} contexts of large groups are left out" if found.n_left else ""
    return Value(float(len(found.members)), found.n_contexts, found.excluded, reason)


def collapse(
    model: ModelOnTable, *, of: str, value: Callable[[SupportCollapse], float], between: bool
) -> Value:
    """Return a cosine of pairs of contexts with one support, or with different ones."""
    found: SupportCollapse = getattr(model, f"{of}_collapse")
    if not model.groups.members:
        return Value(math.nan, 0, model.groups.excluded, NO_GROUP)
    reason = f"{len(model.groups.members)} groups, {model.groups.n_contexts} contexts"
    if found.n_zero:
        reason += f", {found.n_zero} of them without a direction"
    return Value(value(found), found.n_between if between else found.n_within, 0, reason)


def nc1_support(model: ModelOnTable, *, of: str) -> Value:
    """Return the sum of squares around the means of supports over that around the overall mean."""
    found = model.groups
    if not found.members:
        return Value(math.nan, 0, found.excluded, NO_GROUP)
    nc1: float = getattr(model, f"{of}_collapse").nc1
    return Value(nc1, found.n_contexts, found.excluded, f"{len(found.members)} groups")


def _norm(squared: np.ndarray) -> float:
    return math.sqrt(float(squared.sum()))


def _no_finite(model: ModelOnTable) -> Value:
    reason = "L_in is 0: labels are one-hot, or uniform on their supports"
    return Value(math.nan, 0, model.labels.n_contexts, reason)


def _cosine(products: np.ndarray, squared: float, one: Against) -> float:
    return quotient(float(products.sum()), squared, float(one.squared.sum()))


def _mean_against(
    model: ModelOnTable, reference: Reference, value: Callable[[Against], float]
) -> Value:
    values = [value(one) for one in model.against(reference)]
    return _summary(values, reference, model.labels.n_contexts)


def _summary(values: Sequence[float], reference: Reference, n: int) -> Value:
    """Return the value of the one prediction; for random supports, the mean over draws."""
    if not values:
        return Value(math.nan, 0, 0, f"no {reference} was given")
    value = float(np.mean(values))
    if reference != "shuffled":
        return Value(value, n, 0)
    apart = f"; standard deviation {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return Value(value, len(values), 0, f"mean over draws{apart}")


# Symbols of what a model is compared with: logits, and classifier and embeddings in a Gram matrix.
_LOGITS: dict[Reference, str] = {
    "solution": "L_mm",
    "proxy": "S~",
    "shuffled": "S~ of a random support",
}
_ROWS: dict[Reference, str] = {
    "solution": "{}_mm",
    "proxy": "{} of S~",
    "shuffled": "{} of a random support",
}


def _against(
    reference: Reference, name: str, function: Callable[..., Value], formula: str,
    bounds: str, direction: str, source: str,
) -> TheoryMeasure:  # fmt: skip
    """Return a measure against a reference; a baseline has neither direction nor source."""
    if reference == "shuffled":
        direction, source = "-", OURS
    suffix = "" if reference == "solution" else f"_{reference}"
    bound = partial(function, reference=reference)
    return TheoryMeasure(
        f"ntp_{name}{suffix}", bound, formula, bounds, direction, source, reference
    )


def _logits(reference: Reference) -> Iterator[TheoryMeasure]:
    """Yield cosine and distance of each component of the logits."""
    target = _LOGITS[reference]
    for name, cosine, symbol, source in (
        ("logits", logits_cosine, "L", ZHAO),
        ("less_finite", less_finite_cosine, "L - L_in", ZHAO),
        ("rest", off_support_cosine, "P_perp(L)", OURS),
    ):
        cosine_formula, far = f"cos({symbol}, {target})", partial(distance_of, cosine=cosine)
        formula = f"distance of {symbol} and {target}, each over its norm"
        if reference != "shuffled" or name != "less_finite":
            yield _against(
                reference, f"{name}_cos", cosine, cosine_formula, "[-1, 1]", "high", source
            )
        if reference != "shuffled":
            yield _against(reference, f"{name}_dist", far, formula, "[0, 2]", "low", source)


def _grams(side: Side) -> Iterator[TheoryMeasure]:
    """Yield what compares the Gram matrix of the classifier or of the embeddings."""
    letter, rows = ("W", "W_c") if side == "classifier" else ("H", "H")
    for reference, symbol in _ROWS.items():
        theirs = symbol.format(letter)
        yield _against(reference, f"gram_{side}_cos", partial(gram, side=side),
                       f"cos(G({rows}), G({theirs}))", "[0, 1]", "high", ZHAO)  # fmt: skip
        if reference != "shuffled":
            yield _against(reference, f"gram_{side}_dist", partial(gram, side=side, distant=True),
                           f"distance of G({rows}) and G({theirs}), each over its norm",
                           "[0, sqrt 2]", "low", ZHAO)  # fmt: skip
        if reference == "solution" and side == "classifier":
            yield _against(reference, "gram_classifier_cos_unc", gram_uncentred,
                           "cos(G(W), G(W_mm))", "[0, 1]", "high", ZHAO)  # fmt: skip
        yield _against(reference, f"ssim_{side}", partial(similarity, side=side),
                       f"ssim of the rows of {rows} and {theirs}", "[-1, 1]", "high",
                       ZHAO)  # fmt: skip


def _collapses(name: str, of: str, one: str, other: str) -> Iterator[TheoryMeasure]:
    """Yield the measures of subspace collapse of the vectors that a formula calls `one`."""
    cosine, both = f"cos({one}, {other})", partial(collapse, of=of)
    within = partial(both, value=lambda found: found.within, between=False)
    smallest = partial(both, value=lambda found: found.within_min, between=False)
    between = partial(both, value=lambda found: found.between, between=True)
    nc1 = f"sum_j |{one} - mean of its support|^2 / sum_j |{one} - mean|^2"
    for measure, function, formula, bounds, direction in (
        ("collapse_cos", within, f"mean {cosine}, S_j = S_j'", "[-1, 1]", "-> 1"),
        ("collapse_cos_min", smallest, f"min {cosine}, S_j = S_j'", "[-1, 1]", "-> 1"),
        ("collapse_cos_between", between, f"mean {cosine}, S_j != S_j'", "[-1, 1]", "-"),
        ("nc1_support", partial(nc1_support, of=of), nc1, "[0, 1]", "low"),
    ):
        yield TheoryMeasure(f"ntp_{measure}_{name}", function, formula, bounds, direction, ZHAO)


_EXCESS = "CE(L) - H, softmax over the table's tokens"
_OUTSIDE = "-sum_j pi_j ln (share of the table's tokens)"
_ERROR = "max_{z,z' in S_j} |L_zj - L_z'j - ln(P_zj/P_z'j)|"
_MARGIN = "min_{z in S_j, v not in S_j} L_zj - L_vj"

# fmt: off
MEASURES: tuple[TheoryMeasure, ...] = (
    TheoryMeasure("ntp_excess", excess, _EXCESS, "[0, inf)", "low", ZHAO),
    TheoryMeasure("ntp_outside", outside, _OUTSIDE, "[0, inf)", "low", OURS),
    *(TheoryMeasure(f"ntp_norm_{name}", function, formula, "[0, inf)", direction, source)
      for name, function, formula, direction, source in (
          ("logits", partial(norm, of="logits"), "|L|", "-> inf", ZHAO),
          ("rest", partial(norm, of="off_support"), "|P_perp(L)|", "-> inf", OURS),
          ("finite", partial(norm, of="finite"), "|L_in|", "-", ZHAO),
          ("classifier", partial(norm_rows, side="classifier"), "|W|", "-> inf", ZHAO),
          ("embeddings", partial(norm_rows, side="embeddings"), "|H|", "-> inf", ZHAO))),
    TheoryMeasure("ntp_finite_error", partial(norm, of="error"),
                  "|P_F(L) - L_in|", "[0, inf)", "low", ZHAO),
    TheoryMeasure("ntp_finite_error_rel", finite_error_relative,
                  "|P_F(L) - L_in| / |L_in|", "[0, inf)", "low", OURS),
    TheoryMeasure("ntp_finite_cos", finite_cosine, "cos(P_F(L), L_in)", "[-1, 1]", "high", OURS),
    TheoryMeasure("ntp_spread_mean", partial(in_support_error, reduce=np.mean),
                  f"mean over |S_j| > 1 of {_ERROR}", "[0, inf)", "low", THRAMPOULIDIS),
    TheoryMeasure("ntp_spread_max", partial(in_support_error, reduce=np.max),
                  f"max_j {_ERROR}", "[0, inf)", "low", THRAMPOULIDIS),
    TheoryMeasure("ntp_margin_mean", partial(margin, reduce=np.mean),
                  f"mean_j {_MARGIN}", "real", "-> inf", THRAMPOULIDIS),
    TheoryMeasure("ntp_margin_min", partial(margin, reduce=np.min),
                  f"min_j {_MARGIN}", "real", "-> inf", THRAMPOULIDIS),
    TheoryMeasure("ntp_margin_positive",
                  partial(margin, reduce=lambda margins: float(np.mean(margins > 0))),
                  f"share of contexts with {_MARGIN} > 0", "[0, 1]", "-> 1", OURS),
    TheoryMeasure("ntp_norm_margin", norm_margin, f"min_j {_MARGIN}, over |L|",
                  "real", "high", OURS),
    *_logits("solution"),
    _against("solution", "rest_scale", off_support_scale,
             "R = <P_perp(L), L_mm> / |L_mm|^2", "real", "-> inf", OURS),
    *_logits("proxy"),
    *_logits("shuffled"),
    *_grams("classifier"),
    *_grams("embeddings"),
    TheoryMeasure("ntp_support_groups", groups,
                  "number of supports that two contexts or more have", "[0, inf)", "-", OURS),
    *_collapses("embeddings", "embedding", "h_j", "h_j'"),
    *_collapses("rest", "off_support", "P_perp(L)_j", "P_perp(L)_j'"),
)
# fmt: on


def measure_table() -> str:
    """Return every measure as a Markdown table, for docs/measures.md."""
    lines = ["| name | formula | range | direction | source |", "|" + "---|" * 5]
    for m in MEASURES:
        formula = m.formula.replace("|", "\\|")  # a bar would end the cell
        lines.append(f"| `{m.name}` | `{formula}` | {m.range} | {m.direction} | {m.source} |")
    return "\n".join(lines) + "\n"
