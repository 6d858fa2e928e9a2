"""The guide to facts, questions and scores: its examples run and print what it shows."""

import re
import shlex
from pathlib import Path

from tightframe import cli

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "knowledge.md"


def test_the_examples_of_the_guide_run_and_print_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    page = next(text for kind, text in blocks if kind == "text")
    (tmp_path / "january.wiki").write_text(page)
    printed, shown = "", ""
    for kind, block in blocks:
        if kind == "python":
            exec(block, {})
        elif kind == "sh":
            for line in block.splitlines():
                words = shlex.split(line)
                assert words[0] == "tightframe"
                cli.main(words[1:])
            printed += capsys.readouterr().out
        elif block != page:
            shown += block
    missing = [line for line in shown.splitlines() if line not in printed]
    assert missing == []
