"""TODO."""

import dataclasses
import itertools
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from tightframe.errors import UserError
from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp import certificate
from tightframe.ntp.certificate import grouped_bounds, worst
from tightframe.ntp.support import Groups

Status = Literal["optimal", "max_iter"]


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Logits L_mm with their certificate; whether they are the only ones is never promised.

    Attributes:
        groups: The distinct rows and columns that were solved.
        grouped_logits: (R, C); feasible to rounding.
        grouped_dual: Z (R, C), so scaled that its expansion is feasible for the dual problem.
        upper: The nuclear norm of the (expanded) logits: at least the optimum.
        lower: The dual value: at most the optimum.
        status: 'optimal' only where `gap` was reached.
        iterations: Steps taken; 0 where the proxy is optimal.
        violation: The largest by which a constraint is missed.
        singular_values: Of the expanded logits, largest first.
        dtype: What the iteration worked in: "float64" or "float32".
    """

    groups: Groups
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
        """(upper - lower) / upper; 0 where no context constrains anything."""
        return certificate.relative_gap(self.upper, self.lower)

    @property
    def rank(self) -> int:
        """Singular values above 1e-6 of the largest."""
        values = self.singular_values
        return int((values > RANK * values[0]).sum()) if values[0] > 0 else 0

    @cached_property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """L_mm; columns sum to 0."""
        return self.groups.expand(self.grouped_logits)

    @cached_property
    def dual(self) -> Float[np.ndarray, "V M"]:
        """Z: with the logits and the support, all that `certify` needs."""
        return self.groups.expand(self.grouped_dual)

    def factors(
        self,
    ) -> tuple[Float[np.ndarray, "V r"], Float[np.ndarray, " r"], Float[np.ndarray, "M r"]]:
        """U, s and V of the thin SVD; signs are such that the largest entry of a u is positive.

        Singular values above 1e-6 of the largest. The columns of U are orthonormal, those of V are
        with each context taken as often as its weight says.
        """
        groups = self.groups
        left, values, right = np.linalg.svd(
            certificate.scaled(groups, self.grouped_logits), full_matrices=False
        )
        left, values, right = left[:, : self.rank], values[: self.rank], right[: self.rank].T
        largest = np.abs(left).argmax(axis=0)
        signs = np.sign(left[largest, np.arange(len(values))])
        return (
            (signs * left / groups.row_scales[:, None])[groups.row_of],
            values,
            (signs * right / groups.column_scales[:, None])[groups.column_of],
        )


GROUPED = ("support", "row_of", "column_of", "row_counts", "column_counts")


NUMBERS = ("upper", "lower", "status", "iterations", "violation", "dtype")


ROUNDING = 1e-11  # of both bounds, relative; the smallest gap that is solved for is 1e-10


class SolutionFacts(Record):
    """What a file says of a solution."""

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


def save_solution(path: Path, solution: Solution, source: dict[str, Any] | None = None) -> None:
    """Write a solution whole or not at all; `source` says, JSON-able, what it was solved for."""
    arrays = {name: getattr(solution.groups, name) for name in GROUPED}
    arrays |= {
        "logits": solution.grouped_logits,
        "dual": solution.grouped_dual,
        "singular_values": solution.singular_values,
    }
    facts = facts_of(solution) | {"source": source or {}, "versions": _versions()}
    FORMAT.write(path, arrays, facts)


def load_solution(path: Path, support: Bool[np.ndarray, "V M"] | None = None) -> Solution:
    """Read a solution whose certificate, computed anew from its arrays, is what the file says.

    Args:
        path: Of the file.
        support: S of the table that it is read for; a solution of another matrix is refused.

    Raises:
        UserError: The file is anything else, or damaged; its bounds, singular values or gap are
            not those of its arrays; or it solves another matrix than `support`.
    """
    tensors, facts = FORMAT.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    groups = Groups(*(arrays[name] for name in GROUPED))
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


def _check_support(path: Path, groups: Groups, support: Bool[np.ndarray, "V M"]) -> None:
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
    expected = facts_of(solution)
    wanted = facts.source.get("gap")
    if isinstance(wanted, float):
        expected["status"] = "optimal" if solution.gap <= wanted else "max_iter"
    for name, value in expected.items():
        if (found := getattr(facts, name)) != value:
            raise UserError(
                f"{path}: says {name} {found}, but the rest of it gives {value}; {FORMAT.remedy}"
            )


def best_solution(folder: Path, table: str) -> Path | None:
    """What every command takes from a table's folder: the solution of smallest gap.

    Args:
        folder: Of the table; its `solutions/` may be absent.
        table: Fingerprint of the table. A solution of another one is passed over.

    Returns:
        None if there is no solution. Of equal gaps, the first by name.

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


def facts_of(solution: Solution) -> dict[str, Any]:
    """Its numbers, JSON-able: bounds, gap, status, rank, compression."""
    facts = {name: getattr(solution, name) for name in NUMBERS}
    rows, columns = solution.groups.support.shape
    return facts | {
        "gap": solution.gap,
        "rank": solution.rank,
        "tokens": len(solution.groups.row_of),
        "contexts": len(solution.groups.column_of),
        "distinct_tokens": rows,
        "distinct_contexts": columns,
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("tightframe", "torch", "numpy", "scipy")}


RANK = 1e-6  # singular values above this share of the largest count
