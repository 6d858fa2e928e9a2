"""Context tables on disk: a folder with the arrays, what they are, and contexts to read.

    table.safetensors   the table: contexts, counts by row, tokens
    manifest.json       words, source, summary, and the SHA-256 of the arrays
    contexts.parquet    for people: the most frequent contexts as text, and what follows them

What is computed from a table is written beside it: solutions/, results/.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tightframe.errors import UserError
from tightframe.files import whole_folder
from tightframe.formats import (
    Record,
    Sha256,
    check_layout,
    read_listed,
    read_signed,
    write_listed,
    write_signed,
)
from tightframe.ntp.table import ContextTable

READABLE = 100_000  # contexts written as text, the most frequent ones
TOP = 10  # next tokens written of each
_ARRAYS, _MANIFEST, _CONTEXTS = "table.safetensors", "manifest.json", "contexts.parquet"


class Manifest(Record):
    """What a table's folder says of it."""

    revision: Literal[1]
    version: str
    source: dict[str, Any]
    report: dict[str, Any]
    words: list[str]
    vocabulary: list[str]
    sha256: Sha256  # of the arrays
    fingerprint: str


LAYOUT = {
    **{"contexts": "int32 M T", "tokens": "count V"},
    **{"counts": "count E", "next": "int* E", "starts": "int* ends"},
}
REMEDY = "make the table again"
# The version that wrote it and the summary say nothing of a table.
_BESIDES = ("version", "report")


def save_table(path: str | Path, table: ContextTable) -> None:
    """Write the folder of a table, whole or not at all; one that exists is refused."""
    with whole_folder(Path(path)) as folder:
        arrays = {
            "contexts": table.contexts,
            "counts": table.counts.data,
            "next": table.counts.indices,
            "starts": table.counts.indptr,
            "tokens": table.tokens,
        }
        readable(table).to_parquet(folder / _CONTEXTS, index=False)
        content = {
            "revision": 1,
            "version": version("tightframe"),
            "source": table.source,
            "report": table.report(),
            "words": list(table.words),
            "vocabulary": list(table.vocabulary),
            "sha256": write_listed(folder / _ARRAYS, arrays),
        }
        write_signed(folder / _MANIFEST, content, besides=_BESIDES)


def load_table(path: str | Path) -> ContextTable:
    """The table of a folder; one that is missing, damaged or changed is refused by name."""
    path = Path(path)
    manifest = _manifest(path)
    arrays_path = path / _ARRAYS
    tensors = read_listed(arrays_path, manifest.sha256, remedy=REMEDY)
    check_layout(arrays_path, tensors, LAYOUT, remedy=REMEDY)
    arrays = {name: tensor.clone().numpy() for name, tensor in tensors.items()}
    shape = len(arrays["contexts"]), len(arrays["tokens"])
    _check_sparse(arrays_path, arrays["starts"], arrays["next"], shape)
    counts = sp.csr_array((arrays["counts"], arrays["next"], arrays["starts"]), shape=shape)
    try:
        return ContextTable(
            arrays["contexts"],
            counts,
            arrays["tokens"],
            tuple(manifest.words),
            manifest.source,
            tuple(manifest.vocabulary),
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from None


def table_fingerprint(path: str | Path) -> str:
    """Twelve hexadecimal digits that change when the table of a folder does."""
    return _manifest(Path(path)).fingerprint


def _check_sparse(
    path: Path, starts: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> None:
    """Refuse indices that scipy would follow out of its arrays."""
    wrong = "" if len(starts) == shape[0] + 1 else f"{len(starts)} starts of {shape[0]} contexts"
    if not wrong and (starts[0] != 0 or starts[-1] != len(columns) or np.diff(starts).min() < 1):
        wrong = f"starts that don't rise from 0 to {len(columns)}"
    elif not wrong and not 0 <= columns.min() <= columns.max() < shape[1]:
        wrong = f"next tokens {columns.min()}..{columns.max()} of {shape[1]}"
    if wrong:
        raise UserError(f"{path}: holds {wrong}; {REMEDY}")


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


def _manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; make a table with `tightframe ntp table`")
    if not (path / _MANIFEST).exists():
        raise UserError(
            f"{path}: holds no {_MANIFEST}, so it is no table; make one with `tightframe ntp table`"
        )
    manifest: Manifest = read_signed(path / _MANIFEST, Manifest, besides=_BESIDES, remedy=REMEDY)
    return manifest
