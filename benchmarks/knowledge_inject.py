"""What a lesson costs: the arms of the study against transformers on the same examples.

Invented facts of 19 words; every arm at the study's size (width 128, depth 2, one thread) takes the
same steps of the same batches. The peer is transformers' GPT-2 of the same width, depth, vocabulary
and positions behind torch's AdamW (fused), given the very batches of `clm_sp`; its loss is taken at
the labelled positions alone, as ours. The least of several rounds counts.

    python benchmarks/knowledge_inject.py
"""

import argparse
import json
import os
import platform
import random
import re
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
from tightframe.knowledge.qa_models import ARMS
from tightframe.lm import hardware
from tightframe.lm.interface import IGNORE, Batch, collate
from tightframe.lm.optimizer import AdamW

RATE = 1e-3
Step = Callable[[Batch], None]


def main() -> None:
    """Time every arm and the peer, print one table and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=80)
    parser.add_argument("--steps", type=int, default=40, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/...json")
    options = parser.parse_args()
    facts = make_facts(options.facts)
    work = {arm.name: prepared(facts, arm.name, options.steps) for arm in ARMS}
    peer = gpt2(work["clm_sp"][2])
    seconds: dict[str, list[float]] = {name: [] for name in (*work, "gpt2")}
    with hardware.prepared(1):
        for _ in range(options.rounds + 1):  # the first one warms up
            for name, (step, batches, _) in work.items():
                seconds[name].append(timed(step, batches))
    # transformers runs as it comes: without our choice of library for its products.
    torch.set_num_threads(1)
    for _ in range(options.rounds + 1):
        seconds["gpt2"].append(timed(peer, work["clm_sp"][1]))
    n_lessons = sum(len(batch.inputs) for batch in work["clm_sp"][1])
    rows = [
        {"learner": name, "cpu_ms_per_lesson": 1e3 * min(took[1:]) / n_lessons}
        for name, took in seconds.items()
    ]
    theirs = rows[-1]["cpu_ms_per_lesson"]
    for row in rows:
        row["times_gpt2"] = theirs / row["cpu_ms_per_lesson"]
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


def make_facts(n_facts: int) -> list[Fact]:
    """Sentences of 19 words out of 2,000, and nothing asked about them."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnop", k=6)) for _ in range(2000)]
    texts = [" ".join(generator.choices(words, k=19)) for _ in range(n_facts)]
    return [Fact(fact_id(None, t), None, None, None, None, t, f"that {t}?", t) for t in texts]


def prepared(facts: list[Fact], arm: str, n_steps: int) -> tuple[Step, list[Batch], int]:
    """A step of an arm's training, its first batches, and the size of its vocabulary."""
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

    def step(batch: Batch) -> None:
        learner.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(optimizer.parameters.values(), 1.0)
        optimizer.update(RATE)

    return step, batches, len(learner.classifier)


def gpt2(vocab_size: int) -> Step:
    """A step of GPT-2 at the study's size on a batch of `clm_sp`."""
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=160, n_embd=128, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)

    def step(batch: Batch) -> None:
        place = torch.arange(batch.inputs.shape[1])
        mask = (place < batch.lengths[:, None]).long()
        hidden = model.transformer(batch.inputs, attention_mask=mask).last_hidden_state
        labelled = batch.targets != IGNORE
        loss = F.cross_entropy(model.lm_head(hidden[labelled]), batch.targets[labelled])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Step, batches: list[Batch]) -> float:
    """Processor seconds of a step on every batch."""
    began = time.process_time()
    for batch in batches:
        step(batch)
    return time.process_time() - began


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("learner", "processor ms a lesson", "times as fast as GPT-2")
    for row in rows:
        table.add_row(row["learner"], f"{row['cpu_ms_per_lesson']:.2f}", f"{row['times_gpt2']:.2f}")
    Console().print(table)


def processor() -> str:
    """What the processor is called, with the number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        name = found.group(1) if found else name
    return f"{name} {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
