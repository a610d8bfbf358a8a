"""Transform: TFX's component, with the plan's spec handed to preprocessing."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components import artifacts
from components.transform import executor


class TransformSpec(standard_component_specs.TransformSpec):
    """TFX's interface and the plan."""

    INPUTS = {  # noqa: RUF012
        **standard_component_specs.TransformSpec.INPUTS,
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
    }


class Transform(base_beam_component.BaseBeamComponent):
    """Makes `trainer_module.preprocessing` a graph with tensorflow-transform.

    It has no analyzers, so that the graph follows from spec and schema alone: TFX makes it
    without a pass over the events. The Trainer preprocesses them as it reads them.

    Outputs:
        transform_graph: the TFT graph, which the exported model carries.
    """

    SPEC_CLASS = TransformSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self, plan: types.BaseChannel, examples: types.BaseChannel, schema: types.BaseChannel
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            examples: encoded events with the splits `train` and `eval`.
            schema: the TFDV schema.
        """
        super().__init__(
            spec=TransformSpec(
                plan=plan,
                examples=examples,
                schema=schema,
                preprocessing_fn="trainer_module.preprocessing.preprocessing_fn",
                force_tf_compat_v1=0,
                # ExampleValidator has these statistics already.
                disable_statistics=1,
                transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
            )
        )
