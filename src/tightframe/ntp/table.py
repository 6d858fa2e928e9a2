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
from tightframe.files import check_file, whole_folder
from tightframe.formats import (
    Record,
    Sha256,
    check_layout,
    read_listed,
    read_signed,
    write_listed,
    write_signed,
)
from tightframe.ntp.options import PROXY
from tightframe.ntp.soft_labels import SoftLabels
from tightframe.results import ResultTable

READABLE = 100_000  # contexts written as text, the most frequent ones
TOP = 10  # next tokens written of each
PAD = -1  # stands left of a context that is shorter than the longest


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ContextTable(ResultTable):
    """Distinct contexts of a text and the counts of what follows them; made by `count`.

    Attributes:
        contexts: Token ids of each context, oldest first; PAD on the left where it is shorter.
        counts: (M, V), sparse by context: how often each token followed each context. Every
            context is followed by a token.
        tokens: The tokenizer's id of each of the V tokens; `arange(V)` where all take part.
        words: The string of each of the V tokens; empty where it is not known.
        source: Name and fingerprint of the tokens, split, length, floors.
        vocabulary: The string of every token id, for the text of contexts; empty where unknown.
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
            raise ValueError(f"counts: {rows} rows, expected one per context, {len(self.contexts)}")
        if len(self.tokens) != columns:
            raise ValueError(
                f"counts: {columns} columns, expected {len(self.tokens)}, one per token"
            )
        if self.words and len(self.words) != columns:
            raise ValueError(f"words: {len(self.words)}, expected one per token, {columns}")

    @property
    def n_contexts(self) -> int:
        """Number M of distinct contexts."""
        return len(self.contexts)

    @property
    def vocab_size(self) -> int:
        """Number V of tokens that may follow."""
        return len(self.tokens)

    @property
    def n_pairs(self) -> int:
        """Number of (context, next token) pairs that were counted."""
        return int(self.counts.data.sum())

    @property
    def context_counts(self) -> Int64[np.ndarray, " M"]:
        """Number of pairs that begin with each context."""
        sums: Int64[np.ndarray, " M"] = np.add.reduceat(self.counts.data, self.counts.indptr[:-1])
        return sums

    @cached_property
    def soft_labels(self) -> SoftLabels:
        """Soft labels: probabilities P (V, M) and weights pi (M,)."""
        return SoftLabels.from_counts(self.counts.T)

    @property
    def support(self) -> Bool[np.ndarray, "V M"]:
        """Support matrix S, dense: the argument of `solve_svm`."""
        return self.soft_labels.matrix

    @property
    def empirical_entropy(self) -> float:
        """Entropy H of the counted text in nats per pair; lower than that of its source."""
        return self.soft_labels.entropy

    @cached_property
    def n_supports(self) -> int:
        """Number of different supports of the contexts."""
        return count_supports(self.counts)

    def merged(self, other: "ContextTable") -> "ContextTable":
        """Return the table of both texts together, the most frequent contexts first.

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
        """Return the table of some contexts alone, by index or mask, in this order."""
        return dataclasses.replace(
            self, contexts=self.contexts[chosen], counts=sp.csr_array(self.counts[chosen])
        )

    def of_tokens(self, chosen: np.ndarray) -> "ContextTable":
        """Return the table of some tokens, by index or mask, without contexts that none follows.

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
        """Return a context as text, or its ids where the words are not known."""
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
        """Return sizes, density, entropy floor and support sizes as plain values."""
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

    @property
    def one_line(self) -> str:
        """Sizes, density and the entropy floor."""
        labels = self.soft_labels
        return (
            f"{self.n_pairs:,} pairs, {self.n_contexts:,} contexts over "
            f"{len(np.unique(self.counts.indices)):,} of {self.vocab_size:,} tokens, "
            f"{self.n_supports:,} distinct supports, {labels.support_sizes.mean():.2f} tokens "
            f"after a context on average, density {labels.density:.2%}, empirical entropy "
            f"{labels.entropy:.4f} nats per pair"
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return the most frequent contexts as text, with counts and what follows them most."""
        totals = self.context_counts
        order = np.argsort(-totals, kind="stable")[:READABLE]
        entropies = self.soft_labels.entropies
        names = self.words or [str(token) for token in self.tokens]
        starts, columns, data = self.counts.indptr, self.counts.indices, self.counts.data
        rows: list[dict[str, Any]] = []
        for context in order:
            entries = slice(starts[context], starts[context + 1])
            top = np.argsort(-data[entries], kind="stable")[:TOP]
            rows.append(
                {
                    "context": self.text(int(context)),
                    "n": int(totals[context]),
                    "support": int(starts[context + 1] - starts[context]),
                    "entropy": float(entropies[context]),
                    "next": [names[token] for token in columns[entries][top]],
                    "next_n": [int(count) for count in data[entries][top]],
                    "row": int(context),
                }
            )
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Write the table: a folder that `load_table` reads, or a file for people.

        Args:
            path: A new folder; or a file that ends in .csv, .parquet, .json or .jsonl.
        """
        path = Path(path)
        if path.suffix in (".csv", ".parquet", ".json", ".jsonl"):
            return super().save(path)
        save_table(path, self)
        return path


def _padded(contexts: Int32[np.ndarray, "M T"], width: int) -> Int32[np.ndarray, "M W"]:
    return np.pad(contexts, ((0, 0), (width - contexts.shape[1], 0)), constant_values=PAD)


def count_supports(counts: sp.csr_array) -> int:
    """Return the number of different sets of columns in the rows of a canonical matrix.

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


_ARRAYS, _MANIFEST, _CONTEXTS = "table.safetensors", "manifest.json", "contexts.parquet"


class Manifest(Record):
    """Content of the manifest in a table's folder."""

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
# Fields that do not belong to the content of a table.
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
        table.to_pandas().to_parquet(folder / _CONTEXTS, index=False)
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
    """Load the table of a folder; one that is missing, damaged or changed is refused by name."""
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
    """Return twelve hexadecimal digits that change when the table of a folder does."""
    return _manifest(Path(path)).fingerprint


def check_solved(folder: Path, source: str | None) -> None:
    """Refuse a folder without table or solution, and a source (a file or "proxy") that is none."""
    table_fingerprint(folder)
    if source not in (None, PROXY):
        check_file(Path(str(source)))
    if source is None and not any((folder / "solutions").glob("*.safetensors")):
        raise no_solution(folder)


def no_solution(folder: Path) -> UserError:
    """Return the error of a table that was not solved."""
    return UserError(
        f"{folder}: holds no solution; run `tightframe ntp solve {folder}` first, or use "
        "`--from proxy`"
    )


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


def _manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; make a table with `tightframe ntp count`")
    if not (path / _MANIFEST).exists():
        raise UserError(
            f"{path}: holds no {_MANIFEST}, so it is no table; make one with `tightframe ntp count`"
        )
    manifest: Manifest = read_signed(path / _MANIFEST, Manifest, besides=_BESIDES, remedy=REMEDY)
    return manifest
