"""Metrics of predictions from mergeable sums over whole batches; NumPy alone, no pipeline."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

MAX_SCORES = 1 << 15
"""Scores that a `Ranking` tells apart: 640 kB."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Weighted sums over events; those of two sets of events add up to those of both.

    Attributes:
        weight: of the weights; the number of labelled events where weights are 0 and 1.
        label: of the labels.
        label_squared: of their squares.
        prediction: of the predictions.
        squared_error: of the squared differences of both.
    """

    weight: float = 0.0
    label: float = 0.0
    label_squared: float = 0.0
    prediction: float = 0.0
    squared_error: float = 0.0

    @property
    def label_mean(self) -> float:
        """Mean of the labels; NaN without any."""
        return _ratio(self.label, self.weight)

    @property
    def label_deviation(self) -> float:
        """Standard deviation of the labels; NaN without any."""
        squares = _ratio(self.label_squared, self.weight)
        variance = squares - self.label_mean**2
        # Less than this is what rounding leaves of labels that are all the same.
        return 0.0 if variance < 1e-12 * squares else math.sqrt(variance)

    def __add__(self, other: Moments) -> Moments:
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return Moments(*(a + b for a, b in zip(mine, others, strict=True)))


def moments_by_group(
    labels: Floats,
    predictions: Floats,
    weights: Floats,
    groups: npt.NDArray[np.integer],
    number: int,
) -> list[Moments]:
    """Sums up the events of each group.

    Args:
        labels: [events].
        predictions: [events].
        weights: [events].
        groups: the group of each event, 0 to `number` - 1, [events].
        number: number of groups.

    Returns:
        The moments of each group.
    """
    labels, predictions, weights = (
        np.asarray(values, np.float64) for values in (labels, predictions, weights)
    )
    columns = (
        weights,
        weights * labels,
        weights * labels**2,
        weights * predictions,
        weights * (predictions - labels) ** 2,
    )
    sums = [np.bincount(groups, column, minlength=number) for column in columns]
    return [Moments(*values) for values in zip(*(column.tolist() for column in sums), strict=True)]


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How much weight of negatives and of positives each score was given.

    Exact as long as there are at most `MAX_SCORES` scores. With more, low bits are dropped,
    as many as it takes, so that scores close to each other become one; an AUC is then off
    by at most half the share of pairs (a positive, a negative) that have the same score.

    Attributes:
        scores: bits of the float32 scores without the dropped ones, ascending: those of
            numbers from 0 up are in their order. [scores]
        weights: of the negatives and of the positives, [2, scores].
        dropped: number of low bits dropped.
    """

    scores: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.float64]
    dropped: int = 0

    def auc(self) -> float:
        """Area under the ROC curve, equal scores counted half; NaN where a class is absent."""
        negatives, positives = self.weights
        pairs = negatives.sum() * positives.sum()
        if not pairs:
            return math.nan
        below = np.cumsum(negatives) - 0.5 * negatives
        return float(positives @ below / pairs)


def rankings_by_group(
    labels: Floats,
    scores: Floats,
    weights: Floats,
    groups: npt.NDArray[np.integer],
    number: int,
) -> list[Ranking]:
    """Makes the ranking of each group.

    Args:
        labels: 0 or 1, [events].
        scores: from 0 up, [events].
        weights: [events].
        groups: the group of each event, 0 to `number` - 1, [events].
        number: number of groups.

    Returns:
        The ranking of each group.
    """
    # Group and score in one number, the group above: one sort does for all groups.
    bits = np.abs(np.asarray(scores, np.float32)).view(np.uint32)
    keys, summed = _sum_equal(
        (groups.astype(np.uint64) << np.uint64(32)) | bits,
        np.stack([weights * (1.0 - labels), weights * labels]),
    )
    cuts = np.searchsorted(keys >> np.uint64(32), np.arange(number + 1))
    return [
        _limited(Ranking(keys[start:end].astype(np.uint32), summed[:, start:end]))
        for start, end in itertools.pairwise(cuts)
    ]


def merge_rankings(rankings: Sequence[Ranking]) -> Ranking:
    """Makes the ranking of all events of several."""
    dropped = max(ranking.dropped for ranking in rankings)
    scores, weights = _sum_equal(
        np.concatenate([r.scores >> np.uint32(dropped - r.dropped) for r in rankings]),
        np.concatenate([ranking.weights for ranking in rankings], axis=1),
    )
    return _limited(Ranking(scores, weights, dropped))


def _limited(ranking: Ranking) -> Ranking:
    scores, weights, dropped = ranking.scores, ranking.weights, ranking.dropped
    while len(scores) > MAX_SCORES:
        scores, weights = _sum_equal(scores >> np.uint32(1), weights)
        dropped += 1
    return Ranking(scores, weights, dropped)


def _sum_equal(keys: npt.NDArray, weights: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Sums the weights, [2, keys], of equal keys; returns the keys in ascending order."""
    unique, inverse = np.unique(keys, return_inverse=True)
    return unique, np.stack([np.bincount(inverse, row, minlength=len(unique)) for row in weights])


@dataclasses.dataclass(frozen=True)
class TaskSums:
    """What the metrics of one task follow from.

    Attributes:
        moments: sums over the events.
        ranking: of a binary task.
    """

    moments: Moments
    ranking: Ranking | None = None

    def metrics(self) -> dict[str, float]:
        """Metrics by TFMA's name; NaN where there are no events to tell."""
        sums = self.moments
        answer = {
            "weighted_example_count": sums.weight,
            "mean_label": sums.label_mean,
            "mean_prediction": _ratio(sums.prediction, sums.weight),
            "calibration": _ratio(sums.prediction, sums.label),
        }
        if self.ranking is None:
            error = _ratio(sums.squared_error, sums.weight)
            answer["root_mean_squared_error"] = math.sqrt(error)
            # The root mean squared error of the best constant.
            answer["label_standard_deviation"] = sums.label_deviation
            answer["r2_score"] = 1.0 - _over(error, sums.label_deviation**2)
        else:
            answer["auc"] = self.ranking.auc()
        return answer


def score_change(candidate: Moments, served: Moments) -> dict[str, float]:
    """How the score of a model differs from the served one's on the same events.

    Args:
        candidate: moments with its scores as labels.
        served: the same of the served model.

    Returns:
        `score_scale`, the ratio of the standard deviations, and `score_shift`, the difference
        of the means in standard deviations of the served model's scores.
    """
    return {
        "score_scale": _over(candidate.label_deviation, served.label_deviation),
        "score_shift": _over(candidate.label_mean - served.label_mean, served.label_deviation),
    }


def auc_lift(model: TaskSums, trivial: TaskSums) -> float:
    """The AUC of a model less that of a trivial one, or less a constant's where that is more."""
    return model.metrics()["auc"] - max(trivial.metrics()["auc"], 0.5)


def merge_tasks(sums: Sequence[Mapping[str, TaskSums]]) -> dict[str, TaskSums]:
    """Merges the sums of several sets of events, each by task."""
    merged = {}
    for task in sums[0]:
        parts = [item[task] for item in sums]
        rankings = [part.ranking for part in parts if part.ranking is not None]
        merged[task] = TaskSums(
            sum((part.moments for part in parts), Moments()),
            merge_rankings(rankings) if rankings else None,
        )
    return merged


def _ratio(value: float, by: float) -> float:
    # TFMA, too, calls a sum of nearly nothing nothing.
    return math.nan if math.isclose(by, 0.0, abs_tol=1e-8) else value / by


def _over(value: float, by: float) -> float:
    return value / by if by else math.nan
