"""tightframe: the geometry that language models collapse to, and what the text says of it.

Public names are loaded when they are first used (PEP 562), so `import tightframe` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `_PUBLIC` says where names are
    from tightframe import analysis, corpus, geometry, knowledge, lm, ntp, report, results
    from tightframe.analysis.relate import relate
    from tightframe.corpus.shards import TokenShards
    from tightframe.errors import UserError
    from tightframe.geometry.callback import CollapseCallback
    from tightframe.geometry.classes import class_table
    from tightframe.geometry.compare import ModelComparison, compare
    from tightframe.geometry.decisions import Decisions, class_decisions
    from tightframe.geometry.measurement import Measurement
    from tightframe.geometry.measures import MEASURES, Measure, measure_table, metrics
    from tightframe.geometry.moments import ClassMoments
    from tightframe.geometry.options import MeasureOptions
    from tightframe.geometry.published import published_values
    from tightframe.geometry.states import merge_states
    from tightframe.geometry.stream import class_moments
    from tightframe.geometry.study import measure, measure_part
    from tightframe.geometry.values import Value
    from tightframe.jobs.atlas import Atlas, atlas
    from tightframe.jobs.audit import Audit, audit
    from tightframe.lm.huggingface import HuggingFaceModel
    from tightframe.lm.load import load_model, randomly_initialized
    from tightframe.lm.options import TrainOptions
    from tightframe.lm.runs import Run
    from tightframe.lm.transformer import Transformer
    from tightframe.results import Header, ResultTable, Row, gather, read_csv, read_rows, write_csv

_PUBLIC: dict[str, str] = {
    "Atlas": "jobs.atlas",
    "Audit": "jobs.audit",
    "ClassMoments": "geometry.moments",
    "CollapseCallback": "geometry.callback",
    "Decisions": "geometry.decisions",
    "Header": "results",
    "HuggingFaceModel": "lm.huggingface",
    "MEASURES": "geometry.measures",
    "Measure": "geometry.measures",
    "MeasureOptions": "geometry.options",
    "Measurement": "geometry.measurement",
    "ModelComparison": "geometry.compare",
    "ResultTable": "results",
    "Row": "results",
    "Run": "lm.runs",
    "TokenShards": "corpus.shards",
    "TrainOptions": "lm.options",
    "Transformer": "lm.transformer",
    "UserError": "errors",
    "Value": "geometry.values",
    "atlas": "jobs.atlas",
    "audit": "jobs.audit",
    "class_decisions": "geometry.decisions",
    "class_moments": "geometry.stream",
    "class_table": "geometry.classes",
    "compare": "geometry.compare",
    "gather": "results",
    "load_model": "lm.load",
    "measure": "geometry.study",
    "measure_part": "geometry.study",
    "measure_table": "geometry.measures",
    "merge_states": "geometry.states",
    "metrics": "geometry.measures",
    "published_values": "geometry.published",
    "randomly_initialized": "lm.load",
    "read_csv": "results",
    "read_rows": "results",
    "relate": "analysis.relate",
    "write_csv": "results",
}
_ROOMS = ("analysis", "corpus", "geometry", "knowledge", "lm", "ntp", "report", "results")

__all__ = [
    "MEASURES",
    "Atlas",
    "Audit",
    "ClassMoments",
    "CollapseCallback",
    "Decisions",
    "Header",
    "HuggingFaceModel",
    "Measure",
    "MeasureOptions",
    "Measurement",
    "ModelComparison",
    "ResultTable",
    "Row",
    "Run",
    "TokenShards",
    "TrainOptions",
    "Transformer",
    "UserError",
    "Value",
    "__version__",
    "analysis",
    "atlas",
    "audit",
    "class_decisions",
    "class_moments",
    "class_table",
    "compare",
    "corpus",
    "gather",
    "geometry",
    "knowledge",
    "lm",
    "load_model",
    "measure",
    "measure_part",
    "measure_table",
    "merge_states",
    "metrics",
    "ntp",
    "published_values",
    "randomly_initialized",
    "read_csv",
    "read_rows",
    "relate",
    "report",
    "results",
    "write_csv",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tightframe")
    if name in _ROOMS:
        return importlib.import_module(f"tightframe.{name}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"tightframe.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'tightframe' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
