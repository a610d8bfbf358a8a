"""Plan: resolves, once a run, what the other components must agree on."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration import data_types
from tfx.types import component_spec, standard_artifacts

from components import artifacts
from components.plan import executor


class PlanSpec(component_spec.ComponentSpec):
    """Interface of `Plan`."""

    PARAMETERS = {  # noqa: RUF012
        "spec_path": component_spec.ExecutionParameter(type=str),
        "overrides": component_spec.ExecutionParameter(type=str),
        "run_date": component_spec.ExecutionParameter(type=str),
        "schedule_time": component_spec.ExecutionParameter(type=str),
        "run_date_lag_days": component_spec.ExecutionParameter(type=int),
        "serving_dir": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, component_spec.ChannelParameter]] = {}
    OUTPUTS = {  # noqa: RUF012
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
        "base_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }


class Plan(base_component.BaseComponent):
    """Resolves the spec, the run date, the window and the served model.

    Outputs:
        plan: a `RunPlan`.
        schema: the TFDV schema derived from the spec.
        base_model: training state of the served version to warm-start from; holds only a
            note when the start is cold.
        baseline_model: the served SavedModel to compare with; holds only a note when there
            is none.
    """

    SPEC_CLASS = PlanSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        spec_path: str | data_types.RuntimeParameter,
        overrides: str | data_types.RuntimeParameter,
        run_date: str | data_types.RuntimeParameter,
        schedule_time: str | data_types.RuntimeParameter,
        run_date_lag_days: int,
        serving_dir: str | data_types.RuntimeParameter,
    ):
        """Makes the component.

        Args:
            spec_path: the ranking spec's YAML file.
            overrides: JSON list of assignments such as `training.learning_rate=0.1`.
            run_date: the day to evaluate on, YYYY-MM-DD; if empty, it follows from the
                next two (see `run_date.resolve_run_date`).
            schedule_time: the time that the orchestrator made the run for, RFC 3339.
            run_date_lag_days: days from the run date to the schedule time, or to now.
            serving_dir: folder of the served versions.
        """
        super().__init__(
            spec=PlanSpec(
                spec_path=spec_path,
                overrides=overrides,
                run_date=run_date,
                schedule_time=schedule_time,
                run_date_lag_days=run_date_lag_days,
                serving_dir=serving_dir,
                plan=types.Channel(type=artifacts.RunPlan),
                schema=types.Channel(type=standard_artifacts.Schema),
                base_model=types.Channel(type=standard_artifacts.Model),
                baseline_model=types.Channel(type=standard_artifacts.Model),
            )
        )
