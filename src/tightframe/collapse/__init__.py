"""Study 1: what geometry a trained model has, and whether it goes with generalization."""

from tightframe.collapse.measures import MEASURES, Measure, measure_table, metrics
from tightframe.collapse.study import measure_part, measure_run
from tightframe.collapse.values import Value

__all__ = [
    "MEASURES",
    "Measure",
    "Value",
    "measure_part",
    "measure_run",
    "measure_table",
    "metrics",
]
