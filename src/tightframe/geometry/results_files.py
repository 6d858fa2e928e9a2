"""What the results files of a checkpoint hold of a request, and what they lack.

A checkpoint has one results file for each measurement key (labels, and all options that change
numbers). It is replaced whole by the union of what it held and what was computed.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.files import fingerprint
from tightframe.geometry.measurement import RowKey, key_of
from tightframe.geometry.measures import MEASURES, choose
from tightframe.geometry.options import PREFIXES, Labels, MeasureOptions
from tightframe.geometry.passes import LabelRequest, parse_layers
from tightframe.geometry.rows import least_count
from tightframe.geometry.subject import SharedClasses, Subject
from tightframe.lm.hardware import ProcessGroup
from tightframe.results import Header, Row, read_header, read_rows, write_rows


@dataclasses.dataclass(frozen=True, eq=False)
class RunContext:
    """Model, tokens and options of one measurement."""

    subject: Subject
    shards: TokenShards
    options: MeasureOptions  # settled
    ood: TokenShards | None
    shared_with: TokenShards | None
    shared: SharedClasses | None
    world: ProcessGroup
    say: Callable[[str], None]

    @property
    def whole(self) -> str:
        """Subset of the rows that are over all classes that take part."""
        return "all" if self.shared is None else self.shared.subset

    def request(self, labels: Labels) -> LabelRequest:
        """Return all that is requested of one kind of labels."""
        options = self.options
        return LabelRequest(
            options,
            labels,
            layers=parse_layers(options.layers, self.subject.model),
            measures=choose(options.measures),
            compat=tuple(options.compat) if labels == options.labels[0] else (),
            ood=None if self.ood is None else self.ood.fingerprint,
            shared_with=None if self.shared_with is None else self.shared_with.fingerprint,
        )


class Labelling:
    """One kind of labels of a measurement: what is requested, and what its results file holds."""

    def __init__(self, context: RunContext, labels: Labels) -> None:
        subject = context.subject
        self.request = context.request(labels)
        content = [subject.weights, context.shards.fingerprint, self.request.key]
        self.key = fingerprint([subject.name, *content])
        self.path = subject.folder / "results" / f"step-{subject.step}-{self.key}.jsonl"
        self.header: Header | None = None
        self.rows: list[Row] = []
        self.n_computed = 0
        self.read()
        self.missing = self._missing(context)

    def read(self) -> None:
        """Read the results file, if there is one."""
        if self.path.exists():
            self.header, self.rows = read_rows(self.path)

    def _missing(self, context: RunContext) -> LabelRequest | None:
        """Return the request with the layers and measures that the file lacks; None if none."""
        request, depth = self.request, context.subject.model.depth
        config = request.config(context.shared)
        dims = config.stream(context.subject, context.shards.split("train")).dims(request.layers)
        held: dict[tuple[int, str, int], set[str]] = {}
        for row in self.rows:
            held.setdefault((row.layer, row.metric, row.min_count), set()).add(row.subset)
        fewest = 2 if request.options.by_frequency else 1  # there is at least one stratum
        lacking = {
            (layer, one.name)
            for layer in request.layers
            for one in request.of_layer(
                last=layer == depth,
                dual=config.projection is not None or dims[layer] == dims[depth],
            )
            if len(held.get((layer, one.name, least_count(one, request.min_count)), ())) < fewest
        }
        found = {metric.partition(".")[0] for _, metric, _ in held if "." in metric}
        tables = tuple(table for table in request.compat if PREFIXES[table] not in found)
        loss = request.labels == "next" and not any(name == "val_loss" for _, name, _ in held)
        if not (lacking or tables or loss):
            return None
        layers = {layer for layer, _ in lacking} | {depth}
        names = {name for _, name in lacking}
        return dataclasses.replace(
            request,
            layers=tuple(layer for layer in request.layers if layer in layers),
            measures=tuple(one for one in request.measures if one.name in names),
            compat=tables,
        )

    def add(self, header: Header, rows: Sequence[Row]) -> None:
        """Write the union of what the file holds and of new rows."""
        held = {key_of(row) for row in self.rows}
        new = [row for row in rows if key_of(row) not in held]
        header.measurement["key"] = self.key
        if self.header is not None:
            header.measurement["sinks"] = (
                header.measurement["sinks"] or self.header.measurement["sinks"]
            )
        write_rows(self.path, header, [*self.rows, *new])
        self.n_computed = len(new)


def refuse_other_weights(subject: Subject) -> None:
    """Refuse a folder with results of other weights that go by the same name and step."""
    for path in sorted((subject.folder / "results").glob(f"step-{subject.step}-*.jsonl")):
        header = read_header(path)
        weights = header.measurement.get("weights", subject.weights)
        if header.run == subject.name and weights != subject.weights:
            raise UserError(
                f"{path}: is of other weights that go by the name {subject.name} at step "
                f"{subject.step}; say with `out` where this model's results should go, or rename "
                "its folder, so that one report can show both"
            )


def requested_rows(rows: Sequence[Row], request: LabelRequest) -> list[Row]:
    """Return the rows that were requested, by layer, subset and measure."""
    wanted = {(one.name, least_count(one, request.min_count)) for one in request.measures}
    prefixes = {PREFIXES[table] for table in request.compat}
    order = {measure.name: place for place, measure in enumerate(MEASURES)}
    kept = [
        row
        for row in rows
        if row.layer in request.layers
        and (request.options.by_frequency or "count " not in row.subset)
        and (
            (row.metric, row.min_count) in wanted
            # What is no measure is a loss or its floor: they are always told.
            or (row.metric not in order and "." not in row.metric)
            or row.metric.partition(".")[0] in prefixes
        )
    ]
    subsets = list(dict.fromkeys(row.subset for row in sorted(kept, key=_is_stratum)))
    return sorted(
        kept,
        key=lambda row: (
            request.layers.index(row.layer),
            subsets.index(row.subset),
            order.get(row.metric, len(order)),
        ),
    )


def _is_stratum(row: Row) -> bool:
    return "count " in row.subset


def control_values(labelling: Labelling) -> dict[RowKey, float]:
    """Return the values of the randomly initialized control, where it was measured in this way.

    The control may have been measured in other groups.
    """
    assert labelling.header is not None
    tokens = labelling.header.tokens.get("fingerprint")
    key = {name: value for name, value in labelling.request.key.items() if name != "groups"}
    found: dict[RowKey, float] = {}
    for file in sorted(labelling.path.parent.parent.glob("random-*/results/*.jsonl")):
        header, rows = read_rows(file)
        same = all(header.measurement.get(name, math.nan) == value for name, value in key.items())
        if same and header.tokens.get("fingerprint") == tokens:
            for row in rows:
                found.setdefault(key_of(row), row.value)
    return found
