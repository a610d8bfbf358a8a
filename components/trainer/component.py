"""Trainer: TFX's component, with the plan handed to `run_fn`."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration import data_types
from tfx.proto import trainer_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components import artifacts
from components.trainer import executor


class TrainerSpec(standard_component_specs.TrainerSpec):
    """TFX's interface, the plan, and where checkpoints go."""

    PARAMETERS = {  # noqa: RUF012
        **standard_component_specs.TrainerSpec.PARAMETERS,
        "checkpoint_root": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {  # noqa: RUF012
        **standard_component_specs.TrainerSpec.INPUTS,
        "plan": component_spec.ChannelParameter(type=artifacts.RunPlan),
        "history": component_spec.ChannelParameter(type=artifacts.HistoryTables),
    }
    OUTPUTS = {  # noqa: RUF012
        **standard_component_specs.TrainerSpec.OUTPUTS,
        "stability": component_spec.ChannelParameter(type=artifacts.TrainingStability),
    }


class Trainer(base_component.BaseComponent):
    """Trains the multitask ranker with `trainer_module.run.run_fn`.

    Outputs:
        model: a SavedModel with its training state under `assets.extra`; of a training that
            diverged, none.
        stability: the verdict on the training, statistics of its steps, plots.
        model_run: TensorBoard scalars.
    """

    SPEC_CLASS = TrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        plan: types.BaseChannel,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        schema: types.BaseChannel,
        history: types.BaseChannel,
        base_model: types.BaseChannel,
        checkpoint_root: str | data_types.RuntimeParameter,
    ):
        """Makes the component.

        Args:
            plan: a `RunPlan`.
            examples: encoded events with the split `train`.
            transform_graph: the TFT graph.
            schema: the TFDV schema of the raw events.
            history: the history tables that the exported model carries.
            base_model: what to warm-start from; not read when the plan's start is cold.
            checkpoint_root: folder that outlives the run: a run of the same day that was
                killed while training goes on from the checkpoints there.
        """
        super().__init__(
            spec=TrainerSpec(
                plan=plan,
                examples=examples,
                transform_graph=transform_graph,
                schema=schema,
                history=history,
                base_model=base_model,
                checkpoint_root=checkpoint_root,
                run_fn="trainer_module.run.run_fn",
                train_args=trainer_pb2.TrainArgs(splits=["train"]),
                eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
                stability=types.Channel(type=artifacts.TrainingStability),
            )
        )
