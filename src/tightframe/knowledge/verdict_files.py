"""The verdicts of a study on disk, with the digests of the tables beside them.

They tell whether a study's results are whole before anything of them, or of torch, is loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tightframe.files import sha256
from tightframe.formats import FileName, Record, Sha256, check_digest, read_signed
from tightframe.knowledge.facts import write_report

RESULTS = "results"
VERDICTS = "verdicts.json"
QUESTIONS = "questions.parquet"
TABLES = ("runs", "timings", "asked", "scores", "differences")  # of the results, as CSV


class _Verdicts(Record):
    """What verdicts.json holds."""

    verdicts: tuple[dict[str, Any], ...]
    tables: dict[FileName, Sha256]  # of the tables beside it
    fingerprint: str


def write_verdicts(folder: Path, verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Write verdicts.json for a folder whose tables are written, with their digests.

    The timings have none: verdicts made again are the same bytes.
    """
    names = (QUESTIONS, *(f"{table}.csv" for table in TABLES if table != "timings"))
    digests = {name: sha256(folder / name) for name in names if (folder / name).is_file()}
    write_report(folder / VERDICTS, {"verdicts": verdicts, "tables": digests})


def read_verdicts(folder: Path) -> tuple[dict[str, Any], ...]:
    """Return the verdicts of a folder of results; a table that has changed since is refused."""
    remedy = "run `tightframe knowledge study` again"
    about: _Verdicts = read_signed(folder / VERDICTS, _Verdicts, remedy=remedy)
    for name, digest in about.tables.items():
        check_digest(folder / name, digest)
    return about.verdicts
