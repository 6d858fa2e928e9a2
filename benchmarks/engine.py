"""CPU seconds and peak memory of the measuring engine, against what else there is.

Every row is one piece of work, done by us and by something else on equal inputs, and the results
must agree to 1e-6 in the same run: the library rhubarbwu/neural-collapse (where a copy is given;
none of it is part of this package), faiss, or a bare forward pass. Each side is a process of its
own, which has its inputs and is warm before the clock starts; the sides take turns, step by step,
so that a machine that others use, too, slows both. Where a row has rounds, each is made of fresh
processes, and the row holds the medians.

The reference's pairs are timed at fewer classes and scaled by their square, since all of them take
it a quarter of an hour. Most of that is the kernel's: its tiles of differences are given back to
the system and faulted in again, page by page, and whether they are depends on the state of the
heap. So it has three rows: as it comes with the tiles that its guide takes (64), with tiles of 512,
and with an allocator that is told to keep its memory, which it was not written to ask for.

    python benchmarks/engine.py --reference neural-collapse      all rows
    PYTHONPATH=faiss python benchmarks/engine.py --rows nearest  faiss-cpu in a folder of its own
    python benchmarks/engine.py --quick --out results.json       small problems, half a minute
    python benchmarks/engine.py --model models/smollm2-135m      `measure` on a real model
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_work import (
    BATCH,
    CONTEXT,
    MEASURED_BATCH,
    QUICK,
    SIZES,
    WORKS,
    Size,
    exact_nearest,
)
from rich.console import Console
from rich.table import Table

from tightframe.files import write_text

TOLERANCE = 1e-6  # relative, between our results and the other side's
AUSTEN = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "austen" / "persuasion.txt"
# What tells glibc's allocator never to give memory back before the process ends.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 40)}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.model:
        import engine_model

        engine_model.main(options)
        return
    if options.side:
        take_my_turns(Path(options.folder), options.rows[0], options.side, options)
        return
    rows = []
    for name in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(Path(folder), name, options))
        print(f"{name}: {rows[-1].get('times', 'done')}", file=sys.stderr, flush=True)
    show(rows, options)
    path = options.out or Path(__file__).parent / "results" / f"engine-{machine_slug()}.json"
    now = about(options)
    kept = [*earlier_rows(path, rows), *({**row, "date": now["date"]} for row in rows)]
    kept.sort(key=lambda row: list(SIZES).index(row["row"]))
    write_text(path, json.dumps({"about": now, "rows": kept}, indent=2) + "\n")
    print(f"written to {path}")


def compare(folder: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides of a row in turns: what each has used, and how far their results are apart."""
    row, size = WORKS[name], sizes(options)[name]
    row.make(folder, name, size)
    has = {"reference": options.reference, "faiss": find_spec("faiss"), "forward pass": True}
    sides = ["ours", "theirs"] if has.get(row.other) else ["ours"]
    rounds = [
        take_turns({side: start(folder, name, side, options) for side in sides})
        for _ in range(size.get("rounds", 1))
    ]
    spent = {side: median([each[side] for each in rounds]) for side in sides}
    found: dict[str, Any] = {"row": name, "work": row.title, "size": size, "target": row.target}
    found |= spent
    results = [dict(np.load(folder / f"{side}.npz")) for side in sides]
    if name == "nearest" and not np.array_equal(results[0]["nearest"], exact_nearest(folder)):
        sys.exit("nearest: the decisions are not those of float64")
    if len(sides) == 1:
        return found
    found["against"] = row.other
    if "compared" in size:  # pairs grow with the square of the classes
        scale = (size["classes"] / size["compared"]) ** 2
        for theirs in [spent["theirs"], *(each["theirs"] for each in rounds)]:
            theirs["cpu_seconds"] *= scale
            theirs["wall_seconds"] *= scale
        found["against"] = f"{row.other}, scaled from K={size['compared']:,}"
    found["times"] = ratio(spent)
    if len(rounds) > 1:
        found["rounds"] = rounds
        found["times of each"] = sorted(map(ratio, rounds))
    if name == "nearest":  # of float32 distances, some are those of another mean
        found["unequal"] = float((results[0]["nearest"] != results[1]["nearest"]).mean())
        return found
    found["difference"] = max(
        difference(*(result[key] for result in results)) for key in results[0]
    )
    if found["difference"] > TOLERANCE:
        sys.exit(f"{name}: unequal results: {found['difference']:.2g} apart")
    return found


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of what a side has used in each round, number by number."""
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def ratio(spent: dict[str, dict[str, float]]) -> float:
    """How many times our CPU seconds the other side has used."""
    return round(spent["theirs"]["cpu_seconds"] / spent["ours"]["cpu_seconds"], 3)


def start(folder: Path, name: str, side: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """A side in a process of its own, set up and waiting for its first turn."""
    command = [sys.executable, __file__, "--rows", name, "--side", side, "--folder", str(folder)]
    command += ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    paths = [str(options.reference or ""), os.environ.get("PYTHONPATH", "")]
    keep = KEEP_MEMORY if sizes(options)[name].get("keep") else {}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | keep | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    listen(process)
    return process


def take_turns(started: dict[str, subprocess.Popen[str]]) -> dict[str, dict[str, float]]:
    """One step of each side after the other, until all are done; what each has used."""
    spent: dict[str, dict[str, float]] = {}
    while len(spent) < len(started):
        for side, process in started.items():
            if side not in spent:
                print(file=process.stdin, flush=True)
                if said := listen(process):
                    spent[side] = said
    for process in started.values():
        process.communicate()
    return spent


def listen(process: subprocess.Popen[str]) -> dict[str, float]:
    """What a side says after a step: nothing yet, or in the end what it has used."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{' '.join(map(str, process.args))} failed")
    said: dict[str, float] = json.loads(line)
    return said


def take_my_turns(folder: Path, name: str, side: str, options: argparse.Namespace) -> None:
    """The other end of `take_turns`: a step for each line that comes in."""
    make = WORKS[name].ours if side == "ours" else WORKS[name].theirs
    assert make is not None
    steps = make(folder, name, sizes(options)[name])
    next(steps)
    before = peak(reset=True)
    spent = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
    done = None
    while done is None:
        print("{}", flush=True)
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended without this side")
        clock, used = time.perf_counter(), time.process_time()
        try:
            next(steps)
        except StopIteration as end:
            done = end.value
        spent["cpu_seconds"] += time.process_time() - used
        spent["wall_seconds"] += time.perf_counter() - clock
    np.savez(folder / f"{side}.npz", **done)
    print(json.dumps({**spent, "memory_mib": round(peak() - before)}), flush=True)


def peak(*, reset: bool = False) -> float:
    """The most memory that this process has held, in MiB: ever, or on Linux since a reset."""
    status = Path("/proc/self/status")
    if status.exists():
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, as a share of the largest number."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def earlier_rows(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same file that were not run now, each with the date of its run."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    again = {row["row"] for row in rows}
    date = earlier["about"]["date"]
    return [{"date": date} | row for row in earlier["rows"] if row["row"] not in again]


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    table = Table("work", "ours, CPU s", "MiB", "against", "CPU s", "MiB", "times", "to reach")
    for row in rows:
        size = row["size"]
        axes = {"classes": "K", "dim": "D", "n": "N", "train": "N", "vocabulary": "V"}
        where = ", ".join(f"{axes[key]}={size[key]:,}" for key in axes if key in size)
        ours, theirs = row["ours"], row.get("theirs")
        table.add_row(
            f"{row['work']}: {where}",
            f"{ours['cpu_seconds']:.2f} (clock {ours['wall_seconds']:.2f})",
            f"{ours['memory_mib']:,.0f}",
            *([row["against"], f"{theirs['cpu_seconds']:.2f}"] if theirs else ["", ""]),
            f"{theirs['memory_mib']:,.0f}" if theirs else "",
            times(row) if theirs else "",
            row["target"],
        )
    console = Console(width=150)
    console.print(table)
    console.print(f"{machine()}, {options.threads} threads; MiB above the inputs", highlight=False)


def times(row: dict[str, Any]) -> str:
    """How many times the other side's CPU seconds are ours; or what share ours are of it."""
    if row["against"] == "forward pass":
        return f"{1 / row['times']:.3f} of it"
    each = row.get("times of each")
    return f"{row['times']:.1f}" + (f" ({each[0]:.0f} to {each[-1]:.0f})" if each else "")


def about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "faiss": version("faiss-cpu") if find_spec("faiss") else None,
        "python": platform.python_version(),
        "batch": BATCH,
        "batch of a forward pass, tokens": MEASURED_BATCH,
        "context": CONTEXT,
    }


def machine() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def machine_slug() -> str:
    return re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")


def sizes(options: argparse.Namespace) -> dict[str, Size]:
    return QUICK if options.quick else SIZES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    as_list: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--rows", type=as_list, default=list(SIZES), help=", ".join(SIZES))
    parser.add_argument("--reference", type=Path, help="folder that holds neural_collapse")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="small problems, to try it out")
    parser.add_argument("--out", type=Path, help="results file; by default in benchmarks/results")
    parser.add_argument("--model", type=Path, help="folder of a model: measure it instead")
    parser.add_argument("--text", type=Path, default=AUSTEN, help="with --model: a text file")
    parser.add_argument("--tokens", type=int, default=20_000, help="with --model: of the text")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.rows) - set(SIZES):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; expected some of {list(SIZES)}")
    return options


if __name__ == "__main__":
    main()
