"""What was asked of a measurement, wherever it is written: no row is written twice."""

from pathlib import Path

from tightframe.collapse.asked import Asked, parse_layers
from tightframe.collapse.compat import PREFIXES
from tightframe.collapse.measures import MEASURES, choose
from tightframe.collapse.study import least_count
from tightframe.results import Header, Row, read_rows


def answers(path: Path, asked: Asked) -> tuple[Header, list[Row]]:
    """The rows that were asked for, from this file and earlier ones measured in the same way.

    Args:
        path: What `measure_run` returned.
        asked: What it was asked for.

    Returns:
        The header of `path`, and rows by layer, subset and measure.
    """
    header, _ = read_rows(path)
    rows: dict[tuple[object, ...], Row] = {}
    for file in (path, *sorted(path.parent.glob(f"step-{header.step}-*.jsonl"))):
        other, found = read_rows(file)
        if _kind(other, asked) == _kind(header, asked):
            for row in found:
                rows.setdefault((row.layer, row.subset, row.metric, row.min_count), row)
    layers = parse_layers(asked.layers, max(layer for layer, *_ in rows))
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

    return header, sorted(kept, key=place)


def _kind(header: Header, asked: Asked) -> tuple[object, ...]:
    """What two files share if they hold values of the same things."""
    way = (header.measurement.get(name) for name in asked.way)
    return header.run, header.tokens.get("fingerprint"), *map(str, way)
