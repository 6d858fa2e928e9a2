"""Study 2: what geometry the text alone predicts, and how near a trained model has come to it."""

from tightframe.ntp.certificate import Bounds, certify
from tightframe.ntp.closed_forms import ClosedForm, closed_form
from tightframe.ntp.comparison import compare
from tightframe.ntp.counting import context_table
from tightframe.ntp.embeddings import Embedded, collect
from tightframe.ntp.grams import gram_cosine, gram_distance
from tightframe.ntp.laws import Alignment, PathLaw, path_laws
from tightframe.ntp.linear import LinearSvm, linear_svm
from tightframe.ntp.low_rank import LowRank, best_of_rank
from tightframe.ntp.predict import Prediction, predict_geometry
from tightframe.ntp.proxies import ProxyReport, proxy, proxy_report
from tightframe.ntp.ridge import RidgePoint, lambda_max, ridge_gap, ridge_path
from tightframe.ntp.sets import stories_set, synthetic_set
from tightframe.ntp.similarity import structural_similarity
from tightframe.ntp.soft_labels import SoftLabels
from tightframe.ntp.solutions import load_solution, save_solution
from tightframe.ntp.storage import load_table, save_table
from tightframe.ntp.study import compare_run
from tightframe.ntp.svm import Solution, solve_svm
from tightframe.ntp.table import ContextTable
from tightframe.ntp.ufm import UfmCheckpoint, UfmRun, train_ufm

__all__ = [
    "Alignment",
    "Bounds",
    "ClosedForm",
    "ContextTable",
    "Embedded",
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
    "best_of_rank",
    "certify",
    "closed_form",
    "collect",
    "compare",
    "compare_run",
    "context_table",
    "gram_cosine",
    "gram_distance",
    "lambda_max",
    "linear_svm",
    "load_solution",
    "load_table",
    "path_laws",
    "predict_geometry",
    "proxy",
    "proxy_report",
    "ridge_gap",
    "ridge_path",
    "save_solution",
    "save_table",
    "solve_svm",
    "stories_set",
    "structural_similarity",
    "synthetic_set",
    "train_ufm",
]
