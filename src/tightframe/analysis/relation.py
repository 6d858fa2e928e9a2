"""What relating models asks for and what it returns: `RelateOptions` and `Relation`."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from tightframe.analysis.design import Excluded
from tightframe.analysis.options import RelateOptions
from tightframe.files import fingerprint
from tightframe.multiple_testing import adjusted
from tightframe.results import ResultTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 8  # measures of one verdict in a sentence
CONTROLS = "controls alone"  # column of predictions
# Beginning of the flags of a coefficient of variation whose denominator is near 0.
DENOMINATOR = "the mean that it divides by"
Verdict = Literal["supported", "contradicted", "no association", "inconclusive", "undefined"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Relation(ResultTable):
    """Correlations of measures with y across models, and their verdicts.

    Attributes:
        table: One row per measure, with the columns that `docs/guide/study.md` explains.
        options: What was asked and decided before.
        n_rows: Number of rows that are used.
        n_clusters: Number of clusters of the first level.
        possible: Number of ways to permute them; inf where they are too many to count.
        detectable: Smallest absolute correlation that this design finds with 80 % power.
        collinear: Controls that other controls explain.
        excluded: Rows and measures that were left out, with the reason.
        strata: Correlations inside each stratum, one row per measure; empty without `within`.
        points: The rows that are used: y, each measure, and `size`, the number of parameters where
            the table has it.
        models: The same rows with all columns of the table.
        outcomes: Columns of `models` that can be explained: y, other losses, other scores.
        predictions: Value of y predicted by a fit to the other families: a column `CONTROLS`
            and one per measure, which is added to them; empty without `family`.
    """

    table: pd.DataFrame
    options: RelateOptions
    n_rows: int
    n_clusters: int
    possible: float
    detectable: float
    collinear: list[str]
    excluded: list[Excluded]
    strata: pd.DataFrame
    points: pd.DataFrame
    models: pd.DataFrame
    outcomes: list[str]
    predictions: pd.DataFrame

    @property
    def digest(self) -> str:
        """Digest of the options: equal ones were decided equally."""
        return fingerprint(dataclasses.asdict(self.options))

    @property
    def one_line(self) -> str:
        """Number of measures with each verdict."""
        counts = self.table["verdict"].value_counts()
        words = ", ".join(f"{counts[name]} {name}" for name in counts.index)
        return (
            f"{len(self.table)} measures against {self.options.y} over {self.n_rows} rows: {words}"
        )

    @property
    def conclusion(self) -> str:
        """Two sentences: what was found, from the verdicts alone, and what could not be found."""
        names_held = " and ".join(self.options.controls + self.options.fixed)
        held = f", with {names_held} held fixed" if names_held else ""
        parts = []
        for verdict, words in _WORDS.items():
            names = self.table.loc[self.table["verdict"] == verdict, "measure"].tolist()
            if names:
                more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
                listed = ", ".join(names[:MOST_NAMED]) + more
                verb, noun = ("is", "has") if len(names) == 1 else ("are", "have")
                said = words.format(y=self.options.y, are=verb, have=noun)
                parts.append(f"{len(names):,} {said} ({listed})")
        measures = f"{len(self.table):,} measure{'s' if len(self.table) > 1 else ''}"
        found = f"Of {measures}{held}, {'; '.join(parts)}."
        clusters = f"With {self.n_clusters:,} clusters"
        if math.isnan(self.detectable):
            return f"{found} {clusters}, no correlation can be told from chance."
        some = (self.table["verdict"] == "inconclusive").any()
        beware = ": inconclusive does not mean unrelated" if some else ""
        return (
            f"{found} {clusters}, correlations below {self.detectable:.2f} are missed more often "
            f"than one time in five{beware}."
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per measure."""
        return self.table

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "conclusion": self.conclusion,
            "options": dataclasses.asdict(self.options),
            "digest": self.digest,
            "n": self.n_rows,
            "clusters": self.n_clusters,
            "possible_permutations": self.possible,
            "detectable_r": self.detectable,
            "collinear": self.collinear,
            "excluded": [one._asdict() for one in self.excluded],
            "rows": self.table.to_dict("records"),
            "strata": self.strata.to_dict("records"),
        }

    def plot(self) -> "Figure":
        """Draw each correlation with its interval, before and after the controls."""
        from matplotlib.figure import Figure

        controlled = self.table["partial_r"].notna().any()
        figure = Figure(figsize=(7, 1.2 + 0.35 * len(self.table)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.axvspan(-self.options.margin, self.options.margin, color="0.93")
        kinds = [("r", "low", "high", "o", "plain")]
        if controlled:
            kinds.append(("partial_r", "partial_low", "partial_high", "s", "controls held fixed"))
        for offset, (value, low, high, marker, label) in zip((-0.12, 0.12), kinds, strict=False):
            place = np.arange(len(self.table)) + (offset if controlled else 0)
            r = self.table[value].to_numpy(float)
            ends = self.table[[low, high]].to_numpy(float)
            bars = np.abs(ends.T - r)
            axes.errorbar(r, place, xerr=np.nan_to_num(bars), fmt=marker, label=label, markersize=4)
        axes.set_yticks(np.arange(len(self.table)), self.table["measure"])
        axes.invert_yaxis()
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel(f"correlation with {self.options.y}")
        if controlled:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        return figure

    def scatter(self, *, log: bool = False) -> "Figure":
        """Draw y against each measure, with the least-squares line and R^2 (Figures 1 to 3).

        Args:
            log: Draw positive measures on a logarithmic axis, with the line of their logarithms.
        """
        from matplotlib.figure import Figure

        names = self.table.loc[self.table["r"].notna(), "measure"].tolist()
        columns = min(4, max(1, len(names)))
        lines = max(1, math.ceil(len(names) / columns))
        figure = Figure(figsize=(3 * columns, 2.6 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        sizes = np.log10(self.points["size"]) if self.points["size"].notna().all() else None
        for axes, name in zip(grid, names, strict=False):
            x, y = self.points[[name, self.options.y]].dropna().to_numpy(float).T
            drawn = log and x.min() > 0
            used = self.points[name].notna()
            shades = {} if sizes is None else {"c": sizes[used], "cmap": "viridis"}
            dots = axes.scatter(x, y, s=12, linewidths=0, **shades)
            slope, intercept = np.polyfit(np.log(x) if drawn else x, y, 1)
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, slope * (np.log(ends) if drawn else ends) + intercept, color="0.4")
            r = self.table.set_index("measure").loc[name, "r_log" if drawn else "r"]
            axes.set_title(f"$R^2$ = {r * r:.3f}", fontsize="medium")
            axes.set_xscale("log" if drawn else "linear")
            axes.set_xlabel(name)
        for axes in grid[::columns]:
            axes.set_ylabel(self.options.y)
        for axes in grid[len(names) :]:
            axes.axis("off")
        if sizes is not None and names:
            figure.colorbar(dots, ax=list(grid), label="log10 parameters", fraction=0.03)
        return figure


_WORDS: dict[str, str] = {
    "supported": "{are} associated with {y} as expected",
    "contradicted": "{are} associated with {y} against the expectation",
    "no association": "{are} not associated with {y}, up to the margin",
    "inconclusive": "{are} inconclusive",
    "undefined": "{have} no correlation with {y}",
}


def with_verdicts(rows: pd.DataFrame, options: RelateOptions) -> pd.DataFrame:
    """Return the rows with adjusted p values and what the rule says of each."""
    controlled = rows["partial_r"].notna().any()
    p = rows["partial_p" if controlled else "p"].to_numpy(float)
    r = rows["partial_r" if controlled else "r"].to_numpy(float)
    ends = ["partial_low", "partial_high"] if controlled else ["low", "high"]
    low, high = rows[ends].to_numpy(float).T
    rows = rows.assign(p_holm=adjusted(p, "holm"), p_bh=adjusted(p, "bh"))
    equivalent = (low > -options.margin) & (high < options.margin)
    judged = rows[f"p_{options.correction}"].to_numpy(float)
    verdicts = [
        _verdict(
            judged[j], r[j], bool(equivalent[j]), float(rows["direction"].iloc[j]), options.alpha
        )
        for j in range(len(rows))
    ]
    flags = ["; ".join(one) if isinstance(one, list) else "" for one in rows["flags"]]
    return rows.assign(
        equivalent=equivalent,
        verdict=verdicts,
        flags=flags,
        reason=rows["reason"].astype(object).fillna(""),
    )


def _verdict(p: float, r: float, equivalent: bool, direction: float, alpha: float) -> Verdict:
    """Return what the rule says, which is fixed before any number is seen."""
    if math.isnan(r):
        return "undefined"
    if p < alpha:
        agrees = not direction or math.isnan(direction) or r * direction > 0
        return "supported" if agrees else "contradicted"
    return "no association" if equivalent else "inconclusive"
