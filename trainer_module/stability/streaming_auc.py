"""AUC of the last training steps, from histograms that the graph makes of each step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 128
LOGIT_RANGE = 8.0
"""Logits from -LOGIT_RANGE to LOGIT_RANGE are told apart to an eighth."""


class StreamingAUC:
    """AUC over an exponentially fading window, step by step.

    Args:
        tasks: number of binary tasks.
        batch_size: events of a step.
        window: events after which an event counts 1/e.
        least: fewest positives, and negatives, that an AUC is told from: the standard error
            of one at chance is 0.29 / sqrt(positives), Hanley and McNeil, Radiology 143, 1982.
    """

    def __init__(self, tasks: int, batch_size: int, window: float = 50_000.0, least: float = 100.0):
        self._least = least
        self._fading = float(np.exp(-batch_size / window))
        self._tasks = tasks
        self._counts = np.zeros(tasks * 2 * BINS)

    def update(self, counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Takes in steps.

        Args:
            counts: [steps, tasks * 2 * BINS]: weighted number of predictions of each step by
                task, class (negative, positive) and bin of the logit.

        Returns:
            float32 [steps, tasks]: the AUC with each step; NaN with too few of a class.
                Predictions of one bin count as ties.
        """
        steps = len(counts)
        if not steps:
            return np.zeros((0, self._tasks), np.float32)
        faded = np.empty((steps, self._counts.size))
        for step, count in enumerate(counts):
            self._counts = faded[step] = self._fading * self._counts + count
        negative, positive = np.moveaxis(faded.reshape(steps, self._tasks, 2, BINS), 2, 0)
        below = np.cumsum(negative, axis=-1) - negative / 2
        pairs = negative.sum(-1) * positive.sum(-1)
        pairs[np.minimum(negative.sum(-1), positive.sum(-1)) < self._least] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((positive * below).sum(-1) / np.where(pairs > 0, pairs, np.nan)).astype("f4")

    def to_state(self) -> list[float]:
        """Returns the window's counts, for JSON."""
        return [float(count) for count in self._counts]

    def restore(self, state: list[float]) -> None:
        """Goes on from what `to_state` returned."""
        self._counts = np.asarray(state)
