"""From scores to rankings, and from rankings to numbers with their uncertainty.

`evaluate` measures a matrix of scores; the others are its parts. All are functions of arrays.
"""

from exreid.metrics.comparison import holm, paired_differences
from exreid.metrics.grouping import adjusted_rand_index
from exreid.metrics.openset import Answers, balanced_accuracies, detection_auroc
from exreid.metrics.ranking import rank_scores
from exreid.metrics.reliability import brier_score, expected_calibration_error, reliability
from exreid.metrics.retrieval import (
    QueryValues,
    average_precision,
    average_values,
    inverse_negative_penalty,
    query_values,
    retrieval_metrics,
)
from exreid.metrics.score_matrix import Evaluation, evaluate
from exreid.metrics.uncertainty import bootstrap_intervals, bootstrap_statistic

__all__ = [
    "Answers",
    "Evaluation",
    "QueryValues",
    "adjusted_rand_index",
    "average_precision",
    "average_values",
    "balanced_accuracies",
    "bootstrap_intervals",
    "bootstrap_statistic",
    "brier_score",
    "detection_auroc",
    "evaluate",
    "expected_calibration_error",
    "holm",
    "inverse_negative_penalty",
    "paired_differences",
    "query_values",
    "rank_scores",
    "reliability",
    "retrieval_metrics",
]
