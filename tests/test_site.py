"""The pages that are made from the code are as the code makes them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_for_language_models_is_that_of_the_code():
    program = [sys.executable, "tools/site_pages.py"]
    made = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "llms.txt").read_text(), "run `python tools/site_pages.py > llms.txt`"


def test_every_public_function_has_a_docstring_of_its_own():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from site_pages import ROOMS, public_names
    finally:
        sys.path.pop(0)
    bare = [
        f"{room}.{name}"
        for room in ROOMS
        for name, value in public_names(room).items()
        if callable(value) and not (value.__doc__ or "").strip()
    ]
    assert not bare
