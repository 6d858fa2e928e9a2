"""What a sweep will cost, before its first run: parameters, tokens, operations, hours and disk.

Axes of the formulas: L blocks, D embedding, V vocabulary, T positions of a row.
"""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tightframe.corpus.manifest import REMEDY, read_manifest
from tightframe.errors import UserError
from tightframe.files import free_disk
from tightframe.formats import check_digest
from tightframe.lm.options import Schedule, TrainOptions, TransformerConfig, config_of
from tightframe.settings import read_toml, resolve


@dataclasses.dataclass(frozen=True)
class SweepEstimate:
    """Cost of a number of runs."""

    runs: int
    checkpoints: int
    least_parameters: int
    most_parameters: int
    tokens: int  # labelled positions that are trained on, of all runs together
    flops: float  # floating-point operations of training and measuring
    gpu_hours: float
    disk: int  # bytes of checkpoints and one state to resume from
    moments: int  # bytes of class moments, if every token of the vocabulary occurs
    free: int  # bytes of the disk

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.checkpoints} checkpoints: {self.least_parameters:,} to "
            f"{self.most_parameters:,} parameters, {self.tokens:,} tokens to train on, "
            f"{self.flops:.2g} FLOPs, about {self.gpu_hours:,.3g} GPU hours, "
            f"{self.disk / 1e9:,.3g} GB of checkpoints and up to {self.moments / 1e9:,.3g} GB of "
            f"class moments ({self.free / 1e9:,.3g} GB are free)"
        )

    def check_disk(self, folder: Path) -> None:
        """Refuse a disk on which the runs cannot be kept."""
        if self.disk > self.free:
            raise UserError(
                f"{folder}: the checkpoints take {self.disk / 1e9:,.3g} GB, but "
                f"{self.free / 1e9:,.3g} GB are free; free some, or set another `out`"
            )


def estimate(plans: Iterable[Path], folder: Path, *, tflops: float) -> SweepEstimate:
    """Return what the runs of some plans cost; tokens or a tokenizer that lack are refused.

    Args:
        plans: Settings of the runs, TOML files.
        folder: Folder of the sweep, whose disk is looked at.
        tflops: Sustained speed of one GPU in 10^12 operations per second.
    """
    read = functools.cache(_checked_manifest)
    sizes: list[int] = []
    checkpoints, tokens, flops, disk, moments = 0, 0.0, 0.0, 0, 0
    for plan in plans:
        settings = resolve(TrainOptions, read_toml(plan), source=str(plan))
        manifest = read(settings.tokens)
        train, val = (manifest["splits"][name] for name in ("train", "val"))
        config = config_of(settings, manifest["vocab_size"], manifest["block"])
        schedule = Schedule(settings, train["blocks"])
        kept = len(schedule.checkpoints)
        seen = train["labels"] * schedule.epoch(schedule.steps)
        measured = kept * (train["labels"] + val["labels"])  # forward only: a third
        size = config.n_parameters
        checkpoints, tokens = checkpoints + kept, tokens + seen
        flops += _flops_per_token(config) * (seen + measured / 3)
        disk += kept * 4 * size
        moments += kept * 8 * config.vocab_size * config.width
        sizes.append(size)
    return SweepEstimate(
        runs=len(sizes),
        checkpoints=checkpoints,
        least_parameters=min(sizes),
        most_parameters=max(sizes),
        tokens=round(tokens),
        flops=flops,
        gpu_hours=flops / (tflops * 1e12) / 3600,
        disk=disk + 12 * max(sizes),  # weights and both moments of AdamW, in float32
        moments=moments,
        free=free_disk(folder),
    )


def _flops_per_token(config: TransformerConfig) -> float:
    """Return operations per token of a forward and a backward pass.

    Six per weight that multiplies, and 6 L D T for attention, of whose scores half are masked.
    """
    width, depth = config.width, config.depth
    weights = 12 * depth * width**2 + config.vocab_size * width
    return 6.0 * weights + 6.0 * depth * width * config.positions


def _checked_manifest(tokens: Path) -> dict[str, Any]:
    """Read a manifest, and check that tokenizer and shards are what it says."""
    manifest = read_manifest(tokens)
    check_digest(tokens / "tokenizer.json", manifest["tokenizer"]["sha256"], remedy=REMEDY)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if not (tokens / shard["file"]).is_file():
                raise UserError(f"{tokens / shard['file']}: no such file; {REMEDY}")
    return manifest
