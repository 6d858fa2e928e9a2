"""Study 1: labelled embeddings to mergeable statistics, and those to measures of geometry.

Public names are loaded when they are first used, so that `checks` costs no import of torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightframe.geometry.measures import MEASURES, Measure, measure_table, metrics
    from tightframe.geometry.study import measure, measure_part
    from tightframe.geometry.values import Value

_PUBLIC = {
    "MEASURES": "measures",
    "Measure": "measures",
    "Value": "values",
    "measure": "study",
    "measure_part": "study",
    "measure_table": "measures",
    "metrics": "measures",
}

__all__ = ["MEASURES", "Measure", "Value", "measure", "measure_part", "measure_table", "metrics"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"tightframe.geometry.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'tightframe.geometry' has no attribute '{name}'")
