"""StatisticsGen: TFX's interface and the plan, with an executor of our own."""

from __future__ import annotations

import tensorflow_data_validation as tfdv
from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components import artifacts
from components.statistics_gen import executor


class StatisticsGenSpec(standard_component_specs.StatisticsGenSpec):
    """TFX's interface and the plan."""

    INPUTS = {  # noqa: RUF012
        **standard_component_specs.StatisticsGenSpec.INPUTS,
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
    }


class StatisticsGen(base_beam_component.BaseBeamComponent):
    """Computes the statistics of both splits with TFDV.

    Of a split with more events than `validation.max_statistics_events`, they are those of a
    sample.

    Outputs:
        statistics: a file of TFDV's statistics for each split.
    """

    SPEC_CLASS = StatisticsGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        plan: types.BaseChannel,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        stats_options: tfdv.StatsOptions,
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            examples: encoded events with the splits `train` and `eval`.
            schema: the TFDV schema.
            stats_options: TFDV's options; the schema is added to them.
        """
        super().__init__(
            spec=StatisticsGenSpec(
                plan=plan,
                examples=examples,
                schema=schema,
                stats_options_json=stats_options.to_json(),
                statistics=types.Channel(type=standard_artifacts.ExampleStatistics),
            )
        )
