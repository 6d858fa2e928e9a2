"""The public names: what editors see is what there is at run time, and costs nothing unasked."""

import ast
import subprocess
import sys
from pathlib import Path

import tightframe as tf


def test_type_checkers_see_the_names_that_there_are():
    tree = ast.parse(Path(tf.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    rooms = {name for name, module in seen.items() if module == "tightframe"}
    assert rooms == set(tf._ROOMS)
    assert {name: module for name, module in seen.items() if name not in rooms} == {
        name: f"tightframe.{module}" for name, module in tf._PUBLIC.items()
    }
    assert {*tf._PUBLIC, *tf._ROOMS, "__version__"} == set(tf.__all__)


def test_every_name_is_there_and_has_a_docstring():
    for name in tf.__all__:
        value = getattr(tf, name)
        assert value is not None
        if callable(value):
            assert value.__doc__, name


def test_importing_the_package_loads_nothing_else():
    program = (
        "import sys, tightframe; print(sorted({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
