"""How a measure goes with validation loss across checkpoints: correlations and a line.

Axes: N checkpoints. These are descriptions, not tests: checkpoints of one run, and runs that share
a shape, depend on each other, so N is not a number of independent observations.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from tightframe.analysis.checkpoints import last_of_each_run

FEW_RUNS = 8  # fewer than these are described, one by one, not summed up
Vector = Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Association:
    """How y goes with x over `n` finite pairs; NaN with a `reason` where that is undefined."""

    n: int  # pairs in which both are finite
    r: float = math.nan  # Pearson, in [-1, 1]
    spearman: float = math.nan  # Pearson of the ranks, ties shared, in [-1, 1]
    slope: float = math.nan  # of the least-squares line y = slope * x + intercept
    intercept: float = math.nan
    reason: str = ""  # why there is no correlation

    @property
    def r2(self) -> float:
        """Share of the variance of y that the line explains, in [0, 1]: the square of r."""
        return self.r**2


def associate(x: Vector, y: Vector, *, log: bool = False) -> Association:
    """Correlations of y with x, and the least-squares line of y on x.

    Args:
        x: Values of a measure; pairs with a value that is not finite are left out.
        y: Validation losses, in nats per token.
        log: Take ln(x) in place of x; undefined unless every x is positive.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    n = len(x)
    if n < 3:
        return Association(n, reason="fewer than three points")
    if log and x.min() <= 0:
        return Association(n, reason="not positive")
    x = np.log(x) if log else x
    for values, name in ((x, "the measure"), (y, "the loss")):
        if _constant(values):
            return Association(n, reason=f"{name} is constant")
    r = _pearson(x, y)
    unit = np.abs(x).max()  # in it no square leaves the range of float64
    slope = r * y.std() / (x / unit).std() / unit
    return Association(
        n,
        r=r,
        spearman=_pearson(rankdata(x), rankdata(y)),
        slope=float(slope),
        intercept=float(y.mean() - slope * x.mean()),
    )


def associations(table: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Associate validation loss with every metric and its log, over all and over last checkpoints.

    Nothing is said, for a `reason`, of checkpoints of one run, of losses on several texts, and of a
    measure with values of both signs whose mean is within half a standard deviation of 0: most of
    those are ratios to something that is near 0, and one or two of them would decide the line.

    Args:
        table: One line a checkpoint, as `analysis.checkpoints` gives it.

    Returns:
        A line for each metric, `log` (False, True) and `checkpoints` ("all", or "last": the last
        one of each run): n, n_runs, r, r2, spearman, slope, intercept, reason.
    """
    lines = []
    for metric in metrics:
        for log in (False, True):
            for name, chosen in (("all", table), ("last", last_of_each_run(table))):
                used = chosen[np.isfinite(chosen[metric]) & np.isfinite(chosen["val_loss"])]
                x, y = used[metric].to_numpy(float), used["val_loss"].to_numpy(float)
                reason = _why_not(used, x)
                found = Association(len(x), reason=reason) if reason else associate(x, y, log=log)
                line: dict[str, Any] = {"metric": metric, "log": log, "checkpoints": name}
                line |= {"n": found.n, "n_runs": used["run"].nunique(), "r2": found.r2}
                lines.append(line | vars(found))
    return pd.DataFrame(lines)


def _why_not(used: pd.DataFrame, x: Vector) -> str:
    """Return why these checkpoints say nothing of how the loss goes with x; "" if they may."""
    if len(used) > 2 and used["run"].nunique() == 1:
        return "the checkpoints are of one run"
    texts = used["tokens_fingerprint"].nunique() if "tokens_fingerprint" in used else 1
    if texts > 1:
        return f"losses on {texts} texts can't be compared"
    if len(x) > 2 and x.min() < 0 < x.max() and abs(x.mean()) < x.std() / 2:
        return "the measure crosses 0 far"
    return ""


def _constant(values: Vector) -> bool:
    """Equal up to rounding: a correlation of what is left would be one of rounding errors."""
    return bool(np.ptp(values) <= 4 * np.finfo(float).eps * np.abs(values).max())


def _pearson(x: Vector, y: Vector) -> float:
    x, y = (values / np.abs(values).max() for values in (x, y))
    x, y = x - x.mean(), y - y.mean()
    r = x @ y / math.sqrt((x @ x) * (y @ y))
    return float(np.clip(r, -1, 1))  # rounding can leave 1 + 2e-16
