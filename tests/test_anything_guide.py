"""`docs/guide/anything.md` as a reader runs it."""

import re
from pathlib import Path

import pytest
import torch

from test_while_training import small_model

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "anything.md"


def test_the_guide_runs_as_written_and_prints_what_it_shows(capsys):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks] == ["python", "python", "text", "python"]
    names = {}
    exec(blocks[0][1] + blocks[1][1], names)
    numbers = re.compile(r"\d+\.\d+")
    shown = [float(x) for x in numbers.findall(blocks[2][1])]
    printed = [float(x) for x in numbers.findall(capsys.readouterr().out)]
    assert printed == pytest.approx(shown, abs=0.03)  # another machine rounds otherwise
    ids = torch.randint(50, (1, 600), generator=torch.Generator().manual_seed(0))
    given = {"model": small_model(50), "blocks": ids.split(30, dim=1), "layer": 1}
    exec(blocks[3][1], given)
    assert capsys.readouterr().out.startswith("Value(")
