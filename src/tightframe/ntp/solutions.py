"""Solutions on disk: one safetensors file each, with its facts as JSON in the metadata.

What is kept is of the distinct tokens and contexts, logits and dual matrix both: the certificate
can be computed anew by whoever reads the file.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tightframe.errors import UserError
from tightframe.files import disk_error, whole_file
from tightframe.ntp.grouping import Groups
from tightframe.ntp.svm import Solution

KIND = "solution of the nuclear-norm problem"
SCHEMA = 1
GROUPED = ("support", "row_of", "column_of", "row_counts", "column_counts")
NUMBERS = ("upper", "lower", "status", "iterations", "violation", "dtype")


def save_solution(path: Path, solution: Solution, source: dict[str, Any] | None = None) -> None:
    """Write a solution whole or not at all; `source` says, JSON-able, what it was solved for."""
    arrays = {name: getattr(solution.groups, name) for name in GROUPED}
    arrays |= {
        "logits": solution.grouped_logits,
        "dual": solution.grouped_dual,
        "singular_values": solution.singular_values,
    }
    facts = facts_of(solution) | {"source": source or {}}
    content = {"kind": KIND, "schema": SCHEMA, **facts, "versions": _versions()}
    metadata = {"tightframe": json.dumps(content, sort_keys=True)}
    with whole_file(path) as temporary:
        try:
            save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, temporary, metadata)
        except SafetensorError as error:
            raise disk_error(error) from None


def load_solution(path: Path) -> Solution:
    """Read a solution; a file that is anything else, or damaged, is refused in one line."""
    content = _content(path)
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return Solution(
        groups=Groups(*(arrays[name] for name in GROUPED)),
        grouped_logits=arrays["logits"],
        grouped_dual=arrays["dual"],
        singular_values=arrays["singular_values"],
        **{name: content[name] for name in NUMBERS},
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
        content = _content(path)
        solved = content["source"].get("table", table)
        if solved == table:
            gaps[path] = content["gap"]
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


def _content(path: Path) -> dict[str, Any]:
    """What a solution's file says of itself."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `tightframe ntp solve` first")
    try:
        with safe_open(path, framework="numpy") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {}).get("tightframe", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise _damaged(path, error) from None
    if content.get("kind") != KIND:
        raise UserError(f"{path}: holds {content.get('kind', 'something else')}, expected a {KIND}")
    if content.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {content.get('schema')}, expected {SCHEMA}; solve again")
    return content


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({error}); it is damaged, solve again")
