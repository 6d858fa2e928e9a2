"""Shapes and types are checked in every test; the hook is set before tightframe is imported.

`make test` runs the modules in `WHOLE` without the checks, which take half of their time there.
What they call, other modules call with checks. `make test-slow` and plain pytest check everything.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

if os.environ.get("TIGHTFRAME_UNCHECKED") != "1":
    install_import_hook("tightframe", "beartype.beartype")

# Whole commands, pages, guides and simulations.
WHOLE = (
    "adapters anything_guide atlas bridge_job by_token callback compare coverage demo device_maps "
    "directions injection knowledge_guide knowledge_page knowledge_study laws measure_guide page "
    "profiles readme recall_geometry relation_page report resume sets simulators small_sets states "
    "study_files sweep theory_page training_processes usual_intervals while_training"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem.removeprefix("test_") in WHOLE.split():
            item.add_marker("whole")
