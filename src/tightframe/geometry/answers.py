"""What was asked of a measurement, wherever it is written: no row is written twice."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry.asked import Asked
from tightframe.geometry.checks import PREFIXES, layer_names
from tightframe.geometry.measures import MEASURES, choose
from tightframe.geometry.rows import least_count
from tightframe.geometry.subject import Subject
from tightframe.lm.interface import PRENORM
from tightframe.results import Header, Row, read_rows

Key: TypeAlias = tuple[int, str, str, int]  # layer, subset, metric, minimum count
Control: TypeAlias = Mapping[tuple[int, str, str], float]  # by layer, subset and measure


def answers(path: Path, asked: Asked) -> tuple[Header, list[Row]]:
    """The rows that were asked for, from this file and earlier ones measured in the same way.

    Args:
        path: What `measure_run` returned.
        asked: What it was asked for, with its own labels or with some that it took `also`.

    Returns:
        The header of these labels, and rows by layer, subset and measure.
    """
    header, _ = read_rows(path)
    header.measurement["labels"] = asked.labels
    headers: list[Header] = []
    rows: dict[Key, Row] = {}
    for file in (path, *sorted(path.parent.glob(f"step-{header.step}-*.jsonl"))):
        other, found = read_rows(file)
        if _kind(other, asked) == _kind(header, asked):
            headers.append(other)
            for row in found:
                rows.setdefault(key_of(row), row)
    layers = _layers(asked.layers, {row.layer for row in rows.values()})
    least = {one.name: least_count(one, asked.min_count) for one in choose(asked.measures)}
    prefixes = {PREFIXES[table] for table in asked.compat}
    order = {measure.name: place for place, measure in enumerate(MEASURES)}

    def wanted(row: Row) -> bool:
        if row.layer not in layers or (row.subset.startswith("count ") and not asked.by_frequency):
            return False
        table, dot, _ = row.metric.partition(".")
        if dot:
            return table in prefixes
        # What is no measure is a loss or its floor: they are always told.
        return row.metric not in order or row.min_count == least.get(row.metric)

    kept = [row for row in rows.values() if wanted(row)]
    subsets = list(dict.fromkeys(["all", *(row.subset for row in kept)]))

    def place(row: Row) -> tuple[int, ...]:
        return (
            layers.index(row.layer),
            subsets.index(row.subset),
            order.get(row.metric, len(order)),
        )

    return headers[0], sorted(kept, key=place)


def earlier_rows(subject: Subject, shards: TokenShards, asked: Asked) -> dict[Key, Path]:
    """What other files of this checkpoint and these tokens hold, measured in the same way."""
    found: dict[Key, Path] = {}
    for path in sorted((subject.folder / "results").glob(f"step-{subject.step}-*.jsonl")):
        header, rows = read_rows(path)
        same = header.run == subject.name
        if same and header.measurement.get("weights", subject.weights) != subject.weights:
            raise UserError(
                f"{path}: is of other weights that go by the name {subject.name} at step "
                f"{subject.step}; say with `out` where this model's results should go, or rename "
                "its folder, so that one report can show both"
            )
        same &= header.tokens.get("fingerprint") == shards.fingerprint
        other = {name for name, value in asked.way.items() if header.measurement.get(name) != value}
        if same and not other - {"project"}:
            # The last layer is never projected, so its rows are the same either way.
            depth = subject.model.depth
            found |= {key_of(row): path for row in rows if not other or row.layer == depth}
    return found


def nothing_left(earlier: Mapping[Key, Path], asked: Asked) -> Path | None:
    """The file that holds the first measure, where every one was measured at the last layer."""
    if asked.layers != "last" or asked.by_frequency or asked.compat:
        return None
    held = {
        (metric, least): path
        for (_, subset, metric, least), path in earlier.items()
        if subset == "all"
    }
    wanted = [(one.name, least_count(one, asked.min_count)) for one in asked.of_layer(last=True)]
    return held[wanted[0]] if all(each in held for each in wanted) else None


def key_of(row: Row) -> Key:
    """Return what tells the rows of one measurement apart."""
    return row.layer, row.subset, row.metric, row.min_count


def control_values(path: Path, asked: Asked, rows: Sequence[Row]) -> Control:
    """Return the values that the model with random weights has instead, where it was measured.

    Args:
        path: What `measure_run` returned.
        asked: What it was asked for; the control may have been measured in other groups.
        rows: The model's own.
    """
    header, _ = read_rows(path)
    ungrouped = dataclasses.replace(asked, groups=1)
    found: dict[Key, float] = {}
    for file in sorted(path.parent.parent.glob("random-*/results/*.jsonl")):
        other, others = read_rows(file)
        other.measurement["groups"] = 1
        other = dataclasses.replace(other, run=header.run)
        if _kind(other, ungrouped)[:2] == _kind(header, ungrouped)[:2] and all(
            str(other.measurement.get(name)) == str(value) for name, value in ungrouped.way.items()
        ):
            for row in others:
                found.setdefault(key_of(row), row.value)
    keys = [key_of(row) for row in rows]
    return {key[:3]: found[key] for key in keys if key in found}


def _layers(spec: str, held: set[int]) -> list[int]:
    """Those of the specification, in the order of the stream; the last is always one of them."""
    depth = max(held)
    if spec == "all":
        wanted = held
    else:
        named = {"last": depth, "prenorm": PRENORM}
        wanted = {depth} | {
            named[name] if name in named else int(name) for name in layer_names(spec)
        }
    return sorted(wanted, key=lambda layer: (depth - 0.5) if layer == PRENORM else layer)


def _kind(header: Header, asked: Asked) -> tuple[object, ...]:
    """What two files share if they hold values of the same things."""
    way = (header.measurement.get(name) for name in asked.way)
    return header.run, header.tokens.get("fingerprint"), *map(str, way)
