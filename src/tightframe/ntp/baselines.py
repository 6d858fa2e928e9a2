"""What agreement means nothing: the geometry of supports that were drawn at random.

Gram matrices of centred sparse matrices are alike to some degree by themselves, so an agreement
with the prediction is read beside that with the prediction of shuffled supports.
`comparison.shuffled_support` draws every context for itself; where supports repeat that is easily
beaten, because the blocks of equal supports are lost.

Axes: V tokens, M distinct contexts.
"""

import numpy as np
from jaxtyping import Bool


def shuffled_groups(support: Bool[np.ndarray, "V M"], seed: int) -> Bool[np.ndarray, "V M"]:
    """Supports of the same sizes, their tokens drawn anew, each token as likely as any other.

    Contexts that share a support share the new one: what repeats in the text repeats here, and
    only *which* tokens follow is lost.
    """
    generator = np.random.default_rng(seed)
    distinct, group = np.unique(support, axis=1, return_inverse=True)
    order = generator.random(distinct.shape).argsort(axis=0)  # a permutation of tokens a column
    shuffled: Bool[np.ndarray, "V M"] = np.take_along_axis(distinct, order, axis=0)
    return shuffled[:, group.ravel()]
