"""Tokens per second of our training loop against transformers' `Trainer` with GPT-Neo.

Equal work: the same shapes, initial weights, rows in the same order, AdamW, clipping, rate,
precision and threads; neither validation nor saving nor reports inside the time; and the loss
afterwards must agree. `Trainer` runs as it comes. Repeats of the two alternate in one process, and
medians are compared, so that a machine that others use, too, slows both. The first steps of each
repeat are not timed.

    python benchmarks/training.py                             both shapes, fp32 and bf16
    python benchmarks/training.py --shapes 128x2 --precisions bf16 --steps 30 --threads 1
    python benchmarks/training.py --regularizers              what each term adds to a step of ours

Regularizers are compared with the loop without one, in CPU seconds, in turns in one process; a term
may add 15 % to a step.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import (
    GPTNeoForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tightframe.corpus.blocks import ShardWriter
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.shards import TokenShards
from tightframe.files import sha256, write_text
from tightframe.lm.checkpoints import export_gpt_neo, import_gpt_neo, load_checkpoint
from tightframe.lm.loss import evaluate
from tightframe.lm.options import Schedule, TrainOptions, TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer

VOCABULARY, CONTEXT, BATCH = 4096, 256, 16
TARGET = 1.3
REGULARIZERS = ("dispersion", "class_dispersion", "cdnv", "duality")
ADDED = 0.15  # share of a step that a regularizer may add
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}  # nats, after all steps, on the same rows


@dataclasses.dataclass(frozen=True)
class Measured:
    """One repeat of one loop."""

    tokens_per_second: float
    loss: float  # on the training rows afterwards, in float32


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    quieten()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens(Path(folder) / "tokens", n_rows=BATCH * options.steps)
        if options.regularizers:
            compare_regularizers(Path(folder), tokens, options)
            return
        for shape, precision in itertools.product(options.shapes, options.precisions):
            rows.append(compare(Path(folder), tokens, shape, precision, options))
            print(f"{shape} {precision}: {rows[-1]['ratio']:.2f} times", file=sys.stderr)
    show(rows, options)
    path = Path(__file__).parent / "results" / f"training-{machine_slug(options.device)}.json"
    write_text(path, json.dumps({"about": about(options), "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")
    if any(row["ratio"] < TARGET for row in rows):
        sys.exit(f"below the target of {TARGET} times")


def compare(
    folder: Path, tokens: Path, shape: str, precision: str, options: argparse.Namespace
) -> dict[str, object]:
    """Both loops, in turns; a row of the table."""
    settings = settings_of(folder, tokens, shape, precision, options)
    width, depth = settings.width, settings.depth
    config = TransformerConfig(VOCABULARY, width, depth, settings.heads, positions=CONTEXT)
    start = folder / f"gpt-neo-{shape}-{precision}"
    export_gpt_neo(Transformer(config, seed=settings.seed), start)
    found: dict[str, list[Measured]] = {"ours": [], "trainer": []}
    for repeat in range(options.repeats):
        out = folder / f"run-{shape}-{precision}-{repeat}"
        found["ours"].append(run_ours(dataclasses.replace(settings, out=out), options))
        found["trainer"].append(run_trainer(start, settings, options))
    difference = abs(found["ours"][0].loss - found["trainer"][0].loss)
    if difference > LOSS_TOLERANCE[precision]:
        sys.exit(f"{shape} {precision}: unequal work, losses differ by {difference:.2g} nats")
    rates = {name: [m.tokens_per_second for m in repeats] for name, repeats in found.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = [a / b for a, b in zip(rates["ours"], rates["trainer"], strict=True)]
    return {
        "width": width,
        "depth": depth,
        "precision": precision,
        "tokens_per_second": {name: round(value) for name, value in medians.items()},
        "ratio": round(medians["ours"] / medians["trainer"], 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
        "loss": {name: repeats[0].loss for name, repeats in found.items()},
    }


def settings_of(
    folder: Path, tokens: Path, shape: str, precision: str, options: argparse.Namespace
) -> TrainOptions:
    """Return the settings of our loop for a shape, "WIDTHxDEPTH"."""
    width, depth = map(int, shape.split("x"))
    return TrainOptions(
        tokens=tokens,
        out=folder / "run",
        recipe="linguistic-collapse",
        width=width,
        depth=depth,
        batch=BATCH,
        learning_rate=1e-3,
        precision=precision,
        device=options.device,
        threads=options.threads,
        log_every=options.untimed,
        checkpoints=(),
        save_every=10**9,
    )


def compare_regularizers(folder: Path, tokens: Path, options: argparse.Namespace) -> None:
    """Print and keep what each regularizer adds to a step, as a share of it."""
    rows = []
    for shape, precision in itertools.product(options.shapes, options.precisions):
        settings = settings_of(folder, tokens, shape, precision, options)
        seconds: dict[str | None, list[float]] = {name: [] for name in (None, *REGULARIZERS)}
        for repeat, name in itertools.product(range(options.repeats), seconds):
            out = folder / f"{name}-{shape}-{precision}-{repeat}"
            with_term = dataclasses.replace(
                settings, out=out, regularizer=name, strength=name and 0.01
            )
            seconds[name].append(cpu_seconds(with_term, options))
        plain = statistics.median(seconds[None])
        for name in REGULARIZERS:
            added = statistics.median(seconds[name]) / plain - 1
            rows.append(
                {"shape": shape, "precision": precision, "regularizer": name}
                | {"seconds_per_step": plain / (options.steps - options.untimed), "added": added}
            )
            print(
                f"{shape} {precision} {name}: {added:+.1%} of {rows[-1]['seconds_per_step']:.3f} s"
            )
    path = Path(__file__).parent / "results" / f"regularizers-{machine_slug(options.device)}.json"
    write_text(path, json.dumps({"about": about(options), "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")
    if any(row["added"] > ADDED for row in rows):
        sys.exit(f"a regularizer adds more than {ADDED:.0%} to a step")


def cpu_seconds(settings: TrainOptions, options: argparse.Namespace) -> float:
    """Return the CPU seconds of our loop between the last untimed step and the end."""
    spent = {r["step"]: r["cpu_seconds"] for r in train(settings).log if r["kind"] == "train"}
    return spent[options.steps] - spent[options.untimed]


def run_ours(settings: TrainOptions, options: argparse.Namespace) -> Measured:
    times: dict[int, float] = {}

    def note(step, model, record) -> None:
        if record["kind"] == "train":
            times[step] = time.perf_counter()

    run = train(settings, hooks=[note])
    split = TokenShards.open(settings.tokens).split("train")
    model = load_checkpoint(run.checkpoint(run.steps[-1]))
    return Measured(rate(times, options), evaluate(model, split).loss)


def run_trainer(start: Path, settings: TrainOptions, options: argparse.Namespace) -> Measured:
    split = TokenShards.open(settings.tokens).split("train")
    tokens, _ = split.rows(Schedule(settings, split.n_blocks).order(0))
    examples = [{"input_ids": row, "labels": row} for row in tokens]
    times: dict[int, float] = {}

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step in (options.untimed, options.steps):
                synchronize(options.device)
                times[state.global_step] = time.perf_counter()

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return torch.utils.data.SequentialSampler(examples)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="linear",
            max_grad_norm=settings.clip,
            optim="adamw_torch_fused",
            bf16=settings.precision == "bf16",
            use_cpu=options.device == "cpu",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=options.device != "cpu",
        )
        model = GPTNeoForCausalLM.from_pretrained(start)
        trainer = InOrder(model, arguments, train_dataset=examples, callbacks=[Note()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model.save_pretrained(Path(folder) / "end")
        ended = import_gpt_neo(Path(folder) / "end")
    return Measured(rate(times, options), evaluate(ended, split).loss)


def rate(times: dict[int, float], options: argparse.Namespace) -> float:
    """Tokens per second between the last untimed step and the end."""
    seconds = times[options.steps] - times[options.untimed]
    return (options.steps - options.untimed) * BATCH * CONTEXT / seconds


def write_tokens(path: Path, n_rows: int) -> Path:
    """Rows of Zipf-like tokens that fill their blocks."""
    path.mkdir()
    (path / "tokenizer.json").write_text("{}")
    rng = np.random.default_rng(0)
    splits = {}
    for name, rows in (("train", n_rows), ("val", 1)):
        tokens = (rng.zipf(1.1, (rows, CONTEXT)) % VOCABULARY).astype(np.int32)
        writer = ShardWriter(path, name, CONTEXT)
        writer.write(
            tokens,
            np.full(rows, CONTEXT, np.int32),
            np.arange(rows, dtype=np.int64) * CONTEXT,
        )
        splits[name] = writer.close(n_bytes=tokens.nbytes)
    manifest = {
        "name": "zipf",
        "source": {},
        "blocks": "packed",
        "block": CONTEXT,
        "vocab_size": VOCABULARY,
        "end_of_text": None,
        "tokenizer": {"kind": "file", "sha256": sha256(path / "tokenizer.json")},
        "splits": splits,
        "entropy_floor": None,
    }
    write_manifest(path, manifest)
    return path


def show(rows: list[dict], options: argparse.Namespace) -> None:
    table = Table("width", "depth", "precision", "Trainer, tokens/s", "ours, tokens/s", "times")
    for row in rows:
        speed = row["tokens_per_second"]
        table.add_row(
            str(row["width"]),
            str(row["depth"]),
            row["precision"],
            f"{speed['trainer']:,}",
            f"{speed['ours']:,}",
            f"{row['ratio']:.2f} ({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})",
        )
    console = Console()
    console.print(table)
    console.print(f"{machine(options.device)}, {options.threads} threads", highlight=False)


def about(options: argparse.Namespace) -> dict[str, object]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(options.device),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "batch": BATCH,
        "steps": options.steps,
        "untimed_steps": options.untimed,
        "repeats": options.repeats,
    }


def machine(device: str) -> str:
    """The GPU, or the processor and how many of its cores there are."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def machine_slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", machine(device).lower()).strip("-")


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quieten() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    as_list: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--shapes", type=as_list, default=["128x2", "256x4"], help="width x depth")
    parser.add_argument("--precisions", type=as_list, default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=12, help="of a repeat")
    parser.add_argument("--untimed", type=int, default=2, help="first steps of a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--regularizers", action="store_true", help="compare these instead")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
