"""Study 2: what geometry the text alone predicts, and how near a trained model has come to it."""

from tightframe.ntp.soft_labels import SoftLabels
from tightframe.ntp.table import ContextTable

__all__ = ["ContextTable", "SoftLabels"]
