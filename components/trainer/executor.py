"""The work of `Trainer`."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tfx import types
from tfx.components.trainer import executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components import properties
from components.run_plan import RunPlan, load_plan
from components.serving_store import TRAINING_STATE
from schemas.errors import TrainingError
from trainer_module.stability.verdict import load_verdict
from trainer_module.steps import describe_steps


class Executor(executor.GenericExecutor):
    """TFX's executor with spec and warm-start folder as `custom_config`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does the work; see `component.Trainer`."""
        inputs = dict(input_dict)
        plan = load_plan(artifact_utils.get_single_uri(inputs.pop("plan")))
        history_dir = artifact_utils.get_single_uri(inputs.pop("history"))
        base_model = artifact_utils.get_single_instance(inputs.pop("base_model"))
        warm_start_from = None
        if plan.warm_start:
            warm_start_from = os.path.join(
                path_utils.serving_model_dir(base_model.uri), TRAINING_STATE
            )
        examples = artifact_utils.get_single_instance(inputs["examples"])
        day_events = properties.DAY_EVENTS.get(examples)
        if day_events is None:
            raise TrainingError(f"{examples.uri}: does not say how many events a day has")
        spec = plan.spec.fitted(day_events, plan.warm_start)
        fingerprint = _fingerprint(plan, artifact_utils.get_split_uri(inputs["examples"], "train"))
        checkpoint_dir = os.path.join(
            exec_properties["checkpoint_root"], f"{plan.run_date}-{fingerprint}"
        )
        stability = artifact_utils.get_single_instance(output_dict["stability"])
        custom_config = {
            "spec": spec.to_yaml(),
            "history_dir": history_dir,
            "warm_start_from": warm_start_from,
            "checkpoint_dir": checkpoint_dir,
            "stability_dir": stability.uri,
            "training_state_subdir": TRAINING_STATE,
            "run_date": str(plan.run_date),
        }
        super().Do(
            inputs, output_dict, {**exec_properties, "custom_config": json.dumps(custom_config)}
        )
        report = load_verdict(stability.uri)
        properties.STABILITY.set(stability, report.summary)
        steps = report.attempts[-1].steps
        properties.TRAINING.set(
            stability, describe_steps(plan.spec.training, day_events, plan.warm_start, steps)
        )
        # They go when a later step has the model: it may yet be lost with this machine.
        model = artifact_utils.get_single_instance(output_dict["model"])
        properties.CHECKPOINTS.set(model, checkpoint_dir)


def _fingerprint(plan: RunPlan, train_uri: str) -> str:
    """Identifies a training: only one of the same plan and data may resume another's."""
    sizes = [
        (name, fileio.stat(os.path.join(train_uri, name)).length)
        for name in sorted(fileio.listdir(train_uri))
    ]
    content = (plan.spec.to_yaml(), str(plan.run_date), plan.base_version, sizes)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
