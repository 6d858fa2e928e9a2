"""What measuring while training costs, in our loop and in transformers' `Trainer`.

Each loop runs with and without `CollapseCallback`, in turns in one process; the CPU seconds of the
steps after the first ones are compared. So that the cost stands out of the noise, the callback
looks every few steps here; what a look costs in all (the time of a run with looks less that of one
without) is then divided by the time of as many steps as lie between two looks by default.

    python benchmarks/callback.py                             both loops, fp32 and bf16
    python benchmarks/callback.py --shape 256x4 --precisions bf16 --probe-tokens 32768
"""

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from training import BATCH, CONTEXT, VOCABULARY, machine, machine_slug, quieten, write_tokens
from transformers import GPTNeoForCausalLM, PrinterCallback, Trainer, TrainingArguments

from tightframe.corpus.shards import TokenShards
from tightframe.files import write_text
from tightframe.geometry.callback import CollapseCallback
from tightframe.lm.checkpoints import export_gpt_neo
from tightframe.lm.options import TrainOptions, TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer

TARGET = 0.02  # of the time of the steps
UNTIMED, EVERY, LOOKS = 2, 4, 2  # first steps; steps between two looks; looks in the timed steps
STEPS = EVERY * LOOKS + UNTIMED


# Takes the folder of the model, the settings and the callback; gives the CPU seconds of the steps
# after the untimed ones.
Loop = Callable[[Path, TrainOptions, CollapseCallback | None], float]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    quieten()
    rows = []
    width, depth = map(int, options.shape.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Enough rows for a probe of other positions than those of the steps.
        n_rows = max(BATCH * STEPS, 2 * options.probe_tokens // CONTEXT)
        tokens = write_tokens(folder / "tokens", n_rows=n_rows)
        config = TransformerConfig(VOCABULARY, width, depth, heads=16, positions=CONTEXT)
        export_gpt_neo(Transformer(config, seed=0), folder / "gpt-neo")
        for precision in options.precisions:
            for loop in options.loops:
                run = {"ours": run_ours, "Trainer": run_trainer}[loop]
                shown = {"loop": loop, "width": width, "depth": depth, "precision": precision}
                rows.append(shown | compare(folder, tokens, run, config, precision, options))
                print(f"{loop} {precision}: {rows[-1]['overhead']:.2%}", file=sys.stderr)
    show(rows, options)
    path = Path(__file__).parent / "results" / f"callback-{machine_slug('cpu')}.json"
    write_text(path, json.dumps({"about": about(options), "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")
    if any(row["overhead"] > TARGET for row in rows):
        sys.exit(f"above the target of {TARGET:.0%}")


def compare(
    folder: Path,
    tokens: Path,
    loop: Loop,
    config: TransformerConfig,
    precision: str,
    options: argparse.Namespace,
) -> dict[str, object]:
    """A loop with and without, in turns; a row of the table."""
    shards = TokenShards.open(tokens)
    looks, steps = [], []
    for repeat in range(options.repeats):
        settings = TrainOptions(
            tokens=tokens,
            out=folder / f"{loop.__name__}-{precision}-{repeat}",
            recipe="linguistic-collapse",
            width=config.width,
            depth=config.depth,
            batch=BATCH,
            epochs=BATCH * STEPS / shards.split("train").n_blocks,
            precision=precision,
            device="cpu",
            threads=options.threads,
            checkpoints=(),
            save_every=10**9,
        )
        plain = loop(folder, dataclasses.replace(settings, out=_beside(settings.out)), None)
        callback = CollapseCallback(
            shards, out=settings.out, every=EVERY, probe_tokens=options.probe_tokens
        )
        measured = loop(folder, settings, callback)
        steps.append(plain / (STEPS - UNTIMED))
        looks.append((measured - plain) / LOOKS)
    model = Transformer(config, seed=0)
    every = callback.probe.every(model, BATCH * CONTEXT)
    step, look = statistics.median(steps), statistics.median(looks)
    return {
        "step_cpu_seconds": round(step, 4),
        "look_cpu_seconds": round(look, 4),
        "classes": callback.probe.n_classes,
        "default_every": every,
        "overhead": round(look / (every * step), 5),
        "overhead_each": [
            round(look / (every * step), 5) for look, step in zip(looks, steps, strict=True)
        ],
    }


def run_ours(folder: Path, settings: TrainOptions, callback: CollapseCallback | None) -> float:
    times = Times()
    hooks = [] if callback is None else [callback.step]
    train(settings, step_hooks=[*hooks, lambda model, step: times.note(step)])
    return times.seconds


def run_trainer(folder: Path, settings: TrainOptions, callback: CollapseCallback | None) -> float:
    tokens, _ = TokenShards.open(settings.tokens).split("train").rows(range(BATCH * STEPS))
    times = Times()

    class Note(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            times.note(state.global_step)

    arguments = TrainingArguments(
        output_dir=str(settings.out / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused",
        bf16=settings.precision == "bf16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        GPTNeoForCausalLM.from_pretrained(folder / "gpt-neo"),
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[*([callback] if callback else []), Note()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times.seconds


class Times:
    """CPU time between the last untimed step and the end, both after their hooks."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def note(self, step: int) -> None:
        self.at[step] = time.process_time()

    @property
    def seconds(self) -> float:
        return self.at[STEPS] - self.at[UNTIMED]


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}-plain")


def show(rows: list[dict], options: argparse.Namespace) -> None:
    table = Table(
        "loop", "precision", "step, CPU s", "a look, CPU s", "default interval", "overhead"
    )
    for row in rows:
        each = row["overhead_each"]
        table.add_row(
            row["loop"],
            row["precision"],
            f"{row['step_cpu_seconds']:.3f}",
            f"{row['look_cpu_seconds']:.3f}",
            f"{row['default_every']} steps",
            f"{row['overhead']:.2%} ({min(each):.2%} to {max(each):.2%})",
        )
    console = Console()
    console.print(table)
    console.print(f"{machine('cpu')}, {options.threads} threads", highlight=False)


def about(options: argparse.Namespace) -> dict[str, object]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine("cpu"),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "batch": BATCH,
        "probe_tokens": options.probe_tokens,
        "steps": STEPS,
        "steps_between_looks": EVERY,
        "repeats": options.repeats,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    as_list: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--shape", default="128x2", help="width x depth")
    parser.add_argument("--precisions", type=as_list, default=["fp32", "bf16"])
    parser.add_argument("--loops", type=as_list, default=["ours", "Trainer"])
    parser.add_argument("--probe-tokens", type=int, default=2**14)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
