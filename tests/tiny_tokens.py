"""Token folders made in a moment, for tests that train."""

from pathlib import Path

import numpy as np

from tightframe.corpus.blocks import ShardWriter
from tightframe.corpus.manifest import write_manifest
from tightframe.files import sha256


def write_tokens(
    path: Path,
    *,
    vocab_size=23,
    block=9,
    train=22,
    val=5,
    length=None,
    seed=0,
    documents=True,
    end_of_text=None,
    tokenizer="{}",
):
    """A folder of random rows of random lengths, or of one `length` in the training split.

    Every row is a document, or without `documents` all of a split is one.
    """
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_text(tokenizer)
    rng = np.random.default_rng(seed)
    splits = {}
    for name, rows in (("train", train), ("val", val)):
        writer = ShardWriter(path, name, block)
        tokens = rng.integers(vocab_size, size=(rows, 1)) + rng.integers(2, size=(rows, block))
        lengths = rng.integers(2, block + 1, rows).astype(np.int32)
        if name == "train" and length is not None:
            lengths[:] = length
        starts = np.arange(rows if documents else 1, dtype=np.int64) * block
        writer.write((tokens % vocab_size).astype(np.int32), lengths, starts)
        splits[name] = writer.close(n_bytes=rows)
    manifest = {
        "name": path.name,
        "source": {},
        "blocks": "packed",
        "block": block,
        "vocab_size": vocab_size,
        "end_of_text": end_of_text,
        "tokenizer": {"kind": "file", "sha256": sha256(path / "tokenizer.json")},
        "splits": splits,
        "entropy_floor": None,
    }
    write_manifest(path, manifest)
    return path
