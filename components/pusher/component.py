"""Pusher: makes a blessed model the served version."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration import data_types
from tfx.types import component_spec, standard_artifacts

from components import artifacts
from components.pusher import executor


class PusherSpec(component_spec.ComponentSpec):
    """Interface of `Pusher`."""

    PARAMETERS = {"serving_dir": component_spec.ExecutionParameter(type=str)}  # noqa: RUF012
    INPUTS = {  # noqa: RUF012
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
    }
    OUTPUTS = {  # noqa: RUF012
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
    }


class Pusher(base_component.BaseComponent):
    """Pushes what both the Evaluator and `ServingCheck` have blessed.

    TFX's Pusher names versions by the clock and copies in place; this one numbers them,
    makes them visible whole, and keeps `serving.keep_versions`. Pushed or not, it deletes the
    checkpoints of the model's training.

    Outputs:
        pushed_model: `pushed`, `pushed_version` and `pushed_destination` as TFX's Pusher
            sets them; the model itself is not copied a second time.
    """

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        plan: types.BaseChannel,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        infra_blessing: types.BaseChannel,
        serving_dir: str | data_types.RuntimeParameter,
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            examples: encoded events; tells the newest day that was trained on.
            model: the candidate.
            model_blessing: the Evaluator's verdict.
            infra_blessing: the verdict of `ServingCheck`.
            serving_dir: folder of the served versions.
        """
        super().__init__(
            spec=PusherSpec(
                plan=plan,
                examples=examples,
                model=model,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                serving_dir=serving_dir,
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            )
        )
