"""The notebooks of the documentation run from the first cell to the last, without a network."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=150, kernel_name="python3", resources=place).execute()
    assert all(cell.get("execution_count") for cell in book.cells if cell.cell_type == "code")
    imports = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert "from tightframe" not in imports  # the public API is enough
