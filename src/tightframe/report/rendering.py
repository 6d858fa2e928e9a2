"""A template of this room to one self-contained file.

Nothing is fetched while a page is open: its Content-Security-Policy allows the two scripts that are
written into it, by their hashes, and no connection. Names of runs, settings and texts are
strangers' words: jinja2 escapes them.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from tightframe.report.panels import parameters


def render_template(template: str, scripts: Sequence[str], **values: Any) -> str:
    """A template with its style, plotly and the scripts, in one file."""
    files = resources.files("tightframe.report")
    style = (files / "page.css").read_text("utf-8")
    script = "".join((files / name).read_text("utf-8") for name in scripts)
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
        policy=_policy(plotly, script), style=style, plotly=plotly, script=script, **values
    )


def number(value: Any, digits: int = 4) -> str:
    """A number for readers: whole, or with so many significant digits; a true minus sign."""
    if not isinstance(value, float) or value.is_integer() or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}")


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


def json_numbers(values: Iterable[float], *, digits: int) -> list[float | None]:
    """Numbers for a script, to so many significant digits; null for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # plotly writes its own style rules while it draws; nothing in a style can reach the network.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
