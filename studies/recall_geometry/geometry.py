r"""The geometry of facts as classes, a line a fact.

Class means :math:`\mu_f` and variances :math:`s_f` are those of a fact's variants; variances are
divided by n - 1, since facts have different numbers of variants. The question's embedding is a
test sample: it takes no part in them.

Axes: F facts, D embedding.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from studies.recall_geometry.embeddings import FactEmbeddings
from tightframe.geometry.moments import ClassMoments

Block: TypeAlias = Literal["collapse", "question"]


class Feature(NamedTuple):
    """A number of a fact's geometry."""

    name: str
    block: Block  # of the variants alone, or of the question's place among them
    log: bool  # whether its logarithm enters a regression


FEATURES = (
    Feature("variance", "collapse", log=True),
    Feature("cdnv_mean", "collapse", log=True),
    Feature("cdnv_nearest", "collapse", log=True),
    Feature("cosine_nearest", "collapse", log=False),
    Feature("cosine_classifier", "collapse", log=False),
    Feature("rank", "question", log=True),
    Feature("rank_cosine", "question", log=True),
    Feature("margin", "question", log=False),
)


def fact_geometry(facts: FactEmbeddings) -> pd.DataFrame:
    r"""The features of every fact.

    Returns:
        A line a fact, in the order of `fact_ids`: fact_id, n_variants, longer, logit_margin (at
        the question, nats: the logit of the answer's first token less the largest other), and

        - variance: :math:`s_f` over the mean squared distance of the means to their mean, in
          [0, inf); 0 at full collapse.
        - cdnv_mean, cdnv_nearest: :math:`(s_f + s_g) / 2 / \lVert\mu_f - \mu_g\rVert^2`, averaged
          over the other facts g, and of the g whose mean is nearest; inf where means coincide.
        - cosine_nearest, cosine_classifier: of :math:`\mu_f` less the mean of the means with that
          of another fact (the largest), and with the classifier's row of the answer's first
          token less the mean of these rows.
        - rank, rank_cosine: 1 + how many other means are nearer to the question's embedding than
          its own; ties count half. Cosines are seen from the mean of the means.
        - margin: (d_other - d_own) / (d_other + d_own), d_other to the nearest other mean; in
          [-1, 1], above 0 where rank is 1. NaN where both distances are 0.
    """
    n_facts = len(facts.fact_ids)
    moments = ClassMoments(n_facts, facts.variants.shape[1])
    moments.update(facts.variants, facts.labels)
    variances = moments.within_ss / (moments.counts - 1)
    centre = moments.global_mean()
    centred = moments.means - centre  # (F, D)
    apart = _distances(moments.means, moments.means).square().fill_diagonal_(torch.inf)
    cdnv = (variances[:, None] + variances) / 2 / apart  # (F, F), 0 on the diagonal
    nearest = apart.argmin(1, keepdim=True)
    between = _cosines(centred, centred).fill_diagonal_(-torch.inf)
    rows = facts.token_rows - facts.token_rows.mean(0)
    asked = _distances(facts.questions, moments.means)
    alike = _cosines(facts.questions - centre, centred)
    own = asked.diagonal()
    other = asked.clone().fill_diagonal_(torch.inf).amin(1)
    columns = {
        "n_variants": moments.counts,
        "longer": facts.longer,
        "logit_margin": facts.logit_margins,
        "variance": variances / centred.square().sum(1).mean(),
        "cdnv_mean": cdnv.sum(1) / (n_facts - 1),
        "cdnv_nearest": cdnv.gather(1, nearest)[:, 0],
        "cosine_nearest": between.amax(1),
        "cosine_classifier": _cosines(centred, rows).diagonal(),
        "rank": _ranks(asked),
        "rank_cosine": _ranks(-alike),
        "margin": (other - own) / (other + own),
    }
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    table.insert(0, "fact_id", list(facts.fact_ids))
    return table


def regressors(table: pd.DataFrame) -> pd.DataFrame:
    """The features as they enter a regression: logarithms where `Feature.log` says so."""
    with np.errstate(divide="ignore"):
        return pd.DataFrame(
            {one.name: np.log(table[one.name]) if one.log else table[one.name] for one in FEATURES}
        )


def _ranks(costs: Float64[Tensor, "F F"]) -> Float64[Tensor, " F"]:
    """The rank of the diagonal in its row, from the least; ties count half."""
    own = costs.diagonal()[:, None]
    ties = (costs == own).sum(1).double() - 1
    ranks: Tensor = 1 + (costs < own).sum(1) + ties / 2
    return ranks


def _distances(a: Float64[Tensor, "F D"], b: Float64[Tensor, "F D"]) -> Float64[Tensor, "F F"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _cosines(a: Float64[Tensor, "F D"], b: Float64[Tensor, "F D"]) -> Float64[Tensor, "F F"]:
    """NaN where a vector is 0."""
    cosines: Tensor = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    return cosines
