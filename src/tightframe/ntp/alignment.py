"""Measures of a model against what a table predicts: each a function of `Compared`.

Of several predictions (supports drawn at random) the mean is taken, and n counts the draws.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from tightframe.ntp.compared import Compared, Reference, Side, Value, predicted_rows
from tightframe.ntp.embeddings import Against
from tightframe.ntp.similarity import (
    distance,
    gram_cosine,
    gram_distance,
    gram_structural_similarity,
    quotient,
)
from tightframe.ntp.support_collapse import Collapse

NO_GROUP = "no two contexts have one support"


def excess(of: Compared) -> Value:
    """CE - H over the table's tokens."""
    return Value(of.contexts.excess, of.labels.n_contexts)


def outside(of: Compared) -> Value:
    """What the tokens that the table leaves out add to the loss."""
    if of.outside is None:
        return Value(math.nan, 0, of.labels.n_contexts, "only a model read by `collect` knows it")
    return Value(float(of.labels.weights @ of.outside), of.labels.n_contexts)


def norm_logits(of: Compared) -> Value:
    """|L|, columns centred over tokens."""
    return Value(_norm(of.contexts.squared_logits), of.labels.n_contexts)


def norm_rest(of: Compared) -> Value:
    """|P_perp(L)|."""
    return Value(_norm(of.contexts.squared_rest), of.labels.n_contexts)


def norm_finite(of: Compared) -> Value:
    """|L_in|: of the table, whatever the model."""
    return Value(_norm(of.contexts.squared_finite), of.labels.n_contexts)


def norm_classifier(of: Compared) -> Value:
    """|W|, not centred."""
    return Value(float(np.linalg.norm(of.classifier)), of.labels.vocab_size)


def norm_embeddings(of: Compared) -> Value:
    """|H|."""
    return Value(float(np.linalg.norm(of.embeddings)), of.labels.n_contexts)


def finite_error(of: Compared) -> Value:
    """|P_F(L) - L_in|."""
    return Value(_norm(of.contexts.squared_error), of.labels.n_contexts)


def finite_error_relative(of: Compared) -> Value:
    """The same over |L_in|."""
    scale = _norm(of.contexts.squared_finite)
    if scale == 0:
        return _no_finite(of)
    return Value(_norm(of.contexts.squared_error) / scale, of.labels.n_contexts)


def finite_cosine(of: Compared) -> Value:
    """cos(P_F(L), L_in)."""
    sweep = of.contexts
    if not sweep.squared_finite.any():
        return _no_finite(of)
    value = quotient(
        float(sweep.within_dot_finite.sum()),
        float(sweep.squared_within.sum()),
        float(sweep.squared_finite.sum()),
    )
    return Value(value, of.labels.n_contexts)


def spread_mean(of: Compared) -> Value:
    """Mean over contexts of the largest error of a difference of logits in the support."""
    return _of_several(of, np.mean)


def spread_max(of: Compared) -> Value:
    """The largest."""
    return _of_several(of, np.max)


def margin_mean(of: Compared) -> Value:
    """Mean over contexts of the least in-support logit minus the largest off-support one."""
    return _of_margins(of, np.mean)


def margin_min(of: Compared) -> Value:
    """The least."""
    return _of_margins(of, np.min)


def margin_positive(of: Compared) -> Value:
    """The share of contexts that have it above 0."""
    return _of_margins(of, lambda margins: float(np.mean(margins > 0)))


def norm_margin(of: Compared) -> Value:
    """The least margin over |L|."""
    scale = _norm(of.contexts.squared_logits)
    return _of_margins(of, lambda margins: float(margins.min()) / scale if scale else math.nan)


def logits_cosine(of: Compared, reference: Reference) -> Value:
    """cos(L, predicted logits)."""
    squared = float(of.contexts.squared_logits.sum())
    return _mean_against(of, reference, lambda one: _cosine(one.whole, squared, one))


def less_finite_cosine(of: Compared, reference: Reference) -> Value:
    """cos(L - L_in, predicted logits)."""
    squared = float((of.contexts.squared_error + of.contexts.squared_rest).sum())
    return _mean_against(of, reference, lambda one: _cosine(one.whole - one.finite, squared, one))


def rest_cosine(of: Compared, reference: Reference) -> Value:
    """cos(P_perp(L), predicted logits)."""
    squared = float(of.contexts.squared_rest.sum())
    return _mean_against(of, reference, lambda one: _cosine(one.rest, squared, one))


def rest_scale(of: Compared, reference: Reference) -> Value:
    """<P_perp(L), L_mm> / |L_mm|^2: the R of L ~ L_in + R L_mm."""
    return _mean_against(of, reference, lambda one: float(one.rest.sum() / one.squared.sum()))


def gram(of: Compared, reference: Reference, *, side: Side) -> Value:
    """cos of the Gram of the model's rows and the predicted one."""
    rows = of.rows(side)
    predicted = (predicted_rows(side, each) for each in of.references[reference])
    return _summary([gram_cosine(rows, theirs) for theirs in predicted], reference, len(rows))


def gram_far(of: Compared, reference: Reference, *, side: Side) -> Value:
    """Distance of the two Grams, each over its norm."""
    rows = of.rows(side)
    predicted = (predicted_rows(side, each) for each in of.references[reference])
    return _summary([gram_distance(rows, theirs) for theirs in predicted], reference, len(rows))


def gram_uncentred(of: Compared, reference: Reference) -> Value:
    """cos of W W^T as it is and the predicted one."""
    predicted = (each.classifier for each in of.references[reference])
    values = [gram_cosine(of.classifier, theirs) for theirs in predicted]
    return _summary(values, reference, of.labels.vocab_size)


def similarity(of: Compared, reference: Reference, *, side: Side) -> Value:
    """Structural similarity of the two matrices of cosines; rows with no direction are left out."""
    values, left_out = [], 0
    for prediction in of.references[reference]:
        ours, theirs, excluded = of.directions(side, prediction)
        values.append(gram_structural_similarity(ours, theirs) if len(ours) else math.nan)
        left_out = max(left_out, excluded)
    found = _summary(values, reference, len(of.rows(side)) - left_out)
    if not left_out:
        return found
    reason = "; ".join(part for part in (found.reason, f"{left_out} have no direction") if part)
    return Value(found.value, found.n, left_out, reason)


def distance_of(
    of: Compared, reference: Reference, *, cosine: Callable[[Compared, Reference], Value]
) -> Value:
    """|| A/|A| - B/|B| || instead of a cosine."""
    found = cosine(of, reference)
    return Value(distance(found.value), found.n, found.excluded, found.reason)


def groups(of: Compared) -> Value:
    """How many supports are those of two contexts or more."""
    found = of.groups
    reason = f"{found.n_left} contexts of large groups are left out" if found.n_left else ""
    return Value(float(len(found.members)), found.n_contexts, found.excluded, reason)


def within_mean(of: Compared, what: Callable[[Compared], Collapse]) -> Value:
    """Mean cosine of pairs of contexts of one support."""
    found = what(of)
    return _of_pairs(of, found, found.within, found.n_within)


def within_min(of: Compared, what: Callable[[Compared], Collapse]) -> Value:
    """The least."""
    found = what(of)
    return _of_pairs(of, found, found.within_min, found.n_within)


def between(of: Compared, what: Callable[[Compared], Collapse]) -> Value:
    """Mean cosine of pairs of contexts of different supports."""
    found = what(of)
    return _of_pairs(of, found, found.between, found.n_between)


def nc1_support(of: Compared, what: Callable[[Compared], Collapse]) -> Value:
    """Spread around the mean of the own support over the spread around the mean of all."""
    found = of.groups
    if not found.members:
        return Value(math.nan, 0, found.excluded, NO_GROUP)
    return Value(what(of).nc1, found.n_contexts, found.excluded, f"{len(found.members)} groups")


def of_embeddings(of: Compared) -> Collapse:
    """Collapse of the embeddings."""
    return of.embedding_collapse


def of_rest(of: Compared) -> Collapse:
    """Collapse of P_perp(L)."""
    return of.rest_collapse


def _norm(squared: np.ndarray) -> float:
    return math.sqrt(float(squared.sum()))


def _no_finite(of: Compared) -> Value:
    reason = "L_in is 0: labels are one-hot, or uniform on their supports"
    return Value(math.nan, 0, of.labels.n_contexts, reason)


def _of_several(of: Compared, reduce: Callable[[np.ndarray], float]) -> Value:
    """Over contexts that several tokens follow; a support of one has no differences."""
    several = of.labels.support_sizes > 1
    n, excluded = int(several.sum()), int((~several).sum())
    if not n:
        return Value(math.nan, 0, excluded, "every context is one-hot")
    reason = f"{excluded} contexts are one-hot" if excluded else ""
    return Value(float(reduce(of.contexts.spread[several])), n, excluded, reason)


def _of_margins(of: Compared, reduce: Callable[[np.ndarray], float]) -> Value:
    finite = np.isfinite(of.contexts.margin)
    n, excluded = int(finite.sum()), int((~finite).sum())
    if not n:
        return Value(math.nan, 0, excluded, "all tokens follow every context")
    reason = f"all tokens follow {excluded} contexts" if excluded else ""
    return Value(float(reduce(of.contexts.margin[finite])), n, excluded, reason)


def _cosine(products: np.ndarray, squared: float, one: Against) -> float:
    return quotient(float(products.sum()), squared, float(one.squared.sum()))


def _mean_against(of: Compared, reference: Reference, value: Callable[[Against], float]) -> Value:
    return _summary([value(one) for one in of.against(reference)], reference, of.labels.n_contexts)


def _summary(values: Sequence[float], reference: Reference, n: int) -> Value:
    """The one value of a prediction; of supports drawn at random, the mean over draws."""
    if not values:
        return Value(math.nan, 0, 0, f"no {reference} was given")
    value = float(np.mean(values))
    if reference != "shuffled":
        return Value(value, n)
    apart = f"; standard deviation {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return Value(value, len(values), 0, f"mean over draws{apart}")


def _of_pairs(of: Compared, found: Collapse, value: float, n: int) -> Value:
    if not of.groups.members:
        return Value(math.nan, 0, of.groups.excluded, NO_GROUP)
    reason = f"{len(of.groups.members)} groups, {of.groups.n_contexts} contexts"
    if found.n_zero:
        reason += f", {found.n_zero} of them without a direction"
    return Value(value, n, 0, reason)
