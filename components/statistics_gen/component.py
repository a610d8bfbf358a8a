"""StatisticsGen: TFX's component with an executor of our own."""

from __future__ import annotations

from tfx.components.statistics_gen import component
from tfx.dsl.components.base import executor_spec

from components.statistics_gen import executor


class StatisticsGen(component.StatisticsGen):
    """Computes the statistics of both splits with TFDV.

    Outputs:
        statistics: a file of TFDV's statistics for each split.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
