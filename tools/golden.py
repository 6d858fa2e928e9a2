"""Record every number that the package makes, and check later that none has changed.

    python tools/golden.py record golden.json          # before a step of a redesign
    python tools/golden.py check golden.json           # after it, on the same machine

Both run the same jobs in a folder of their own: a corpus, a sweep of two small models, every
measure on three tiny models of transformers, a context table with its solution, predictions,
comparison, concepts and path, and facts from a wiki page to scores, clusters and a study. Then they
read all files that these wrote: rows, tables, JSON, tensors. Numbers must agree to 1e-12 of their
size; texts and counts must be equal. Training depends on the processor: a record is good for the
machine that made it and is never committed.

`--full` adds `tightframe demo` (twelve models, some minutes). With TIGHTFRAME_DATA, the scores of
the development file are in it, too. When a command, a file or a column is renamed, its new name
goes into `JOBS` or `NAMES` here, in the same commit.
"""

import argparse
import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-12
MODELS = ("gpt2", "gpt_neox", "llama")
FACTS = 24
# What tells when or where something was made, or how long it took, and so differs between two runs.
PASSING = re.compile(
    r"created|machine|version|seconds|duration|fingerprint|digest|sha256|per_second|peak|time$|host"
)
PASSED_OVER = {"log.jsonl", "timings.csv", "lease", "pid"}
# Where a file or a field of the record has another name now: "as it was recorded": "as it is".
NAMES: dict[str, str] = {"/spreads/": "/within_ss/"}  # tensors of ClassMoments
# The digest in the name of a file of rows is that of its measurement key, which says nothing here.
DIGEST = re.compile(r"( of .*/(?:step|path)-?\d*)-[0-9a-f]{12}")

JOBS = r"""
corpus build stories --out tokens/stories --tokens 60000 --block 128
sweep run sweep.toml
report sweeps/sweep
measure sweeps/sweep/runs/RUN0 --measures all --layers all \
    --labels next current shuffled --groups 8 --by-frequency
measure sweeps/sweep/runs/RUN0 --compat lc-2024-05
measure models/gpt2 --text text.txt --context 64 --measures all --layers all --groups 8 \
    --min-count 2
measure models/gpt_neox --text text.txt --context 64 --measures all --groups 8 --random-weights 0
measure models/llama --text text.txt --context 64 --measures all --layers all \
    --labels next current
classes models/llama --text text.txt --context 64
ntp count tokens/stories --out ntp/stories --context 2 --min-context 25 --min-count 2 \
    --followers-only
ntp solve ntp/stories
ntp predict ntp/stories
ntp predict ntp/stories --from proxy --rank 8
ntp ridge-path ntp/stories --down-to 1e-2
ntp compare sweeps/sweep/runs/RUN0 --table ntp/stories
ntp concepts ntp/stories
knowledge parse page.wikitext --out knowledge/dyk
knowledge questions knowledge/dyk/hooks.jsonl --out knowledge/dyk/questions.jsonl
knowledge spans facts.jsonl --out knowledge/masks.jsonl --exposures 3
knowledge inject facts.jsonl --arm bilm_sp --out runs/bilm_sp --exposures 20 SMALL
knowledge inject facts.jsonl --arm clm_ntp --out runs/clm_ntp --exposures 20 SMALL
knowledge answer runs/bilm_sp --data facts.jsonl --form cloze_seen
knowledge answer runs/clm_ntp --data facts.jsonl
knowledge score runs/bilm_sp/answers/cloze_seen.jsonl --data facts.jsonl --allow-missing \
    --out knowledge/scores-bilm
knowledge rank runs/bilm_sp --data facts.jsonl
knowledge cluster facts.jsonl --k 2 --out knowledge/clusters
knowledge router knowledge/clusters --negatives others.jsonl --out knowledge/router
knowledge study study.toml --data facts.jsonl --out knowledge/study SMALL
report knowledge/study
"""
SMALL = (
    "--set width=16 --set depth=1 --set heads=2 --set vocab_size=300 --set positions=128"
    " --set threads=1"
)
SWEEP = """
[base]
tokens = "tokens/stories"
depth = 1
epochs = 2
threads = 1
heads = 2

[grid]
width = [16, 24]
"""
STUDY = """
exposures = 20
[[grid]]
arms = ["clm_sp", "bilm_sp"]
n_facts = [12, 20]
seeds = [0, 1]
"""


def run_jobs(full: bool) -> None:
    """Run all jobs in the current folder; what they print goes to golden.log."""
    from tightframe import cli

    sys.path.insert(0, str(ROOT / "tests"))
    _write_inputs()
    jobs = JOBS.replace("\\\n", "").strip().splitlines() + (["demo --out demo"] if full else [])
    if data := os.environ.get("TIGHTFRAME_DATA"):
        file = Path(data) / "wikidyk" / "dev.jsonl"
        said = _write_made_up_answers(file)
        jobs.append(f"knowledge score {said} --data {file} --out knowledge/dev")
    log = io.StringIO()
    for job in jobs:
        runs = sorted(Path("sweeps/sweep/runs").glob("*"))
        words = shlex.split(
            job.replace("RUN0", runs[0].name if runs else "").replace("SMALL", SMALL)
        )
        print("tightframe", *words, file=sys.stderr)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                cli.main(words)
            except SystemExit as stop:
                if stop.code:
                    Path("golden.log").write_text(log.getvalue())
                    last = log.getvalue().strip().splitlines()[-1:]
                    raise RuntimeError(f"{job} ended with {stop.code}: {last}") from None
    Path("golden.log").write_text(log.getvalue())


def _write_inputs() -> None:
    import torch
    import transformers

    import hub_models
    from example_facts import example_facts, write_facts

    facts = example_facts(FACTS + 8)
    write_facts(Path("facts.jsonl"), facts[:FACTS])
    write_facts(Path("others.jsonl"), facts[FACTS:])
    Path("page.wikitext").write_bytes((ROOT / "tests" / "example_hooks.wikitext").read_bytes())
    Path("sweep.toml").write_text(SWEEP)
    Path("study.toml").write_text(STUDY)
    lines = [
        f"{hub_models.SENTENCES[i % 10]} and {hub_models.SENTENCES[i * i % 7]}." for i in range(900)
    ]
    Path("text.txt").write_text("\n\n".join(lines))
    sizes = {"vocab_size": hub_models.V, "bos_token_id": 1, "eos_token_id": 2}
    configs = {
        "gpt2": lambda: transformers.GPT2Config(
            **sizes, n_embd=32, n_layer=2, n_head=2, n_positions=128
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(
            **hub_models.SIZES, **sizes, max_position_embeddings=128
        ),
        "llama": hub_models.CONFIGS["llama"],
    }
    for name in MODELS:
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(configs[name]())
        model.save_pretrained(f"models/{name}")
        hub_models.tokenizer().save_pretrained(f"models/{name}")


def _write_made_up_answers(file: Path) -> Path:
    """Write an answer to each question: right, near or wrong by its number."""
    from tightframe.knowledge import Output, load_benchmark

    path = Path("made-up-answers.jsonl")
    with path.open("w") as out:
        questions = [(fact, one) for fact in load_benchmark(file) for one in fact.questions]
        for i, (fact, one) in enumerate(questions):
            right = one.answers[0]
            text = (right, f"It was the {right}.", right[: len(right) // 2], "nobody")[i % 4]
            said = Output(one.id, fact.id, one.type, "m", text, 0.0, "end")
            out.write(json.dumps(dataclasses.asdict(said)) + "\n")
    return path


def collect(folder: Path) -> dict[str, object]:
    """Return every number and text in the files of `folder`, by what it is."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name in PASSED_OVER or name.startswith("models/"):
            continue
        if path.suffix == ".jsonl":
            _add(found, _of_lines(name, path))
        elif path.suffix == ".csv":
            with path.open(newline="") as lines:
                table = list(csv.DictReader(lines))
            _add(found, _flat(name, table))
        elif path.suffix == ".json" and path.name != "tokenizer.json":
            _add(found, _flat(name, json.loads(path.read_text())))
        elif path.suffix == ".safetensors":
            _add(found, _of_tensors(name, path))
    return found


def _add(found: dict[str, object], items: Iterator[tuple[str, object]]) -> None:
    for key, value in items:
        if not PASSING.search(key.rsplit("/", 1)[-1]):
            found[key] = value


def _of_lines(name: str, path: Path) -> Iterator[tuple[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for i, line in enumerate(lines):
        if "metric" in line and "layer" in line:
            keys = ("run", "step", "split", "layer", "labels", "subset", "metric", "min_count")
            key = "row/" + " ".join(str(line[part]) for part in keys)
            # One checkpoint may be measured in several ways; a file has one of each row.
            key += f" of {path.parent.name}/{path.name}"
            for field in ("value", "n", "excluded", "low", "high"):
                yield f"{key}/{field}", line[field]
        elif "header" not in line:
            yield from _flat(f"{name}/{i}", line)


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}", inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _flat(f"{name}/{i}", inner)
    else:
        yield name, value


def _of_tensors(name: str, path: Path) -> Iterator[tuple[str, object]]:
    """Yield two weighted sums of each tensor, in which no two entries can change places."""
    import torch
    from safetensors.torch import load_file

    for key, tensor in load_file(path).items():
        flat = tensor.double().flatten()
        weights = torch.cos(torch.arange(len(flat), dtype=torch.float64))
        yield f"{name}/{key}/shape", str(tuple(tensor.shape))
        yield f"{name}/{key}/norm", float(torch.linalg.vector_norm(flat))
        yield f"{name}/{key}/weighted", float(flat @ weights) if len(flat) else 0.0


def compare(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return a line for every number that is gone, new or another.

    A row that was measured in several ways has several values under one key; each of them must have
    an equal one on the other side.
    """
    old, new = _grouped(before), _grouped(after)
    lines = [f"gone: {key}" for key in old.keys() - new.keys()]
    lines += [f"new: {key}" for key in new.keys() - old.keys()]
    for key in old.keys() & new.keys():
        pairs = ((old[key], new[key]), (new[key], old[key]))
        if not all(any(_equal(a, b) for b in others) for ones, others in pairs for a in ones):
            lines.append(f"changed: {key}: {old[key]!r} -> {new[key]!r}")
    return sorted(lines)


def _grouped(values: dict[str, object]) -> dict[str, list[object]]:
    groups: dict[str, list[object]] = {}
    for key, value in values.items():
        groups.setdefault(_renamed(key), []).append(value)
    return groups


def _renamed(key: str) -> str:
    for old, new in NAMES.items():
        key = key.replace(old, new)
    return DIGEST.sub(r"\1", key)


def _equal(one: object, other: object) -> bool:
    if one == other:
        return True
    try:
        a, b = float(str(one)), float(str(other))
    except ValueError:
        return False
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b), 1e-3)


def main() -> int:
    """Run `record` or `check`; the exit status is 1 where a number has changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=["record", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--full", action="store_true", help="with the demo's twelve models")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    given = parser.parse_args()
    file = given.file.resolve()
    if data := os.environ.get("TIGHTFRAME_DATA"):
        os.environ["TIGHTFRAME_DATA"] = str(Path(data).resolve())
    before = json.loads(file.read_text()) if given.verb == "check" else {}
    with tempfile.TemporaryDirectory() as made:
        folder = given.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        run_jobs(given.full)
        after = collect(Path())
        os.chdir(ROOT)
    if given.verb == "record":
        file.write_text(json.dumps(after, indent=0, sort_keys=True))
        print(f"{file}: {len(after):,} numbers and texts")
        return 0
    lines = compare(before, after)
    for line in lines[:2000]:
        print(line)
    print(f"{len(after):,} numbers and texts, {len(lines):,} not as recorded")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
