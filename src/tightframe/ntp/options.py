"""Check what is asked of a context table before torch is loaded, or anything is solved."""

import dataclasses
from pathlib import Path

from tightframe.errors import UserError
from tightframe.files import check_file
from tightframe.ntp.table import table_fingerprint

PROXY = "proxy"  # in the place of a solution: the centred support matrix
MEMORY = 2 * 2**30  # bytes that counting holds at once, beside the table itself
LEAST_GAP = {"float64": 1e-10, "float32": 1e-5}  # of a solution, by the numbers of the iteration


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of the concepts of a table.

    Attributes:
        n: Concepts, at most.
        clusters: Of k-means; the orthants are those of the first concepts, as many orthants at
            most.
        words: Tokens and contexts shown of each side and orthant.
        model: A run, a folder or a hub name whose share of each concept is measured.
        seed: Of k-means.
    """

    n: int = 10
    clusters: int = 8
    words: int = 10
    model: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "words"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}: {getattr(self, name)}, expected at least 1")
        if self.clusters < 2:
            raise UserError(f"--clusters: {self.clusters}, expected at least 2")


def check_counting(
    length: int | None,
    min_count: int,
    min_context: int,
    max_contexts: int | None,
    sample_seed: int | None,
    max_length: int | None,
    memory: int = MEMORY,
) -> None:
    """Refuse options of `context_table` that are out of their range, by a ValueError."""
    least = {
        "length": length,
        "min_count": min_count,
        "min_context": min_context,
        "max_contexts": max_contexts,
        "max_length": max_length,
        "memory": memory,
    }
    for name, value in least.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if sample_seed is not None and max_contexts is None:
        raise ValueError("sample_seed needs max_contexts, the size of the sample")
    if max_length is not None and length is not None:
        raise ValueError(f"max_length is for length=None, got length={length}")


def check_solving(gap: float, max_iter: int, dtype: str) -> None:
    """Refuse a gap that no solution can have in numbers of this kind, and fewer steps than none.

    Raises:
        ValueError: An argument out of its range.
    """
    if not LEAST_GAP[dtype] <= gap < 1:
        raise ValueError(f"gap: {gap}, expected {LEAST_GAP[dtype]} or more in {dtype}, below 1")
    if max_iter < 0:
        raise ValueError(f"max_iter: {max_iter}, expected 0 or more")


def check_path(folder: Path, *, dim: int | None, down_to: float) -> None:
    """Refuse a ridge path of no table, of no dimension or down to no ridge."""
    table_fingerprint(folder)
    if dim is not None and dim < 1:
        raise UserError(f"{folder}: dim: {dim}, expected at least 1")
    if down_to <= 0:
        raise UserError(f"{folder}: down_to: {down_to}, expected a ridge > 0")


def check_prediction(folder: Path, source: str | None, rank: int | None) -> None:
    """Refuse a prediction of no table, from no solution, or in no dimension."""
    table_fingerprint(folder)
    if source not in (None, PROXY):
        check_file(Path(str(source)))
    if source is None and not any((folder / "solutions").glob("*.safetensors")):
        raise no_solution(folder)
    if rank is not None and rank < 1:
        raise UserError(f"{folder}: rank: {rank}, expected at least 1")


def no_solution(folder: Path) -> UserError:
    """Return the error of a table that was not solved."""
    return UserError(
        f"{folder}: holds no solution; run `tightframe ntp solve {folder}` first, or take "
        "`--from proxy`"
    )
