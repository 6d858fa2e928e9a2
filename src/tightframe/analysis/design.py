"""From a table of models to what inference needs: rows, y, measures, controls, clusters.

Axes: N rows (one per checkpoint), M measures, P columns of controls. Whatever is left out is listed
with the reason, and nothing is dropped silently.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tightframe.analysis.inference import basis_of
from tightframe.analysis.options import LOSS
from tightframe.errors import UserError, nearest
from tightframe.geometry.catalogue import MEASURES

LOSSES = (LOSS, "perplex", "val_perplexity", "val_bits_per_byte")  # lower is better
OUTCOMES = (*LOSSES, "val_acc", "val_accuracy")
DIRECTIONS = {one.name: one.direction for one in MEASURES}  # of more collapse
ALIASES = {"params": "model_n_parameters", "n_params": "model_n_parameters"}
PREFIXES = ("", "set_", "model_", "tokens_")
FEWEST_ROWS = 4
CONSTANT = 4 * np.finfo(float).eps  # relative: values within rounding of each other
NO_CONTROLS = "intercept"


class Excluded(NamedTuple):
    """Something that was left out."""

    what: str  # a row by its key, or a measure
    why: str


@dataclasses.dataclass(frozen=True)
class Design:
    """Rows, y, measures, controls and clusters of a relation, in arrays.

    Attributes:
        table: The rows that are used.
        y: What is explained.
        measures: Values of each measure by name; NaN where it has none.
        controls: A column of ones, then the controls; without fixed effects.
        basis: Orthonormal basis of controls and fixed effects.
        collinear: Controls that the others explain.
        clusters: Cluster of each row, in [0, G), for each level by name.
        excluded: Rows and measures that are left out.
    """

    table: pd.DataFrame
    y: Float[np.ndarray, " N"]
    measures: dict[str, Float[np.ndarray, " N"]]
    controls: Float[np.ndarray, "N P"]
    basis: Float[np.ndarray, "N Q"]
    collinear: list[str]
    clusters: dict[str, Int[np.ndarray, " N"]]
    excluded: list[Excluded]

    @property
    def has_controls(self) -> bool:
        """True if anything but the intercept is held fixed."""
        return int(self.basis.shape[1]) > 1


def make_design(
    table: pd.DataFrame,
    *,
    y: str,
    measures: Sequence[str],
    controls: Sequence[str],
    fixed: Sequence[str],
    clusters: Sequence[str],
) -> Design:
    """Return the design of a table, with rows that lack y, a control or a cluster left out.

    Args:
        table: One row per model or checkpoint.
        y: Name of the column that is explained.
        measures: Names of columns that are related to y.
        controls: Names of numeric columns; `log_NAME` takes the logarithm of one, `A:B` the product
            of two, of which the first may hold words.
        fixed: Names of columns whose every value has an effect of its own.
        clusters: Names of columns whose rows depend on each other; none makes each row its own.

    Raises:
        UserError: A column that does not exist or is no number, a constant y, fewer than 4 rows, or
            a single cluster.
    """
    frame = table.reset_index(drop=True)
    target = numbers(frame, y)
    named_controls = [(name, part) for one in controls for name, part in _control(frame, one)]
    levels = {name: column(frame, name).astype(object) for name in clusters}
    effects = {name: column(frame, name).astype(object) for name in fixed}
    needed = {y: target, **dict(named_controls)}
    usable = np.ones(len(frame), dtype=bool)
    excluded = []
    for name, values in needed.items():
        excluded += [
            Excluded(key, f"{name} is missing")
            for key in keys(frame, usable & ~np.isfinite(values))
        ]
        usable &= np.isfinite(values)
    for name, words in {**levels, **effects}.items():
        missing = words.isna().to_numpy()
        excluded += [Excluded(key, f"{name} is missing") for key in keys(frame, usable & missing)]
        usable &= ~missing
    if usable.sum() < FEWEST_ROWS:
        gone = f", {excluded[0].why} in {excluded[0].what}" if excluded else ""
        raise UserError(
            f"{int(usable.sum())} rows have all that is needed, expected at least "
            f"{FEWEST_ROWS}{gone}; give more models"
        )
    used = frame[usable].reset_index(drop=True)
    _refuse_constant(target[usable], y)
    codes = {
        name: pd.factorize(words[usable].astype(str), sort=True)[0]
        for name, words in levels.items()
    } or {"row": np.arange(len(used))}
    for name, one in codes.items():
        if one.max() == 0:
            raise UserError(
                f"all rows are of one {name}; give models of several, or other --clusters"
            )
    ones = np.ones(len(used))
    plain = np.column_stack([ones, *(part[usable] for _, part in named_controls)])
    dummies = [
        (f"{name}={value}", part)
        for name in effects
        for value, part in _dummies(effects[name][usable])
    ]
    every = np.column_stack([plain, *(part for _, part in dummies)])
    names = [NO_CONTROLS, *(name for name, _ in named_controls), *(name for name, _ in dummies)]
    basis, collinear = basis_of(every, names)
    if basis.shape[1] >= len(used) - 1:
        raise UserError(
            f"controls and fixed effects take {basis.shape[1]} of {len(used)} degrees of freedom, "
            "and leave nothing to relate; give fewer of them, or more models"
        )
    columns = {name: numbers(frame, name)[usable] for name in measures}
    return Design(used, target[usable], columns, plain, basis, collinear, codes, excluded)


def column(table: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return a column by its name, without the prefix of settings or of the model's facts too."""
    for known in [f"{prefix}{name}" for prefix in PREFIXES] + [ALIASES.get(name, name)]:
        if known in table:
            return table[known]
    known_names = [str(one) for one in table.columns]
    hint = nearest(name, known_names) or f"; known: {', '.join(known_names[:20])}"
    raise UserError(f"no column '{name}'{hint}")


def has_column(table: pd.DataFrame, name: str) -> bool:
    """Tell whether `column` finds this name."""
    return any(f"{prefix}{name}" in table for prefix in PREFIXES) or ALIASES.get(name) in table


def numbers(table: pd.DataFrame, name: str) -> Float[np.ndarray, " N"]:
    """Return a column as numbers; `log_NAME` is the logarithm of a column without that name."""
    if not has_column(table, name) and name.startswith("log_") and has_column(table, name[4:]):
        values = numbers(table, name[4:])
        if (values <= 0).any():
            raise UserError(f"{name}: {name[4:]} is not positive in every row; leave the log out")
        return np.asarray(np.log(values))
    found = column(table, name)
    values = pd.to_numeric(found, errors="coerce").to_numpy(float)
    broken = np.isnan(values) & found.notna().to_numpy()
    if broken.any():
        raise UserError(
            f"{name} holds '{found[broken].iloc[0]}', expected numbers; words can be "
            "--fixed, --clusters or --family"
        )
    return np.where(np.isfinite(values), values, math.nan)


def is_constant(values: Float[np.ndarray, " N"]) -> bool:
    """Tell whether all values are equal up to rounding."""
    return bool(np.ptp(values) <= CONSTANT * np.abs(values).max())


def expected_sign(name: str, x: Float[np.ndarray, " N"], y: str) -> int:
    """Return the sign that more collapse with better generalization would give; 0 for none.

    A measure that is to approach 0 has it where all of its values have one sign.
    """
    toward = DIRECTIONS.get(name, "")
    if toward == "-> 0":
        toward = "low" if x.min() > 0 else "high" if x.max() < 0 else ""
    sign = {"low": 1, "high": -1}.get(toward, 0)
    return sign if y in LOSSES else -sign


def _control(table: pd.DataFrame, name: str) -> list[tuple[str, Float[np.ndarray, " N"]]]:
    """Return the columns of one control: itself, or the products of an interaction `A:B`."""
    if ":" not in name:
        return [(name, numbers(table, name))]
    first, second = name.split(":", 1)
    other = numbers(table, second)
    words = None if not has_column(table, first) else column(table, first)
    if words is None or pd.api.types.is_numeric_dtype(words):
        return [(name, numbers(table, first) * other)]
    return [(f"{first}={value}:{second}", part * other) for value, part in _dummies(words)]


def _dummies(words: "pd.Series[Any]") -> list[tuple[str, Float[np.ndarray, " N"]]]:
    """Return an indicator for each value but the first, which the intercept stands for."""
    text = words.astype(str)
    return [(value, (text == value).to_numpy(float)) for value in sorted(text.unique())[1:]]


def _refuse_constant(values: Float[np.ndarray, " N"], name: str) -> None:
    if is_constant(values):
        raise UserError(f"{name} is {values[0]:g} in every row; there is nothing to relate to it")


def keys(table: pd.DataFrame, chosen: Bool[np.ndarray, " N"]) -> list[str]:
    """Return what the chosen rows are called: run and step, model, or the number of the row."""
    for names in (["run", "step"], ["model"], ["run"]):
        if all(name in table for name in names):
            return [" @ ".join(map(str, row)) for row in table.loc[chosen, names].to_numpy()]
    return [f"row {place + 1}" for place in np.flatnonzero(chosen)]
