"""The result of a measurement: measured values by name, as a table, in words and as a picture."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tightframe.errors import nearest
from tightframe.geometry.measures import MEASURES, ROBUST
from tightframe.geometry.summary import HEADLINES, lines_of_summary
from tightframe.geometry.values import Value
from tightframe.geometry.views import best_form, counted
from tightframe.lm.interface import PRENORM
from tightframe.results import Header, ResultTable, Row

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RowKey: TypeAlias = tuple[str, int, str, str, int]


def key_of(row: Row) -> RowKey:
    """Return labels, layer, subset, metric and minimum count: what tells rows of a file apart."""
    return row.labels, row.layer, row.subset, row.metric, row.min_count


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Measurement(ResultTable):
    """Measured geometry of one checkpoint: a value for each measure, layer and kind of labels.

    `result["nc1_cdnv_p2"]` is the value at the last layer, of the first labels, over all classes;
    `result.at(layer=0)["nc1_cdnv_p2"]` is another one.
    """

    headers: Mapping[str, Header]  # what the rows were made from, by labels
    rows: tuple[Row, ...]
    paths: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # results files, by labels
    random: Mapping[RowKey, float] = dataclasses.field(default_factory=dict)  # control's values
    chosen: bool = False  # the measures were named by the user
    n_computed: int = 0  # rows that no results file held before

    @property
    def header(self) -> Header:
        """Header of the first labels: model, tokens, settings and measurement."""
        return next(iter(self.headers.values()))

    @property
    def path(self) -> Path | None:
        """Results file of the first labels; None if nothing was written."""
        return next(iter(self.paths.values()), None)

    @property
    def layers(self) -> list[int]:
        """Measured layers, from the input embedding to the last; -1 is before the final norm."""
        return list(dict.fromkeys(row.layer for row in self.rows))

    def at(
        self, *, layer: int | None = None, labels: str | None = None, subset: str | None = None
    ) -> "Measurement":
        """Return the part of the measurement at one layer, of one kind of labels, or of a subset.

        Args:
            layer: Number of the layer; -1 is the stream before the final norm.
            labels: "next", "current" or "shuffled".
            subset: "all", or the name of a frequency stratum.
        """
        wanted = {"layer": layer, "labels": labels, "subset": subset}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        for name, value in wanted.items():
            known = list(dict.fromkeys(getattr(row, name) for row in self.rows))
            if value not in known:
                raise KeyError(f"no {name} {value!r} was measured; there are {known}")
        rows = tuple(
            row for row in self.rows if all(getattr(row, n) == v for n, v in wanted.items())
        )
        found = {row.labels for row in rows}
        headers = {name: header for name, header in self.headers.items() if name in found}
        return dataclasses.replace(self, rows=rows, headers=headers)

    def __getitem__(self, metric: str) -> Value:
        """Return the value at the last layer, of the first labels, over the first subset."""
        found = [row for row in self.rows if row.metric == metric]
        if not found:
            names = dict.fromkeys(row.metric for row in self.rows)
            raise KeyError(f"{metric!r} was not measured{nearest(metric, names)}")
        first = [
            row for row in found if (row.labels, row.subset) == (found[0].labels, found[0].subset)
        ]
        return value_of(first[-1])

    def __contains__(self, metric: str) -> bool:
        return any(row.metric == metric for row in self.rows)

    @property
    def one_line(self) -> str:
        """Model, text, number of values and the most telling one."""
        of = self.header
        step = f" at step {of.step}" if of.step or of.settings else ""
        telling = [name for name in ROBUST if name in self]
        value = f", {telling[0]} {self[telling[0]].text}" if telling else ""
        return f"{of.run}{step} on {of.tokens['name']}: {len(self.rows)} values{value}"

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per value: labels, layer, subset, metric, value, interval and reason."""
        import pandas as pd

        return pd.DataFrame([vars(row) for row in self.rows])

    def summary(self, *, full: bool = False, width: int = 80) -> str:
        """Return the measurement as text for readers: values by property, notes, and in words.

        Args:
            full: Show every number, not only those of the two views.
            width: Characters per line.
        """
        parts = []
        for labels, header in self.headers.items():
            rows = [row for row in self.rows if row.labels == labels]
            control = {
                key_of(row)[1:4]: self.random[key_of(row)]
                for row in rows
                if key_of(row) in self.random
            }
            lines = lines_of_summary(
                header, rows, control, full=full, chosen=self.chosen, width=width
            )
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def plot(self, *measures: str, ax: "Axes | None" = None) -> "Axes":
        """Draw values with their 95 % intervals: over the layers if there are several.

        Args:
            measures: Names; by default the first headline over layers, or those of the robust
                view at one layer.
            ax: Axes to draw on; new ones by default.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        counts = counted(self.rows)
        usual = list(dict.fromkeys(best_form(name, counts) for name in HEADLINES))
        if len(self.layers) > 1:
            names = measures or [name for name in usual if name in self][:1]
            _draw_profiles(self, names, ax)
        else:
            robust = list(dict.fromkeys(best_form(name, counts) for name in ROBUST))
            _draw_values(self, measures or [name for name in robust if name in self], ax)
        return ax


def value_of(row: Row) -> Value:
    """Return the measured value of a row."""
    names = [field.name for field in dataclasses.fields(Value)]
    return Value(**{name: getattr(row, name) for name in names})


def _draw_profiles(of: Measurement, names: Any, ax: "Axes") -> None:
    """Draw one line per measure and kind of labels over the layers."""
    places = {layer: place for place, layer in enumerate(of.layers)}
    for name in names:
        for labels in of.headers:
            subset = next(row.subset for row in of.rows if row.metric == name)
            rows = [
                row
                for row in of.rows
                if (row.metric, row.labels, row.subset) == (name, labels, subset)
            ]
            label = name if len(of.headers) == 1 else f"{name}, {labels}"
            _draw(ax, [places[row.layer] for row in rows], rows, label=label, line="-")
    ax.set_xticks(
        list(places.values()), ["prenorm" if layer == PRENORM else str(layer) for layer in places]
    )
    ax.set_xlabel("layer")
    if len(names) == 1:
        ax.set_ylabel(names[0])
    if len(names) * len(of.headers) > 1:
        ax.legend()


def _draw_values(of: Measurement, names: Any, ax: "Axes") -> None:
    """Draw one dot per measure with a bar for its interval."""
    rows = [next(row for row in of.rows if row.metric == name) for name in names]
    known = {measure.name: measure.direction for measure in MEASURES}
    for place, row in enumerate(rows):
        low, high = (row.low, row.high) if row.low == row.low else (row.shown, row.shown)
        ax.plot([low, high], [place, place], color="C0")
        ax.plot([row.shown], [place], "o", color="C0")
    ax.set_yticks(range(len(rows)), [f"{name} ({known.get(name, '-')})" for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("value, with its 95 % interval (direction of collapse in parentheses)")


def _draw(ax: "Axes", at: Any, rows: Any, *, label: str, line: str) -> None:
    (drawn,) = ax.plot(at, [row.shown for row in rows], f"o{line}", label=label)
    ax.fill_between(
        at,
        [row.low for row in rows],
        [row.high for row in rows],
        color=drawn.get_color(),
        alpha=0.2,
        linewidth=0,
    )
