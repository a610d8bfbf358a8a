"""Mean, variance and range of a feature, whatever single events hold."""

from __future__ import annotations

import numpy as np

_TAILS = (0.05, 0.01, 0.001, 0.0)
_REACH = 2.0
_OUTSIDE = 0.001
"""Share of the values on either side that bins leave out."""


def robust_moments(values: np.ndarray) -> tuple[float, float]:
    """Winsorised mean and variance: what lies far outside counts as the fence it lies beyond.

    The fences stand twice the distance between the 5 % and the 95 % quantile outside of
    these, 8 standard deviations from the mean of a normal distribution: data without outliers
    keeps its moments, and up to 5 % of outliers on a side, however large, move them little.
    Where these quantiles are equal (a feature that is mostly zero), wider ones are taken, the
    extremes at last.

    Args:
        values: [n], finite, n at least 1.

    Returns:
        Mean and variance, in float64.
    """
    values = np.asarray(values, np.float64)
    for tail in _TAILS:
        low, high = np.quantile(values, [tail, 1.0 - tail])
        if low < high:
            break
    reach = _REACH * (high - low)
    held = np.clip(values, low - reach, high + reach)
    return float(held.mean()), float(held.var())


def quantile_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Returns the edges of bins that hold alike many values, but for the outermost values.

    Args:
        values: [n], finite, n at least 1.
        bins: their number.

    Returns:
        Rising edges, float32, `bins` + 1 or, where values repeat, fewer; one or none make no bin.
    """
    shares = np.linspace(_OUTSIDE, 1.0 - _OUTSIDE, bins + 1)
    return np.unique(np.quantile(np.asarray(values, np.float64), shares).astype(np.float32))
