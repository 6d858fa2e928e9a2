"""Runs of a sweep: one thread each, as many as cores, or one at a time with all threads?

For each shape the same training runs as `cores` processes of one thread side by side, then as one
process of `cores` threads. Compared are the tokens a second of the whole machine, from the records
of the log (medians, without start-up, validation and saving).

    python benchmarks/threads.py
    python benchmarks/threads.py --shapes 256x4 --steps 40
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from tightframe.corpus import build
from tightframe.files import write_text
from tightframe.lm.runs import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=["32x1", "128x2", "256x4"])
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        build("stories", out=tokens, tokens=options.steps * 1100 + 20_000)
        for shape in options.shapes:
            side_by_side = sum(speeds(Path(folder), tokens, shape, cores, 1, options.steps))
            alone = sum(speeds(Path(folder), tokens, shape, 1, cores, options.steps))
            rows.append(
                {
                    "shape": shape,
                    "one thread each": round(side_by_side),
                    "all threads": round(alone),
                    "ratio": round(side_by_side / alone, 2),
                }
            )
            print(*(f"{name}: {value}" for name, value in rows[-1].items()), sep="  ")
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": cores,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "unit": "tokens a second of the whole machine",
    }
    path = Path(__file__).parent / "results" / "threads.json"
    write_text(path, json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")


def speeds(
    folder: Path, tokens: Path, shape: str, processes: int, threads: int, steps: int
) -> list[float]:
    """Tokens a second of each of so many processes at once, each with so many threads."""
    width, depth = shape.split("x")
    outs = [folder / f"{shape}-{threads}-{i}" for i in range(processes)]
    settings = [f"tokens={tokens}", f"width={width}", f"depth={depth}", f"threads={threads}"]
    command = [sys.executable, "-m", "tightframe", "train"]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started = [
        subprocess.Popen([*command, "--set", f"out={out}"], env=environment, stdout=sys.stderr)
        for out in outs
    ]
    for process in started:
        if process.wait():
            sys.exit(f"training of {shape} failed")
    records = [
        [line["tokens_per_second"] for line in Run.open(out).log if line["kind"] == "train"]
        for out in outs
    ]
    return [statistics.median(one[1:]) for one in records]


if __name__ == "__main__":
    main()
