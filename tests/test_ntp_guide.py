"""The guide to the theory: its examples run, one after another."""

import re
import shlex
from pathlib import Path

import pytest

from tightframe import cli

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "ntp.md"
SMALLER = {  # the same commands and lines, at a size that takes seconds
    "--min-context 150": "--min-context 25",
    "min_context=150": "min_context=25",
    "ntp ridge-path ntp/x": "ntp ridge-path ntp/x --down-to 1e-2",
    "--set width=64": "--set width=8 --set heads=2 --set threads=1",
    "build stories": "build stories --tokens 60000",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(rank of the|dimensions, but)")
def test_the_examples_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text()
    for there, here in SMALLER.items():
        assert there in text
        text = text.replace(there, here)
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(block, {})
        elif kind == "sh":
            for line in block.splitlines():
                words = shlex.split(line)
                assert words[0] == "tightframe"
                cli.main(words[1:])
    printed = capsys.readouterr()
    for expected in (
        "nats per pair",
        "optimal: upper",
        "certified (gap",
        "centred support matrix: ",
        "cos G_H",
        "ntp_gram_embeddings_cos",
        "+ tokens: ",
        "open ntp/x/report/index.html",
        "optimal certified (gap",
        "exact\n",
        "True True",
    ):
        assert expected in printed.out
    assert "Warning" not in printed.err  # messages are one line, without a place in the code
    for made in ("solutions", "predictions", "paths", "results", "concepts", "report"):
        assert any((tmp_path / "ntp" / "x" / made).iterdir())


def test_what_the_guide_names_is_there():
    """Every name of tf.ntp is the function, never a module that shares its name."""
    import pkgutil

    import tightframe as tf

    modules = {module.name for module in pkgutil.iter_modules(tf.ntp.__path__)}
    assert not modules & set(tf.ntp.__all__)
    for name in re.findall(r"tf\.ntp\.(\w+)", GUIDE.read_text()):
        assert name in tf.ntp.__all__
