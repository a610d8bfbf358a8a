"""What healthy steps look like, and how far a step is from that; NumPy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_module.stability.events import Limits

Array = npt.NDArray[Any]

TOTAL = 0
"""Index of the total loss among the series; tasks follow."""

_REFRESH = 10
"""Healthy steps after which levels and scales are taken anew."""
_FORGETTING = 5
"""Windows after which a lower level of before is forgotten, all but 1/e."""
_MAD_TO_SIGMA = 1.4826
_RARE, _RARE_TO_SIGMA = 0.98, 2.0537
"""Quantile of the healthy steps, and how many standard deviations of a normal one it is up."""


class Levels:
    """Learns from healthy steps; NaN stands for what is not known yet.

    Attributes:
        level: [series]; the median of the last healthy steps. Until there are enough of them the
            total's is its start, the first finite one.
        scale: [series]; how much they scatter above it.
        known: whether there were enough of them.
        crept: bool [series]; the level is far above its lowest.
        lowest_step: [series]; the step at which it was that low.
    """

    def __init__(self, limits: Limits, tasks: int, binary_tasks: int, layers: int) -> None:
        """Knows nothing yet."""
        series = 1 + tasks
        self._limits = limits
        # The last healthy steps: their series and AUCs, and their numbers.
        self._rows = np.full((limits.window, series + binary_tasks), np.nan)
        self._steps = np.full(limits.window, -1)
        self._healthy_steps = 0
        self._start = np.nan
        self._lowest = np.full(series, np.nan)
        self._lowest_scale = np.full(series, np.nan)
        self.lowest_step = np.zeros(series, int)
        self._usual_log_norm = np.full(layers, np.nan)
        self._refresh(step=0)

    def learn(self, step: int, series: Array, auc: Array, log_norms: Array) -> None:
        """Takes in a healthy step."""
        row = self._healthy_steps % len(self._rows)
        self._rows[row] = np.concatenate([series, auc])
        self._steps[row] = step
        self._healthy_steps += 1
        # The running mean of the logarithm: one batch's outlier hardly moves it.
        usual = self._usual_log_norm
        moved = usual + (log_norms - usual) / self._limits.window
        moved = np.where(np.isnan(usual), log_norms, moved)
        self._usual_log_norm = np.where(np.isfinite(log_norms), moved, usual)
        if self._healthy_steps % _REFRESH == 0:
            self._refresh(step)

    def begin(self, total: float) -> None:
        """Takes the total's level for its start, if there is none."""
        if math.isnan(self._start) and math.isfinite(total):
            self._start = total
            self._compare(self.level, self.scale)

    def scores(self, series: Array) -> Array:
        """Distances above the levels in scales, [series]; NaN where there is no level."""
        scores = (series - self.level) / self.scale
        if np.isposinf(series[TOTAL]):
            scores[TOTAL] = np.inf  # the first step's, too
        return scores

    def lost(self, auc: Array) -> Array:
        """Which AUCs lost too much of what they usually are above 0.5, bool [binary tasks]."""
        return auc < self._lost_below

    def dead(self, log_norms: Array) -> bool:
        """Whether too many layers have next to nothing of their usual gradient."""
        limits = self._limits
        dead = np.count_nonzero(log_norms <= self._usual_log_norm + math.log(limits.dead_ratio))
        usual = np.count_nonzero(np.isfinite(self._usual_log_norm))
        return dead > 0 and bool(dead >= limits.dead_layers * usual)

    def forget(self, first: int, step: int) -> None:
        """Forgets what it learned from step `first` on; `step` is the present one."""
        late = self._steps >= first
        self._rows[late] = np.nan
        self._steps[late] = -1
        self._refresh(step)

    def fall_back(self) -> None:
        """Takes the lowest levels for the present ones."""
        self._compare(self._lowest.copy(), self._lowest_scale.copy())

    def restart(self, total: float, step: int) -> None:
        """Learns the levels anew; the total's starts where it is now."""
        self._start = total
        self._lowest[:] = np.nan
        self.forget(0, step)

    def _refresh(self, step: int) -> None:
        series = len(self._lowest)
        low, middle, high, rare = self._quantiles()
        level = middle[:series]
        spread = _MAD_TO_SIGMA * (high - middle)[:series]
        # The loss of a task with few positives is the same low number in most batches and
        # many times that in some: its scatter is not that of the batches in the middle.
        tail = (rare - middle)[:series] / _RARE_TO_SIGMA
        spread[TOTAL + 1 :] = np.fmax(spread, tail)[TOTAL + 1 :]
        scale = np.maximum(spread, self._limits.min_scale)
        self._note_lowest(level, scale, step)
        limits = self._limits
        excess = middle[series:] - 0.5
        scatter = _MAD_TO_SIGMA * (middle - low)[series:]
        clear = (1.0 - limits.lost_auc) * excess > limits.chance_margin + 3.0 * scatter
        # An AUC that has too little to lose cannot be lost.
        self._lost_below = np.where(clear, 0.5 + limits.lost_auc * excess, -np.inf)
        self._compare(level, scale)

    def _quantiles(self) -> Array:
        """Quartiles and the rare high of each column, [4, columns]; NaN if it has few values."""
        ordered = np.sort(self._rows, axis=0)  # NaN goes last
        count = np.sum(np.isfinite(ordered), axis=0)
        rows = np.array([[0.25], [0.5], [0.75], [_RARE]]) * np.maximum(count - 1, 0)
        result = np.take_along_axis(ordered, np.rint(rows).astype(int), axis=0)
        result[:, count < self._limits.min_window] = np.nan
        return result

    def _note_lowest(self, level: Array, scale: Array, step: int) -> None:
        """Follows the levels down at once, and up over several windows."""
        pace = _REFRESH / (_FORGETTING * self._limits.window)
        risen = self._lowest + pace * (level - self._lowest)
        new = np.isnan(self._lowest) | (level <= self._lowest)
        kept = np.where(np.isnan(level), self._lowest, risen)
        self._lowest = np.where(new, level, kept)
        self._lowest_scale = np.where(new, scale, self._lowest_scale)
        self.lowest_step[new] = step

    def _compare(self, level: Array, scale: Array) -> None:
        """Has the next steps compared with these."""
        limits = self._limits
        # The median of a task that half of the batches have a positive of is now that of the
        # one half, now of the other: a rise within the scatter would be over once noticed.
        least = np.maximum(np.log(limits.lost_ratio), limits.recovered * self._lowest_scale)
        self.crept = level - self._lowest > least
        self.known = bool(np.isfinite(level[TOTAL]))
        self.level, self.scale = level, scale
        if not self.known:
            level[TOTAL], scale[TOTAL] = self._start, limits.start_scale
