"""Results files as a sweep leaves them: fifteen small models, two checkpoints each, made up."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tightframe.lm.interface import PRENORM
from tightframe.results import Header, Row, read_rows, write_rows

FLOOR, REALISED = 1.962, 1.957


def measures(excess: float, size: float, rng: np.random.Generator) -> dict[str, float]:
    """Made-up geometry: more collapsed where the loss is closer to the floor, with noise."""
    noise = dict(zip("abcdefgh", rng.normal(0, 0.05, 8), strict=True))
    return {
        "nc1_cdnv_p2": 0.05 * math.exp(1.7 * excess + 4 * noise["a"]),
        "nc1_cdnv_med_db": 0.3 * math.exp(1.1 * excess + 2 * noise["a"]),
        "nc2_equinorm_cov_log": -0.12 + 0.2 * excess + noise["b"],
        "nc2_equinorm_std_log": 0.15 + 0.1 * excess + 0.3 * noise["b"],
        "nc2_equiang_cov": 40 - 20 * excess + 200 * noise["c"],
        "nc2_equiang_std": 0.11 + 0.06 * excess + 0.2 * noise["c"],
        "gnc2_log_kernel_cov_unc": -0.31 - 0.2 * excess + 0.6 * noise["d"],
        "gnc2_log_kernel_excess": 0.02 + 0.06 * excess + 0.1 * noise["d"],
        "nc3_cos_mean": 0.55 - 0.12 * excess - 0.02 * size + noise["e"],
        "unc3_cos_cov": 0.2 + 0.1 * excess + 0.5 * noise["f"],
        "unc3_cos_var": 0.01 * math.exp(excess + 2 * noise["f"]),
        "nc4_rate": 0.8 - 0.25 * excess + 0.5 * noise["g"],
        "nc4_rate_fullv": 0.79 - 0.25 * excess + 0.5 * noise["g"],
        "rank_pr": 14.0 + 6 * size + 20 * noise["h"],
    }


def interval(name: str, value: float, reach: float | None) -> dict[str, Any]:
    """The interval of a value and what was resampled, as fields of a row.

    That of `rank_pr` begins above the value.
    """
    if reach is None or "floor" in name:
        return {}
    low = value + reach / 2 if name == "rank_pr" else value - reach
    centre = value + 3 / 4 * reach if name == "rank_pr" else value
    return {"low": low, "high": value + reach, "centre": centre, "resampled": "documents"}


def write_sweep(
    folder: Path,
    *,
    widths: tuple[int, ...] = (32, 64, 128, 256, 512),
    known_floor: bool = True,
    shares: tuple[float, ...] = (1 / 2, 1),
    reach: float | None = None,
    **settings: Any,
) -> Path:
    """A sweep folder with the results of fifteen runs; `settings` are added to every run's.

    Checkpoints lie at these `shares` of the training. With a `reach`, every value but the floors
    has an interval that goes so far to each side; that of `rank_pr` begins above the value.
    """
    rng = np.random.default_rng(0)
    for width, depth, epochs in itertools.product(widths, (1, 4), (1, 4)):
        if (width, depth, epochs) in {
            (512, 4, 1),
            (512, 4, 4),
            (32, 4, 1),
            (512, 1, 1),
            (32, 4, 4),
        }:
            continue
        run = f"w{width}-d{depth}-e{epochs}-s0"
        n_parameters = 2048 * width + 128 * width + depth * (12 * width**2 + 10 * width)
        for epoch in (share * epochs for share in shares):
            step, size = int(2048 * epoch), math.log10(n_parameters / 1e5)
            excess = 1.9 / (1 + size) / epoch**0.25 * math.exp(rng.normal(0, 0.04))
            loss = FLOOR + excess
            values = measures(excess, size, rng) | {
                "val_loss": loss,
                "val_perplexity": math.exp(loss),
                "val_accuracy": 0.62 - 0.14 * excess,
            }
            if known_floor:
                values |= {"entropy_floor": FLOOR, "realised_floor": REALISED}
            header = Header(
                run=run,
                step=step,
                model={
                    "name": run,
                    "n_parameters": n_parameters,
                    "vocab_size": 2048,
                    "width": width,
                    "depth": depth,
                    "tied": True,
                    "n_classes": 2031,
                },
                tokens={
                    "name": "stories",
                    "fingerprint": "0f1e2d3c4b5a",
                    "train_labels": 1_000_000,
                    "entropy_floor": {"mean_conditional_entropy": FLOOR} if known_floor else None,
                },
                settings={
                    "out": f"sweeps/demo/runs/{run}",
                    "width": width,
                    "depth": depth,
                    "epochs": epochs,
                    "seed": 0,
                    "recipe": "small-data",
                    "tokens": "tokens/stories",
                    "learning_rate": 0.001,
                    "warmup": None if depth == 1 else 100,
                    "checkpoints": [epochs / 2],
                    **settings,
                },
                measurement={
                    "min_count": 1,
                    "measures": ["rank_pr"],
                    "dtype": "float32",
                    "device": "cpu",
                    "groups": 1 if reach is None else 20,
                },
            )
            rows = [
                Row(
                    run=run,
                    step=step,
                    split="val" if name.startswith(("val", "nc4", "entropy", "real")) else "train",
                    layer=depth,
                    labels="next",
                    subset="all",
                    metric=name,
                    value=value,
                    n=2031,
                    min_count=2 if name.endswith("_db") else 1,
                    excluded=0,
                    **interval(name, value, reach),
                )
                for name, value in values.items()
            ]
            write_rows(folder / "runs" / run / "results" / f"step-{step}-abc.jsonl", header, rows)
    return folder


def rewrite(
    file: Path,
    row: Callable[[Row], Row | None] = lambda row: row,
    header: Callable[[Header], Header] = lambda header: header,
) -> None:
    """Write a file again with its header and each row changed; None leaves a row out."""
    before, rows = read_rows(file)
    write_rows(file, header(before), [new for each in rows if (new := row(each)) is not None])


def write_courses(
    folder: Path, *, runs: tuple[str, ...] = ("w64-d1-e1-s0", "w64-d4-e4-s0")
) -> Path:
    """What two runs gave while they were trained, at steps 0, 10, 100 and 1000: made up.

    NC1 falls as 8 / sqrt(step + 1), and is twice as large in the second run; the cosine's cov
    changes its sign; NC4 was not measured.
    """
    for i, run in enumerate(runs):
        for step in (0, 10, 100, 1000):
            values = {
                "nc1_cdnv_p2": (i + 1) * 8 / math.sqrt(step + 1),
                "gnc2_log_kernel_cov_unc": 0.5 - step / 1000,
            }
            header = Header(
                run=run,
                step=step,
                model={"name": run, "n_parameters": 10 ** (5 + i), "vocab_size": 2048, "width": 64},
                tokens={"name": "stories", "fingerprint": "0f1e2d3c4b5a"},
                settings={"width": 64},
                measurement={"min_count": 1, "window": "the weights of this step", "weights": "0f"},
            )
            rows = [
                Row(run, step, "train", 1, "next", "probe", name, value, 50, 1, 0)
                for name, value in values.items()
            ]
            write_rows(
                folder / "runs" / run / "results" / f"probe-train-{step}-ab.jsonl", header, rows
            )
    return folder


def write_layers(
    folder: Path,
    run: str,
    *,
    depth: int = 3,
    step: int = 8,
    twin: int | None = None,
    beside: bool = False,
) -> Path:
    """A run folder whose one checkpoint was measured at every layer and by frequency: made up.

    NC1 at place i of the layers (the one before the final norm is the last but one) is 2 / (i + 1)
    of next tokens, a tenth of it of current ones, infinite where labels are shuffled; with random
    weights all are twice that. Only the duality of next tokens has intervals: one up, one down.
    `beside` leaves out what a sweep's own files hold: the loss, and next tokens at the last layer.
    """
    layers = [*range(depth), PRENORM, depth]
    kinds = {"next": 1.0, "current": 0.1, "shuffled": math.inf}
    for labels, share in kinds.items():
        name = run if twin is None else f"{run}-random"
        row = Row(name, step, "train", depth, labels, "all", "", 0.0, 100, 1, 0)
        rows = []
        for i, layer in enumerate(layers):
            nc1 = share * 2 / (i + 1) * (1 if twin is None else 2)
            at = dataclasses.replace(row, layer=layer)
            rows.append(dataclasses.replace(at, metric="nc1_cdnv_med_db", value=nc1, min_count=2))
            rows.append(dataclasses.replace(at, metric="rank_pr", value=5.0 + i))
            duality = dataclasses.replace(at, metric="nc3_cos_mean", value=i / 64)
            if labels == "next":
                duality = dataclasses.replace(
                    duality,
                    low=(i - 1) / 64,
                    high=(i + 1) / 64,
                    centre=i / 64,
                    resampled="documents",
                )
            rows.append(duality)
        if labels == "next":
            rows.append(dataclasses.replace(row, split="val", metric="val_loss", value=3.0))
            for n, stratum in ((3, "count 1"), (40, "count 100-299"), (50, "count 1000-9999")):
                rows += [
                    dataclasses.replace(row, subset=stratum, metric=metric, value=n / 100, n=n)
                    for metric in ("nc1_cdnv_med_db", "nc3_cos_mean")
                ]
        if beside and labels == "next":
            rows = [r for r in rows if r.layer != depth or r.subset != "all"]
        header = Header(
            run=name,
            step=step,
            model={"name": name, "n_parameters": 10**5, "width": 32, "depth": depth},
            tokens={"name": "stories", "fingerprint": "0f1e2d3c4b5a"},
            settings={"width": 32},
            measurement={"labels": labels},
        )
        own = folder if twin is None else folder / f"random-{twin}"
        write_rows(own / "results" / f"step-{step}-{labels}.jsonl", header, rows)
    return folder
