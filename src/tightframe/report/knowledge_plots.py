"""The figures of a knowledge study for its page, as plotly's JSON, for every choice of a reader.

Words of the study are strangers' text: they are escaped here for plotly.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pandas as pd

from tightframe.knowledge.scores import WORDS
from tightframe.report import knowledge, plots
from tightframe.report.plots import Json, escaped, four

N_ARMS = 6  # colours of arms
_SYMBOLS = ("x", "square", "circle", "diamond", "triangle-up", "cross")
_SHORT = {"left_context_reordered": "clue first"}  # names too long for a tick
_KEYS = ["form", "score", "n_facts", "exposures"]


def key(*parts: Hashable) -> str:
    """Return the name of a figure: what it shows, then the choices that it is for."""
    return "|".join(map(str, parts))


def figures(scores: pd.DataFrame, types: pd.DataFrame, arms: Sequence[str]) -> dict[str, Json]:
    """Return accuracy by facts, exposures, form, position and type, for all choices.

    Args:
        scores: Of scores that are shown.
        types: See `knowledge.by_type`.
        arms: In the order shown.
    """
    drawn = {}
    everything = scores[scores["subset"] == "all"]
    for (form, score), own in everything.groupby(["form", "score"], sort=False):
        for exposures, rows in own.groupby("exposures"):
            drawn[key("facts", form, score, exposures)] = _lines(
                rows, "n_facts", "facts", "Accuracy against the number of facts", arms
            )
        for n_facts, rows in own.groupby("n_facts"):
            if rows["exposures"].nunique() > 1:
                drawn[key("exposures", form, score, n_facts)] = _lines(
                    rows, "exposures", "exposures of each fact", "Accuracy against exposures", arms
                )
    for pair, rows in everything.groupby(["n_facts", "exposures"]):
        for one in rows["score"].unique():
            drawn[key("forms", one, *pair)] = _by_form(rows, str(one), arms)
    for choice, rows in scores.groupby(_KEYS, sort=False):
        groups = knowledge.ordered(rows["subset"].tolist(), knowledge.POSITIONS)
        drawn[key("positions", *choice)] = _bars(
            rows, "subset", groups, "Accuracy by position of the answer", arms
        )
    for choice, rows in types.groupby(_KEYS, sort=False) if len(types) else ():
        groups = [str(one) for one in dict.fromkeys(rows["type"])]
        drawn[key("types", *choice)] = _bars(
            rows, "type", groups, "Accuracy by type of question", arms
        )
    return drawn


def recall_figures(bins: pd.DataFrame, arms: Sequence[str]) -> dict[str, Json]:
    """Return facts recalled among those of like geometry, a figure per feature and facts."""
    drawn = {}
    for (feature, n_facts), rows in bins.groupby(["feature", "n_facts"]):
        low, high = float(rows["median"].min()), float(rows["median"].max())
        log = low > 0 and high / low > 30
        words = knowledge.FEATURES.get(str(feature), str(feature).replace("_", " "))
        traces = []
        for arm, line in _of_arms(rows, arms):
            where = [f"{escaped(str(feature))} about {four(float(x))}" for x in line["median"]]
            reach = {"width": 2, "thickness": 1}
            traces.append(
                _line(line, line["median"].tolist(), where, arm, arms, reach, width=1.5, size=7)
            )
        title = _folded(escaped(words) + (" (log)" if log else ""))
        drawn[key("recall", feature, n_facts)] = plots.figure(
            traces,
            x=plots.axis(title, _decades(low, high) if log else None),
            y=plots.axis("recalled, percent", range=(-3, 103)),
            about=f"Recall against {words}",
        )
    return drawn


def _of_arms(rows: pd.DataFrame, arms: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """Return the arms that have rows, with those of them that have a value."""
    own = {arm: rows[rows["arm"] == arm] for arm in arms}
    return [(arm, part[part["value"].notna()]) for arm, part in own.items() if len(part)]


def _look(arm: str, arms: Sequence[str]) -> tuple[Json, str, bool]:
    """Return colour and symbol of an arm, and whether it learned reordered facts."""
    place, reordered = knowledge.look_of(arm, arms)
    symbol = _SYMBOLS[place % N_ARMS] + ("-open" if reordered else "")
    return plots.colour(f"arm-{place % N_ARMS}"), symbol, reordered


def _line(
    line: pd.DataFrame,
    x: Sequence[Any],
    where: Sequence[str],
    arm: str,
    arms: Sequence[str],
    reach: Json,
    *,
    width: float = 1.75,
    size: int = 8,
) -> Json:
    own, symbol, reordered = _look(arm, arms)
    return {
        "x": [*x],
        "y": line["value"].tolist(),
        "mode": "lines+markers",
        "hoverinfo": "text",
        "hovertext": _hover(line, arm, where),
        "name": escaped(arm),
        "line": {"color": own, "width": width, "dash": "6px,4px" if reordered else "solid"},
        "marker": {"size": size, "color": own, "symbol": symbol},
        "error_y": _ends(line, reach | {"color": own}),
    }


def _hover(rows: pd.DataFrame, arm: str, where: Sequence[str]) -> list[str]:
    texts = []
    for row, place in zip(rows.to_dict("records"), where, strict=True):
        unit = " words" if row.get("score") == WORDS else " %"
        ends = (
            f"<br>95 %: {four(float(row['low']))} to {four(float(row['high']))}"
            if row["low"] == row["low"]
            else ""
        )
        texts.append(
            f"<b>{escaped(arm)}</b>, {place}<br><b>{four(float(row['value']))}</b>{unit}{ends}"
            f"<br>n = {row['n']:,}"
        )
    return texts


def _ends(rows: pd.DataFrame, look: Json) -> Json:
    """Return the bars of 95 % intervals; one without ends has no length."""
    below, above = rows["value"] - rows["low"], rows["high"] - rows["value"]
    return plots.bars(below.fillna(0).tolist(), above.fillna(0).tolist(), look)


def _title(score: str) -> str:
    return "output, words" if score == WORDS else f"{escaped(score)}, percent"


def _upright(rows: pd.DataFrame) -> tuple[float, float]:
    """Return an axis from 0 to a little above the highest end; percents end at 100."""
    top = 1.12 * max(1.0, *rows[["value", "high"]].max().dropna().tolist())
    return 0.0, top if WORDS in set(rows["score"]) else min(top, 103.0)


def _lines(rows: pd.DataFrame, column: str, words: str, about: str, arms: Sequence[str]) -> Json:
    """Return lines of the arms over a logarithmic axis, each named at its right end."""
    ticks = sorted({int(x) for x in rows[column]})
    shown = _of_arms(rows, arms)
    low, high = range_ = _upright(rows)

    def beside(i: int) -> float:  # intervals of arms stand beside each other, not on each other
        return float((ticks[-1] / ticks[0] * 1.6) ** (0.013 * (i - (len(shown) - 1) / 2)))

    traces, names = [], []
    for i, (arm, own) in enumerate(shown):
        line = own.sort_values(column)
        x = [beside(i) * place for place in line[column]]
        where = [f"{place:,} {words}" for place in line[column]]
        reach = {"thickness": 1.25, "width": 3}
        traces.append(_line(line, x, where, arm, arms, reach))
        if len(line):  # right of all intervals of its end
            end = float(line[column].iloc[-1]) * beside(len(shown) - 1)
            names.append((float(line["value"].iloc[-1]), math.log10(end), arm))
    first, last = math.log10(ticks[0] / 1.3), math.log10(ticks[-1] * 1.3)
    return plots.figure(
        traces,
        x=plots.axis(
            f"{words} (logarithmic)",
            type="log",
            range=(first, first + 1.22 * max(last - first, 0.25)),
            tickvals=ticks,
            ticktext=[f"{tick:,}" for tick in ticks],
        ),
        y=plots.axis(_title(str(rows["score"].iloc[0])), range=range_),
        about=about,
        annotations=_named(names, 0.058 * (high - low), high, arms),
    )


def _named(
    names: Sequence[tuple[float, float, str]], gap: float, top: float, arms: Sequence[str]
) -> list[Json]:
    """Return the names of lines at their ends (y, x, arm), moved apart where they would overlap."""
    names = sorted(names)
    places: list[float] = []
    for y, _, _ in names:
        places.append(max(y, places[-1] + gap) if places else y)
    over = max(0.0, places[-1] - top + gap / 2) if places else 0.0
    return [
        {
            "x": x,
            "y": max(place - over, gap / 2) if over else place,
            "xanchor": "left",
            "xshift": 10,
            "text": escaped(arm),
            "font": {"color": _look(arm, arms)[0], "size": 12},
        }
        for place, (_, x, arm) in zip(places, names, strict=True)
    ]


def _by_form(rows: pd.DataFrame, score: str, arms: Sequence[str]) -> Json:
    """Return a score by form; a form that has no such score has the rank."""
    has = set(rows.loc[rows["score"] == score, "form"])
    ranked = (rows["score"] == "correct") & ~rows["form"].isin(has)
    shown = rows[(rows["score"] == score) | ranked]
    forms = knowledge.ordered(shown["form"].tolist(), knowledge.FORMS)

    def below(form: str) -> str:
        return "" if score == "correct" or form in has else "<br>(ranks first)"

    return _bars(shown, "form", forms, "Accuracy by form", arms, score=score, below=below)


def _bars(
    rows: pd.DataFrame,
    column: str,
    groups: Sequence[str],
    about: str,
    arms: Sequence[str],
    *,
    score: str | None = None,
    below: Callable[[str], str] = lambda group: "",
) -> Json:
    """Return bars of the arms beside each other in every group, with intervals."""
    ticks = []
    for group in groups:
        counts = rows.loc[rows[column] == group, "n"].unique()
        name = _SHORT.get(group, escaped(group).replace("_", " "))
        ticks.append(name + below(group) + (f"<br>n = {counts[0]:,}" if len(counts) == 1 else ""))
    traces = []
    for arm, own in _of_arms(rows, arms):
        shade, _, reordered = _look(arm, arms)
        pattern = {"shape": "/", "bgcolor": plots.colour("card"), "fgcolor": shade}
        traces.append(
            {
                "type": "bar",
                "name": escaped(arm),
                "x": [groups.index(group) for group in own[column]],
                "y": own["value"].tolist(),
                "marker": {"color": shade, **({"pattern": pattern} if reordered else {})},
                "hoverinfo": "text",
                "textposition": "none",
                "hovertext": _hover(own, arm, [escaped(group) for group in own[column]]),
                "error_y": _ends(own, {"color": plots.colour("ink"), "thickness": 1, "width": 3}),
            }
        )
    return plots.figure(
        traces,
        x=plots.axis(
            "",
            tickvals=list(range(len(groups))),
            ticktext=ticks,
            range=(-0.5, len(groups) - 0.5),
            fixedrange=True,
            showgrid=False,
        ),
        y=plots.axis(_title(score or str(rows["score"].iloc[0])), range=_upright(rows)),
        about=about,
        barmode="group",
        bargap=0.28,
        bargroupgap=0.08,
        dragmode=False,
    )


def _folded(text: str) -> str:
    """Return a title of an axis in lines that fit under a small panel."""
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > 34:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten between two positive ends of an axis, at most five or so."""
    ends = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**power for power in ends if low / 1.5 <= 10.0**power <= high * 1.5]
    return ticks[:: math.ceil(len(ticks) / 5)]
