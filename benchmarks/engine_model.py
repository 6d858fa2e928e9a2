"""What `tightframe measure` takes on a real model, beside its bare forward passes.

Two processes, one after the other: the command as a user runs it, and a loop that only embeds the
same blocks (with the head on the validation tokens). Both have the memory of the loaded model in
common; what counts is what lies above it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BATCH = 8192  # tokens of a forward pass
CONTEXT = 128  # short enough that the validation split of a page has blocks for ten groups


SETTINGS = (("last", 1), ("last", 10), ("all", 10))  # layers and groups of each row


def main(options: argparse.Namespace) -> None:
    """Run the command for each row and the bare passes once per kind of layers; print a table."""
    rows: list[dict[str, Any]] = []
    bare: dict[str, dict[str, float]] = {}
    for layers, groups in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            given = [folder, str(options.model), str(options.text), str(options.tokens), layers]
            command = run(Path(folder), "command", [*given, str(groups)], options.threads)
            if layers not in bare:
                bare[layers] = run(Path(folder), "bare", [*given, str(groups)], options.threads)
        loaded = bare[layers]["loaded"]
        row = {"row": f"{layers}, {groups} groups", **command, "passes": bare[layers]["passes"]}
        row["peak_gb"] = (command["peak"] - loaded) / 1e9
        row["bare_peak_gb"] = (bare[layers]["peak"] - loaded) / 1e9
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    show(rows, f"{options.model.name}, {options.tokens:,} tokens")


def run(folder: Path, side: str, given: list[str], threads: int) -> dict[str, float]:
    """Run a side in a process of its own, and return what it took."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, side, *given]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    found: dict[str, float] = json.loads((folder / f"{side}.json").read_text())
    return found


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print one line per run."""
    names = ("layers, groups", "passes", "before", "during", "after", "all", "times the passes")
    sizes = ("peak, GB above the model", "of bare passes", "state files, GB")
    table = Table(*names, *sizes, title=f"{title}; CPU seconds")
    for row in rows:
        seconds = (row[name] for name in ("passes", "before", "between", "after", "cpu"))
        of_passes = row["cpu"] / row["passes"]
        bytes_taken = (row["peak_gb"], row["bare_peak_gb"], row["states"] / 1e9)
        table.add_row(
            row["row"],
            *(f"{x:.1f}" for x in seconds),
            f"{of_passes:.2f}",
            *(f"{x:.2f}" for x in bytes_taken),
        )
    Console(width=150).print(table)


def run_command(folder: Path, model: str, text: str, tokens: str, layers: str, groups: str) -> Any:
    """Run `tightframe measure` in this process; the CPU seconds of its stages."""
    from tightframe import cli
    from tightframe.lm.huggingface import HuggingFaceModel

    clock = {"first": 0.0, "last": 0.0, "embedding": 0.0}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, batch: Any, *rest: Any) -> Any:
            start = time.process_time()
            made = function(self, batch, *rest)
            if getattr(batch, "inputs", batch).numel() > 1000:  # no probe
                clock["last"] = time.process_time()
                clock["first"] = clock["first"] or start
                clock["embedding"] += clock["last"] - start
            return made

        return call

    for name in ("embed", "embed_layers"):
        setattr(HuggingFaceModel, name, timed(getattr(HuggingFaceModel, name)))
    arguments = ["measure", model, "--text", text, "--max-tokens", tokens, "--layers", layers]
    arguments += ["--groups", groups, "--context", str(CONTEXT)]
    cli.main([*arguments, "--out", str(folder / "out")])
    end = time.process_time()
    files = (folder / "out" / "states").glob("*.safetensors")
    return {
        "before": clock["first"],
        "between": clock["last"] - clock["first"],
        "after": end - clock["last"],
        "embedding": clock["embedding"],
        "cpu": end,
        "states": sum(file.stat().st_size for file in files),
    }


def run_bare(folder: Path, model: str, layers: str) -> Any:
    """Embed the blocks of the tokens that the command has made, and nothing else."""
    import torch

    from tightframe.corpus.shards import TokenShards
    from tightframe.lm.hardware import exact_float32
    from tightframe.lm.interface import next_token
    from tightframe.lm.load import load_model

    loaded = load_model(model)
    now = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    shards = TokenShards.open(next((folder / "out" / "tokens").rglob("manifest.json")).parent)
    start = time.process_time()
    for name in ("train", "val"):
        split = shards.split(name)
        step = BATCH // split.block
        for first in range(0, split.n_blocks, step):
            batch = next_token(*split.rows(range(first, min(first + step, split.n_blocks))))
            with exact_float32(), torch.inference_mode():
                embeddings = (
                    loaded.embed_layers(batch, [*range(loaded.depth + 1)])[-1]
                    if layers == "all"
                    else loaded.embed(batch)
                )
                if name == "val":
                    loaded.head(embeddings)
    return {"passes": time.process_time() - start, "loaded": now}


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


if __name__ == "__main__":
    side, place, *given = sys.argv[1:]
    if side == "command":
        found = run_command(Path(place), *given)
    else:
        found = run_bare(Path(place), given[0], given[3])
    found["peak"] = memory("VmHWM")
    (Path(place) / f"{side}.json").write_text(json.dumps(found))
