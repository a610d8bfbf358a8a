"""ServingCheck: a stand-in for InfraValidator that needs no Docker engine."""

from __future__ import annotations

from typing import ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from components import artifacts
from components.serving_check import executor


class ServingCheckSpec(component_spec.ComponentSpec):
    """Interface of `ServingCheck`."""

    PARAMETERS: ClassVar[dict[str, component_spec.ExecutionParameter]] = {}
    INPUTS = {  # noqa: RUF012
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "stability": component_spec.ChannelParameter(type=artifacts.TrainingStability),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {  # noqa: RUF012
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
    }


class ServingCheck(base_component.BaseComponent):
    """Loads the SavedModel in a fresh process and serves events of the run date.

    Every signature must load and answer; predictions must be finite and must not be the
    same for every event; the two request forms must agree.

    Outputs:
        blessing: an InfraBlessing, with the reasons as a custom property; `report.json` has
            them and the latencies.
    """

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        plan: types.BaseChannel,
        model: types.BaseChannel,
        stability: types.BaseChannel,
        examples: types.BaseChannel,
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            model: the exported model.
            stability: the Trainer's; of a diverged training there is no model to serve.
            examples: encoded events; the split `eval` gives the requests.
        """
        super().__init__(
            spec=ServingCheckSpec(
                plan=plan,
                model=model,
                stability=stability,
                examples=examples,
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
