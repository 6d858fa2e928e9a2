"""Solutions on disk: one safetensors file each, with its facts as JSON in the metadata.

What is kept is of the distinct tokens and contexts, logits and dual matrix both: the certificate
can be computed anew by whoever reads the file.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp.certificate import grouped_bounds, worst
from tightframe.ntp.grouping import Groups
from tightframe.ntp.svm import Solution, Status

GROUPED = ("support", "row_of", "column_of", "row_counts", "column_counts")
NUMBERS = ("upper", "lower", "status", "iterations", "violation", "dtype")


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


def load_solution(path: Path) -> Solution:
    """Read a solution; a file that is anything else, or damaged, is refused in one line."""
    tensors, facts = FORMAT.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    groups = Groups(*(arrays[name] for name in GROUPED))
    of_groups = (groups.row_of, groups.column_of)
    for members, size in zip(of_groups, groups.support.shape, strict=True):
        if members.size and members.max() >= size:
            raise UserError(
                f"{path}: names group {members.max()} of {size}; it is damaged, solve again"
            )
    return Solution(
        groups=groups,
        grouped_logits=arrays["logits"],
        grouped_dual=arrays["dual"],
        singular_values=arrays["singular_values"],
        **{name: getattr(facts, name) for name in NUMBERS},
    )


def check_certificate(path: Path, solution: Solution) -> None:
    """Refuse a solution whose certificate, computed anew from its arrays, is not what it says."""
    upper, lower = grouped_bounds(solution.groups, solution.grouped_logits, solution.grouped_dual)
    violation = worst(solution.grouped_logits, solution.groups.support)
    small = 1e-9 * max(1.0, solution.upper)
    if (
        abs(upper - solution.upper) > small
        or lower < solution.lower - small
        or violation > solution.violation + small
    ):
        raise UserError(
            f"{path}: says upper {solution.upper:.9g} and lower {solution.lower:.9g}, but its "
            f"arrays give {upper:.9g} and {lower:.9g}; {FORMAT.remedy}"
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
