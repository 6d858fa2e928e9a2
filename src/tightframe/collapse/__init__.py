"""Study 1: what geometry a trained model has, and whether it goes with generalization.

Public names are loaded when they are first used, so that `checks` costs no import of torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightframe.collapse.measures import MEASURES, Measure, measure_table, metrics
    from tightframe.collapse.study import measure_part, measure_run
    from tightframe.collapse.values import Value

_PUBLIC = {
    "MEASURES": "measures",
    "Measure": "measures",
    "Value": "values",
    "measure_part": "study",
    "measure_run": "study",
    "measure_table": "measures",
    "metrics": "measures",
}

__all__ = [
    "MEASURES",
    "Measure",
    "Value",
    "measure_part",
    "measure_run",
    "measure_table",
    "metrics",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"tightframe.collapse.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'tightframe.collapse' has no attribute '{name}'")
