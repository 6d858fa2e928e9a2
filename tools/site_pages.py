"""Generate pages of the documentation: a hook of `mkdocs build`, and a program for llms.txt.

    python tools/site_pages.py > llms.txt

`index.md`, `contributing.md` and `changelog.md` are the files of the repository's root, with links
that work inside the site. `reference/api.md` has every public name, by room, and `llms.txt` has
their signatures and docstrings on one page of plain text.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROOMS = ("", "geometry", "ntp", "knowledge")  # "" is `import tightframe as tf` itself
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made to those that are written by hand (a hook of mkdocs)."""
    from mkdocs.structure.files import File

    for source, page in ROOT_PAGES.items():
        text = site_links((ROOT / source).read_text("utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference/api.md", content=api_page()))
    return files


def site_links(text: str) -> str:
    """Return Markdown of the root folder with its links as seen from docs/."""
    for source, page in ROOT_PAGES.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text.replace("](docs/", "](")


def public_names(room: str) -> dict[str, Any]:
    """Return the public classes, functions and constants of a room by name."""
    import importlib

    module = importlib.import_module("tightframe" + (f".{room}" if room else ""))
    named = {name: getattr(module, name) for name in sorted(module.__all__)}
    return {
        name: value
        for name, value in named.items()
        if not inspect.ismodule(value) and not name.startswith("__")
    }


def api_page() -> str:
    """Return the page of the Python API: a section for each room, an entry for each name."""
    lines = ["# Python", "", "Everything here is reached by `import tightframe as tf`.", ""]
    for room in ROOMS:
        prefix = f"tf.{room}" if room else "tf"
        lines += [f"## {prefix}", ""]
        for value in public_names(room).values():
            if inspect.isclass(value) or inspect.isfunction(value):
                lines += [f"::: {value.__module__}.{value.__qualname__}", ""]
    return "\n".join(lines)


def llms_text() -> str:
    """Return the public names with signatures and docstrings, as one page of plain text."""
    out = ["# tightframe", "", inspect.getdoc(sys.modules["tightframe"]) or "", ""]
    for room in ROOMS:
        prefix = f"tf.{room}." if room else "tf."
        for name, value in public_names(room).items():
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            out += [f"## {prefix}{name}{_signature(value)}", "", inspect.getdoc(value) or "", ""]
            if inspect.isclass(value):
                out += _methods(value)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out))


def _methods(cls: type) -> list[str]:
    out = []
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            first = (inspect.getdoc(member) or "").split("\n")[0]
            out.append(f"- .{name}: {first}")
        elif inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod)):
            first = (inspect.getdoc(member) or "").split("\n")[0]
            out.append(f"- .{name}{_signature(getattr(cls, name))}: {first}")
    return [*out, ""] if out else []


def _signature(value: Any) -> str:
    """Return the signature with plain annotations, without the addresses of defaults."""
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value)))
    except ValueError:
        return ""


if __name__ == "__main__":
    import tightframe  # noqa: F401

    sys.stdout.write(llms_text())
