"""Metrics of a task, of labels and predictions in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def auc(label: Floats, score: Floats) -> float:
    """Area under the ROC curve, with ties; NaN with one class, or a score that is not finite."""
    positive = label > 0.5
    pairs = positive.sum() * (~positive).sum()
    if not pairs or not np.isfinite(score).all():
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / pairs)


def rmse(label: Floats, prediction: Floats) -> float:
    """Root mean square error; NaN without events."""
    if not len(label):
        return float("nan")
    return float(np.sqrt(np.mean(np.square(prediction - label))))
