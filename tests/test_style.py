"""How docstrings begin, readable alone and in plain English; and what the package imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tightframe"
# Bare clauses and sentences that need their neighbour begin with these.
RIDDLES = {"Of", "As", "Those", "Its", "What", "Which", "Whether", "Who", "Whom", "Why", "When"}
RIDDLES |= {"How", "Where"}


ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_begins_with_a_riddle(room):
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno} {first}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and (first := (ast.get_docstring(node) or " ").split("\n")[0])
        and (first.split(" ")[0] in RIDDLES or first.startswith("The same "))
    ]
    assert not found, "\n".join(found)


def test_the_package_imports_only_what_installing_it_brings():
    project = tomllib.loads((SOURCE.parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        re.match(r"[\w-]+", one)[0].lower()
        for one in (*project["dependencies"], *extras["hf"], *extras["track"])
    }
    brought = {"huggingface_hub", "annotated_types", "pydantic_core"}  # by those that are declared
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(one.name.partition(".")[0], path.name) for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module.partition(".")[0], path.name))
    packages = packages_distributions()
    foreign = {
        (module, file)
        for module, file in found
        if module not in {*sys.stdlib_module_names, "tightframe", *brought}
        and not {one.lower().replace("_", "-") for one in packages.get(module, [])} & declared
    }
    assert not foreign
