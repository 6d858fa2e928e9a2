"""Study 2: what geometry the text alone predicts, and how near a trained model has come to it.

Public names are loaded when they are first used (PEP 562), so that a table's folder is checked
without the libraries that solving needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `_PUBLIC` says where names are
    from tightframe.ntp.catalogue import MEASURES, measure_table
    from tightframe.ntp.certificate import certify
    from tightframe.ntp.comparison import Comparison, compare_embeddings, shuffled_proxies
    from tightframe.ntp.contexts import count
    from tightframe.ntp.extras import best_of_rank, linear_svm
    from tightframe.ntp.prediction import Prediction, load_prediction, predict, proxy
    from tightframe.ntp.proxies import explain, proxy_report
    from tightframe.ntp.ridge import ridge_path
    from tightframe.ntp.soft_labels import SoftLabels
    from tightframe.ntp.solution import Solution, load_solution
    from tightframe.ntp.study import compare
    from tightframe.ntp.svm import solve_svm
    from tightframe.ntp.table import ContextTable, load_table
    from tightframe.ntp.ufm import train_ufm

_PUBLIC: dict[str, str] = {
    "Comparison": "comparison",
    "ContextTable": "table",
    "MEASURES": "catalogue",
    "Prediction": "prediction",
    "SoftLabels": "soft_labels",
    "Solution": "solution",
    "best_of_rank": "extras",
    "certify": "certificate",
    "compare": "study",
    "compare_embeddings": "comparison",
    "count": "contexts",
    "explain": "proxies",
    "linear_svm": "extras",
    "load_prediction": "prediction",
    "load_solution": "solution",
    "load_table": "table",
    "measure_table": "catalogue",
    "predict": "prediction",
    "proxy": "prediction",
    "proxy_report": "proxies",
    "ridge_path": "ridge",
    "shuffled_proxies": "comparison",
    "solve_svm": "svm",
    "train_ufm": "ufm",
}

__all__ = [
    "MEASURES",
    "Comparison",
    "ContextTable",
    "Prediction",
    "SoftLabels",
    "Solution",
    "best_of_rank",
    "certify",
    "compare",
    "compare_embeddings",
    "count",
    "explain",
    "linear_svm",
    "load_prediction",
    "load_solution",
    "load_table",
    "measure_table",
    "predict",
    "proxy",
    "proxy_report",
    "ridge_path",
    "shuffled_proxies",
    "solve_svm",
    "train_ufm",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
