"""The statistics of steps as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer_module.stability.statistics import StepStatistics

_EVERY = 100
"""Steps between scalars."""


class Scalars:
    """Writes the statistics of one step in a hundred.

    Args:
        directory: folder of the event files.
    """

    def __init__(self, directory: str):
        self._writer = tf.summary.create_file_writer(directory)
        self._due = 0

    def write(self, statistics: StepStatistics) -> None:
        """Writes the last of these steps, if it is due."""
        step = statistics.first_step + len(statistics) - 1
        if step < self._due or not len(statistics):
            return
        self._due = step + _EVERY
        scalars = {
            "loss": statistics.loss[-1],
            **_by_name("loss", statistics.tasks, statistics.task_loss),
            **_by_name("auc", statistics.binary_tasks, statistics.auc),
            "gradient_norm": np.linalg.norm(statistics.gradient_norm[-1]),
            "update_norm": np.linalg.norm(statistics.update_norm[-1]),
            **_by_name("clipping_factor", statistics.layers, statistics.sigma_min),
            "skipped_layers": statistics.skipped[-1].sum(),
        }
        self._write(step, scalars)

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes metrics on the run date, by task, of a model with so many steps behind it."""
        self._write(step, {f"run_date/{task}": value for task, value in metrics.items()})

    def _write(self, step: int, scalars: Mapping[str, Any]) -> None:
        # One record for all: `tf.summary.scalar` takes a tenth of a millisecond for each.
        values = [
            tf.compat.v1.Summary.Value(tag=name, simple_value=float(value))
            for name, value in scalars.items()
        ]
        summary = tf.compat.v1.Summary(value=values)
        with self._writer.as_default(step):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        self._writer.flush()


def _by_name(
    prefix: str, names: tuple[str, ...], values: npt.NDArray[np.float32]
) -> dict[str, np.float32]:
    return {f"{prefix}/{name}": value for name, value in zip(names, values[-1], strict=True)}
