"""The one definition of the daily pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.dsl.components.base import base_node
from tfx.orchestration import data_types, pipeline
from tfx.orchestration.metadata import ConnectionConfigType

from components.daily_example_gen.component import DailyExampleGen
from components.evaluator.component import Evaluator
from components.example_validator.component import ExampleValidator
from components.plan.component import Plan
from components.pusher.component import Pusher
from components.serving_check.component import ServingCheck
from components.statistics_gen.component import StatisticsGen
from components.trainer.component import Trainer
from components.transform.component import Transform
from pipeline.flink.check import with_defaults

_SAYS_WHERE_THE_CODE_IS = (
    "extra_packages",
    "setup_file",
    "requirements_file",
    "sdk_container_image",
)

_STATISTICS_BATCH = 16_384
"""Events that TFDV puts together before it counts them: its own 1000 take twice the time."""

Parameter: TypeAlias = str | data_types.RuntimeParameter


@dataclasses.dataclass(frozen=True)
class RunParameters:
    """What differs from run to run: values, or parameters that the orchestrator fills in.

    Attributes:
        spec_path: the ranking spec's YAML file.
        overrides: JSON list of assignments such as `training.learning_rate=0.1`.
        run_date: the day to evaluate on, YYYY-MM-DD; may be empty where there is a schedule.
        logs_root: folder with a folder of event logs for each day.
        day_store: folder of the encoded days.
        serving_dir: folder of the served versions.
        checkpoint_root: folder of the checkpoints of trainings that have not ended.
        schedule_time: the time that the orchestrator made the run for, RFC 3339.
        run_date_lag_days: days from an empty run date to the schedule time, or to now.
    """

    spec_path: Parameter
    overrides: Parameter
    run_date: Parameter
    logs_root: Parameter
    day_store: Parameter
    serving_dir: Parameter
    checkpoint_root: Parameter
    schedule_time: Parameter = ""
    run_date_lag_days: int = 1


def with_code(beam_args: Sequence[str]) -> list[str]:
    """Says of the direct runner's workers that they have the code: it is this process's.

    Where no option says so, TFX packs its own code for each component that uses Beam, which
    takes seconds and leaves 50 MB in the folder of temporary files each time
    (`tfx.utils.dependency_utils.make_beam_dependency_flags`).

    Args:
        beam_args: Beam options; without any, TFX packs nothing.
    """
    options = PipelineOptions(list(beam_args)).get_all_options()
    direct = (options["runner"] or "DirectRunner").endswith("DirectRunner")
    if not beam_args or not direct or any(options[name] for name in _SAYS_WHERE_THE_CODE_IS):
        return list(beam_args)
    # No worker is started from it.
    return [*beam_args, "--sdk_container_image=none"]


def create_pipeline(
    name: str,
    pipeline_root: str,
    parameters: RunParameters,
    *,
    beam_pipeline_args: Sequence[str] = (),
    metadata_connection_config: ConnectionConfigType | None = None,
) -> pipeline.Pipeline:
    """Defines one day's run; see `docs/architecture.md`.

    Args:
        name: the pipeline's name.
        pipeline_root: folder of the artifacts.
        parameters: what differs from run to run.
        beam_pipeline_args: options of the components that use Beam.
        metadata_connection_config: the ML Metadata store; the orchestrator's if None.

    Returns:
        The pipeline, for any TFX runner.
    """
    plan = Plan(
        spec_path=parameters.spec_path,
        overrides=parameters.overrides,
        run_date=parameters.run_date,
        schedule_time=parameters.schedule_time,
        run_date_lag_days=parameters.run_date_lag_days,
        serving_dir=parameters.serving_dir,
    )
    run_plan, schema = plan.outputs["plan"], plan.outputs["schema"]
    example_gen = DailyExampleGen(
        plan=run_plan,
        baseline_model=plan.outputs["baseline_model"],
        logs_root=parameters.logs_root,
        day_store=parameters.day_store,
    )
    examples = example_gen.outputs["examples"]
    statistics_gen = StatisticsGen(
        plan=run_plan,
        examples=examples,
        schema=schema,
        # The frequent values of a feature in one pass, instead of counting each value apart: exact
        # up to 16384 distinct values, as many as drift and skew are measured over by far.
        stats_options=tfdv.StatsOptions(
            use_sketch_based_topk_uniques=True, desired_batch_size=_STATISTICS_BATCH
        ),
    )
    validator = ExampleValidator(
        plan=run_plan, statistics=statistics_gen.outputs["statistics"], schema=schema
    )
    transform = Transform(plan=run_plan, examples=examples, schema=schema)
    # Neither consumes the anomalies; anomalous data must reach neither.
    transform.add_upstream_node(validator)
    trainer = Trainer(
        plan=run_plan,
        examples=examples,
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        history=example_gen.outputs["history"],
        base_model=plan.outputs["base_model"],
        checkpoint_root=parameters.checkpoint_root,
    )
    model, stability = trainer.outputs["model"], trainer.outputs["stability"]
    serving_check = ServingCheck(plan=run_plan, model=model, stability=stability, examples=examples)
    infra_blessing = serving_check.outputs["blessing"]
    evaluator = Evaluator(
        plan=run_plan,
        examples=examples,
        model=model,
        baseline_model=plan.outputs["baseline_model"],
        stability=stability,
        infra_blessing=infra_blessing,
        schema=schema,
    )
    pusher = Pusher(
        plan=run_plan,
        examples=examples,
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=infra_blessing,
        serving_dir=parameters.serving_dir,
    )
    components: list[base_node.BaseNode] = [
        plan,
        example_gen,
        statistics_gen,
        validator,
        transform,
        trainer,
        serving_check,
        evaluator,
        pusher,
    ]
    return pipeline.Pipeline(
        pipeline_name=name,
        pipeline_root=pipeline_root,
        components=components,
        # The logs, the day store and the serving folder change behind ML Metadata's back.
        enable_cache=False,
        beam_pipeline_args=with_code(with_defaults(beam_pipeline_args)),
        metadata_connection_config=metadata_connection_config,
    )
