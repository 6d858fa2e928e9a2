"""Time of a training example: the arms of the study against another commit, and transformers.

Invented facts of 10 to 28 words; every arm at the study's size (width 128, depth 2, one thread)
takes the same steps of the same batches. The peer is transformers' GPT-2 of the same width, depth,
vocabulary and positions behind torch's AdamW (fused), given the very batches of `clm_sp`; its loss
is taken at the labelled positions alone, as ours. The rounds of all learners alternate, and of each
batch the fastest round counts: others may use the machine. With --against, the same file runs with
the package of another checkout, and the largest relative difference of two losses is reported
beside the speed.

    git worktree add /tmp/before COMMIT
    python benchmarks/knowledge_inject.py --against /tmp/before
"""

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from rich.console import Console
from rich.table import Table

from tightframe.files import write_text
from tightframe.knowledge.facts import Fact, fact_id
from tightframe.knowledge.injection import start
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.knowledge.lessons import ExampleStream
from tightframe.lm import hardware
from tightframe.lm.interface import IGNORE, Batch, collate
from tightframe.lm.optimizer import AdamW

RATE = 1e-3
Step = Callable[[Batch], torch.Tensor]


def main() -> None:
    """Time every arm and the peers, print one table and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=80)
    parser.add_argument("--steps", type=int, default=40, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arms", default="clm_ntp,clm_sp,bilm_sp,bilm_mlm,bilm_ed")
    parser.add_argument("--against", type=Path, help="a checkout of another commit")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/...json")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    arms = options.arms.split(",")
    facts = make_facts(options.facts)
    work = {arm: prepared(facts, arm, options.steps) for arm in arms}
    if options.serve:  # another commit's package: a round of an arm for each line
        for line in sys.stdin:
            step, batches, _ = work[line.strip()]
            with hardware.prepared(1):
                print(json.dumps(timed(step, batches)), flush=True)
        return
    spans = next((arm for arm in arms if arm.endswith("_sp")), arms[0])
    peer = gpt2(work[spans][2])
    before = served(options) if options.against else None
    seconds: dict[str, list[list[float]]] = {name: [] for name in (*work, "gpt2")}
    earlier: dict[str, list[list[float]]] = {name: [] for name in work}
    apart = dict.fromkeys(work, 0.0)
    for _ in range(options.rounds + 1):  # the first one warms up
        for name, (step, batches, _) in work.items():
            with hardware.prepared(1):
                took, losses = timed(step, batches)
            seconds[name].append(took)
            if before:
                assert before.stdin
                assert before.stdout
                before.stdin.write(f"{name}\n")
                before.stdin.flush()
                took, theirs = json.loads(before.stdout.readline())
                earlier[name].append(took)
                differences = [abs(a / b - 1) for a, b in zip(losses, theirs, strict=True)]
                apart[name] = max(apart[name], *differences)
        # transformers runs as it comes: without our choice of library for its products.
        torch.set_num_threads(1)
        seconds["gpt2"].append(timed(peer, work[spans][1])[0])
    n_lessons = sum(len(batch.inputs) for batch in work[spans][1])
    rows = [
        {"learner": name, "cpu_ms_per_lesson": 1e3 * fastest(took) / n_lessons}
        for name, took in seconds.items()
    ]
    theirs = rows[-1]["cpu_ms_per_lesson"]
    for row in rows:
        row["times_gpt2"] = theirs / row["cpu_ms_per_lesson"]
        if before and row["learner"] in earlier:
            name = row["learner"]
            row["times_before"] = fastest(earlier[name]) / fastest(seconds[name])
            row["losses_apart"] = apart[name]
    show(rows)
    cores = torch.get_num_threads()
    about = {
        "machine": f"{processor()}, {cores} thread",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "facts": options.facts,
        "steps": options.steps,
        "rounds": options.rounds,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    out = options.out or Path(__file__).parent / "results" / f"knowledge-inject-{slug}.json"
    write_text(out, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    print(out)


def served(options: argparse.Namespace) -> "subprocess.Popen[str]":
    """Start this file with another checkout's package; it does a round for each line it reads."""
    command = [sys.executable, __file__, "--serve", "--arms", options.arms]
    command += ["--facts", str(options.facts), "--steps", str(options.steps)]
    environment = os.environ | {"PYTHONPATH": str(options.against / "src")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def make_facts(n_facts: int) -> list[Fact]:
    """Make sentences of 10 to 28 words out of 2,000, and nothing to ask about them."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnop", k=6)) for _ in range(2000)]
    texts = [
        " ".join(generator.choices(words, k=generator.randint(10, 28))) for _ in range(n_facts)
    ]
    return [Fact(fact_id(None, t), None, None, None, None, t, f"that {t}?", t) for t in texts]


def prepared(facts: list[Fact], arm: str, n_steps: int) -> tuple[Step, list[Batch], int]:
    """Return a step of an arm's training, its first batches, and the size of its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        settings = InjectOptions(data=Path(folder), out=Path(folder) / arm, arm=arm)
        learner, objective = start(settings, facts)
    stream = ExampleStream(facts, settings.exposures, objective=objective, seed=0)
    lessons = stream.batches(settings.batch)
    batches = [
        collate([learner.encode(one) for one in next(lessons)], pad=learner.pad)
        for _ in range(n_steps)
    ]
    optimizer = AdamW(learner.module, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)

    def step(batch: Batch) -> torch.Tensor:
        loss = learner.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.parameters.values(), 1.0)
        optimizer.update(RATE)
        return loss.detach()

    return step, batches, len(learner.classifier)


def gpt2(vocab_size: int) -> Step:
    """Return a step of GPT-2 at the study's size on a batch of `clm_sp`."""
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=160, n_embd=128, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)

    def step(batch: Batch) -> torch.Tensor:
        place = torch.arange(batch.inputs.shape[1])
        mask = (place < batch.lengths[:, None]).long()
        hidden = model.transformer(batch.inputs, attention_mask=mask).last_hidden_state
        labelled = batch.targets != IGNORE
        loss = F.cross_entropy(model.lm_head(hidden[labelled]), batch.targets[labelled])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def timed(step: Step, batches: list[Batch]) -> tuple[list[float], list[float]]:
    """Return the processor seconds of a step on each batch, and its loss."""
    seconds, losses = [], []
    for batch in batches:
        began = time.process_time()
        losses.append(float(step(batch)))
        seconds.append(time.process_time() - began)
    return seconds, losses


def fastest(rounds: list[list[float]]) -> float:
    """Return the seconds of all batches, each in its fastest round; the first one warms up."""
    return sum(map(min, zip(*rounds[1:], strict=True)))


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    columns = ("ms", "times GPT-2", "times before", "losses apart")
    table = Table("learner", *columns)
    for row in rows:
        numbers = [f"{row['cpu_ms_per_lesson']:.3f}", f"{row['times_gpt2']:.2f}"]
        if "times_before" in row:
            numbers += [f"{row['times_before']:.2f}", f"{row['losses_apart']:.1e}"]
        table.add_row(row["learner"], *numbers)
    Console().print(table)


def processor() -> str:
    """Return the name of the processor, with the number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        name = found.group(1) if found else name
    return f"{name} {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
