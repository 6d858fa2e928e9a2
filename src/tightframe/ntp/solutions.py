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
from tightframe.files import whole_file
from tightframe.ntp.grouping import Groups
from tightframe.ntp.svm import Solution

KIND = "solution of the nuclear-norm problem"
SCHEMA = 1
GROUPED = ("support", "row_of", "column_of", "row_counts", "column_counts")
NUMBERS = ("upper", "lower", "status", "iterations", "violation", "seconds", "dtype")


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
        except SafetensorError as error:  # not an OSError, even where the disk is full
            raise UserError(f"{path}: cannot be written ({error}); is the disk full?") from None


def load_solution(path: Path) -> Solution:
    """Read a solution; a file that is anything else, or damaged, is refused in one line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `tightframe ntp solve` first")
    try:
        with safe_open(path, framework="numpy") as file:
            content = json.loads((file.metadata() or {}).get("tightframe", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it is damaged, solve again") from None
    if content.get("kind") != KIND:
        raise UserError(f"{path}: holds {content.get('kind', 'something else')}, expected a {KIND}")
    if content.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {content.get('schema')}, expected {SCHEMA}; solve again")
    return Solution(
        groups=Groups(*(arrays[name] for name in GROUPED)),
        grouped_logits=arrays["logits"],
        grouped_dual=arrays["dual"],
        singular_values=arrays["singular_values"],
        **{name: content[name] for name in NUMBERS},
    )


def newest_solution(folder: Path) -> Path | None:
    """The last that was written to a table's folder; None if it has none."""
    found = (folder / "solutions").glob("*.safetensors")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def facts_of(solution: Solution) -> dict[str, Any]:
    """Its numbers, JSON-able: bounds, gap, status, rank, compression, seconds."""
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
