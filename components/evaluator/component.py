"""Evaluator: TFX's component, with metrics and gates derived from the plan's spec."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components import artifacts
from components.evaluator import executor


class EvaluatorSpec(standard_component_specs.EvaluatorSpec):
    """TFX's interface, the plan, the verdict of `ServingCheck`, and a page."""

    INPUTS = {  # noqa: RUF012
        **standard_component_specs.EvaluatorSpec.INPUTS,
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "stability": component_spec.ChannelParameter(type=artifacts.TrainingStability),
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
    }
    OUTPUTS = {  # noqa: RUF012
        **standard_component_specs.EvaluatorSpec.OUTPUTS,
        "page": component_spec.ChannelParameter(type=artifacts.Page),
    }


class Evaluator(base_beam_component.BaseBeamComponent):
    """Evaluates the model on the run date with TFMA and decides on its blessing.

    Outputs:
        evaluation: TFMA's results, and `verdict.json` with reasons and metrics for people.
        blessing: BLESSED only where every bound holds and the model could be served.
        page: the verdict as an HTML page, of blocked days too.
    """

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        plan: types.BaseChannel,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        stability: types.BaseChannel,
        infra_blessing: types.BaseChannel,
        schema: types.BaseChannel,
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            examples: encoded events with the split `eval`.
            model: the candidate.
            baseline_model: the served model; not read when the plan has no baseline.
            stability: the Trainer's; a diverged training is never blessed.
            infra_blessing: the verdict of `ServingCheck`.
            schema: the TFDV schema.
        """
        super().__init__(
            spec=EvaluatorSpec(
                plan=plan,
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                stability=stability,
                infra_blessing=infra_blessing,
                schema=schema,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
                page=types.Channel(type=artifacts.Page),
            )
        )
