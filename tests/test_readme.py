"""The README tells the truth: its table is the code's, and its Python runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tightframe import cli
from tightframe.geometry import MEASURES, measure_table
from tightframe.geometry.measures import DEFAULT
from tightframe.ntp.catalogue import measure_table as theory_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def _block(language, containing):
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return next(text for kind, text in blocks if kind == language and containing in text)


def test_the_table_of_measures_is_the_code_s():
    page = (ROOT / "docs" / "measures.md").read_text()
    assert measure_table() in page
    assert theory_table() in page
    names = ", ".join(f"`{name}`" for name in DEFAULT)
    assert f"All {len(MEASURES)} measures" in page
    assert names in page.replace("\n", " ")


def test_the_tree_is_what_the_files_say_of_themselves():
    program = [sys.executable, "tools/house.py", "--tree"]
    made = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    message = "run `python tools/house.py --tree > docs/tree.md`"
    assert made == (ROOT / "docs" / "tree.md").read_text(), message


def test_the_tree_of_folders_names_every_room_once():
    rooms = {path.parent.name for path in (ROOT / "src" / "tightframe").glob("*/__init__.py")}
    named = re.findall(r"^  (\w+)/ ", _block("", "src/tightframe/"), flags=re.MULTILINE)
    assert sorted(named) == sorted(rooms)


def test_what_the_documents_link_to_is_there():
    places = [ROOT / "docs" / name for name in (".", "guide", "results")]
    pages = [path for place in places for path in place.glob("*.md")]
    for page in (README, *sorted(pages)):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_five_commands_and_the_five_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(f"The cat {i % 7} saw dog {i % 5} and ran home again ." for i in range(600))
    (tmp_path / "mytext.txt").write_text(text)
    commands = [line for line in _block("sh", "mytext.txt").splitlines() if line.strip()]
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command.split("#")[0])
        assert words[0] == "tightframe"
        # The same commands, at a size that takes seconds.
        smaller = {"4096": "280", "width=128": "width=8"}
        words = [smaller.get(word, word) for word in words[1:]]
        if words[0] == "train":
            words += ["--set", "heads=2", "--set", "threads=1"]
        cli.main(words)
    assert list(tmp_path.glob("runs/*/report/index.html"))
    exec(_block("python", "import tightframe as tf"), {})
