"""Print the size and shape of the package: files, lines, importers, closures, repeated blocks.

python tools/house.py            # the figures
python tools/house.py --list     # also the files behind each of them
"""

import argparse
import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "tightframe"
SHORT, LONG, BLOCK = 100, 400, 12
SHOWN = (".py", ".html", ".css", ".js", ".toml", ".txt")


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    return {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a module imports anywhere in it, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {node.module}
    return {one for one in found if one in known and one != name}


def loaded_by_measure() -> set[str]:
    """Return the modules of ours that a real, tiny `tightframe measure` has loaded at its end."""
    sizes = "--set width=16 --set depth=1 --set heads=2 --set epochs=1 --set threads=1"
    told = (
        "import sys; print('loaded', *(m for m in sys.modules if m.split('.')[0] == 'tightframe'))"
    )
    with tempfile.TemporaryDirectory() as folder:

        def run(command: str, then: str = "") -> str:
            program = f"from tightframe import cli; cli.main({command.split()}); {then}"
            made = subprocess.run(
                [sys.executable, "-c", program],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
            )
            return made.stdout

        run("corpus build stories --out t --tokens 5000 --block 128")
        run(f"train --set tokens=t --set out=r {sizes}")
        return set(run("measure r", told).rsplit("loaded ", 1)[1].split())


def repeated_blocks(known: dict[str, Path]) -> int:
    """Return how many runs of `BLOCK` equal lines, blank ones left out, stand at two places."""
    places: Counter[tuple[str, ...]] = Counter()
    for path in known.values():
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        places.update({tuple(lines[i : i + BLOCK]) for i in range(len(lines) - BLOCK + 1)})
    return sum(n > 1 for n in places.values())


def tree() -> str:
    """Return docs/tree.md, made from the first line of every module's docstring."""
    lines = ["# The tree", "", "Printed by `python tools/house.py --tree`.", ""]
    for top in (PACKAGE, PACKAGE.parents[1] / "studies"):
        for folder in [top, *sorted(path for path in top.rglob("*") if path.is_dir())]:
            files = sorted(path for path in folder.glob("*") if path.suffix in SHOWN)
            if not files:
                continue
            about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
            name = folder.relative_to(PACKAGE.parents[1]).as_posix()
            lines += [f"## {name}/", "", *([about.split("\n")[0], ""] if about else [])]
            for path in files:
                told = ""
                if path.suffix == ".py" and path.name != "__init__.py":
                    told = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
                if told or path.suffix != ".py":
                    lines.append(f"- `{path.name}`" + (f": {told}" if told else ""))
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="also what is behind each figure")
    parser.add_argument("--tree", action="store_true", help="print docs/tree.md instead")
    given = parser.parse_args()
    if given.tree:
        print(tree(), end="")
        return
    listed = given.list
    known = modules()
    lines = {name: len(path.read_text().splitlines()) for name, path in known.items()}
    edges = {name: imports(name, path, known) for name, path in known.items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, targets in edges.items():
        for target in targets:
            importers[target].add(name)
    classes = Counter(
        match
        for path in known.values()
        for match in re.findall(r"^class (\w+)", path.read_text(), re.M)
    )
    inner = [name for name in known if known[name].name != "__init__.py"]
    measured = loaded_by_measure() & known.keys()

    def show(words: str, found: list[str], goal: str) -> None:
        print(f"{words:<58} {len(found):>7,}   {goal}")
        for one in found if listed else ():
            print(f"    {one}")

    print(f"{'files':<58} {len(known):>7,}   at most 120")
    print(f"{'lines':<58} {sum(lines.values()):>7,}   at most 28,500")
    show(f"files over {LONG} lines", [name for name in inner if lines[name] > LONG], "none")
    short = [f"{name} {lines[name]}" for name in inner if lines[name] < SHORT]
    show(f"files under {SHORT} lines", short, "each has a reason")
    show("class names that stand twice", [f"{k} {n}" for k, n in classes.items() if n > 1], "none")
    single = [
        f"{name} <- {next(iter(importers[name]))}" for name in inner if len(importers[name]) == 1
    ]
    show("modules with a single importer", single, "fewer than 15")
    show("modules that `tightframe measure` loads", sorted(measured), "at most 45")
    print(f"{'their lines':<58} {sum(lines[name] for name in measured):>7,}   at most 8,000")
    print(f"{f'runs of {BLOCK} equal lines at two places':<58} {repeated_blocks(known):>7,}   none")


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    main()
