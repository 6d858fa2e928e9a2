"""A template of this room to one self-contained file, and how values are written for readers.

Nothing is fetched while a page is open: its Content-Security-Policy allows the two scripts that are
written into it, by their hashes, and no connection. Names of runs, settings and texts are
strangers' words: jinja2 escapes them.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

# Every colour of a page, for light and for dark; figures for print have those for light. The sizes
# stand out by at least 3 to 1 from the ground that they are drawn on, small to large models.
COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#f8f7f3", "#121317"),
    "card": ("#ffffff", "#1a1c22"),
    "ink": ("#1d1e22", "#ecebe6"),
    "soft": ("#585b63", "#a9acb6"),
    "rule": ("#d9d6cd", "#373a44"),
    "grid": ("#eeece7", "#282b33"),
    "thread": ("#cbc8c0", "#4a4e5a"),
    "accent": ("#41329b", "#b7adff"),
    "on-accent": ("#ffffff", "#16132b"),
    "mark": ("#eeebfa", "#2a2745"),
    "floor": ("#0b7a62", "#54cfae"),
    "shade": ("#1d1e2240", "#000000c0"),
    "next": ("#41329b", "#b7adff"),
    "current": ("#b3500f", "#f2a15b"),
    "shuffled": ("#6b6f78", "#9397a3"),
    "model-0": ("#41329b", "#b7adff"),
    "model-1": ("#b3500f", "#f2a15b"),
    "model-2": ("#0b7a62", "#54cfae"),
    "model-3": ("#6b6f78", "#9397a3"),
    "arm-0": ("#6b6f78", "#9397a3"),
    "arm-1": ("#b3500f", "#f2a15b"),
    "arm-2": ("#41329b", "#b7adff"),
    "arm-3": ("#0b7a62", "#54cfae"),
    "arm-4": ("#1d76b3", "#6ab8f0"),
    "arm-5": ("#857000", "#d9c653"),
    "size-0": ("#e56b5d", "#bf3984"),
    "size-1": ("#c5407e", "#de6065"),
    "size-2": ("#9613a1", "#f58c46"),
    "size-3": ("#5901a5", "#fdbf2b"),
    "size-4": ("#0d0887", "#f0f921"),
    "map-low": ("#2166ac", "#4d9de0"),
    "map-middle": ("#f7f7f7", "#14161b"),
    "map-high": ("#b2182b", "#ff7a45"),
}


def render_template(template: str, **values: Any) -> str:
    """Return a template with its style, plotly and the script, in one file."""
    files = resources.files("tightframe.report")
    script = (files / "page.js").read_text("utf-8")
    plotly = get_plotlyjs().replace("\r\n", "\n")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (files / name).read_text("utf-8")),
    )
    environment.filters |= {"number": number, "parameters": parameters}
    return environment.get_template(template).render(
        policy=_policy(plotly, script),
        style=_colours() + (files / "page.css").read_text("utf-8"),
        plotly=plotly,
        script=script,
        **values,
    )


def number(value: Any, digits: int = 4) -> str:
    """Return a number for readers, whole or with so many significant digits; a true minus sign."""
    if not isinstance(value, float) or value.is_integer() or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}")


def parameters(n: int | float) -> str:
    """Return a number of parameters to three digits: 812 k, 1.24 M."""
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if float(f"{n:.3g}") >= unit:
            return f"{float(f'{n / unit:.3g}'):g}{name}"
    return f"{n:g}"


def word(value: Any) -> str:
    """Return a setting or a fact as a reader would write it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(word(item) for item in value) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def facts(each: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return for every name its different values: numbers by size, words as they come."""
    values: dict[str, dict[str, Any]] = {}
    for one in each:
        for name, value in _flat(one):
            values.setdefault(name, {})[word(value)] = value
    lines = []
    for name, different in values.items():
        numbers = all(isinstance(value, int | float) for value in different.values())
        ordered = sorted(different, key=lambda w: different[w]) if numbers else [*different]
        lines.append((name, ordered))
    return lines


def json_numbers(values: Iterable[float], *, digits: int) -> list[float | None]:
    """Return numbers for a script, to so many significant digits; null for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def _flat(one: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in one.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _colours() -> str:
    """Return the colours as variables of CSS, for light and for dark."""
    light, dark = (
        "".join(f"  --{name}: {pair[i]};\n" for name, pair in COLOURS.items()) for i in (0, 1)
    )
    in_the_dark = f"@media (prefers-color-scheme: dark) {{\n:root {{\n{dark}}}\n}}\n"
    return f":root {{\n{light}}}\n{in_the_dark}"


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # plotly writes its own style rules while it draws; nothing in a style can reach the network.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
