"""What the theory costs: certified solutions against a general solver, and the large problems.

    python benchmarks/ntp.py                                  all rows
    python benchmarks/ntp.py --rows svm,svm_repeated          some of them
    python benchmarks/ntp.py --quick --out results.json       small problems, a minute

Rows against another solver: both solve the same support in one run, each in a process of its own,
and the objectives must agree to 1e-6, or the benchmark ends; of our two turns (before and after,
each a median) the slower counts. Times compared are CPU seconds. Each row's threads are its own:
one where solvers are compared, two for the large problems. Times are seconds of the solve alone,
with grouping, modelling and certificate, after a small problem has warmed the process.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ntp_proxy import proxy_svd
from ntp_svm import SVM_ROWS, svm_row
from ntp_table import TOKENS, table
from rich.console import Console
from rich.table import Table

from tightframe.files import write_text

ROWS: dict[str, Callable[[bool], dict[str, Any]]] = {
    **{name: lambda quick, name=name: svm_row(name, quick=quick) for name in SVM_ROWS},
    "proxy_svd": lambda quick: proxy_svd(300, 1_000, 5_000) if quick else proxy_svd(),
    "table": lambda quick: table(20_000 if quick else TOKENS),
}


def main() -> None:
    options = parse()
    rows = []
    for name in options.rows:
        rows.append(ROWS[name](options.quick))
        print(f"{name}: done", file=sys.stderr, flush=True)
    show(rows)
    path = options.out or Path(__file__).parent / "results" / f"ntp-{machine_slug()}.json"
    write_text(path, json.dumps({"about": about(options), "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")


def show(rows: list[dict[str, Any]]) -> None:
    """A line a row, whatever it measured."""
    lines = Table("row", "work", "measured", "to reach")
    for row in rows:
        found = {k: v for k, v in row.items() if k not in ("row", "work", "target", "size")}
        lines.add_row(row["row"], row["work"], readable(found), row["target"])
    console = Console(width=150)
    console.print(lines)
    console.print(machine(), highlight=False)


def readable(found: Any) -> str:
    """Nested numbers as "name value, ..."."""
    if isinstance(found, dict):
        return ", ".join(f"{name} {readable(value)}" for name, value in found.items())
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def about(options: argparse.Namespace) -> dict[str, Any]:
    peers = ("cvxpy", "scs")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "quick": options.quick,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("numpy", "scipy", *peers)},
    }


def machine() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def machine_slug() -> str:
    return re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    as_list: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--rows", type=as_list, default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="small problems, to try it out")
    parser.add_argument("--out", type=Path, help="results file; by default in benchmarks/results")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; expected some of {list(ROWS)}")
    return options


if __name__ == "__main__":
    main()
