"""The context table of a long text: seconds and peak memory of counting, at context length 5.

The text is stories of the generated corpus, one word one token: every story is generated, none is
repeated, which takes about five minutes of one core for 100 million tokens and is not part of the
time, and written to shards in packed blocks of 256. Vocabulary 2,313.

    python benchmarks/ntp_table.py --tokens 10000000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tightframe import ntp
from tightframe.corpus import tokenizer
from tightframe.corpus.blocks import Packed, ShardWriter
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.stories import END, Grammar
from tightframe.files import sha256, whole_folder

TOKENS = 100_000_000
LENGTH = 5
TARGET = "600 s, 8 GB"
BLOCK = 256


def table(n_tokens: int = TOKENS, *, tokens: Path | None = None) -> dict[str, Any]:
    """The row `table`: counted by a process of its own, so that its peak memory is its own.

    Args:
        n_tokens: Of the text.
        tokens: A tokens folder made before, or where to keep it; None makes a temporary one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens" if tokens is None else tokens
        if not path.exists():
            make_tokens(path, n_tokens)
        command = [sys.executable, __file__, "--count", str(path)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    about = {"row": "table", "work": f"{n_tokens:,} tokens, contexts of {LENGTH}", "target": TARGET}
    return about | json.loads(printed)


def make_tokens(path: Path, n_tokens: int) -> None:
    """A tokens folder of generated stories, packed, with end-of-text between them."""
    grammar = Grammar()
    ids = {word: index for index, word in enumerate(grammar.words)}
    end = ids[END]
    splits = {}
    with whole_folder(path) as folder:
        tokenizer.save(tokenizer.word_level(grammar.words), folder / "tokenizer.json")
        for seed, (split, size) in enumerate({"train": n_tokens, "val": 1_000}.items()):
            maker = Packed(ShardWriter(folder, split, BLOCK), end=end)
            for story in grammar.generate(size, seed):
                maker.add(np.array([ids[word] for word in story], dtype=np.int32), 0)
            splits[split] = maker.finish()
        manifest = {
            "name": path.name,
            "source": {"stories": n_tokens},
            "blocks": "packed",
            "block": BLOCK,
            "vocab_size": len(ids),
            "end_of_text": end,
            "tokenizer": {"kind": "word", "sha256": sha256(folder / "tokenizer.json")},
            "splits": splits,
            "entropy_floor": None,
        }
        write_manifest(folder, manifest)


def count(path: Path) -> dict[str, Any]:
    """Time the opening and the count of a tokens folder, in this process."""
    warnings.simplefilter("ignore", UserWarning)
    started, used = time.perf_counter(), time.process_time()
    shards = TokenShards.open(path)
    counted = ntp.count(shards, LENGTH)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_bytes": peak,
        "n_pairs": counted.n_pairs,
        "n_contexts": counted.n_contexts,
        "vocab_size": counted.vocab_size,
    }


def main() -> None:
    """Count once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--folder", type=Path, help="keep the tokens here, or take them from here")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        print(json.dumps(count(options.count)))
    else:
        print(json.dumps(table(options.tokens, tokens=options.folder), indent=2))


if __name__ == "__main__":
    main()
