"""The work of `DailyExampleGen`."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from absl import logging
from tfx import types
from tfx.components.example_gen import utils as example_gen_utils
from tfx.components.example_gen import write_split
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components import properties
from components.channels import EVAL, TRAIN, Channels, Given
from components.daily_example_gen.copied import copied_from
from components.daily_example_gen.day_store import StoredDay
from components.daily_example_gen.history_join import days_of_run
from components.daily_example_gen.judging import choose_training, content_of
from components.daily_example_gen.splits import (
    TrainDay,
    choose_eval_events,
    put,
    put_first,
    usual_day,
)
from components.daily_example_gen.window_rates import write_rates
from components.held_days import HeldDay
from components.run_plan import RunPlan
from components.smoothed_rates import RATES_FILE
from schemas.errors import BadDataError


@dataclasses.dataclass(frozen=True)
class RunExamples:
    """The examples of one run.

    Attributes:
        training: what is trained on, by window day, oldest first.
        days: the stored days, run date included, by date.
        run_date: the day that is evaluated on.
        eval_events: how many of its events are.
        held: days that are left out of training, with the reasons.
        notes: gaps, held days, empty and ignored files.
    """

    training: tuple[TrainDay, ...]
    days: dict[datetime.date, StoredDay]
    run_date: datetime.date
    eval_events: int
    held: tuple[HeldDay, ...]
    notes: tuple[str, ...]

    def total(self, count: str) -> int:
        """Sum of one of the manifests' counts over all days."""
        return sum(getattr(day.manifest, count) for day in self.days.values())


def make_examples(
    plan: RunPlan,
    logs_root: str,
    day_store: str,
    split_dirs: dict[str, str],
    quarantine_dir: str,
    make_pipeline: Callable[[], beam.Pipeline],
    history_dir: str | None = None,
    baseline_dir: str | None = None,
    rates_path: str | None = None,
) -> RunExamples:
    """Ingests a run's days and lays out its splits.

    Args:
        plan: the run's plan.
        logs_root: directory with a directory of logs a day; may be remote.
        day_store: directory of encoded days; made if absent.
        split_dirs: target directories of `train` and `eval`.
        quarantine_dir: target directory of the malformed lines, a file a day.
        make_pipeline: makes a Beam pipeline.
        history_dir: target directory of the history tables that the model is to carry.
        baseline_dir: folder of the served version that the plan compares with, which judges the
            days that it has not seen; no day is left out of training if not given.
        rates_path: target file of the smoothed rates of the window, which the model must beat;
            none if not given.

    Returns:
        What the run's examples are.

    Raises:
        BadDataError: the days cannot be trusted; nothing is laid out then.
    """
    days = days_of_run(plan, logs_root, day_store, make_pipeline, history_dir)
    training, held, notes = choose_training(plan, days, logs_root, day_store, baseline_dir)
    for note in notes:
        logging.warning("%s", note)
    days = {date: days[date] for date in (*plan.window, plan.run_date) if date in days}
    evaluated = days[plan.run_date]
    if copy := copied_from(evaluated, (days[day.date] for day in training), plan.spec):
        raise BadDataError(
            f"{os.path.join(logs_root, str(plan.run_date))}: has the same events as "
            f"{copy.manifest.date}, which the model is trained on, so nothing could be told from "
            "it. Deliver the day's own logs, and run it again"
        )
    eval_events = choose_eval_events(
        evaluated.manifest.shards, plan.spec.validation.max_eval_events
    )
    try:
        for day in training:
            stored = days[day.date]
            for number in day.shards:
                put(stored.shard(number), _shard_path(split_dirs[TRAIN], stored, number))
        for number, events in enumerate(eval_events):
            source, target = (
                evaluated.shard(number),
                _shard_path(split_dirs[EVAL], evaluated, number),
            )
            if events == evaluated.manifest.shards[number]:
                put(source, target)
            elif events:
                put_first(source, target, events)
        if rates_path is not None:
            write_rates(plan.spec, [days[day.date] for day in training], rates_path)
        for date, stored in days.items():
            put(stored.quarantine, os.path.join(quarantine_dir, f"{date}.jsonl"))
    except FileNotFoundError as error:
        raise BadDataError(
            f"{error.filename}: gone from the day store while it was in use, since the day's logs "
            "changed and another run ingested them. Run again"
        ) from error
    return RunExamples(
        training=tuple(training),
        days=days,
        run_date=plan.run_date,
        eval_events=sum(eval_events),
        held=held,
        notes=notes,
    )


def _shard_path(directory: str, day: StoredDay, number: int) -> str:
    count = len(day.manifest.shards)
    return os.path.join(directory, f"{day.manifest.date}-{number:05d}-of-{count:05d}.gz")


class Executor(base_beam_executor.BaseBeamExecutor):
    """Ingests the run's days by Beam and describes them on the artifacts."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.DailyExampleGen`.

        Raises:
            BadDataError: the run's days cannot be trusted.
        """
        inputs, outputs = Channels(input_dict), Channels(output_dict)
        examples, history = outputs["examples"], outputs.uri("history")
        # Object stores have no empty folders, and an artifact must hold something.
        io_utils.write_string_file(
            os.path.join(history, "README"), "A table for each history feature of the spec.\n"
        )
        examples.split_names = artifact_utils.encode_split_names([TRAIN, EVAL])
        run = make_examples(
            inputs.plan(),
            exec_properties["logs_root"],
            exec_properties["day_store"],
            {split: outputs.split("examples", split) for split in (TRAIN, EVAL)},
            outputs.uri("quarantine"),
            self._make_beam_pipeline,
            history,
            path_utils.serving_model_dir(inputs.uri("baseline_model")),
            os.path.join(outputs.uri("examples"), RATES_FILE),
        )
        _describe(examples, run)


def _describe(examples: types.Artifact, run: RunExamples) -> None:
    tf_example = example_gen_pb2.FORMAT_TF_EXAMPLE
    gzip = example_gen_pb2.FORMAT_TFRECORDS_GZIP
    examples_utils.set_payload_format(examples, tf_example)
    examples_utils.set_file_format(examples, write_split.to_file_format_str(gzip))
    date = run.run_date
    examples.span = example_gen_utils.date_to_span_number(date.year, date.month, date.day)
    properties.EVENTS.set(examples, run.total("events"))
    properties.QUARANTINED.set(examples, run.total("quarantined"))
    properties.DUPLICATES.set(examples, run.total("duplicates"))
    properties.TRAIN_EVENTS.set(examples, sum(day.events for day in run.training))
    properties.EVAL_EVENTS.set(examples, run.eval_events)
    properties.DAY_EVENTS.set(examples, usual_day(run.training, run.days))
    properties.HELD.set(examples, {str(day.date): day.reasons for day in run.held})
    held = [day.date for day in run.held]
    seen = {
        str(date): content_of(day)
        for date, day in run.days.items()
        if day.manifest.events and date not in held
    }
    properties.SEEN.set(examples, seen)
    properties.INGESTION_NOTES.set(examples, run.notes)
