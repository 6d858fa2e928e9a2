"""The guide to measuring: its examples run, one after another."""

import glob
import re
import shlex
from pathlib import Path

import pytest

from tightframe import cli
from tightframe.corpus import build
from tightframe.corpus.shards import TokenShards
from tightframe.lm.checkpoints import export_gpt_neo
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "measure.md"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a text, tokens of it, and the model of the guide, tiny."""
    monkeypatch.chdir(tmp_path)
    Path("novels").mkdir()
    lines = (
        f"Anne Elliot saw dog {i % 7} and cat {i % 5} , Anne and Elliot ran ." for i in range(400)
    )
    Path("novels/persuasion.txt").write_text("\n\n".join(lines))
    build("novels/persuasion.txt", out=Path("tokens/austen"), vocab_size=280, block=64)
    tokenizer = TokenShards.open("tokens/austen").tokenizer
    shape = TransformerConfig(
        vocab_size=tokenizer.get_vocab_size(), width=8, depth=3, heads=2, positions=256
    )
    export_gpt_neo(Transformer(shape, seed=0), "austen-neo", tokenizer)
    return tmp_path


def test_the_examples_of_the_guide_run(workplace, capsys):
    text = GUIDE.read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    for kind, block in blocks:
        if kind == "python":
            exec(block, {})
        elif kind == "sh":
            for line in block.splitlines():
                words = [
                    path
                    for word in shlex.split(line)
                    for path in (sorted(glob.glob(word)) if "*" in word else [word])
                ]
                if words[0] == "tightframe":  # processes of torchrun have their own tests
                    cli.main(words[1:])
    printed = capsys.readouterr().out
    for expected in ("prenorm", "nc5_orthodev", "compat05.cdnv_mean", "count ", "Elliot"):
        assert expected in printed
    assert (workplace / "runs" / "austen-neo" / "random-0" / "results").is_dir()
