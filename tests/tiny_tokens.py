"""Token folders made in a moment, for tests that train."""

from pathlib import Path

import numpy as np

from tightframe.corpus.tokens import ShardWriter, write_manifest
from tightframe.files import sha256


def write_tokens(path: Path, *, vocab_size=23, block=9, train=22, val=5, seed=0) -> Path:
    """A folder of random rows, most of them shorter than the block; a token tends to repeat."""
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_text("{}")
    rng = np.random.default_rng(seed)
    splits = {}
    for name, rows in (("train", train), ("val", val)):
        writer = ShardWriter(path, name, block)
        tokens = rng.integers(vocab_size, size=(rows, 1)) + rng.integers(2, size=(rows, block))
        lengths = rng.integers(2, block + 1, rows).astype(np.int32)
        starts = np.arange(rows, dtype=np.int64) * block
        writer.write((tokens % vocab_size).astype(np.int32), lengths, starts)
        splits[name] = writer.close(n_bytes=rows)
    manifest = {
        "name": path.name,
        "source": {},
        "blocks": "packed",
        "block": block,
        "vocab_size": vocab_size,
        "end_of_text": None,
        "tokenizer": {"kind": "file", "sha256": sha256(path / "tokenizer.json")},
        "splits": splits,
        "entropy_floor": None,
    }
    write_manifest(path, manifest)
    return path
