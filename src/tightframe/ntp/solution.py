"""Certified solutions of the nuclear-norm problem, in memory and on disk.

A file holds logits and dual matrix of the distinct tokens and contexts. Whoever reads a solution
recomputes its certificate from these: no gap that is shown or written into a row rests on what a
file says of itself. This costs about as much as the singular vectors that every command computes
from a solution.

Axes: V tokens, M contexts; R, C distinct ones; r the rank.
"""

import dataclasses
import itertools
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from tightframe.errors import UserError
from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp.certificate import grouped_bounds, relative_gap, scaled, worst
from tightframe.ntp.support import DistinctSupport, signed
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Status = Literal["optimal", "max_iter"]

RANK = 1e-6  # singular values above this share of the largest count
ROUNDING = 1e-11  # of both bounds, relative; the smallest gap that is solved for is 1e-10
GROUPED = ("support", "row_of", "column_of", "row_counts", "column_counts")
NUMBERS = ("upper", "lower", "status", "iterations", "violation", "dtype")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solution(ResultTable):
    """Logits L_mm with their certificate; they need not be the only optimal ones.

    Attributes:
        groups: Distinct rows and columns of the support matrix.
        grouped_logits: Logits (R, C) of these; feasible to rounding.
        grouped_dual: Dual matrix Z (R, C) of these, scaled so that its expansion is feasible.
        upper: Nuclear norm of the (expanded) logits, at least the optimum.
        lower: Dual value, at most the optimum.
        status: "optimal" where the requested gap was reached, else "max_iter".
        iterations: Steps of the iteration; 0 where the proxy is optimal.
        violation: Largest amount by which a constraint is missed.
        singular_values: Singular values of the expanded logits, largest first.
        dtype: Precision of the iteration, "float64" or "float32".
    """

    groups: DistinctSupport
    grouped_logits: Float[np.ndarray, "R C"]
    grouped_dual: Float[np.ndarray, "R C"]
    upper: float
    lower: float
    status: Status
    iterations: int
    violation: float
    singular_values: Float[np.ndarray, " s"]
    dtype: str

    @property
    def gap(self) -> float:
        """Relative gap (upper - lower) / upper; 0 where no context constrains anything."""
        return relative_gap(self.upper, self.lower)

    @property
    def rank(self) -> int:
        """Number of singular values above 1e-6 of the largest."""
        values = self.singular_values
        return int((values > RANK * values[0]).sum()) if values[0] > 0 else 0

    @cached_property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """Logits L_mm; columns sum to 0."""
        return self.groups.expand(self.grouped_logits)

    @cached_property
    def dual(self) -> Float[np.ndarray, "V M"]:
        """Dual matrix Z: with the logits and the support, all that `certify` needs."""
        return self.groups.expand(self.grouped_dual)

    @property
    def one_line(self) -> str:
        """Status, gap, bounds, rank and sizes."""
        return (
            f"{self.status}, gap {self.gap:.2g}, norm {self.upper:.9g} (at least {self.lower:.9g}),"
            f" rank {self.rank}, {self.groups.describe()}"
        )

    def factors(
        self,
    ) -> tuple[Float[np.ndarray, "V r"], Float[np.ndarray, " r"], Float[np.ndarray, "M r"]]:
        """Return U, s and V of the thin SVD; the largest entry of each column of U is positive.

        Singular values are those above 1e-6 of the largest. The columns of U are orthonormal; those
        of V are if each context is counted as often as its weight says.
        """
        groups, rank = self.groups, self.rank
        left, values, right = np.linalg.svd(
            scaled(groups, self.grouped_logits), full_matrices=False
        )
        left, values, right = signed(left[:, :rank], values[:rank], right[:rank].T)
        return (
            (left / groups.row_scales[:, None])[groups.row_of],
            values,
            (right / groups.column_scales[:, None])[groups.column_of],
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return bounds, gap, status, rank and sizes as a table of one row."""
        import pandas as pd

        return pd.DataFrame([self.summary()])

    def summary(self) -> dict[str, Any]:
        """Return bounds, gap, status, rank and sizes as plain values, for JSON."""
        rows, columns = self.groups.support.shape
        return {name: getattr(self, name) for name in NUMBERS} | {
            "gap": self.gap,
            "rank": self.rank,
            "tokens": len(self.groups.row_of),
            "contexts": len(self.groups.column_of),
            "distinct_tokens": rows,
            "distinct_contexts": columns,
        }

    def save(self, path: str | Path, source: dict[str, Any] | None = None) -> Path:
        """Write the solution whole or not at all.

        Args:
            path: A `.safetensors` file, which `load_solution` reads; or .csv, .parquet, .json or
                .jsonl, for its summary.
            source: Purpose of the solution, as plain values; in a `.safetensors` file alone.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            return super().save(path)
        arrays = {name: getattr(self.groups, name) for name in GROUPED}
        arrays |= {
            "logits": self.grouped_logits,
            "dual": self.grouped_dual,
            "singular_values": self.singular_values,
        }
        names = ("tightframe", "torch", "numpy", "scipy")
        versions = {name: version(name) for name in names}
        FORMAT.write(path, arrays, self.summary() | {"source": source or {}, "versions": versions})
        return path

    def plot(self) -> "Figure":
        """Draw the logits as a heat map, and their singular values; `predict` has the cosines."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3), layout="constrained")
        logits, spectrum = figure.subplots(1, 2)
        image = logits.imshow(self.logits, cmap="RdBu_r", aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=logits)
        logits.set(title=f"logits, {self.status}", xlabel="context", ylabel="token")
        values = self.singular_values[: self.rank]
        spectrum.plot(np.arange(1, self.rank + 1), values, marker=".")
        spectrum.set(title="singular values", xlabel="dimension", ylim=(0, None))
        return figure


class SolutionFacts(Record):
    """Facts in the file of a solution."""

    upper: float
    lower: float
    gap: float
    status: Status
    iterations: Count
    violation: float
    dtype: str
    rank: Count
    tokens: Count
    contexts: Count
    distinct_tokens: Count
    distinct_contexts: Count
    source: dict[str, Any]  # what it was solved for
    versions: dict[str, str]


FORMAT: TensorFormat[SolutionFacts] = TensorFormat(
    "a solution of the nuclear-norm problem",
    SolutionFacts,
    {
        **{"support": "bool R C", "logits": "float64 R C", "dual": "float64 R C"},
        **{"row_of": "count V", "column_of": "count M", "singular_values": "float64 s"},
        **{"row_counts": "float64 R", "column_counts": "float64 C"},
    },
    remedy="remove it, and run `tightframe ntp solve` again",
)


def load_solution(path: str | Path, support: Bool[np.ndarray, "V M"] | None = None) -> Solution:
    """Load a solution, with its certificate recomputed from its arrays.

    Args:
        path: File that `Solution.save` wrote.
        support: S of the table that it is loaded for; a solution of another matrix is refused.

    Raises:
        UserError: The file is something else, or damaged; its bounds, singular values or gap are
            not those of its arrays; or it solves another matrix than `support`.
    """
    path = Path(path)
    tensors, facts = FORMAT.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    groups = DistinctSupport(*(arrays[name] for name in GROUPED))
    of_groups = (groups.row_of, groups.column_of)
    for members, size in zip(of_groups, groups.support.shape, strict=True):
        if members.size and members.max() >= size:
            raise UserError(
                f"{path}: names group {members.max()} of {size}; it is damaged, solve again"
            )
    solution = Solution(
        groups=groups,
        grouped_logits=arrays["logits"],
        grouped_dual=arrays["dual"],
        singular_values=arrays["singular_values"],
        **{name: getattr(facts, name) for name in NUMBERS},
    )
    if support is not None:
        _check_support(path, groups, support)
    _check_certificate(path, solution)
    _check_facts(path, solution, facts)
    return solution


def _check_support(path: Path, groups: DistinctSupport, support: Bool[np.ndarray, "V M"]) -> None:
    """Refuse a solution of another support matrix than that of a table, each context once."""
    shape = len(groups.row_of), len(groups.column_of)
    if shape != support.shape or not np.array_equal(
        groups.support[np.ix_(groups.row_of, groups.column_of)], support
    ):
        raise UserError(
            f"{path}: solves another support matrix ({shape[0]} x {shape[1]}) than that of the "
            f"table ({support.shape[0]} x {support.shape[1]}); run `tightframe ntp solve` on this "
            "table"
        )
    rows, columns = groups.support.shape
    counts = (groups.row_counts, groups.column_counts)
    expected = (
        np.bincount(groups.row_of, minlength=rows),
        np.bincount(groups.column_of, minlength=columns),
    )
    if not all(map(np.array_equal, counts, expected)):
        raise UserError(
            f"{path}: weighs tokens or contexts otherwise than once each; run `tightframe ntp "
            "solve` on this table"
        )


def _check_certificate(path: Path, solution: Solution) -> None:
    """Refuse bounds, singular values and a violation that are not those of the arrays."""
    groups, logits = solution.groups, solution.grouped_logits
    values, lower = grouped_bounds(groups, logits, solution.grouped_dual)
    small = ROUNDING * max(1.0, solution.upper)
    for name, stated, given in (
        ("upper", solution.upper, float(values.sum())),
        ("lower", solution.lower, lower),
        ("violation", solution.violation, worst(logits, groups.support)),
        # A context that constrains nothing has zeros more.
        *(
            (f"singular value {number}", *pair)
            for number, pair in enumerate(
                itertools.zip_longest(solution.singular_values, values, fillvalue=0.0), start=1
            )
        ),
    ):
        if not abs(stated - given) <= small:
            raise UserError(
                f"{path}: says {name} {stated:.9g}, but its arrays give {given:.9g}; "
                f"{FORMAT.remedy}"
            )


def _check_facts(path: Path, solution: Solution, facts: SolutionFacts) -> None:
    """Refuse a gap, rank, size or status that does not follow from the rest of the file."""
    expected = solution.summary()
    wanted = facts.source.get("gap")
    if isinstance(wanted, float):
        expected["status"] = "optimal" if solution.gap <= wanted else "max_iter"
    for name, value in expected.items():
        if (found := getattr(facts, name)) != value:
            raise UserError(
                f"{path}: says {name} {found}, but the rest of it gives {value}; {FORMAT.remedy}"
            )


def best_solution(folder: Path, table: str) -> Path | None:
    """Return the path of the solution of smallest gap in a table's folder.

    Args:
        folder: Folder of the table; its `solutions/` may be absent.
        table: Fingerprint of the table. Solutions of other tables are passed over.

    Returns:
        Path, the first by name of equal gaps; None if there is no solution.

    Raises:
        UserError: All solutions are of other tables, or a file is not a solution.
    """
    others: dict[Path, str] = {}
    gaps: dict[Path, float] = {}
    for path in sorted((folder / "solutions").glob("*.safetensors")):
        facts = FORMAT.read_facts(path)
        solved = facts.source.get("table", table)
        if solved == table:
            gaps[path] = facts.gap
        else:
            others[path] = solved
    if others and not gaps:
        path, solved = next(iter(others.items()))
        raise UserError(
            f"{path}: solved for table {solved}, but {folder} holds {table}; remove it, and solve "
            "again"
        )
    return min(gaps, key=lambda path: (gaps[path], path.name), default=None)
