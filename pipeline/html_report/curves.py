"""Statistics of steps, thinned to what a chart can show."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.html_report.contents import StepCurves

POINTS = 200
"""Points of an attempt, as many as a chart's width can tell apart."""
SMOOTH = 21
"""Steps of the running median of losses and clipping factors."""
MAX_LAYERS = 8
"""Layers whose clipping factor is shown: those that were clipped most."""

_Floats = npt.NDArray[np.float64]


def thinned(parquet: bytes) -> dict[int, StepCurves]:
    """Thins a training's statistics.

    Args:
        parquet: a file as of `StatisticsRecorder.read`.

    Returns:
        The steps of each attempt, by its number from 0.
    """
    table = pq.read_table(io.BytesIO(parquet))
    if not len(table):
        return {}
    attempts = table["attempt"].to_numpy()
    layers = _most_clipped(table.filter(pa.array(attempts == attempts[-1])))
    return {
        int(number): _attempt(table.filter(pa.array(attempts == number)), layers)
        for number in np.unique(attempts)
    }


def _attempt(table: pa.Table, layers: Sequence[str]) -> StepCurves:
    step = table["step"].to_numpy()
    loss = _column(table, "loss")
    starts = np.unique(np.linspace(0, len(step), min(POINTS, len(step)), False).astype(np.int64))
    stretches = list(zip(starts, [*starts[1:], len(step)], strict=True))

    def over(values: _Floats, how: str) -> list[float | None]:
        return [_summary(values[first:end], how) for first, end in stretches]

    return StepCurves(
        step=[int(step[first]) for first in starts],
        loss=over(_smooth(loss), "last"),
        peak=over(loss, "max"),
        auc={name: over(_column(table, f"auc/{name}"), "last") for name in _names(table, "auc")},
        sigma={n: over(_smooth(_column(table, f"sigma_mean/{n}")), "last") for n in layers},
        not_finite=int(np.count_nonzero(~np.isfinite(loss))),
    )


def _summary(values: _Floats, how: str) -> float | None:
    """A number of four digits, which is as much as a chart can show."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    value = finite[-1] if how == "last" else finite.max()
    return float(f"{value:.4g}")


def _smooth(values: _Floats) -> _Floats:
    """Centred running median that leaves out what is not finite."""
    finite = pd.Series(np.where(np.isfinite(values), values, np.nan))
    return finite.rolling(SMOOTH, center=True, min_periods=1).median().to_numpy()


def _most_clipped(table: pa.Table) -> list[str]:
    """Layers that were clipped, in the order of the network, its input first."""
    means = {}
    for name in _names(table, "sigma_mean"):
        values = _column(table, f"sigma_mean/{name}")
        finite = values[np.isfinite(values)]
        if finite.size and finite.min() < 1.0:
            means[name] = finite.mean()
    kept = sorted(means, key=lambda name: means[name])[:MAX_LAYERS]
    return [name for name in means if name in kept]


def _names(table: pa.Table, field: str) -> list[str]:
    found = (name for name in table.column_names if name.startswith(f"{field}/"))
    return [name.partition("/")[2] for name in found]


def _column(table: pa.Table, name: str) -> _Floats:
    return table[name].to_numpy().astype(np.float64)
