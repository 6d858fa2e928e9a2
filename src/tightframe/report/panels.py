"""Descriptions of panels, for whoever draws them: lines, what is written, ticks, colours."""

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from tightframe.analysis.association import FEW_RUNS, POOLED, SAME
from tightframe.geometry.views import views_of
from tightframe.report.rendering import COLOURS

SIZES = [COLOURS[f"size-{i}"] for i in range(5)]  # from small to large models


@dataclasses.dataclass(frozen=True)
class Fit:
    """The line through the points of a panel and what is written beside it."""

    log: bool  # whether the measure's axis is logarithmic
    headline: str  # "" of a few runs, which have no line
    detail: str
    free_corner: Literal["left", "right"]  # at the top, where a line of this sign has no points;
    # at the bottom it is the other one
    x: tuple[float, float] | None = None  # the two ends of the line; none where r is undefined
    y: tuple[float, float] | None = None
    ticks: tuple[float, ...] | None = None  # of a logarithmic axis


def fit(table: pd.DataFrame, found: pd.DataFrame, metric: str, *, log: bool) -> Fit:
    """Return the fit of validation loss on a measure over all checkpoints.

    A measure with values at or below zero keeps its linear axis and says so.
    """
    chosen = (found["metric"] == metric) & (found["checkpoints"] == "all")
    lines = found[chosen & (found["log"] == log)]
    line = lines[lines["group"] == POOLED].iloc[0]
    x = table[metric][np.isfinite(table[metric]) & np.isfinite(table["val_loss"])]
    if log and not (len(x) and x.min() > 0):
        linear = fit(table, found, metric, log=False)
        return dataclasses.replace(linear, detail=f"{linear.detail}; linear: not all positive")
    ticks = log_ticks(float(x.min()), float(x.max())) if log else None
    count = f"{line['n']} points, {line['n_runs']} run{'s' if line['n_runs'] != 1 else ''}"
    parts = within(lines)
    inside = f"\n{parts}" if parts else ""
    if line["reason"]:
        return Fit(log, "no R²", f"{line['reason']}\n{count}{inside}", "left", ticks=ticks)
    ends = float(x.min()), float(x.max())
    low, high = (math.log(end) if log else end for end in ends)
    r2, r = f"R² = {line['r2']:.2f}", f"r = {correlation(line['r'], line['p'])}"
    if line["ruled_by"]:
        r2 = f"{r2}, by one run"
        r = f"{r}, without it {correlation(line['r_without'])}"
    if line["n_runs"] < FEW_RUNS:
        return Fit(log, "", f"too few for a line\n{count}", "left", ticks=ticks)
    return Fit(
        log,
        r2,
        f"{r}; {count}{inside}",
        "left" if line["r"] > 0 else "right",
        ends,
        (line["slope"] * low + line["intercept"], line["slope"] * high + line["intercept"]),
        ticks,
    )


def correlation(r: float, p: float = math.nan) -> str:
    """Return r to two digits, marked where it is not different from 0."""
    if math.isnan(r):
        return "\N{EM DASH}"
    mark = " n.s." if p > SAME else ""
    return f"{r:+.2f}{mark}".replace("-", "\N{MINUS SIGN}")


def within(lines: pd.DataFrame) -> str:
    """Return the correlations within each kind of training in words; "" where none is known.

    Args:
        lines: Of `analysis.associations`, of one metric.
    """
    parts = lines[lines["group"] != POOLED].to_dict("records")
    told = [f"{one['group']} {correlation(one['r'], one['p'])}" for one in parts]
    known = any(one["r"] == one["r"] for one in parts)
    return f"within {'; '.join(told)}" if known else ""


def error_bars(table: pd.DataFrame, metric: str) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """Return both ends of the intervals of a metric; NaN where there is none."""
    nothing = pd.Series(math.nan, index=table.index)
    low, high = (table.get(f"{end}_{metric}", nothing) for end in ("low", "high"))
    return low, high


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return three to eight round values between two positive ends of a logarithmic axis."""
    if low == high:
        return (low,)
    if high < 4 * low:  # too short for decades: evenly spaced values
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        return tuple(float(f"{tick:.12g}") for tick in ticks if low <= tick <= high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8)):
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return tuple(ticks[:: 1 + len(ticks) // 8])


def floors(table: pd.DataFrame) -> list[tuple[float, str]]:
    """Return the entropy floors of the texts, in nats per token, each with its label."""
    known = table[["entropy_floor", "realised_floor"]].dropna().drop_duplicates()
    return [
        (expected, f"entropy floor {expected:.3f} (realised {realised:.3f})")
        for expected, realised in sorted(known.itertuples(index=False, name=None))
    ]


@dataclasses.dataclass(frozen=True)
class RunLine:
    """A measure at the steps of one run."""

    run: str
    size: float  # parameters of its model
    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]  # ends of the 95 % intervals, NaN where there is none
    high: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A measure against the steps of the training, one line per run."""

    positive: bool  # so that a logarithmic axis can hold it
    decades: bool  # whether the steps span so much that a logarithmic axis shows more
    lines: tuple[RunLine, ...]
    step_ticks: tuple[float, ...]  # of logarithmic axes, which begin after step 0
    value_ticks: tuple[float, ...]


def trajectory(table: pd.DataFrame, metric: str) -> Trajectory | None:
    """Return a measure along each run; None if it is known at one of several steps only."""
    if metric not in table:
        return None
    low, high = error_bars(table, metric)
    columns = table[["run", "step", "model_n_parameters", metric]].assign(low=low, high=high)
    measured = columns[np.isfinite(columns[metric])].sort_values("step")
    if measured.empty or measured["step"].nunique() < min(2, table["step"].nunique()):
        return None
    positive = bool((measured[metric] > 0).all())
    later = measured[measured["step"] > 0]
    lines = tuple(
        RunLine(
            str(name),
            float(run["model_n_parameters"].iloc[0]),
            *(tuple(run[column].tolist()) for column in ("step", metric, "low", "high")),
        )
        for name, run in measured.groupby("run")
    )
    return Trajectory(
        positive,
        bool(later["step"].max() >= 10 * later["step"].min()),
        lines,
        _ticks_of(later["step"]),
        _ticks_of(later[metric]) if positive else (),
    )


def _ticks_of(values: "pd.Series[Any]") -> tuple[float, ...]:
    return log_ticks(float(values.min()), float(values.max())) if len(values) else ()


def loss_range(table: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the loss axis: losses of all points, and floors not far below them."""
    shown = [panel.metric for view in views_of(table) for panel in view.panels]
    metrics = [metric for metric in shown if metric in table]
    points = table[np.isfinite(table[metrics]).any(axis=1)]
    losses = (table if points.empty else points)["val_loss"]
    losses = losses[np.isfinite(losses)]
    low, high = float(losses.min()), float(losses.max())
    known = [floor for floor, _ in floors(table)]
    near = [floor for floor in known if low - floor < 1.5 * (high - low)]
    low = min([low, *near])
    span = high - low or 1.0
    # Room for what is written at the top, and at the bottom where a floor is only named.
    return low - (0.06 if near == known else 0.14) * span, high + 0.26 * span


@dataclasses.dataclass(frozen=True)
class SizeScale:
    """The logarithmic colour scale of the number of parameters."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, table: pd.DataFrame) -> "SizeScale":
        """Return the scale from the smallest to the largest model; one size gets some room."""
        sizes = table["model_n_parameters"].astype(float)
        low, high = float(sizes.min()), float(sizes.max())
        if low == high:
            return cls(low / 1.5, high * 1.5, (low,))
        steps = [m * 10.0**e for e in range(int(math.log10(low)), 13) for m in (1, 2, 5)]
        inside = [step for step in steps if 1.5 * low < step < high / 1.5]
        return cls(low, high, (low, *inside[:: 1 + len(inside) // 5], high))

    def colour(self, size: float) -> dict[str, str]:
        """Return the colour of a size for light and for dark grounds, mixed between two shades."""
        place = math.log(size / self.low) / math.log(self.high / self.low) * (len(SIZES) - 1)
        below = min(max(math.floor(place), 0), len(SIZES) - 2)
        mixed = {}
        for i, ground in enumerate(("light", "dark")):
            shades = [SIZES[below + step][i] for step in (0, 1)]
            parts = [[int(shade[j : j + 2], 16) for j in (1, 3, 5)] for shade in shades]
            share = place - below
            mixed[ground] = "#" + "".join(
                f"{round(a + share * (b - a)):02x}" for a, b in zip(*parts, strict=True)
            )
        return mixed
