"""DailyExampleGen: daily event logs as the examples of one run."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.orchestration import data_types
from tfx.types import component_spec, standard_artifacts

from components import artifacts
from components.daily_example_gen import executor


class DailyExampleGenSpec(component_spec.ComponentSpec):
    """Interface of `DailyExampleGen`."""

    PARAMETERS = {  # noqa: RUF012
        "logs_root": component_spec.ExecutionParameter(type=str),
        "day_store": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {  # noqa: RUF012
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {  # noqa: RUF012
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=artifacts.QuarantinedEvents),
        "history": component_spec.ChannelParameter(type=artifacts.HistoryTables),
    }


class DailyExampleGen(base_beam_component.BaseBeamComponent):
    """Ingests the plan's run date and window; see `docs/event-logs.md`.

    A step that reads logs must not be cached by the orchestrator: its inputs do not say
    whether the logs changed. The day store makes an unchanged day cheap.

    Outputs:
        examples: split `eval`, all events of the run date; split `train`, of each window
            day the share that the plan asks for. Beside them lie the smoothed rates of the window.
        quarantine: the malformed lines of these days, a JSON lines file a day.
        history: for each history feature the table for events after the run date, as Parquet.
    """

    SPEC_CLASS = DailyExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        plan: types.BaseChannel,
        baseline_model: types.BaseChannel,
        logs_root: str | data_types.RuntimeParameter,
        day_store: str | data_types.RuntimeParameter,
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            baseline_model: the served model, which judges the days that it has not seen.
            logs_root: directory with a directory `YYYY-MM-DD` of logs a day.
            day_store: directory where encoded days are kept for later runs.
        """
        super().__init__(
            spec=DailyExampleGenSpec(
                plan=plan,
                baseline_model=baseline_model,
                logs_root=logs_root,
                day_store=day_store,
                examples=types.Channel(type=standard_artifacts.Examples),
                quarantine=types.Channel(type=artifacts.QuarantinedEvents),
                history=types.Channel(type=artifacts.HistoryTables),
            )
        )
