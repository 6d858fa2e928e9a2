"""Study 2: what geometry the text alone predicts, and how near a trained model has come to it.

Public names are loaded when they are first used (PEP 562), so that a table's folder is checked
without the libraries that solving needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of `_PUBLIC`
    from tightframe.ntp.catalogue import MEASURES, measure_table
    from tightframe.ntp.certificate import Bounds, certify
    from tightframe.ntp.comparison import compare, shuffled_proxies, shuffled_support
    from tightframe.ntp.concept_study import (
        LearningOrder,
        learning_order,
        learning_times,
        simulate_surrogate,
        study_concepts,
    )
    from tightframe.ntp.concepts import (
        Concepts,
        align,
        cluster_labels,
        concept_strengths,
        concepts,
        orthant_clusters,
        spectral_clusters,
    )
    from tightframe.ntp.contexts import context_table
    from tightframe.ntp.extras import LinearSvm, LowRank, best_of_rank, linear_svm
    from tightframe.ntp.model import Embedded, collect
    from tightframe.ntp.prediction import (
        Prediction,
        load_prediction,
        predict_geometry,
        proxy,
        save_prediction,
    )
    from tightframe.ntp.proxies import Explanation, ProxyReport, explain, proxy_report
    from tightframe.ntp.ridge import RidgePoint, lambda_max, ridge_gap, ridge_path
    from tightframe.ntp.ridge_path import Alignment, PathLaw, path_laws
    from tightframe.ntp.similarity import (
        Analogies,
        analogies,
        gram_cosine,
        gram_distance,
        random_quadruples,
        structural_similarity,
    )
    from tightframe.ntp.soft_labels import SoftLabels
    from tightframe.ntp.solution import Solution, load_solution, save_solution
    from tightframe.ntp.study import compare_run
    from tightframe.ntp.svm import solve_svm
    from tightframe.ntp.table import ContextTable, load_table, save_table
    from tightframe.ntp.ufm import UfmCheckpoint, UfmRun, train_ufm

_PUBLIC: dict[str, str] = {
    "Alignment": "paths",
    "Analogies": "word_pairs",
    "Bounds": "certificate",
    "Concepts": "concept_axes",
    "ContextTable": "table",
    "Embedded": "embeddings",
    "Explanation": "soft_labels",
    "LearningOrder": "concept_study",
    "LinearSvm": "linear",
    "LowRank": "low_rank",
    "MEASURES": "catalogue",
    "PathLaw": "paths",
    "Prediction": "predict",
    "ProxyReport": "proxies",
    "RidgePoint": "ridge",
    "SoftLabels": "soft_labels",
    "Solution": "svm",
    "UfmCheckpoint": "ufm",
    "UfmRun": "ufm",
    "align": "concept_axes",
    "analogies": "word_pairs",
    "best_of_rank": "low_rank",
    "certify": "certificate",
    "cluster_labels": "concept_axes",
    "collect": "embeddings",
    "compare": "comparison",
    "compare_run": "study",
    "concept_strengths": "concept_axes",
    "concepts": "concept_axes",
    "context_table": "counting",
    "explain": "soft_labels",
    "gram_cosine": "similarity",
    "gram_distance": "similarity",
    "lambda_max": "ridge",
    "learning_order": "concept_study",
    "learning_times": "concept_study",
    "linear_svm": "linear",
    "load_prediction": "predict",
    "load_solution": "solutions",
    "load_table": "table",
    "measure_table": "catalogue",
    "orthant_clusters": "concept_axes",
    "path_laws": "paths",
    "predict_geometry": "predict",
    "proxy": "proxies",
    "proxy_report": "proxies",
    "random_quadruples": "word_pairs",
    "ridge_gap": "ridge",
    "ridge_path": "ridge",
    "save_prediction": "predict",
    "save_solution": "solutions",
    "save_table": "table",
    "shuffled_proxies": "comparison",
    "shuffled_support": "comparison",
    "simulate_surrogate": "concept_study",
    "solve_svm": "svm",
    "spectral_clusters": "concept_axes",
    "structural_similarity": "similarity",
    "study_concepts": "concept_study",
    "train_ufm": "ufm",
}

__all__ = [
    "MEASURES",
    "Alignment",
    "Analogies",
    "Bounds",
    "ClosedForm",
    "Concepts",
    "ContextTable",
    "Embedded",
    "Explanation",
    "LearningOrder",
    "LinearSvm",
    "LowRank",
    "PathLaw",
    "Prediction",
    "ProxyReport",
    "RidgePoint",
    "SoftLabels",
    "Solution",
    "UfmCheckpoint",
    "UfmRun",
    "align",
    "analogies",
    "best_of_rank",
    "certify",
    "cluster_labels",
    "collect",
    "compare",
    "compare_run",
    "concept_strengths",
    "concepts",
    "context_table",
    "explain",
    "gram_cosine",
    "gram_distance",
    "lambda_max",
    "learning_order",
    "learning_times",
    "linear_svm",
    "load_prediction",
    "load_solution",
    "load_table",
    "measure_table",
    "orthant_clusters",
    "path_laws",
    "predict_geometry",
    "proxy",
    "proxy_report",
    "random_quadruples",
    "ridge_gap",
    "ridge_path",
    "save_prediction",
    "save_solution",
    "save_table",
    "shuffled_proxies",
    "shuffled_support",
    "simulate_surrogate",
    "solve_svm",
    "spectral_clusters",
    "structural_similarity",
    "study_concepts",
    "train_ufm",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
