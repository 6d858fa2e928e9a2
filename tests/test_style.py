"""How docstrings begin: readable alone, in plain English."""

import ast
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
