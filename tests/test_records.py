import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tightframe import knowledge
from tightframe.formats import check
from tightframe.knowledge.facts import Fact, Link, Question, Target, fact_id


def test_a_fact_comes_back_from_json_as_it_was():
    text = "Umar Zahir built an island"
    question = Question(
        "x:reliability", "reliability", "question", "Who?", "[MASK] built", ("Umar Zahir",), "rules"
    )
    fact = Fact(
        fact_id("2022-01-02", text),
        *("2022-01-02", None, 2022, 1, text, f"that {text}?", f"* ... that {text}?"),
        targets=(Target("Umar Zahir", "Umar Zahir", 0, 10),),
        links=(Link("Island", "island"),),
        questions=(question,),
    )
    assert check(Fact, fact.to_dict(), source="x") == fact
    start, end = fact.targets[0].start, fact.targets[0].end
    assert fact.fact[start:end] == fact.targets[0].label


def test_the_id_is_of_the_date_and_the_text():
    # printf '2022-01-02|a' | sha256sum begins with these digits.
    assert fact_id("2022-01-02", "a") == "dyk-ee9ca941e9cf"
    assert fact_id("2022-01-03", "a") != fact_id("2022-01-02", "a")


def test_the_types_of_questions_cost_the_command_line_no_library():
    code = "import sys, tightframe.commands.injection as a; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "tightframe.knowledge.options" in loaded.stdout.split()
    assert not {"torch", "numpy", "pandas", "sklearn"} & set(loaded.stdout.split())


def test_every_public_name_is_found_and_others_are_not():
    for name in knowledge.__all__:
        assert getattr(knowledge, name).__module__.startswith("tightframe.knowledge.")
    assert dir(knowledge) == sorted(knowledge.__all__)
    imports = [
        node
        for node in ast.walk(ast.parse(Path(knowledge.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tightframe")
    ]
    seen_by_type_checkers = [alias.name for node in imports for alias in node.names]
    assert sorted(seen_by_type_checkers) == sorted(knowledge.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = knowledge.nothing
