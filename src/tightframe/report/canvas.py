"""What all figures for print share: their looks, an empty figure of panels, and how one is written.

The same drawing gives the same bytes: nothing here depends on the machine or the day.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tightframe.files import whole_file

INK, SOFT, GRID = "#1d1e22", "#595c64", "#eeece7"
STYLE: dict[Any, Any] = {  # for `mpl.rc_context`, around all drawing
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "pdf.fonttype": 42,  # letters stay text, so that they can be searched and edited
}
SMALL_COLUMNS = 3  # of small panels


def blank(width: float, height: float, *, dpi: int = 200) -> Figure:
    """An empty figure, in inches, that finds room for titles and legends by itself."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small_panels(n: int, *, legend: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of `n` small panels in reading order, with so many inches for a legend below."""
    columns = min(SMALL_COLUMNS, n)
    lines = -(-n // columns)
    figure = blank(2.9 * columns, 2.6 * lines + legend)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for place in axes[n:]:
        place.remove()
    return figure, axes[:n]


def round_log_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5, written as they are."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def settle(figure: Figure) -> None:
    """Lay a figure out once: it is not done again for every file."""
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; its bytes hold no date and no name of a program."""
    stamp = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    with mpl.rc_context(STYLE), whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=stamp)


def save_for_print(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png`."""
    files = [folder / f"{name}.{kind}" for kind in ("pdf", "png")]
    for file in files:
        save(figure, file)
    return files
