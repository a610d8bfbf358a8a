"""The Beam steps of runs that are done: read from ML Metadata, and executed again elsewhere."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tfx import types
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.orchestration import metadata
from tfx.orchestration.portable.mlmd import execution_lib

from components.daily_example_gen import executor as daily_example_gen
from components.evaluator import executor as evaluator
from components.statistics_gen import executor as statistics_gen
from pipeline.workspace import Workspace

EXECUTORS: dict[str, type[BaseBeamExecutor]] = {
    "DailyExampleGen": daily_example_gen.Executor,
    "StatisticsGen": statistics_gen.Executor,
    "Evaluator": evaluator.Executor,
}
"""The components that read events by Beam, in the order in which they run."""

Artifacts = dict[str, list[types.Artifact]]


@dataclasses.dataclass(frozen=True)
class Step:
    """One execution of a component.

    Attributes:
        component: its name.
        inputs: artifacts by name.
        outputs: likewise.
        properties: the execution properties.
        start: when it began, seconds since 1970.
        end: when it ended.
    """

    component: str
    inputs: Artifacts
    outputs: Artifacts
    properties: dict[str, Any]
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def steps_of(workspace: str) -> Iterator[Step]:
    """Yields the executions of Beam's components in a workspace, oldest first."""
    config = metadata.sqlite_metadata_connection_config(Workspace(workspace).metadata_path)
    with metadata.Metadata(config) as handle:
        names = {t.id: t.name.rpartition(".")[2] for t in handle.store.get_execution_types()}
        for execution in sorted(handle.store.get_executions(), key=lambda item: item.id):
            if names[execution.type_id] not in EXECUTORS:
                continue
            yield Step(
                component=names[execution.type_id],
                inputs=dict(execution_lib.get_input_artifacts(handle, execution.id)),
                outputs=dict(execution_lib.get_output_artifacts(handle, execution.id)),
                properties={
                    name: getattr(value, value.WhichOneof("value"))
                    for name, value in execution.custom_properties.items()
                },
                start=execution.create_time_since_epoch / 1000,
                end=execution.last_update_time_since_epoch / 1000,
            )


def again(step: Step, folder: str, beam_args: Sequence[str], **properties: Any) -> Step:
    """Executes a step's component again on the same inputs.

    Args:
        step: the step.
        folder: of its outputs; made, and no two steps may share it.
        beam_args: Beam's options.
        properties: execution properties that are to be others.

    Returns:
        The new execution.
    """
    outputs: Artifacts = {}
    for name, (artifact,) in step.outputs.items():
        # Its custom properties are those of the step, until the executor sets them.
        new = copy.deepcopy(artifact)
        new.uri = os.path.join(folder, name)
        os.makedirs(new.uri)
        outputs[name] = [new]
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=list(beam_args), tmp_dir=os.path.join(folder, "tmp"), unique_id="again"
    )
    given = {**step.properties, **properties}
    start = time.time()
    EXECUTORS[step.component](context).Do(step.inputs, outputs, given)
    return Step(step.component, step.inputs, outputs, given, start, time.time())
