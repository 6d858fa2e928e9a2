"""P values that are adjusted for the number of tests: for relations across models and for verdicts.

Apart, because the statistics across models and the study of facts both need it, and neither is
part of the other.

Axes: M tests.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats


def adjusted(p: Float[np.ndarray, " M"], method: str) -> Float[np.ndarray, " M"]:
    """Return p values adjusted by Holm ("holm") or Benjamini and Hochberg ("bh"), in [0, 1].

    One that is NaN stays so and is no test. Sources: Holm 1979, Benjamini & Hochberg 1995.
    """
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    if method == "bh":
        out[known] = stats.false_discovery_control(p[known]) if len(known) else []
        return out
    order = known[np.argsort(p[known], kind="stable")]
    out[order] = np.maximum.accumulate((len(order) - np.arange(len(order))) * p[order])
    return np.asarray(np.minimum(out, 1))
