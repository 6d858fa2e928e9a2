"""Options of the commands on context tables, each documented here alone.

The command line and the Python functions take these classes. They check all that can be checked
without a file, and import no numerical library.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from tightframe.errors import UserError

PROXY = "proxy"  # in the place of a solution: the centred support matrix
MEMORY = 2 * 2**30  # bytes that counting holds at once, beside the table itself
SMALLEST_GAP = {"float64": 1e-10, "float32": 1e-5}  # of a solution, by the precision of the steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountOptions:
    """Options of counting the contexts of a text.

    Args:
        length: Number of tokens of a context; all: every beginning of a document is a context.
        split: Split of token shards to count.
        min_count: Leave out next tokens that followed their context less often.
        min_context: Leave out contexts with fewer pairs; looked at before min_count.
        max_contexts: Keep at most this many contexts: the most frequent ones, ties by ids.
        sample_seed: With max_contexts: keep a uniform sample of the distinct contexts instead,
            drawn by this seed, the same whatever order the text is in.
        max_length: With all lengths: longest beginnings that are counted.
    """

    length: int | Literal["all"] = 5
    split: Literal["train", "val"] = "train"
    min_count: int = 1
    min_context: int = 1
    max_contexts: int | None = None
    sample_seed: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.length, str) and self.length != "all":
            raise UserError(f"length: {self.length!r}, expected a number of tokens, or all")
        for name in ("length", "min_count", "min_context", "max_contexts", "max_length"):
            _check_least(name, getattr(self, name), 1)
        if self.sample_seed is not None and self.max_contexts is None:
            raise UserError("sample_seed needs max_contexts, the size of the sample")
        if self.max_length is not None and self.length != "all":
            raise UserError(f"max_length is for length 'all', got length {self.length}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """Options of solving the nuclear-norm problem.

    Args:
        gap: Relative distance of the bounds at which the answer counts as optimal.
        max_iter: Number of steps after which the answer is returned as it is; its status says so.
        device: Device of the iteration. The certificate is computed on the CPU.
        dtype: Precision of the iteration; the certificate is float64.
    """

    gap: float = 1e-4
    max_iter: int = 2000
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    dtype: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        if self.dtype not in SMALLEST_GAP:
            raise UserError(f"dtype: {self.dtype}, expected float64 or float32")
        smallest = SMALLEST_GAP[self.dtype]
        if not smallest <= self.gap < 1:
            raise UserError(
                f"gap: {self.gap}, expected {smallest} or more in {self.dtype}, below 1"
            )
        _check_least("max_iter", self.max_iter, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RidgePathOptions:
    """Options of a ridge path.

    Args:
        dim: Number of dimensions of the embeddings; by default as many as the optimum may need.
        down_to: Smallest ridge; the others are powers of ten below the one where all is zero.
        seed: Seed of the noise that leaves saddles.
    """

    dim: int | None = None
    down_to: float = 1e-7
    seed: int = 0

    def __post_init__(self) -> None:
        _check_least("dim", self.dim, 1)
        if self.down_to <= 0:
            raise UserError(f"down_to: {self.down_to}, expected a ridge > 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of predicting the geometry of a table.

    Args:
        source: File of a solution, or `proxy`: the centred support matrix. By default the table's
            solution of smallest gap.
        rank: Number of dimensions to keep; of a proxy only these are computed, however large the
            table is.
    """

    source: str | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        _check_least("rank", self.rank, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of comparing a model with what a table predicts.

    Args:
        step: One checkpoint of a run; all by default.
        bos: auto: contexts begin with the token that the model's tokenizer begins a text with, if
            it has one; never: they do not.
        shuffles: Number of random supports of the baseline.
        seed: Seed of the random supports.
        device: Device of the model: cpu, cuda, or auto, the GPU if there is one.
        batch_tokens: Tokens of a forward pass: fewer take less memory.
        trust_remote_code: Run Python code that comes with a Hugging Face model.
        out: Folder for the results files; by default results/MODEL in the table's folder.
    """

    step: int | None = None
    bos: Literal["auto", "never"] = "auto"
    shuffles: int = 5
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_tokens: int = 8192
    trust_remote_code: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        _check_least("batch_tokens", self.batch_tokens, 1)
        if not 0 <= self.shuffles <= 1000:
            raise UserError(f"shuffles: {self.shuffles}, expected 0 to 1000")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptOptions:
    """Options of reading the concepts of a table.

    Args:
        n: Maximum number of concepts, largest singular values first.
        clusters: Clusters of k-means over tokens; at most as many orthants of the first concepts
            are made.
        words: Tokens and contexts shown of each side and orthant.
        model: Also measure how strong each concept is in a model: a run (every checkpoint), a
            folder, or a hub name.
        seed: Seed of k-means.
    """

    n: int = 10
    clusters: int = 8
    words: int = 10
    model: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("clusters", 2), ("words", 1)):
            _check_least(name, getattr(self, name), least)
        if self.seed >= 2**32:
            raise UserError(f"seed: {self.seed}, expected less than 2**32, as scikit-learn does")


def _check_least(name: str, value: int | str | None, least: int) -> None:
    if isinstance(value, int) and value < least:
        raise UserError(f"{name}: {value}, expected at least {least}")
