"""Context tables on disk: a folder with the arrays, what they are, and contexts to read.

    table.safetensors   the table: contexts, counts by row, tokens
    manifest.json       words, source, summary, and the SHA-256 of the arrays
    contexts.parquet    for people: the most frequent contexts as text, and what follows them

What is computed from a table is written beside it: solutions/, results/.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
import scipy.sparse as sp
from safetensors import SafetensorError

from tightframe.errors import UserError
from tightframe.files import fingerprint, sha256, whole_folder
from tightframe.formats import read_json
from tightframe.ntp.table import ContextTable

SCHEMA = 1
READABLE = 100_000  # contexts written as text, the most frequent ones
TOP = 10  # next tokens written of each
_ARRAYS, _MANIFEST, _CONTEXTS = "table.safetensors", "manifest.json", "contexts.parquet"


def save_table(path: str | Path, table: ContextTable) -> None:
    """Write the folder of a table, whole or not at all; one that exists is refused."""
    with whole_folder(Path(path)) as folder:
        arrays = {
            "contexts": np.ascontiguousarray(table.contexts),
            "counts": table.counts.data,
            "next": table.counts.indices,
            "starts": table.counts.indptr,
            "tokens": np.ascontiguousarray(table.tokens),
        }
        # Bytes through Python: a full disk is then an OSError, which the caller names.
        (folder / _ARRAYS).write_bytes(safetensors.numpy.save(arrays))
        readable(table).to_parquet(folder / _CONTEXTS, index=False)
        content = {
            "schema": SCHEMA,
            "version": version("tightframe"),
            "source": table.source,
            "report": table.report(),
            "words": list(table.words),
            "vocabulary": list(table.vocabulary),
            "sha256": sha256(folder / _ARRAYS),
        }
        content["fingerprint"] = _fingerprint(content)
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / _MANIFEST).write_text(text, encoding="utf-8")


def load_table(path: str | Path) -> ContextTable:
    """The table of a folder; one that is missing, damaged or changed is refused by name."""
    path = Path(path)
    content = _manifest(path)
    arrays_path = path / _ARRAYS
    if not arrays_path.is_file():
        raise UserError(f"{arrays_path}: missing; make the table again")
    if sha256(arrays_path) != content["sha256"]:
        raise UserError(
            f"{arrays_path}: damaged or changed (its SHA-256 is not the manifest's); "
            "make the table again"
        )
    try:
        arrays = safetensors.numpy.load_file(arrays_path)
    except SafetensorError as error:
        raise UserError(f"{arrays_path}: cannot be read ({error}); make the table again") from None
    contexts, tokens = arrays["contexts"], arrays["tokens"]
    counts = sp.csr_array(
        (arrays["counts"], arrays["next"], arrays["starts"]), shape=(len(contexts), len(tokens))
    )
    return ContextTable(
        contexts,
        counts,
        tokens,
        tuple(content["words"]),
        content["source"],
        tuple(content["vocabulary"]),
    )


def table_fingerprint(path: str | Path) -> str:
    """Twelve hexadecimal digits that change when the table of a folder does."""
    return str(_manifest(Path(path))["fingerprint"])


def readable(table: ContextTable, *, limit: int = READABLE) -> pd.DataFrame:
    """The most frequent contexts as text: how often, how many tokens follow, and which most."""
    totals = table.context_counts
    order = np.argsort(-totals, kind="stable")[:limit]
    entropies = table.soft_labels.entropies
    names = table.words or [str(token) for token in table.tokens]
    starts, columns, data = table.counts.indptr, table.counts.indices, table.counts.data
    rows: list[dict[str, Any]] = []
    for context in order:
        entries = slice(starts[context], starts[context + 1])
        top = np.argsort(-data[entries], kind="stable")[:TOP]
        rows.append(
            {
                "context": table.text(int(context)),
                "n": int(totals[context]),
                "support": int(starts[context + 1] - starts[context]),
                "entropy": float(entropies[context]),
                "next": [names[token] for token in columns[entries][top]],
                "next_n": [int(count) for count in data[entries][top]],
                "row": int(context),
            }
        )
    return pd.DataFrame(rows)


def _manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; make a table with `tightframe ntp table`")
    if not (path / _MANIFEST).exists():
        raise UserError(
            f"{path}: holds no {_MANIFEST}, so it is no table; make one with `tightframe ntp table`"
        )
    content = read_json(path / _MANIFEST)
    if not isinstance(content, dict) or "schema" not in content or "sha256" not in content:
        raise UserError(f"{path / _MANIFEST}: not a manifest of a table; make the table again")
    if content["schema"] != SCHEMA:
        raise UserError(
            f"{path / _MANIFEST}: schema {content['schema']}, expected {SCHEMA}; "
            "make the table again"
        )
    if content.get("fingerprint") != _fingerprint(content):
        raise UserError(f"{path / _MANIFEST}: damaged or changed; make the table again")
    return content


def _fingerprint(content: dict[str, Any]) -> str:
    """Of what the table says; the version that wrote it and the summary are left out."""
    left_out = ("version", "report", "fingerprint")
    return fingerprint({key: value for key, value in content.items() if key not in left_out})
