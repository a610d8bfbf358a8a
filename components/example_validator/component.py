"""ExampleValidator: holds the run's statistics against the schema and may stop the run."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from components import artifacts
from components.example_validator import executor


class ExampleValidatorSpec(component_spec.ComponentSpec):
    """Interface of `ExampleValidator`."""

    PARAMETERS: ClassVar[dict[str, component_spec.ExecutionParameter]] = {}
    INPUTS = {  # noqa: RUF012
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
    }
    OUTPUTS = {  # noqa: RUF012
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
    }


class ExampleValidator(base_component.BaseComponent):
    """TFDV validation with drift and skew, and a verdict on it.

    TFX's component of this name compares one split with the schema and goes on whatever it
    finds. This one also compares the run date with the training days, and fails the run
    when an anomaly reaches the severity `validation.stop_at`.

    Outputs:
        anomalies: per split a `SchemaDiff.pb`, as TFX's component writes it.
    """

    SPEC_CLASS = ExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self, plan: types.BaseChannel, statistics: types.BaseChannel, schema: types.BaseChannel
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            statistics: TFDV statistics of the splits `train` and `eval`.
            schema: the TFDV schema.
        """
        super().__init__(
            spec=ExampleValidatorSpec(
                plan=plan,
                statistics=statistics,
                schema=schema,
                anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
