"""How a measure goes with validation loss across checkpoints: correlations and a line.

Axes: N checkpoints, T permutations. These are descriptions, not tests: checkpoints of one run, and
runs that share a shape, depend on each other, so N is not a number of independent observations; p
is as if they were. Pooled over trainings of several lengths a correlation is mostly that of the
lengths, and can have another sign within each: those stand beside it.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import rankdata

from tightframe.analysis.checkpoints import last_of_each_run

FEW_RUNS = 8  # fewer than these are described, one by one, not summed up
PERMUTATIONS = 999
SAME = 0.05  # correlations with a larger p are marked: not different from 0
RULES = 0.5  # share of the squared deviations of a measure with which a single value rules its line
POOLED = "all"  # the group of all checkpoints
# Settings of a training: models that share them are a group, and are compared with each other.
TRAINING = ("recipe", "epochs")
Vector = Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Association:
    """Correlations of y with x over `n` finite pairs; NaN with a `reason` if undefined."""

    n: int  # pairs in which both are finite
    r: float = math.nan  # Pearson, in [-1, 1]
    p: float = math.nan  # of r, two-sided, by permutations: (# + 1) / (T + 1)
    spearman: float = math.nan  # Pearson of the ranks, ties shared, in [-1, 1]
    slope: float = math.nan  # of the least-squares line y = slope * x + intercept
    intercept: float = math.nan
    r_without: float = math.nan  # r without the value that rules the line, where one does
    ruler: int = -1  # the place of that value among the finite pairs; -1 where none rules
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
    squares = (x / unit - (x / unit).mean()) ** 2
    ruler = int(np.argmax(squares)) if n > 3 and squares.max() > RULES * squares.sum() else -1
    others = np.arange(n) != ruler
    alone = ruler >= 0 and not _constant(x[others]) and not _constant(y[others])
    return Association(
        n,
        r=r,
        p=_permutation_p(x, y),
        spearman=_pearson(rankdata(x), rankdata(y)),
        slope=float(slope),
        intercept=float(y.mean() - slope * x.mean()),
        r_without=_pearson(x[others], y[others]) if alone else math.nan,
        ruler=ruler,
    )


def associations(table: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Associate validation loss with every metric and its log, over all and over last checkpoints.

    Nothing is said, for a `reason`, of checkpoints of one run, of losses on several texts, of a
    coefficient of variation whose mean changes sign among the checkpoints, and of a measure with
    values of both signs whose mean is within half a standard deviation of 0: most of those are
    ratios to something that is near 0, and one or two of them would decide the line.

    Args:
        table: One line a checkpoint, as `analysis.checkpoints` gives it.

    Returns:
        A line for each metric, `log` (False, True), `checkpoints` ("all", or "last": the last
        one of each run) and `group` ("all", and where trainings differ in length or recipe those
        that share them, "epochs 1" say): n, n_runs, r, r2, p, spearman, slope, intercept, reason;
        `ruled_by`, the run whose value alone rules the line, and `r_without` it.
    """
    lines = []
    parts = list(groups(table))
    for metric in metrics:
        for log in (False, True):
            for name in ("all", "last"):
                for group, members in parts:
                    chosen = members if name == "all" else last_of_each_run(members)
                    line = {"metric": metric, "log": log, "checkpoints": name, "group": group}
                    lines.append(line | _of(chosen, metric, log=log))
    return pd.DataFrame(lines)


def groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield all checkpoints, then those of each kind of training where there are several kinds."""
    yield POOLED, table
    names = [f"set_{name}" for name in TRAINING if f"set_{name}" in table]
    names = [name for name in names if table[name].nunique(dropna=False) > 1]
    if names:
        for key, members in table.groupby(names, dropna=False, sort=True):
            values = zip(names, key if isinstance(key, tuple) else (key,), strict=True)
            words = (
                f"{name.removeprefix('set_')} {value:g}"
                if isinstance(value, int | float)
                else f"{name.removeprefix('set_')} {value}"
                for name, value in values
            )
            yield ", ".join(words), members


def _of(chosen: pd.DataFrame, metric: str, *, log: bool) -> dict[str, Any]:
    """Return the numbers of one line of `associations`."""
    used = chosen[np.isfinite(chosen[metric]) & np.isfinite(chosen["val_loss"])]
    x, y = used[metric].to_numpy(float), used["val_loss"].to_numpy(float)
    reason = _why_not(used, x, metric)
    found = Association(len(x), reason=reason) if reason else associate(x, y, log=log)
    line = {"n": found.n, "n_runs": used["run"].nunique(), "r2": found.r2} | vars(found)
    ruler = line.pop("ruler")
    return line | {"ruled_by": used["run"].iloc[ruler] if ruler >= 0 else ""}


def _why_not(used: pd.DataFrame, x: Vector, metric: str) -> str:
    """Return why these checkpoints say nothing of how the loss goes with x; "" if they may."""
    if len(used) > 2 and used["run"].nunique() == 1:
        return "the checkpoints are of one run"
    texts = used["tokens_fingerprint"].nunique() if "tokens_fingerprint" in used else 1
    if texts > 1:
        return f"losses on {texts} texts can't be compared"
    if len(x) > 2 and x.min() < 0 < x.max():
        if "_cov" in metric:  # std / mean: the sign is that of the mean
            return "the mean that it divides by changes sign"
        if abs(x.mean()) < x.std() / 2:
            return "the measure crosses 0 far"
    return ""


def _permutation_p(x: Vector, y: Vector) -> float:
    """Return how often the losses, dealt to the measures at random, correlate as strongly."""
    x, y = ((values - values.mean()) / np.abs(values).max() for values in (x, y))
    dealt = np.abs(y[_orders(len(y))] @ x)
    return float((1 + (dealt >= abs(y @ x) * (1 - 1e-9)).sum()) / (1 + PERMUTATIONS))


@functools.lru_cache(maxsize=64)
def _orders(n: int) -> Int[np.ndarray, "T N"]:
    return np.random.default_rng(0).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)


def _constant(values: Vector) -> bool:
    """Equal up to rounding: a correlation of what is left would be one of rounding errors."""
    return bool(np.ptp(values) <= 4 * np.finfo(float).eps * np.abs(values).max())


def _pearson(x: Vector, y: Vector) -> float:
    x, y = (values / np.abs(values).max() for values in (x, y))
    x, y = x - x.mean(), y - y.mean()
    r = x @ y / math.sqrt((x @ x) * (y @ y))
    return float(np.clip(r, -1, 1))  # rounding can leave 1 + 2e-16
