"""What the theory predicts of a model that is not at the limit: the ridge solution of its loss.

Directions approach their limit only with the logarithm of the regularisation, so a trained model
is compared with the solution L_lambda whose loss lies as far above the floor as its own, beside
the limit.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

EXCESS = "ntp_excess"  # the measure CE - H, nats per pair


def at_same_loss(path: pd.DataFrame, models: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The measures of the ridge path where its excess loss is that of each model.

    Between two points of the path the logarithm of a measure is taken as linear in that of the
    excess loss (many are powers of the ridge, as the loss is); the measure itself, where it is not
    positive all along. Where a model's excess lies outside of the path's there is no prediction,
    NaN.

    Args:
        path: One line a point, with `ntp_excess` > 0 and the metrics; in any order.
        models: One line a checkpoint, with `ntp_excess`.
        metrics: Columns of the path to predict.

    Returns:
        The metrics, a line for each of `models`, with its index.
    """
    points = path.sort_values(EXCESS)
    known = np.log(points[EXCESS].to_numpy(dtype=float))
    wanted = np.log(models[EXCESS].to_numpy(dtype=float))
    predicted = {}
    for metric in metrics:
        values = points[metric].to_numpy(dtype=float)
        geometric = bool((values > 0).all())
        found = np.interp(
            wanted, known, np.log(values) if geometric else values, left=np.nan, right=np.nan
        )
        predicted[metric] = np.exp(found) if geometric else found
    return pd.DataFrame(predicted, index=models.index)
