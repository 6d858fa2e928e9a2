"""Rows: one measured number each. Studies write them; statistics, figures and pages only read them.

A results file is JSON lines: a header (what was measured, by what, with which settings), then one
row per line. A checkpoint has one for each measurement key; it is always replaced whole.
"""

import abc
import csv
import dataclasses
import html
import json
import math
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from tightframe.errors import UserError, printable
from tightframe.files import check_file, fingerprint, read_text, whole_file, write_text
from tightframe.formats import Count, Record, parse_json

if TYPE_CHECKING:
    import pandas as pd

PRENORM = -1  # the layer after the last block and before the final norm
KEY = ("run", "step", "split", "layer", "labels", "subset", "metric", "min_count")
# What of a header's measurement makes values differ, and what it is where the header has none.
WAY = {"precision": "fp32", "skip_positions": 0, "skip_special": False}
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # also behind apostrophes, so that reading is exact
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


# NaN and the infinities are null, "inf" and "-inf" in a file.
Number = Annotated[float, pydantic.BeforeValidator(lambda value: _NUMBERS.get(str(value), value))]
_NUMBERS = {"None": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured number."""

    run: str  # name of the run directory
    step: Count  # optimizer steps taken by the measured checkpoint
    split: str  # "train" or "val"
    layer: int  # 0 is the input embedding; the last is what the classifier multiplies; or PRENORM
    labels: str  # what a class is: "next", "current", "support", "fact"
    subset: str  # "all", a frequency stratum, a list of words
    metric: str  # the name of a Measure, e.g. "nc1_cdnv"
    value: Number
    n: Count  # how many things were averaged (tokens, classes, pairs, questions)
    min_count: Count  # samples that a class needed to take part
    excluded: Count  # classes or pairs left out
    low: Number = math.nan  # 95 % interval
    high: Number = math.nan
    centre: Number = math.nan  # the estimate that the interval is of, without small counts' bias
    resampled: str = ""  # what the interval resamples: "documents", "runs", "facts"
    reason: str = ""  # why things were left out or there is no value, and what to beware of
    documents: Count = 0  # of the split that was measured; 0 where they are not counted

    @property
    def shown(self) -> float:
        """The number to show beside the interval: its centre, or the value if there is none."""
        return self.value if math.isnan(self.centre) else self.centre


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of a results file: model, tokens, settings and measurement."""

    run: str
    step: Count
    model: dict[str, Any]  # name, n_parameters, vocab_size, width, tied, ...
    tokens: dict[str, Any]  # name, fingerprint, counts, entropy_floor where known
    settings: dict[str, Any]  # the training run's resolved settings; empty for a foreign model
    measurement: dict[str, Any]  # min_count, batch, dtype, device, threads, seed
    version: str = ""
    created: str = ""
    machine: str = ""


_REMEDY = "measure again"


class _FirstLine(Record):
    header: Header
    fingerprint: str  # of the header and all rows


def write_rows(path: Path, header: Header, rows: Sequence[Row]) -> None:
    """Write a results file whole; NaN and infinities become null and "inf" (strict JSON)."""
    stamped = dataclasses.replace(
        header,
        version=version("tightframe"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    lines = [{key: _jsonable(value) for key, value in vars(row).items()} for row in rows]
    made = dataclasses.asdict(stamped)
    first = {"header": made, "fingerprint": fingerprint([made, lines])}
    text = (json.dumps(line, allow_nan=False) + "\n" for line in [first, *lines])
    write_text(path, "".join(text))


def read_header(path: Path) -> Header:
    """Return the header of a results file, whose rows are not looked at."""
    check_file(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    first: _FirstLine = parse_json(line, _FirstLine, source=f"{path}:1", remedy=_REMEDY)
    return first.header


def read_rows(path: Path) -> tuple[Header, list[Row]]:
    """Return the header and the rows of a results file."""
    lines = read_text(path).split("\n")
    first = parse_json(lines[0], _FirstLine, source=f"{path}:1", remedy=_REMEDY)
    rows = [
        parse_json(line, Row, source=f"{path}:{number}", remedy=_REMEDY)
        for number, line in enumerate(lines[1:-1], start=2)
    ]
    content = [json.loads(line) for line in lines[:-1]]
    if lines[-1] or fingerprint([content[0]["header"], content[1:]]) != first.fingerprint:
        raise UserError(f"{path}: damaged or changed since it was written; {_REMEDY}")
    return first.header, rows


def write_csv(path: Path, table: "pd.DataFrame", *, float_format: str | None = None) -> None:
    """Write a table whole or not at all; the same table gives the same bytes.

    A text that a spreadsheet would take for a formula, because it begins with =, +, -, @, a tab or
    a carriage return, gets an apostrophe in front, which `read_csv` takes away. Numbers have none.
    """
    safe = _of_texts(table, _no_formula)
    texts = safe.select_dtypes(exclude=["number", "bool"])
    # The csv module leaves a lone carriage return bare, which readers take for the end of a line.
    returns = any("\r" in str(value) for name in texts for value in texts[name])
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    with whole_file(path) as temporary:
        safe.to_csv(
            temporary, index=False, lineterminator="\n", float_format=float_format, quoting=quoting
        )


def read_csv(path: Path, **how: Any) -> "pd.DataFrame":
    """Read a table of `write_csv`, with its texts as they were; `how` is for pandas."""
    import pandas as pd

    return _of_texts(pd.read_csv(path, encoding="utf-8", **how), _no_apostrophe)


def _of_texts(table: "pd.DataFrame", change: Callable[[Any], Any]) -> "pd.DataFrame":
    table = table.copy(deep=False)
    for name in table.select_dtypes(exclude=["number", "bool"]):
        table[name] = table[name].map(change, na_action="ignore")
    return table


def _no_formula(value: Any) -> Any:
    is_text = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_text else value


def _no_apostrophe(value: Any) -> Any:
    is_quoted = isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value)
    return value[1:] if is_quoted else value


def gather(paths: Iterable[Path]) -> "pd.DataFrame":
    """Return all rows of several files as one table, one column per field.

    Several files may hold the same value, measured in the same way but for what changes no value
    (groups of documents, other classes, projections of other layers): the row that has an interval
    is kept, if one has. Two files of one measurement, and values that differ, are refused.

    The header's settings and the model's facts become columns `set_*` and `model_*`; the name and
    the fingerprint of the tokens and the entropy of their frequencies `tokens_*`; what else tells
    values apart, `WAY`, and the number of groups of documents `measured_*`.
    """
    import pandas as pd

    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    held: dict[tuple[Any, ...], tuple[Path, Row, Any]] = {}
    for path in paths:
        header, rows = read_rows(path)
        tokens, measurement = header.tokens, header.measurement
        way = {name: measurement.get(name, usual) for name, usual in WAY.items()}
        extra = {
            "tokens_name": tokens.get("name", ""),
            "tokens_fingerprint": tokens.get("fingerprint", ""),
            "tokens_unigram_entropy": tokens.get("unigram_entropy", math.nan),
            **{f"set_{name}": _cell(value) for name, value in header.settings.items()},
            **{f"model_{name}": _cell(value) for name, value in header.model.items()},
            **{f"measured_{name}": value for name, value in way.items()},
            "measured_groups": measurement.get("groups", 1),
        }
        for row in rows:
            key = *(getattr(row, name) for name in KEY), extra["tokens_fingerprint"], *way.values()
            if key in held:
                earlier, other, measured = held[key]
                if measured == measurement.get("key") or not _close(row.value, other.value):
                    raise UserError(
                        f"{path}: {row.metric} of {row.run} at step {row.step} is also in "
                        f"{earlier}; keep one of the two files"
                    )
                if math.isnan(row.low) or not math.isnan(other.low):
                    continue
            held[key] = path, row, measurement.get("key")
            records[key] = vars(row) | extra
    if not records:
        raise UserError("no results files found; run `tightframe measure` first")
    return pd.DataFrame(list(records.values()))


def check_savable(path: Path) -> None:
    """Refuse a file whose name says of no format that a result is saved in."""
    if path.suffix not in (".csv", ".parquet", ".json", ".jsonl"):
        raise UserError(
            f"{path}: cannot be saved as '{path.suffix}'; expected a name that ends in "
            ".csv, .parquet, .json or .jsonl"
        )


class ResultTable(abc.ABC):
    """Base of every study's result: a table with a one-line summary, for notebooks and files."""

    SHOWN_ROWS: ClassVar[int] = 60  # of the table in a notebook; the middle of a longer one is cut

    @property
    @abc.abstractmethod
    def one_line(self) -> str:
        """One line that says what the result is of, and its most important number."""

    @abc.abstractmethod
    def to_pandas(self) -> "pd.DataFrame":
        """Return the result as a table, one row per number or per thing that was measured."""

    def save(self, path: str | Path) -> Path:
        """Write the table to a file, whole or not at all, in the format of its suffix.

        Args:
            path: A file that ends in .csv, .parquet, .json (a list of records) or .jsonl (one
                record per line). NaN is null in JSON, infinities are "inf" and "-inf".

        Returns:
            The path of the file.
        """
        path = Path(path)
        check_savable(path)
        table = self.to_pandas()
        if path.suffix == ".csv":
            write_csv(path, table)
        elif path.suffix == ".parquet":
            with whole_file(path) as temporary:
                table.to_parquet(temporary, index=False)
        else:
            records = [
                {str(name): _jsonable(value) for name, value in record.items()}
                for record in table.astype(object).where(table.notna(), None).to_dict("records")
            ]
            lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
            is_list = path.suffix == ".json"
            text = f"[{', '.join(lines)}]\n" if is_list else "".join(f"{line}\n" for line in lines)
            write_text(path, text)
        return path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({printable(self.one_line)})"

    def _repr_html_(self) -> str:
        table = self.to_pandas().to_html(
            index=False, escape=True, max_rows=self.SHOWN_ROWS, float_format="{:.4g}".format
        )
        return f"<p>{html.escape(repr(self))}</p>\n{table}"


def _close(one: float, other: float) -> bool:
    """Tell whether two values are equal but for the rounding of a float32 pass; NaN equals NaN."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
