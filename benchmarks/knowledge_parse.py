"""Hooks a second of `tightframe knowledge parse`, from wikitext files to facts on disk.

The pages are made up: a file a month, two sets of eight hooks a day, with piped and bold-italic
links, picture notes, possessives and templates in the shares that real pages have. Making them is
not part of the time; reading, cleaning, looking for equal texts and writing are.

    python benchmarks/knowledge_parse.py --hooks 12000
"""

import argparse
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tightframe.knowledge.pages import parse

HOOKS = 12_000
TARGET = "12,000 hooks in 10 s"
SET = 8
FORMS = (
    "'''[[Person {n}]]''' crossed [[Lake {n}|the lake]] on foot in the winter of {n}",
    "the album '''''[[Album {n} (album)|Album {n}]]''''' is by ''[[Band {n}]]''{{{{'s}}}} cook",
    "'''[[Tower {n}]]''' ''(pictured)'' leans over [[Street {n}]] by {{{{convert|{n}|mm|in}}}}",
    "the bishop '''[[Bishop {n}]]'''&nbsp;sold {n} [[candle]]s, and '''[[Town {n}]]''' stayed dark",
)


def knowledge_parse(n_hooks: int = HOOKS) -> dict[str, Any]:
    """The row `knowledge_parse`: seconds and hooks a second, once into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        make_pages(pages, n_hooks)
        start, cpu_start = time.perf_counter(), time.process_time()
        parsed = parse([pages], Path(folder) / "facts")
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    if (parsed.n_hooks, parsed.n_facts) != (n_hooks, n_hooks):
        raise SystemExit(f"{n_hooks:,} hooks were made, {parsed.n_facts:,} found; a fault of ours")
    return {
        "row": "knowledge_parse",
        "work": f"{n_hooks:,} hooks on {parsed.n_pages:,} pages",
        "target": TARGET,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "hooks_a_second": n_hooks / seconds,
    }


def make_pages(folder: Path, n_hooks: int) -> None:
    """Pages of made-up hooks, a file a month."""
    pages: dict[str, list[str]] = {}
    day = datetime.date(2022, 1, 1)
    for first in range(0, n_hooks, 2 * SET):
        lines = pages.setdefault(f"{day:%Y/%B}", [])
        lines.append(f"=={day.day} {day:%B %Y}==")
        for n in range(first, min(first + 2 * SET, n_hooks)):
            if (n - first) % SET == 0:
                hour = 12 if n == first else 0
                lines.append(f"*'''''{hour:02}:00, {day.day} {day:%B %Y} (UTC)'''''")
                lines.append(f"{{{{main page image/DYK|image=Image {n}.jpg|caption=One}}}}")
            lines.append(f"* ... that {FORMS[n % len(FORMS)].format(n=n)}?")
        day += datetime.timedelta(days=1)
    for name, lines in pages.items():
        path = folder / f"{name}.wikitext"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hooks", type=int, default=HOOKS)
    print(json.dumps(knowledge_parse(parser.parse_args().hooks), indent=1))


if __name__ == "__main__":
    main()
