"""How far class means that a text predicts agree with a model's, and whether their order does.

Axes: K classes that take part, D and E embeddings of two models, R models.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64
from scipy.stats import rankdata
from torch import Tensor

from studies.bridge.models import Ideal
from tightframe.analysis.association import associate
from tightframe.geometry.measures import metrics
from tightframe.geometry.moments import ClassMoments

# None has units, which a prediction knows nothing of (the published `nc1_cdnv_p2` has), and none
# divides by a mean near 0.
MEASURES = (
    *("nc1_cdnv_med_db", "nc1_quotient_db", "nc2_equinorm_std_log", "nc2_equiang_std"),
    *("gnc2_log_kernel_excess", "gnc2_log_kernel_cov_unc", "nc3_cos_mean", "unc3_cos_var"),
    "rank_pr",
)


def measured(
    moments: ClassMoments, classifier: Float[Tensor, "V D"], *, min_count: int
) -> dict[str, float]:
    """The measures of a model or of an ideal one; NaN where one is undefined."""
    found = metrics(moments, classifier, measures=MEASURES, min_count=min_count)
    return {name: value.value for name, value in found.items()}


def class_agreement(predicted: Ideal, moments: ClassMoments, *, min_count: int) -> dict[str, float]:
    """Class by class: do a model's class means lie as the text says?

    Means are centred by the mean of those that take part: classes with `min_count` samples in
    both, and a direction in both.

    Args:
        predicted: Of a table.
        moments: Of a model, a class a token of the table (`bridges.classes_of`).
        min_count: Samples that a class needs.

    Returns:
        cosines: Pearson's r between the cosines of all pairs of class means, in [-1, 1]; 1 if
            the two Grams of directions are alike, 0 if they have nothing to do with each other.
        norms: Spearman's r between the norms of centred class means.
        variances: Spearman's r between the variances within classes; NaN where one has none.
        classes: K.
    """
    if (mine := predicted.moments.n_classes) != moments.n_classes:
        raise ValueError(
            f"moments are of {moments.n_classes} classes, the prediction of {mine}; "
            "take those of the table's tokens with `classes_of`"
        )
    pair = (predicted.moments, moments)
    seen = pair[0].seen(min_count).cpu() & pair[1].seen(min_count).cpu()
    centred = [state.means.cpu()[seen] for state in pair]
    centred = [means - means.mean(0) for means in centred]
    norms = [means.norm(dim=1) for means in centred]
    directed: Bool[Tensor, " K"] = (norms[0] > 0) & (norms[1] > 0)
    k = int(directed.sum())
    if k < 3:
        return {"cosines": math.nan, "norms": math.nan, "variances": math.nan, "classes": k}
    units = [m[directed] / n[directed, None] for m, n in zip(centred, norms, strict=True)]
    variances = [state.variances.cpu()[seen][directed].numpy() for state in pair]
    return {
        "cosines": cosine_correlation(units[0], units[1]),
        "norms": associate(*(n[directed].numpy() for n in norms)).spearman,
        "variances": associate(variances[0], variances[1]).spearman,
        "classes": k,
    }


def cosine_correlation(a: Float64[Tensor, "K D"], b: Float64[Tensor, "K E"]) -> float:
    """Pearson's r between <a_i, a_j> and <b_i, b_j> over pairs i < j; rows have norm 1.

    Sums over pairs are norms of D x E products, so that no K x K matrix is made.
    """
    k = len(a)
    pairs = k * (k - 1)  # each twice

    def product(x: Float64[Tensor, "K D"], y: Float64[Tensor, "K E"]) -> float:
        return (float((x.T @ y).square().sum()) - k) / pairs

    means = [(float(x.sum(0).square().sum()) - k) / pairs for x in (a, b)]
    variances = [product(x, x) - mean**2 for x, mean in zip((a, b), means, strict=True)]
    if min(variances) <= 1e-12:  # what is left would be rounding errors of sums of order 1
        return math.nan
    r = (product(a, b) - means[0] * means[1]) / math.sqrt(variances[0] * variances[1])
    return float(np.clip(r, -1, 1))


def order(
    values: pd.DataFrame, by: Sequence[str], *, permutations: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Are the models in the predicted order? A line a group of `values` and measure.

    Args:
        values: A line a model, prediction and measure: run, loss, measure, predicted, measured,
            and the columns `by`, which tell predictions apart.
        by: e.g. length of context and variant.
        permutations: Of the models, for p.
        seed: Of the permutations.

    Returns:
        n: Models with both values. spearman: of predicted with measured, ties shared; NaN where
        one is constant. p: share of permutations with as large a size of it, two-sided; the least
        is 1 / (permutations + 1). of_loss: Spearman of the model's own training loss with what
        was measured, the control. partial: Spearman of predicted with measured, given the loss;
        NaN where the loss decides one of their orders. mean_predicted, mean_measured: the levels.
    """
    lines = []
    for key, group in values.groupby([*by, "measure"], sort=False):
        both = group[np.isfinite(group["predicted"]) & np.isfinite(group["measured"])]
        x, y, z = (both[name].to_numpy(float) for name in ("predicted", "measured", "loss"))
        rho = associate(x, y).spearman
        line: dict[str, Any] = dict(zip([*by, "measure"], key, strict=True))
        line |= {"n": len(both), "spearman": rho, "p": permutation_p(x, y, permutations, seed)}
        line |= {"of_loss": associate(z, y).spearman}
        line |= {"partial": _partial(rho, associate(x, z).spearman, line["of_loss"])}
        line |= {"mean_predicted": x.mean() if len(x) else math.nan}
        lines.append(line | {"mean_measured": y.mean() if len(y) else math.nan})
    return pd.DataFrame(lines)


def permutation_p(
    x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R"], permutations: int, seed: int
) -> float:
    """Two-sided p of Spearman's r where models are dealt to values at random; NaN if undefined."""
    observed = associate(x, y).spearman
    if math.isnan(observed):
        return math.nan
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    scale = math.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
    rng = np.random.default_rng(seed)
    dealt = rng.permuted(np.tile(ranks[1], (permutations, 1)), axis=1)  # (permutations, R)
    found = np.abs(dealt @ ranks[0]) / scale
    return float((1 + (found >= abs(observed) - 1e-12).sum()) / (permutations + 1))


def joined(
    predicted: Mapping[str, float], model: Mapping[str, float], facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Lines for `order`: a line a measure, with the facts of the prediction and the model."""
    return [
        {**facts, "measure": name, "predicted": predicted[name], "measured": model[name]}
        for name in MEASURES
    ]


def _partial(xy: float, xz: float, yz: float) -> float:
    """Correlation of x and y given z, from the three between them."""
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > 1e-12 else math.nan
