"""Shapes and types are checked in every test; the hook is set before tightframe is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("tightframe", "beartype.beartype")
