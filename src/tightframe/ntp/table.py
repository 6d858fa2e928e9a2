"""The context table of a text: its distinct contexts, and how often each token follows each.

On disk it is a folder:

    table.safetensors   the table: contexts, counts by row, tokens
    manifest.json       words, source, summary, and the SHA-256 of the arrays
    contexts.parquet    for people: the most frequent contexts as text, and what follows them

Results computed from a table are written beside it: solutions/, results/.

Axes: M distinct contexts, T tokens of a context, V tokens that may follow (rows of the support
matrix, columns of `counts`).
"""

import dataclasses
import itertools
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Int32, Int64

from tightframe.corpus.tokenizer import joined_names
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
from tightframe.ntp.soft_labels import SoftLabels

PAD = -1  # stands left of a context that is shorter than the longest


@dataclasses.dataclass(frozen=True, eq=False)
class ContextTable:
    """What a text says of its contexts; made by `context_table`.

    Attributes:
        contexts: Token ids of each context, oldest first; PAD on the left where it is shorter.
        counts: (M, V), sparse by context: how often each token followed each context. Every
            context is followed by a token.
        tokens: The tokenizer's id of each of the V tokens; `arange(V)` where all take part.
        words: The string of each of the V tokens; empty where it is not known.
        source: What it was made from: name and fingerprint of the tokens, split, length, floors.
        vocabulary: The string of every token id, which contexts are read by; empty where unknown.
    """

    contexts: Int32[np.ndarray, "M T"]
    counts: sp.csr_array
    tokens: Int64[np.ndarray, " V"]
    words: tuple[str, ...] = ()
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows, columns = self.counts.shape
        if len(self.contexts) != rows:
            raise ValueError(f"counts: {rows} rows, expected one a context, {len(self.contexts)}")
        if len(self.tokens) != columns:
            raise ValueError(f"counts: {columns} columns, expected one a token, {len(self.tokens)}")
        if self.words and len(self.words) != columns:
            raise ValueError(f"words: {len(self.words)}, expected one a token, {columns}")

    @property
    def n_contexts(self) -> int:
        """M."""
        return len(self.contexts)

    @property
    def vocab_size(self) -> int:
        """V, the tokens that may follow."""
        return len(self.tokens)

    @property
    def n_pairs(self) -> int:
        """How many (context, next token) pairs were counted."""
        return int(self.counts.data.sum())

    @property
    def context_counts(self) -> Int64[np.ndarray, " M"]:
        """How often each context was counted: the pairs that begin with it."""
        sums: Int64[np.ndarray, " M"] = np.add.reduceat(self.counts.data, self.counts.indptr[:-1])
        return sums

    @cached_property
    def soft_labels(self) -> SoftLabels:
        """P (V, M) and pi (M,)."""
        return SoftLabels.from_counts(self.counts.T)

    @property
    def matrix(self) -> Bool[np.ndarray, "V M"]:
        """The support matrix, dense: what `solve_svm` takes."""
        return self.soft_labels.matrix

    @property
    def empirical_entropy(self) -> float:
        """H of the counted text in nats per pair; lower than its source's, contexts being few."""
        return self.soft_labels.entropy

    @cached_property
    def n_supports(self) -> int:
        """How many different supports the contexts have."""
        return count_supports(self.counts)

    def merged(self, other: "ContextTable") -> "ContextTable":
        """The table of both texts together, the most frequent contexts first.

        Raises:
            ValueError: The tables have other tokens or lengths, or left out pairs under a floor:
                the other text might have lifted those above it.
        """
        for table in (self, other):
            reasons = table.source.get("dropped_pairs", {})
            floors = [name for name, n in reasons.items() if n and name != "vocab_size"]
            if floors:
                raise ValueError(f"other: pairs were left out by {floors[0]}; merge whole tables")
        if not np.array_equal(self.tokens, other.tokens):
            raise ValueError("other: its tokens are not those of this table")
        if self.source.get("length") != other.source.get("length"):
            found, expected = other.source.get("length"), self.source.get("length")
            raise ValueError(f"other: contexts of length {found}, expected {expected}")
        width = max(self.contexts.shape[1], other.contexts.shape[1])
        both = np.concatenate([_padded(table.contexts, width) for table in (self, other)])
        contexts, place = np.unique(both, axis=0, return_inverse=True)
        pairs = sp.vstack([self.counts, other.counts]).tocoo()
        counts = sp.csr_array(
            (pairs.data, (place.ravel()[pairs.row], pairs.col)),
            shape=(len(contexts), self.vocab_size),
        )
        # Stable: among equally frequent contexts the order of ids stays.
        order = np.argsort(-np.asarray(counts.sum(axis=1)), kind="stable")
        source = {"length": self.source.get("length"), "merged": [self.source, other.source]}
        return dataclasses.replace(
            self, contexts=contexts[order], counts=counts[order], source=source
        )

    def of_contexts(self, chosen: np.ndarray) -> "ContextTable":
        """These contexts alone, by index or mask, in this order."""
        return dataclasses.replace(
            self, contexts=self.contexts[chosen], counts=sp.csr_array(self.counts[chosen])
        )

    def of_tokens(self, chosen: np.ndarray) -> "ContextTable":
        """These of the V tokens alone, by index or mask; contexts that none follows are left out.

        Raises:
            ValueError: None of them follows any context.
        """
        counts = sp.csr_array(self.counts[:, chosen])
        followed = np.diff(counts.indptr) > 0
        if not followed.any():
            raise ValueError("chosen: no context is followed by any of these tokens")
        return dataclasses.replace(
            self,
            contexts=self.contexts[followed],
            counts=sp.csr_array(counts[followed]),
            tokens=self.tokens[chosen],
            words=tuple(np.array(self.words, dtype=object)[chosen]) if self.words else (),
        )

    def text(self, context: int) -> str:
        """A context for readers; ids where the words are not known."""
        ids = [int(token) for token in self.contexts[context] if token != PAD]
        if not self.vocabulary:
            return " ".join(map(str, ids))
        # Pieces of words bring their spaces along; words do not.
        names = [self.vocabulary[token] for token in ids]
        return joined_names(names) if self._spaced else " ".join(names)

    @cached_property
    def _spaced(self) -> bool:
        return any(word.startswith(" ") for word in self.vocabulary)

    def report(self) -> dict[str, Any]:
        """The table in numbers: sizes, density, the entropy floor of this text, support sizes."""
        labels = self.soft_labels
        sizes, n_of_size = np.unique(labels.support_sizes, return_counts=True)
        return {
            "n_pairs": self.n_pairs,
            "n_contexts": self.n_contexts,
            "vocab_size": self.vocab_size,
            "n_tokens_used": len(np.unique(self.counts.indices)),
            "n_supports": self.n_supports,
            "density": labels.density,
            "empirical_entropy": labels.entropy,
            "mean_support": float(labels.support_sizes.mean()),
            "support_sizes": {str(k): int(n) for k, n in zip(sizes, n_of_size, strict=True)},
        }


def _padded(contexts: Int32[np.ndarray, "M T"], width: int) -> Int32[np.ndarray, "M W"]:
    return np.pad(contexts, ((0, 0), (width - contexts.shape[1], 0)), constant_values=PAD)


def count_supports(counts: sp.csr_array) -> int:
    """How many different sets of columns the rows of a canonical matrix have.

    Rows are sorted by a random sum over their set, and neighbours with equal sums are compared
    entry by entry: where two sets share a sum, other random numbers are drawn.
    """
    starts, columns = counts.indptr, counts.indices
    sizes = np.diff(starts)
    for seed in itertools.count():
        rng = np.random.default_rng(seed)
        values = rng.integers(2**64, size=counts.shape[1], dtype=np.uint64)
        sums = np.add.reduceat(values[columns], starts[:-1])
        order = np.lexsort((sums, sizes))
        before, after = order[:-1], order[1:]
        alike = (sums[before] == sums[after]) & (sizes[before] == sizes[after])
        before, after = before[alike], after[alike]
        lengths = sizes[before]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        first = columns[np.repeat(starts[before], lengths) + within]
        second = columns[np.repeat(starts[after], lengths) + within]
        if np.array_equal(first, second):
            return int(len(order) - alike.sum())
    raise AssertionError("unreachable")


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
