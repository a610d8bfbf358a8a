"""Estimates with their uncertainty: the jackknife over blocks of events.

Each event is in one of `BLOCKS` blocks, all events of a user (or of what else
`evaluation.group_by` names) in one. An estimate is an array, [1 + BLOCKS]: the value of all
events, then the value without each block. What is computed from estimates, number by number,
is one: a change is the difference of two, on the same events.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt
from scipy import stats

BLOCKS = 64
"""A power of two. The standard error is known to a tenth of itself."""

SHOWN = 0.95
"""Confidence of the intervals that are shown, in the middle: TFMA's."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and how far it may be off.

    Attributes:
        value: of all events; NaN if it cannot be measured.
        error: its standard error; NaN if that cannot be told.
        freedom: degrees of freedom of the error.
    """

    value: float
    error: float = math.nan
    freedom: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds between which the true value lies with confidence `SHOWN`."""
        side = 0.5 + SHOWN / 2.0
        return self.value - self.margin(side), self.value + self.margin(side)

    def margin(self, confidence: float) -> float:
        """How far the true value is beyond the value, to one side, at the most.

        Args:
            confidence: probability of that, from 0.5, at which the margin is 0.

        Returns:
            The margin; NaN if the error cannot be told and is asked for.
        """
        if confidence == 0.5:
            return 0.0
        return self.error * _quantile(confidence, self.freedom) if self.freedom else math.nan


@functools.lru_cache(maxsize=1024)
def _quantile(confidence: float, freedom: int) -> float:
    return float(stats.t.ppf(confidence, freedom))


def estimate(values: npt.NDArray[np.floating], weights: npt.NDArray[np.floating]) -> Estimate:
    """Reads the error of an estimate off its values without a block.

    That is the delete-a-group jackknife (Shao and Tu 1995, The Jackknife and Bootstrap, 2.3).

    Args:
        values: of all events, then without each block, [1 + BLOCKS].
        weights: of each block; one without weight says nothing, [BLOCKS].

    Returns:
        The estimate; its error is NaN with fewer than two blocks that have a weight, or where
        the value hangs on one of them.
    """
    present = weights > 0
    number = int(present.sum())
    if number < 2:
        return Estimate(float(values[0]))
    away = values[1:][present] - values[0]
    error = math.sqrt((number - 1) / number * float(away @ away))
    return Estimate(float(values[0]), error, number - 1)
