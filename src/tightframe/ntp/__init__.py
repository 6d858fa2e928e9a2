"""Study 2: what geometry the text alone predicts, and how near a trained model has come to it."""

from tightframe.ntp.catalogue import MEASURES, measure_table
from tightframe.ntp.certificate import Bounds, certify
from tightframe.ntp.closed_forms import ClosedForm, closed_form
from tightframe.ntp.comparison import compare, shuffled_proxies, shuffled_support
from tightframe.ntp.concept_axes import (
    Concepts,
    cluster_labels,
    concepts,
    orthant_clusters,
    spectral_clusters,
)
from tightframe.ntp.concept_strength import align, concept_strengths
from tightframe.ntp.concept_study import study_concepts
from tightframe.ntp.counting import context_table
from tightframe.ntp.embeddings import Embedded, collect
from tightframe.ntp.grams import gram_cosine, gram_distance
from tightframe.ntp.latent_factors import FactorStudy, factor_combinations, one_hot_factors
from tightframe.ntp.laws import Alignment, PathLaw, path_laws
from tightframe.ntp.learning import (
    LearningOrder,
    learning_order,
    learning_times,
    simulate_surrogate,
)
from tightframe.ntp.linear import LinearSvm, linear_svm
from tightframe.ntp.low_rank import LowRank, best_of_rank
from tightframe.ntp.predict import Prediction, load_prediction, predict_geometry, save_prediction
from tightframe.ntp.proxies import ProxyReport, proxy, proxy_report
from tightframe.ntp.ridge import RidgePoint, lambda_max, ridge_gap, ridge_path
from tightframe.ntp.sets import stories_set, synthetic_set
from tightframe.ntp.similarity import structural_similarity
from tightframe.ntp.soft_labels import SoftLabels
from tightframe.ntp.soft_supports import Explanation, explain
from tightframe.ntp.solutions import load_solution, save_solution
from tightframe.ntp.storage import load_table, save_table
from tightframe.ntp.study import compare_run
from tightframe.ntp.svm import Solution, solve_svm
from tightframe.ntp.table import ContextTable
from tightframe.ntp.tracking import GramTracker, language_model_reader
from tightframe.ntp.ufm import UfmCheckpoint, UfmRun, train_ufm
from tightframe.ntp.word_pairs import Analogies, analogies, random_quadruples

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
    "FactorStudy",
    "GramTracker",
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
    "closed_form",
    "cluster_labels",
    "collect",
    "compare",
    "compare_run",
    "concept_strengths",
    "concepts",
    "context_table",
    "explain",
    "factor_combinations",
    "gram_cosine",
    "gram_distance",
    "lambda_max",
    "language_model_reader",
    "learning_order",
    "learning_times",
    "linear_svm",
    "load_prediction",
    "load_solution",
    "load_table",
    "measure_table",
    "one_hot_factors",
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
    "stories_set",
    "structural_similarity",
    "study_concepts",
    "synthetic_set",
    "train_ufm",
]
