"""What metrics follow from: mergeable sums over whole batches; NumPy alone, no pipeline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from components.evaluator.estimates import BLOCKS
from components.evaluator.ranking import Ranking, merge_rankings, rankings_by_group

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

FINITE = "finite"
"""The kind of the output that says whether an event's predictions are finite."""

SCORE = "score"
"""The kind of the combined score; a task's kind is that of the spec."""

_LEAST = 1e-7
"""Keras and TFMA, too, take a probability to be so far from 0 and 1 at the least."""


def _log_loss(labels: Floats, predictions: Floats) -> Floats:
    chances = np.clip(predictions, _LEAST, 1.0 - _LEAST)
    return -(labels * np.log(chances) + (1.0 - labels) * np.log1p(-chances))


_LABELLED: dict[str, Callable[[Floats, Floats], Floats]] = {
    "weight": lambda labels, predictions: np.ones_like(labels),
    "label": lambda labels, predictions: labels,
    "prediction": lambda labels, predictions: predictions,
}
_COLUMNS: dict[str, dict[str, Callable[[Floats, Floats], Floats]]] = {
    FINITE: _LABELLED,
    "binary": {**_LABELLED, "log_loss": _log_loss},
    "regression": {
        **_LABELLED,
        "label_squared": lambda labels, predictions: np.square(labels),
        "squared_error": lambda labels, predictions: np.square(predictions - labels),
        "absolute_error": lambda labels, predictions: np.abs(predictions - labels),
    },
    SCORE: {
        "weight": _LABELLED["weight"],
        "prediction": _LABELLED["prediction"],
        "prediction_squared": lambda labels, predictions: np.square(predictions),
        "product": lambda labels, predictions: labels * predictions,
    },
}
"""What is summed up of an output, times the event's weight, by the kind of the output. A score has
no label; the served model's score is in its place."""


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over events of one output of one model; those of two sets of events merge.

    Attributes:
        columns: by name, see `_COLUMNS`, the sum over each block's events, float64 [BLOCKS].
        ranking: of a binary task.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    ranking: Ranking | None = None

    def total(self, name: str) -> npt.NDArray[np.float64]:
        """A column's sum as an estimate: over all events, then without each block's."""
        blocks = self.columns[name]
        whole = blocks.sum()
        return np.concatenate([[whole], whole - blocks])


def sums_by_group(
    kind: str,
    labels: Floats,
    predictions: Floats,
    weights: Floats,
    blocks: Integers,
    groups: Integers,
    number: int,
) -> list[Sums]:
    """Sums up the events of each group.

    Args:
        kind: of the output.
        labels: [events].
        predictions: [events].
        weights: [events].
        blocks: the block of each event, [events].
        groups: the group of each event, 0 to `number` - 1, [events].
        number: number of groups.

    Returns:
        The sums of each group.
    """
    labels, predictions, weights = (
        np.asarray(values, np.float64) for values in (labels, predictions, weights)
    )
    place = groups.astype(np.int64) * BLOCKS + blocks
    sums = {
        name: np.bincount(
            place, weights * column(labels, predictions), minlength=number * BLOCKS
        ).reshape(number, BLOCKS)
        for name, column in _COLUMNS[kind].items()
    }
    rankings: Sequence[Ranking | None] = [None] * number
    if kind == "binary":
        known = weights > 0
        rankings = rankings_by_group(
            labels[known], predictions[known], weights[known], blocks[known], groups[known], number
        )
    return [
        Sums({name: blocks[group] for name, blocks in sums.items()}, rankings[group])
        for group in range(number)
    ]


def merge(parts: Sequence[Sums]) -> Sums:
    """Makes the sums of all events of several."""
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for part in parts:
        for name, blocks in part.columns.items():
            columns[name] = columns[name] + blocks if name in columns else blocks
    rankings = [part.ranking for part in parts if part.ranking is not None]
    return Sums(columns, merge_rankings(rankings) if rankings else None)


def ratio(value: Floats, by: Floats) -> Floats:
    """Divides estimates; NaN where there is nothing to divide by."""
    # TFMA, too, calls a sum of nearly nothing nothing.
    nothing = np.isclose(by, 0.0, rtol=0.0, atol=1e-8)
    return np.where(nothing, math.nan, value / np.where(nothing, 1.0, by))


def deviation(sums: Sums, column: str) -> Floats:
    """Estimates the standard deviation of a column that is there with its squares."""
    weight = sums.total("weight")
    squares = ratio(sums.total(f"{column}_squared"), weight)
    variance = squares - ratio(sums.total(column), weight) ** 2
    # Less than this is what rounding leaves of values that are all the same.
    return np.where(variance < 1e-12 * squares, 0.0, np.sqrt(np.maximum(variance, 0.0)))
